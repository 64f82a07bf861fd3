"""The compiled training step: augmentation, network, crop, losses and metric.

A thin model around the network pads, augments and crops inside the step that Keras's `fit` compiles, so that the
network itself stays a plain function from tiles to logits; it alone is saved.
"""

import functools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from keras import ops

from salt.augmentations import (
    augment,
    crop_at,
    draw_augmentation,
    draw_boxes,
    mix_tiles,
    plain_parameters,
    with_channels,
)
from salt.config import LIMITS, Config
from salt.layers import Tensor
from salt.losses import deep_loss, empty_loss, segmentation_loss
from salt.machine import tensorflow_on_cpu
from salt.metrics import Metric
from salt.running_score import MetricScore
from salt.schedule import TrainingPlan, lovasz_step, plan_of_epochs
from salt.stacks import STACK_THREADS, Stack, differ_in_size, join_stacks
from salt.tiles import pad_images, tile_side

BATCH_NORM_BATCHES = 30  # from which batch norm's statistics are re-estimated after the last step


class SegmentationTask(keras.Model):
    """A network in training: augmentation before it, crop and losses after it.

    Args:
        network: model from `[B, S, S, channels]` to logits `[B, S, S, classes]`, or to a dict of them, see
            `encoder_unet_model`.
        config: the run's settings.
        metric: the competition's.
    """

    def __init__(self, network: keras.Model, config: Config, metric: Metric):
        super().__init__(name="segmentation_task")
        self.network = network
        self.config = config
        self.seed_generator = keras.random.SeedGenerator(config.seed)
        if config.cutmix:
            self.box_seed_generator = keras.random.SeedGenerator(config.seed)
        # Whole numbers in float32, since TensorFlow would keep integer variables on the CPU; without autocast, since
        # mixed precision would make bfloat16 of them inside `call`, which cannot count beyond 256.
        counter = dict(shape=(), initializer="zeros", trainable=False, autocast=False)
        self.step = self.add_weight(name="step", **counter)
        self.lovasz_step = self.add_weight(name="lovasz_step", **counter)
        self.score = MetricScore(metric)

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """Takes uint8 `image` `[B, n, n]` or `[B, n, n, 3]` and `mask` `[B, n, n]` or `[B, n, n, C]`, with
        `padding="neighbours"` both with their surroundings; returns `logits` and `mask` of the tiles themselves, of
        what they show, and, if the network has more heads, their logits as `heads` and the mask with its padding as
        `padded`."""
        batch, size = ops.shape(inputs["image"])[0], self.config.padded_size
        tile = tile_side(inputs["image"].shape[1], size, self.config.padding)
        if training:
            parameters = draw_augmentation(self.config, batch, self.seed_generator, tile)
            self.step.assign_add(1.0)
        else:
            parameters = plain_parameters(batch, size, tile)
        images, padded = fused_augment(size, self.config.padding)(inputs["image"], inputs["mask"], parameters)
        if training and self.config.cutmix:
            boxes = draw_boxes(self.config.cutmix, batch, size, self.box_seed_generator)
            images, padded = mix_tiles(images, padded, boxes)
        outputs = self.network(with_channels(images), training=training)
        heads = dict(outputs) if isinstance(outputs, dict) else {"logits": outputs}
        logits = heads.pop("logits")
        logits = logits[..., 0] if len(padded.shape) == 3 else logits
        result = {
            "logits": crop_at(logits, parameters["offset"], tile),
            "mask": crop_at(padded, parameters["offset"], tile),
        }
        return {**result, "heads": heads, "padded": padded} if heads else result

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """The mean over tiles of the loss on the tile itself, never on its padding, and of the other heads' losses."""
        # `step` counts the steps begun, so that validation has the same loss as the last training step.
        lovasz = ops.cast(ops.convert_to_tensor(self.step) > self.lovasz_step, "float32")
        masks = by_class(y_pred["mask"])
        losses = segmentation_loss(by_class(y_pred["logits"]), masks, lovasz)
        heads = y_pred.get("heads", {})
        names = sorted(name for name in heads if name.startswith("deep"))
        deep = [deep_loss(by_class(heads[name]), by_class(y_pred["padded"])) for name in names]
        if deep:
            losses = losses + self.config.deep_weight * sum(deep) / len(deep)
        if "empty" in heads:
            losses = losses + self.config.empty_weight * empty_loss(ops.reshape(heads["empty"], (-1, 1)), masks)
        return ops.mean(losses)

    def compute_metrics(self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> dict:
        """Adds the batch to the score."""
        self.score.update_state(by_class(y_pred["mask"]), by_class(y_pred["logits"]))
        return self.get_metrics_result()


@functools.lru_cache(maxsize=8)
def fused_augment(size: int, mode: str) -> Callable:
    """`augment` to a square of this size as one program: on a CPU TensorFlow's XLA makes it of the whole warp.

    That takes a quarter of the time of one operation after the other. Other backends and devices fuse it by themselves,
    or it costs them nothing.
    """

    def whole(images: Tensor, masks: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return augment(images, masks, parameters, size, mode)

    if not tensorflow_on_cpu():
        return whole
    import tensorflow as tf

    return tf.function(whole, jit_compile=True)


def by_class(maps: Tensor) -> Tensor:
    """Maps `[B, H, W, C]` as `[B * C, H, W]`, so that each class of a tile counts by itself; `[B, H, W]` as it is."""
    if len(maps.shape) == 3:
        return maps
    return ops.reshape(ops.transpose(maps, (0, 3, 1, 2)), (-1, *maps.shape[1:3]))


class TileBatches(keras.utils.PyDataset):
    """Batches of uint8 tiles and masks; training order is drawn anew for each epoch, from the seed alone.

    Args:
        images: uint8 `[N, H, W]` or `[N, H, W, 3]`, or a `Stack` of them.
        masks: uint8 `[N, H, W]` or `[N, H, W, C]`, or a `Stack` of them.
        batch_size: tiles a batch. When shuffling, a pass leaves out the tiles that fill no whole batch, other ones each
            time.
        seed: of the order, or None to keep it.
        passes: how often an epoch goes through the tiles.
        pseudo: None, or images and masks of further tiles that fill `pseudo_share` of each batch.
        pseudo_share: share of each batch, from 0 to 1.
        transform: None, or a function of albumentations' kind, called for each tile as `transform(image=..., mask=...)`
            with uint8 `[H, W]`; the dict that it returns has both again, the image as uint8 or float of 0 to 255.
            One with `set_random_seed` gets a seed for each batch, so that a training can be repeated and resumed.
        window: None, or the side of a square: of images that are larger, a square is cut out at random, every other
            one around a pixel of the mask, if it has any. In a fixed order (no seed) it is the same square each time.
            Of images that differ in size, those that are smaller are mirrored at their borders first.
    """

    def __init__(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        batch_size: int,
        seed: tuple[int, ...] | None = None,
        passes: int = 1,
        pseudo: tuple[np.ndarray, np.ndarray] | None = None,
        pseudo_share: float = 0.0,
        transform: Callable[..., dict] | None = None,
        window: int | None = None,
    ):
        # With one worker Keras makes a tf.data pipeline, whose autotuning held up the end of many epochs: trainings on
        # a CPU stood still for 3 to 11 % of their time. With two it makes a queue.
        super().__init__(workers=2)
        self.images, self.masks, self.seed, self.passes = images, masks, seed, passes
        self.transform, self.epoch, self.lock = transform, 0, threading.Lock()
        self.window = None if images.shape[1:3] == (window, window) and not differ_in_size(images) else window
        self.tiles, self.batch_size, self.pseudo_rows = len(images), min(batch_size, len(images)), 0
        if pseudo is not None:
            self.images, self.masks = join_stacks(images, pseudo[0]), join_stacks(masks, pseudo[1])
            self.pseudo_rows = min(round(pseudo_share * self.batch_size), self.batch_size - 1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws the order of an epoch."""
        self.epoch = epoch
        if self.seed is None:
            self.order = np.arange(self.tiles)
            return
        generator = np.random.default_rng((*self.seed, epoch))
        self.order = np.concatenate([self.draw_pass(generator) for _ in range(self.passes)])

    def draw_pass(self, generator: np.random.Generator) -> np.ndarray:
        """The order of one pass: whole batches, the pseudo-labelled tiles at the end of each."""
        labelled_rows = self.batch_size - self.pseudo_rows
        count = self.tiles // labelled_rows
        labelled = generator.permutation(self.tiles)[: count * labelled_rows]
        if not self.pseudo_rows:
            return labelled
        # Repeated as needed, so that each pseudo-labelled tile comes as often as any other, to within one.
        pseudo = np.resize(self.tiles + generator.permutation(len(self.images) - self.tiles), count * self.pseudo_rows)
        return np.concatenate([labelled.reshape(count, -1), pseudo.reshape(count, -1)], axis=1).ravel()

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        if self.window is None:
            batch = {"image": self.images[rows], "mask": self.masks[rows]}
        else:
            batch = self.cut_windows(rows, index, self.window)
        return (batch if self.transform is None else self.transformed(batch, index),)

    def cut_windows(self, rows: np.ndarray, index: int, side: int) -> dict[str, np.ndarray]:
        """A square of `side` pixels out of each tile of a batch; `index` is the batch's, `rows` are its tiles.

        Only as many whole images as there are threads are in memory.
        """

        def cut(place: int) -> tuple[np.ndarray, np.ndarray]:
            row = int(rows[place])
            seed = (row,) if self.seed is None else (*self.seed, self.epoch, index, place)
            mask = mirrored_tile(self.masks[row], side)
            top, left = window_corner(mask, side, np.random.default_rng(seed))
            image = mirrored_tile(self.images[row], side)
            image, mask = (tile[top : top + side, left : left + side] for tile in (image, mask))
            return image.copy(), mask.copy()  # a view would keep all of the image

        if isinstance(self.images, Stack):  # reading and decoding take long, and release the interpreter lock
            with ThreadPoolExecutor(STACK_THREADS) as pool:
                pairs = list(pool.map(cut, range(len(rows))))
        else:
            pairs = [cut(place) for place in range(len(rows))]
        images, masks = zip(*pairs, strict=True)
        return {"image": np.stack(images), "mask": np.stack(masks)}

    def transformed(self, batch: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        """A batch, each tile of which has gone through the transform.

        Raises:
            TransformError: an image or a mask of another size, or a mask of other values than 0 and 1.
        """
        assert self.transform is not None
        with self.lock:  # batches are made in several threads, and a transform has one source of random numbers
            if hasattr(self.transform, "set_random_seed"):
                drawn = np.random.SeedSequence((*(self.seed or ()), self.epoch, index)).generate_state(1)[0]
                self.transform.set_random_seed(int(drawn >> 1))
            pairs = zip(batch["image"], batch["mask"], strict=True)
            results = [self.transform(image=image, mask=mask) for image, mask in pairs]
        for name in ("image", "mask"):
            wanted = batch[name].shape[1:]
            found = {np.shape(result[name]) for result in results}
            if found != {wanted}:
                raise TransformError(
                    f"the transform makes {name}s of shape {', '.join(map(str, found - {wanted}))} from {wanted}; "
                    "it must keep the size"
                )
        changed = {name: np.stack([result[name] for result in results]) for name in ("image", "mask")}
        if not np.isin(changed["mask"], (0, 1)).all():
            raise TransformError("the transform makes masks with other values than 0 and 1; do not interpolate masks")
        return changed


def mirrored_tile(tile: np.ndarray, side: int) -> np.ndarray:
    """An image or a mask `[H, W]` or `[H, W, C]`, mirrored at its borders where it has less than `side` pixels."""
    height, width = (max(length, side) for length in tile.shape[:2])
    return tile if (height, width) == tile.shape[:2] else pad_images(tile[None], (height, width))[0]


def window_corner(mask: np.ndarray, side: int, generator: np.random.Generator) -> tuple[int, int]:
    """Row and column of a square's corner: half of them anywhere, half around a pixel of the mask, if it has any."""
    rooms = [length - side for length in mask.shape[:2]]
    if generator.random() < 0.5 and mask.any():
        marked = np.argwhere(mask.reshape(*mask.shape[:2], -1).any(axis=2))
        pixel = marked[generator.integers(len(marked))]
        row, column = (
            int(np.clip(at - generator.integers(side), 0, room)) for at, room in zip(pixel, rooms, strict=True)
        )
    else:
        row, column = (int(generator.integers(0, room + 1)) for room in rooms)
    return row, column


class TransformError(ValueError):
    """A transform of tiles whose results cannot be trained on."""


class DivergedError(ValueError):
    """A training whose loss is no finite number any more; the same steps would lead there again."""


class DivergenceGuard(keras.callbacks.Callback):
    """Ends `fit` by an error at the first loss that is not finite; it comes before the checkpoint in the list.

    Losses are looked at where Keras looks at what a step gave: on TensorFlow in a thread, so that no step waits for the
    device. By the time that a loss is seen, a few more steps may have run; none of them is kept.

    Args:
        fold: that is held out.
        history: the logs of the epochs that have a checkpoint; it grows with them.
        peak: the run's learning rate.
    """

    async_safe = True  # for Keras: `on_train_batch_end` may be called from a thread

    def __init__(self, fold: int, history: list[dict], peak: float):
        super().__init__()
        self.fold, self.history, self.peak = fold, history, peak
        self.found: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.refuse(self.found)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            self.found = loss

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.refuse(self.found)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # The last step may have spoilt the weights after its loss was computed: validation shows that.
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.refuse(self.found)
        self.refuse(next((value for value in values.values() if not math.isfinite(value)), None))

    def refuse(self, found: float | None) -> None:
        """Raises `DivergedError` if a loss or a score is given, which is not finite."""
        if found is None:
            return
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        kept = len(self.history)
        last = f"the checkpoint after epoch {kept} is kept, from which a repetition resumes" if kept else "none is kept"
        raise DivergedError(
            f"fold {self.fold} diverged in epoch {self.epoch + 1}: its loss became {found} at a learning rate of "
            f"{rate:.3g}; {last}. If it diverges there again, begin a new run with a lower learning_rate than "
            f"{self.peak:g}, a longer warmup, or precision=float32"
        )


def weights_seed(seed: int, held_out: int) -> int:
    """The seed of a fold's initial weights: each fold of each seed has its own, since ensembles gain from that.

    Up to a seed of 85 million no two pairs share one; beyond that the 32 bits of a seed do not suffice.
    """
    return (int(LIMITS["folds"][1]) * seed + held_out) % 2**32


def begin_epoch(
    task: SegmentationTask,
    batches: TileBatches,
    config: Config,
    fold: int,
    epoch: int,
    plan: TrainingPlan | None = None,
) -> None:
    """Sets all random states, the step and the loss of an epoch from (seed, fold, epoch) and the plan alone.

    Keras saves no random state: without this, a resumed training would have other dropout and augmentation.

    Args:
        task: the model around the network.
        batches: of the training tiles.
        config: the run's settings.
        fold: that is held out.
        epoch: from 0.
        plan: of the training; None: that of `config.epochs`.
    """
    batches.set_epoch(epoch)
    step = epoch * len(batches)
    segment = (plan or plan_of_epochs(config.epochs, len(batches))).segment(step)
    task.step.assign(step)
    task.lovasz_step.assign(lovasz_step(segment, config.lovasz))
    states = [variable for variable in task.variables if "seed_generator" in variable.path]
    for position, state in enumerate(states):
        drawn = np.random.SeedSequence((config.seed, fold, epoch, position)).generate_state(1)[0]
        state.assign(np.array([drawn >> 1, 0], "uint32"))  # 31 bits fit every backend's seed type


def repeat_exactly_on_cpu() -> None:
    """Makes TensorFlow's operations on a CPU give the same bits on every run; JAX's do so anyway.

    TensorFlow's threads add gradients in the order in which they finish, and Adam turns a difference in the last bit
    into a visible one. On a GPU it stays off: some operations have no deterministic form, others are slow in it.
    """
    if tensorflow_on_cpu():
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def batch_norm_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The trainable batch-norm layers of a model and of the models inside it."""
    found: list[keras.layers.BatchNormalization] = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += batch_norm_layers(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            found.append(layer)
    return found


def reestimate_batch_norm(task: SegmentationTask, batches: TileBatches, most: int = BATCH_NORM_BATCHES) -> None:
    """Replaces running batch-norm statistics by their mean over training batches, with the weights as they are now.

    Averaged weights were never run before, so the statistics of the last step's weights do not belong to them (Izmailov
    et al. 2018, section 3.2); and a momentum of .6 remembers three batches. With momentum k / (k + 1) at batch k the
    running value is the plain mean of batches 0 to k.

    Args:
        task: the model around the network.
        batches: augmented training tiles.
        most: how many batches to use at most.
    """
    layers = batch_norm_layers(task.network)
    momenta = [layer.momentum for layer in layers]
    for index in range(min(most, len(batches))):
        for layer in layers:
            layer.momentum = index / (index + 1)
        task(batches[index][0], training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
