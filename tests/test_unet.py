import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from salt.config import preset
from salt.layers import BatchNormalization
from salt.metrics import iou, leaderboard_score
from salt.networks import (
    build_model,
    encoder_layers,
    merge_levels,
    snapshot_ensemble,
    squeeze_and_excite,
    thin_decoder,
)
from salt.unet import encoder_unet_model, transfer_unet_model, unet_model

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEADS = dict(attention=True, hypercolumn=True, deep_supervision=True, empty_head=True)


def encoder_unet(**changes):
    """A network of a small residual encoder, with the changes to its configuration."""
    settings = dict(model="encoder_unet", encoder="residual", filter_scaling=4, decoder_filters=[4, 8, 8])
    return encoder_unet_model(preset("smoke", **{**settings, **changes}), metrics=())


def grey_tiles(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def test_unet_model_has_the_documented_defaults():
    model = unet_model()
    assert model.input_shape == (None, 128, 128, 1) and model.output_shape == (None, 128, 128, 1)
    assert {layer.momentum for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)} == {0.6}
    # The original had 2.16 million parameters at 16 filters, and 19.4 million at 48.
    assert model.count_params() == pytest.approx(2.16e6, rel=0.01)
    assert unet_model(48).count_params() == pytest.approx(19.4e6, rel=0.01)


@pytest.mark.parametrize("filter_scaling, depth", [(4, 2), (4, 4), (6, 3)])
def test_unet_model_grows_with_depth_and_filters(filter_scaling, depth):
    model = unet_model(filter_scaling, depth, input_shape=(32, 32, 1))
    widest = max(layer.filters for layer in model.layers if type(layer) is keras.layers.Conv2D)
    assert widest == filter_scaling * 2 ** (depth - 1)
    assert sum(isinstance(layer, keras.layers.MaxPooling2D) for layer in model.layers) == depth - 1


def test_a_model_gives_float32_logits_of_any_size_that_fits_its_stride():
    keras.utils.set_random_seed(3)  # with some weights, all logits have one sign
    model = unet_model(4, 3, input_shape=(None, None, 1))
    for size in (16, 104):
        logits = model(grey_tiles(2, size))
        assert logits.shape == (2, size, size, 1) and keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.min(logits) < 0 < np.max(logits)  # no sigmoid


@pytest.mark.bfloat16
def test_a_model_in_mixed_precision_still_gives_float32_logits():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = unet_model(4, 2, input_shape=(16, 16, 1))
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert model.get_layer("down0_conv1").compute_dtype == "bfloat16"
    assert keras.backend.standardize_dtype(model(grey_tiles(1, 16)).dtype) == "float32"


def test_transfer_unet_model_has_the_documented_defaults_and_freezes_blocks_1_to_3():
    model = transfer_unet_model(weights=None, input_shape=(32, 32, 1))
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.7}
    encoder = {weight.path.split("/")[0] for weight in model.get_layer("vgg16").trainable_weights}
    assert encoder == {f"block{block}_conv{conv}" for block in (4, 5) for conv in (1, 2, 3)}
    assert model(grey_tiles(1, 32)).shape == (1, 32, 32, 1)


def test_the_decoder_of_both_networks_is_he_normal_and_uses_every_skip():
    shape = (32, 32, 1)
    for model in (unet_model(4, 3, input_shape=shape), transfer_unet_model(weights=None, input_shape=shape)):
        decoder = [layer for layer in model.layers if layer.name.startswith("up") and hasattr(layer, "kernel")]
        assert decoder and all(isinstance(layer.kernel_initializer, keras.initializers.HeNormal) for layer in decoder)
        skips = [layer for layer in model.layers if layer.name.endswith("_skip")]
        grows = [layer for layer in model.layers if layer.name.endswith("_grow")]
        assert len(skips) == len(grows)
        for layer in grows:
            layer.kernel.assign(np.zeros(layer.kernel.shape))  # what is left has come over a skip
        for features in keras.Model(model.input, [layer.output for layer in skips])(grey_tiles(1, 32)):
            assert np.max(features) > 0


def test_the_models_train_as_they_come():
    keras.utils.set_random_seed(0)
    model = unet_model(4, 2, batch_norm_momentum=0.5, optimizer="sgd", input_shape=(16, 16, 1))
    tiles = grey_tiles(8, 16)
    losses = model.fit(tiles, tiles > 128, epochs=8, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    logits = model.predict(tiles, verbose=0)
    cross_entropy = np.logaddexp(0, np.where(tiles > 128, -logits, logits)).mean()
    assert model.evaluate(tiles, tiles > 128, verbose=0)[0] == pytest.approx(cross_entropy, rel=1e-4)


@pytest.mark.slow
def test_frozen_layers_keep_their_weights_in_training():
    model = transfer_unet_model(weights=None, input_shape=(32, 32, 1))
    before = {weight.path: np.array(weight) for weight in model.get_layer("vgg16").weights}
    model.optimizer.build(model.trainable_variables)  # in the first step it would take seconds
    model.train_on_batch(grey_tiles(2, 32), grey_tiles(2, 32) > 128)
    for weight in model.get_layer("vgg16").weights:
        moved = not np.array_equal(before[weight.path], weight)
        assert moved == (weight.path[:6] in ("block4", "block5")), weight.path


@pytest.mark.parametrize(
    "shape", [(100, 128, 1), (128, 100, 1), (8, 8, 1), (128, 128, None), (128, 128, 0), (128, 128), (0, 0, 1)]
)
def test_an_input_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"input_shape={shape}")):
        unet_model(input_shape=shape)
    with pytest.raises(ValueError, match="input_shape="):
        transfer_unet_model(weights=None, input_shape=shape)


@pytest.mark.parametrize(
    "build, arguments, message",
    [
        (unet_model, dict(depth=0), "depth=0: must be a whole number from 1"),
        (unet_model, dict(filter_scaling=0), "filter_scaling=0: must be"),
        (unet_model, dict(classes=0), "classes=0: must be"),
        (unet_model, dict(dropout=1.0), "dropout=1.0: must be a number from 0, and below 1"),
        (unet_model, dict(batch_norm_momentum=None), "batch_norm_momentum=None: must be a number from 0, and below 1"),
        (unet_model, dict(input_shape=None), "input_shape=None: must be (height, width, channels)"),
        (unet_model, dict(input_shape=128), "input_shape=128: must be (height, width, channels)"),
        (unet_model, dict(activation="relu"), "activation='relu': with classes=1 must be None (logits) or 'sigmoid'"),
        (unet_model, dict(activation="sigmoid", classes=3), "with classes=3 must be None (logits) or 'softmax'"),
        (transfer_unet_model, dict(weights=None, freeze_layer=-1), "freeze_layer=-1: must be a whole number from 0"),
        (
            transfer_unet_model,
            dict(weights=None, freeze_layer=True),
            "freeze_layer=True: must be a whole number from 0",
        ),
        (transfer_unet_model, dict(weights=None, freeze_layer=20), "to 19 (none is), the layers of vgg16"),
        (transfer_unet_model, dict(weights=None, input_shape=(16, 16, 1)), "be at least 32, or None; pad the images"),
        (transfer_unet_model, dict(weights=None, input_shape=(32, 32, 2)), "has 2 channels; this encoder takes 1 or 3"),
    ],
)
def test_an_argument_out_of_its_range_is_named(build, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**arguments)


# --- in anybody's project ---


def test_fit_shows_the_score_and_the_iou_of_what_the_model_gives_whether_logits_or_probabilities():
    keras.utils.set_random_seed(0)
    tiles = grey_tiles(6, 16)
    truth = (tiles > 128).astype("uint8")
    logits = unet_model(2, 2, input_shape=(16, 16, 1))
    probabilities = unet_model(2, 2, input_shape=(16, 16, 1), activation="sigmoid")
    probabilities.set_weights(logits.get_weights())
    found = [model.evaluate(tiles, truth, return_dict=True, verbose=0) for model in (logits, probabilities)]
    masks = (logits.predict(tiles, verbose=0)[..., 0] >= 0).astype("uint8")
    assert 0 < masks.mean() < 1
    for values in found:
        assert values["score"] == pytest.approx(leaderboard_score(masks, truth[..., 0]), rel=1e-6)
        assert values["iou"] == pytest.approx(iou(masks, truth[..., 0]).mean(), rel=1e-6)
        assert values["loss"] == pytest.approx(found[0]["loss"], rel=1e-4)
    given = probabilities.predict(tiles, verbose=0)
    np.testing.assert_allclose(given, 1 / (1 + np.exp(-logits.predict(tiles, verbose=0))), rtol=1e-5)


def test_metrics_of_ones_own_replace_the_usual_ones():
    tiles = grey_tiles(2, 16)
    model = unet_model(2, 2, input_shape=(16, 16, 1), metrics=[keras.metrics.BinaryAccuracy(threshold=0)])
    assert set(model.evaluate(tiles, tiles > 128, return_dict=True, verbose=0)) == {"loss", "binary_accuracy"}


@pytest.mark.slow
def test_four_classes_of_a_colour_image_are_learned():
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    classes = np.argmax(np.concatenate([images, np.full((8, 16, 16, 1), 150)], axis=-1), axis=-1)[..., None]
    model = unet_model(8, 2, optimizer=keras.optimizers.Adam(0.02), input_shape=(16, 16, 3), classes=4)
    assert model.output_shape == (None, 16, 16, 4)
    logs = model.fit(images, classes, epochs=25, batch_size=8, verbose=0).history
    assert logs["iou"][-1] > 0.5 > logs["iou"][0]


def test_vgg16_sees_a_colour_image_with_equal_channels_as_the_grey_one_and_knows_red_from_blue():
    grey, colour = (transfer_unet_model(weights=None, input_shape=(32, 32, channels)) for channels in (1, 3))
    colour.set_weights(grey.get_weights())
    tiles = grey_tiles(1, 32)
    np.testing.assert_allclose(colour(np.repeat(tiles, 3, axis=-1)), grey(tiles), atol=1e-5)
    scaled = keras.Model(colour.input, colour.get_layer("imagenet_scale").output)
    (seen,) = scaled(np.array([[[[200, 0, 0]]]], "float32").repeat(32, 1).repeat(32, 2))[:, 0, 0]
    np.testing.assert_allclose(seen, [0 - 103.939, 0 - 116.779, 200 - 123.68], rtol=1e-5)  # blue, green, red


LOAD = """
import sys
import keras
import numpy as np
import salt
for index in range(int(sys.argv[2])):
    model = keras.models.load_model(f"{sys.argv[1]}/{index}.keras")
    outputs = model(np.load(f"{sys.argv[1]}/{index}.npy"))
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    np.savez(f"{sys.argv[1]}/{index}.npz", **outputs)
assert "salt.layers" not in sys.modules
"""


def assert_loads_elsewhere(tmp_path, models):
    """That saved models, whose running means are not where they started, say the same in a process of their own."""
    rng, expected = np.random.default_rng(0), []
    for index, model in enumerate(models):
        for weight in model.weights:
            if weight.path.endswith("moving_mean"):
                weight.assign(rng.normal(size=weight.shape))
        images = rng.integers(0, 256, (1, *model.input_shape[1:])).astype("float32")
        np.save(tmp_path / f"{index}.npy", images)
        model.save(tmp_path / f"{index}.keras")
        outputs = model(images)  # not by `predict`, which compiles
        expected.append(outputs if isinstance(outputs, dict) else {"logits": outputs})
    command = [sys.executable, "-c", LOAD, str(tmp_path), str(len(models))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for index, outputs in enumerate(expected):
        with np.load(tmp_path / f"{index}.npz") as found:
            assert set(found) == set(outputs)
            for name, values in outputs.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=f"{index} {name}")


def test_a_saved_model_of_every_builder_loads_in_another_process_and_says_the_same(tmp_path):
    small = unet_model(2, 2, input_shape=(16, 16, 1))
    small.optimizer.build(small.trainable_variables)  # with its optimizer's state
    models = [
        small,
        unet_model(2, 2, input_shape=(16, 16, 3), classes=3, activation="softmax"),
        encoder_unet(decoder_filters=[4, 8], **HEADS),
        snapshot_ensemble([unet_model(2, 2, input_shape=(16, 16, 1)) for _ in range(2)]),
    ]
    assert_loads_elsewhere(tmp_path, models)
    again = keras.models.load_model(tmp_path / "0.keras")  # here, where the layer is known, it is this package's again
    assert {type(layer) for layer in again.layers if "norm" in layer.name} == {BatchNormalization}


@pytest.mark.slow  # large networks
def test_a_saved_model_with_a_pretrained_encoder_loads_in_another_process_and_says_the_same(tmp_path):
    models = [
        transfer_unet_model(weights=None, input_shape=(32, 32, 3), activation="sigmoid"),
        encoder_unet(encoder="efflite0", stem_stride=2, decoder_filters=[4, 8], padded_size=104),
    ]
    assert_loads_elsewhere(tmp_path, models)


@pytest.mark.parametrize("form, packages", [("tf_saved_model", ()), ("onnx", ("tf2onnx", "onnx")), ("litert", ())])
def test_a_model_is_exported(tmp_path, form, packages):
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("exported from TensorFlow here")
    if form == "litert" and importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("ai_edge_litert is not installed")
    model = unet_model(2, 2, input_shape=(16, 16, 1))
    model.export(tmp_path / "model", format=form, verbose=False)
    if form == "tf_saved_model":
        import tensorflow as tf

        tiles = grey_tiles(2, 16).astype("float32")
        served = tf.saved_model.load(str(tmp_path / "model"))  # a name, since its function does not keep it
        np.testing.assert_allclose(served.serve(tiles), model.predict_on_batch(tiles), rtol=1e-5, atol=1e-5)
    else:
        assert (tmp_path / "model").stat().st_size > 1000


def test_build_model_follows_the_configuration():
    model = build_model(preset("smoke", batch_norm_momentum=0.8, dropout=0.1))
    assert model.name == "unet" and model.input_shape == (None, 104, 104, 1)
    assert model.get_layer("down0_conv1").filters == 4 and model.get_layer("down0_norm1").momentum == 0.8
    assert model.get_layer("up0_dropout").rate == 0.1
    transfer = build_model(preset("transfer_unet", freeze_layer=15))
    assert transfer.name == "transfer_unet" and transfer.input_shape == (None, 112, 112, 1)
    assert len(transfer.get_layer("vgg16").trainable_weights) == 6


def test_encoder_unet_without_heads_gives_logits_alone():
    model = encoder_unet()
    assert model.name == "encoder_unet" and model(grey_tiles(1, 104)).shape == (1, 104, 104, 1)


def test_encoder_unet_with_heads_gives_each_at_its_own_size():
    outputs = encoder_unet(**HEADS)(grey_tiles(2, 104))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "logits": (2, 104, 104, 1),
        "deep_1": (2, 52, 52, 1),
        "deep_2": (2, 26, 26, 1),
        "empty": (2, 1),
    }
    assert set(encoder_unet(empty_head=True)(grey_tiles(1, 104))) == {"logits", "empty"}
    assert set(encoder_unet(deep_supervision=True)(grey_tiles(1, 104))) == {"logits", "deep_1", "deep_2"}


@pytest.mark.slow
def test_encoder_unet_with_heads_is_fitted_to_masks_alone():
    model, tiles = encoder_unet(**HEADS), grey_tiles(2, 104)
    for masks in (tiles > 128, {"logits": tiles > 128}):
        assert set(model.fit(tiles, masks, verbose=0).history) == {"loss"}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64"])
def test_a_network_of_pure_precision_learns_finite_weights(policy):
    tiles = grey_tiles(4, 16)
    keras.config.set_dtype_policy(policy)
    try:
        model = unet_model(2, 2, input_shape=(16, 16, 1))
        model.fit(tiles, tiles > 128, epochs=5, batch_size=2, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(np.array(weight, "float64")).all() for weight in model.weights)
    assert np.isfinite(model.predict(tiles, verbose=0)).all()


@pytest.mark.parametrize("encoder, stem_stride", [("vgg16", 1), ("efflite0", 2), ("residual", 2)])
def test_every_encoder_gives_logits_at_full_size(encoder, stem_stride):
    model = encoder_unet(encoder=encoder, stem_stride=stem_stride, padded_size=112)
    assert model(grey_tiles(1, 112)).shape == (1, 112, 112, 1)
    skips = [layer.name for layer in model.layers if layer.name.endswith("_skip")]
    assert skips == [f"up{level}_skip" for level in (2, 1, 0)]
    # A stem that halves the tile leaves the finest skip to the tile itself.
    assert ("detail_conv" in [layer.name for layer in model.layers]) == (stem_stride == 2)
    assert len(encoder_layers(model)) == (encoder != "residual")


@pytest.mark.parametrize("precision", [pytest.param("mixed_bfloat16", marks=pytest.mark.bfloat16), "mixed_float16"])
def test_every_head_is_float32_in_mixed_precision_and_the_rest_is_not(precision):
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        model = encoder_unet(**HEADS)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    outputs = model(grey_tiles(1, 104))
    assert {keras.backend.standardize_dtype(output.dtype) for output in outputs.values()} == {"float32"}
    computed = {layer.compute_dtype for layer in model.layers if layer.name.startswith(("down", "up", "merge"))}
    assert computed == {precision.removeprefix("mixed_")}
    assert model.get_layer("to_unit_range").compute_dtype == "float32"


def test_encoder_layers_are_the_pretrained_ones():
    (vgg,) = encoder_layers(transfer_unet_model(weights=None, input_shape=(32, 32, 1)))
    assert vgg.name == "vgg16"
    assert encoder_layers(unet_model(4, 2, input_shape=(16, 16, 1))) == []
    model = encoder_unet(encoder="efflite0", freeze_layer=0)
    mine = {weight.path for layer in encoder_layers(model) for weight in layer.trainable_weights}
    assert mine and not any(path.startswith(("up", "logits")) for path in mine)
    assert all(path.startswith(("up", "logits")) for path in {weight.path for weight in model.trainable_weights} - mine)


def levels_of(model):
    """The skips of a thin decoder, in a model of their own."""
    skips = [layer.output for layer in model.layers if layer.name.endswith("_skip")]
    return keras.Model(model.input, skips)


def test_the_thin_decoder_uses_every_skip_and_what_lies_below_it():
    model = encoder_unet()
    for kind in ("_grow", "_narrow_conv"):  # what is left has come from the other side
        changed = encoder_unet()
        changed.set_weights(model.get_weights())
        for layer in changed.layers:
            if layer.name.endswith(kind):
                layer.kernel.assign(np.zeros(layer.kernel.shape))
        found, expected = (levels_of(network)(grey_tiles(1, 104)) for network in (changed, model))
        for features, before in zip(found, expected, strict=True):
            assert np.std(features) > 0 and not np.allclose(features, before)


def test_the_thin_decoder_brings_maps_of_any_scale_to_one():
    """VGG-16's maps reach hundreds; beside them, what comes from below would not count."""
    fine, coarse = keras.Input((16, 16, 3)), keras.Input((8, 8, 5))
    maps = thin_decoder([fine, coarse], (4,), 0.5, 0.0, False)
    model = keras.Model([fine, coarse], maps)
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(4, *shape)).astype("float32") for shape in ((16, 16, 3), (8, 8, 5))]
    plain = np.array(model(given, training=True)[0])
    for fine_scale, coarse_scale in ((300, 1), (1, 300)):
        scaled = model([fine_scale * given[0], coarse_scale * given[1]], training=True)[0]
        np.testing.assert_allclose(scaled, plain, rtol=0.05, atol=0.05)


def test_dropout_and_attention_are_at_every_level_of_the_thin_decoder():
    names = {layer.name for layer in encoder_unet(dropout=0.1, attention=True).layers}
    for level in range(3):
        assert {f"up{level}_dropout", f"up{level}_excite"} <= names
    assert not {f"up{level}_{part}" for level in range(3) for part in ("dropout", "excite")} & {
        layer.name for layer in encoder_unet().layers
    }


def test_squeeze_and_excite_weighs_channels_and_pixels():
    features = keras.Input((4, 4, 16))
    model = keras.Model(features, squeeze_and_excite(features, "level"))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    x = rng.normal(size=(2, 4, 4, 16)).astype("float32")
    reduce, channels, pixels = (
        [np.array(weight) for weight in model.get_layer(f"level_{name}").weights]
        for name in ("reduce", "channels", "pixels")
    )
    assert reduce[0].shape == (16, 4)
    hidden = np.maximum(x.mean(axis=(1, 2)) @ reduce[0] + reduce[1], 0)
    channel = 1 / (1 + np.exp(-(hidden @ channels[0] + channels[1])))
    pixel = 1 / (1 + np.exp(-(x @ pixels[0][0, 0] + pixels[1])))
    np.testing.assert_allclose(model(x), x * channel[:, None, None] + x * pixel, rtol=1e-4, atol=1e-5)


def test_a_hypercolumn_sees_every_level():
    maps = [keras.Input((16 // 2**level, 16 // 2**level, 4)) for level in range(3)]
    model = keras.Model(maps, merge_levels(maps, 0.5))
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(1, *level.shape[1:])).astype("float32") for level in maps]
    before = np.array(model(given))
    assert before.shape == (1, 16, 16, 4)
    for level in range(3):
        changed = [x + (index == level) for index, x in enumerate(given)]
        assert not np.allclose(model(changed), before)


@pytest.mark.slow  # tracing a step with all heads takes most of it
def test_encoder_unet_learns_as_it_comes_with_all_its_heads():
    keras.utils.set_random_seed(0)
    tiles = grey_tiles(2, 104)
    truth = {"logits": (tiles > 128).astype("float32")}
    model = encoder_unet(decoder_filters=[4, 8], **HEADS)
    model.optimizer.build(model.trainable_variables)  # in the first step it would take seconds
    losses = model.fit(tiles, truth, epochs=6, batch_size=2, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


# What another backend, or another compiler, says of the same weights: outputs, and the weights after a step of SGD.
STEP = """
import sys
import keras
import numpy as np
from salt.config import preset
from salt.networks import build_model

assert keras.backend.backend() == sys.argv[1]
heads = dict(attention=True, hypercolumn=True, deep_supervision=True, empty_head=True)
config = preset("smoke", model="encoder_unet", encoder="residual", filter_scaling=4, decoder_filters=[4, 8], **heads)
model = build_model(config)
rng = np.random.default_rng(0)
for weight in model.weights:
    if len(weight.shape) > 1:
        weight.assign(rng.normal(0, (2 / np.prod(weight.shape[:-1])) ** 0.5, weight.shape))
tiles = rng.integers(0, 256, (2, 104, 104, 1), dtype=np.uint8)
loss = keras.losses.BinaryCrossentropy(from_logits=True)
outputs = model.predict_on_batch(tiles)
truth = {name: np.ones(output.shape, "float32") for name, output in outputs.items()}
model.compile(keras.optimizers.SGD(0.1), {name: loss for name in truth}, jit_compile=True)
model.train_on_batch(tiles, truth)
weights = {f"weight/{index}": np.array(weight) for index, weight in enumerate(model.weights)}
np.savez(sys.argv[2], **outputs, **weights)
"""


@pytest.mark.slow  # XLA takes most of a minute to compile two training steps
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_all_heads_compile_under_xla_on_both_backends_and_agree(tmp_path):
    made = {}
    for backend in ("tensorflow", "jax"):
        environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", STEP, backend, str(tmp_path / f"{backend}.npz")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(tmp_path / f"{backend}.npz") as arrays:
            made[backend] = dict(arrays)
    assert set(made["jax"]) == set(made["tensorflow"]) and {"logits", "deep_1", "empty"} <= set(made["jax"])
    for name, expected in made["tensorflow"].items():
        np.testing.assert_allclose(made["jax"][name], expected, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Use the U-Nets in your own project")[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    names, few = {}, example.replace("filter_scaling=8, depth=4", "filter_scaling=2, depth=2")  # in less time
    assert few != example
    exec(compile(few, "README.md", "exec"), names)
    assert names["probabilities"].shape == names["tiles"].shape
    assert names["probabilities"].min() >= 0 and names["probabilities"].max() <= 1
