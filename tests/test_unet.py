import pathlib
import re

import keras
import numpy as np
import pytest

from salt.config import preset
from salt.unet import build_model, transfer_unet_model, unet_model


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
    model = unet_model(4, 2, batch_norm_momentum=0.5, optimizer="sgd", input_shape=(16, 16, 1))
    tiles = grey_tiles(8, 16)
    losses = model.fit(tiles, tiles > 128, epochs=8, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    logits = model.predict(tiles, verbose=0)
    cross_entropy = np.logaddexp(0, np.where(tiles > 128, -logits, logits)).mean()
    assert model.evaluate(tiles, tiles > 128, verbose=0) == pytest.approx(cross_entropy, rel=1e-4)


def test_frozen_layers_keep_their_weights_in_training():
    model = transfer_unet_model(weights=None, input_shape=(32, 32, 1))
    before = {weight.path: np.array(weight) for weight in model.get_layer("vgg16").weights}
    model.train_on_batch(grey_tiles(2, 32), grey_tiles(2, 32) > 128)
    for weight in model.get_layer("vgg16").weights:
        moved = not np.array_equal(before[weight.path], weight)
        assert moved == (weight.path[:6] in ("block4", "block5")), weight.path


@pytest.mark.parametrize("shape", [(100, 128, 1), (128, 100, 1), (8, 8, 1), (128, 128, 3), (128, 128)])
def test_an_input_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"input_shape={shape}")):
        unet_model(input_shape=shape)
    with pytest.raises(ValueError, match="input_shape="):
        transfer_unet_model(weights=None, input_shape=shape)


def test_build_model_follows_the_configuration():
    model = build_model(preset("smoke", batch_norm_momentum=0.8, dropout=0.1))
    assert model.name == "unet" and model.input_shape == (None, 104, 104, 1)
    assert model.get_layer("down0_conv1").filters == 4 and model.get_layer("down0_norm1").momentum == 0.8
    assert model.get_layer("up0_dropout").rate == 0.1
    transfer = build_model(preset("transfer_unet", freeze_layer=15))
    assert transfer.name == "transfer_unet" and transfer.input_shape == (None, 112, 112, 1)
    assert len(transfer.get_layer("vgg16").trainable_weights) == 6


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Use the U-Nets in your own project")[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["probabilities"].shape == names["tiles"].shape
    assert names["probabilities"].min() >= 0 and names["probabilities"].max() <= 1
