"""A run whose folds were fanned out becomes one run: the weights of all folds, one oof.npz, one history, one manifest.

`fetch_run` is the way of every run from Kaggle to its folder, in one kernel or in several.
"""

import os
import pathlib
import shutil

from desk.competitions import competition_of
from desk.deeds import remade_push
from desk.errors import ConfigurationError
from desk.fetching import Patience, RunFailed, StillRunning, bring_run, is_whole
from desk.kaggle.errors import OutputError
from desk.kaggle.transport import KaggleLink
from desk.records import DamagedRecord, read_object, write_object
from desk.remote_output import FRESH
from desk.runs import JOINING, MANIFEST, Run
from desk.settling import settle_open, settle_run
from desk.states import Manifest, PushRecord
from salt.artifacts import write_manifest, write_oof
from salt.files import sha256_file
from salt.levels import choose_level_and_area, count_oof, level_table
from salt.parts import read_trained_run
from salt.scoring import score_oof


def fetch_run(link: KaggleLink, run: Run, patience: Patience) -> Manifest | None:
    """Brings a run's output to its folder; returns its manifest, or None if all of it was there.

    Raises:
        RunFailed: it came to a bad end.
        StillRunning, OutputError, ...: it is not here.
    """
    if not (run.is_fanned_out or run.was_sent):
        raise ConfigurationError(f"{run.name}: has no push.json; only runs that push.py started can be fetched")
    settle_open(link, run.folder.parent, but=run)
    with run.lock():
        mend(run)
        if is_whole(run):
            for part in run.parts or [run]:
                settle_run(link, part)
            shutil.rmtree(run.folder / FRESH, ignore_errors=True)  # by a kill behind the last file
            return None
        if not run.parts:
            return bring_run(link, run, patience)
        bring_parts(link, run, patience)
        return join_parts(run)


def mend(run: Run) -> None:
    """Makes damaged records of pushes anew; what stood there is kept beside them."""
    for part in run.parts or [run]:
        try:
            part.push  # noqa: B018
        except DamagedRecord as error:
            record = remade_push(part)
            path = part.folder / PushRecord.FILE
            shutil.copyfile(path, path.with_name(f"{path.name}.damaged"))
            part.keep(record)
            print(f"{error}: made anew", flush=True)


def bring_parts(link: KaggleLink, run: Run, patience: Patience) -> None:
    """Brings what the kernels of a run's folds have left, one after the other; what is here already stays.

    Raises:
        RunFailed, StillRunning: some folds are not here; the message names them.
    """
    failed, absent = [], []
    for part in run.parts:
        fold = part.push.fold
        if part.push.state == "queued":
            absent.append(f"fold {fold} is not pushed yet")
            continue
        try:
            manifest = part.manifest if is_whole(part) else bring_run(link, part, patience)
            if manifest is not None and not manifest.finished:
                failed.append(f"fold {fold}: {part.push.run_id} ran out of time")
        except StillRunning as error:
            absent.append(str(error))
        except (RunFailed, OutputError) as error:
            failed.append(f"fold {fold}: {error}")
    if failed:
        once_more = f"python scripts/push.py {run.queue.kernel} --continue {run.name}"
        remedy = f"nothing was joined; {once_more} pushes what did not end well once more"
        raise RunFailed("\n".join([*failed, *absent, remedy]))
    if absent:
        here = f"{len(run.parts) - len(absent)} of {len(run.parts)} folds are here"
        raise StillRunning("\n".join([*absent, here]))


def join_parts(run: Run) -> Manifest:
    """Makes one run of the folds' outputs, the manifest last; returns it.

    The weights are links to those of the folds, so that a kill leaves the folds whole.

    Raises:
        ArtifactError: folds that do not fit each other.
    """
    folders = [part.folder for part in run.parts]
    trained = read_trained_run(folders, run.queue.folds)
    manifests = [part.need(Manifest) for part in run.parts]
    fresh = run.folder / JOINING  # what an earlier try left of it, the lock has removed
    fresh.mkdir()
    for path in trained.weights.values():
        link_or_copy(path, fresh / path.name)
    write_oof(fresh / "oof.npz", trained.oof)
    history = joined_tables([folder / "history.csv" for folder in folders])
    (fresh / "history.csv").write_text(history, encoding="utf-8")
    courses = {fold: course for folder in folders for fold, course in read_object(folder / "courses.json").items()}
    write_object(fresh / "courses.json", courses)
    competition = competition_of(read_object(folders[0] / MANIFEST))
    counts, metric = count_oof(trained.oof), competition.metric
    score, config = score_oof(counts, metric), trained.config
    _, area = choose_level_and_area(level_table(counts, metric), metric, config.level, config.minimum_area)
    minutes = round(sum(found.minutes or 0 for found in manifests), 1)
    more = {"competition": competition.slug, "minutes": minutes, "score": score, "minimum_area": area}
    more["parts"] = {
        found.run_id: sha256_file(folder / MANIFEST) for folder, found in zip(folders, manifests, strict=True)
    }
    manifest = write_manifest(fresh, run.queue.run_id, run.queue.kernel, trained.config, **more)
    for name in (*manifest["files"], MANIFEST):
        (fresh / name).replace(run.folder / name)
    fresh.rmdir()
    return run.need(Manifest)


def link_or_copy(path: pathlib.Path, to: pathlib.Path) -> None:
    """Another name for a file or, where a file system has no such links, a copy."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def joined_tables(paths: list[pathlib.Path]) -> str:
    """Tables of the same columns as one."""
    heads, rows = zip(*(path.read_text(encoding="utf-8").split("\n", 1) for path in paths), strict=True)
    if len(set(heads)) > 1:
        raise OutputError(f"the columns of {paths[0].name} differ between the folds: {' | '.join(sorted(set(heads)))}")
    return heads[0] + "\n" + "".join(rows)
