"""Files become a private dataset on Kaggle, or a new version of it: all of them, or nothing is published.

Kaggle makes a dataset, or a version of one, without the files whose upload failed. Here nothing is published until all
are uploaded, and afterwards Kaggle's own list of files is compared, name by name and size by size. A file with the
SHA-256 of the others, which stand in its name too, comes with them: weights of one network are all of one size.

A new version holds what the one before held, since runs name it, and the files that are given.
"""

import hashlib
import pathlib
import re
import tempfile

from tqdm import tqdm

from desk import paths
from desk.deeds import Dataset
from desk.errors import ConfigurationError, Exit
from desk.kaggle.datasets import dataset_files, dataset_state, dataset_url, download_dataset_file, upload_blob
from desk.kaggle.errors import AccessError, AmbiguousError, KaggleError, NotFoundError, OutputError
from desk.kaggle.transport import KaggleLink
from desk.output import duration
from desk.paths import AnyPath
from desk.records import read_text, remove_record
from desk.runs import Run
from desk.secrets import own_secrets, refuse_secret_files
from desk.sending import do_once, reconcile
from desk.settling import UPLOADS, settle_open
from desk.states import UploadRecord
from flattener.kaggle import slugify
from salt.files import sha256_file

SLUG, TITLE = "salt-weights", "Salt weights"
POLL = 10.0  # seconds between looks at a dataset that Kaggle processes
MINUTES = 30.0  # to wait for it
LATE = 60.0  # seconds in which the list of its files follows
SUMS = r"sha256-[0-9a-f]{16}\.txt"  # name of the file of the others' SHA-256


def upload_weights(
    link: KaggleLink, files: list[pathlib.Path], dataset: str | None, runs: pathlib.Path | None = None
) -> str:
    """Makes a dataset of weight files, or adds them to one, unless it holds them already; returns owner/slug.

    Args:
        link: to Kaggle.
        files: to be uploaded.
        dataset: owner/slug; None: the account's salt-weights.
        runs: where runs are kept, and what is known of uploads; None: this repository's runs/.

    Raises:
        DeskError: nothing was published, or not all of it, or nobody knows.
    """
    check_files(files)
    refuse_secret_files(files, own_secrets(link.used_secrets))
    ref = check_ref(dataset or f"{link.username}/{SLUG}")
    runs = runs or paths.RUNS
    settle_open(link, runs)
    folder = Run(runs / UPLOADS / ref.replace("/", "+"))
    folder.folder.mkdir(parents=True, exist_ok=True)
    with folder.lock(), tempfile.TemporaryDirectory() as scratch:
        if record := folder.read(UploadRecord):
            deed = Dataset(link, folder, record, [])
            reconcile(deed)
            if folder.read(UploadRecord):  # saved a moment ago, and not listed yet
                raise AmbiguousError(deed.again)
        return publish(link, files, ref, folder, pathlib.Path(scratch))


def publish(link: KaggleLink, files: list[pathlib.Path], ref: str, folder: Run, scratch: pathlib.Path) -> str:
    """As `upload_weights`, of checked files, with nothing of it open."""
    new = not exists(link, ref)
    held: dict[str, int] = {}
    if not new:
        wait_until_ready(link, ref)  # a version while another is processed is refused
        held = dataset_files(link, ref)
    sums = read_sums(link, ref, held, scratch)
    given = {path.name: path for path in files}
    if all(
        held.get(name) == path.stat().st_size and sums.get(name) == sha256_file(path) for name, path in given.items()
    ):
        print(f"{ref} holds these {len(given)} files already; nothing was uploaded")
        return ref
    kept = bring_kept(link, ref, {name: size for name, size in held.items() if name not in given}, sums, scratch)
    everything = [*kept, *files]
    everything.append(write_sums(everything, scratch))
    sizes = {path.name: path.stat().st_size for path in everything}
    size = sum(sizes.values()) / 1e6
    print(f"{ref}: {'a new dataset' if new else 'a new version'} of {len(sizes)} files, {size:,.1f} MB")
    tokens = [upload_file(link, path) for path in everything]
    title = TITLE if ref.endswith(f"/{SLUG}") else ref.partition("/")[2].replace("-", " ").capitalize()
    do_once(Dataset(link, folder, UploadRecord(state="sending", ref=ref, files=sizes), tokens, title, new))
    wait_until_ready(link, ref)
    found, began = dataset_files(link, ref), link.clock()
    while found != sizes and link.clock() - began < LATE:
        link.sleep(POLL)
        found = dataset_files(link, ref)
    if found == sizes and folder.read(UploadRecord):
        remove_record(folder.folder, UploadRecord)
    if found != sizes:  # lost, or listed late: the record stays until that is known
        lost = sorted(name for name in sizes if found.get(name) != sizes[name])
        what = ", ".join(lost) or "these files alone"
        raise OutputError(f"{ref}: Kaggle has not got {what}; run the same command again in ten minutes")
    print(f"\nready: {dataset_url(ref)}")
    return ref


def read_sums(link: KaggleLink, ref: str, held: dict[str, int], scratch: pathlib.Path) -> dict[str, str]:
    """{name: SHA-256} of the files of a dataset, as the file of sums in it says; {} if it has none, or a damaged one.

    Raises:
        UnreachableError, OutputError: it does not come, so that nobody knows what is there.
    """
    sums: dict[str, str] = {}
    for name in [name for name in held if re.fullmatch(SUMS, name)]:
        path = scratch / name
        download_dataset_file(link, ref, name, path)
        if path.stat().st_size != held[name]:
            raise OutputError(f"{ref}: {name} did not come as it is there; nothing was uploaded, try again")
        text = read_text(path)
        if hashlib.sha256(text.encode()).hexdigest().startswith(name[7:23]):
            pairs = [line.partition("  ") for line in text.splitlines()]
            sums |= {file: digest for digest, _, file in pairs}
    return sums


def bring_kept(
    link: KaggleLink, ref: str, held: dict[str, int], sums: dict[str, str], scratch: pathlib.Path
) -> list[pathlib.Path]:
    """Downloads what a dataset holds besides the given files, so that its next version holds it as well.

    Raises:
        OutputError: a file that cannot be kept.
    """
    folder = scratch / "kept"
    folder.mkdir()
    kept = []
    for name, size in held.items():
        if re.fullmatch(SUMS, name):
            continue
        if problem := name_problem(name):
            raise OutputError(f"{ref} holds {name!r}, which cannot be kept ({problem}): give another --dataset")
        path = folder / name
        download_dataset_file(link, ref, name, path)
        if path.stat().st_size != size or sums.get(name) not in (None, sha256_file(path)):
            raise OutputError(
                f"{ref}: {name} did not come as it is there, so that it cannot be kept; nothing was uploaded"
            )
        print(f"  {name:<28} {size:>13,} bytes   is kept", flush=True)
        kept.append(path)
    return kept


class StillProcessing(KaggleError):
    """Kaggle has not finished with the dataset."""

    exit_status = Exit.LATER


def write_sums(paths: list[pathlib.Path], folder: AnyPath) -> pathlib.Path:
    """Writes the SHA-256 of the files, as `sha256sum` does, under a name that changes with them."""
    text = "".join(f"{sha256_file(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name))
    path = pathlib.Path(folder) / f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    path.write_text(text, encoding="utf-8")
    return path


def check_files(paths: list[pathlib.Path]) -> None:
    """Raises `ConfigurationError` for a file that is missing or empty, has a bad name, or the name of another."""
    names: set[str] = set()
    for path in paths:
        if not path.is_file() or not path.stat().st_size:
            raise ConfigurationError(f"{path}: {'is empty' if path.is_file() else 'is no file'}")
        if path.name in names:
            raise ConfigurationError(f"{path.name} is given twice; a dataset has one folder")
        if problem := name_problem(path.name):
            raise ConfigurationError(f"{path}: {problem}; rename it")
        names.add(path.name)


def name_problem(name: str) -> str | None:
    """Why Kaggle does not take a file of this name, or has trouble with it; None if it does."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+=-]*", name):
        return "Kaggle takes names of letters A-Z, digits and . _ - + = alone"
    return "names that begin with sha256- are for the sums of the files" if re.fullmatch(SUMS, name) else None


def check_ref(ref: str) -> str:
    """owner/slug, if Kaggle takes it so; else raises `ConfigurationError`."""
    owner, _, slug = ref.partition("/")
    if not owner or slugify(slug) != slug or not 6 <= len(slug) <= 50:
        raise ConfigurationError(f"--dataset {ref}: must be owner/slug, the slug of 6 to 50 characters a-z, 0-9 and -")
    return ref


def exists(link: KaggleLink, ref: str) -> bool:
    """Whether there is such a dataset."""
    try:
        dataset_state(link, ref)
    except (NotFoundError, AccessError):  # Kaggle says 403 as well where there is nothing
        return False
    return True


def upload_file(link: KaggleLink, path: pathlib.Path) -> str:
    """Uploads a file, tells about it, and returns the token that stands for it."""
    with tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False) as bar:
        token = upload_blob(link, path, bar.update)
    print(f"  {path.name:<28} {path.stat().st_size:>13,} bytes   uploaded", flush=True)
    return token


def wait_until_ready(link: KaggleLink, ref: str) -> None:
    """Returns when Kaggle has processed the dataset: before that, no kernel can mount it."""
    began = link.clock()
    while True:
        try:
            state = dataset_state(link, ref)
        except (NotFoundError, AccessError):  # just made
            state = "NOT THERE YET"
        if state == "READY":
            return
        if state in ("FAILED", "DELETED"):
            raise ConfigurationError(f"{ref} is {state}; look at {dataset_url(ref)}")
        if link.clock() - began >= 60 * MINUTES:
            waited = duration(link.clock() - began)
            raise StillProcessing(f"{ref} is {state} after {waited}; run the same command again to wait for it")
        link.sleep(POLL * (0.75 + link.jitter() / 2))
