import json
import pathlib
import subprocess
import sys
import textwrap
import types

import pytest

import desk.local.chain
import desk.local.competitions
import desk.local.kernels
import desk.pages.report
import desk.scoring
import salt.competition
import salt.submission
from desk.errors import LocalRunError
from desk.local.chain import order_kernels
from scripts import smoke_test

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCORE = {
    "best_score": 0.7131, "best_level": 117, "best_interval": [0.6803, 0.7421], "half_score": 0.7014, "tiles": 24,
}  # fmt: skip


calls_of = {}  # what the last chain was of


def metadata(slug, *sources):
    return {"id": f"local/{slug}", "kernel_sources": [f"local/{source}" for source in sources]}


@pytest.fixture
def chain(monkeypatch, tmp_path):
    """The chain with stand-ins for its slow parts; gives the list of what was called."""
    calls, competitions = [], []

    def run_kernel(program, **options):
        calls.append((program.given, options))
        competitions.append(program.competition)
        folder = tmp_path / program.given
        folder.mkdir()
        return folder

    def score(names):
        calls.append(("score", names))
        return SCORE

    def report(run, second, data):
        calls.append(("report", (run, second, data)))

    def find(roots, competition):
        return types.SimpleNamespace(sample_submission=roots[0] / "sample_submission.csv")

    def check(submission, sample, competition, sides=None):
        calls.append(("check", (submission, sample)))
        return {"rows": 12, "empty_share": 0.25, "mean_coverage": 0.2}

    def competition_folder(competition, **options):
        calls.append(("data", options))
        competitions.append(competition.slug)
        return tmp_path / "tgs"

    plan = {"train": ([], True), "predict": (["train"], False)}
    monkeypatch.setattr(desk.local.competitions, "competition_folder", competition_folder)
    monkeypatch.setattr(desk.local.chain, "plan_kernels", lambda competition: plan)
    monkeypatch.setattr(desk.local.kernels, "run_kernel", run_kernel)
    monkeypatch.setattr(desk.scoring, "show_score", score)
    monkeypatch.setattr(desk.pages.report, "write_report", report)
    monkeypatch.setattr(salt.competition, "find_competition", find)
    monkeypatch.setattr(salt.submission, "check_submission", check)
    calls_of.update(competitions=competitions)
    return calls


def test_each_kernel_runs_on_the_outputs_of_those_before_it_then_both_are_judged(chain, tmp_path, capsys):
    assert smoke_test.main(["--runs", str(tmp_path)]) == 0
    common = {"data": tmp_path / "tgs", "runs": tmp_path}
    assert chain == [
        ("data", {"synthetic": 48}),
        ("train", {**common, "preset": "smoke", "mounted_runs": []}),
        ("predict", {**common, "preset": None, "mounted_runs": [tmp_path / "train"]}),
        ("score", [tmp_path / "train"]),
        ("report", (tmp_path / "train", None, tmp_path / "tgs")),
        ("check", (tmp_path / "predict" / "submission.csv", tmp_path / "tgs" / "sample_submission.csv")),
    ]
    shown = capsys.readouterr().out
    assert "0.713 at level 117 of 255 (95 % interval 0.680 to 0.742, 24 tiles)" in shown
    texts = ("0.701", "12 rows, 25% of them empty", "train 0, predict 0", "report.html", "train.html", "submission.csv")
    for text in texts:
        assert text in shown


def test_the_demonstration_is_larger_and_takes_the_users_tiles(chain, tmp_path):
    assert smoke_test.main(["--demo", "--data", "my-tgs", "--runs", str(tmp_path)]) == 0
    assert chain[0] == ("data", {"data": pathlib.Path("my-tgs"), "tiles": 400})
    assert chain[1][1]["preset"] == "demo"


@pytest.mark.parametrize("options, ran", [([], ["search", "train", "predict"]), (["--demo"], ["train", "predict"])])
def test_the_search_is_a_part_of_the_chain_and_not_of_the_demonstration(chain, tmp_path, monkeypatch, options, ran):
    plan = {"search": ([], True), "train": ([], True), "predict": (["train"], False)}
    monkeypatch.setattr(desk.local.chain, "plan_kernels", lambda competition: plan)
    assert smoke_test.main([*options, "--runs", str(tmp_path)]) == 0
    assert [name for name, _ in chain if name in plan] == ran


@pytest.mark.parametrize("error", [LocalRunError("no room"), ValueError("no room"), OSError("no room")])
def test_a_step_that_fails_ends_the_chain_and_is_named(chain, tmp_path, monkeypatch, capsys, error):
    run_kernel = desk.local.kernels.run_kernel

    def fail(program, **options):
        if program.given == "predict":
            raise error
        return run_kernel(program, **options)

    monkeypatch.setattr(desk.local.kernels, "run_kernel", fail)
    assert smoke_test.main(["--runs", str(tmp_path)]) == 1
    assert "step 'predict' failed: no room" in capsys.readouterr().err
    assert [name for name, _ in chain] == ["data", "train"]


def test_a_score_that_fails_ends_the_chain(chain, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(desk.scoring, "show_score", lambda names: (_ for _ in ()).throw(ValueError("no oof.npz")))
    assert smoke_test.main(["--runs", str(tmp_path)]) == 1
    assert "step 'score' failed" in capsys.readouterr().err
    assert "check" not in [name for name, _ in chain]


def test_an_interrupt_ends_the_chain_with_its_own_status(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(desk.local.kernels, "run_kernel", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert smoke_test.main(["--runs", str(tmp_path)]) == 130


def test_kernels_run_in_the_order_of_their_sources():
    kernels = {
        "a_last": metadata("salt-last", "salt-predict", "salt-train/3"),
        "predict": metadata("salt-predict", "salt-train"),
        "train": metadata("salt-train"),
    }
    parameters = {"train": {"PRESET": "unet", "SET": {}}, "predict": {"SET": {}}, "a_last": {}}
    plan = order_kernels(kernels, parameters)
    assert list(plan) == ["train", "predict", "a_last"]
    assert plan == {"train": ([], True), "predict": (["train"], False), "a_last": (["predict", "train"], False)}


def test_a_kernel_whose_source_nobody_makes_or_a_circle_is_an_error():
    with pytest.raises(LocalRunError, match="predict needs the output of salt-tarin; kernels/ makes"):
        order_kernels({"predict": metadata("salt-predict", "salt-tarin")}, {"predict": {}})
    circle = {"a": metadata("salt-a", "salt-b"), "b": metadata("salt-b", "salt-a")}
    with pytest.raises(LocalRunError, match="in a circle"):
        order_kernels(circle, {"a": {}, "b": {}})


def test_help_imports_neither_tensorflow_nor_opencv():
    script = f"""
        import runpy, sys
        sys.argv = ["smoke_test.py", "--help"]
        try:
            runpy.run_path({str(ROOT / "scripts" / "smoke_test.py")!r}, run_name="__main__")
        except SystemExit as stopped:
            assert stopped.code == 0
        print({{"tensorflow", "keras", "cv2", "numpy", "papermill"}} & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "--demo" in done.stdout and done.stdout.endswith("set()\n")


def test_another_competition_is_that_of_the_tiles_and_of_every_kernel(chain, tmp_path):
    assert smoke_test.main(["--competition", "carvana", "--runs", str(tmp_path)]) == 0
    assert calls_of["competitions"] == ["carvana-image-masking-challenge", "carvana", "carvana"]
    assert chain[0] == ("data", {"synthetic": 16})  # of large images a third as many


@pytest.mark.slow
@pytest.mark.parametrize("name", ["airbus", "severstal", "carvana"])
def test_the_kernels_of_the_other_competitions_come_to_a_checked_submission(tmp_path, name):
    command = [sys.executable, ROOT / "scripts" / "smoke_test.py", "--competition", name, "--runs", tmp_path / "runs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (train,), (predict,) = ((tmp_path / "runs").glob(each) for each in ("train-smoke-*", "predict-*"))
    manifest = json.loads((predict / "manifest.json").read_text())
    assert manifest["trained_by"] == train.name and manifest["competition"].startswith(name)
    assert "checked" in done.stdout and (train / "report.html").is_file()


@pytest.mark.slow
def test_the_real_kernels_go_from_the_package_to_a_checked_submission(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "smoke_test.py", "--runs", tmp_path / "runs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    (train,), (predict,) = ((tmp_path / "runs").glob(name) for name in ("train-smoke-*", "predict-*"))
    assert json.loads((predict / "manifest.json").read_text())["trained_by"] == train.name
    assert json.loads((train / "score.json").read_text())["tiles"] == 24  # one fold of two
    assert "12 rows" in done.stdout
    assert all(path.is_file() for path in (train / "train.html", train / "report.html", predict / "predict.html"))
