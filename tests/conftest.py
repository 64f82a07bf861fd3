"""Fixtures that several test files share."""

import os
import pathlib

import pytest

from salt.machine import fast_switches, usable_cores

# Each worker of pytest-xdist, and what it starts, computes on its share of the cores.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, str(max(1, usable_cores() // WORKERS)))
os.environ.update(fast_switches(os.environ))  # before any test imports TensorFlow; subprocesses inherit them

from desk import consent
from salt.competition import CompetitionFiles, find_competition
from salt.layout import write_competition
from salt.synthetic import synthetic_tiles
from salt.tgs import COMPETITION as TGS
from salt.tiles import Tiles

TRAIN_TILES, TEST_TILES = 40, 10


def pytest_configure():
    """Whatever a test forgets, Kaggle's client in it talks to this machine, and finds no credentials in a variable.

    Processes that tests start import this checkout's packages, whichever are installed. Verbs that a test calls take it
    for a person at a terminal.
    """
    consent.at_terminal = lambda: True
    root = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    for name in [name for name in os.environ if name.upper().startswith("KAGGLE_")]:
        del os.environ[name]
    os.environ["KAGGLE_API_ENVIRONMENT"] = "LOCALHOST"


def pytest_runtest_setup(item):
    """TensorFlow asks the processor whether it has bfloat16, oneDNN asks ONEDNN_MAX_CPU_ISA, too: where they disagree,
    TensorFlow fails."""
    capped = os.environ.get("ONEDNN_MAX_CPU_ISA") and os.environ["TF_ENABLE_ONEDNN_OPTS"] != "0"
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if item.get_closest_marker("bfloat16") and capped and cpuinfo.is_file() and "avx512_bf16" in cpuinfo.read_text():
        pytest.skip("ONEDNN_MAX_CPU_ISA hides this processor's bfloat16 from oneDNN, but not from TensorFlow")


@pytest.fixture(scope="session")
def synthetic_train() -> Tiles:
    """The training tiles of `synthetic_folder`, one of them black, as arrays. Not to be changed."""
    tiles = synthetic_tiles(TRAIN_TILES, seed=0, progress=False)
    empty = [i for i in range(TRAIN_TILES) if not tiles.masks[i].any()]
    tiles.images[empty[0]] = 0
    return tiles


@pytest.fixture(scope="session")
def synthetic_test() -> Tiles:
    """The test tiles of `synthetic_folder`, with the masks that it does not hold. Not to be changed."""
    return synthetic_tiles(TEST_TILES, seed=0, first=TRAIN_TILES, progress=False)


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory, synthetic_train, synthetic_test) -> pathlib.Path:
    """A small competition in Kaggle's layout. Not to be changed: copy it."""
    train, test = synthetic_train, synthetic_test
    folder = tmp_path_factory.mktemp("competition") / "synthetic"
    return write_competition(
        TGS, folder, train.ids, train.images, train.masks, train.depths, test.ids, test.images, test.depths
    )


@pytest.fixture(scope="session")
def real_competition() -> CompetitionFiles:
    """The real competition, in the folder named by SALT_TGS or in ../shared/tgs; without it the test is skipped."""
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared" / "tgs"
    folder = pathlib.Path(os.environ.get("SALT_TGS") or beside)
    if not folder.is_dir():
        pytest.skip("needs the real competition's files; set SALT_TGS to their folder")
    return find_competition(folder, TGS)
