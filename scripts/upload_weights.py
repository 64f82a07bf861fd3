"""Makes a private Kaggle dataset of weight files, for kernels that run without internet.

    python scripts/upload_weights.py weights/vgg16.weights.h5
    python scripts/upload_weights.py weights/*.h5 --dataset me/salt-weights

Kaggle makes a dataset, or a version of one, without the files whose upload failed. Here nothing is published until all
are uploaded, and afterwards Kaggle's own list of files is compared, name by name and size by size. A file with the
SHA-256 of the others, which stand in its name too, comes with them: weights of one network are all of one size. A
dataset that holds these very files already stays as it is.
"""

import argparse
import hashlib
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.kaggle_link import (
    AccessError,
    AmbiguousError,
    ConfigurationError,
    KaggleError,
    KaggleLink,
    NotFoundError,
    OutputError,
    UnreachableError,
    duration,
    run_command,
)

SLUG, TITLE = "salt-weights", "Salt weights"
POLL = 10.0  # seconds between looks at a dataset that Kaggle processes
MINUTES = 30.0  # to wait for it
LOOKS = (5.0, 15.0, 30.0)  # seconds before each look for a dataset without an answer


class StillProcessing(KaggleError):
    """Kaggle has not finished with the dataset."""

    exit_status = 75


def main(arguments=None, link=None) -> int:
    return run_command(upload, arguments, link)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make a private Kaggle dataset of weight files, or a new version of it.",
        epilog="example: python scripts/upload_weights.py weights/vgg16.weights.h5",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=pathlib.Path)
    parser.add_argument("--dataset", metavar="O/D", help=f"owner and slug (default: your account's {SLUG})")
    return parser.parse_args(arguments)


def upload(arguments=None, link=None) -> int:
    options = parse_arguments(arguments)
    check_files(options.files)
    with tempfile.TemporaryDirectory() as folder:
        return publish(link or KaggleLink(), [*options.files, write_sums(options.files, folder)], options.dataset)


def write_sums(paths, folder) -> pathlib.Path:
    """Writes the SHA-256 of the files, as `sha256sum` does, under a name that changes with them."""
    from salt.files import sha256_file

    text = "".join(f"{sha256_file(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name))
    path = pathlib.Path(folder) / f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    path.write_text(text, encoding="utf-8")
    return path


def publish(link, paths, dataset) -> int:
    sizes = {path.name: path.stat().st_size for path in paths}
    ref = check_ref(dataset or f"{link.username()}/{SLUG}")
    new = not exists(link, ref)
    if not new:
        wait_until_ready(link, ref)  # a version while another is processed is refused
        if link.dataset_files(ref) == sizes:
            print(f"{ref} holds these {len(sizes) - 1} files already; nothing was uploaded")
            return show_use(ref, sizes)
    size = sum(sizes.values()) / 1e6
    print(f"{ref}: {'a new dataset' if new else 'a new version'} of {len(sizes)} files, {size:,.1f} MB")
    tokens = [upload_file(link, path) for path in paths]
    title = TITLE if ref.endswith(f"/{SLUG}") else ref.partition("/")[2].replace("-", " ").capitalize()
    try:
        url = link.save_dataset(ref, title, tokens, f"{len(sizes)} files: {', '.join(sizes)}"[:200], new)
    except AmbiguousError as error:
        print(f"no answer: {error}. Looking for it", flush=True)
        if not any(arrived(link, ref, sizes, pause) for pause in LOOKS):
            remedy = "run the same command again in some minutes, it looks before it uploads"
            raise AmbiguousError(f"{error}; {remedy}") from None
        url = f"https://www.kaggle.com/datasets/{ref}"
    wait_until_ready(link, ref)
    found = link.dataset_files(ref)
    if found != sizes:
        lost = sorted(name for name in sizes if found.get(name) != sizes[name])
        what = ", ".join(lost) or "these files alone"
        raise OutputError(f"{ref}: Kaggle has not got {what}; run the same command again")
    print(f"\nready: {url}")
    return show_use(ref, sizes)


def check_files(paths):
    """Raises `ConfigurationError` for a file that is missing or empty, and for two of one name."""
    names = set()
    for path in paths:
        if not path.is_file() or not path.stat().st_size:
            raise ConfigurationError(f"{path}: {'is empty' if path.is_file() else 'is no file'}")
        if path.name in names:
            raise ConfigurationError(f"{path.name} is given twice; a dataset has one folder")
        names.add(path.name)


def check_ref(ref) -> str:
    from build_kernel import slugify

    owner, _, slug = ref.partition("/")
    if not owner or slugify(slug) != slug or not 6 <= len(slug) <= 50:
        raise ConfigurationError(f"--dataset {ref}: must be owner/slug, the slug of 6 to 50 characters a-z, 0-9 and -")
    return ref


def exists(link, ref) -> bool:
    try:
        link.dataset_state(ref)
    except (NotFoundError, AccessError):  # Kaggle says 403 as well where there is nothing
        return False
    return True


def upload_file(link, path) -> str:
    from tqdm import tqdm

    with tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False) as bar:
        token = link.upload_blob(path, bar.update)
    print(f"  {path.name:<28} {path.stat().st_size:>13,} bytes   uploaded", flush=True)
    return token


def arrived(link, ref, sizes, pause) -> bool:
    link.sleep(pause)
    try:
        return link.dataset_files(ref) == sizes
    except (NotFoundError, AccessError, UnreachableError):
        return False


def wait_until_ready(link, ref):
    """Returns when Kaggle has processed the dataset: before that, no kernel can mount it."""
    began = link.clock()
    while True:
        try:
            state = link.dataset_state(ref)
        except (NotFoundError, AccessError):  # just made
            state = "NOT THERE YET"
        if state == "READY":
            return
        if state in ("FAILED", "DELETED"):
            raise ConfigurationError(f"{ref} is {state}; look at https://www.kaggle.com/datasets/{ref}")
        if link.clock() - began >= 60 * MINUTES:
            waited = duration(link.clock() - began)
            raise StillProcessing(f"{ref} is {state} after {waited}; run the same command again to go on waiting")
        link.sleep(POLL * (0.75 + link.jitter() / 2))


def show_use(ref, sizes) -> int:
    print(f'next: dataset_sources = ["{ref}"] in the head of the kernel, and')
    print(f"      python scripts/push.py train --set weights={next(iter(sizes))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
