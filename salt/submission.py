"""Writes `submission.csv`, and checks one against the competition's sample, before Kaggle counts it as a submission."""

import csv
import io
import pathlib
from collections.abc import Iterable

import numpy as np

from salt.archives import Place
from salt.description import Competition
from salt.files import whole_file
from salt.limits import MOST_ROWS, ROWS_AT_ONCE
from salt.metrics import coverage
from salt.rle import RLEError, decode_rles, encode_rles, require_masks


class SubmissionError(ValueError):
    """A submission that Kaggle would refuse, or accept although it is not what was predicted."""


def write_submission(path: str | pathlib.Path, ids: Iterable[str], masks: np.ndarray, competition: Competition) -> None:
    """Writes a submission, a row for each tile, in the order given.

    Args:
        path: the file, `submission.csv`; it is written whole or not at all.
        ids: N names of tiles, each once.
        masks: `[N, H, W]`, 0 and 1.
        competition: that it is for.

    Raises:
        SubmissionError: no tiles, masks of another shape or with other values, not one id for each mask, or an id that
            is empty or repeated.

    Example:
        >>> masks = postprocess(probabilities, level=128)
        >>> write_submission("submission.csv", tiles.ids, masks, COMPETITION)
    """
    masks = require_masks(masks, "masks", SubmissionError)
    ids = [str(name) for name in ids]
    if masks.shape[1:] != competition.size:  # the encoding of a padded one would be valid, but wrong
        raise SubmissionError(
            f"masks: shape {masks.shape}, but tiles are {competition.size}; crop the padding off first"
        )
    if len(ids) != len(masks) or not ids:
        raise SubmissionError(f"{len(ids)} ids for {len(masks)} masks; there must be one each, and at least one")
    problems = name_some("empty", [f"row {row}" for row, name in enumerate(ids) if not name.strip()])
    problems += name_some("repeated", repeated_names(ids))
    if problems:
        raise SubmissionError(f"ids: {'; '.join(problems)}")
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(competition.sample_submission.columns)
        writer.writerows(zip(ids, encode_rles(masks), strict=True))


def check_submission(
    path: str | pathlib.Path, sample: str | pathlib.Path | Place, competition: Competition
) -> dict[str, float]:
    """Checks a submission: its header, that its ids are the sample's, each once, and every run-length encoding.

    The order of the rows is free, as it is on Kaggle.

    Args:
        path: the submission.
        sample: the competition's sample of a submission, on disk or in a zip.
        competition: that it is for.

    Returns:
        `{"rows": int, "empty_share": float, "mean_coverage": float}`. The last two should be near those of the training
        tiles.

    Raises:
        SubmissionError: a file that is missing or no CSV of two columns, or rows that Kaggle would refuse. Missing,
            extra and repeated ids are named, up to five each; a bad encoding is named by its id.
    """
    wanted, _ = read_submission(sample, competition)
    ids, rles = read_submission(path, competition)
    problems = name_some("missing", sorted(set(wanted) - set(ids)))
    problems += name_some("extra", sorted(set(ids) - set(wanted)))
    problems += name_some("repeated", repeated_names(ids))
    if problems:
        counts = f"rows {len(ids)}, in {competition.sample_submission.name} {len(wanted)}"
        raise SubmissionError(f"{path}: {counts}; ids {'; '.join(problems)}")
    covered = np.empty(len(ids))
    for first in range(0, len(ids), ROWS_AT_ONCE):  # all masks together would take 10 kB a row
        part = slice(first, first + ROWS_AT_ONCE)
        try:
            covered[part] = coverage(decode_rles(rles[part], competition.one_size(), ids[part]))
        except RLEError as error:
            raise SubmissionError(f"{path}: {error}") from error
    return {"rows": len(ids), "empty_share": float(np.mean(covered == 0)), "mean_coverage": float(covered.mean())}


def read_submission(path: str | pathlib.Path | Place, competition: Competition) -> tuple[list[str], list[str]]:
    """The ids and encodings of a CSV file, all fields as text: no id becomes a number, no "NA" a missing value.

    Raises:
        SubmissionError: no such file, not text, another header, no rows, or a row that has not two fields.
    """
    try:
        content = path.read_bytes() if isinstance(path, Place) else pathlib.Path(path).read_bytes()
        if content.count(b"\n") > MOST_ROWS:
            raise SubmissionError(f"{path}: has more than {MOST_ROWS:,} lines; this is no submission")
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except FileNotFoundError:
        raise SubmissionError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SubmissionError(f"{path}: is no readable CSV file ({error})") from error
    columns = list(competition.sample_submission.columns)
    if not lines or lines[0] != columns:
        header = ",".join(lines[0]) if lines else ""
        raise SubmissionError(f"{path}: the first line is {header!r}; it must be {','.join(columns)!r}")
    for number, fields in enumerate(lines[1:], start=2):
        if len(fields) != 2 or not fields[0]:
            raise SubmissionError(f"{path}: line {number} is {','.join(fields)!r}; it must be id, comma, encoding")
    if len(lines) == 1:
        raise SubmissionError(f"{path}: has no rows under its header")
    ids, rles = zip(*lines[1:], strict=True)
    return list(ids), list(rles)


def repeated_names(names: list[str]) -> list[str]:
    """The names that occur more than once, with their counts, sorted."""
    unique, counts = np.unique(names, return_counts=True)
    return [f"{name} ({count} times)" for name, count in zip(unique[counts > 1], counts[counts > 1], strict=True)]


def name_some(what: str, names: list[str]) -> list[str]:
    """`["extra 7: a, b, c, d, e and 2 more"]`; an empty list if there are no names."""
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"{what} {len(names)}: {', '.join(names[:5])}{more}"]
