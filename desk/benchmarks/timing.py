"""Times ours and its peers in turn, A B A B, in one run: what the machine does otherwise meets them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tqdm import tqdm


@dataclass(frozen=True)
class Contender:
    """One way to do a piece of work.

    Attributes:
        name: who it is, such as "salt" or "pycocotools".
        items: how many items a call does; a slow one may get fewer, since items a second are compared.
        call: does them and returns the seconds that they took.
    """

    name: str
    items: int
    call: Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """A row of the benchmark: ours beside its peers.

    Attributes:
        name: of the work, such as "encode 18,000 masks".
        unit: what an item is, such as "mask".
        ours: this package's way.
        peers: what a user would pick instead.
        goals: for each peer how many times as fast ours shall be, or None where nothing is promised.
    """

    name: str
    unit: str
    ours: Contender
    peers: Sequence[Contender] = ()
    goals: Sequence[float | None] = ()


class Measured(NamedTuple):
    """A pair of a comparison, measured.

    Attributes:
        name, unit, peer, goal: see `Comparison`; without a peer `peer` is empty.
        ours, theirs: items a second: the median, the lowest and the highest of all calls.
        ratio: of the speeds, ours by theirs: the median, lowest and highest of the pairs that ran in turn.
    """

    name: str
    unit: str
    peer: str
    goal: float | None
    ours: tuple[float, float, float]
    theirs: tuple[float, float, float] | None
    ratio: tuple[float, float, float] | None

    def reached(self) -> bool | None:
        """Whether the goal is met by the median; None where there is none."""
        return None if self.goal is None or self.ratio is None else self.ratio[0] >= self.goal


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """A call of `Contender` from a function of this process."""

    def call() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return call


def measure(comparison: Comparison, repeats: int) -> list[Measured]:
    """Runs all contenders once to warm up, and then `repeats` times in turn.

    Args:
        comparison: what is compared.
        repeats: of each contender, at least 1.

    Returns:
        One `Measured` a peer; without peers a single one.
    """
    contenders = [comparison.ours, *comparison.peers]
    speeds: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        contender.call()
    for _ in tqdm(range(repeats), desc=comparison.name, unit="turn", leave=False, mininterval=1):
        for contender, found in zip(contenders, speeds, strict=True):
            found.append(contender.items / contender.call())
    ours = spread(speeds[0])
    if not comparison.peers:
        return [Measured(comparison.name, comparison.unit, "", None, ours, None, None)]
    goals = comparison.goals or [None] * len(comparison.peers)
    return [
        Measured(
            comparison.name, comparison.unit, peer.name, goal, ours, spread(found),
            spread([own / other for own, other in zip(speeds[0], found, strict=True)]),
        )
        for peer, found, goal in zip(comparison.peers, speeds[1:], goals, strict=True)
    ]  # fmt: skip


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest and highest."""
    return statistics.median(values), min(values), max(values)
