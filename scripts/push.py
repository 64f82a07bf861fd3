"""Builds a kernel and starts it on Kaggle, after a look at everything that would make the run fail or be refused.

    python scripts/push.py train --preset t4 --set epochs=100 --hours 9
    python scripts/push.py predict --run train-t4-20261122-131502-ab12
    python scripts/push.py train --fan-out folds
    python scripts/push.py train --resume train-t4-20261122-131502-ab12
    python scripts/push.py train --dry-run

The run gets a name that stands in the notebook, and `runs/<run id>/` with what was pushed (`pushed/`) and `push.json`:
the kernel's version, the notebook's SHA-256, the settings. A push that Kaggle refuses leaves nothing. One whose answer
is lost is looked up, never repeated; if it cannot be found yet, the next push, or `fetch.py`, looks again.
"""

import argparse
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.fan_out import go_on, start
from scripts.kaggle_link import KaggleError, KaggleLink, alone, run_command, run_folder, utc_now
from scripts.planning import MAX_HOURS, plan_run, prepare, show_plan
from scripts.pushing import keep_pushed, preflight, send, settle_earlier


def main(arguments=None, link=None) -> int:
    return run_command(push, arguments, link)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build a kernel and start it on Kaggle; what was pushed is recorded in runs/<run id>/push.json.",
        epilog="example: python scripts/push.py train --preset t4 --set epochs=100 --hours 9",
    )
    parser.add_argument("name", metavar="NAME", help="the kernel: the name of a file in kernels/, without .py")
    parser.add_argument("--preset", metavar="P", help="settings to begin with (salt/config.py lists the presets)")
    parser.add_argument("--set", metavar="key=value", action="extend", nargs="+", default=[], help="change settings")
    parser.add_argument("--owner", metavar="O", help="push as this Kaggle account (default: that of the credentials)")
    parser.add_argument("--accelerator", metavar="A", help="instead of the kernel's own; none: a CPU")
    parser.add_argument("--hours", metavar="H", type=float, help="after which Kaggle stops the run, at most 12")
    parser.add_argument("--run", metavar="RUN", help="mount the output of just this run, for predict")
    parser.add_argument("--beside", action="store_true", help="push although a version of this kernel still runs")
    parser.add_argument("--dry-run", action="store_true", help="look at everything, and push nothing")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where runs are kept (default: runs)")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--fan-out", choices=["folds"], help="one kernel for each fold of train_folds, two at a time")
    more.add_argument("--continue", dest="go_on", metavar="RUN", help="go on with a fan-out that was interrupted")
    more.add_argument("--resume", metavar="RUN", help="go on from what this run had trained when its time was up")
    options = parser.parse_args(arguments)
    if options.hours is not None and not 0 < options.hours <= MAX_HOURS:
        parser.error(f"--hours {options.hours:g}: Kaggle runs a session for more than 0 and at most 12 hours")
    changes = [options.owner, options.accelerator, options.hours, options.beside, options.dry_run]
    if options.go_on and any(changes):
        parser.error("--continue goes on as the fan-out was begun: leave all but --runs out")
    if (options.go_on or options.resume) and (options.preset or options.set or options.run):
        parser.error("--continue and --resume keep the settings of their run: leave --preset, --set and --run out")
    return options


def push(arguments=None, link=None) -> int:
    options = parse_arguments(arguments)
    link = link or KaggleLink()
    options.runs = options.runs.resolve()
    if options.go_on:
        return go_on(link, run_folder(options.go_on, options.runs), options.name)
    plan = plan_run(link, options)
    if options.fan_out:
        return start(link, options, plan)
    built, metadata, content, record = prepare(options, plan)
    show_plan(options, plan, metadata, content)
    twin = settle_earlier(link, options.runs, record, options.beside)
    if twin:
        number, name = twin["version"], twin["run_id"]
        print(f"\nnothing was pushed: this very notebook is on Kaggle as version {number}, run {name}")
        print(f"next: python scripts/fetch.py {twin['run_id']} --wait")
        return 0
    record |= {"previous": preflight(link, options, metadata, content, record), "at": utc_now()}
    if options.dry_run:
        print("\nnothing was pushed (--dry-run)")
        return 0
    folder = options.runs / plan.run_id
    keep_pushed(folder, built, metadata, record)
    with alone(folder):
        try:
            send(link, folder, record, metadata, content)
        except KaggleError:
            if record["state"] == "sending":
                shutil.rmtree(folder)  # refused: there is no such run
            raise
    print(f"\npushed: version {record['version']}, {record['url']}")
    print(f"next: python scripts/fetch.py {record['run_id']} --wait")
    return 0


if __name__ == "__main__":
    sys.exit(main())
