"""SKILL.md, followed to the letter: with --json alone, from a push to a submission."""

import json
import re
import shlex

import kaggle_stand_in
import pytest
from kaggle_stand_in import COMPETITION, USER, make_link, train_output
from test_round_trip import IDS, predict_output

from desk import paths
from scripts import fetch, push, runs, score_oof, submit

stand_in, repository = kaggle_stand_in.stand_in, kaggle_stand_in.repository
SKILL = paths.ROOT / "SKILL.md"
VERBS = {"push": push, "fetch": fetch, "score_oof": score_oof, "submit": submit, "runs": runs}
CELLS = 'PRESET = "smoke"\nSET = {}\nRUN_ID = ""\n\n# %%\nprint(PRESET, SET, RUN_ID)\n'


@pytest.fixture
def kaggle(stand_in, repository, tmp_path):
    """A Kaggle that runs two kernels, train and predict, which are built in no time."""
    for name in ("train", "predict"):
        text = kaggle_stand_in.KERNEL.replace("NAME", name).replace("from salt.config import preset\n", "")
        (repository / "kernels" / f"{name}.py").write_text(text + CELLS)
    sample = "\n".join(["id,rle_mask", *(f"{name},1 1" for name in IDS), ""])
    stand_in.competitions[COMPETITION]["sample_submission.csv"] = sample.encode()
    stand_in.next_states = ["QUEUED", "RUNNING", "COMPLETE"]

    def run(version):
        make_output = train_output if "train" in version["request"]["slug"] else predict_output
        stand_in.leave_output(version, make_output(tmp_path, version), "epoch 1\nthe end\n")

    stand_in.on_push = run
    return stand_in


@pytest.fixture
def ask(kaggle, repository, monkeypatch, capsys):
    """Types a command of a document; gives the document on stdout."""
    monkeypatch.setattr(paths, "RUNS", repository / "runs")

    def run(line):
        python, script, *words = shlex.split(line)
        assert python == "python" and "--json" in words
        verb = VERBS[re.fullmatch(r"scripts/(\w+)\.py", script)[1]]
        status = verb.main(words, *([] if verb is score_oof else [make_link()]))
        document = json.loads(capsys.readouterr().out)
        assert document["exit_status"] == status and document["version"] == 1
        return document

    return run


def skill_lines():
    text = SKILL.read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return block.splitlines()


def test_the_skill_leads_from_a_push_to_a_score_on_the_leaderboard(kaggle, ask):
    known, done = {}, []
    for line in skill_lines():
        for name in ("PREDICT_RUN", "TOKEN", "RUN"):
            line = re.sub(rf"\b{name}\b", known.get(name, name), line)
        document = ask(line)
        assert document["ok"], document
        result = document["result"]
        done.append((document["verb"], result))
        known["TOKEN"] = result.get("token", "")
        if result.get("pushed"):
            known["PREDICT_RUN" if " predict " in line else "RUN"] = result["run"]
    assert [verb for verb, _ in done] == [*["push"] * 2, "fetch", "score_oof", *["push"] * 2, "fetch", *["submit"] * 2]
    assert done[0][1]["would"]["push"] == [f"{USER}/salt-train"] and len(kaggle.calls("SaveKernel")) == 2
    assert done[-1][1]["public"] == 0.78543 and len(kaggle.submissions) == 1
    assert done[2][1]["finished"] and isinstance(done[3][1]["nested_score"], float)


def test_without_a_word_nothing_is_pushed_and_a_word_counts_once(kaggle, ask):
    train = "python scripts/push.py train --json"
    asked = ask(train)
    assert (asked["exit_status"], asked["error"]["kind"]) == (4, "NoWord")
    assert asked["next"] == [f"{train} --dry-run"] and not kaggle.kernels
    told = ask(asked["next"][0])
    assert told["result"]["pushed"] is False and not kaggle.kernels
    assert ask(f"{told['next'][0]} --accelerator none")["exit_status"] == 4 and not kaggle.kernels
    made = ask(told["next"][0])
    assert made["ok"] and made["next"] == [f"python scripts/fetch.py {made['result']['run']} --wait"]
    assert ask(told["next"][0])["result"]["pushed"] is False  # it still runs
    kaggle.kernels[f"{USER}/salt-train"][0]["states"] = ["COMPLETE"]
    assert ask(told["next"][0])["exit_status"] == 4
    assert len(kaggle.kernels[f"{USER}/salt-train"]) == 1


@pytest.mark.slow
def test_a_fan_out_takes_one_word_and_resuming_it_another(kaggle, ask, repository):
    text = kaggle_stand_in.KERNEL.replace("NAME", "train") + kaggle_stand_in.TRAIN
    (repository / "kernels" / "train.py").write_text(text)
    line = "python scripts/push.py train --fan-out folds --set 'train_folds=[0,1]' --json"
    assert ask(line)["exit_status"] == 4 and not kaggle.kernels
    told = ask(f"{line} --dry-run")
    assert told["result"]["would"]["push"] == [f"{USER}/salt-train-fold-{fold}" for fold in (0, 1)]
    made = ask(told["next"][0])
    assert made["ok"] and made["result"]["folds"] == [0, 1] and len(kaggle.kernels) == 2
    again = f"python scripts/push.py train --continue {made['result']['run']} --json"
    assert ask(again)["exit_status"] == 4
    assert ask(ask(f"{again} --dry-run")["next"][0])["ok"]
    assert {len(versions) for versions in kaggle.kernels.values()} == {1}


def test_a_submission_wants_the_word_for_its_file_and_its_message(kaggle, ask, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["id,rle_mask", *(f"{name}," for name in IDS), ""]))
    line = f"python scripts/submit.py {path} --json"
    assert ask(line)["exit_status"] == 4
    told = ask(f"{line} --dry-run")
    assert told["result"]["would"]["to"] == COMPETITION and not kaggle.submissions
    assert ask(f"{told['next'][0]} --message other")["exit_status"] == 4 and not kaggle.submissions
    path.write_text(path.read_text().replace(f"{IDS[0]},", f"{IDS[0]},1 1"))
    assert ask(told["next"][0])["exit_status"] == 4 and not kaggle.submissions
    assert ask(ask(f"{line} --dry-run")["next"][0])["ok"] and len(kaggle.submissions) == 1
    assert ask(f"{line} --again")["exit_status"] == 4 and len(kaggle.submissions) == 1
