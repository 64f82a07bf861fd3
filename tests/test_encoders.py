import keras
import numpy as np
import pytest

from salt.config import preset
from salt.encoders import (
    adapt_network,
    efficientnet_lite,
    efficientnetv2s_encoder,
    efflite_encoder,
    encoder_features,
    find_weights,
    plain_encoder,
    residual_encoder,
    vgg16_encoder,
)
from salt.layers import BatchNormalization


def features_of(encoder, size):
    tiles = keras.Input((size, size, 1))
    return keras.Model(tiles, encoder(tiles))


def shapes_of(model):
    return [output.shape[1:] for output in model.outputs]


def seen_by_the_encoder(model, tiles):
    return keras.Model(model.input, model.get_layer("imagenet_scale").output)(tiles)


def grey_tiles(size):
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 1)).astype("float32")


def test_the_plain_encoder_halves_the_size_and_doubles_the_filters_at_each_level():
    model = features_of(lambda tiles: plain_encoder(tiles, 4, 3, 0.6), 32)
    assert [output.shape[1:] for output in model.outputs] == [(32, 32, 4), (16, 16, 8), (8, 8, 16)]


def test_the_plain_encoder_does_not_see_a_tiles_brightness():
    model = features_of(lambda tiles: plain_encoder(tiles, 4, 2, 0.6), 16)
    tiles = np.random.default_rng(0).integers(0, 200, (2, 16, 16, 1)).astype("float32")
    for dark, bright in zip(model(tiles), model(tiles + 50), strict=True):
        np.testing.assert_allclose(dark, bright, atol=1e-4)


def test_every_convolution_of_the_plain_encoder_is_normalised_and_rectified_before_the_next_level():
    """The network that this one grew from left the second one of each level linear."""
    model = features_of(lambda tiles: plain_encoder(tiles, 4, 3, 0.6), 16)
    tiles = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 1)).astype("float32")
    for features in model(tiles):
        assert np.min(features) == 0.0
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == kinds.count("BatchNormalization") == kinds.count("ReLU") == 6


@pytest.fixture(scope="module")
def vgg():
    return features_of(lambda tiles: vgg16_encoder(tiles, None, 11), 32)


def test_vgg16_gives_the_last_convolution_of_each_block(vgg):
    shapes = [output.shape[1:] for output in vgg.outputs]
    assert shapes == [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512), (2, 2, 512)]


def test_vgg16_gets_grey_tiles_as_imagenets_preprocessing_would_give_them(vgg):
    tiles = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype("float32")
    expected = keras.applications.vgg16.preprocess_input(np.repeat(tiles, 3, axis=-1))
    np.testing.assert_allclose(seen_by_the_encoder(vgg, tiles), expected, atol=1e-4)
    for features, again in zip(vgg(tiles), vgg.get_layer("vgg16")(expected), strict=True):
        np.testing.assert_allclose(features, again, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("freeze_layer, trained", [(0, 13), (8, 8), (11, 6), (19, 0)])
def test_vgg16_layers_below_freeze_layer_are_not_trained(freeze_layer, trained):
    model = features_of(lambda tiles: vgg16_encoder(tiles, None, freeze_layer), 32)
    assert len(model.trainable_weights) == 2 * trained
    names = {weight.path.split("/")[0] for weight in model.trainable_weights}
    assert freeze_layer != 11 or names == {f"block{block}_conv{conv}" for block in (4, 5) for conv in (1, 2, 3)}


def test_vgg16_weights_come_from_a_file(tmp_path):
    source = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    source.save_weights(tmp_path / "vgg16.weights.h5")
    model = features_of(lambda tiles: vgg16_encoder(tiles, str(tmp_path / "vgg16.weights.h5"), 0), 32)
    for mine, theirs in zip(model.get_layer("vgg16").weights, source.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_missing_or_foreign_weights_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.weights.h5"):
        features_of(lambda tiles: vgg16_encoder(tiles, str(tmp_path / "none.weights.h5"), 0), 32)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match="other.weights.h5: not the weights of VGG-16"):
        features_of(lambda tiles: vgg16_encoder(tiles, str(tmp_path / "other.weights.h5"), 0), 32)


def test_vgg16_stops_at_its_fourth_block_and_leaves_the_fifth_out():
    model = features_of(lambda tiles: vgg16_encoder(tiles, None, 7, levels=4), 32)
    assert shapes_of(model) == [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]
    names = {weight.path.split("/")[0] for weight in model.trainable_weights}  # the first 7 layers: input, blocks 1, 2
    assert names == {f"block{block}_conv{conv}" for block in (3, 4) for conv in (1, 2, 3)}
    assert not any(weight.path.startswith("block5") for weight in model.weights)


def test_the_residual_encoder_halves_the_size_and_doubles_the_filters_at_each_level():
    model = features_of(lambda tiles: residual_encoder(tiles, 4, 3, 1, 0.6), 32)
    assert shapes_of(model) == [(32, 32, 4), (16, 16, 8), (8, 8, 16)]
    coarser = features_of(lambda tiles: residual_encoder(tiles, 4, 3, 2, 0.6), 32)
    assert shapes_of(coarser) == [(16, 16, 4), (8, 8, 8), (4, 4, 16)]


def test_the_residual_encoder_does_not_see_a_tiles_brightness():
    model = features_of(lambda tiles: residual_encoder(tiles, 4, 2, 1, 0.6), 16)
    for dark, bright in zip(model(grey_tiles(16)), model(grey_tiles(16) + 50), strict=True):
        np.testing.assert_allclose(dark, bright, atol=1e-4)


def test_a_residual_block_without_its_convolutions_passes_on_what_it_gets():
    model = features_of(lambda tiles: residual_encoder(tiles, 4, 2, 1, 0.6), 16)
    for name in ("down1a", "down1b"):
        kernel = model.get_layer(f"{name}_second_conv").kernel
        kernel.assign(np.zeros(kernel.shape))
    stem, block = model(grey_tiles(16))
    stem = np.array(stem)
    averaged = (stem[:, ::2, ::2] + stem[:, 1::2, ::2] + stem[:, ::2, 1::2] + stem[:, 1::2, 1::2]) / 4
    shortcut = model.get_layer("down1a_short_norm")(model.get_layer("down1a_short_conv")(averaged))
    np.testing.assert_allclose(block, np.maximum(shortcut, 0), atol=1e-5)
    assert np.max(block) > 0


def test_efficientnet_lite0_has_the_published_parameters_in_the_published_order():
    lite = efficientnet_lite("efflite0", (32, 32, 3))
    assert lite.count_params() == 2_998_304  # 4,694,024 with the head
    names = [layer.name for layer in lite.layers if layer.weights]
    assert names[:6] == [
        "stem_conv",
        "stem_bn",
        "block0_dw_conv",
        "block0_dw_bn",
        "block0_project_conv",
        "block0_project_bn",
    ]
    assert names[6:10] == ["block1_expand_conv", "block1_expand_bn", "block1_dw_conv", "block1_dw_bn"]
    depthwise = [layer.kernel.shape[0] for layer in lite.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert depthwise == [3] * 3 + [5] * 2 + [3] * 3 + [5] * 7 + [3]
    assert all(layer.epsilon == 1e-3 for layer in lite.layers if isinstance(layer, keras.layers.BatchNormalization))
    assert {layer.max_value for layer in lite.layers if isinstance(layer, keras.layers.ReLU)} == {6.0}


@pytest.mark.slow
def test_efficientnet_lite2_has_the_published_parameters_in_the_published_order():
    lite = efficientnet_lite("efflite2", (32, 32, 3))
    assert lite.count_params() == 4_869_168 - (352 * 1280 + 4 * 1280)  # less the head of 1280 channels
    depthwise = [layer for layer in lite.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert [layer.kernel.shape[0] for layer in depthwise] == [3] * 4 + [5] * 3 + [3] * 4 + [5] * 9 + [3]
    assert [layer.strides[0] for layer in depthwise] == [1, 2, 1, 1, 2, 1, 1, 2] + [1] * 7 + [2] + [1] * 5
    model = features_of(lambda tiles: efflite_encoder(tiles, "efflite2", None, 0, 5, 2), 64)
    assert shapes_of(model) == [(32, 32, 16), (16, 16, 24), (8, 8, 48), (4, 4, 120), (2, 2, 352)]


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_efflite0_takes_weights_with_a_head_and_grey_tiles(tmp_path, stem_stride):
    lite = efficientnet_lite("efflite0", (32, 32, 3))
    for weight in lite.weights:  # statistics of batch norm that are not where they started
        weight.assign(np.random.default_rng(len(weight.path)).uniform(0.1, 0.3, weight.shape))
    head = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 1, use_bias=False)(lite.output))
    whole = keras.Model(lite.input, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(head)))
    whole.save_weights(tmp_path / "lite.weights.h5")
    path = str(tmp_path / "lite.weights.h5")
    model = features_of(lambda tiles: efflite_encoder(tiles, "efflite0", path, 0, 5, stem_stride), 64)
    finest = 64 // stem_stride
    assert shapes_of(model) == [
        (finest // 2**level, finest // 2**level, filters) for level, filters in enumerate((16, 24, 40, 112, 320))
    ]
    for mine, theirs in zip(model.get_layer("efflite0").weights, lite.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    seen = seen_by_the_encoder(model, grey_tiles(64))
    np.testing.assert_allclose(seen, (np.repeat(grey_tiles(64), 3, axis=-1) - 127) / 128, atol=1e-6)


def test_efflite0_has_no_download_and_refuses_other_weights(tmp_path):
    with pytest.raises(ValueError, match="Keras has none for efflite0; give the path"):
        features_of(lambda tiles: efflite_encoder(tiles, "efflite0", "imagenet", 0, 5, 2), 32)
    with pytest.raises(FileNotFoundError, match="none.weights.h5"):
        features_of(lambda tiles: efflite_encoder(tiles, "efflite0", str(tmp_path / "none.weights.h5"), 0, 5, 2), 32)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match="other.weights.h5: not the weights of EfficientNet-Lite0"):
        features_of(lambda tiles: efflite_encoder(tiles, "efflite0", str(tmp_path / "other.weights.h5"), 0, 5, 2), 32)


def test_frozen_layers_of_efflite0_are_not_trained_and_keep_their_statistics():
    model = features_of(lambda tiles: efflite_encoder(tiles, "efflite0", None, 9, 3, 2), 32)
    frozen = {weight.path.split("/")[0] for weight in model.weights} - {
        weight.path.split("/")[0] for weight in model.trainable_weights
    }
    assert frozen == {f"{part}_{kind}" for part in ("stem", "block0_dw", "block0_project") for kind in ("conv", "bn")}
    model(grey_tiles(32), training=True)
    np.testing.assert_array_equal(model.get_layer("efflite0").get_layer("stem_bn").moving_mean, np.zeros(32))


@pytest.fixture(scope="module")
def efficientnetv2s(tmp_path_factory):
    """The application with weights as they come from a file, and that file."""
    path = tmp_path_factory.mktemp("weights") / "v2s.weights.h5"
    network = keras.applications.EfficientNetV2S(include_top=False, weights=None, input_shape=(64, 64, 3))
    network.save_weights(path)
    return network, str(path)


@pytest.mark.slow  # two networks of 500 layers
def test_efficientnetv2s_takes_keras_weights_and_grey_tiles_as_keras_would(efficientnetv2s):
    network, path = efficientnetv2s
    model = features_of(lambda tiles: efficientnetv2s_encoder(tiles, path, 0, 5, 2), 64)
    assert shapes_of(model) == [(32, 32, 24), (16, 16, 48), (8, 8, 64), (4, 4, 160), (2, 2, 256)]
    tiles = grey_tiles(64)
    colour = np.repeat(tiles, 3, axis=-1)
    expected = keras.Model(network.input, [network.get_layer(name).output for name in ("block1b_add", "block6o_add")])
    found, (first, last) = model(tiles), expected(colour)
    np.testing.assert_allclose(found[0], first, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[-1], last, rtol=1e-3, atol=1e-4)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) > 50 and all(isinstance(layer, BatchNormalization) for layer in norms)


@pytest.mark.slow
def test_efficientnetv2s_with_a_stem_of_stride_1_keeps_its_weights_and_doubles_its_maps(efficientnetv2s):
    network, path = efficientnetv2s
    config = preset("smoke", model="encoder_unet", encoder="efficientnetv2s", decoder_filters=[8] * 4, padded_size=112)
    model = features_of(lambda tiles: encoder_features(tiles, config, path), 32)
    assert shapes_of(model) == [(32, 32, 24), (16, 16, 48), (8, 8, 64), (4, 4, 160), (2, 2, 256)]
    assert 19e6 < model.count_params() < 30e6
    theirs = {weight.path: np.array(weight) for weight in network.weights}
    mine = model.get_layer("efficientnetv2-s").weights
    for weight in mine:
        np.testing.assert_array_equal(weight, theirs[weight.path])


def test_another_stride_gives_the_maps_in_between_too():
    """At every second pixel, a stem of stride 1 says what one of stride 2 says."""
    colour = keras.Input((8, 8, 3))
    network = keras.Model(colour, keras.layers.Conv2D(4, 1, strides=2, name="stem")(colour))
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    fine = adapt_network(network, "stem", 1)(image)
    assert fine.shape == (1, 8, 8, 4)
    np.testing.assert_allclose(fine[:, ::2, ::2], network(image), atol=1e-6)


@pytest.mark.parametrize(
    "encoder, stem_stride, filters, strides",
    [
        ("residual", 1, [4, 8, 16], [1, 2, 4, 8]),
        ("residual", 2, [4, 8, 16], [2, 4, 8]),
        ("vgg16", 1, [32, 64, 128], [1, 2, 4, 8]),
        ("efflite0", 2, [8, 16, 32, 32, 64], [2, 4, 8, 16, 32]),
        ("efflite0", 1, [8, 16], [1, 2, 4]),
    ],
)
def test_every_encoder_gives_maps_from_its_stem_down_to_the_decoders_last_halving(
    encoder, stem_stride, filters, strides
):
    named = dict(encoder=encoder, stem_stride=stem_stride, decoder_filters=filters)
    config = preset("smoke", model="encoder_unet", padded_size=128, **named)
    model = features_of(lambda tiles: encoder_features(tiles, config), 64)
    assert [64 // shape[0] for shape in shapes_of(model)] == strides
    if encoder != "residual":
        assert {layer.name for layer in model.layers} >= {"grey_to_colour", "imagenet_scale"}


def test_the_residual_encoder_has_no_weights_to_load():
    config = preset("smoke", model="encoder_unet", encoder="residual")
    with pytest.raises(ValueError, match="weights='imagenet': the residual encoder is trained from nothing"):
        features_of(lambda tiles: encoder_features(tiles, config, "imagenet"), 104)


def test_a_bare_name_is_looked_for_among_the_mounts(tmp_path):
    mount = tmp_path / "input" / "datasets" / "me" / "salt-weights"
    mount.mkdir(parents=True)
    (mount / "vgg16.weights.h5").write_bytes(b"")
    roots = [tmp_path / "nowhere", tmp_path / "input"]
    assert find_weights("vgg16.weights.h5", roots) == str(mount / "vgg16.weights.h5")
    assert find_weights("a/vgg16.weights.h5", roots) == "a/vgg16.weights.h5"
    assert find_weights("imagenet", roots) == "imagenet"
    assert find_weights(None, roots) is None
    with pytest.raises(FileNotFoundError, match="weights='vgg19.h5': no such file under .*mount a dataset"):
        find_weights("vgg19.h5", roots)
