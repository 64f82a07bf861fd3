import keras
import numpy as np
import pytest

from salt.encoders import find_weights, plain_encoder, vgg16_encoder


def features_of(encoder, size):
    tiles = keras.Input((size, size, 1))
    return keras.Model(tiles, encoder(tiles))


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
    seen = keras.Model(vgg.input, vgg.get_layer("imagenet_mean").output)(tiles)
    np.testing.assert_allclose(seen, expected, atol=1e-4)
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
