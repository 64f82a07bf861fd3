"""Predictions that another program made become a run, which every command takes like one of ours.

Predictions of training tiles become a run with out-of-fold predictions, those of test tiles one with a submission.
"""

import collections
import os
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

from desk import paths
from desk.competitions import DEFAULT, load_competition
from desk.errors import ConfigurationError
from desk.output import plural
from desk.paths import AnyPath
from desk.prediction_files import Predictions, read_predictions
from desk.probability_values import INVERT, TURNS, to_probabilities
from desk.runs import IMPORTED, find_run, new_run_id
from desk.scoring import open_run
from salt.artifacts import Oof, write_manifest, write_oof, write_probabilities
from salt.competition import CompetitionFiles, find_competition
from salt.config import Config
from salt.data import PictureReader, decode_texts, read_test_sides, read_train, read_train_table
from salt.description import Competition
from salt.files import sha256_file
from salt.levels import HALF_LEVEL, OfClasses, choose_level_and_area, level_table
from salt.metrics import pixels_from_level, scores_from_pixels
from salt.postprocess import postprocess
from salt.stacks import Stack, all_sides, marked_pixels, subset
from salt.submission import write_submission
from salt.tables import read_rows

CHECKED_TILES = 500  # that hold something, on which another orientation is tried; fewer if they are large:
CHECKED_PIXELS = 2**26  # of all that are tried, but of at least
LEAST_CHECKED = 30  # tiles
MARGIN = 0.05  # by which another orientation must score better to be named
SHOWN = 5  # ids that a message names


class ImportRequest(NamedTuple):
    """What is to be imported.

    Attributes:
        source: file or folder of predictions.
        data: folder of the competition.
        competition: its description, see `load_competition`.
        name: of the run; None: a new one.
        folds: a CSV of id and fold, or a run with the same folds; None: none are known.
        ids: file of ids for an npy.
        logits: whether the values are logits.
        apply: what is done to the predictions first, see `to_probabilities`.
        as_is: import what looks wrong, too.
        trained_by: for test tiles, the run of the same model's predictions of training tiles; None: none.
        runs: where runs are kept.
    """

    source: pathlib.Path
    data: AnyPath
    competition: str = DEFAULT
    name: str | None = None
    folds: str | None = None
    ids: pathlib.Path | None = None
    logits: bool = False
    apply: tuple[str, ...] = ()
    as_is: bool = False
    trained_by: str | None = None
    runs: pathlib.Path = paths.RUNS


def import_predictions(request: ImportRequest) -> pathlib.Path:
    """Makes a run of predictions, tells about it, and returns its folder, which is there when the run is whole.

    Raises:
        ConfigurationError, ValueError: they are not what they should be; the message names the remedy.
    """
    run_id = check_name(request)
    competition = load_competition(request.competition)
    files = find_competition([request.data], competition)
    found = read_predictions(request.source, competition, request.ids)
    if repeated := sorted(each for each, count in collections.Counter(found.ids).items() if count > 1):
        raise ConfigurationError(f"{request.source}: {names(repeated)}: predicted more than once")
    if not found.ids:
        raise ConfigurationError(f"{request.source}: holds no predictions")
    train_ids, masks = read_truth(files)
    test_ids = read_test_ids(files)
    of_test = bool(set(found.ids) & set(test_ids)) and not set(found.ids) & set(train_ids)
    check_ids(request.source, found.ids, test_ids if of_test else train_ids, of_test)
    place = {tile_id: row for row, tile_id in enumerate(train_ids)}
    truth = None if of_test else subset(masks, np.array([place[each] for each in found.ids]))
    sides, varied = predicted_sides(files, found.ids, truth), competition.size is None
    probabilities = to_probabilities(found, sides, request.source, request.apply, request.logits, varied)
    origin = {
        "source": request.source.name,
        "files": {path.name: sha256_file(path) for path in found.files},
        "logits": request.logits,
        "applied": list(request.apply),
    }
    request.runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".imported-", dir=request.runs) as temporary:
        folder = pathlib.Path(temporary) / run_id
        folder.mkdir()
        if truth is None:
            write_test_run(folder, request, found.ids, probabilities, test_ids, origin, competition)
        else:
            check_orientation(request, probabilities, truth, competition)
            fold = read_folds(request, found)
            write_oof(folder / "oof.npz", Oof(np.array(found.ids), fold, probabilities, truth))
            held = sorted(set(fold.tolist()))
            config = Config(folds=max(2, held[-1] + 1), train_folds=tuple(held))
            write_manifest(folder, run_id, IMPORTED, config, competition=competition.slug, imported=origin)
            print(f"{plural(len(held), 'fold')} of {len(found.ids):,} of the {len(train_ids):,} training tiles")
        os.rename(folder, request.runs / run_id)
    return request.runs / run_id


def check_name(request: ImportRequest) -> str:
    """The name of the run that is to be."""
    name = request.name or new_run_id(IMPORTED)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigurationError(
            f"--name {name}: must be letters, digits, '.', '_' and '-', the first none of these three"
        )
    if (request.runs / name).exists():
        raise ConfigurationError(f"--name {name}: {request.runs / name} exists; give another name, or remove it")
    return name


def read_truth(files: CompetitionFiles) -> tuple[list[str], np.ndarray]:
    """Ids and masks, uint8 `[N, H, W]` or `[N, H, W, C]`, of the training tiles; many large ones are a `Stack`."""
    competition = files.competition
    if competition.size is None:
        tiles = read_train(files, progress=False, most=0)  # its files tell the size of each mask
        return tiles.ids.tolist(), tiles.known_masks()
    ids, texts = read_train_table(files, PictureReader(files.train_images, competition.train_images))
    return ids.tolist(), decode_texts(texts, ids, competition)


def read_test_ids(files: CompetitionFiles) -> list[str]:
    """The ids of the test tiles, in the order of the sample; none without one."""
    if files.sample_submission is None:
        return []
    _, rows = read_rows(files.sample_submission, files.competition.sample_submission, files.competition)
    return list(dict.fromkeys(row.tile for row in rows))


def predicted_sides(files: CompetitionFiles, ids: list[str], truth: np.ndarray | None) -> np.ndarray:
    """Height and width of each predicted tile, int `[N, 2]`.

    Args:
        files: of the competition.
        ids: of the tiles.
        truth: the masks of training tiles; None: they are test tiles.
    """
    if truth is not None:
        return all_sides(truth)
    if files.competition.size is not None:
        return np.tile(files.competition.size, (len(ids), 1))
    sides = read_test_sides(files)
    return np.array([sides[each] for each in ids])


def check_ids(source: pathlib.Path, ids: list[str], known: list[str], of_test: bool) -> None:
    """Tells which ids are missing.

    Raises:
        ConfigurationError: some are unknown, or, of test tiles, missing.
    """
    what = "test" if of_test else "training"
    if unknown := sorted(set(ids) - set(known)):
        raise ConfigurationError(
            f"{source}: {len(unknown)} of its {len(ids)} ids are none of the {len(known):,} {what} tiles: "
            f"{names(unknown)}; ids are as in the tables, without a suffix"
        )
    if missing := sorted(set(known) - set(ids)):
        text = f"{len(missing):,} of the {len(known):,} {what} tiles are not predicted: {names(missing)}"
        if of_test:
            raise ConfigurationError(f"{source}: {text}; a submission needs all")
        print(text)


def names(ids: list[str]) -> str:
    """Some ids, and how many more there are."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more


def check_orientation(
    request: ImportRequest, probabilities: np.ndarray, masks: np.ndarray, competition: Competition
) -> None:
    """Looks whether predictions fit the truth better when they are turned.

    Raises:
        ConfigurationError: they do, by more than `MARGIN`, and nobody said to take them as they are.
    """
    marked = np.flatnonzero(marked_pixels(masks).reshape(len(masks), -1).any(axis=1))
    if request.as_is or not len(marked):
        return
    sides = all_sides(masks)
    marked = marked[: min(CHECKED_TILES, max(LEAST_CHECKED, CHECKED_PIXELS // int(sides.prod(axis=1).max())))]
    given, truth = subset(probabilities, marked), subset(masks, marked)

    def score(turn: Callable[[np.ndarray], np.ndarray]) -> float:
        def make(row: int) -> np.ndarray:
            return np.ascontiguousarray(turn(given[row]))

        turned = given.of_same_sides(make) if isinstance(given, Stack) else Stack(make, given.shape)
        counts = pixels_from_level(cast(np.ndarray, turned), truth)
        # At the level that predicts as much as there is: p = 0.5 says nothing of a model that is never that sure.
        predicted = counts.reshape(-1, 256).sum(axis=0, dtype=np.int64)[1:]
        place = int(np.abs(predicted - counts[..., 1, 0].sum(dtype=np.int64)).argmin())
        return float(scores_from_pixels(counts, competition.metric)[..., place].mean())

    turns = {**TURNS, INVERT: lambda tile: 255 - tile}
    if (sides[:, 0] != sides[:, 1]).any():
        del turns["transpose"]
    scores, own = {name: score(turn) for name, turn in turns.items()}, score(lambda tile: tile)
    best = max(scores, key=lambda name: scores[name])
    if scores[best] > own + MARGIN:
        raise ConfigurationError(
            f"{request.source}: on {len(marked)} tiles with {competition.target} it scores {own:.3f} as it is and "
            f"{scores[best]:.3f} after {best!r}; if that is what is wrong, give --apply {best}, else --as-is. Nothing "
            "was imported"
        )


def read_folds(request: ImportRequest, found: Predictions) -> np.ndarray:
    """The fold of each tile, int8 `[N]`: from a table, a run, or the predictions' own file; else 0 for all.

    Raises:
        ConfigurationError: a tile without a fold, or a fold that is no whole number from 0 to 126.
    """
    if request.folds is None:
        if found.fold is None:
            print("no folds are known: level and area are chosen on parts of the tiles; --folds gives a table or a run")
            return np.zeros(len(found.ids), np.int8)
        pairs, label = dict(zip(found.ids, np.ravel(found.fold).tolist(), strict=True)), str(request.source)
    elif request.folds.casefold().endswith(".csv"):
        pairs, label = read_fold_table(pathlib.Path(request.folds)), request.folds
    else:
        run = open_run(find_run(request.folds, request.runs).folder)
        pairs, label = dict(zip(run.oof.ids.tolist(), run.oof.fold.tolist(), strict=True)), request.folds
    if missing := sorted(set(found.ids) - set(pairs)):
        raise ConfigurationError(f"{label}: {len(missing)} of the tiles have no fold: {names(missing)}")
    try:
        numbers = [int(float(pairs[each])) for each in found.ids]
        if any(float(pairs[each]) != number for each, number in zip(found.ids, numbers, strict=True)):
            raise ValueError("a fraction")
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{label}: folds must be whole numbers ({error})") from None
    if min(numbers) < 0 or max(numbers) > 126:
        raise ConfigurationError(f"{label}: folds from {min(numbers)} to {max(numbers)}; they may be 0 to 126")
    return np.array(numbers, np.int8)


def read_fold_table(path: pathlib.Path) -> dict[str, object]:
    """The fold of each id, from a CSV with the columns id and fold."""
    lines = [line.split(",") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    header = [name.strip() for name in lines[0]] if lines else []
    if "id" not in header or "fold" not in header or any(len(line) != len(header) for line in lines):
        raise ConfigurationError(
            f"{path}: the first line is {','.join(header)!r}; it must name the columns id and fold"
        )
    tile, fold = header.index("id"), header.index("fold")
    return {line[tile].strip(): line[fold].strip() for line in lines[1:]}


def write_test_run(
    folder: pathlib.Path,
    request: ImportRequest,
    ids: list[str],
    probabilities: np.ndarray,
    order: list[str],
    origin: dict,
    competition: Competition,
) -> None:
    """Writes a run with predictions of the test tiles, in the sample's order, and their submission."""
    place = {tile_id: row for row, tile_id in enumerate(ids)}
    probabilities = subset(probabilities, np.array([place[each] for each in order]))
    level: OfClasses = HALF_LEVEL
    area: OfClasses = 0
    trained_by = ""
    if request.trained_by is not None:
        trained = open_run(find_run(request.trained_by, request.runs).folder)
        table, trained_by = level_table(trained.oof, competition.metric), trained.manifest["run_id"]
        level, area = choose_level_and_area(table, competition.metric)
    print(
        f"{len(order):,} test tiles; {competition.target} from level {level} of 255 on, "
        f"in tiles with at least {area} pixels of it"
    )
    if request.trained_by is None:
        print("(--trained-by RUN takes level and area from the predictions of training tiles)")
    write_probabilities(folder / "probabilities.npz", np.array(order), probabilities)
    masks = postprocess(probabilities, level, area)
    write_submission(folder / "submission.csv", order, masks, competition)
    more = {
        "competition": competition.slug,
        "trained_by": trained_by,
        "level": level,
        "minimum_area": area,
        "imported": origin,
    }
    write_manifest(folder, folder.name, IMPORTED, Config(), **more)
