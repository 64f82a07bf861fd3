"""Measures the package's code against the plain way of writing it, both in this one run.

    python scripts/benchmark.py [--masks 18000] [--tiles 4000] [--synthetic 40] [--preset cpu] [--batch 24]
        [--repeats 5]

Prints one table: medians of several repeats, and the ratio per mask or tile. The plain versions are what one finds in
most notebooks: one mask at a time, one threshold at a time, Keras's own batch norm. They are checked to give the same
results before they are timed. Where they are slow they get fewer items; the ratio is per item. Times depend on the
machine and on what else it does.
"""

import argparse
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Time salt's code against the plain way.")
    parser.add_argument("--masks", type=int, default=18_000, help="masks to encode and decode (default: %(default)s)")
    parser.add_argument("--tiles", type=int, default=4_000, help="tiles of the threshold sweep (default: %(default)s)")
    parser.add_argument("--synthetic", type=int, default=40, help="synthetic tiles to draw (default: %(default)s)")
    parser.add_argument("--preset", default="cpu", help="whose network is trained (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=24, help="tiles of a training step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each; the median counts (default: %(default)s)")
    arguments = parser.parse_args(argv)

    import numpy as np

    from salt.metrics import threshold_sweep
    from salt.rle import decode_rles, encode_rles
    from salt.synthetic import synthetic_tile

    masks = wavy_masks(max(arguments.masks, arguments.tiles))
    rles = encode_rles(masks)
    runs = sum(rle.count(" ") + 1 for rle in rles if rle) / 2 / len(rles)
    noise = np.random.default_rng(1).normal(60, 40, masks[: arguments.tiles].shape)
    probabilities = np.clip(noise + 130 * masks[: arguments.tiles], 0, 255).astype(np.uint8)
    few = max(1, arguments.tiles // 20)  # a loop of 255 levels over all tiles takes half a minute a repeat

    some = slice(0, min(500, len(masks)))
    assert [plain_encode(mask) for mask in masks[some]] == rles[some]
    assert np.array_equal(np.stack([plain_decode(rle) for rle in rles[some]]), decode_rles(rles[some]))
    assert np.allclose(plain_sweep(probabilities[:few], masks[:few]), threshold_sweep(probabilities[:few], masks[:few]))

    step, plain_step = training_steps(arguments.preset, arguments.batch)
    loss, plain_loss = step(), plain_step()  # compiles, too
    assert np.isclose(loss, plain_loss, rtol=1e-3), (loss, plain_loss)

    masks_, rles_, tiles_ = masks[: arguments.masks], rles[: arguments.masks], masks[: arguments.tiles]
    measured = [
        (
            "encode RLE",
            (len(masks_), lambda: encode_rles(masks_)),
            (len(masks_), lambda: [plain_encode(mask) for mask in masks_]),
        ),
        (
            "decode RLE",
            (len(rles_), lambda: decode_rles(rles_)),
            (len(rles_), lambda: np.stack([plain_decode(rle) for rle in rles_])),
        ),
        (
            "sweep 255 levels",
            (len(tiles_), lambda: threshold_sweep(probabilities, tiles_)),
            (few, lambda: plain_sweep(probabilities[:few], tiles_[:few])),
        ),
        (
            "draw synthetic tile",
            (arguments.synthetic, lambda: [synthetic_tile(0, index) for index in range(arguments.synthetic)]),
            None,
        ),
        (f"training step of {arguments.preset}", (arguments.batch, step), (arguments.batch, plain_step)),
    ]
    empty = np.mean(~masks.any(axis=(1, 2)))
    print(f"masks: {masks.mean():.1%} salt, {empty:.0%} empty, {runs:.0f} runs each; medians of {arguments.repeats}")
    print(f"{'':<22} {'salt: items':>12} {'seconds':>9} {'ms/item':>9} {'plain: items':>13} {'seconds':>9}   ratio")
    for name, ours, plain in measured:
        items, seconds = ours[0], median_time(ours[1], arguments.repeats)
        line = f"{name:<22} {items:>12,} {seconds:>9.3f} {1000 * seconds / items:>9.4f}"
        if plain:
            plain_seconds = median_time(plain[1], arguments.repeats)
            ratio = plain_seconds / plain[0] / (seconds / items)
            line += f" {plain[0]:>13,} {plain_seconds:>9.3f} {ratio:>6.1f}x"
        print(line, flush=True)
    return 0


def median_time(function, repeats: int) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def wavy_masks(count: int):
    """Masks with about TGS's spread: 39 % empty, the others salt below a wavy horizon; uint8 `[count, 101, 101]`."""
    import numpy as np

    generator = np.random.default_rng(0)
    x, row = np.arange(101), np.arange(101)[:, None]
    masks = np.zeros((count, 101, 101), np.uint8)
    for index in np.flatnonzero(generator.random(count) > 0.39):
        top, slope, height, phase = generator.uniform([18, -5, 0, 0], [101, 5, 25, 6.3])
        masks[index] = row > top + slope * (x - 50) + height * np.sin(x / 13 + phase)
    return masks


def training_steps(name: str, batch: int):
    """Two functions that make a step of the network of a preset, with salt's batch norm and with Keras's.

    Each returns its loss. Augmentation and Lovasz are not in it.
    """
    import keras
    import numpy as np

    from salt.config import preset
    from salt.unet import build_model, compile_with_cross_entropy

    def plain(layer):
        kind = keras.layers.BatchNormalization if isinstance(layer, keras.layers.BatchNormalization) else type(layer)
        return kind.from_config(layer.get_config())

    config = preset(name, weights=None)
    model = build_model(config)
    plain_model = keras.models.clone_model(model, clone_function=plain, recursive=True)
    plain_model.set_weights(model.get_weights())
    tiles = np.random.default_rng(0).uniform(0, 255, (batch, *model.input_shape[1:])).astype("float32")
    masks = (tiles > 128).astype("float32")
    models = (model, compile_with_cross_entropy(plain_model, "adam"))
    for each in models:
        each.optimizer.build(each.trainable_variables)  # in the first step it would take seconds
    return [lambda model=model: float(model.train_on_batch(tiles, masks)) for model in models]


def plain_encode(mask) -> str:
    """The encoder of most notebooks, one mask at a time."""
    import numpy as np

    pixels = np.concatenate([[0], mask.T.ravel(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(number) for number in runs)


def plain_decode(rle: str):
    """The decoder of most notebooks, one mask at a time, without any check."""
    import numpy as np

    mask = np.zeros(101 * 101, np.uint8)
    numbers = np.array(rle.split(), int)
    for start, length in zip(numbers[::2] - 1, numbers[1::2], strict=True):
        mask[start : start + length] = 1
    return mask.reshape(101, 101).T


def plain_sweep(probabilities, masks):
    """Average precision at every level, one level after the other."""
    import numpy as np

    truth = masks.sum(axis=(1, 2), dtype=np.int64)
    columns = []
    for level in range(1, 256):
        proposal = probabilities >= level
        intersection = (proposal & (masks == 1)).sum(axis=(1, 2))
        union = truth + proposal.sum(axis=(1, 2)) - intersection
        passed = sum(20 * intersection > k * union for k in range(10, 20)) / 10
        columns.append(np.where(union == 0, 1.0, passed))
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    sys.exit(main())
