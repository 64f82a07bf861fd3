"""The competition that a kernel at this desk finds mounted: synthetic, a folder of the real one, or a part of it."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from desk import paths
from desk.competitions import described_competitions
from desk.errors import LocalRunError
from desk.paths import AnyPath
from salt.archives import Place
from salt.competition import CompetitionFiles, find_competition
from salt.data import read_test, read_train
from salt.description import Competition
from salt.folds import stratification_classes
from salt.layout import write_competition
from salt.scenes import write_scenes
from salt.synthetic import write_synthetic
from salt.tgs import COMPETITION as TGS

TEST_SHARE = 4  # one test tile for so many training tiles


def competition_folder(
    competition: Competition, data: AnyPath | None = None, synthetic: int | None = None, tiles: int | None = None
) -> pathlib.Path:
    """The folder whose competition is to be mounted.

    Args:
        competition: what it is.
        data: a folder that holds a competition.
        synthetic: instead, how many synthetic training tiles to make; a quarter as many test tiles come with them.
        tiles: of `data`, take only so many training tiles and a quarter as many test tiles.
    """
    if synthetic is not None and data is None:
        return synthetic_competition(competition, synthetic)
    if synthetic is not None or data is None:
        raise LocalRunError("give either --data DIR or --synthetic N, and not both")
    data = pathlib.Path(data)
    if not data.exists():
        raise LocalRunError(f"--data {data}: does not exist; give the competition's folder, or the zip of all of it")
    return data if tiles is None else part_of_competition(competition, data, tiles)


def synthetic_competition(competition: Competition, count: int) -> pathlib.Path:
    """A synthetic competition, made once and kept in build/synthetic/ until the code that makes it changes."""
    check_count("--synthetic", count)
    (module,) = (name for name, slug in described_competitions().items() if slug == competition.slug)
    digest = code_digest("synthetic", "scenes", "layout", "submission", "rle", module)
    folder = paths.BUILD / "synthetic" / f"{module}-{count}-{digest}"
    if not folder.exists():  # it gets this name when it is whole
        print(f"making a synthetic competition of {count} training tiles", flush=True)
        if competition == TGS:
            write_synthetic(folder, train=count, test=count // TEST_SHARE, seed=0, progress=True)
        else:
            write_scenes(competition, folder, train=count, test=count // TEST_SHARE)
    return folder


def part_of_competition(competition: Competition, data: pathlib.Path, count: int) -> pathlib.Path:
    """Some tiles of a competition as a competition, kept in build/tiles/ until the files that it is made of change."""
    check_count("--tiles", count)
    files = find_competition([data], competition)
    facts = [(str(path), entry.st_size, entry.st_mtime_ns) for path, entry in competition_files(files)]
    source = hashlib.sha256(json.dumps([str(files.folder.resolve()), facts]).encode()).hexdigest()[:12]
    folder = paths.BUILD / "tiles" / f"{count}-{source}-{code_digest('data', 'layout', 'metrics', 'rle')}"
    if not folder.exists():
        print(f"taking {count} training tiles of {data}", flush=True)
        write_part(files, count, folder)
    return folder


def write_part(files: CompetitionFiles, count: int, folder: pathlib.Path) -> None:
    """Writes `count` training tiles, with every kind of mask at its share, a quarter as many test tiles if any."""
    train = read_train(files)
    if count > len(train.ids):
        raise LocalRunError(f"--tiles {count}: {files.folder} has {len(train.ids)} training tiles; ask for fewer")
    assert train.masks is not None
    taken = stratified_choice(stratification_classes(train.masks, np.zeros(len(train.ids), bool)), count)
    arrays = [train.ids[taken], train.images[taken], train.masks[taken], train.depths[taken]]
    if files.has_test():
        test = read_test(files)
        taken = stratified_choice(np.zeros(len(test.ids), int), min(count // TEST_SHARE, len(test.ids)))
        arrays += [test.ids[taken], test.images[taken], test.depths[taken]]
    write_competition(files.competition, folder, *arrays)


def stratified_choice(classes: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` items, ascending, of each class its share to within one; the same ones every time."""
    shuffled = np.random.default_rng(0).permutation(len(classes))
    by_class = shuffled[np.argsort(np.asarray(classes)[shuffled], kind="stable")]
    # Equal steps through the items in order of class meet each class in proportion to its size.
    return np.sort(by_class[np.arange(count) * len(classes) // max(count, 1)])


def check_count(option: str, count: int) -> None:
    """Raises `LocalRunError` for too few training tiles."""
    if count < 2 * TEST_SHARE:
        raise LocalRunError(f"{option} {count}: at least {2 * TEST_SHARE} training tiles are needed")


def code_digest(*modules: str) -> str:
    """Changes when one of these modules of salt does."""
    digest = hashlib.sha256()
    for name in modules:
        digest.update((paths.ROOT / "salt" / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]


def competition_files(files: CompetitionFiles) -> Iterator[tuple[pathlib.Path, os.stat_result]]:
    """(path within the competition, os.stat_result) of every file of a competition, sorted."""
    for entry in competition_entries(files):
        for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
            if path.is_file():
                yield path.relative_to(files.folder), path.stat()


def competition_entries(files: CompetitionFiles) -> list[pathlib.Path]:
    """The files and folders at the top of a competition's folder that belong to it; other things may lie there too."""
    fields = [getattr(files, field.name) for field in dataclasses.fields(files)]
    places = [place.path for place in fields if isinstance(place, Place)]
    tops = {place.relative_to(files.folder).parts[0] for place in places}
    return [files.folder / top for top in sorted(tops)]
