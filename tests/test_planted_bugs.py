"""The tests can fail: each bug planted here, one at a time in a copy of the repository, must turn its tests red.

A test file mirrors a source file, so the mirror of the file with the bug has to catch it. Only the test that runs the
others is slow. That every bug still fits the source is checked in every run, so that a change of the source which moves
a bug's place is noticed by whoever makes it.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPIED = ("salt", "desk", "flattener", "tests", "kernels", "scripts", "build_kernel.py", "pyproject.toml")
COPIED += ("requirements.txt", "README.md", "SKILL.md")
TIME_LIMIT = 600  # seconds for one run of pytest


class Bug(NamedTuple):
    """A change of the source that the tests must notice.

    Attributes:
        file: path of the source file.
        old: text that occurs there exactly `times` times.
        new: what stands there instead.
        select: pytest's `-k` expression; empty for the whole test file.
        times: how often the text occurs; each is replaced.
        test_file: that must catch it; empty: the one that mirrors `file`.
        slow: whether the tests that catch it are slow ones.
    """

    file: str
    old: str
    new: str
    select: str = ""
    times: int = 1
    test_file: str = ""
    slow: bool = False

    @property
    def tests(self) -> str:
        """The test file that must catch it; the flattener has one for all of its modules."""
        path = pathlib.PurePosixPath(self.file)
        mirror = f"tests/test_{'build_kernel' if path.parent.name == 'flattener' else path.stem}.py"
        return self.test_file or TESTS.get(self.file, mirror)


TESTS = {  # of modules that are tested through the verb that they serve, or in a folder of their own
    "desk/kaggle/transport.py": "tests/desk/test_transport.py",
    "desk/kaggle/kernels.py": "tests/desk/test_transport.py",
    "desk/runs.py": "tests/desk/test_transport.py",
    "desk/pages/html.py": "tests/desk/test_html.py",
    "salt/networks.py": "tests/test_unet.py",
    "desk/metadata.py": "tests/test_push.py",
    "desk/pushing.py": "tests/test_push.py",
    "desk/sending.py": "tests/test_push.py",
    "desk/planning.py": "tests/test_push_resume.py",
    "desk/remote_output.py": "tests/test_fetch.py",
    "desk/joining.py": "tests/test_fan_out.py",
    "desk/submitting.py": "tests/test_submit.py",
    "desk/local/processes.py": "tests/test_run_local.py",
    "salt/cluster_check.py": "tests/test_cluster.py",
    "salt/cluster_task.py": "tests/test_cluster.py",
}


BUGS = {
    # --- more than one machine ---
    "a task outlives its client": Bug(
        "salt/cluster_task.py", 'state is None or state.state == "cancelled"', "False", "client_is_killed"
    ),
    "an error of the code is tried again": Bug(
        "salt/cluster_task.py", "    if status < 0:\n        raise", "    if status:\n        raise", "not_tried_again"
    ),
    "a killed process is not tried again": Bug("salt/cluster.py", "RETRIES = 3", "RETRIES = 0", "tried_again_three"),
    "a lost scheduler is no error": Bug(
        "salt/cluster.py", "errors | dict.fromkeys(running.values(), lost)", "errors", "each_task_that_had_not"
    ),
    "clocks of two machines are compared": Bug(
        "salt/cluster_task.py", "client.run_on_scheduler(clock) - (clock() - began)", "began", "process_of_its_own"
    ),
    "what a task prints is not shown": Bug(
        "salt/cluster_task.py", "worker.log_event(topic, (index, line))", "None", "process_of_its_own"
    ),
    "tasks go to workers without a GPU": Bug(
        "salt/cluster_check.py", 'return places, {"GPU": 1} if gpus else None', "return places, None", "declare_a_gpu"
    ),
    "a worker that has no GPU is taken": Bug(
        "salt/cluster_check.py", 'if gpu and not told["gpus"]:', "if False:", "declare_a_gpu"
    ),
    "a folder that is only read counts as shared": Bug(
        "salt/cluster_check.py", "elif not seen(", "elif False and not seen(", "do_not_arrive"
    ),
    "a folder that is not there counts as shared": Bug(
        "salt/cluster_check.py", 'if told["read"] != token.name:', "if False:", "without_a_shared_folder"
    ),
    "a file that a worker does not see is no error": Bug(
        "salt/cluster_check.py", 'if told["missing"]:', "if False:", "lacks_a_gpu_or_a_file"
    ),
    "a trial of a lost worker begins anew": Bug(
        "salt/trial_runs.py",
        "return self.state_folder / f",
        "return self.state_folder / str(self.clock()) / f",
        "loses_no_trial",
        test_file="tests/test_cluster.py",
    ),
    "two workers on one card take all of its memory": Bug(
        "salt/parallel.py", "shared=len(tasks) > len(gpus)", "shared=False", "share_a_card"
    ),
    "a traceback lacks the lines of the notebook": Bug(
        "salt/parallel.py", "linecache.cache.update(sources)", "linecache.cache.update({})", "travel"
    ),
    "a worker outlives an interrupt": Bug("salt/parallel.py", "    worker.kill()\n", "    return\n", "interrupt_ends"),
    "lines of workers are cut where they are read": Bug(
        "salt/parallel.py", "(parts[index] + block).split", "block.split", "arrive_whole"
    ),
    "a worker that was killed has ended well": Bug(
        "salt/parallel.py", "        if status\n", "        if status > 0\n", "one_that_dies"
    ),
    "another version of Keras is taken": Bug(
        "salt/cluster_check.py", "told[library] != version", "False", "another_keras"
    ),
    "a trial that ended is run again": Bug(
        "salt/trial_runs.py", "state.is_finished():", "state is None:", "begun_again", test_file="tests/test_study.py"
    ),
    "what a failed fold has left is deleted": Bug(
        "desk/fan_out.py", "partial.rename(kept)", "shutil.rmtree(partial)", "has_left_is_kept"
    ),
    "a submission that is not seen is sent again": Bug(
        "desk/deeds.py", "return self.given_up", "return True", "blindly", test_file="tests/test_submit.py"
    ),
    "a secret in base64 leaves the desk": Bug(
        "desk/secrets.py",
        "for before in range(3):",
        "for before in ():",
        "spelt",
        test_file="tests/desk/test_secrets.py",
    ),
    "a run has a lock for each path that leads to it": Bug(
        "desk/runs.py",
        "self.owner.folder.resolve()",
        "self.owner.folder",
        "under_any_path",
        test_file="tests/desk/test_records.py",
    ),
    "what Kaggle does not show yet does not run": Bug(
        "desk/preflight.py",
        'return "NOT SHOWN YET" if',
        "return None if",
        "shown_yet",
        test_file="tests/test_read_back.py",
    ),
    "a sign-in that has ended is not renewed": Bug(
        "desk/kaggle/transport.py", "self.renew(self.client, ended=True)", "pass", "is_renewed"
    ),
    "one 401 ends hours of waiting": Bug(
        "desk/kaggle/transport.py", "CredentialsError) and self.let_in", "CredentialsError) and False", "at_again"
    ),
    "an upload does not look for the key in use": Bug(
        "desk/uploading.py", "own_secrets(link.used_secrets)", "{}", "hundred", test_file="tests/test_round_trips.py"
    ),
    "the folds of a manifest may be anything": Bug(
        "salt/artifacts.py", "any(type(fold) is not int for fold in folds)", "False", "another_type_is_named"
    ),
    "a bomb is unpacked": Bug(
        "salt/archives.py", "if unpacked > most:", "if False:", "a_bomb", test_file="tests/test_limits.py"
    ),
    "a download that cannot be read is kept": Bug(
        "desk/competition_data.py",
        "    except DAMAGED as error:\n        part.unlink()",
        "    except DAMAGED as error:\n        part.exists()",
        "thrown_away",
        test_file="tests/test_limits.py",
    ),
    "a word for one deed serves for another": Bug(
        "desk/consent.py", "self.token not in (None, expected)", "False", "counts_once", test_file="tests/test_skill.py"
    ),
    "a terminal obeys what Kaggle says": Bug(
        "desk/output.py", 'CONTROL.sub("", ', "str(", "obeyed", test_file="tests/desk/test_command.py"
    ),
    "a root notebook can mount": Bug(
        "desk/local/sandbox.py",
        "if capability not in CAPABILITIES and",
        "if False and",
        "not_even_root",
        test_file="tests/test_run_local.py",
    ),
    "a notebook sees home folders": Bug(
        "desk/local/sandbox.py",
        "elif os.path.isdir(path) and not covered:",
        "elif False:",
        "finds_what_it_would",
        test_file="tests/test_run_local.py",
    ),
    "the scheduler's address opens the network": Bug(
        "desk/local/sandbox.py",
        "and address[:2] not in addresses",
        "and not addresses",
        "reaches_its_scheduler",
        test_file="tests/test_run_local.py",
    ),
    # --- data as people have it, predictions of others ---
    "what Finder adds is read": Bug(
        "salt/archives.py", 'name.startswith(".") or ', "", "finder", test_file="tests/test_layouts.py"
    ),
    "the larger of two zips wins in silence": Bug(
        "salt/competition.py",
        "other != place and not same_zip",
        "False and not same_zip",
        "two_bulk",
        test_file="tests/test_layouts.py",
    ),
    "the names of tiles are compared to the letter": Bug(
        "salt/data.py",
        "found = others.get(plain_stem(tile_id), [])",
        "found = []",
        "case or umlauts",
        test_file="tests/test_layouts.py",
    ),
    "turned predictions are imported in silence": Bug(
        "desk/importing.py",
        "if request.as_is or not len(marked):",
        "if True:",
        "turned",
        test_file="tests/test_import_predictions.py",
    ),
    "imported tiles keep the order of train.csv": Bug(
        "desk/importing.py",
        "subset(masks, np.array([place[each] for each in found.ids]))",
        "subset(masks, np.arange(len(found.ids)))",
        "order",
        test_file="tests/test_import_predictions.py",
    ),
    # --- rle ---
    "encode_rle goes along the rows": Bug("salt/rle.py", "+ column * height + line", "+ line * width + column"),
    "decode_rle goes along the rows": Bug(
        "salt/rle.py",
        "column, line = np.divmod(position, max(1, height))",
        "line, column = np.divmod(position, max(1, width))",
    ),
    "encode_rle loses a run that ends with the tile": Bug(
        "salt/rle.py", "reaching = np.flatnonzero(chunk[:, -1, -1]).astype(whole)", "reaching = row[:0]"
    ),
    "encode_rle counts from 0": Bug("salt/rle.py", "        numbers[0::2] += first\n", ""),
    "decode_rle counts from 0": Bug(
        "salt/rle.py", "begin, end = start - 1, start - 1 + length", "begin, end = start, start + length"
    ),
    "decode_rle lets runs overlap by a pixel": Bug("salt/rle.py", "(step < length[:-1])", "(step < length[:-1] - 1)"),
    # --- metrics ---
    "an IoU at a threshold passes it": Bug(
        "salt/metrics.py", "(20 * intersection - 1) // where", "20 * intersection // where"
    ),
    "empty against empty has an IoU of 0": Bug(
        "salt/metrics.py", "np.where(union == 0, 1.0, intersection", "np.where(union == 0, 0.0, intersection"
    ),
    "empty against empty scores 0": Bug(
        "salt/metrics.py", "where(union == 0, 1.0, where(passed", "where(union == 0, 0.0, where(passed"
    ),
    "the sweep is off by one level": Bug(
        "salt/metrics.py",
        "metric.score(marked[..., 1:], at_least[part][..., 0, 1:] + marked[..., 1:]",
        "metric.score(marked[..., :-1], at_least[part][..., 0, :-1] + marked[..., :-1]",
    ),
    "the union leaves out what is missed": Bug(
        "salt/metrics.py", "counts[:, 0] + counts[:, 2], counts[:, 2] + counts[:, 3]", "counts[:, 0], counts[:, 2]"
    ),
    "coverage classes are rounded down": Bug("salt/metrics.py", "-(-10 * marked //", "(10 * marked //"),
    # --- data ---
    "padding rounds the margin up": Bug("salt/tiles.py", "(size - tile) // 2", "(size - tile + 1) // 2", "margin"),
    "padding by reflection repeats the edge": Bug(
        "salt/tiles.py",
        'np.pad(images, margins, mode="reflect")',
        'np.pad(images, margins, mode="symmetric")',
        "reflect",
    ),
    "crop_images is off by one row": Bug(
        "salt/tiles.py", "padded[:, top : top + height,", "padded[:, top + 1 : top + 1 + height,", "cropping"
    ),
    # --- folds ---
    "black tiles are dealt with the empty ones": Bug("salt/folds.py", "np.where(blank, -1, classes)", "classes"),
    "a slice is spread over folds": Bug(
        "salt/folds.py",
        "splitter = StratifiedGroupKFold(folds)",
        "splitter = StratifiedKFold(folds)",
        "a_mosaic_lies_in_one_fold",
    ),
    "the best match of one edge alone counts": Bug(
        "salt/seams.py", "firsts[0] & firsts[1]", "firsts[0]", "mutual", test_file="tests/test_mosaics.py"
    ),
    "masks of a tile's own fold are looked at": Bug(
        "salt/rules.py", "(beside >= 0) & (beside != fold[:, None])", "(beside >= 0)", "of_other_folds_are_known"
    ),
    "masks that a fold holds out are shown to its network": Bug(
        "salt/borders.py",
        "(self.fold >= 0) & (self.fold != held_out)",
        "self.fold >= 0",
        "reaches_no_input",
        test_file="tests/test_neighbours.py",
    ),
    "training shows neighbours whose masks it does not know": Bug(
        "salt/borders.py",
        "self.shown(trained if training else np.ones(len(self.fold), bool))",
        "self.shown(np.ones(len(self.fold), bool))",
        "picture_and_truth_correspond",
        test_file="tests/test_neighbours.py",
    ),
    "an unknown mask is shown as an empty one": Bug(
        "salt/borders.py",
        "np.full_like(padded, UNKNOWN)",
        "np.full_like(padded, EMPTY)",
        "of_no_others",
        test_file="tests/test_neighbours.py",
    ),
    "a tile with its surroundings is off by one": Bug(
        "salt/tiles.py",
        "given - side - pad_offset(side, tile_side(given, side, mode))",
        "given - side - pad_offset(side, tile_side(given, side, mode)) + 1",
        "turns_the_surroundings",
        test_file="tests/test_inference.py",
    ),
    "folds do not depend on the seed": Bug("salt/folds.py", "random_state=seed", "random_state=0"),
    # --- augmentations ---
    "the image is flipped and the mask is not": Bug(
        "salt/augmentations.py",
        "ops.cast(truth >=",
        'ops.cast(warp_tiles(masks, {**parameters, "flip": 0 * parameters["flip"]}, size, mode)[..., 0] >=',
        "move_together",
    ),
    "the mask is not warped with the image": Bug(
        "salt/augmentations.py",
        'ops.cast(truth >= 0.5, "float32")',
        "warp_tiles(masks, plain_parameters(ops.shape(masks)[0], size, masks.shape[1]), size, mode)[..., 0]",
        "move_together",
    ),
    "the mask is cut out of the middle": Bug(
        "salt/task.py",
        'crop_at(padded, parameters["offset"], tile)',
        'crop_at(padded, plain_parameters(batch, size, tile)["offset"], tile)',
        "moves_inside",
    ),
    "a warped mask is not made binary again": Bug(
        "salt/augmentations.py", 'ops.cast(truth >= 0.5, "float32")', "truth", "binary"
    ),
    "a mask pixel that is half salt is lost": Bug("salt/augmentations.py", "truth >= 0.5", "truth > 0.5", "half_salt"),
    "crop_at is off by one": Bug(
        "salt/augmentations.py",
        'window = ops.arange(size, dtype="int32")',
        'window = ops.arange(1, size + 1, dtype="int32")',
        "cut_out",
    ),
    "the tile is laid off by one": Bug(
        "salt/augmentations.py",
        'grid = ops.arange(size, dtype="float32")',
        'grid = ops.arange(1, size + 1, dtype="float32")',
        "offset_and_a_flip",
    ),
    "tiles are flipped about a pixel beside their centre": Bug(
        "salt/augmentations.py", "centre = (tile_size - 1) / 2", "centre = tile_size / 2", "offset_and_a_flip"
    ),
    "a hole is cut into the mask's place, too": Bug(
        "salt/augmentations.py",
        "ops.cast(truth >= 0.5",
        'ops.cast(cut_out(truth, parameters["hole"]) >= 0.5',
        "hole",
    ),
    "a hole is black": Bug(
        "salt/augmentations.py",
        "ops.where(beside_channels(hidden, images), ops.mean(images, axis=(1, 2), keepdims=True)",
        "ops.where(beside_channels(hidden, images), 0.0",
        "hole",
    ),
    "jitter never reaches the last place": Bug(
        "salt/augmentations.py", "uniform[:, 1:3] * (room + 1.0)", "uniform[:, 1:3] * room", "draws_stay_within"
    ),
    # --- losses ---
    "Keras calls a loss with logits for masks": Bug(
        "salt/losses.py", "return self.function(logits, masks)", "return self.function(masks, logits)", "keras_calls"
    ),
    "cross-entropy takes logits for probabilities": Bug(
        "salt/losses.py", "logits, from_logits=True", "logits, from_logits=False", "bce and definition"
    ),
    "cross-entropy squashes its logits twice": Bug(
        "salt/losses.py",
        "binary_crossentropy(masks, logits",
        "binary_crossentropy(masks, 1.0 / (1.0 + ops.exp(-logits))",
        "bce and definition",
    ),
    "Dice has lost its 2": Bug("salt/losses.py", "(2.0 * overlap + 1.0)", "(overlap + 1.0)", "dice and definition"),
    "Dice is taken over the batch": Bug(
        "salt/losses.py",
        "ops.sum(probabilities * masks, axis=(1, 2))",
        "ops.sum(probabilities * masks)",
        "dice and per_tile",
    ),
    "Lovasz has relu for elu + 1": Bug(
        "salt/losses.py", "ops.elu(ops.take", "ops.relu(ops.take", "lovasz and definition"
    ),
    "Lovasz sorts its errors upwards": Bug(
        "salt/losses.py", "ops.argsort(-errors", "ops.argsort(errors", "lovasz and definition"
    ),
    "symmetric Lovasz has lost its other half": Bug(
        "salt/losses.py",
        "(jaccard_steps(truth) + jaccard_steps(1.0 - truth)), axis=1) / 2.0",
        "jaccard_steps(truth), axis=1)",
        "lovasz and definition",
    ),
    "losses stay in half precision": Bug(
        "salt/losses.py",
        'dtype = "float64" if keras.backend.standardize_dtype(logits.dtype) == "float64" else "float32"',
        "dtype = keras.backend.standardize_dtype(logits.dtype)",
        "half_precision and lose",
    ),
    "Lovasz counts in bfloat16": Bug(
        "salt/losses.py",
        "missed = ops.cumsum(truth, axis=1)",
        'missed = ops.cast(ops.cumsum(ops.cast(truth, "bfloat16"), axis=1), truth.dtype)',
        "beyond_256",
    ),
    "coarse logits are taught by the pixel in their corner": Bug(
        "salt/losses.py", "ops.mean(blocks, axis=(2, 4))", "blocks[:, :, 0, :, 0]", "deep"
    ),
    "the empty head learns the tile's coverage": Bug(
        "salt/losses.py", 'ops.max(ops.cast(masks, "float32")', 'ops.mean(ops.cast(masks, "float32")', "empty_loss"
    ),
    # --- schedule ---
    "Lovasz begins a step late": Bug(
        "salt/schedule.py", "segment.step + max(0, math.ceil", "segment.step + 1 + max(0, math.ceil", "takes_over"
    ),
    "Lovasz forgets the progress made before a correction": Bug(
        "salt/schedule.py", "(1.0 - share - segment.progress) / (1.0 - segment.progress)", "1.0 - share", "lovasz"
    ),
    "a corrected plan begins anew": Bug(
        "salt/schedule.py", "Segment(step, self.progress(step), max(", "Segment(step, 0.0, max(", "corrected_plan"
    ),
    "the cosines of snapshots forget Lovasz": Bug(
        "salt/config.py",
        "1.0 - left * (lovasz or 1.0) / snapshots",
        "1.0 - left / snapshots",
        "cosines_share",
        test_file="tests/test_schedule.py",
    ),
    "the rate goes on falling behind a snapshot": Bug(
        "salt/schedule.py", "low = plan.progress(passed[-1]) if passed else warmup", "low = warmup", "starts_anew"
    ),
    "a correction brings a snapshot back": Bug(
        "salt/schedule.py",
        "if following is None or step <= following.step:",
        "if following is None:",
        "leaves_those_that_were",
    ),
    "steps are counted in the precision of the layers": Bug(
        "salt/task.py", "trainable=False, autocast=False)", "trainable=False)", "counted_exactly"
    ),
    "a snapshot has the last step's weights": Bug(
        "salt/training.py",
        "        task.optimizer.finalize_variable_values(task.trainable_variables)",
        "        pass",
        "bottoms_of_its_rate",
        slow=True,
    ),
    "snapshots share the last one's batch norm": Bug(
        "salt/training.py",
        "weights.insert(index, settled_weights())",
        "weights.insert(index, task.network.get_weights())",
        "bottoms_of_its_rate",
        slow=True,
    ),
    "the encoder learns as fast as the rest": Bug(
        "salt/schedule.py",
        "super().update_step(gradient, variable, rate)",
        "super().update_step(gradient, variable, learning_rate)",
        "factor",
    ),
    "the rest learns as slowly as the encoder": Bug(
        "salt/schedule.py", "self.slow_rate if id(variable) in self.slow_ids else 1.0", "self.slow_rate", "factor"
    ),
    "biases decay": Bug(
        "salt/schedule.py", "if len(variable.shape) > 1 else 0.0", "if len(variable.shape) > 0 else 0.0", "decay"
    ),
    "decay forgets the encoder's rate": Bug(
        "salt/schedule.py",
        "variable * (rate * self.decays[index])",
        "variable * (ops.cast(learning_rate, variable.dtype) * self.decays[index])",
        "decay",
    ),
    "all of the minutes are planned": Bug(
        "salt/schedule.py", "PLANNED_SHARE = 0.9", "PLANNED_SHARE = 1.0", "nine_tenths"
    ),
    "the ends of epochs take no time": Bug("salt/schedule.py", "* pace.epoch + pace.tail", "* 0.0 + pace.tail", "fit"),
    "noise corrects a plan": Bug(
        "salt/schedule.py",
        "EARLY_TOLERANCE, LATE_TOLERANCE = 0.1, 0.05",
        "EARLY_TOLERANCE, LATE_TOLERANCE = 0.0, 0.0",
        "noise",
    ),
    # --- layers ---
    "the variance of a batch is kept as that of a population": Bug(
        "salt/layers.py", "variance * (pixels - 1.0) / pixels", "variance * 1.0", "what_keras_gives"
    ),
    "running statistics are those of the last batch": Bug(
        "salt/layers.py", "running * self.momentum + value * (1.0 - self.momentum)", "value * 1.0", "what_keras_gives"
    ),
    "a frozen batch norm is trained": Bug(
        "salt/layers.py", "if not (training and self.trainable) or", "if not training or", "when_frozen"
    ),
    # --- encoders ---
    "the second convolution of a level has no ReLU": Bug(
        "salt/encoders.py",
        'keras.layers.ReLU(name=f"{name}_relu{index}")(x)',
        'keras.layers.ReLU(name=f"{name}_relu{index}")(x) if index == 1 else x',
        "plain_encoder",
    ),
    "the second convolution of a level has no batch norm": Bug(
        "salt/encoders.py",
        'name=f"{name}_norm{index}")(x)',
        'name=f"{name}_norm{index}")(x) if index == 1 else x',
        "plain_encoder",
    ),
    "the plain encoder sees a tile's brightness": Bug(
        "salt/encoders.py", "return x - ops.mean(x, axis=(1, 2, 3), keepdims=True)", "return x - 0.5", "brightness"
    ),
    "freeze_layer freezes a layer too many": Bug(
        "salt/encoders.py", "network.layers[:freeze_layer]", "network.layers[: freeze_layer + 1]", "freeze_layer"
    ),
    "freeze_layer freezes a layer too few": Bug(
        "salt/encoders.py",
        "network.layers[:freeze_layer]",
        "network.layers[: max(0, freeze_layer - 1)]",
        "freeze_layer",
    ),
    "VGG-16 gets its colours without ImageNet's mean": Bug(
        "salt/encoders.py", "[-mean for mean in VGG16_MEAN]", "[0.0 for mean in VGG16_MEAN]", "preprocessing"
    ),
    "VGG-16 gets the mean of red for blue": Bug(
        "salt/encoders.py", "[-mean for mean in VGG16_MEAN]", "[-mean for mean in VGG16_MEAN[::-1]]", "preprocessing"
    ),
    "VGG-16 goes down to its fifth block": Bug(
        "salt/encoders.py", "VGG16_FEATURES[:levels]", "VGG16_FEATURES[: levels + 1]", "fourth_block"
    ),
    "EfficientNet-Lite0's grey levels are centred elsewhere": Bug(
        "salt/encoders.py", "1 / 128, -127 / 128)", "1 / 128, -1.0)", "efflite0_takes_weights"
    ),
    "the residual encoder has no shortcuts": Bug(
        "salt/encoders.py",
        'keras.layers.Add(name=f"{name}_add")([shortcut, x])',
        'keras.layers.Add(name=f"{name}_add")([x, x])',
        "residual_block",
    ),
    "another stride costs the weights": Bug(
        "salt/encoders.py", "    adapted.set_weights(network.get_weights())\n", "", "another_stride"
    ),
    "the residual encoder ignores its weights in silence": Bug(
        "salt/encoders.py",
        "    if weights is not None:\n        raise",
        "    if False:\n        raise",
        "no_weights_to_load",
    ),
    "an application keeps Keras's batch norm": Bug(
        "salt/encoders.py",
        "        if isinstance(layer, keras.layers.BatchNormalization):\n            return",
        "        if False:\n            return",
        "efficientnetv2s_takes",
        slow=True,
    ),
    # --- unet ---
    "the thin decoder looks at no skip": Bug("salt/networks.py", "([x, skip])", "([x, x])", "thin_decoder_uses"),
    "what comes from below is not normalised in the thin decoder": Bug(
        "salt/networks.py",
        '        x = BatchNormalization(momentum=batch_norm_momentum, name=f"{name}_grow_norm")(x)\n',
        "        x = x * 0.01\n",
        "thin_decoder",
    ),
    "the hypercolumn sees the finest level alone": Bug(
        "salt/networks.py",
        'narrow if x is None else keras.layers.Add(name=f"merge{level}_add")([x, narrow])',
        "narrow",
        "hypercolumn",
    ),
    "attention multiplies its two gates": Bug(
        "salt/networks.py",
        'keras.layers.Add(name=f"{name}_gate")',
        'keras.layers.Multiply(name=f"{name}_gate")',
        "squeeze_and_excite",
    ),
    "the heads have the precision of the rest": Bug(
        "salt/networks.py",
        'Dense(classes, dtype="float32", name="empty")',
        'Dense(classes, name="empty")',
        "every_head",
    ),
    "the encoder is not found among the layers": Bug(
        "salt/networks.py", "isinstance(layer, keras.Model)]", "isinstance(layer, keras.Sequential)]", "pretrained_ones"
    ),
    "the network ends in a sigmoid": Bug(
        "salt/networks.py",
        'Conv2D(classes, 1, dtype="float32"',
        'Conv2D(classes, 1, activation="sigmoid", dtype="float32"',
        "any_size",
    ),
    "logits have the precision of the rest": Bug(
        "salt/networks.py", 'Conv2D(classes, 1, dtype="float32", name', "Conv2D(classes, 1, name", "mixed_precision"
    ),
    "the decoder looks at no skip": Bug("salt/networks.py", "([x, features[level]])", "([x, x])", "every_skip"),
    "a saved model needs this package": Bug(
        "salt/layers.py",
        "functools.update_wrapper(",
        "(lambda *names, **more: None)(",
        "builder_loads",
        test_file="tests/test_unet.py",
    ),
    "a network of pure float16 takes the fused kernel": Bug(
        "salt/layers.py", ' and self.variable_dtype == "float32"', "", "does_not_fit"
    ),
    "Keras gives a loss masks for logits": Bug(
        "salt/losses.py", "return self.function(logits, masks)", "return self.function(masks, logits)", "own_order"
    ),
    "a loss of one logit a tile takes one a pixel": Bug(
        "salt/losses.py", "if len(logits.shape) > 2 or", "if False and", "whether_a_tile"
    ),
    "a rectangle is padded like a square of its height": Bug(
        "salt/tiles.py",
        "    return images.shape[1], images.shape[2]\n",
        "    return images.shape[1], images.shape[1]\n",
        "rectangles",
    ),
    "a crop of no pixels is one": Bug("salt/tiles.py", " and side >= 1 for", " for", "no_size"),
    "settings that the network ignores are searched": Bug(
        "salt/search.py", "if ignored := sorted(", "if ignored := [] and sorted(", "later_trial"
    ),
    "freeze_layer counts from the end": Bug(
        "salt/encoders.py",
        "if not whole or not 0 <= freeze_layer",
        "if not whole or not -19 <= freeze_layer",
        "out_of_its_range",
        test_file="tests/test_unet.py",
    ),
    "CutMix leaves the mask behind": Bug(
        "salt/augmentations.py",
        "return mixed[0], mixed[1]",
        "return mixed[0], masks",
        "rectangle_of_the_tile_before",
    ),
    "a resumed training has other transforms": Bug(
        "salt/task.py", "(*(self.seed or ()), self.epoch, index)", "(np.random.randint(10**9),)", "seeded"
    ),
    "the score of NaN is the share of empty tiles": Bug(
        "salt/running_score.py",
        "ops.where(ops.any(ops.isnan(logits), axis=(1, 2)), math.nan, values)",
        "values",
        "that_is_nan",
        test_file="tests/test_task.py",
    ),
    "the models come compiled for probabilities": Bug(
        "salt/unet.py", "BinaryCrossentropy(from_logits=from_logits)", "BinaryCrossentropy()", "train_as_they_come"
    ),
    # --- tta, inference, postprocess ---
    "the flip is not undone": Bug("salt/tta.py", "mirror_columns, mirror_columns", "mirror_columns, keep_array"),
    "predictions of flipped tiles are not flipped back": Bug(
        "salt/inference.py", "transform.undo(sigmoid(logits))", "sigmoid(logits)"
    ),
    "the sigmoid is applied twice": Bug("salt/inference.py", "undo(sigmoid(logits))", "undo(sigmoid(sigmoid(logits)))"),
    "the sigmoid is forgotten": Bug("salt/inference.py", "undo(sigmoid(logits))", "undo(np.clip(logits, 0, 1))"),
    "the mean forgets that there are several transforms": Bug(
        "salt/inference.py", "(len(transforms) * len(models))", "len(models)"
    ),
    "probabilities are cut down to whole levels": Bug("salt/inference.py", "np.rint(255", "np.floor(255"),
    "a probability at the level is no salt": Bug(
        "salt/postprocess.py", "(probabilities >= np.asarray(level", "(probabilities > np.asarray(level"
    ),
    "a tile of just the minimum area is emptied": Bug(
        "salt/postprocess.py", ">= np.asarray(minimum_area)", "> np.asarray(minimum_area)"
    ),
    "black tiles are not emptied": Bug(
        "salt/postprocess.py",
        "probabilities * ~np.asarray(blank).reshape(-1, *(1 for _ in probabilities.shape[1:]))",
        "probabilities",
    ),
    # --- submission, files, artifacts ---
    "the ids are sorted and their masks are not": Bug(
        "salt/submission.py", "for tile in ids for label", "for tile in sorted(ids) for label"
    ),
    "the rows are sorted": Bug(
        "salt/submission.py",
        "zip(names, mask_texts(masks, form, competition), strict=True)",
        "sorted(zip(names, mask_texts(masks, form, competition), strict=True))",
    ),
    "a submission may repeat an id": Bug(
        "salt/submission.py", "zip(unique[counts > 1], counts[counts > 1]", "zip(unique[:0], counts[:0]"
    ),
    "objects that overlap are submitted": Bug(
        "salt/submission.py",
        "if overlapping.any():",
        "if False:",
        test_file="tests/test_built_in_competitions.py",
    ),
    "all run lengths run down the columns": Bug(
        "salt/submission.py",
        "encode_rles(stack, by_rows, first)",
        "encode_rles(stack)",
        test_file="tests/test_built_in_competitions.py",
    ),
    "colours are read in the order of OpenCV": Bug(
        "salt/pictures.py",
        "return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)",
        "return pixels",
        test_file="tests/test_built_in_competitions.py",
    ),
    "a pixel that two run lengths mark counts twice": Bug(
        "salt/rle.py", "reached - np.maximum(begin, before)", "reached - begin"
    ),
    "the pixels of large masks are counted in another order of the tiles": Bug(
        "salt/stacks.py",
        "masks.make.marked(masks.rows)",
        "masks.make.marked(np.sort(masks.rows))",
        test_file="tests/test_large_images.py",
    ),
    "large images of another size are found in training only": Bug(
        "salt/data.py",
        "check_size(found, (height, width))",
        "pass",
        test_file="tests/test_large_images.py",
    ),
    "the page reads all large images at once": Bug(
        "desk/pages/report.py",
        "return tiles.images, rows,",
        "return tiles.images[:], rows,",
        test_file="tests/test_large_images.py",
    ),
    "all large predictions are read at once to be scored": Bug(
        "salt/levels.py",
        "np.asarray(oof.probabilities[part])",
        "np.asarray(oof.probabilities[:])[part]",
        test_file="tests/test_large_images.py",
    ),
    "of a mask's rows the last one counts": Bug(
        "salt/data.py",
        "np.maximum(masks[tile, ..., label], mask, out=masks[tile, ..., label])",
        "masks[tile, ..., label] = mask",
        test_file="tests/test_built_in_competitions.py",
    ),
    "files are written in place": Bug(
        "salt/files.py",
        "    temporary = pathlib.Path(name)\n",
        "    os.unlink(name)\n    yield path\n    return\n    temporary = pathlib.Path(name)\n",
    ),
    "what was half written stays behind": Bug("salt/files.py", "temporary.unlink(missing_ok=True)", "pass"),
    "a file with another SHA-256 passes": Bug("salt/artifacts.py", "elif sha256_file(file) != digest:", "elif False:"),
    "a manifest may lead out of its folder": Bug(
        "salt/artifacts.py", "if not file.resolve().is_relative_to(folder.resolve()):", "if False:"
    ),
    "the first of several runs is taken": Bug("salt/artifacts.py", "if len(folders) > 1:", "if not folders:"),
    # --- training ---
    "the Keras metric lets an IoU at a threshold pass": Bug(
        "salt/keras_metrics.py",
        "20 * intersection > twentieths * union",
        "20 * intersection >= twentieths * union",
        "keras_metric_equals",
        test_file="tests/test_task.py",
    ),
    "the Keras metric gives empty against empty 0": Bug(
        "salt/keras_metrics.py",
        "twentieths * union, union == 0)",
        "twentieths * union, union < 0)",
        "keras_metric",
        test_file="tests/test_task.py",
    ),
    "logits are cut out of the middle": Bug(
        "salt/task.py",
        'crop_at(logits, parameters["offset"]',
        'crop_at(logits, plain_parameters(batch, size, tile)["offset"]',
        "moves_inside",
    ),
    "validation is augmented": Bug("salt/task.py", "if training:\n", "if True:\n", "validation_pads"),
    "all epochs have one order": Bug("salt/task.py", "(*self.seed, epoch)", "(*self.seed, 0)", "order_of_its_own"),
    "the order is not the seed's": Bug("salt/task.py", "((*self.seed, epoch))", "()", "order_of_its_own"),
    "no epoch draws its order": Bug("salt/task.py", "    batches.set_epoch(epoch)\n", "", "what_an_epoch_draws"),
    "all epochs have the same augmentation": Bug(
        "salt/task.py", "fold, epoch, position))", "fold, 0, position))", "what_an_epoch_draws"
    ),
    "Lovasz never takes over": Bug(
        "salt/task.py",
        "task.lovasz_step.assign(lovasz_step(segment, config.lovasz))",
        "task.lovasz_step.assign(10**6)",
        "to_lovasz",
    ),
    "random states go on from where they were": Bug(
        "salt/task.py",
        'states = [variable for variable in task.variables if "seed_generator" in variable.path]',
        "states = []",
        "what_an_epoch_draws",
    ),
    "the network ends with its last weights, not with their average": Bug(
        "salt/training.py",
        "    task.fit(batches, validation_data=validation, epochs=epochs,",
        "    task.optimizer.finalize_variable_values = lambda variables: None\n"
        "    task.fit(batches, validation_data=validation, epochs=epochs,",
        "running_average",
    ),
    "the last weights are validated, not their average": Bug(
        "salt/training.py", "callbacks.insert(0, keras.callbacks.SwapEMAWeights())", "pass", "running_average"
    ),
    "batch norm keeps the last weights' statistics": Bug(
        "salt/task.py", "layer.momentum = index / (index + 1)", "layer.momentum = 1.0", "plain_mean"
    ),
    "batch norm is estimated from other draws after a restart": Bug(
        "salt/training.py",
        "begin_epoch(task, follower.batches, follower.config, follower.fold, epoch, follower.plan)",
        "pass",
        "after_its_last",
    ),
    "black tiles are trained on": Bug(
        "salt/training.py", "trained = ~held & ~job.tiles.blank()", "trained = ~held", "never_trains_on"
    ),
    "held-out tiles are trained on": Bug(
        "salt/training.py", "trained = ~held & ~job.tiles.blank()", "trained = ~job.tiles.blank()", "never_trains_on"
    ),
    "out-of-fold predictions of black tiles are not emptied": Bug(
        "salt/inference.py",
        "return empty_tiles(predict_probabilities(models, images, *options), blank)",
        "return predict_probabilities(models, images, *options)",
        "never_trains_on",
        test_file="tests/test_training.py",
    ),
    "out-of-fold predictions come from an untrained model": Bug(
        "salt/cross_validation.py",
        "predict_run([network], images,",
        "predict_run([keras.models.clone_model(network)], images,",
        "own_model",
        test_file="tests/test_training.py",
    ),
    "the first fold's model predicts all folds": Bug(
        "salt/cross_validation.py",
        "    predicted = predict_run([network],",
        "    fit_and_predict.first = getattr(fit_and_predict, 'first', network)\n"
        "    predicted = predict_run([fit_and_predict.first],",
        "own_model",
        test_file="tests/test_training.py",
    ),
    "a diverged epoch is kept": Bug(
        "salt/training.py",
        "callbacks = [DivergenceGuard(held_out, checkpoint.history, config.learning_rate), checkpoint,",
        "callbacks = [checkpoint,",
        "diverges",
    ),
    "a fold that fails takes the next ones along": Bug(
        "salt/cross_validation.py",
        "if job.watch is not None:",
        "if True:",
        "diverges",
        test_file="tests/test_training.py",
    ),
    "fold 1 of seed 0 begins like fold 0 of seed 1": Bug(
        "salt/task.py", 'int(LIMITS["folds"][1]) * seed + held_out', "seed + held_out", "initial_weights"
    ),
    "a loss is made in a worker before its class has methods": Bug(
        "salt/losses.py",
        "return object.__new__, (TileLoss,), self.__dict__",
        "return TileLoss, (self.function,)",
        "travel_by_value",
    ),
    "a trial that failed by accident is never tried again": Bug(
        "salt/study.py", 'if "first_error" not in frozen.user_attrs:', "if False:", "tried_once_more"
    ),
    "measuring leaves its traces": Bug(
        "salt/training.py", "        variable.assign(value)\n", "        pass\n", "no_trace", slow=True
    ),
    "the last epoch is always a whole one": Bug("salt/training.py", ">= self.plan.end:", ">= 10**9:", "shorter"),
    "a machine that becomes slower goes on as planned": Bug(
        "salt/training.py",
        "            self.plan = self.correct(",
        "            self.correct(",
        "becomes_slower",
        slow=True,
    ),
    "an unsure prediction is a pseudo-label": Bug(
        "salt/cross_validation.py",
        "    sure &= ~test.blank()\n",
        "    sure[:] = ~test.blank()\n",
        "sure_predictions",
    ),
    "another run's state is taken up": Bug(
        "salt/cross_validation.py", "    if other:\n        raise", "    if False:\n        raise", "another_run"
    ),
    # --- scoring, config ---
    "the best level is off by one": Bug(
        "salt/levels.py",
        "1 + np.flatnonzero(curve >=",
        "np.flatnonzero(curve >=",
        "equally_good_levels",
        test_file="tests/test_scoring.py",
    ),
    "the confusion is the wrong way round": Bug(
        "salt/scoring.py",
        '"empty_as_marked": int(np.sum(~marked & found)),\n        "marked_as_empty": int(np.sum(marked & ~found)),',
        '"empty_as_marked": int(np.sum(marked & ~found)),\n        "marked_as_empty": int(np.sum(~marked & found)),',
    ),
    "the nested choice sees the tiles that it is scored on": Bug(
        "salt/levels.py", "table.of_tiles(~inside)", "table", "every_figure", test_file="tests/test_scoring.py"
    ),
    "True is a number": Bug("salt/config.py", "elif type(value) is kind:", "elif isinstance(value, kind):"),
    # --- desk ---
    "a command that may have arrived is sent again": Bug(
        "desk/kaggle/transport.py", "if command and failure.sent and", "if not command and failure.sent and", "repeated"
    ),
    "an error repeats a secret": Bug(
        "desk/kaggle/transport.py", "for secret in self.secrets:", "for secret in ():", "do_not_repeat_a_secret"
    ),
    "sources that Kaggle drops are overlooked": Bug(
        "desk/kaggle/kernels.py", "url, tuple(invalid), ref)", "url, (), ref)", "kaggle_drops"
    ),
    "of two runs with one beginning the first is taken": Bug(
        "desk/runs.py", "if len(found) == 1:", "if found:", "beginning_of_its_name"
    ),
    "a title that Kaggle would change is let pass": Bug(
        "desk/metadata.py", "if slugify(title) != slug:", "if slugify(title) == slug + '?':", "checked_strictly"
    ),
    "the same notebook is pushed twice at once": Bug(
        "desk/pushing.py", "if push.content != record.content", "if True", "same_notebook"
    ),
    "what was sent a moment ago counts as lost": Bug("desk/sending.py", "< SETTLED:", "< 0:", "stays_open"),
    "a public kernel is taken for a private one": Bug(
        "desk/deeds.py",
        "if flag in shown.flags and",
        "if False and",
        "otherwise_than_asked",
        test_file="tests/test_read_back.py",
    ),
    "a fold is taken for the one that resumes it": Bug(
        "desk/deeds.py", r'rf"""RUN_ID\b[^=\n]{{0,40}}=\s*', 'rf"""', "resumes_it", test_file="tests/test_read_back.py"
    ),
    "a clock decides what is lost": Bug(
        "desk/records.py", "if name and name == here", "if False and name", "clock", test_file="tests/test_read_back.py"
    ),
    "a dataset loses what it had": Bug(
        "desk/uploading.py",
        "everything = [*kept, *files]",
        "everything = [*files]",
        "keeps_what",
        test_file="tests/test_read_back.py",
    ),
    "a record may take any step": Bug(
        "desk/records.py",
        "if state not in kind.STEPS[now]",
        "if False",
        "no_step",
        test_file="tests/desk/test_records.py",
    ),
    "a resumed run forgets its settings": Bug(
        "desk/planning.py",
        "for key, value in record.settings.items() if key != LIMIT",
        "for key, value in ()",
        "has_its_settings",
    ),
    "a fetched file may have another content": Bug(
        "desk/remote_output.py", 'if sha256_file(part) != entry["sha256"]:', "if not sha256_file(part):", "wrong_file"
    ),
    "all folds are pushed at once": Bug(
        "desk/fan_out.py",
        "busy = [part for part in parts if not part.waits and not part.ended]",
        "busy = []",
        "no_more_than_two",
    ),
    "a fold that ran out of time is joined as it is": Bug(
        "desk/joining.py", "not manifest.finished", "manifest.finished is None", "ran_out"
    ),
    "another run's submission is taken for this one's": Bug(
        "desk/deeds.py",
        'description.endswith(f"[{name}]")',
        'description.endswith("")',
        "behind_many_others",
        test_file="tests/test_submit.py",
    ),
    "a notebook's children find this repository": Bug(
        "desk/local/processes.py",
        "for entry in sys.path if is_installed(pathlib.Path(entry))",
        "for entry in sys.path if entry",
        "nothing_of_this_machine",
    ),
    "data can end the element in which it stands": Bug(
        "desk/pages/html.py", r'text.replace("<", "\\u003c")', 'text.replace("<", "<")', "no_text_of_the_data"
    ),
    # --- flattener ---
    "the flattener drops the comments above definitions": Bug(
        "flattener/emission.py", "return free, rows[split:], min(2, blank)", "return [], [], min(2, blank)", "byte_for"
    ),
    "the flattener does not rename a collision": Bug(
        "flattener/naming.py", "self.final[entity] = self.fresh(entity)", "self.final[entity] = name", "colliding_const"
    ),
    "a method called compile is taken for the builtin": Bug(
        "flattener/facts.py", "if by_name else self.bare", "", "method_called_compile"
    ),
    "builtins.exec is not taken for exec": Bug(
        "flattener/facts.py", '{"builtins", "__builtins__"} & {*self', "set() & {*self", "text_that_is_run"
    ),
    "a class that registers its subclasses has no effect": Bug(
        "flattener/purity.py",
        'or node.keywords or "__init_subclass__" in names:',
        "or node.keywords:",
        "themselves",
    ),
    "an import runs above the statements that stand before it": Bug(
        "flattener/loading.py", "if effects or self.reaches(", "if self.reaches(", "order"
    ),
    "a variable that changes later is taken for its first value": Bug(
        "flattener/meanings.py", "        if var in self.unstable:\n            return False\n", "", "snapshot"
    ),
    "a name that another module replaces is taken for settled": Bug(
        "flattener/purity.py",
        'if {name, "*"} & self.replaced:',
        "if False:",
        "replaces",
        test_file="tests/test_effects.py",
    ),
    "a module's own name takes that of a builtin that others read": Bug(
        "flattener/naming.py", "if name not in self.reserved:", "if group:", "builtins"
    ),
    "an imported name is hidden by a parameter": Bug(
        "flattener/naming.py", "        self.avoid_capture()\n", "", "parameter"
    ),
    "an f-string shows the new name of a variable": Bug(
        "flattener/emission.py", "if echo and text[start - 1]", "if not echo and text[start - 1]", "strings"
    ),
    "a function that only imports is left without a body": Bug(
        "flattener/emission.py",
        'parts = ["pass"]\n            self.replace',
        "parts = []\n            self.replace",
        "branches",
    ),
    "what only unused code mentions is kept": Bug(
        "flattener/unused.py",
        "vocabulary.places[name] - unused - {place}",
        "vocabulary.places[name] - {place}",
        "leaves_out",
    ),
    "one module that cannot be flat keeps all others from it": Bug(
        "flattener/analysis.py",
        "if as_it_is else {error.blame}",
        "if known is not None else {error.blame}",
        "only_the_module",
    ),
    "a setting in Python's spelling is text": Bug(
        "flattener/settings.py",
        "for parse in (json.loads, ast.literal_eval):",
        "for parse in (json.loads,):",
        "grammar",
    ),
    "a kernel's slug may be too short": Bug("flattener/kaggle.py", "[2]) < 5:", "[2]) < 3:", "bad_head"),
    "the recorded command leaves out the style": Bug(
        "flattener/build.py", 'if style != "auto" else []', 'if style == "auto" else []', "recorded_command"
    ),
    "a secret may be published": Bug(
        "flattener/checks.py", "if pattern.search(line.text)", "if pattern.match(line.text)", "secrets"
    ),
    "a cell's file is not found in a log": Bug("flattener/trace.py", "value >> 13", "value >> 12", "ipykernel"),
}


def planted_source(bug: Bug, root: pathlib.Path = ROOT) -> str:
    """The source file with the bug, or a failure if the source has changed so that its place is not there any more."""
    text = (root / bug.file).read_text(encoding="utf-8")
    found = text.count(bug.old)
    assert found == bug.times, f"{bug.file}: {bug.old!r} occurs {found} times, not {bug.times}; find its new place"
    return text.replace(bug.old, bug.new)


@pytest.mark.parametrize("name", BUGS)
def test_each_planted_bug_has_its_place(name):
    assert planted_source(BUGS[name])


def run_tests(root: pathlib.Path, tests: str, select: str, slow: bool) -> tuple[int, bool, bool, str]:
    """Runs tests in a copy of the repository.

    Returns:
        pytest's exit status, whether any test failed, whether any passed, and the output.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHONPATH"] = str(root)  # before the packages that are installed, which are the checkout's
    marker = "slow" if slow else "not slow"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marker, tests]
    done = subprocess.run(
        [*command, *(["-k", select] if select else [])],
        cwd=root,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    summary = done.stdout.rstrip().rpartition("\n")[2]  # such as "1 failed, 7 passed in 0.52s"
    failed, passed = (re.search(rf"\b[1-9][0-9]* {word}\b", summary) is not None for word in ("failed", "passed"))
    return done.returncode, failed, passed, done.stdout + done.stderr


@pytest.fixture(scope="session")
def healthy(tmp_path_factory):
    """A copy of the repository as it is at the beginning: somebody may go on working on it meanwhile."""
    folder = tmp_path_factory.mktemp("healthy") / "repository"
    folder.mkdir()
    for path in (ROOT / name for name in COPIED):
        if path.is_dir():
            # Without compiled modules: an old one of the same second and length would hide a bug.
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def require_green(healthy):
    """A function that fails unless a test file passes without a bug: if it is red anyway, red means nothing.

    It runs each file once, with all that any bug selects from it; the slow tests of a file in a run of their own.
    """
    results = {}

    def require(tests, slow):
        if (tests, slow) not in results:
            selections = {bug.select for bug in BUGS.values() if bug.tests == tests and bug.slow == slow}
            select = " or ".join(f"({each})" for each in sorted(selections)) if all(selections) else ""
            results[tests, slow] = run_tests(healthy, tests, select, slow)
        status, failed, passed, output = results[tests, slow]
        assert status == 0 and passed and not failed, f"{tests} fails without any bug:\n{output[-5000:]}"

    return require


@pytest.mark.parametrize("name", BUGS)
def test_the_place_of_each_bug_is_still_there(name):
    compile(planted_source(BUGS[name]), BUGS[name].file, "exec")
    tests = (ROOT / BUGS[name].tests).read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", BUGS[name].select)) - {"and", "or", "not"}
    assert all(word in tests for word in words), f"{BUGS[name].tests} has no test named {BUGS[name].select}"


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_each_planted_bug_is_caught(name, tmp_path, healthy, require_green):
    bug = BUGS[name]
    require_green(bug.tests, bug.slow)
    root = shutil.copytree(healthy, tmp_path / "repository")
    (root / bug.file).write_text(planted_source(bug, healthy), encoding="utf-8")
    status, failed, _, output = run_tests(root, bug.tests, bug.select, bug.slow)
    assert status == 1 and failed, f"nobody notices that {name} (exit status {status}):\n{output[-5000:]}"
    broken = re.search(r"^E .*(NameError|ImportError|UnboundLocalError)", output, re.MULTILINE)
    assert not broken, f"the planted code does not run, so it shows nothing: {broken[0]}"
