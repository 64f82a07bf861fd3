"""Backbones of keras_hub and keras.applications: their maps, with random weights and few layers. No downloads."""

import dataclasses
import importlib.util
import sys

import keras
import numpy as np
import pytest

from salt.backbones import BACKBONES, build_backbone, preset_folder
from salt.config import BACKBONE_NAMES, ConfigError, preset
from salt.encoders import find_weights, pyramid_outputs
from salt.networks import build_model, encoder_layers
from salt.unet import encoder_unet_model

HAS_HUB = importlib.util.find_spec("keras_hub") is not None
TINY = {
    "resnet18": dict(stackwise_num_filters=[64, 8, 8, 8], stackwise_num_blocks=[1, 1, 1, 1]),
    "efficientnet_b0": dict(stackwise_width_coefficients=[0.25] * 7, stackwise_num_repeats=[1] * 7),
    "mit_b0": dict(hidden_dims=[4, 4, 8, 8], layerwise_num_heads=[1, 1, 2, 2], layerwise_depths=[1, 1, 1, 1]),
    "convnext_tiny": {},
    "dinov2_small": dict(num_layers=4, hidden_dim=8, num_heads=2, intermediate_dim=16),
    "dinov3_small": dict(num_layers=4, hidden_dim=8, num_heads=2, intermediate_dim=16),
}
# As keras_hub's presets say; of EfficientNet-B0 less the head of 1,000 classes, of MiT less its head of 10.
PARAMETERS = {
    "resnet18": 11_186_112,
    "resnet50": 23_561_152,
    "efficientnet_b0": 5_288_548 - 1281 * 1000,
    "mit_b0": 3_321_962 - 257 * 10,
    "dinov2_small": 22_582_656,
    "dinov3_small": 21_600_000,
}


@pytest.fixture
def tiny(monkeypatch):
    """The backbones with few layers and filters."""
    for name, changes in TINY.items():
        backbone = BACKBONES[name]
        monkeypatch.setitem(BACKBONES, name, backbone._replace(settings={**backbone.settings, **changes}))


def needs_hub(name):
    if BACKBONES[name].preset and not HAS_HUB:
        pytest.skip("keras_hub is not installed")


def features_of(name, size=64, channels=1, **arguments):
    tiles = keras.Input((size, size, channels))
    return keras.Model(tiles, pyramid_outputs(tiles, name, **arguments))


def test_the_settings_know_every_backbone():
    assert tuple(BACKBONES) == BACKBONE_NAMES
    with pytest.raises(ConfigError, match="stem_stride=1: must be 2 with encoder='resnet18'"):
        preset("smoke", model="encoder_unet", encoder="resnet18", decoder_filters=[4, 4, 4])


def test_keras_hub_is_imported_only_when_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # as if it were not installed
    with pytest.raises(ImportError, match="encoder='resnet18' needs keras_hub .*: pip install keras-hub"):
        features_of("resnet18")


@pytest.mark.parametrize(
    "name, size, message",
    [
        ("resnet18", 48, "images of 48 x 48: with resnet18 height and width must divide by 32"),
        ("dinov2_small", 104, "images of 104 x 104: with dinov2_small height and width must divide by 16"),
        ("resnet18", None, "images of None x None"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(name, size, message):
    levels = 3 if name == "dinov2_small" else 5
    with pytest.raises(ValueError, match=message):
        features_of(name, size, levels=levels)


def test_a_mounted_model_is_found_by_its_name_and_its_newest_version_is_taken(tmp_path):
    for version in ("2", "10"):
        (tmp_path / "input/resnet/keras/resnet_18_imagenet" / version).mkdir(parents=True)
        (tmp_path / "input/resnet/keras/resnet_18_imagenet" / version / "config.json").write_text("{}")
    found = find_weights("resnet_18_imagenet", [tmp_path / "input"])
    assert found == str(tmp_path / "input/resnet/keras/resnet_18_imagenet")
    assert preset_folder(tmp_path / "input/resnet/keras/resnet_18_imagenet").name == "10"
    assert find_weights("resnet_50_imagenet", [tmp_path]) == "resnet_50_imagenet"  # to be downloaded
    assert find_weights("kaggle://keras/resnet/keras/resnet_50", [tmp_path]) == "kaggle://keras/resnet/keras/resnet_50"
    with pytest.raises(FileNotFoundError, match="none.weights.h5"):
        find_weights("none.weights.h5", [tmp_path])


@pytest.mark.parametrize(
    "name, channels",
    [
        pytest.param(name, channels, marks=[] if (name, channels) == ("resnet18", 1) else pytest.mark.slow)
        for name in TINY
        for channels in (1, 3)
    ],
)
def test_every_backbone_gives_maps_of_half_the_size_each(tiny, name, channels):
    needs_hub(name)
    model = features_of(name, channels=channels)
    assert [output.shape[1:3] for output in model.outputs] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, channels)).astype("float32")
    for found, other in zip(model(tiles), model(tiles[::-1]), strict=True):
        assert np.isfinite(found).all() and not np.allclose(found, other)
    (encoder,) = encoder_layers(model)
    assert encoder.trainable_weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "dinov3_small"])
def test_what_lies_behind_the_last_map_is_left_out(tiny, name):
    needs_hub(name)
    few, all_of_them = (features_of(name, levels=levels) for levels in (3, 5))
    assert [output.shape[1] for output in few.outputs] == [32, 16, 8]
    counts = [encoder_layers(model)[0].count_params() for model in (few, all_of_them)]
    assert counts[0] < counts[1] or name == "dinov3_small"  # a transformer is used to its end


@pytest.mark.slow
def test_a_backbone_gets_what_imagenets_statistics_make_of_the_colours(tiny):
    needs_hub("resnet18")
    model = features_of("resnet18", channels=3)
    tiles = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("float32")
    seen = keras.Model(model.input, model.get_layer("imagenet_scale").output)(tiles)
    np.testing.assert_allclose(seen, (tiles / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_an_architecture_has_the_parameters_of_its_preset(name):
    needs_hub(name)
    network = build_backbone(name, (64, 64), None)
    count = network.count_params()
    if name == "efficientnet_b0":  # counted as in PyTorch, where the statistics of batch norm are no parameters
        count -= sum(weight.shape[0] for weight in network.non_trainable_weights)
    if name == "dinov2_small":  # the preset's images have 37 x 37 patches, these 4 x 4
        count += 384 * (37 * 37 - 4 * 4)
    assert count == PARAMETERS[name] or (name == "dinov3_small" and round(count, -5) == PARAMETERS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mit_b0", "dinov2_small", "dinov3_small"])
def test_weights_come_from_a_folder_a_preset_or_a_file(tiny, name, tmp_path, monkeypatch):
    needs_hub(name)
    source = build_backbone(name, (64, 64), None)
    for weight in source.weights:
        weight.assign(np.random.default_rng(len(weight.path)).uniform(0.1, 0.3, weight.shape))
    source.save_weights(tmp_path / "own.weights.h5")
    source.load_weights(tmp_path / "own.weights.h5")  # DINOv2 has position embeddings of two sizes: now they agree
    source.save_to_preset(str(tmp_path / "preset" / "1"))
    monkeypatch.setitem(BACKBONES, name, BACKBONES[name]._replace(preset=str(tmp_path / "preset" / "1")))
    for weights in (str(tmp_path / "preset"), "imagenet", str(tmp_path / "own.weights.h5")):
        for mine, theirs in zip(build_backbone(name, (64, 64), weights).weights, source.weights, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tiny, tmp_path):
    needs_hub("resnet18")
    build_backbone("resnet18", (64, 64), None).save_to_preset(str(tmp_path / "resnet"))
    with pytest.raises(ValueError, match="no preset of efficientnet_b0"):
        build_backbone("efficientnet_b0", (64, 64), str(tmp_path / "resnet"))
    with pytest.raises(FileNotFoundError, match="none.weights.h5"):
        build_backbone("resnet18", (64, 64), str(tmp_path / "none.weights.h5"))


@pytest.mark.slow
def test_convnext_takes_no_preset(tmp_path):
    with pytest.raises(ValueError, match="convnext_tiny takes 'imagenet', the path of a file .weights.h5, or null"):
        build_backbone("convnext_tiny", (64, 64), "some_preset")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mit_b0", "dinov2_small", "dinov3_small"])
def test_a_unet_of_a_backbone_trains_and_loads_again(tiny, name, tmp_path):
    needs_hub(name)
    size = 128 if name == "mit_b0" else 112
    config = preset(
        "smoke", model="encoder_unet", encoder=name, stem_stride=2, decoder_filters=[4, 4, 4, 4], padded_size=size,
        freeze_layer=0,
    )  # fmt: skip
    model = encoder_unet_model(config, metrics=())
    tiles = np.random.default_rng(0).integers(0, 256, (2, size, size, 1)).astype("uint8")
    before = [np.array(weight) for weight in encoder_layers(model)[0].trainable_weights]
    model.fit(tiles, tiles > 128, verbose=0)
    after = encoder_layers(model)[0].trainable_weights
    assert any((old != np.array(new)).any() for old, new in zip(before, after, strict=True))
    model.save_weights(tmp_path / "fold0.weights.h5")
    again = build_model(dataclasses.replace(config, weights="imagenet"))  # as for prediction: no weights are looked for
    again.load_weights(tmp_path / "fold0.weights.h5")
    np.testing.assert_allclose(again.predict(tiles, verbose=0), model.predict(tiles, verbose=0), atol=1e-5)
