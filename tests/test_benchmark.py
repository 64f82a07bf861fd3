import json
import pathlib
import re

import numpy as np
import pytest

from desk.benchmarks import growth, masks, page, peers, programs
from desk.benchmarks.timing import Comparison, Contender, Measured, measure
from desk.errors import LocalRunError
from salt.metrics import threshold_sweep
from salt.rle import decode_rles, encode_rles
from scripts import benchmark


def contender(name, seconds, calls, items=10):
    """One whose calls take the given seconds, the first of them to warm up."""
    left = iter(seconds)

    def call():
        calls.append(name)
        return next(left)

    return Contender(name, items, call)


def test_ours_and_the_peers_run_in_turn_and_a_ratio_is_that_of_a_turn():
    calls = []
    ours, slow = contender("ours", (9, 1, 2, 4), calls), contender("peer", (9, 4, 4, 4), calls)
    (found,) = measure(Comparison("work", "item", ours, [slow], [2]), repeats=3)
    assert calls == ["ours", "peer"] * 4
    assert found.ours == (5, 2.5, 10) and found.theirs == (2.5, 2.5, 2.5)
    assert found.ratio == (2, 1, 4) and found.reached()
    assert not found._replace(goal=2.1).reached() and found._replace(goal=None).reached() is None


def test_items_a_second_are_compared_where_the_peer_does_fewer():
    ours, few = contender("ours", (9, 2), [], items=100), contender("peer", (9, 1), [], items=1)
    (found,) = measure(Comparison("work", "item", ours, [few]), repeats=1)
    assert found.ratio == (50, 50, 50) and found.goal is None


def test_work_without_peers_has_one_row():
    (found,) = measure(Comparison("work", "item", contender("ours", (9, 2), [])), repeats=1)
    assert found == Measured("work", "item", "", None, (5, 5, 5), None, None)
    assert page.table([found])[2] == "| work |  | 5 items/s |  |  |  |  |"


def test_the_table_says_whether_a_goal_is_reached_and_how_long_a_start_takes():
    row = Measured("encode", "mask", "C code", 2, (3000, 1, 1), (1000, 1, 1), (3, 2.5, 3.5))
    assert page.table([row])[2:] == [
        "| encode | C code | 3,000 masks/s | 1,000 masks/s | **3.00** | 2.50 to 3.50 | 2: yes |"
    ]
    assert "2: no" in page.table([row._replace(ratio=(1.9, 1, 3))])[2]
    assert "| 0.25 s |" in page.table([Measured("import", "start", "", None, (4, 4, 4), None, None)])[2]


def test_the_peak_of_the_machine_is_measured():
    found = re.fullmatch(r"peak ([0-9,]+) GFLOP/s \(float32\), (\d+) GB/s", page.measured_peak(256, 16))
    assert found and float(found[1].replace(",", "")) > 0


def test_what_is_written_comes_first_under_the_head_and_nothing_is_lost(tmp_path):
    path = tmp_path / "BENCHMARKS.md"
    path.write_text("# Head\n\nWhat it is.\n\n## Older\n\nrow\n")
    page.append(path, "Newer", ["a", "b"])
    assert path.read_text() == "# Head\n\nWhat it is.\n\n## Newer\n\na\nb\n\n## Older\n\nrow\n"


def test_the_other_ways_to_score_and_encode_give_the_same(synthetic_train):
    truth = synthetic_train.known_masks()[:6]
    probabilities = masks.noisy_probabilities(truth)
    levels = range(40, 250, 70)
    ours = threshold_sweep(probabilities, truth)
    np.testing.assert_allclose(masks.grade_by_histograms(probabilities, truth, levels), ours[:, np.array(levels) - 1])
    np.testing.assert_allclose(masks.sweep_level_by_level(probabilities, truth), ours)
    rles = encode_rles(truth)
    assert [masks.plain_encode(mask) for mask in truth] == rles
    np.testing.assert_array_equal([masks.plain_decode(rle) for rle in rles], decode_rles(rles, masks.SHAPE))


def test_a_program_of_any_length_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "BUILD", tmp_path)
    folder = programs.written_program(1000)
    lines = sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))
    assert 900 < lines < 1100
    assert programs.run("python3", "main.py", folder=folder)() > 0
    with pytest.raises(LocalRunError, match="status 3"):
        programs.run("python3", "-c", "exit(3)")()


def test_the_peers_are_pinned_and_are_made_anew_when_their_list_changes(tmp_path, monkeypatch):
    pinned, environment, commands = tmp_path / "peers.txt", tmp_path / "venv", []
    names = [line for line in peers.PINNED.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in name for name in names)
    pinned.write_text("one==1\n")

    def run(command):
        commands.append(command[1:4])
        environment.mkdir(exist_ok=True)
        return type("Done", (), {"returncode": int("fail" in pinned.read_text())})

    monkeypatch.setattr(peers, "PINNED", pinned)
    monkeypatch.setattr(peers, "ENVIRONMENT", environment)
    monkeypatch.setattr(peers.subprocess, "run", run)
    for _ in range(2):
        assert peers.peer_python() == environment / "bin" / "python"
    assert commands == [["-m", "venv", str(environment)], ["-m", "pip", "install"]]
    pinned.write_text("fail==2\n")
    with pytest.raises(peers.PeerError, match="failed; see above"):
        peers.peer_python()


def test_a_peer_that_fails_is_told_with_its_traceback(monkeypatch):
    monkeypatch.setattr(peers, "peer_python", lambda: pathlib.Path(peers.sys.executable))
    with peers.PeerProcess() as process:
        with pytest.raises(peers.PeerError, match="(?s)Traceback.*No module named .pycocotools"):
            process.prepare("encode_masks", masks="nowhere.npy")
        call, told = process.prepare("read_folder", folder=str(peers.ROOT / "docs"))
        assert told["files"] == len(list((peers.ROOT / "docs").glob("*.png"))) and callable(call)


def test_an_unknown_group_is_refused(capsys):
    assert benchmark.main(["scorng"]) == 2
    assert "there are scoring, rle" in capsys.readouterr().err


def test_growth_shows_how_much_more_an_item_costs_among_many():
    rows = [
        {"work": "read", "items": 10, "seconds": 1.0, "peak": 1e9},
        {"work": "read", "items": 40, "seconds": 6.0, "peak": 2e9},
        {"work": "score", "items": 10, "seconds": 1.0, "peak": 1e9},
    ]
    assert growth.table(rows)[2:] == [
        "| read | 10 | 1.00 | 1.00 |  |", "| read | 40 | 6.00 | 2.00 | 1.50 |", "| score | 10 | 1.00 | 1.00 |  |",
    ]  # fmt: skip


@pytest.mark.slow  # processes that import TensorFlow
def test_what_needs_no_peers_is_measured_and_written(monkeypatch, tmp_path, capsys):
    written = tmp_path / "BENCHMARKS.md"
    written.write_text("# Benchmarks\n")
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    assert benchmark.main(["start", "growth", "--quick", "--repeats", "1", "--write", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert {row["work"] for row in result["growth"]} == set(growth.PIECES)
    assert all(row["seconds"] > 0 and row["peak"] > 10e6 for row in result["growth"])
    assert any(row["name"] == "import salt" for row in result["rows"])
    assert "| import salt |" in written.read_text() and "--repeats 1" in written.read_text()
