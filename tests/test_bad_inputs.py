"""Every record and every answer of Kaggle, with other types and cut short: an error of one line, never a traceback."""

import copy
import json
import shutil

import numpy as np
import pytest
from round_trips import PREDICT, World

from desk.records import read_object, read_record
from desk.states import FetchRecord, PushRecord, QueueRecord, SubmitRecord
from salt.artifacts import Oof, write_manifest, write_oof
from salt.config import preset
from scripts import compare, ensemble, score_oof
from scripts import runs as run_table

BAD = [None, True, -1, 0, 1.5, 1e308, float("nan"), "", "abc", "\ud800", "../x", [], ["a"], {}, {"code": 429}, [[[]]],
       10**30, "x" * 10_000]  # fmt: skip
CUTS = [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 10_000, b'{"a": ' + b"[" * 10_000, b"9" * 5000]


def bad_values(content: dict):
    """A file's or an answer's content with one field of a bad value, or missing; and what is no JSON."""

    def spoilt(value, path=()):
        for bad in BAD:
            yield (*path,), bad
        inner = (
            list(value.items())
            if isinstance(value, dict)
            else list(enumerate(value))[:1]
            if isinstance(value, list)
            else []
        )
        for key, each in inner:
            yield from spoilt(each, (*path, key))

    for path, bad in spoilt(content):
        if path:
            whole = copy.deepcopy(content)
            place = whole
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = bad
            yield json.dumps(whole).encode("utf-8", "surrogatepass")
    for key in content:
        yield json.dumps({name: value for name, value in content.items() if name != key}).encode()
    text = json.dumps(content).encode()
    yield from (*CUTS, text[: len(text) // 2], text[:-1])


class Desk(World):
    """A desk with a run, a run with fanned-out folds, a submission and a dataset; each can be put back."""

    def __init__(self):
        super().__init__()
        self.change = None  # (name of a request, what its answer is instead)
        exchange = self.kaggle.exchange
        self.answers = {}

        def changed(verb, url, headers, content):
            reply = exchange(verb, url, headers, content)
            name = self.kaggle.requests[-1][0]
            if reply.status == 200 and reply.headers.get("Content-Type") == "application/json":
                self.answers[name] = json.loads(reply.body)
                if self.change and self.change[0] == name:
                    reply.body = self.change[1]
            return reply

        self.kaggle.exchange = changed
        self.run(["push", "train"])
        self.run(["push", "train", "--fan-out", "folds", "--set", "folds=2", "train_folds=[0,1]"])
        self.time += 100
        (self.single,), (self.fanned,) = self.names(), self.names(fanned_out=True)
        self.run(["submit", PREDICT])
        self.run(["upload", str(self.root / "a.h5")])
        self.run(["fetch", self.single])
        self.run(["runs", "--refresh"])
        self.kept = self.root / "kept"
        shutil.copytree(self.runs, self.kept)
        self.state = {
            name: copy.deepcopy(getattr(self.kaggle, name)) for name in ("kernels", "datasets", "submissions")
        }

    def put_back(self):
        shutil.rmtree(self.runs)
        shutil.copytree(self.kept, self.runs)
        for name, value in self.state.items():
            setattr(self.kaggle, name, copy.deepcopy(value))
        self.change = None
        self.time += 5000

    def look(self, verb, status):
        """Nothing is remembered: records are damaged here."""

    def try_verb(self, verb):
        """Runs a verb, which must end with a status and a line that says why."""
        status = self.run(verb)
        assert status in (0, 1, 2, 3, 75), (verb, status, self.text)
        assert "Traceback" not in self.text
        if status:
            assert "error: " in self.text, (verb, self.text)
        return status


@pytest.fixture(scope="module")
def desk():
    made = Desk()
    yield made
    made.closing.close()


def verbs(desk):
    again = [["push", "train", "--continue", desk.fanned], ["push", "train", "--resume", desk.single],
             ["fetch", desk.fanned], ["submit", PREDICT]]  # fmt: skip
    return [["runs"], ["fetch", desk.single], *again, ["push", "train", "--set", "seed=2"], ["runs", "--refresh"],
            ["upload", str(desk.root / "b.h5")]]  # fmt: skip


def try_records(desk, step):
    count = 0
    for path in sorted(one.relative_to(desk.kept) for one in desk.kept.rglob("*.json")):
        for number, content in enumerate(bad_values(read_object(desk.kept / path))):
            if number % step:
                continue
            desk.put_back()
            (desk.runs / path).write_bytes(content)
            for verb in verbs(desk):
                desk.try_verb(verb)
            count += 1
    return count


def try_answers(desk, step):
    count = 0
    for name, answer in sorted(desk.answers.items()):
        for number, content in enumerate(bad_values(answer)):
            if number % step:
                continue
            desk.put_back()
            desk.change = (name, content)
            shutil.rmtree(desk.runs / desk.fanned)
            for verb in [["push", "train", "--set", "seed=3"], ["submit", PREDICT, "--again"], ["runs", "--refresh"],
                         ["upload", str(desk.root / "b.h5")], ["fetch", desk.single]]:  # fmt: skip
                desk.try_verb(verb)
            count += 1
    return count


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A folder with two training runs, and in kept/ the first as it is."""
    root = tmp_path_factory.mktemp("scored")
    for name, shift in (("train-1", 0), ("train-2", 9)):
        fold, masks = np.repeat(np.array([0, 1], np.int8), 2), np.zeros((4, 101, 101), np.uint8)
        masks[::2, :50] = 1
        (root / name).mkdir()
        write_oof(root / name / "oof.npz", Oof(np.array(list("abcd")), fold, (200 - shift) * masks, masks))
        (root / name / "history.csv").write_text("fold,epoch,loss\n0,1,0.5\n1,1,0.4\n")
        write_manifest(root / name, name, "train", preset("smoke", folds=2, train_folds=(0, 1)), minutes=1.0)
    (root / "train-1" / "score.json").write_text('{"best_score": 0.5}')
    shutil.copytree(root / "train-1", root / "kept")
    return root


def try_scores(root, capsys, step):
    """The verbs that compute with a run, and no Kaggle."""
    count, (one, two) = 0, (str(root / name) for name in ("train-1", "train-2"))
    for path in (root / "kept" / "manifest.json", root / "kept" / "score.json"):
        for number, content in enumerate(bad_values(read_object(path))):
            if number % step:
                continue
            (root / "train-1" / path.name).write_bytes(content)
            for verb, words in [
                (score_oof, [one]),
                (compare, [one, two]),
                (ensemble, [one, two, "--out", str(root / "out")]),
                (run_table, ["--runs", str(root)]),
            ]:
                status = verb.main(words)
                text = capsys.readouterr().err
                assert status in (0, 1) and "Traceback" not in text and ("error: " in text) == (status == 1), text
            shutil.copyfile(path, root / "train-1" / path.name)
            count += 1
    return count


def test_bad_manifests_are_errors_of_what_computes_with_them(scored, capsys):
    assert try_scores(scored, capsys, step=97) >= 10


@pytest.mark.slow
def test_every_bad_manifest_is_an_error_of_what_computes_with_it(scored, capsys):
    count = try_scores(scored, capsys, step=1)
    with capsys.disabled():
        print(f"\n{count:,} bad manifests and scores, {4 * count:,} commands: no traceback")


def test_bad_records_are_errors(desk):
    assert try_records(desk, step=397) >= 10


def test_bad_answers_are_errors(desk):
    assert try_answers(desk, step=397) >= 5


@pytest.mark.slow
def test_every_bad_record_is_an_error(desk):
    count = try_records(desk, step=1)
    print(f"\n{count:,} bad records, {count * len(verbs(desk)):,} commands: no traceback")


@pytest.mark.slow
def test_every_bad_answer_is_an_error(desk):
    print(f"\n{try_answers(desk, step=1):,} bad answers: no traceback")


@pytest.mark.parametrize("content", [b'{"state": "pus', b"[]", b'{"schema": 9}'])
def test_the_command_that_an_error_names_makes_a_record_whole(desk, content):
    desk.put_back()
    spoilt = {
        desk.runs / desk.single / "push.json": (PushRecord, ["fetch", desk.single]),
        desk.runs / desk.single / "fetch.json": (FetchRecord, ["fetch", desk.single]),
        desk.runs / desk.fanned / "queue.json": (QueueRecord, ["push", "train", "--continue", desk.fanned]),
        desk.runs / desk.fanned / "parts" / "fold-1" / "push.json": (PushRecord, ["fetch", desk.fanned]),
        desk.runs / PREDICT / "submit.json": (SubmitRecord, ["submit", PREDICT]),
    }
    for path, (kind, verb) in spoilt.items():
        before = read_record(path.parent, kind)
        path.write_bytes(content)
        assert desk.try_verb(["runs"]) == 0
        assert "damaged" in desk.text and str(path) in desk.text and kind.REMEDY.split(" {run}")[0] in desk.text
        assert desk.try_verb(verb) == 0, desk.text
        after = read_record(path.parent, kind)
        same = [name for name in ("run_id", "ref", "version", "state", "folds", "fold", "settings", "public")
                if hasattr(after, name) and (kind, name) != (QueueRecord, "settings")]  # fmt: skip
        assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
        assert desk.try_verb(["runs"]) == 0 and "damaged" not in desk.text, desk.text
        assert len(desk.kaggle.submissions) == 1


def test_what_is_damaged_is_kept_beside_what_was_made_anew(desk):
    desk.put_back()
    (desk.runs / desk.single / "push.json").write_text("by hand")
    assert desk.try_verb(["fetch", desk.single]) == 0
    assert (desk.runs / desk.single / "push.json.damaged").read_text() == "by hand"
