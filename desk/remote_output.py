"""A run on Kaggle as it looks from here: how it stands, and its output, with every file checked.

What is asked for is one version of one kernel. What Kaggle gives of another run, an earlier version or an error page is
refused. It pushes nothing, keeps no records and decides nothing about a run: how long to wait, what to do with one that
failed, and which files move to the run's folder is for fetching.py and fan_out.py.
"""

import contextlib
import pathlib
import tempfile

from tqdm import tqdm

from desk.kaggle.errors import AccessError, NotFoundError, OutputError, UnreachableError
from desk.kaggle.files import check_names, download
from desk.kaggle.kernels import Output, Status, list_output, read_kernel, read_status
from desk.kaggle.transport import KaggleLink
from desk.records import as_record, parse_object, read_text
from desk.runs import FETCH, JOINING, MANIFEST, PUSH, QUEUE, SUBMIT, Run
from desk.states import Manifest
from salt.files import sha256_file
from salt.limits import MOST_RECORD

POLL = 45.0  # seconds between looks, give or take a third: unpublished limits, and runs of hours
DEADLINE_HOURS = 14.0  # Kaggle's 12 hours, and two in the queue
LISTINGS = 4  # of the output: addresses expire, and a new version's files may come late
RELIST = 20.0  # seconds between them
PARTIAL = "partial"  # in a run's folder: what a run that failed has left, unchecked
# What else the desk keeps in a run's folder, so that no output may have these names.
OURS = {
    MANIFEST,
    PUSH,
    FETCH,
    SUBMIT,
    QUEUE,
    "score.json",
    "report.html",
    "parts",
    "pushed",
    PARTIAL,
    ".fetching",
    JOINING,
}
FRESH = ".fetching"  # folder for files that are not checked yet
MANIFEST_PART = ".manifest.part"  # there


class UnsafeName(OutputError):
    """A file whose name leads out of the run's folder."""


def run_status(link: KaggleLink, run: Run) -> Status:
    """The status of the very version; where Kaggle does not know versions, of the newest run if it is this one.

    Right after a push the newest run may still be the one before.
    """
    ref, version = run.push.ref, run.push.version
    try:
        return read_status(link, ref, version)
    except NotFoundError:
        if read_kernel(link, ref).version != version:
            raise
        return read_status(link, ref)


def bring_output(link: KaggleLink, run: Run) -> tuple[Manifest, Output]:
    """Downloads a run's files into its folder's .fetching and checks them; returns (manifest, the output as listed).

    What is there already, of an earlier try that was killed, is kept if it is right. Each round begins with a new
    listing, because addresses expire.

    Raises:
        OutputError: Kaggle has no right files for this run.
    """
    fresh = run.folder / FRESH
    fresh.mkdir(exist_ok=True)
    problem = None
    for attempt in range(1, LISTINGS + 1):
        if problem:
            link.say(f"{problem}; listing the output again ({attempt} of {LISTINGS})")
            link.sleep(RELIST)
        try:
            output = run_output(link, run)
            manifest = bring_manifest(link, output.files, fresh, run)
            bring_files(link, output.files, manifest, fresh)
            return manifest, output
        except (OutputError, UnreachableError, NotFoundError, AccessError) as error:
            if isinstance(error, UnsafeName):
                raise
            problem = error
    raise OutputError(f"{problem}. Nothing of it was taken; look at {run.push.url}, and fetch again later")


def run_output(link: KaggleLink, run: Run) -> Output:
    """What a run has left, with names that are safe.

    Raises:
        UnsafeName: one that leads out of the run's folder.
    """
    try:
        output = list_output(link, run.push.ref, run.push.version)
    except NotFoundError:
        output = list_output(link, run.push.ref)
    check_names(output.files, UnsafeName)
    return output


def check_name(name: str) -> None:
    """Raises `UnsafeName` for a file's name that leads out of the run's folder."""
    check_names([name], UnsafeName)


def bring_manifest(link: KaggleLink, files: dict[str, str], fresh: pathlib.Path, run: Run) -> Manifest:
    """The manifest, if it is one and of this run.

    Raises:
        OutputError: it is not.
    """
    record = run.push
    if MANIFEST not in files:
        raise OutputError(f"the run has left no {MANIFEST} (it has {len(files)} files): it did not reach its end")
    path = fresh / MANIFEST_PART
    download(link, files[MANIFEST], path)
    try:
        text = read_text(path) if path.stat().st_size <= MOST_RECORD else ""
        manifest = as_record(Manifest, parse_object(text))
    except ValueError as error:
        raise OutputError(f"what Kaggle gives as {MANIFEST} is none ({error})") from None
    if (manifest.run_id, manifest.kernel) != (record.run_id, record.kernel):
        found = f"{manifest.kernel} run {manifest.run_id!r}"
        raise OutputError(f"Kaggle gives the output of {found}, not of {record.run_id!r}: stale")
    for name in manifest.files:
        check_name(name)
        if name.partition("/")[0] in OURS or name.startswith(f"{PARTIAL}-"):
            raise UnsafeName(f"{MANIFEST} names {name}, which is not a run's to write")
    return manifest


def bring_files(link: KaggleLink, files: dict[str, str], manifest: Manifest, fresh: pathlib.Path) -> None:
    """Downloads what is missing of a manifest's files, each under a temporary name until it is checked."""
    wanted = manifest.files
    for path in sorted(fresh.rglob("*")):
        if path.is_file() and path.name != MANIFEST_PART and path.relative_to(fresh).as_posix() not in wanted:
            path.unlink()
    total, bad = sum(entry["bytes"] for entry in wanted.values()), []
    bar = tqdm(total=total, unit="B", unit_scale=True, desc="output", disable=None, leave=False)
    with bar:
        for name, entry in wanted.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            right = path.is_file() and path.stat().st_size == entry["bytes"] and sha256_file(path) == entry["sha256"]
            if not right:
                try:
                    bring_file(link, files, name, entry, path)
                except (OutputError, UnreachableError) as error:
                    bad.append(str(error))
            bar.update(entry["bytes"])
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise OutputError(f"{len(bad)} of {len(wanted)} files are not right: {'; '.join(bad[:3])}{more}")


def bring_file(link: KaggleLink, files: dict[str, str], name: str, entry: dict, path: pathlib.Path) -> None:
    """Downloads one file and gives it its name if it is as the manifest says."""
    if name not in files:
        raise OutputError(f"{name} is in the manifest, but not in the output")
    part = path.with_name(f"{path.name}.part")
    try:
        download(link, files[name], part)
        if part.stat().st_size != entry["bytes"]:
            raise OutputError(f"{name} has {part.stat().st_size:,} bytes, not {entry['bytes']:,}")
        if sha256_file(part) != entry["sha256"]:
            raise OutputError(f"{name} has another SHA-256 than the manifest says")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def bring_partial(link: KaggleLink, files: dict[str, str], folder: pathlib.Path) -> list[str]:
    """Downloads what a failed run had written by then; whatever does not come is left out."""
    names = []
    for name, url in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        with contextlib.suppress(UnreachableError):
            download(link, url, part)
            part.replace(path)
            names.append(name)
        part.unlink(missing_ok=True)
    return names


def remote_manifest(link: KaggleLink, run: Run) -> Manifest:
    """The manifest of a run whose output is not here."""
    with tempfile.TemporaryDirectory() as folder:
        return bring_manifest(link, run_output(link, run).files, pathlib.Path(folder), run)
