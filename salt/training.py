"""Training: one fold, all folds, and what each of them holds out.

Keras's own `fit` does the work. A thin model around the network pads, augments and crops inside the compiled step, so
that the network itself stays a plain function from tiles to logits; it alone is saved. A run that was killed goes on
from its last epoch and ends with the same weights to the last bit (float32, on a CPU).
"""
import json
import pathlib

import keras
import numpy as np
import pandas as pd
from keras import ops

from salt.artifacts import ArtifactError, Oof, write_oof
from salt.augmentations import augment, crop_at, draw_augmentation, plain_parameters
from salt.config import Config, config_to_dict
from salt.data import Tiles, is_black
from salt.files import whole_file
from salt.folds import assign_folds
from salt.inference import predict_probabilities
from salt.losses import lovasz_weight, segmentation_loss
from salt.metrics import THRESHOLDS_20
from salt.postprocess import empty_black
from salt.unet import build_model, use_jit


class LeaderboardScore(keras.metrics.Metric):
    """The leaderboard metric of logits at probability 0.5; equal to `metrics.leaderboard_score`.

    Args:
        name: name in Keras's logs.
    """

    def __init__(self, name: str = "score", **kwargs):
        super().__init__(name=name, **kwargs)
        # Whole numbers in float32, exact up to 2 ** 24 (1.6 million tiles) and on every device.
        self.passed = self.add_variable((), initializer="zeros", dtype="float32", name="passed")
        self.tiles = self.add_variable((), initializer="zeros", dtype="float32", name="tiles")

    def update_state(self, masks, logits, sample_weight=None):
        """Takes masks `[B, H, W]` of 0 and 1 and logits `[B, H, W]`; every tile weighs the same."""
        truth = ops.cast(masks, "int32")
        proposal = ops.cast(logits >= 0, "int32")  # probability one half is level 128 of 255: salt
        intersection = ops.sum(truth * proposal, axis=(1, 2))
        union = ops.sum(ops.maximum(truth, proposal), axis=(1, 2))
        passed = [ops.logical_or(20 * intersection > twentieths * union, union == 0) for twentieths in THRESHOLDS_20]
        self.passed.assign_add(ops.sum(ops.cast(ops.stack(passed), "float32")))
        self.tiles.assign_add(ops.cast(ops.shape(truth)[0], "float32"))

    def result(self):
        """The mean over the tiles seen so far; 0 before the first."""
        return self.passed / ops.maximum(len(THRESHOLDS_20) * self.tiles, 1.0)


class SegmentationTask(keras.Model):
    """What happens around a network in training: augmentation before it, crop and loss behind it.

    Args:
        network: model from `[B, S, S, 1]` to logits `[B, S, S, 1]`.
        config: the run's settings.
    """

    def __init__(self, network: keras.Model, config: Config):
        super().__init__(name="segmentation_task")
        self.network = network
        self.config = config
        self.seed_generator = keras.random.SeedGenerator(config.seed)
        self.lovasz_weight = self.add_weight(shape=(), initializer="zeros", trainable=False, name="lovasz_weight")
        self.score = LeaderboardScore()

    def call(self, inputs, training=False):
        """Takes uint8 `image` and `mask` `[B, 101, 101]`; returns `logits` and `mask` `[B, 101, 101]` of what they
        show."""
        batch, size = ops.shape(inputs["image"])[0], self.config.padded_size
        if training:
            parameters = draw_augmentation(self.config, batch, self.seed_generator)
        else:
            parameters = plain_parameters(batch, size)
        images, masks = augment(inputs["image"], inputs["mask"], parameters, size, self.config.padding)
        logits = self.network(images[..., None], training=training)[..., 0]
        return {"logits": crop_at(logits, parameters["offset"], inputs["image"].shape[1]), "mask": masks}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean over tiles of the loss on the tile itself, never on its padding."""
        return ops.mean(segmentation_loss(y_pred["logits"], y_pred["mask"], self.lovasz_weight))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Adds the batch to the leaderboard score."""
        self.score.update_state(y_pred["mask"], y_pred["logits"])
        return self.get_metrics_result()


class TileBatches(keras.utils.PyDataset):
    """Batches of uint8 tiles and masks; training order is drawn anew for each epoch, from the seed alone.

    Args:
        images: uint8 `[N, 101, 101]`.
        masks: uint8 `[N, 101, 101]`.
        batch_size: tiles a batch. When shuffling, an incomplete last batch is left out, another one each epoch.
        seed: of the order, or None to keep it.
    """

    def __init__(self, images: np.ndarray, masks: np.ndarray, batch_size: int, seed=None):
        super().__init__(workers=1)
        self.images, self.masks, self.seed = images, masks, seed
        self.batch_size = min(batch_size, len(images))
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        """Draws the order of an epoch."""
        self.order = np.arange(len(self.images))
        if self.seed is not None:
            np.random.default_rng((*self.seed, epoch)).shuffle(self.order)

    def __len__(self):
        count = len(self.images) / self.batch_size
        return int(count if self.seed is not None else np.ceil(count))

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return ({"image": self.images[rows], "mask": self.masks[rows]},)


def begin_epoch(task: SegmentationTask, batches: TileBatches, config: Config, fold: int, epoch: int):
    """Sets all that an epoch draws or switches, from (seed, fold, epoch) alone.

    Keras saves no random state: without this, dropout and augmentation would go on differently after a restart.
    """
    batches.set_epoch(epoch)
    task.lovasz_weight.assign(lovasz_weight(epoch, config.epochs, config.lovasz))
    states = [variable for variable in task.variables if "seed_generator" in variable.path]
    for position, state in enumerate(states):
        drawn = np.random.SeedSequence((config.seed, fold, epoch, position)).generate_state(1)[0]
        state.assign(np.array([drawn >> 1, 0], "uint32"))  # 31 bits fit every backend's seed type


class Checkpoint(keras.callbacks.Callback):
    """Keeps the state after each epoch in a folder, so that `fit` goes on from there after a kill.

    Keras's BackupAndRestore writes weights and epoch number in place, one after the other: a kill in between leaves a
    pair that does not match. Here the weights carry the epoch in their name and appear whole, with their history
    already there.

    Args:
        folder: where the state is kept.
        history: the list that gets one row of logs an epoch; earlier epochs' rows are put back into it.
    """

    def __init__(self, folder, history: list):
        super().__init__()
        self.folder, self.history = pathlib.Path(folder), history

    def weights_path(self, epoch: int) -> pathlib.Path:
        """Where the state after this many epochs is."""
        return self.folder / f"epoch-{epoch:05d}.weights.h5"

    def on_train_begin(self, logs=None):
        saved = sorted(self.folder.glob("epoch-*.weights.h5"))
        if not saved:
            return
        epoch = int(saved[-1].name.removeprefix("epoch-").removesuffix(".weights.h5"))
        self.model.optimizer.build(self.model.trainable_variables)
        self.model.load_weights(saved[-1])
        self.history[:] = json.loads((self.folder / f"epoch-{epoch:05d}.json").read_text(encoding="utf-8"))
        self.model._initial_epoch = epoch  # as Keras's BackupAndRestore does; `fit` has no public way
        print(f"goes on after epoch {epoch} from {saved[-1].name}")

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({name: float(value) for name, value in logs.items()})
        with whole_file(self.folder / f"epoch-{epoch + 1:05d}.json") as temporary:
            temporary.write_text(json.dumps(self.history), encoding="utf-8")
        with whole_file(self.weights_path(epoch + 1)) as temporary:
            self.model.save_weights(temporary)
        self.weights_path(epoch).unlink(missing_ok=True)
        (self.folder / f"epoch-{epoch:05d}.json").unlink(missing_ok=True)


def training_optimizer(config: Config, steps: int) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) with a linear warm-up, one cosine to 0, and a running average of the weights.

    Args:
        config: the run's settings.
        steps: of the whole training.
    """
    warmup = int(config.warmup * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=max(steps - warmup, 1),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    average = dict(use_ema=True, ema_momentum=config.ema_momentum) if config.ema_momentum else {}
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, **average)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def repeat_exactly_on_cpu():
    """Makes TensorFlow's operations on a CPU give the same bits on every run; JAX's do so anyway.

    The one place that names TensorFlow. Its threads add gradients in the order in which they finish, and Adam makes a
    visible difference of a last bit. On a GPU it stays off: some operations would be refused, others be slow.
    """
    if keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu"):
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def batch_norm_layers(model: keras.Model) -> list:
    """The trainable batch-norm layers of a model and of the models inside it."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += batch_norm_layers(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            found.append(layer)
    return found


def reestimate_batch_norm(task: SegmentationTask, batches: TileBatches, most: int = 30):
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


def fit_fold(
    config: Config, images: np.ndarray, masks: np.ndarray, fold: np.ndarray, held_out: int, folder, weights=None
) -> tuple[keras.Model, list[dict]]:
    """Trains a network on all tiles but the black ones and those of one fold.

    Args:
        config: the run's settings.
        images: uint8 `[N, 101, 101]`.
        masks: uint8 `[N, 101, 101]`.
        fold: int8 `[N]`, the fold in which each tile is held out.
        held_out: the fold that is not trained on.
        folder: keeps the state after each epoch; a later call with the same arguments goes on from it.
        weights: of a pre-trained encoder, as for `build_model`.

    Returns:
        The trained network, with averaged weights, and one dict of logs an epoch: `loss`, `score` (of the training
        tiles as augmented), `val_loss` and `val_score` (of the held-out tiles, with averaged weights, without test-time
        augmentation).

    Raises:
        ValueError: no tile is left to train on, or none is held out.
    """
    held = fold == held_out
    trained = ~held & ~is_black(images)
    if not trained.any() or not held.any():
        raise ValueError(
            f"fold {held_out} holds out {held.sum()} of {len(fold)} tiles and leaves {trained.sum()} that are not "
            "black; both must be at least 1"
        )
    repeat_exactly_on_cpu()
    keras.utils.set_random_seed(config.seed + held_out)  # each fold starts from other weights: ensembles gain from it
    task = SegmentationTask(build_model(config, weights), config)
    batches = TileBatches(images[trained], masks[trained], config.batch_size, seed=(config.seed, held_out))
    validation = TileBatches(images[held], masks[held], 2 * config.batch_size)
    task.compile(training_optimizer(config, config.epochs * len(batches)), jit_compile=use_jit())
    task(batches[0][0])  # builds the variables, which the checkpoint fills
    history = []
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: begin_epoch(task, batches, config, held_out, epoch)
        ),
        Checkpoint(folder, history),
    ]
    if config.ema_momentum:
        # Validates with averaged weights and swaps back, so that the checkpoint has both kinds; `fit` itself puts the
        # averaged ones into the model at its end.
        callbacks.insert(0, keras.callbacks.SwapEMAWeights())
    task.fit(
        batches, validation_data=validation, epochs=config.epochs, callbacks=callbacks, shuffle=False, verbose=2
    )
    begin_epoch(task, batches, config, held_out, config.epochs)  # a run killed after its last epoch draws the same
    reestimate_batch_norm(task, batches)
    return task.network, history


def fit_folds(config: Config, tiles: Tiles, folder, state_folder, weights=None) -> tuple[Oof, pd.DataFrame]:
    """Trains the folds that the configuration names and predicts what each of them holds out.

    A call that was killed is repeated with the same arguments: finished folds are taken as they are, the one in work
    goes on from its last epoch.

    Args:
        config: the run's settings.
        tiles: training tiles with masks.
        folder: gets `fold<k>.weights.h5`, `history.csv` and `oof.npz`.
        state_folder: keeps what a restart needs; of no use afterwards.
        weights: of a pre-trained encoder, as for `build_model`.

    Returns:
        The out-of-fold predictions and the history: one row an epoch and fold.

    Raises:
        ArtifactError: `state_folder` is another run's, with other settings or tiles.
    """
    folder, state_folder = pathlib.Path(folder), pathlib.Path(state_folder)
    claim_state(state_folder, config, tiles)
    fold = assign_folds(tiles.images, tiles.masks, config.folds, config.seed)
    probabilities = np.zeros_like(tiles.images)
    rows = []
    for held_out in config.train_folds:
        path, log = folder / f"fold{held_out}.weights.h5", state_folder / f"fold{held_out}.json"
        if path.is_file() and log.is_file():
            print(f"fold {held_out}: finished before")
            network = build_model(config)
            network.load_weights(path)
            history = json.loads(log.read_text(encoding="utf-8"))
        else:
            print(f"fold {held_out}: {int((fold != held_out).sum())} tiles, {int((fold == held_out).sum())} held out")
            network, history = fit_fold(
                config, tiles.images, tiles.masks, fold, held_out, state_folder / f"fold{held_out}", weights
            )
            with whole_file(log) as temporary:
                temporary.write_text(json.dumps(history), encoding="utf-8")
            with whole_file(path) as temporary:
                network.save_weights(temporary)
        rows += [{"fold": held_out, "epoch": epoch, **logs} for epoch, logs in enumerate(history, start=1)]
        images = tiles.images[fold == held_out]
        predicted = predict_probabilities([network], images, config.tta, config.padded_size, config.padding)
        probabilities[fold == held_out] = empty_black(predicted, images)
    history = pd.DataFrame(rows)
    with whole_file(folder / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    seen = np.isin(fold, config.train_folds)
    oof = Oof(tiles.ids[seen], fold[seen], probabilities[seen], tiles.masks[seen])
    write_oof(folder / "oof.npz", oof)
    return oof, history


def claim_state(state_folder: pathlib.Path, config: Config, tiles: Tiles):
    """Writes into a state folder whose it is, or raises `ArtifactError` if it is another run's."""
    owner = {"config": config_to_dict(config), "tiles": len(tiles.ids), "pixels": int(tiles.images.sum(dtype=np.int64))}
    path = state_folder / "run.json"
    if not path.is_file():
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(owner), encoding="utf-8")
    elif (found := json.loads(path.read_text(encoding="utf-8"))) != owner:
        other = [key for key in owner["config"] if found["config"].get(key) != owner["config"][key]] or ["the tiles"]
        raise ArtifactError(
            f"{state_folder} belongs to a run that differs in {', '.join(other)}; remove it or choose another folder"
        )
