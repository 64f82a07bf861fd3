"""Group `reading`: a competition's tiles into arrays, every check kept, beside loops that check nothing."""

import pathlib
import zipfile

import numpy as np

from desk.benchmarks.peers import PeerProcess
from desk.benchmarks.timing import Comparison, Contender, timed
from desk.competitions import load_competition
from desk.paths import BUILD
from salt.competition import find_competition
from salt.data import read_test, read_train
from salt.layout import write_competition
from salt.synthetic import synthetic_tiles


def reading_group(peers: PeerProcess, quick: bool) -> list[Comparison]:
    """Training tiles with masks, and test tiles, from the two zips and from folders."""
    train, test = (60, 40) if quick else (4000, 18_000)
    zipped = synthetic_competition(train, test)
    folders = unpacked(zipped)
    files = 2 * train + test

    def read(folder: pathlib.Path) -> None:
        competition = find_competition(folder, load_competition())
        assert len(read_train(competition, progress=False).ids) == train
        assert len(read_test(competition, progress=False).ids) == test

    loop, told = peers.prepare("read_folder", folder=str(folders))
    assert told["files"] == files, told
    others = [
        Contender("cv2.imread in a loop, from a folder", files, loop),
        Contender("tf.data, from a folder", files, timed(lambda: read_by_tf_data(folders))),
    ]
    return [
        Comparison(
            f"read {files:,} images and masks from {place}",
            "file",
            Contender("salt, every check", files, timed(lambda folder=folder: read(folder))),  # type: ignore[misc]
            others,
            [2, None],
        )
        for place, folder in (("zips", zipped), ("folders", folders))
    ]


def synthetic_competition(train: int, test: int) -> pathlib.Path:
    """A folder with a synthetic competition, made once; its tiles are 200 drawn ones, again and again."""
    folder = BUILD / "benchmark" / f"{train}-{test}"
    if not folder.is_dir():
        drawn = synthetic_tiles(min(200, train), seed=0)
        ids = np.array([f"{number:010x}" for number in range(train + test)])
        index = np.arange(train + test) % len(drawn.ids)
        images, masks, depths = drawn.images[index], drawn.known_masks()[index], drawn.depths[index]
        write_competition(
            load_competition(),
            folder,
            *(ids[:train], images[:train], masks[:train], depths[:train]),
            *(ids[train:], images[train:], depths[train:]),
        )
    return folder


def unpacked(folder: pathlib.Path) -> pathlib.Path:
    """The same competition with both archives unpacked."""
    target = folder.with_name(f"{folder.name}-folders")
    if not target.is_dir():
        half = target.with_name(f"{target.name}.half")
        for name in ("train", "test"):
            with zipfile.ZipFile(folder / f"{name}.zip") as archive:
                archive.extractall(half / name)
        for table in folder.glob("*.csv"):
            (half / table.name).write_bytes(table.read_bytes())
        half.rename(target)
    return target


def read_by_tf_data(folder: pathlib.Path) -> np.ndarray:
    """The usual pipeline: a file name, its bytes, its pixels, in parallel."""
    import tensorflow as tf

    def decode(path: "tf.Tensor") -> "tf.Tensor":
        return tf.io.decode_png(tf.io.read_file(path), channels=1)

    paths = sorted(map(str, folder.rglob("*.png")))
    files = tf.data.Dataset.from_tensor_slices(paths).map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(256)
    return np.concatenate(list(files.as_numpy_iterator()))
