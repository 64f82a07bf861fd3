"""Finds a competition's files below the folders where they may be: as the page, the client or a person left them.

Tables of contents are all that is read of archives; of an `images/` that may be of training and test tiles, the tables
say which it is. What the files hold is the matter of `salt/data.py`.
"""

import collections
import csv
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from salt.archives import (
    LISTED_ENTRIES,
    ArchiveError,
    DataError,
    Folder,
    Place,
    first_entries,
    folder_at,
    plain_name,
    plain_stem,
    unzipped,
)
from salt.description import Competition, Files
from salt.files import sha256_file

SEARCH_DEPTH = 4  # folders below a root; Kaggle's mounts lie two deep, and a full walk of /kaggle/input takes minutes
TREE_LINES = 40  # of a root that an error message shows
PROBLEM_LINES = 20  # that an error message lists; the rest is counted
TRAINING = ("train_table", "train_images")  # what training, scores and reports need


@dataclass(frozen=True)
class CompetitionFiles:
    """Where each part of a competition is."""

    competition: Competition  # whose files they are
    folder: pathlib.Path  # on disk; everything lies below it
    train_table: Place
    train_images: Place
    train_masks: Place | None = None  # None: the masks are known from the table only
    depths_table: Place | None = None
    sample_submission: Place | None = None  # the ids of the test tiles, in the order of a submission
    test_images: Place | None = None

    def has_test(self) -> bool:
        """Whether the test tiles are there, which prediction and submission need."""
        return self.sample_submission is not None and self.test_images is not None

    def require_test(self) -> tuple[Place, Place]:
        """`sample_submission` and `test_images`.

        Raises:
            DataError: these are training data alone; it says what is missing.
        """
        return self.require("sample_submission"), self.require("test_images")

    def require(self, part: str) -> Place:
        """A part that may be missing, by its name here.

        Raises:
            DataError: it is.
        """
        found = getattr(self, part)
        if found is None:
            raise DataError(
                f"{self.folder} has no {wanted(self.competition)[part]}, which prediction and submission need; "
                "training, scores and reports do without. Put it there, or name a folder that has it"
            )
        return found


def table_names(competition: Competition) -> dict[str, str]:
    """The names of a competition's tables, by the fields of `CompetitionFiles`."""
    names = {"train_table": competition.train_table.name, "sample_submission": competition.sample_submission.name}
    return names if competition.depths_table is None else {**names, "depths_table": competition.depths_table.name}


def wanted(competition: Competition) -> dict[str, str]:
    """How a message names the parts that must be there, by the fields of `CompetitionFiles`."""
    images = {"train_images": ("training", competition.train_images), "test_images": ("test", competition.test_images)}
    texts = {
        part: f"{what} images ({', '.join(ways(files)[:-1])} or {ways(files)[-1]})"
        for part, (what, files) in images.items()
    }
    return {**table_names(competition), **texts}


def ways(files: Files) -> list[str]:
    """How pictures may lie, for messages."""
    if not files.inner:
        return [f"{files.outer}.zip", f"{files.outer}/"]
    return [f"{files.outer}.zip", f"{files.folder}/", f"{files.inner}/"]


def find_competition(
    roots: str | os.PathLike | Iterable[str | os.PathLike], competition: Competition
) -> CompetitionFiles:
    """Finds a competition's files below one of several folders, opening no more than tables and tables of contents.

    Under each root it tries Kaggle's nested mount `competitions/<slug>/`, the flat mount `<slug>/` and the root itself;
    then, under each root again, every folder down to a small depth. A root may be a zip. Images may be in `train.zip`
    and `test.zip`, in folders of these names, both with or without a second `train/` inside, or in `images/` and
    `masks/`, those of training and test tiles in one folder too. A zip is preferred to a folder: it is whole or
    unreadable, whereas a folder may be half extracted. Tables may be zipped. What a folder lacks may be in a zip of any
    name in it, such as the one that holds all of a competition.

    A folder with everything goes before one with training data alone, and nearer ones before those further down.

    Args:
        roots: a folder or several, the likeliest first, such as `["/kaggle/input", "data"]`.
        competition: what it is.

    Returns:
        `CompetitionFiles`, perhaps without test tiles.

    Raises:
        DataError: none of the folders holds a whole competition, or two equally likely places hold the same part; the
            message says what each candidate lacks and shows the tree of each root, or names the two.

    Example:
        >>> files = find_competition(["/kaggle/input", "data"], COMPETITION)
        >>> train = read_train(files)
    """
    given = [roots] if isinstance(roots, str | os.PathLike) else roots
    paths = [pathlib.Path(root) for root in given]
    slug = competition.slug
    shortcomings: dict[pathlib.Path, str] = {}
    partial: list[CompetitionFiles] = []
    for into_zips in (False, True):
        for group in competition_candidates(paths, slug):
            found = [each for folder in group if (each := locate(folder, competition, into_zips, shortcomings))]
            if whole := [each for each in found if each.has_test()]:
                return the_one(whole)
            partial = partial or found
    if partial:
        return the_one(partial)
    lines = [f"no folder holds the whole competition {slug!r}; looked under {', '.join(map(str, paths)) or 'no root'}"]
    lines += [f"  {folder} {what}" for folder, what in shortcomings.items()]
    for path in paths:
        lines += folder_tree(path)
    lines.append(
        "remedy: attach the competition's data to the notebook, or name the folder that holds "
        f"{', '.join(table_names(competition).values())}, {competition.train_images.outer}.zip and "
        f"{competition.test_images.outer}.zip, or the one zip of them all"
    )
    raise DataError("\n".join(lines))


def competition_candidates(roots: list[pathlib.Path], slug: str) -> Iterator[list[pathlib.Path]]:
    """Yields lists of folders that may be the competition, the likeliest first; those of one list equally likely."""
    for root in roots:
        yield from ([root / "competitions" / slug], [root / slug], [root])
    for root in roots:
        level = [root]
        for _ in range(SEARCH_DEPTH):
            level = [folder for parent in level for folder in subfolders(parent)]
            yield level


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, by name, without hidden ones."""
    return [folder / name for name, is_folder in first_entries(folder) if is_folder]


def the_one(found: list[CompetitionFiles]) -> CompetitionFiles:
    """The first of several competitions, if they are one and the same.

    Raises:
        DataError: two are different; it names both.
    """
    different = [each for each in found if each.folder.resolve() != found[0].folder.resolve()]
    if different:
        raise DataError(
            f"{found[0].folder} and {different[0].folder} both hold the competition; name the one that is meant"
        )
    return found[0]


def locate(
    path: pathlib.Path, competition: Competition, into_zips: bool, shortcomings: dict[pathlib.Path, str]
) -> CompetitionFiles | None:
    """The competition in a folder, or None; then `shortcomings` tells what it lacks, if it has anything.

    Args:
        path: of the folder, or of a zip.
        competition: what it is.
        into_zips: whether to look for what the folder lacks in the zips in it that have other names than a part's.
        shortcomings: by path; it is added to.

    Raises:
        DataError: a part is there twice, or its zip cannot be read.
    """
    parts: dict[str, Place] = {}
    try:
        if path.is_dir():
            parts = locate_parts(Folder(Place(path)), competition, into_zips)
        if into_zips:
            parts = {**parts_in_zips(path, competition, parts, shortcomings), **parts}
    except DataError as error:
        if into_zips and not parts:  # of something else, perhaps
            shortcomings[path] = f"cannot be used: {error}"
            return None
        raise
    share_images(parts, competition)
    if missing := [wanted(competition)[part] for part in TRAINING if part not in parts]:
        if parts:
            shortcomings[path] = f"lacks {', '.join(missing)}"
        return None
    return CompetitionFiles(competition, path if path.is_dir() else path.parent, **parts)


def locate_parts(folder: Folder, competition: Competition, without_tables: bool) -> dict[str, Place]:
    """The parts of a competition in a folder, by the fields of `CompetitionFiles`; and as `images` an `images/` that
    may be of training or test tiles, or of both.

    Args:
        folder: on disk or in a zip.
        competition: what it is.
        without_tables: whether to look for images, too, where there is neither the table of the training tiles nor the
            sample: it opens zips, which may be large or broken.
    """
    found = {part: find_table(folder, name) for part, name in table_names(competition).items()}
    if without_tables or found["train_table"] or found["sample_submission"]:
        found["train_images"] = find_pictures(folder, competition.train_images)
        if competition.train_masks is not None:
            found["train_masks"] = find_pictures(folder, competition.train_masks)
            found["train_masks"] = found["train_masks"] or find_top(folder, competition.train_masks)
        found["test_images"] = find_pictures(folder, competition.test_images)
        found["images"] = find_top(folder, competition.train_images)
        return {part: place for part, place in found.items() if place is not None}
    return {}


def parts_in_zips(
    path: pathlib.Path, competition: Competition, known: dict[str, Place], shortcomings: dict[pathlib.Path, str]
) -> dict[str, Place]:
    """The parts beyond those that are known, in the zips in a folder that have other names than a part's, or in a zip.

    Of a zip that cannot be read `shortcomings` tells: it may be of something else.

    Raises:
        DataError: two zips hold the same part, and differ.
    """
    zips = [Place(path)]
    if not path.is_file():
        zips = [place for place in Folder(Place(path)).files() if is_other_zip(place, competition)]
    offers = []
    for place in zips:
        try:
            offers.append(parts_in_zip(place, competition))
        except ArchiveError as error:
            shortcomings[place.path] = f"cannot be used: {error}"
    return merged(offers, known)


def is_other_zip(place: Place, competition: Competition) -> bool:
    """Whether a file is a zip without the name of a part."""
    names = list(table_names(competition).values())
    for files in (competition.train_images, competition.train_masks, competition.test_images):
        names += [] if files is None else [files.outer, files.inner]
    parts = {f"{name}.zip" for name in names}
    return place.name.casefold().endswith(".zip") and plain_name(place.name) not in parts


def parts_in_zip(place: Place, competition: Competition) -> dict[str, Place]:
    """The parts in a zip, at its top or in a folder further down."""
    level = [unzipped(place)]
    for _ in range(SEARCH_DEPTH):
        if found := merged([locate_parts(folder, competition, without_tables=True) for folder in level], {}):
            return found
        level = [inner for folder in level for inner in folder.folders()]
    return {}


def merged(offers: list[dict[str, Place]], known: dict[str, Place]) -> dict[str, Place]:
    """The parts of all offers, less those that are known.

    Raises:
        DataError: two offer the same part, and the zips that they come from differ.
    """
    parts: dict[str, Place] = {}
    for offer in offers:
        for part, place in offer.items():
            other = parts.setdefault(part, place)
            if part not in known and other != place and not same_zip(other, place):
                raise DataError(f"{other} and {place} may both be meant; keep one of them, or name the one to take")
    return parts


def same_zip(first: Place, second: Place) -> bool:
    """Whether two places are the same one in two copies of a zip."""
    return (
        first.path != second.path
        and dataclasses.replace(first, path=second.path) == second
        and (sha256_file(first.path) == sha256_file(second.path))
    )


def find_table(folder: Folder, name: str) -> Place | None:
    """The table of that name in a folder, zipped or not; a folder of the name that holds it will do, too.

    Raises:
        DataError: there are two, and they differ.
    """
    packed = [unzipped(place) for place in folder.files(f"{name}.zip")]
    packed += folder.folders(name, f"{name}.zip")
    return the_same([*folder.files(name), *(place for inner in packed for place in inner.files(name))])


def find_pictures(folder: Folder, files: Files) -> Place | None:
    """Where pictures are: in the zip of the name of their outer folder, or else in that folder.

    Raises:
        DataError: there are two, or the zip is not whole.
    """
    archive = the_same(folder.files(f"{files.outer}.zip"))
    found = []
    for outer in [unzipped(archive)] if archive else folder.folders(files.outer, f"{files.outer}.zip"):
        inside = folders_below(outer, files) if files.inner else [outer.place] * bool(outer.pictures(files.suffix))
        # Some zips hold one more folder of their own name, and some programs unpack a zip into one.
        found += inside or list(filter(None, [find_pictures(outer, files)]))
    return only(found)


def find_top(folder: Folder, files: Files) -> Place | None:
    """The inner folder of pictures, such as `images`, where there is no outer one, or the zip of that name."""
    if not files.inner:
        return None
    found = [each.place for each in folder.folders(files.inner) if each.pictures(files.suffix)]
    for place in folder.files(f"{files.inner}.zip"):
        inner = unzipped(place)
        found += [inner.place] if inner.pictures(files.suffix) else folders_below(inner, files)
    return only(found)


def folders_below(folder: Folder, files: Files, depth: int = SEARCH_DEPTH) -> list[Place]:
    """The inner folders that hold such a picture, at any small depth below a folder."""
    named = [each.place for each in folder.folders(files.inner) if each.pictures(files.suffix)]
    others = [each for each in folder.folders() if plain_name(each.place.name) != files.inner]
    return named + [place for each in others if depth for place in folders_below(each, files, depth - 1)]


def only(found: list[Place]) -> Place | None:
    """The one place, or None.

    Raises:
        DataError: there are several; it names two.
    """
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]} may both be meant; keep one of them")
    return found[0] if found else None


def the_same(found: list[Place]) -> Place | None:
    """The first of several files, if all have the same content, or None.

    Raises:
        DataError: two differ; it names them.
    """
    if len(found) > 1:
        digests = [hashlib.sha256(place.read_bytes()).digest() for place in found]
        if other := [place for place, digest in zip(found, digests, strict=True) if digest != digests[0]]:
            raise DataError(f"{found[0]} and {other[0]} may both be meant, and they differ; keep one of them")
    return found[0] if found else None


def share_images(parts: dict[str, Place], competition: Competition) -> None:
    """Makes of `images` the training images, or the test images, if there are none yet, or both.

    An `images/` beside the tables holds test tiles if it has files of ids in the sample.
    """
    shared = parts.pop("images", None)
    if shared is None:
        return
    parts.setdefault("train_images", shared)
    if "sample_submission" in parts and "test_images" not in parts:
        rows = csv.reader(io.StringIO(parts["sample_submission"].read_bytes().decode("utf-8-sig", "replace")))
        ids = {plain_stem(row[0]) for row in rows if row}
        if ids & {plain_stem(stem) for stem in folder_at(shared).pictures(competition.test_images.suffix)}:
            parts["test_images"] = shared


def raise_problems(problems: list[str]) -> None:
    """Raises a `DataError` that lists `problems`, if there are any."""
    if problems:
        shown = "\n".join(f"  {line}" for line in problems[:PROBLEM_LINES])
        more = f"\n  ... and {len(problems) - PROBLEM_LINES} more" if len(problems) > PROBLEM_LINES else ""
        raise DataError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the competition's files:\n{shown}{more}\n"
            "remedy: get the files again, or make the tables and the folders agree"
        )


def raise_repeated_ids(table: object, ids: Iterable[str]) -> None:
    """Raises a `DataError` that names the ids which occur more than once, if there are any.

    Args:
        table: its name, for the message.
        ids: all of its ids.
    """
    counts = collections.Counter(ids)
    raise_problems([f"{table}: id {each} occurs {counts[each]} times" for each in sorted(counts) if counts[each] > 1])


def folder_tree(root: pathlib.Path) -> list[str]:
    """The lines of a folder's tree, three levels deep and at most `TREE_LINES` long, for an error message."""
    if not root.is_dir():
        return [f"{root}: {'is not a folder' if root.exists() else 'does not exist'}"]
    lines: list[str] = []

    def add(folder: pathlib.Path, depth: int) -> None:
        entries = first_entries(folder)
        for name, is_folder in entries[:12]:
            lines.append("  " * depth + name + ("/" if is_folder else ""))
            if is_folder and depth < 3 and len(lines) < TREE_LINES:
                add(folder / name, depth + 1)
        if len(entries) > 12:
            more = f"{len(entries) - 12} more" if len(entries) < LISTED_ENTRIES else "many more"
            lines.append("  " * depth + f"... and {more}")

    add(root, 1)
    if len(lines) > TREE_LINES:
        lines[TREE_LINES:] = ["  ..."]
    return [f"{root}/", *(lines or ["  (empty)"])]
