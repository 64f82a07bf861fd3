import hashlib
import os
import signal
import subprocess
import sys

import pytest

from salt.files import sha256_file, whole_file


def test_a_whole_file_takes_its_name_with_missing_folders(tmp_path):
    with whole_file(tmp_path / "a" / "b.csv") as temporary:
        temporary.write_text("id\n")
        assert not (tmp_path / "a" / "b.csv").exists()
    assert (tmp_path / "a" / "b.csv").read_text() == "id\n"
    assert os.listdir(tmp_path / "a") == ["b.csv"]


def test_the_temporary_name_keeps_all_suffixes(tmp_path):
    with whole_file(tmp_path / "fold0.weights.h5") as temporary:
        assert temporary.name.endswith(".weights.h5")
        temporary.write_bytes(b"1")


def test_an_error_while_writing_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"), whole_file(path) as temporary:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_a_full_disk_leaves_nothing_under_the_name(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OSError, match="No space left"), whole_file(tmp_path / "oof.npz") as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_text("x" * 100_000)
    assert os.listdir(tmp_path) == []


def test_a_kill_while_writing_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("old")
    script = (
        "import os, signal, sys\nfrom salt.files import whole_file\n"
        "with whole_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=os.getcwd())
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_finished_file_has_the_ordinary_mode(tmp_path):
    with whole_file(tmp_path / "whole") as temporary:
        temporary.write_text("x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_sha256_is_that_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 10_000  # more than one block
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()
