"""scripts/estimate.py: counted costs of a network, and what they come to on a device."""

import keras
import pytest

from desk import estimates
from salt.config import preset
from scripts import estimate

SMALL = dict(filter_scaling=2, depth=2, padded_size=104, batch_size=4, minutes=10.0, folds=4, train_folds=(0, 1, 2))


def test_products_are_those_counted_by_hand():
    fine, coarse = 104 * 104, 52 * 52
    down = fine * 9 * (1 * 2 + 2 * 2) + coarse * 9 * (2 * 4 + 4 * 4)
    grow = coarse * 9 * 4 * 2  # a transposed convolution meets each pixel that comes in
    up = fine * 9 * (4 * 2 + 2 * 2) + fine * 2 * 1
    assert estimates.network_cost(preset("unet", **SMALL)).products == down + grow + up


def test_an_encoder_inside_of_the_network_is_counted_with_it():
    shared = dict(encoder="vgg16", decoder_filters=(8, 16), padded_size=104, batch_size=4)
    whole = estimates.network_cost(preset("t4", **shared, stem_stride=1))
    vgg = 104 * 104 * 9 * (3 * 64 + 64 * 64) + 52 * 52 * 9 * (64 * 128 + 128 * 128)
    vgg += 26 * 26 * 9 * (128 * 256 + 2 * 256 * 256)
    assert vgg < whole.products < 1.1 * vgg  # the decoder is thin


def test_activations_are_the_numbers_that_all_layers_give_out():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, 2, "same")(inputs)
    model = keras.Model(inputs, keras.layers.ReLU()(x))
    layers = list(estimates.innermost_layers(model))
    assert [estimates.numbers_in(layer.output.shape) for layer in layers] == [4 * 4 * 5, 4 * 4 * 5]
    assert [estimates.layer_products(layer) for layer in layers] == [4 * 4 * 9 * 3 * 5, 0]


def test_a_step_takes_its_operations_and_bytes_at_the_shares_that_are_assumed():
    config = preset("unet", **SMALL)
    device = estimates.Device(operations=1e9, bandwidth=1e9, memory=1e9)
    result = estimates.estimate_run(estimates.Cost(1000, 100, 10), config, device, gpus=1, tiles=400)
    assert result.step == pytest.approx(6 * 4 * 1000 / 0.3e9 + 5 * 4 * 100 * 2 / 0.7e9)
    assert result.memory == 2 * 4 * 100 * 2 + 20 * 10


def test_gpus_share_the_folds_and_a_pass_leaves_out_the_held_out_fold():
    config = preset("unet", **SMALL)
    device, cost = estimates.DEVICES["T4"], estimates.Cost(10**6, 10**5, 10)
    one, two = (estimates.estimate_run(cost, config, device, gpus, tiles=400) for gpus in (1, 2))
    assert two.steps == pytest.approx(1.5 * one.steps, abs=2)  # three folds in two rounds instead of three
    assert one.passes == one.steps * 4 / 300


def test_the_table_says_that_nothing_was_run(capsys):
    assert estimate.main(["unet", "--set", "filter_scaling=2", "depth=2", "minutes=5", "train_folds=[0]"]) == 0
    printed = capsys.readouterr().out
    assert "an estimate by counting, nothing was run" in printed and "5 minutes, 1 fold:" in printed


def test_an_unknown_preset_is_refused_with_those_there_are(capsys):
    assert estimate.main(["t5"]) == 1
    assert "preset 't5' does not exist; there are" in capsys.readouterr().err
