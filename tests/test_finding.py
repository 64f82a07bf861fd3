"""What a build finds by itself: packages and files; what it refuses and warns of, rather than to leave it behind.

The programs that run are in flatten_cases/whole.txt; these are the messages.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_build_kernel import write_files

import build_kernel as bk


def build(folder: Path, files: dict[str, str], *options: str, out: str = "flat.py") -> tuple[int, str]:
    """Writes a program and builds it by the command; returns the exit status and the text of the output."""
    write_files(folder, files)
    status = bk.main(["--entry", "main.py", *options, "--out", out])
    path = folder / out
    return status, path.read_text() if path.is_file() else ""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


PKG = {"pkg/__init__.py": "", "pkg/a.py": "def f():\n    return 1\n"}
REFUSED = {
    "a module that is missing": (
        {"main.py": "from pkg.nothing import g\n", **PKG},
        [],
        "main.py:1: there is no module",
    ),
    "a name that is missing": ({"main.py": "from pkg.a import g\n", **PKG}, [], "main.py:1: pkg.a has no 'g'"),
    "a module that a module misses": (
        {"main.py": "import pkg.b\n", **PKG, "pkg/b.py": "\nfrom .sub import x\n"},
        [],
        "pkg/b.py:2: there is no module pkg.sub",
    ),
    "two packages of one name": (
        {"main.py": "", "one/utils/__init__.py": "", "two/utils/__init__.py": ""},
        ["--package", "one/utils", "--package", "two/utils"],
        "--package two/utils: one/utils has the name 'utils'",
    ),
    "a package that is not there": ({"main.py": ""}, ["--package", "gone"], "--package gone: does not exist"),
    "data that are not there": ({"main.py": ""}, ["--data", "gone"], "--data gone: does not exist"),
    "data that are too large": (
        {"main.py": "", "x.csv": "1" * 200_001},
        ["--data", "x.csv"],
        "x.csv has 200,001 bytes, and a file may have 200,000. Remedy: put it into a Kaggle dataset",
    ),
    "a name without a form": ({"main.py": ""}, ["--out", "flat.txt"], "--out flat.txt: the name tells no form"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_found_is_refused_with_its_place_and_a_remedy(name, here, capsys):
    files, options, message = REFUSED[name]
    out = options.pop() if "--out" in options else "flat.py"
    status, text = build(here, files, *[word for word in options if word != "--out"], out=out)
    error = capsys.readouterr().err
    assert status == 1 and message in error and "Remedy: " in error and not text


@pytest.mark.parametrize("out", ["main.py", "helper.py", "pkg/a.py", "other.py"])
def test_no_output_is_written_over_a_file_that_is_no_earlier_build(out, here, capsys):
    files = {"main.py": "import helper, pkg.a\n", "helper.py": "x = 1\n", "other.py": "y = 1\n", **PKG}
    status, text = build(here, files, out=out)
    assert status == 1 and text == files[out] and f"--out {out}: " in capsys.readouterr().err
    assert build(here, files)[0] == build(here, files)[0] == 0  # over an earlier build


WARNED = {
    "a file whose use is not known": (
        {"main.py": "NAME = 'weights.bin'\n", "weights.bin": "1"},
        [],
        "main.py:1: names weights.bin, which is not shipped. Remedy: --data weights.bin.",
    ),
    "a folder whose use is not known": (
        {
            "main.py": "def load(name, path='data/cora/'):\n    return [path, name]\n\n\nload(input())\n",
            "data/cora/x.csv": "1",
        },
        [],
        "main.py:1: names the folder data/cora, of which nothing is shipped. Remedy: --data data/cora, if files are",
    ),
    "a folder beside the entry's file": (
        {"main.py": "from pathlib import Path\n\nDATA = Path(__file__).parent / 'data'\n", "data/x.csv": "1"},
        [],
        "main.py:3: names the folder data, of which nothing is shipped. Remedy: --data data, if files are read there.",
    ),
    "a large file": (
        {"main.py": "text = open('x.csv').read()\n", "x.csv": "1" * 200_001},
        [],
        "main.py:1: reads x.csv, which is not shipped: 200,001 bytes are more than 200,000. Remedy: put",
    ),
    "a key": (
        {"main.py": "text = open('kaggle.json').read()\n", "kaggle.json": "{}"},
        [],
        "reads kaggle.json, which is",
    ),
    "a package that nothing reaches": (
        {"main.py": "print(1)\n", **PKG},
        ["--package", "pkg"],
        "--package pkg: nothing that main.py reaches imports it",
    ),
    "an import that may fail": (
        {"main.py": "import pkg.a\n\ndef late():\n    import pkg.gone\n", **PKG},
        [],
        "main.py:4: there is no module pkg.gone",
    ),
    "a module where Python does not look": (
        {"main.py": "import sys\nfrom core.config import x\n", "lib/core/config.py": "x = 1\n", "pyproject.toml": ""},
        [],
        "main.py:2: core.config is not where Python looks, and not shipped; it may be lib/core. Remedy: --package lib",
    ),
    "a folder into which new files are written": (
        {
            "main.py": "def save(name, path='saved/'):\n    open(f'{path}{name}.txt', 'w').write('1')\n\n\nsave('a')\n",
            "saved/.gitkeep": "",
        },
        [],
        "main.py:2: writes into saved/, which is there at the desk and will not be there. Remedy: os.makedirs('saved',",
    ),
    "a compiled module": (
        {"main.py": "from pkg.fast import f\n", "pkg/__init__.py": "", "pkg/fast.so": ""},
        [],
        "main.py:1: pkg.fast is compiled (fast.so), and is not shipped",
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_is_left_behind_is_warned_of_with_its_place_and_a_remedy(name, here, capsys):
    files, options, message = WARNED[name]
    status, _ = build(here, files, *options)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning: " in line]
    assert status == 0 and len(warnings) == 1 and message in warnings[0] and "Remedy: " in warnings[0]


SILENT = {
    "an optional module": {"main.py": "try:\n    import pkg.fast\nexcept ImportError:\n    pass\n", **PKG},
    "a file that is written": {"main.py": "open('out.csv', 'w').write('1')\nopen('out.csv')\n", "out.csv": "0"},
    "a folder of a common word": {"main.py": "MODE = 'train'\n", "train/x.png": "1"},
    "a module that is not installed": {"main.py": "import hydra\n", "hydra.yaml": "", "conf/hydra/x.yaml": ""},
    "a folder that is written": {
        "main.py": "import os\n\nOUT = 'out/run/'\nos.makedirs('out/run/', exist_ok=True)\n",
        "out/run/x.csv": "1",
    },
    "a folder that is made": {
        "main.py": "import os\n\nos.makedirs('out', exist_ok=True)\nopen('out/a.txt', 'w').write('1')\n",
        "out/x.csv": "1",
    },
    "code that may be read by a name which is not known": {
        "main.py": "def source(path):\n    return open(path).read()\n\n\nsource(f'lib/{input()}.py')\n",
        "lib/one.py": "x = 1\n",
    },
    "a folder of code": {"main.py": "NAME = './lib/'\n", "lib/one.py": "x = 1\n"},
    "a pattern in a folder that is not known": {
        "main.py": "import sys\nfrom pathlib import Path\n\nprint(*Path(sys.argv[1]).glob('*.json'))\n",
        "x.json": "{}",
    },
    "a mounted dataset": {"main.py": "open('../input/x.csv')\n"},
}


@pytest.mark.parametrize("name", SILENT)
def test_what_is_in_order_is_not_warned_of_and_nothing_is_shipped_for_it(name, here, capsys):
    (here.parent / "input").mkdir(exist_ok=True)
    (here.parent / "input/x.csv").write_text("1")
    status, text = build(here, SILENT[name])
    assert status == 0 and "warning" not in capsys.readouterr().out and "PROGRAM_FILES" not in text


def test_the_build_prints_what_it_took_and_where_that_is_needed(here, capsys):
    files = {"main.py": "import helper\nprint(open('conf.json').read())\n", "conf.json": "{}", "helper.py": "x = 1\n"}
    assert build(here, files)[0] == 0
    said = capsys.readouterr().out.splitlines()
    assert "  took helper.py (main.py:1)" in said and "  took conf.json (main.py:2)" in said


@pytest.mark.parametrize(
    ("code", "took"),
    [
        ("def load(folder='data/', name='x'):\n    return open('{}{}.csv'.format(folder, name))", "data/x.csv"),
        ("def table(folder, *, end='csv'):\n    return open('{0}/x.{end}'.format(folder, end=end))\n"
         "table('data')", "data/x.csv"),
        ("import os\nclass Set:\n    def __init__(self, root='data', n=1):\n"
         "        open(os.path.join(root, 'x.csv'))", "data/x.csv"),
        ("class Set:\n    def load(self, path):\n        open(path)\nSet().load('plain.txt')", "plain.txt"),
        ("PLACE = '{}/{}.csv'\nopen(PLACE.format('data', 'x'))", "data/x.csv"),
        ("def table(a, b):\n    open(f'{a}/{b}')\ntable('data', b='x.csv')\ntable('gone', 'y.csv')", "data/x.csv"),
        ("open('data/{:03d}.dat'.format(7))", "data/007.dat"),
        ("class Options:\n    root: str = 'data'\nopen(Options().root + '/x.csv')", "data/x.csv"),
        ("import argparse\np = argparse.ArgumentParser()\np.add_argument('-d', '--the-data', default='data/')\n"
         "args = p.parse_args()\nopen(args.the_data + 'x.csv')", "data/x.csv"),
        ("from pathlib import Path\nprint([each.read_text() for each in Path('.').glob('*.txt')])", "plain.txt"),
        ("import glob as g\nprint([open(each).read() for each in g.glob('*.txt')])", "plain.txt"),
        ("def load(name, path='data/'):\n    return open(f'{path}{name}.csv')\nload(input())", "data/x.csv"),
        ("import json, os\nclass Set:\n    def __init__(self, path):\n        self.rows = open(path)\n"
         "Set(os.path.join('data', json.loads('{\"name\": \"x\"}')['name'] + '.csv'))", "data/x.csv"),
        ("class Set:\n    def __init__(self, root):\n        self.root = root\n    def rows(self):\n"
         "        return open(f'{self.root}/x.csv')\nSet('data')", "data/x.csv"),
    ],
)  # fmt: skip
def test_a_file_is_found_by_the_parameters_of_its_name(code, took, here, capsys):
    files = dict.fromkeys(["data/x.csv", "data/007.dat", "plain.txt"], "1")
    assert build(here, {"main.py": code + "\n", **files})[0] == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("(")[0].strip() for line in lines if "took" in line] == [f"took {took}"]
    assert not [line for line in lines if "warning" in line]


def test_the_package_of_an_entry_lies_in_the_working_folder(here, monkeypatch, capsys):
    files = {
        "__init__.py": "",
        "steps/__init__.py": "",
        "steps/main.py": "from .a import f\nfrom steps import a\nprint(f is a.f, f.__module__)\n",
        "steps/a.py": "def f():\n    return 1\n",
    }
    monkeypatch.chdir(write_files(here / "repository", files))
    assert bk.main(["--entry", "steps/main.py", "--out", "flat.py"]) == 0
    assert "took steps (" in capsys.readouterr().out
    result = subprocess.run([sys.executable, "flat.py"], capture_output=True, text=True, check=True)
    assert result.stdout == "True steps.a\n"


def test_a_folder_on_the_path_is_found_by_a_name_that_is_bound_again(here, capsys):
    main = "import os, sys\nfrom pathlib import Path\n\nROOT = Path(__file__).resolve().parents[0] / 'lib'\n"
    main += (
        "sys.path.append(str(ROOT))\nROOT = Path(os.path.relpath(ROOT, Path.cwd()))\nfrom one import f\n\nprint(f())\n"
    )
    assert build(here, {"main.py": main, "lib/one.py": "def f():\n    return 1\n"})[0] == 0
    assert "took lib/one.py (main.py:7)" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["flat.py", "flat.ipynb"])
def test_a_module_that_works_inside_of_a_package_and_outside_of_one_is_taken(out, here, capsys):
    files = {
        "main.py": "from a import f\n\nprint(f())\n",
        "a.py": "try:\n    from .b import g\nexcept ImportError:\n    from b import g\n\n\n"
        "def f():\n    return g(), __name__\n",
        "b.py": "def g():\n    return __name__\n",
    }
    assert build(here, files, out=out)[0] == 0 and "warning" not in capsys.readouterr().out
    if out == "flat.py":
        result = subprocess.run([sys.executable, out], capture_output=True, text=True, check=True)
        assert result.stdout == "('b', 'a')\n"


def test_a_relative_import_that_leaves_is_refused_if_it_is_run_and_warned_of_if_it_may_be(here, capsys):
    files = {"main.py": "import a\n", "a.py": "from .b import g\n", "b.py": "def g():\n    return 1\n"}
    assert build(here, files) == (1, "")
    assert "a.py:1: the relative import leaves the package. Remedy: correct the import" in capsys.readouterr().err
    assert build(here, {**files, "main.py": "def late():\n    import a\n"})[0] == 0
    assert "warning: a.py:1: the relative import leaves the package." in capsys.readouterr().out


def test_a_cell_that_is_not_valid_is_named_by_its_number_and_line(here, capsys):
    cells = [("markdown", "# A"), ("code", "%matplotlib inline\nx = 1"), ("code", "y = 2\nsize =   # of it\n")]
    book = {"cells": [{"cell_type": kind, "source": text} for kind, text in cells], "metadata": {}}
    (here / "main.ipynb").write_text(json.dumps(book))
    assert bk.main(["--entry", "main.ipynb", "--out", "flat.py"]) == 1
    error = capsys.readouterr().err
    assert "main.ipynb:8: line 2 of cell 3 is not valid Python: invalid syntax: size =   # of it. Remedy: " in error


def test_a_folder_named_as_the_home_folder_within_another_path_is_not_private(here, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/folders/of/me")
    build(here, {"main.py": "print('path/to/folders/of/me/x')\n"})
    assert "warning" not in capsys.readouterr().out
    build(here, {"main.py": "print('/folders/of/me/x')\n"})
    assert "main.py:1: holds the path of your home folder" in capsys.readouterr().out


def test_a_package_that_the_path_does_not_name_is_told_by_its_name(here, monkeypatch, capsys):
    files = {
        "pkg/__init__.py": "",
        "pkg/a.py": "x = 1\n",
        "pkg/run/main.py": "import sys\n\nsys.path.append('../..')\n",
    }
    files["pkg/run/main.py"] += "from pkg.a import x\n\nprint(x)\n"
    (here / "pkg/run").mkdir(parents=True)
    monkeypatch.chdir(here / "pkg/run")
    build(here, files)
    assert "  took .. as pkg (main.py:4)" in capsys.readouterr().out.splitlines()


def test_data_that_are_asked_for_lie_where_they_lie_to_the_entry(here):
    files = {"main.py": "print(1)\n", "data/a.txt": "a\n", "data/deep/b.txt": "b\n"}
    _, text = build(here, files, "--data", "data", out="flat.ipynb")
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
    lines = next(cell for cell in cells if cell.startswith("PROGRAM_FILES"))
    assert '"data/a.txt": (' in lines and '"data/deep/b.txt": (' in lines


def test_a_symbolic_link_is_taken_by_the_name_that_is_imported(here):
    (here / "vendor-1.2").mkdir()
    (here / "vendor-1.2/__init__.py").write_text("x = 1\n")
    os.symlink("vendor-1.2", here / "vendor")
    status, text = build(here, {"main.py": "from vendor import x\nprint(x)\n"}, "--package", "vendor")
    assert status == 0 and "x = 1" in text


def test_the_same_program_gives_the_same_bytes_whether_its_package_is_named_or_found(here):
    files = {"main.py": "from pkg.a import f\nprint(f())\n", **PKG}
    named, found = build(here, files, "--package", "pkg")[1], build(here, files)[1]
    assert named.replace(" --package pkg", "") == found


def test_an_entry_that_makes_its_own_folder_the_working_folder_finds_what_is_shipped_there(here):
    entry = "import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\nprint(open('vocab.txt').read())\n"
    assert build(here, {"main.py": entry, "vocab.txt": "hello\n"}, out="elsewhere/flat.py")[0] == 0
    done = subprocess.run([sys.executable, "elsewhere/flat.py"], capture_output=True, text=True)
    assert done.stdout == "hello\n\n", done.stderr


def test_a_notebook_hides_its_event_loop_from_code_that_asks_whether_one_runs(here):
    ask = "import asyncio\ntry:\n    asyncio.get_running_loop()\nexcept RuntimeError:\n    print('none')\n"
    assert "let_cells_start_event_loops()" in build(here, {"main.py": ask}, out="flat.ipynb")[1]


def test_a_file_that_is_read_if_it_is_there_and_else_written_is_warned_of(here, capsys):
    body = "import json, os\nPATH = 'kept.json'\nif {}:\n    print(json.load(open(PATH)))\nelse:\n"
    body += "    json.dump(1, open(PATH, 'w'))\n"
    warning = "main.py:4: reads kept.json if it is there, and it is not shipped, since the program writes it, too."
    for test, said in (("os.path.exists(PATH)", True), ("os.environ.get('AGAIN')", False)):
        status, text = build(here, {"main.py": body.format(test), "kept.json": "2"})
        assert status == 0 and "kept.json" not in text.partition("import json")[0]
        assert (warning in capsys.readouterr().out) == said


def test_files_that_begin_as_an_argument_does_are_shipped(here):
    files = {"data/toy-map.json": "{}", "data/toy-walks.txt": "1\n", "data/other.txt": "2\n"}
    source = "import sys\nprint(open(sys.argv[1] + '-map.json').read())\n"
    status, text = build(here, {"main.py": source, **files}, "--args", "./data/toy")
    assert status == 0 and '"data/toy-map.json": (' in text and '"data/toy-walks.txt": (' in text
    assert "other.txt" not in text


def test_a_script_that_a_command_with_arguments_starts_is_shipped(here):
    source = "import os\nos.system('./plot.py {} &'.format(3))\nos.system(f'python tools/draw.py --x {3}')\n"
    status, text = build(here, {"main.py": source, "plot.py": "print(1)\n", "tools/draw.py": "print(2)\n"})
    assert status == 0 and '"plot.py": (' in text and '"tools/draw.py": (' in text


def test_a_module_that_this_python_cannot_read_is_named(here, capsys):
    old = {"pkg/__init__.py": "", "pkg/old.py": "def f(x):\n    return x.cuda(async=True)\n"}
    status, _ = build(here, {"main.py": "from pkg.old import f\nf(1)\n", **old})
    said = capsys.readouterr().out
    assert status == 0 and "main.py:1: imports pkg.old, which this Python cannot read" in said
    assert "pkg/old.py:2: " in said.partition("cannot read")[2]


def test_a_script_that_lies_in_a_package_is_not_said_to_lack_what_is_beside_it(here, capsys):
    """All of a package is shipped where a file may be unpickled; a script there is run in its folder, or never."""
    files = {"pkg/__init__.py": "", "pkg/a.py": "def f():\n    pass\n", "pkg/tools.py": "X = 1\n"}
    files |= {"pkg/script.py": "from tools import X\n", "other/tools.py": ""}
    entry = "import pickle\nfrom pkg.a import f\nf()\nprint(pickle.load(open('x.bin', 'rb')))\n"
    status, _ = build(here, {"main.py": entry, **files})
    assert status == 0 and "tools" not in capsys.readouterr().out
    status, _ = build(here, {"main.py": entry + "import pkg.script\n", **files})
    told = "tools is not where Python looks, and not shipped; it may be pkg/tools.py"
    assert f"pkg/script.py:1: {told}" in capsys.readouterr().out
    more = {"pkg/second.py": "from tools import X\n", "pkg/script.py": "import tools\nfrom tools import X\n"}
    status, _ = build(here, {"main.py": entry + "import pkg.script, pkg.second\n", **more})
    assert f"pkg/script.py:1 (and 2 more): {told}" in capsys.readouterr().out


def test_the_settings_of_hydra_above_the_entry_are_found_by_their_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "base.yaml").write_text("x: 1\n")
    (tmp_path / "src").mkdir()
    main = "import hydra\n\n\n@hydra.main(config_path='../settings', config_name='base')\ndef main(cfg):\n    pass\n"
    (tmp_path / "src" / "main.py").write_text(main)
    report = bk.build_entry(tmp_path / "src" / "main.py", [], tmp_path / "flat.py")
    assert [taken.partition(" (")[1:] for taken in report.taken] == [(" (", "main.py:4)")]


def test_hydra_finds_its_settings_where_they_are_written(here):
    source = (
        "import hydra\n@hydra.main(config_path='conf', config_name='base')\ndef main(cfg):\n    print(cfg)\nmain()\n"
    )
    status, text = build(here, {"main.py": source, "conf/base.yaml": "a: 1\n", "conf/db/x.yaml": "b: 1\n"})
    assert status == 0 and '"conf/base.yaml": (' in text and '"conf/db/x.yaml": (' in text
    assert 'config_path=__import__("os").path.abspath("conf")' in text


@pytest.mark.parametrize("folder", ["conf/", ""])
def test_hydra_0_11_names_a_file_whose_folder_and_classes_are_shipped(folder, here):
    source = f"import hydra\n@hydra.main(config_path='{folder}train.yaml')\ndef main(cfg):\n    print(cfg)\nmain()\n"
    settings = {f"{folder}train.yaml": "class: agent.sac.Agent\n", "conf/agent/sac.yaml": "lr: 1\n"}
    status, text = build(here, {"main.py": source, **settings, "agent/sac.py": "class Agent:\n    pass\n"})
    assert status == 0 and f'"{folder}train.yaml": (' in text and "class Agent:" in text
    assert ('"conf/agent/sac.yaml": (' in text) == bool(folder)
    assert f'config_path=__import__("os").path.abspath("{folder}train.yaml")' in text


@pytest.mark.parametrize("count", [3, 12])
def test_a_pattern_that_a_function_of_the_program_looks_up_is_followed(count, here, monkeypatch, capsys):
    source = "import glob\ndef find(path): return glob.glob(path)\nprint([open(n).read() for n in find('{}')])\n"
    names = {f"names/{number}.txt": "a\n" for number in range(count)}
    status, text = build(here, {"main.py": source.format("names/*.txt"), **names})
    assert status == 0 and all(f'"{name}": (' in text for name in names)

    (here / "src").mkdir()
    monkeypatch.chdir(here / "src")
    build(here / "src", {"main.py": source.format("../names/*.txt")})
    said = capsys.readouterr().out
    remedy = "outside of the program's folder. Remedy: put it into a Kaggle dataset, or beside the entry."
    if count > 4:
        assert f"main.py:2: reads {count} files of ../names/, which are not shipped: {remedy}" in said
    else:
        assert said.count(f"which is not shipped: {remedy}") == count


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ('hydra.initialize(config_path="../../configs")', 'hydra.initialize(config_path="configs")'),
        ('hydra.initialize("../../configs")', 'hydra.initialize("configs")'),
        ('hydra.main("../../configs", "a")', 'hydra.main(__import__("os").path.abspath("configs"), "a")'),
    ],
)
def test_settings_that_a_module_names_by_its_place_are_named_by_theirs(call, line, here, capsys):
    files = {"src/pkg/settings.py": f"import hydra\n\n\ndef read():\n    return {call}\n", "configs/a.yaml": "lr: 3\n"}
    entry = "import sys\n\nsys.path.append('src')\nfrom pkg.settings import read\n\nprint(read())\n"
    status, text = build(here, {"main.py": entry, "src/pkg/__init__.py": "", **files})
    assert status == 0 and line in text and '"configs/a.yaml": ' in text
    assert "  took configs/a.yaml (src/pkg/settings.py:5)" in capsys.readouterr().out


CELLS = [
    ("markdown", "# Title\nwords"),
    ("code", "%matplotlib inline\n!pip install x\nimport sys\nfrom helper import f"),
    ("code", "%%time\nprint(f())"),
    ("code", "%%bash\necho $HOME"),
    ("code", "names = !ls\nif names:\n    %time f()\nf()"),
]


def test_a_notebook_is_an_entry_with_its_texts_and_magics(here, capsys):
    cells = [{"cell_type": kind, "metadata": {}, "source": text, "outputs": []} for kind, text in CELLS]
    (here / "main.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    (here / "helper.py").write_text("def f():\n    return 1\n")
    assert bk.main(["--entry", "main.ipynb", "--out", "flat.ipynb"]) == 0
    built = ["".join(cell["source"]) for cell in json.loads((here / "flat.ipynb").read_text())["cells"]]
    assert (
        "%matplotlib inline\n!pip install x" in built
        and "%%time\nprint(f())" in built
        and "%%bash\necho $HOME" in built
    )
    assert "names = !ls\nif names:\n    %time f()\nf()" in built and "def f():\n    return 1" in built
    assert any("### Title" in cell for cell in built) and not any("from helper" in cell for cell in built)
    capsys.readouterr()
    assert bk.main(["--entry", "main.ipynb", "--out", "flat.py"]) == 0
    assert "a script does not run `!pip install x`. Remedy: build a notebook." in capsys.readouterr().out


def test_a_path_that_imports_hand_around_in_a_circle_is_not_known(here, capsys):
    files = {
        "main.py": "from pkg.a import read\nprint(__file__, read)\n",
        "pkg/__init__.py": "",
        "pkg/a.py": "def read():\n    from pkg.b import path\n    return open(path).read()\n",
        "pkg/b.py": "def give():\n    from pkg.a import path\n    return path\n",
    }
    assert build(here, files)[0] == 0
    assert "pkg/b.py:2: pkg.a has no 'path'" in capsys.readouterr().out


HEAD = "import argparse\nparser = argparse.ArgumentParser()\n"
ASKED = {
    "an argument": (HEAD + "parser.add_argument('data')\nparser.parse_args()\n", "main.py:3: `data` is"),
    "that of a command": (
        HEAD + "group = parser.add_subparsers()\none = group.add_parser('one')\none.add_argument('data')\n"
        "parser.parse_args()\n",
        "",
    ),
    "a command": (
        HEAD + "group = parser.add_subparsers()\ngroup.required = True\none = group.add_parser('one')\n"
        "two = group.add_parser('two')\nparser.parse_args()\n",
        "main.py:4: a command (one, two) is",
    ),
    "a command by a keyword": (
        HEAD + "group = parser.add_subparsers(required=True)\ngroup.add_parser('one')\nparser.parse_args()\n",
        "main.py:3: a command (one) is",
    ),
    "a command of click": (
        "import click\n@click.group()\ndef cli(): pass\n@cli.command()\n@click.option('--a', required=True)\n"
        "def one(a): pass\n@cli.command()\n@click.argument('b')\ndef two(b): pass\ncli()\n",
        "main.py:6: a command (one, two) is",
    ),
    "an argument of click": (
        "import click\n@click.command()\n@click.argument('b')\ndef two(b): pass\ntwo()\n",
        "main.py:3: `b` is",
    ),
    "a function that nothing calls": (
        "import argparse\ndef other():\n    parser = argparse.ArgumentParser()\n    parser.add_argument('data')\n",
        "",
    ),
    "a function that is called": (
        "import argparse\ndef main():\n    parser = argparse.ArgumentParser()\n    parser.add_argument('data')\n"
        "main()\n",
        "main.py:4: `data` is",
    ),
}


@pytest.mark.parametrize("case", ASKED)
def test_arguments_are_said_to_be_required_where_the_program_asks_for_them(case, here, capsys):
    source, said = ASKED[case]
    status, _ = build(here, {"main.py": source}, out="flat.ipynb")
    told = capsys.readouterr().out
    assert status == 0 and (f'{said} required on the command line: give it by --args "..."' in told if said else True)
    assert told.count("required on the command line") == bool(said)
