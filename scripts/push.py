"""Builds a kernel and starts it on Kaggle, after a look at everything that would make the run fail or be refused.

    python scripts/push.py train --preset t4 --set epochs=100 --hours 9
    python scripts/push.py predict --run train-t4-20261122-131502-ab12
    python scripts/push.py train --fan-out folds
    python scripts/push.py train --resume train-t4-20261122-131502-ab12
    python scripts/push.py train --dry-run
    python scripts/push.py path/to/main.py --args "--epochs 9"

The run gets a name that stands in the notebook, and `runs/<run id>/` with what was pushed (`pushed/`) and `push.json`:
the kernel's version, the notebook's SHA-256, the settings. A push that Kaggle refuses leaves nothing. One whose answer
is lost is looked up, never repeated; if it cannot be found yet, the next push, or `fetch.py`, looks again.
"""

import argparse
import pathlib
import sys

from desk import paths
from desk.building import add_program_options, read_program
from desk.command import Outcome, VerbParser, run_command
from desk.consent import Consent, add_consent_options, consent_of
from desk.runs import Run, find_run
from flattener.settings import bind_text, parse_settings


def main(arguments=None, link=None) -> int:
    return run_command(push, parse_arguments, arguments, link, resumable=True)


def parse_arguments(arguments) -> argparse.Namespace:
    parser = VerbParser(
        description="Build a kernel and start it on Kaggle; what was pushed is recorded in runs/<run id>/push.json.",
        epilog="example: python scripts/push.py train --preset t4 --set epochs=100 --hours 9",
    )
    parser.add_argument("name", metavar="NAME", help="the kernel: a file in kernels/, without .py, or a script's path")
    add_program_options(parser)
    parser.add_argument("--preset", metavar="P", help="settings to begin with (salt/config.py lists the presets)")
    parser.add_argument("--set", metavar="key=value", action="extend", nargs="+", default=[], help="change settings")
    parser.add_argument("--owner", metavar="O", help="push as this Kaggle account (default: that of the credentials)")
    parser.add_argument("--accelerator", metavar="A", help="instead of the kernel's own; none: a CPU")
    parser.add_argument("--hours", metavar="H", type=float, help="after which Kaggle stops the run, at most 12")
    parser.add_argument("--run", metavar="RUN", help="mount the output of just this run, for predict")
    parser.add_argument("--beside", action="store_true", help="push although a version of this kernel still runs")
    add_consent_options(parser, "push nothing")
    parser.add_argument("--runs", type=pathlib.Path, default=paths.RUNS, help="where runs are kept (default: runs)")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--fan-out", choices=["folds"], help="one kernel for each fold of train_folds, two at a time")
    more.add_argument("--continue", dest="fanned_out", metavar="RUN", help="resume a fan-out that was interrupted")
    more.add_argument("--resume", metavar="RUN", help="resume this run from what it had trained when its time was up")
    options = parser.parse_args(bind_text(sys.argv[1:] if arguments is None else arguments))
    options.program = read_program(parser, options)
    if options.hours is not None and not 0 < options.hours <= 12:
        parser.error(f"--hours {options.hours:g}: Kaggle runs a session for more than 0 and at most 12 hours")
    changes = [options.owner, options.accelerator, options.hours, options.beside]
    if options.fanned_out and any(changes):
        parser.error(
            "--continue resumes the fan-out as it was begun: leave --owner, --accelerator, --hours, --beside out"
        )
    if (options.fanned_out or options.resume) and (options.preset or options.set or options.run):
        parser.error("--continue and --resume keep the settings of their run: leave --preset, --set and --run out")
    return options


def push(options: argparse.Namespace, link=None) -> Outcome:
    from desk.fan_out import folds_to_push, push_folds, resume_folds
    from desk.kaggle.transport import KaggleLink
    from desk.planning import PushRequest
    from desk.pushing import push_run

    link, runs, consent = link or KaggleLink(), options.runs.resolve(), consent_of(options, "push")
    if options.fanned_out:
        run = find_run(options.fanned_out, runs)
        if not consent.allows(folds_to_push(run)):
            return nothing_pushed(consent)
        return pushed(resume_folds(link, run, options.program.kernel))
    request = PushRequest(
        options.program, runs, options.preset, parse_settings(options.set), options.owner, options.accelerator,
        options.hours, mounted=find_run(options.run, runs) if options.run else None,
        resumed=find_run(options.resume, runs) if options.resume else None, fan_out=bool(options.fan_out),
        beside=options.beside, dry_run=options.dry_run, consent=consent,
    )  # fmt: skip
    run = push_folds(link, request) if options.fan_out else push_run(link, request)
    if run is None:
        return nothing_pushed(consent)
    return pushed(run, anew=bool(consent.deed))  # else it runs already


def nothing_pushed(consent: Consent) -> Outcome:
    """After a dry run."""
    print("\nnothing was pushed (--dry-run)")
    return Outcome({"pushed": False, **consent.result}, consent.next)


def pushed(run: Run, anew: bool = True) -> Outcome:
    """After a push, or instead of one."""
    facts = {"pushed": anew, "run": run.run_id, "folds": [], "ref": None, "version": None, "url": None}
    if run.is_fanned_out:
        print("\nall folds are pushed")
        facts["folds"] = run.queue.folds
    else:
        facts |= {"ref": run.push.ref, "version": run.push.version, "url": run.push.url}
        if anew:
            print(f"\npushed: version {run.push.version}, {run.push.url}")
    return Outcome(facts, (f"python scripts/fetch.py {run.run_id} --wait",))


if __name__ == "__main__":
    sys.exit(main())
