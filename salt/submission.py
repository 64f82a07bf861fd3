"""Writes `submission.csv`, and checks one against the competition's sample, before Kaggle counts it as a submission."""

import csv
import io
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from salt.archives import DataError, Place
from salt.description import Competition, Table
from salt.files import whole_file
from salt.limits import MOST_ROWS
from salt.rle import RLEError, count_marked, encode_rles, require_masks
from salt.tables import fill_row, fitting_form, read_fields, template_pattern

CLASS_MARK = ", class "  # between a tile and a class in the name of a mask
MOST_PIXELS = 2**31  # of an image whose size is not known


class SubmissionError(ValueError):
    """A submission that Kaggle would refuse, or accept although it is not what was predicted."""


def write_submission(
    path: str | pathlib.Path,
    ids: Iterable[str],
    masks: np.ndarray | Iterable[np.ndarray],
    competition: Competition,
    sample: str | pathlib.Path | Place | None = None,
) -> None:
    """Writes a submission, a row for each tile and class, or for each object in it, in the order given.

    Args:
        path: the file, `submission.csv`; it is written whole or not at all.
        ids: N names of tiles, each once.
        masks: `[N, H, W]`, or `[N, H, W, C]` of several classes, 0 and 1; or what gives N of them one by one.
        competition: that it is for.
        sample: the competition's sample, whose columns the submission gets; None: those of the description.

    Raises:
        SubmissionError: no tiles, masks of another shape or with other values, not one id for each mask, or an id that
            is empty or repeated.

    Example:
        >>> masks = postprocess(probabilities, level=128)
        >>> write_submission("submission.csv", tiles.ids, masks, COMPETITION)
    """
    ids = [str(name) for name in ids]
    size, count = competition.size, len(competition.classes)
    if isinstance(masks, np.ndarray):
        masks = require_masks(masks if count == 1 else joined_classes(masks, count), "masks", SubmissionError)
        if size is not None and masks.shape[1:] != size:  # the encoding of a padded one would be valid, but wrong
            raise SubmissionError(f"masks: shape {masks.shape}, but tiles are {size}; crop the padding off first")
        if len(ids) * count != len(masks) or not ids:
            raise SubmissionError(f"{len(ids)} ids for {len(masks)} masks; there must be one each, and at least one")
    problems = name_some("empty", [f"row {row}" for row, name in enumerate(ids) if not name.strip()])
    problems += name_some("repeated", repeated_names(ids))
    if problems:
        raise SubmissionError(f"ids: {'; '.join(problems)}")
    form = competition.sample_submission if sample is None else sample_form(sample, competition)
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(form.columns)
        names = ((tile, label) for tile in ids for label in competition.classes)
        for (tile, label), texts in zip(names, mask_texts(masks, form, competition), strict=True):
            writer.writerows(fill_row(form, tile, label, text) for text in texts)


def joined_classes(masks: np.ndarray, count: int) -> np.ndarray:
    """Masks `[N, H, W, C]` as `[N * C, H, W]`, the classes of a tile one after the other.

    Raises:
        SubmissionError: another shape.
    """
    if masks.ndim != 4 or masks.shape[-1] != count:
        raise SubmissionError(f"masks: must have shape [N, H, W, {count}], a mask for each class, not {masks.shape}")
    return masks.transpose(0, 3, 1, 2).reshape(-1, *masks.shape[1:3])


def mask_texts(masks: np.ndarray | Iterable[np.ndarray], form: Table, competition: Competition) -> Iterator[list[str]]:
    """For each mask the texts of its rows: one, or one for each object, or, where an empty one has no row, none."""
    by_rows, first = competition.rle_by_rows, competition.rle_first
    empty = [] if form.empty is None else [form.empty]
    for stack in mask_stacks(masks, competition):
        if form.objects:
            for mask in stack:
                yield encode_rles(split_objects(mask), by_rows, first) or empty
        else:
            yield from ([text] if text else empty for text in encode_rles(stack, by_rows, first))


def mask_stacks(masks: np.ndarray | Iterable[np.ndarray], competition: Competition) -> Iterator[np.ndarray]:
    """The masks as stacks `[n, H, W]`: an array as it is, others tile by tile."""
    if isinstance(masks, np.ndarray):
        yield masks
        return
    count = len(competition.classes)
    for mask in masks:
        stack = require_masks(mask[None] if count == 1 else joined_classes(mask[None], count), "masks", SubmissionError)
        if competition.size is not None and stack.shape[1:] != competition.size:
            raise SubmissionError(f"masks: shape {stack.shape}, but tiles are {competition.size}")
        yield stack


def split_objects(mask: np.ndarray) -> np.ndarray:
    """The objects of a mask, uint8 `[n, H, W]`: what hangs together, also by corners."""
    import cv2  # which submissions of one row a tile do not need

    count, labels = cv2.connectedComponents(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    return (
        np.stack([labels == number for number in range(1, count)]).astype(np.uint8)
        if count > 1
        else np.zeros((0, *mask.shape), np.uint8)
    )


def sample_form(sample: str | pathlib.Path | Place, competition: Competition) -> Table:
    """The form of a submission: that of the sample, its columns in their order.

    Raises:
        DataError: the sample has none of the forms that the description gives.
    """
    header, _ = read_fields(sample)
    form = fitting_form(sample, competition.sample_submission, header)
    return form.in_order([name for name in header if name in form.columns])


def check_submission(
    path: str | pathlib.Path,
    sample: str | pathlib.Path | Place,
    competition: Competition,
    sides: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, float]:
    """Checks a submission: its header, that its ids are the sample's, and every run-length encoding.

    Each tile (and class) has one row, or, where objects have rows of their own, at least one, whose objects do not
    overlap. The order of the rows is free, as it is on Kaggle.

    Args:
        path: the submission.
        sample: the competition's sample of a submission, on disk or in a zip.
        competition: that it is for.
        sides: height and width of each tile, see `Tiles.sides`, for a competition whose images differ in size; None:
            they are not known, and runs that reach behind an image's end are not seen.

    Returns:
        `{"rows": int, "empty_share": float, "mean_coverage": float}`, of masks. The last two should be near those of
        the training tiles. Without known sizes there is no `mean_coverage`.

    Raises:
        SubmissionError: a file that is missing or no CSV of these columns, or rows that Kaggle would refuse. Missing,
            extra and repeated ids are named, up to five each; a bad encoding is named by its id.
    """
    try:
        form = sample_form(sample, competition)
    except DataError as error:
        raise SubmissionError(str(error)) from error
    wanted, _ = read_submission(sample, competition, form)
    ids, rles = read_submission(path, competition, form)
    problems = name_some("missing", sorted(set(wanted) - set(ids)))
    problems += name_some("extra", sorted(set(ids) - set(wanted)))
    repeated = ids if not form.objects else [name for name, text in zip(ids, rles, strict=True) if text == form.empty]
    problems += name_some("repeated", repeated_names(repeated))
    if problems:
        counts = f"rows {len(ids)}, in {competition.sample_submission.name} {len(wanted)}"
        raise SubmissionError(f"{path}: {counts}; ids {'; '.join(problems)}")
    rles = ["" if text == form.empty else text for text in rles]
    names, owners = np.unique(ids, return_inverse=True)
    pixels = pixels_of_rows(ids, competition, sides)
    try:
        marked, overlapping = count_marked(rles, pixels, ids, owners, competition.rle_first)
    except RLEError as error:
        raise SubmissionError(f"{path}: {error}") from error
    if overlapping.any():
        name = str(names[overlapping][0])
        raise SubmissionError(f"{path}: id {name!r}: two of its objects overlap; each pixel counts once")
    facts = {"rows": len(ids), "empty_share": float(np.mean(marked == 0))}
    if competition.size is not None or sides is not None:
        each = pixels if isinstance(pixels, int) else pixels[np.unique(owners, return_index=True)[1]]
        facts["mean_coverage"] = float((marked / each).mean())
    return facts


def pixels_of_rows(
    ids: list[str], competition: Competition, sides: Mapping[str, tuple[int, int]] | None
) -> int | np.ndarray:
    """The pixels of a mask; or int `[N]`, those of each row's, where images differ in size."""
    if competition.size is not None:
        return math.prod(competition.size)
    tiles = ids if len(competition.classes) == 1 else [name.rpartition(CLASS_MARK)[0] for name in ids]
    known = [MOST_PIXELS if sides is None else math.prod(sides[tile]) for tile in tiles]
    return np.array(known, np.int64)


def read_submission(
    path: str | pathlib.Path | Place, competition: Competition, form: Table | None = None
) -> tuple[list[str], list[str]]:
    """The names of masks, such as those of tiles, and their encodings, all fields as text: no id becomes a number.

    Args:
        path: of the CSV file.
        competition: that it is for.
        form: whose columns it must have, in their order; None: those of the description.

    Raises:
        SubmissionError: no such file, not text, another header, no rows, or a row that is not of the form.
    """
    form = form or competition.sample_submission
    try:
        content = path.read_bytes() if isinstance(path, Place) else pathlib.Path(path).read_bytes()
        if content.count(b"\n") > MOST_ROWS:
            raise SubmissionError(f"{path}: has more than {MOST_ROWS:,} lines; this is no submission")
        text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")  # a StringIO takes 4 bytes a character
        lines = list(csv.reader(text, strict=True))
    except FileNotFoundError:
        raise SubmissionError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SubmissionError(f"{path}: is no readable CSV file ({error})") from error
    columns = list(form.columns)
    if not lines or lines[0] != columns:
        header = ",".join(lines[0]) if lines else ""
        raise SubmissionError(f"{path}: the first line is {header!r}; it must be {','.join(columns)!r}")
    patterns = [template_pattern(text) for text in form.columns.values()]
    numbers = {name: number for number, name in enumerate(competition.classes)}
    single, ids, rles = len(numbers) == 1, [], []
    for number, fields in enumerate(lines[1:], start=2):
        matches = [pattern.fullmatch(field) for pattern, field in zip(patterns, fields, strict=False)]
        found = {key: value for match in matches if match for key, value in match.groupdict().items()}
        if len(fields) != len(columns) or None in matches or not (single or found["label"] in numbers):
            wanted = ", ".join(form.columns.values())
            raise SubmissionError(f"{path}: line {number} is {','.join(fields)!r}; it must be {wanted}")
        ids.append(found["tile"] if single else f"{found['tile']}{CLASS_MARK}{found['label']}")
        rles.append(found["mask"])
    if not ids:
        raise SubmissionError(f"{path}: has no rows under its header")
    return ids, rles


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
