import json

import pytest

from salt.config import PRESETS, Config, ConfigError, config_from_dict, config_to_dict, preset, settle_precision


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_config(name):
    assert isinstance(preset(name), Config)


def test_a_change_wins_over_the_preset():
    assert preset("smoke").epochs == 2
    assert preset("smoke", epochs=7).epochs == 7


def test_a_config_survives_json():
    config = preset("demo", train_folds=(1, 3), weights="vgg16.weights.h5")
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="preset 'best' does not exist; there are smoke, demo"):
        preset("best")


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(ConfigError, match="setting 'epoch' does not exist; there are .*epochs"):
        preset("unet", epoch=3)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("epochs", "20", "epochs='20': must be int, not str"),
        ("epochs", 2.0, "epochs=2.0: must be int, not float"),
        ("epochs", True, "epochs=True: must be int, not bool"),
        ("flip", 1, "flip=1: must be bool, not int"),
        ("train_folds", 0, "train_folds=0: must be"),
        ("train_folds", [0.5], "must be"),
        ("weights", 3, r"weights=3: must be str \| None"),
    ],
)
def test_a_wrong_type_is_refused_with_the_right_one(key, value, message):
    with pytest.raises(ConfigError, match=message):
        preset("unet", **{key: value})


def test_whole_numbers_are_taken_where_a_float_is_meant():
    value = preset("unet", rotation=5).rotation
    assert value == 5.0 and type(value) is float


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 0}, "epochs=0: must lie between 1 and 10000"),
        ({"model": "resnet"}, "model='resnet': must be one of 'unet', 'transfer_unet', 'encoder_unet'"),
        ({"snapshots": 4, "lovasz": 1.0, "warmup": 0.3}, "warmup=0.3: must be below 0.25, where the first of the snap"),
        ({"padded_size": 8}, "padded_size=8: must lie between 16"),
        ({"minutes": 800}, "minutes=800.0: must be at most limit_minutes=690.0; raise both"),
        ({"padded_size": 120}, "padded_size=120: must divide by 16"),
        ({"model": "encoder_unet", "padded_size": 108}, "must divide by 8, the stride of 'encoder_unet'"),
        ({"encoder": "vgg19"}, "encoder='vgg19': must be one of 'residual', 'vgg16'"),
        ({"stem_stride": 3}, "stem_stride=3: must be one of 1, 2"),
        ({"model": "encoder_unet", "stem_stride": 2}, "stem_stride=2: must be 1, the stride of VGG-16"),
        ({"model": "encoder_unet", "decoder_filters": []}, "must have 1 to 4 numbers"),
        ({"model": "encoder_unet", "decoder_filters": [8] * 5}, "with stem_stride=1 must have 1 to 4 numbers"),
        ({"model": "encoder_unet", "decoder_filters": [8, 0]}, "each at least 1"),
        (
            {"model": "encoder_unet", "encoder": "efflite0", "stem_stride": 2, "decoder_filters": [8]},
            "with stem_stride=2 must have 2 to 5 numbers",
        ),
        ({"train_folds": []}, "name at least one fold"),
        ({"train_folds": [0, 0]}, "each of them once"),
        ({"train_folds": [5]}, "with folds=5 they are 0 to 4"),
        ({"level": 256}, "level=256: must lie between 0 and 255"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_limit(changes, message):
    with pytest.raises(ConfigError, match=message):
        preset("unet", **changes)


@pytest.mark.parametrize("change", [{"epochs": 3}, {"steps": 70}, {"minutes": 30}])
def test_a_length_of_training_that_is_asked_for_replaces_the_presets_own(change):
    config = preset("cpu", **change)
    counts = next(name for name in ("steps", "minutes", "epochs") if getattr(config, name))  # as in training
    assert {counts: getattr(config, counts)} == change


def test_a_preset_keeps_its_length_of_training_when_something_else_is_changed():
    assert preset("cpu", batch_size=8).minutes == 60


@pytest.mark.parametrize(
    ("name", "flags", "precision"),
    [
        ("transfer_unet", "avx512_bf16", "mixed_bfloat16"),
        ("unet", "amx_bf16", "mixed_bfloat16"),
        ("scratch", "amx_bf16", "mixed_bfloat16"),
        ("cpu", "amx_bf16", "float32"),  # depthwise convolutions
        ("transfer_unet", "avx512f", "float32"),
    ],
)
def test_the_precision_auto_is_what_the_network_and_the_processor_are_fast_with(tmp_path, name, flags, precision):
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
    config = preset(name, precision="auto")
    assert settle_precision(config, str(tmp_path / "cpuinfo")) == preset(name, precision=precision)


def test_a_precision_with_a_name_stays(tmp_path):
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu amx_bf16\n")
    for precision in ("float32", "mixed_float16", "mixed_bfloat16"):
        config = preset("transfer_unet", precision=precision)
        assert settle_precision(config, str(tmp_path / "cpuinfo")) is config
