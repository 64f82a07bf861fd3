"""What comes from elsewhere and is cut, damaged, too large or called as no file may be; and disks that take no more."""

import errno
import io
import os
import pathlib
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import pytest

import salt.archives
import salt.rle
import salt.submission
from desk import competition_data, submitting
from desk.command import explain
from desk.errors import ConfigurationError, LocalRunError
from desk.kaggle.errors import OutputError
from desk.kaggle.files import check_names, need_room
from desk.local.endings import unfinished_run
from desk.runs import find_run
from salt.archives import ArchiveError, DataError, Place, refuse_bomb
from salt.files import whole_file
from salt.limits import MOST_AT_ONCE, MOST_NAME
from salt.rle import parse_runs
from salt.submission import check_submission, read_submission
from salt.tgs import COMPETITION as TGS

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
CENTRAL, LOCAL = b"PK\1\2", b"PK\3\4"


def packed(content=b"id,rle_mask\n" * 99, name="train.csv") -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return held.getvalue()


def changed(field, value, kind="<H") -> bytes:
    """A zip with another value in a field of both of its headers: its offset in the local one; 2 more in the other."""
    content = bytearray(packed())
    for mark, more in ((LOCAL, 0), (CENTRAL, 2)):
        struct.pack_into(kind, content, content.index(mark) + field + more, value)
    return bytes(content)


def scratched() -> bytes:
    content = bytearray(packed())
    start = content.index(b"train.csv") + len(b"train.csv")
    content[start : start + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


BAD = {
    "unknown compression": changed(8, 97),
    "encrypted": changed(6, 1),
    "damaged": scratched(),
    "cut": packed()[:60],
    "of a later version": changed(4, 999),
    "several files": None,
}


@pytest.mark.parametrize("what", BAD)
def test_a_packed_download_that_cannot_be_read_is_thrown_away_so_that_it_comes_again(what, tmp_path):
    part, path = tmp_path / ".train.csv.part", tmp_path / "train.csv"
    content = BAD[what]
    if content is None:
        with zipfile.ZipFile(part, "w") as archive:
            archive.writestr("a.csv", "1")
            archive.writestr("b.csv", "2")
    else:
        part.write_bytes(content)
    with pytest.raises(OutputError, match=r"train\.csv came packed and cannot be unpacked .*; it is thrown away"):
        competition_data.finish(part, path, 1, packed=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", [name for name, content in BAD.items() if content])
def test_a_zip_that_cannot_be_read_is_thrown_away_and_no_traceback(what, tmp_path):
    part = tmp_path / ".train.zip.part"
    part.write_bytes(BAD[what])
    with pytest.raises(OutputError, match=r"train\.zip: .*; it is thrown away"):
        competition_data.finish(part, tmp_path / "train.zip", len(BAD[what]), packed=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "train.zip").write_bytes(BAD[what])
    with pytest.raises(DataError, match=r"train\.zip"):
        Place(tmp_path / "train.zip", inside="train.csv").read_bytes()


def test_a_disk_that_is_full_while_a_file_is_unpacked_throws_nothing_away(tmp_path, monkeypatch):
    part = tmp_path / ".train.csv.part"
    part.write_bytes(packed())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(competition_data.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        competition_data.finish(part, tmp_path / "train.csv", 1, packed=True)
    assert list(tmp_path.iterdir()) == [part] and part.read_bytes() == packed()


def test_a_file_is_unpacked_as_it_is(tmp_path):
    part, path = tmp_path / ".train.csv.part", tmp_path / "train.csv"
    part.write_bytes(packed(b"id\n1\n"))
    competition_data.finish(part, path, 1, packed=True)
    assert path.read_bytes() == b"id\n1\n" and not part.exists()


def test_a_bomb_is_refused_by_what_its_head_says(tmp_path, monkeypatch):
    monkeypatch.setattr(salt.archives, "FREELY_PACKED", 1 << 20)
    content = packed(bytes(2 << 20))
    for limit, message in ((None, r"of a zip of [\d,]+ are taken"), (1 << 16, "65,536 in all are taken")):
        if limit:
            monkeypatch.setattr(salt.archives, "MOST_UNPACKED", limit)
        with zipfile.ZipFile(io.BytesIO(content)) as archive, pytest.raises(ArchiveError, match=message):
            refuse_bomb(archive, "train.zip", len(content))
    part = tmp_path / ".train.csv.part"
    part.write_bytes(content)
    with pytest.raises(OutputError, match="unpacks to 2,097,152 bytes"):
        competition_data.finish(part, tmp_path / "train.csv", 1, packed=True)


def test_a_file_of_a_gigabyte_is_not_read_at_once(tmp_path):
    path = tmp_path / "tgs.zip"
    path.write_bytes(changed(22, MOST_AT_ONCE + 1, "<I"))
    with pytest.raises(
        DataError, match=r"tgs\.zip/train\.csv: has 536,870,913 bytes, and 536,870,912 are read at once"
    ):
        Place(path, inside="train.csv").read_bytes()


@pytest.mark.parametrize(
    "names, message",
    [
        (["../evil"], "leads out"),
        (["C:evil"], "leads out"),
        (["a//b"], "leads out"),
        ([""], "leads out"),
        (["a", "a/b"], "lies in 'a', which is a file"),
        (["deep/" + "å" * 120], f"has 240 bytes in a part, and {MOST_NAME} are taken"),
        (["a\nb"], "has characters that are none of a name"),
        (["a\x1b[31m"], "has characters that are none of a name"),
        (["half \ud83d"], "has characters that are none of a name"),
    ],
    ids=range(9),
)
def test_names_under_which_no_file_can_lie_are_refused(names, message):
    with pytest.raises(OutputError, match=f"its name {message}.*; nothing was taken"):
        check_names(["fine.csv", *names])
    check_names(["a/b", "a/c", "a b", "å.csv", "x" * MOST_NAME])


# --- disks ---


@pytest.mark.parametrize("number, words", [(errno.ENOSPC, "disk is full"), (errno.EROFS, "disk is read-only")])
def test_a_disk_that_takes_nothing_is_named_with_the_need_and_the_remedy(tmp_path, number, words):
    path = tmp_path / "runs" / "submit.json"
    with pytest.raises(OSError, match=os.strerror(number)) as raised, whole_file(path) as temporary:
        temporary.write_text("1234")
        raise OSError(number, os.strerror(number))  # of a write, which does not know the file's name
    message = explain(raised.value)
    assert message.startswith(f"{path}: the {words}; more than 4 bytes are needed")
    assert list(path.parent.iterdir()) == []
    assert "Make" in message and ("bytes are free" in message) == (number == errno.ENOSPC)


def test_a_download_that_has_no_room_is_not_begun(tmp_path):
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as raised:
        need_room(tmp_path / "train.zip.part", 1 << 60)
    assert "1,152,921,504,606,846,976 bytes are needed" in explain(raised.value)
    need_room(tmp_path / "train.zip.part", 1)


# --- submissions ---


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample_submission.csv"
    path.write_text("id,rle_mask\n" + "".join(f"t{index},1 1\n" for index in range(9)))
    return path


def test_a_submission_is_checked_in_parts_with_the_figures_of_the_whole(sample, tmp_path, monkeypatch):
    path = tmp_path / "submission.csv"
    path.write_text("id,rle_mask\n" + "".join(f"t{index},{'1 101' if index % 3 else ''}\n" for index in range(9)))
    parts = []

    def parse(texts, *more):
        parts.append(len(texts))
        return parse_runs(texts, *more)

    monkeypatch.setattr(salt.rle, "RLE_CHUNK", 4)
    monkeypatch.setattr(salt.rle, "parse_runs", parse)
    facts = check_submission(path, sample, TGS)
    assert parts == [2, 3, 1] and facts == {  # of 4, 4 and 1 rows; those without a mask have nothing to parse
        "rows": 9, "empty_share": pytest.approx(1 / 3), "mean_coverage": pytest.approx(6 / 9 / 101)
    }  # fmt: skip
    path.write_text(path.read_text().replace("t8,1 101", "t8,1 0"))
    with pytest.raises(salt.submission.SubmissionError, match="id 't8': run 1"):
        check_submission(path, sample, TGS)


def test_reading_a_submission_takes_few_times_its_size(tmp_path):
    path = tmp_path / "submission.csv"
    mask = " ".join(f"{1 + 40 * run} 13" for run in range(100))
    path.write_text("id,rle_mask\n" + "".join(f"t{index},{mask}\n" for index in range(5000)))
    tracemalloc.start()
    try:
        ids, _ = read_submission(path, TGS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids) == 5000 and peak < 3.5 * path.stat().st_size


@pytest.mark.slow
def test_a_submission_of_300_000_rows_is_checked_in_less_than_a_gigabyte(tmp_path):
    mask = " ".join(f"{1 + 40 * run} 13" for run in range(100))
    for name, rle in (("sample", "1 1"), ("submission", mask)):
        rows = (f"t{index},{rle if index % 3 else ''}\n" for index in range(300_000))
        (tmp_path / f"{name}.csv").write_text("id,rle_mask\n" + "".join(rows))
    code = (
        "from desk.benchmarks.growth import peak_memory\n"
        "from salt.submission import check_submission; from salt.tgs import COMPETITION\n"
        "check_submission('submission.csv', 'sample.csv', COMPETITION)\n"
        "print(peak_memory())\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True)
    print(
        f"\n300,000 rows, {(tmp_path / 'submission.csv').stat().st_size / 1e6:.0f} MB: {int(done.stdout) / 1e9:.2f} GB"
    )
    assert int(done.stdout) < 1e9, done.stderr


def test_a_submission_that_excel_saved_is_taken_and_sent_without_its_mark(sample, tmp_path, monkeypatch):
    sample.write_bytes(b"\xef\xbb\xbf" + sample.read_bytes())
    monkeypatch.setattr(submitting, "find_sample", lambda link, competition, data, cache: sample)
    path = tmp_path / "mine.csv"
    path.write_bytes(b"\xef\xbb\xbf" + sample.read_bytes().replace(b"\n", b"\r\n").removeprefix(b"\xef\xbb\xbf"))
    run = submitting.run_of_file(None, path, None, tmp_path / "runs")
    assert (run.folder / "submission.csv").read_bytes() == path.read_bytes()[3:]


# --- paths and systems ---


@pytest.fixture
def kept_runs(tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    (folder / "train-1").mkdir(parents=True)
    (folder / "train-1" / "push.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_run_is_found_by_any_path_of_its_folder(kept_runs, monkeypatch):
    monkeypatch.setenv("HOME", str(kept_runs.parent))
    for name in ("train-1", "train", "train-1/", "runs/train-1", str(kept_runs / "train-1"), "~/runs/train-1"):
        assert find_run(name, kept_runs).folder == kept_runs / "train-1"


@pytest.mark.parametrize(
    "name, message",
    [
        ("runs/train-1/push.json", "is a file; give the run's folder, runs/train-1"),
        ("runs", "is the folder of runs, or above it"),
        ("..", "is the folder of runs, or above it"),
        ("/", "is the folder of runs, or above it"),
        ("", "there is no such run; there are: train-1"),
        ("/nowhere/train-1", "there is no such run; there are: train-1"),
    ],
)
def test_what_is_no_run_is_refused_by_name(kept_runs, name, message):
    with pytest.raises(ConfigurationError, match=message):
        find_run(name, kept_runs)


def test_a_run_is_resumed_by_the_path_of_its_folder(kept_runs, tmp_path):
    for name in (str(kept_runs / "train-1"), "runs/train-1"):
        with pytest.raises(LocalRunError, match="runs/train-1 has no state: it is finished"):
            unfinished_run("train", name, kept_runs)
    with pytest.raises(LocalRunError, match=f"lies in {tmp_path}, and runs in {kept_runs}; add --runs {tmp_path}"):
        unfinished_run("train", str(tmp_path / "train-1"), kept_runs)


@pytest.mark.parametrize(
    "names",
    [
        ["desk.pushing", "desk.joining", "desk.local.kernels", *(f"scripts.{path.stem}" for path in SCRIPTS)],
        pytest.param(["salt.training", "salt.cluster"], marks=pytest.mark.slow),
    ],
    ids=["desk", "salt"],
)
def test_what_only_unix_has_is_not_needed_to_import(names):
    code = (
        "import importlib, sys; sys.modules['fcntl'] = None\n"
        "for name in sys.argv[1:]:\n    importlib.import_module(name)\n"
        "print('imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stdout.endswith("imported\n"), done.stderr


def test_nothing_but_the_wall_and_a_benchmark_asks_for_what_only_unix_has():
    for path in [*(ROOT / "salt").glob("*.py"), *(ROOT / "desk").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert path.name in ("sandbox.py", "growth.py") or not re.search(
            r"^\s*import (fcntl|resource|pwd)", text, re.MULTILINE
        ), path
