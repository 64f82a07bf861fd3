"""Files become a private dataset on Kaggle, or a new version of it: all of them, or nothing is published.

Kaggle makes a dataset, or a version of one, without the files whose upload failed. Here nothing is published until all
are uploaded, and afterwards Kaggle's own list of files is compared, name by name and size by size. A file with the
SHA-256 of the others, which stand in its name too, comes with them: weights of one network are all of one size.
"""

import functools
import hashlib
import pathlib
import tempfile

from tqdm import tqdm

from desk.errors import ConfigurationError, Exit
from desk.kaggle.datasets import dataset_files, dataset_state, dataset_url, save_dataset, upload_blob
from desk.kaggle.errors import AccessError, KaggleError, NotFoundError, OutputError
from desk.kaggle.transport import KaggleLink
from desk.output import duration
from desk.paths import AnyPath
from desk.secrets import own_secrets, refuse_secret_files
from desk.sending import send_once
from flattener.kaggle import slugify
from salt.files import sha256_file

SLUG, TITLE = "salt-weights", "Salt weights"
POLL = 10.0  # seconds between looks at a dataset that Kaggle processes
MINUTES = 30.0  # to wait for it


def upload_weights(link: KaggleLink, files: list[pathlib.Path], dataset: str | None) -> str:
    """Makes a dataset of weight files, unless it holds these very files already; returns owner/slug.

    Raises:
        DeskError: nothing was published, or not all of it, or nobody knows.
    """
    check_files(files)
    refuse_secret_files(files, own_secrets(link.secrets))
    with tempfile.TemporaryDirectory() as folder:
        return publish(link, [*files, write_sums(files, folder)], dataset)


def publish(link: KaggleLink, paths: list[pathlib.Path], dataset: str | None) -> str:
    """As `upload_weights`, of files and the file of their sums."""
    sizes = {path.name: path.stat().st_size for path in paths}
    ref = check_ref(dataset or f"{link.username}/{SLUG}")
    new = not exists(link, ref)
    if not new:
        wait_until_ready(link, ref)  # a version while another is processed is refused
        if dataset_files(link, ref) == sizes:
            print(f"{ref} holds these {len(sizes) - 1} files already; nothing was uploaded")
            return ref
    size = sum(sizes.values()) / 1e6
    print(f"{ref}: {'a new dataset' if new else 'a new version'} of {len(sizes)} files, {size:,.1f} MB")
    tokens = [upload_file(link, path) for path in paths]
    title = TITLE if ref.endswith(f"/{SLUG}") else ref.partition("/")[2].replace("-", " ").capitalize()
    notes = f"{len(sizes)} files: {', '.join(sizes)}"[:200]
    url = send_once(
        link,
        functools.partial(save_dataset, link, ref, title, tokens, notes, new),
        lambda: dataset_url(ref) if dataset_files(link, ref) == sizes else None,
        lambda url: f"the dataset arrived, as {url}",
        f"{ref}: Kaggle does not show these files yet, and may still publish them; run the same command again in some "
        "minutes, it looks before it uploads",
    )
    wait_until_ready(link, ref)
    found = dataset_files(link, ref)
    if found != sizes:
        lost = sorted(name for name in sizes if found.get(name) != sizes[name])
        what = ", ".join(lost) or "these files alone"
        raise OutputError(f"{ref}: Kaggle has not got {what}; run the same command again")
    print(f"\nready: {url}")
    return ref


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
    """Raises `ConfigurationError` for a file that is missing or empty, and for two of one name."""
    names: set[str] = set()
    for path in paths:
        if not path.is_file() or not path.stat().st_size:
            raise ConfigurationError(f"{path}: {'is empty' if path.is_file() else 'is no file'}")
        if path.name in names:
            raise ConfigurationError(f"{path.name} is given twice; a dataset has one folder")
        names.add(path.name)


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
