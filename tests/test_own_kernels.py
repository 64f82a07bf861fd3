"""Any Python file is a kernel: it is built, run at the desk, pushed and fetched as it is."""

import json
import os
import pathlib
import subprocess
import sys

import kaggle_stand_in
import pytest
from kaggle_stand_in import USER, make_link, parameters

import build_kernel
from desk import paths
from desk.records import read_object
from salt.artifacts import verify_run
from scripts import fetch, new_kernel, push, run_local

stand_in = kaggle_stand_in.stand_in
EDA = """\
import json
import pathlib

# What is there?
print(json.dumps({"inputs": sorted(path.name for path in pathlib.Path("../input").glob("*"))}))
"""
MAIN = '''\
"""Counts words.

Twice.
"""
# /// script
# dependencies = ["numpy"]
# ///
import argparse
import sys

from tool.words import count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--out", default="count.txt")
    options = parser.parse_args()
    with open(options.out, "w") as file:
        file.write(str(count(options.text) + len(open("{}.txt".format("extra")).read())))
    if options.text == "fail":
        raise ValueError("as it was asked to")


if __name__ == "__main__":
    sys.exit(main())
'''


@pytest.fixture
def repository(stand_in, tmp_path, monkeypatch):
    """A repository with the kernel `eda`, a stranger's beside it, and a Kaggle that runs what is pushed."""
    root, other = tmp_path / "repository", tmp_path / "other"
    for path, text in {
        root / "kernels/eda.py": EDA,
        other / "main.py": MAIN,
        other / "extra.txt": "abc",
        other / "tool/__init__.py": "",
        other / "tool/words.py": "def count(text):\n    return len(text.split())\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "BUILD", root / "build")
    stand_in.on_push = lambda version: run_version(stand_in, version, tmp_path / "kaggle")
    stand_in.next_states = ["COMPLETE"]
    return root


def run_version(stand_in, version, folder: pathlib.Path):
    """Runs the cells of a pushed notebook in a folder, as Kaggle would, and leaves what they write."""
    folder.mkdir()
    cells = [cell for cell in json.loads(version["source"])["cells"] if cell["cell_type"] == "code"]
    program = "\n".join("".join(cell["source"]) for cell in cells)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env={"PATH": os.defpath}, capture_output=True, text=True)
    stand_in.leave_output(version, {path.name: path.read_bytes() for path in folder.iterdir()}, done.stdout)
    if done.returncode:
        version["states"] = ["ERROR"]


def name_of(repository, program):
    other = repository.parent / "other"
    return [str(other / "main.py"), "--package", str(other / "tool"), "--data", str(other / "extra.txt"), *program]


PROGRAMS = {
    "a kernel of two imports and a print": (lambda repository: ["eda"], "eda", "eda notebook", {}),
    "the entry of a package elsewhere": (
        lambda repository: name_of(repository, ["--args", "'one two' --out n.txt"]), "main", "main notebook",
        {"n.txt": b"5", "extra.txt": b"abc"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_any_python_file_goes_through_build_desk_push_and_fetch(program, repository, stand_in, capsys):
    given, name, title, written = PROGRAMS[program]
    runs = ["--runs", str(repository / "runs")]
    assert build_kernel.main([*given(repository), "--out", str(repository / "build")], repository) == 0
    assert read_object(repository / "build" / name / "kernel-metadata.json")["title"] == title

    assert run_local.main([*given(repository), *runs, "--sandbox", "guard"]) == 0
    (local,) = (repository / "runs").glob(f"{name}-*")
    assert verify_run(local)["finished"] and {n: (local / n).read_bytes() for n in written} == written

    assert push.main([*given(repository), *runs], make_link()) == 0
    (pushed,) = {path.parent for path in (repository / "runs").glob("*/push.json")}
    assert f"fetch.py {pushed.name} --wait" in capsys.readouterr().out
    assert parameters(stand_in.kernels[f"{USER}/{name}-notebook"][0])["RUN_ID"] == pushed.name
    assert fetch.main([pushed.name, *runs], make_link()) == 0
    manifest = verify_run(pushed)
    assert (manifest["run_id"], manifest["kernel"], manifest["finished"]) == (pushed.name, name, True)
    assert set(manifest["files"]) == set(written) and {n: (pushed / n).read_bytes() for n in written} == written
    assert "next:" not in capsys.readouterr().out and not stand_in.escapes


def test_a_run_that_stops_early_leaves_the_files_that_it_had_written_and_says_so(repository, stand_in, capsys):
    given, runs = name_of(repository, ["--args", "fail"]), ["--runs", str(repository / "runs")]
    assert push.main([*given, *runs], make_link()) == 0
    (pushed,) = (repository / "runs").glob("main-*")
    assert fetch.main([pushed.name, *runs], make_link()) != 0
    manifest = read_object(pushed / "partial" / "manifest.json")
    assert (
        manifest["run_id"] == pushed.name
        and not manifest["finished"]
        and list(manifest["files"]) == ["count.txt", "extra.txt"]
    )
    assert "resume" not in capsys.readouterr().err


def test_a_program_that_reads_required_arguments_is_warned_about_and_told_its_name(repository, tmp_path, capsys):
    other = repository.parent / "other"
    command = ["--entry", str(other / "main.py"), "--package", str(other / "tool"), "--out", str(tmp_path / "o.ipynb")]
    assert build_kernel.main(command) == 0
    assert "main.py:16: `text` is required on the command line" in capsys.readouterr().out
    text = (tmp_path / "o.ipynb").read_text()
    assert 'sys.argv = [\\"main.py\\"]' in text and "# %pip install numpy" in text


def test_a_name_that_the_program_uses_is_not_taken(repository, tmp_path):
    (repository / "kernels/eda.py").write_text('import sys\n\nRUN_ID = "mine"\n')
    with pytest.raises(build_kernel.BuildError, match="kernels/eda.py:3: the name RUN_ID is used.*parameters"):
        build_kernel.build_kernel("eda", out=tmp_path, root=repository)
    (repository / "kernels/eda.py").write_text('write_manifest = 3\nopen("x", "w").close()\n')
    folder = build_kernel.build_kernel("eda", out=tmp_path, root=repository, form="script")
    subprocess.run([sys.executable, folder / "eda.py"], cwd=folder, check=True, capture_output=True)
    assert verify_run(folder)["finished"] and "x" in verify_run(folder)["files"]


def test_a_first_kernel_is_written_once_and_can_be_built(repository, capsys):
    command = ["first-look", "--folder", str(repository / "kernels")]
    assert new_kernel.main(command) == 0
    folder = build_kernel.build_kernel("first-look", out=repository / "build", root=repository)
    assert read_object(folder / "kernel-metadata.json")["title"] == "first look"
    assert new_kernel.main(command) == 1 and "is there already" in capsys.readouterr().err
    assert new_kernel.main(["../x"]) == 1


def test_a_script_in_modules_style_may_be_imported_under_the_name_of_its_entry(tmp_path):
    package, out = tmp_path / "pkg", tmp_path / "out"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("VALUE = 3\n\ndef entry():\n    import check\n    return check\n")
    entry = tmp_path / "check.py"
    entry.write_text("from pkg.part import VALUE\n")
    command = [sys.executable, paths.ROOT / "build_kernel.py", "--entry", entry, "--package", package]
    subprocess.run([*command, "--style", "modules", "--out", out / "check.py"], check=True)
    assert '\nif __name__ == "check.py":  # check.py\n' in (out / "check.py").read_text()
    shown = [sys.executable, "-c", "import check; print(check.VALUE)"]
    assert subprocess.run(shown, cwd=out, capture_output=True, text=True, check=True).stdout == "3\n"
