"""The groups of the benchmark by name; each makes its comparisons when its turn comes."""

from collections.abc import Iterator, Sequence

from desk.benchmarks import masks, networks, programs, reading
from desk.benchmarks.peers import PeerProcess
from desk.benchmarks.timing import Measured, measure

GROUPS = {
    "scoring": masks.scoring_group,
    "rle": masks.rle_group,
    "reading": reading.reading_group,
    "augmentation": networks.augmentation_group,
    "step": networks.step_group,
    "inference": networks.inference_group,
    "start": programs.start_group,
    "flattening": programs.flattening_group,
}


def measured_groups(names: Sequence[str], repeats: int, quick: bool) -> Iterator[list[Measured]]:
    """Measures groups, one after the other, each with a process of the peers of its own.

    Yields:
        Of each comparison, a `Measured` for each pair.
    """
    for name in names:
        with PeerProcess() as peers:
            for comparison in GROUPS[name](peers, quick):
                yield measure(comparison, repeats)
