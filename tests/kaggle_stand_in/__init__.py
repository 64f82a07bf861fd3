"""A stand-in for Kaggle's API, for the real client to talk to.

    kaggle.py    what Kaggle has, and what a request does to it
    faults.py    what goes wrong with requests, by rule
    server.py    the stand-in on the loopback, and the wall around it
    direct.py    the stand-in without a network
    fixtures.py  what tests take of all this

A test takes the fixture by `stand_in = kaggle_stand_in.stand_in`.
"""

from kaggle_stand_in.direct import answered_by
from kaggle_stand_in.faults import FaultyKaggle
from kaggle_stand_in.fixtures import (
    KERNEL,
    PREDICT,
    TRAIN,
    FakeTime,
    assert_no_secret,
    call,
    kill_when_reached,
    make_link,
    make_old,
    parameters,
    repository,
    stand_in,
    start_script,
    train_output,
)
from kaggle_stand_in.kaggle import COMPETITION, KEY, USER, is_active
from kaggle_stand_in.server import PROXIES, ROOT, WALL, StandIn, put_up_wall

__all__ = [
    "COMPETITION", "KERNEL", "KEY", "PREDICT", "PROXIES", "ROOT", "TRAIN", "USER", "WALL", "FakeTime", "FaultyKaggle",
    "StandIn", "answered_by", "assert_no_secret", "call", "is_active", "kill_when_reached", "make_link", "make_old",
    "parameters", "put_up_wall", "repository", "stand_in", "start_script", "train_output",
]  # fmt: skip
