import keras
import numpy as np
import pytest
from keras import ops

from salt.config import preset
from salt.inference import network_function, predict_probabilities, sigmoid
from salt.networks import build_model
from salt.tiles import pad_images


def model_of(function, size=104):
    tiles = keras.Input((size, size, 1))
    return keras.Model(tiles, function(tiles))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 101, 101), dtype=np.uint8)


def test_sigmoid_is_exact_in_the_middle_and_finite_at_the_ends():
    expected = [0, 1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-2), 1]
    np.testing.assert_allclose(sigmoid(np.array([-1000.0, -2.0, 0.0, 2.0, 1000.0])), expected)


@pytest.mark.parametrize("tta", ["none", "flip", "d4"])
@pytest.mark.parametrize("padding", ["reflect", "edge", "neighbours"])
def test_a_model_of_single_pixels_gets_each_pixel_back_in_its_place(images, tta, padding):
    model = model_of(lambda tiles: ops.cast(tiles, "float32") / 64.0 - 2.0)
    given = pad_images(images, 107) if padding == "neighbours" else images
    found = predict_probabilities([model], given, tta, 104, padding, batch_size=2, progress=False)
    expected = np.rint(255 / (1 + np.exp(2.0 - images / 64.0)))
    assert found.dtype == np.uint8 and found.shape == images.shape
    np.testing.assert_array_equal(found, expected)


def test_flip_averages_what_the_model_says_of_the_tile_and_of_its_mirror_image(images):
    shifted = model_of(lambda tiles: ops.cast(ops.roll(tiles, 1, axis=2), "float32") / 64.0 - 2.0)
    found = predict_probabilities([shifted], images, "flip", 104, progress=False)
    probability = 1 / (1 + np.exp(2.0 - images.astype(float) / 64.0))
    inner = (probability[:, :, :-2] + probability[:, :, 2:]) / 2  # from the left neighbour, and from the right one
    np.testing.assert_allclose(found[:, :, 1:-1], 255 * inner, atol=0.51)


def test_flip_turns_the_surroundings_with_the_tile(images):
    wide = np.random.default_rng(1).integers(0, 256, (5, 107, 107), dtype=np.uint8)
    shifted = model_of(lambda tiles: ops.cast(ops.roll(tiles, 1, axis=2), "float32") / 64.0 - 2.0)
    found = predict_probabilities([shifted], wide, "flip", 104, "neighbours", progress=False)
    probability = 1 / (1 + np.exp(2.0 - wide[:, 3:-3].astype(float) / 64.0))
    both = (probability[:, :, 2:103] + probability[:, :, 4:105]) / 2  # the neighbours' pixels, too
    np.testing.assert_allclose(found, 255 * both, atol=0.51)


def test_a_model_with_more_heads_is_asked_for_its_logits_only(images):
    def heads(tiles):
        logits = ops.cast(tiles, "float32") / 64.0 - 2.0
        return {"deep_1": logits[:, ::2, ::2], "empty": logits[:, 0, 0], "logits": logits}

    plain = model_of(lambda tiles: heads(tiles)["logits"])
    found = predict_probabilities([model_of(heads)], images, "flip", 104, progress=False)
    np.testing.assert_array_equal(found, predict_probabilities([plain], images, "flip", 104, progress=False))


def test_an_ensemble_averages_probabilities_not_logits(images):
    models = [model_of(lambda tiles, value=value: 0.0 * ops.cast(tiles, "float32") + value) for value in (-9.0, 1.0)]
    found = predict_probabilities(models, images, "none", 104, progress=False)
    assert np.unique(found) == round(255 * (1 / (1 + np.exp(9)) + 1 / (1 + np.exp(-1))) / 2)


def test_probability_one_half_is_level_128(images):
    model = model_of(lambda tiles: 0.0 * ops.cast(tiles, "float32"))
    assert np.unique(predict_probabilities([model], images, "none", 104, progress=False)) == 128


def test_logits_that_are_not_finite_are_an_error(images):
    model = model_of(lambda tiles: ops.cast(tiles, "float32") * np.float32("nan"))
    with pytest.raises(ValueError, match="not finite: its training diverged"):
        predict_probabilities([model], images, "none", 104, progress=False)


def test_no_model_is_an_error(images):
    with pytest.raises(ValueError, match="models is empty"):
        predict_probabilities([], images)


def test_a_network_gives_its_own_logits_as_its_weights_are_when_it_is_asked_for():
    model = build_model(
        preset("smoke", model="encoder_unet", encoder="residual", decoder_filters=(4, 4, 8, 8), padded_size=128)
    )
    for layer in model.layers:  # statistics as after a training: else batch norm has little to do
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(ops.ones_like(layer.moving_variance) * 4.0)
    batch = np.random.default_rng(0).uniform(0, 255, (3, 128, 128, 1)).astype("float32")
    for _ in range(2):
        own = np.asarray(model.predict_on_batch(batch))
        given = network_function(model, batch_size=4)
        for rows in (3, 2):
            found = given(batch[:rows])
            assert found.dtype == np.float32 and found.shape == (rows, 128, 128, 1)
            np.testing.assert_allclose(found, own[:rows], atol=1e-4 * np.abs(own).max())
        model.set_weights([1.5 * weight for weight in model.get_weights()])
