import keras
import numpy as np
import pytest

from salt.config import preset
from salt.layers import BatchNormalization
from salt.networks import build_model

tensorflow = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends have Keras's own layer")


def both(channels, **settings):
    """Keras's layer and this package's, with the same weights, none of which is where it started."""
    random = np.random.default_rng(channels)
    weights = [random.uniform(0.5, 2.0, channels) for _ in range(4)]
    layers = keras.layers.BatchNormalization(**settings), BatchNormalization(**settings)
    for layer in layers:
        layer.build((None, None, None, channels))
        layer.set_weights(weights)
    return layers


def after_a_step(layer, maps):
    """Outputs, gradients by maps, gamma and beta of some loss, and running statistics, of one step of training."""
    maps = tensorflow.constant(maps)
    with tensorflow.GradientTape() as tape:
        tape.watch(maps)
        outputs = layer(maps, training=True)
        loss = tensorflow.reduce_sum(tensorflow.sin(tensorflow.cast(outputs, "float32")))
    gradients = tape.gradient(loss, [maps, *(variable.value for variable in layer.trainable_variables)])
    return [np.array(value, "float32") for value in (outputs, *gradients, layer.moving_mean, layer.moving_variance)]


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (5, 3, 7, 16), (1, 1, 2, 4), (1, 1, 1, 2), (3, 1, 1, 1)])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.0}, {"momentum": 0.6, "epsilon": 1e-5}])
def test_batch_norm_gives_what_keras_gives(shape, settings):
    maps = np.random.default_rng(0).normal(4.0, 3.0, shape).astype("float32")
    keras_layer, layer = both(shape[-1], **settings)
    for mine, theirs in zip(after_a_step(layer, maps), after_a_step(keras_layer, maps), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "precision, digits", [pytest.param("mixed_bfloat16", 2**-6, marks=pytest.mark.bfloat16), ("mixed_float16", 2**-9)]
)
def test_batch_norm_in_mixed_precision_keeps_its_statistics_in_float32(precision, digits):
    maps = np.random.default_rng(0).normal(3.0, 2.0, (4, 6, 6, 8)).astype("float32")
    exact = after_a_step(both(8)[1], maps)
    layer = both(8, dtype=precision)[1]
    assert layer(maps, training=True).dtype.name == precision.removeprefix("mixed_")
    layer = both(8, dtype=precision)[1]
    assert layer.moving_mean.dtype == layer.moving_variance.dtype == "float32"
    rough = after_a_step(layer, maps)
    np.testing.assert_allclose(rough[0], exact[0], rtol=4 * digits, atol=4 * digits)
    for mine, other in zip(rough[-2:], exact[-2:], strict=True):
        np.testing.assert_allclose(mine, other, rtol=digits)


@pytest.mark.parametrize(
    "settings, shape",
    [
        (dict(dtype="float64"), (4, 3, 3, 5)),
        (dict(dtype="float16"), (4, 3, 3, 5)),
        (dict(dtype="bfloat16"), (4, 3, 3, 5)),
        (dict(axis=1), (4, 5, 3, 3)),
        (dict(scale=False), (4, 3, 3, 5)),
        (dict(center=False), (4, 3, 3, 5)),
        (dict(), (8, 5)),
        (dict(), (4, 6, 5)),
        (dict(), (2, 3, 3, 2, 5)),
    ],
)
def test_batch_norm_is_keras_own_where_the_kernel_does_not_fit(settings, shape):
    maps = np.random.default_rng(0).normal(4.0, 3.0, shape)
    pair = [], []
    for kind, results in zip((keras.layers.BatchNormalization, BatchNormalization), pair, strict=True):
        layer = kind(**settings)
        outputs = layer(maps.astype(layer.compute_dtype), training=True)
        assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
        results.extend([outputs, *layer.weights])
    for mine, theirs in zip(*pair, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_batch_norm_with_a_mask_counts_what_the_mask_shows():
    maps = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    mask = np.arange(32).reshape(2, 4, 4) % 3 > 0
    pair = both(3)
    theirs, mine = (layer(maps, training=True, mask=tensorflow.constant(mask)) for layer in pair)
    np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(pair[1].moving_mean, pair[0].moving_mean)


def test_batch_norm_in_inference_and_when_frozen_is_keras_own():
    maps = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype("float32")
    keras_layer, layer = both(4)
    np.testing.assert_array_equal(layer(maps), keras_layer(maps))
    layer.trainable = keras_layer.trainable = False
    before = [np.array(weight) for weight in layer.weights]
    np.testing.assert_array_equal(layer(maps, training=True), keras_layer(maps, training=True))
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("saved, loaded", [(0, 1), (1, 0)])
def test_files_of_weights_do_not_tell_the_two_apart(tmp_path, saved, loaded):
    def network(kind):
        layers = [keras.Input((4, 4, 2)), kind(), keras.layers.Conv2D(3, 1), kind()]
        return keras.Sequential(layers)

    kinds = (keras.layers.BatchNormalization, BatchNormalization)
    source, target = network(kinds[saved]), network(kinds[loaded])
    source.set_weights([np.random.default_rng(0).uniform(1, 2, weight.shape) for weight in source.weights])
    source.save_weights(tmp_path / "one.weights.h5")
    target.load_weights(tmp_path / "one.weights.h5")
    for mine, theirs in zip(target.weights, source.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "changes",
    [
        dict(model="unet", depth=3, padded_size=104),
        dict(model="transfer_unet", weights=None, padded_size=112),
        dict(encoder="residual"),
        dict(encoder="vgg16"),
        dict(encoder="efflite0", stem_stride=2, hypercolumn=True),
        pytest.param(dict(encoder="efficientnetv2s"), marks=pytest.mark.slow),  # test_encoders.py looks at its layers
    ],
)
def test_every_network_trains_with_the_fused_kernel_alone(changes):
    """`SquaredDifference` is what the variance of Keras's own layer is made of."""
    settings = {"model": "encoder_unet", "decoder_filters": (8, 8, 8), "padded_size": 104, **changes}
    network = build_model(preset("smoke", **settings), None)
    tiles = tensorflow.TensorSpec((2, *network.input_shape[1:]))
    graph = tensorflow.function(lambda tiles: network(tiles, training=True)).get_concrete_function(tiles).graph
    kinds = [operation.type for operation in graph.get_operations()]
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert kinds.count("FusedBatchNormV3") == len([layer for layer in norms if layer.trainable]) > 0
    assert "SquaredDifference" not in kinds
