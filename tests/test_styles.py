"""Which modules are flat: decided by module and by what is really done, not by one word anywhere."""

import json
import re
from pathlib import Path

import pytest
import test_flatten_cases as cases

import build_kernel as bk
from flattener.build import Report
from flattener.command import run_command

TORCH = "import torch\nfrom torch import nn\nfrom pkg.model import Net\n\n\n"
MODEL = (
    "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, width=1):\n        self.width = width\n"
)


def build(folder: Path, files: dict[str, str], form: str = "py", **more) -> tuple[Report, str]:
    """Builds main.py with pkg; returns the report and the text of the output."""
    for name, text in {"pkg/__init__.py": "", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    out = folder / f"flat.{form}"
    return bk.build_entry(folder / "main.py", [folder / "pkg"], out, **more), out.read_text()


def styled(report: Report) -> set[str]:
    """The modules in modules style, without the packages' own `__init__.py`."""
    return {line.partition(":")[0] for line in report.reasons} - {"pkg/__init__.py"}


STYLES = {
    "class_in_message": set(),
    "class_in_message_by_call": {"pkg/kinds.py"},
    "pickled_own_class": {"pkg/feats.py"},
    "pickled_plain_values": set(),
    "unpickled_at_start": {"pkg/a.py", "pkg/hidden.py"},
    "builtin_names_of_modules": set(),
    "twin_helpers": set(),
    "star_of_standard_library": {"pkg/b.py"},
    "one_module_two_imports": set(),
    "dash_m_by_any_name": {"pkg/a.py", "pkg/worker.py"},
    "module_given_away": {"pkg/a.py"},
    "meters_updated": set(),
}


@pytest.mark.parametrize("name", STYLES)
def test_a_program_has_only_those_modules_in_modules_style_that_need_it(name, tmp_path):
    case = cases.BY_NAME[name]
    cases.write_case(case, tmp_path)
    report = bk.build_entry(tmp_path / "main.py", [tmp_path / "pkg"], tmp_path / "flat.py")
    assert styled(report) == STYLES[name]


# What a training script does with `torch.save` and `torch.load`, and which modules then keep their names.
CHECKPOINTS = {
    "torch.save(Net().state_dict(), 'a')": set(),
    "net = Net()\ntorch.save({'net': net.state_dict(), 'epoch': 3, 'loss': [0.5]}, 'a')": set(),
    "def save(state, path):\n    torch.save(state, path)\n\n\nsave({'net': Net().state_dict()}, path='a')": set(),
    "net = Net()\nnet.load_state_dict(torch.load('a'))": set(),
    "state = torch.load('a')\nNet().load_state_dict(state['net'])\nstart = state['epoch'] + 1": set(),
    "def restore(net):\n    state = torch.load('a')\n    net.load_state_dict(state['net'])\n"
    "    print('epoch {epoch}'.format(**state))\n    return state\n\n\nstart = restore(Net())['epoch']": set(),
    "state = torch.load('a', weights_only=False)\nprint('net {net}'.format(**state), Net)": {
        "pkg/model.py",
        "pkg/other.py",
    },
    "net = torch.load('a', weights_only=True)\nprint(net.width)": set(),
    "def train(net, args):\n    torch.save({'net': net.state_dict(), 'args': args}, 'a')\n\n\n"
    "def read():\n    train = Net()\n    return [train]\n\n\ntrain(Net(), 3)": set(),
    "with open('a', 'wb') as f:\n    torch.save(Net(), f)\nwith open('a', 'rb') as f:\n    net = torch.load(f)\n"
    "print(net(3))": {"pkg/model.py"},
    "import pickle\npath = 'a'\npickle.dump({'names': ['b']}, open(path, 'wb'))\nprint(Net)\n"
    "found = pickle.load(open(path, 'rb'))\nprint(found.popitem())": set(),
    "import pickle\npath, other = 'a', 'b'\npickle.dump({'names': ['b']}, open(path, 'wb'))\nprint(Net)\n"
    "found = pickle.load(open(other, 'rb'))\nprint(found.popitem())": {"pkg/model.py", "pkg/other.py"},
    "torch.save(Net(), 'a')": {"pkg/model.py"},
    "net = Net()\ntorch.save({'net': net}, 'a')": {"pkg/model.py"},
    "net = nn.DataParallel(Net())\ntorch.save(obj=net, f='a')": {"pkg/model.py"},
    "class Run:\n    def __init__(self, net):\n        self.net = net\n    def save(self):\n"
    "        torch.save(self.net, 'a')\n\n\nRun(Net()).save()": {"pkg/model.py"},
    "torch.save(globals()['x'](), 'a')": {"pkg/model.py", "pkg/other.py"},
    "net = Net()\nbest = 1.0\nkeep = lambda epoch: torch.save({'net': net.state_dict(), 'epoch': epoch}, 'a')\n"
    "for epoch in range(3):\n    keep(epoch + 1)": set(),
    "keep = lambda net: torch.save(net, 'a')\nkeep(Net())": {"pkg/model.py"},
    "keep = [lambda net: torch.save(net, 'a')]\nkeep[0](Net())": {"pkg/model.py", "pkg/other.py"},
    "def restore(path, net):\n    print(path)\n    path = torch.load(path, weights_only=False)\n"
    "    net.load_state_dict(path['net'])\n    return path\n\n\nrestore('a', Net())": set(),
    "def restore(path, net):\n    for _ in range(3):\n        print(path(3))\n"
    "        path = torch.load('a', weights_only=False)\n\n\nrestore(print, Net())": {"pkg/model.py", "pkg/other.py"},
    "net = torch.load('a', weights_only=False); print(net(3), Net)": {"pkg/model.py", "pkg/other.py"},
    "net = Net()\ntorch.save({'centre': torch.sum(net(3), dim=0)}, 'a')": set(),
    "net = torch.compile(Net())\ntorch.save(net, 'a')": {"pkg/model.py"},
    "import torch.utils.data\nloader = torch.utils.data.DataLoader(Net())\n"
    "torch.save({'loss': nn.L1Loss()(1, 2).data[0]}, 'a')": set(),
    "class Run: pass\n\n\nrun = Run()\nrun.data = []\nrun.data.append(Net())\ntorch.save(run.data, 'a')": {
        "pkg/model.py"
    },
    "class Kept(torch.Tensor): pass\n\n\ntorch.save(torch.clone(Net()), 'a')": {"pkg/model.py"},
    "net = torch.load('a')\nprint(net(3), Net)": {"pkg/model.py", "pkg/other.py"},
    "net = torch.load('a', weights_only=False)['net']\nprint(net(3), Net)": {"pkg/model.py", "pkg/other.py"},
}


@pytest.mark.parametrize("code", CHECKPOINTS)
def test_a_checkpoint_matters_to_the_modules_whose_classes_it_names(code, tmp_path):
    files = {"main.py": TORCH + "from pkg.other import double\n" + code + "\nprint(double(1))\n", "pkg/model.py": MODEL}
    report, _ = build(tmp_path, {**files, "pkg/other.py": "def double(x):\n    return 2 * x\n"})
    assert styled(report) == CHECKPOINTS[code]


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("print(inspect.getsource(net.__class__))", {"pkg/model.py"}),
        ("print(inspect.getsource(type(net)))", {"pkg/model.py"}),
        ("print(inspect.getsource(main))", set()),
        ("print(inspect.getsource(sys.argv[1].__class__))", {"pkg/model.py", "pkg/other.py"}),
        ("print(*map(inspect.getsource, [main]))", {"pkg/model.py", "pkg/other.py"}),
    ],
)
def test_the_source_that_is_shown_matters_to_its_module(code, modules, tmp_path):
    head = "import inspect, sys\nfrom pkg.model import Net\nfrom pkg.other import size\n\nnet = Net(size)\n\n\n"
    main = f"{head}def main():\n    {code}\n\n\nmain()\n"
    model = "class Net:\n    def __init__(self, width):\n        self.width = vars()[width]\n"
    report, _ = build(tmp_path, {"main.py": main, "pkg/model.py": model, "pkg/other.py": "size = 1\n"})
    assert styled(report) == modules


def test_a_function_is_followed_by_the_names_that_imports_give_it(tmp_path):
    files = {
        "main.py": "from pkg.other import store\nfrom pkg.model import Net\n\nstore(Net())\n",
        "pkg/model.py": MODEL,
        "pkg/keep.py": "import torch\n\ndef save(net):\n    torch.save(net, 'a')\n",
        "pkg/other.py": "from pkg.keep import save as keep\n\ndef store(net):\n    keep(net)\n",
    }
    assert styled(build(tmp_path, files)[0]) == {"pkg/model.py"}


def test_a_name_is_followed_to_the_one_of_several_stars_that_binds_it(tmp_path):
    files = {
        "main.py": "from pkg.helpers import *\nfrom pkg.parts import *\n\nbest = np.zeros(3)\n"
        "torch.save({'net': Net().state_dict(), 'best': best}, 'a')\n",
        "pkg/model.py": MODEL,
        "pkg/helpers.py": "def double(x):\n    return 2 * x\n",
        "pkg/parts.py": "import numpy as np\nimport torch\nfrom pkg.model import Net\n",
    }
    assert styled(build(tmp_path, files)[0]) == set()


def test_a_network_is_saved_without_the_modules_that_only_call_it(tmp_path):
    files = {
        "main.py": "import torch\nfrom pkg.model import Net\nfrom pkg.read import batches\nnet = Net()\n"
        "for x in batches():\n    net(x)\ntorch.save(net, 'a')\n",
        "pkg/model.py": MODEL
        + "        self.mask = None\n    def forward(self, x):\n        self.mask = self.make(x)\n"
        "        return self.mask\n    def make(self, x):\n        return x + 1\n    def unfreeze(self, on=True):\n"
        "        self.on = on\n",
        "pkg/read.py": "class Reader: pass\ndef batches():\n    yield 1\nprint(Reader())\n",
    }
    assert styled(build(tmp_path, files)[0]) == {"pkg/model.py"}
    files["main.py"] += "getattr(net, input())(batches)\n"  # then any method may be called with anything
    assert styled(build(tmp_path, files)[0]) == {"pkg/model.py", "pkg/read.py"}


FLAT = {
    "a tensor's method": "from pkg.a import f\nprint(f(2))\n--\ndef f(x):\n    return x.type('float')\n",
    "no own class": "from pkg.a import f\nraise TypeError(f'{type(f)} is no number')\n--\ndef f(x):\n    return x\n",
    "a listed folder": "from pkg.a import f\nprint(f())\n--\nimport glob\ndef f():\n    return glob.glob('*')\n",
    "a frame": "import pandas as pd\nfrom pkg.a import f\nf(pd.DataFrame()).to_pickle('a')\npd.read_pickle('a')\n"
    "--\ndef f(x):\n    return x\n",
    "a class that is only compared": "from pkg.a import f\nprint(f(1))\n--\nimport multiprocessing\nclass Own: pass\n"
    "def f(x):\n    kind = type(x)\n    return 1 if kind is Own else multiprocessing.Pool(1)\n",
    "a variable with the name of a class in a text": "from pkg.a import f\nfor i in [1]: print(str(i), f(i))\n--\n"
    "import multiprocessing\nclass Own: pass\ndef f(x):\n    'The class i.'\n    return multiprocessing.Pool()\n",
    "the class of a number": "from pkg.a import f\nprint(f(1))\n--\nimport multiprocessing\nclass Own: pass\n"
    "def f(x):\n    if x: raise TypeError(f'{type(x)} is no number')\n    return multiprocessing.cpu_count()\n",
    "a switch for processes": "from pkg.a import f\nprint(f(1))\n--\nclass Own: pass\n"
    "def f(x, use_multiprocessing=False): return f'{type(x)} {Own()} {use_multiprocessing}'\n",
    "how to use a program": "import argparse\nfrom pkg.a import f\n"
    "argparse.ArgumentParser(usage='python -m pkg.a <command>')\n--\ndef f(x): return x\n",
    "the package of the entry": "from pkg.a import f\nif __name__ == '__main__' and __package__ is None:\n"
    "    __package__ = 'pkg.a'\nprint(f(1))\n--\ndef f(x): return x\n",
    "a plain class in a program of Keras": "from keras.models import load_model\nfrom pkg.a import f\n"
    "print(type(f()))\nload_model('x', custom_objects={})\n--\n"
    "class Base: pass\nclass Own(Base): pass\ndef f(): return Own()\n",
    "a late import of what comes anyway": "import anything\ndef late():\n    from pkg.a import f\n    return f(1)\n"
    "print(late())\n--\nimport anything\ndef f(x): return anything.make(x)\n",
    "processors that are only counted": "import multiprocessing\nfrom pkg.a import f as g\n"
    "def f(): return multiprocessing.cpu_count()\nprint(f(), g(1))\n--\ndef f(x): return x\n",
    "a dictionary with attributes": "from pkg.a import Dots\nprint(Dots(x=1).x)\n--\n"
    "class Dots(dict):\n    __getattr__ = dict.get\n    __setattr__: object = dict.__setitem__\n",
    "a class below one that is made by a call": "from pkg.a import Pair\nprint(type(Pair(1, 2)))\n--\n"
    "from collections import namedtuple\nclass Pair(namedtuple('Pair', 'x y')): pass\n",
    "workers of joblib": "from joblib import Parallel, delayed\nfrom pkg.a import f\n"
    "print(Parallel(2)(delayed(f)(x) for x in 'a'))\n--\ndef f(x):\n    return x\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FLAT)
def test_one_word_does_not_decide(name, tmp_path):
    main, _, module = FLAT[name].partition("--\n")
    report, _ = build(tmp_path, {"main.py": main, "pkg/a.py": module})
    assert report.reasons == [] and report.undecided == []


BLANKS = '"""One.\n   \n   Two.\n   >>> 3"""\n'


def test_a_string_that_nothing_reads_may_have_lines_that_ipython_edits(tmp_path):
    files = {
        "main.py": f"{BLANKS}from pkg.a import f\nprint(f())\n{BLANKS}",
        "pkg/a.py": f"def f():\n   {BLANKS}   return 1\n",
    }
    report, _ = build(tmp_path, files, "ipynb")
    assert report.reasons == []
    report, _ = build(tmp_path, files | {"main.py": "from pkg.a import f\nprint(f.__doc__)\n"}, "ipynb")
    assert styled(report) == {"pkg/a.py"} and "pkg/a.py:3: IPython would change this line" in report.reasons[-1]
    with pytest.raises(bk.BuildError, match="main.py:2: IPython would change this line of a string"):
        build(tmp_path, files | {"main.py": f"print({BLANKS.strip()})\n"}, "ipynb")


def test_a_notebook_as_entry_has_the_lines_that_ipython_has_always_edited(tmp_path):
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "source": f"print({BLANKS.strip()})"}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "main.ipynb").write_text(json.dumps(notebook))
    bk.build_entry(tmp_path / "main.ipynb", [], tmp_path / "flat.ipynb")
    cells = json.loads((tmp_path / "flat.ipynb").read_text())["cells"]
    assert cell["source"] in ["".join(each["source"]) for each in cells]


OPEN = {
    "a key of hydra": "import anything\nfrom pkg.a import f\nanything.make({'_target_': f()})\n",
    "hydra itself": "from hydra.utils import instantiate\nfrom pkg.a import f\ninstantiate(f())\n",
    "Lightning": "from lightning.pytorch.cli import LightningCLI\nfrom pkg.a import f\nLightningCLI(f)\n",
    "gin": "import gin\nfrom pkg.a import f\ngin.parse_config_file(f())\n",
    "a joined name": "import anything\nfrom pkg.a import f\nanything.make('.'.join(['pkg', f()]))\n",
    "a pickle": "import joblib\nfrom pkg.a import f\nprint(joblib.load(f()).predict(1))\n",
    "an unpickler of its own": "import pickle\nfrom pkg.a import f\nprint(pickle.Unpickler(f()).load())\n",
    "a launcher": "import subprocess\nfrom pkg.a import f\nsubprocess.run('accelerate launch -m pkg.t', f())\n",
    "torchrun": "import os\nfrom pkg.a import f\nos.system('torchrun --nproc 2 pkg/train.py ' + f())\n",
}


@pytest.mark.parametrize("name", OPEN)
def test_what_may_name_anything_gets_the_whole_package(name, tmp_path):
    files = {"pkg/a.py": "def f(): return 1\n\n\ndef hidden(): return 2\n", "pkg/never.py": "class Unet: pass\n"}
    report, text = build(tmp_path, {"main.py": OPEN[name], **files}, "ipynb")
    assert styled(report) == {"pkg/a.py", "pkg/never.py"}
    assert "def hidden" in text and "class Unet" in text and report.dropped == []


def test_a_script_does_not_start_its_modules_as_files(tmp_path):
    files = {"main.py": OPEN["torchrun"], "pkg/a.py": "def f(): return 1\n", "pkg/train.py": ""}
    with pytest.raises(bk.BuildError, match=r"main.py:3: pkg/train.py is started as a file.*Remedy: start it by `-m`"):
        build(tmp_path, files)


def test_the_user_decides_what_stays_open_and_sees_it_in_one_line(tmp_path, capsys, monkeypatch):
    files = {
        "main.py": "import torch\nfrom pkg.a import f\nprint(torch.load(f()).x)\n",
        "pkg/a.py": "def f(): return 1\n",
    }
    build(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    command = ["--entry", "main.py", "--package", "pkg", "--out", "flat.py", "-v"]
    assert run_command(command, tmp_path) == 0
    said = capsys.readouterr().out
    line = "  undecided: main.py:3: torch.load may load objects of any class of the packages"
    assert said.count(line + "; `--trust torch.load` if that is harmless\n") == 1
    assert run_command([*command, "--trust", "torch.load"], tmp_path) == 0
    said = capsys.readouterr().out
    assert "modules style" not in said and "undecided" not in said
    assert "--out flat.py --trust torch.load`" in (tmp_path / "flat.py").read_text()
    assert run_command([*command, "--trust", "torch.lod"], tmp_path) == 1
    assert "--trust torch.lod: not known. Remedy: give one of" in capsys.readouterr().err


def test_what_must_be_found_by_its_name_can_be_kept(tmp_path):
    files = {
        "main.py": "from pkg.a import f\nprint(f())\n",
        "pkg/a.py": "def f(): return 1\n",
        "pkg/plug.py": "def gone(): return helper()\ndef helper(): return 1\ndef lost(): return 2\n",
    }
    report, text = build(tmp_path, files, keep=["pkg.plug:gone"])
    assert styled(report) == {"pkg/plug.py"} and report.dropped == ["pkg.plug.lost"]
    assert "def gone" in text and "def helper" in text
    report, text = build(tmp_path, files, keep=["pkg.plug"])
    assert "def lost" in text
    for name, message in (("pkg.nothing", "there is no module pkg.nothing"), ("pkg.a:g", "pkg.a has no g")):
        with pytest.raises(bk.BuildError, match=re.escape(message) + ".*Remedy"):
            build(tmp_path, files, keep=[name])

    "from maps import process_map\n{kind} work(x{base}):\n    {body}\ndef run(xs):\n    return process_map(work, xs)\n"


def test_a_third_party_pool_finds_functions_of_one_name(tmp_path):
    one = "from maps import go\ndef work(x): return {}\ndef run(xs): return go(work, xs)\n"
    files = {"main.py": "from pkg.a import run as a\nfrom pkg.b import run as b\nprint(a([1]), b([1]))\n"}
    files |= {"pkg/a.py": one.format("x + 1"), "pkg/b.py": one.format("x * 9")}
    report, _ = build(tmp_path, files)
    assert len(styled(report)) == 1 and "maps.go may look for it by its name" in "".join(report.reasons)
    report, _ = build(
        tmp_path, {name: text.replace("maps import go", "numpy import go") for name, text in files.items()}
    )
    assert report.reasons == []  # it calls it in this process


def test_a_spawner_of_pytorch_works_in_a_notebook_or_is_refused(tmp_path):
    main = "import torch.multiprocessing as mp\nfrom pkg.a import f\n{}\nmp.spawn({}, nprocs=2)\n"
    files = {"main.py": main.format("", "f"), "pkg/a.py": "def f(rank): print(rank)\n"}
    assert styled(build(tmp_path, files, "ipynb")[0]) == {"pkg/a.py"}
    assert build(tmp_path, files)[0].reasons == []
    files["main.py"] = main.format("def main_worker(rank): f(rank)", "main_worker")
    with pytest.raises(bk.BuildError, match=r"main.py:4: a process .* cannot see 'main_worker' .*Remedy: move it"):
        build(tmp_path, files, "ipynb")
    assert build(tmp_path, files)[0].reasons == []


def test_a_folder_without_init_travels_once(tmp_path):
    files = {
        "main.py": "from pkg.a import HERE\nfrom pkg.sub.b import g\nprint(HERE, g())\n",
        "pkg/a.py": "from pathlib import Path\nHERE = Path(__file__).parent\n",
        "pkg/sub/b.py": "def g(): return 'only once'\n",
        "pkg/sub/never.py": "def unused(): return 'not at all'\n",
        "pkg/data.txt": "some text\n",
    }
    _, text = build(tmp_path, files)
    assert text.count("only once") == 1 and "not at all" not in text and "some text" in text


def test_comments_that_head_imports_go_with_them(tmp_path):
    main = "# standard library\nimport os\n# local\nfrom pkg.a import (  # the losses\n    dice,  # soft dice\n)\n"
    files = {"main.py": f"{main}# ---- run ----\nprint(dice(), os.sep)\n"}
    _, text = build(
        tmp_path, {**files, "pkg/a.py": "# our imports\nimport math\n\n\n# losses\ndef dice(): return math.pi\n"}
    )
    assert not re.search("standard library|local|the losses|soft dice|our imports", text)
    assert "# losses\ndef dice" in text and "# ---- run ----\nprint(" in text


def test_what_python_says_of_a_source_is_told_once_with_its_place(tmp_path):
    files = {"main.py": "from pkg.a import f\nassert (f, 'always')\n", "pkg/a.py": "def f(): return 1 is 1\n"}
    report, _ = build(tmp_path, files, "ipynb")
    assert sorted(line.partition(": ")[0] for line in report.warnings) == ["main.py:2", "pkg/a.py:1"]


def test_helpers_of_one_text_are_one_and_builtins_stay_what_they_are(tmp_path):
    twins = {name: cases.BY_NAME["twin_helpers"].files[name].decode() for name in cases.BY_NAME["twin_helpers"].files}
    report, text = build(tmp_path, twins)
    assert text.count("def seed(n)") == 3 and text.count("def half(x)") == 2 and text.count("EPS = 1e-3") == 1
    assert "pkg.b.half, which is pkg.a.half word for word" in report.dropped
    own = {name: data.decode() for name, data in cases.BY_NAME["builtin_names_of_modules"].files.items()}
    report, text = build(tmp_path / "b", own)
    assert report.renamed == ["pkg.a.id -> a_id", "pkg.a.sum -> a_sum", "pkg.b.max -> b_max"]
    assert "del max  # other code means the builtin" in text


SHOWS = {
    "a caught exception": "try:\n    b.fail()\nexcept b.Error as error:\n    print(type(error))\n",
    "any exception": "try:\n    b.fail()\nexcept Exception as error:\n    print(type(error))\n",
    "an element": "print(type(b.Box()[0]))\n",
    "what a loop gives": "for each in b.Box():\n    print(type(each))\n",
    "a sum": "print(type(b.Box() + 1))\n",
    "what is entered": "with b.Box() as each:\n    print(type(each))\n",
    "what a call of an object gives": "box = b.Box()\nprint(type(box(1)))\n",
    "what a parameter gets": "def show(x):\n    print(f'{x.__class__}')\nshow(b.Error())\n",
    "what is returned": "print('%s' % type(b.make()))\n",
}


@pytest.mark.parametrize("name", SHOWS)
def test_a_class_that_is_shown_keeps_its_name_however_its_object_came_there(name, tmp_path):
    module = (
        "from pkg.c import Item\nclass Error(Exception): pass\ndef fail(): raise Error\ndef make(): return Item()\n"
        "class Box:\n    def __getitem__(self, i):\n        if i: raise IndexError\n        return Item()\n"
        "    def __add__(self, x): return Item()\n    def __enter__(self): return Item()\n"
        "    def __exit__(self, *a): pass\n    def __call__(self, x): return Item()\n"
    )
    files = {"main.py": "from pkg import b\n" + SHOWS[name], "pkg/b.py": module, "pkg/c.py": "class Item: pass\n"}
    report, text = build(tmp_path, files)
    assert report.reasons == []
    namespace = "pkg.b" if "Error" in SHOWS[name] or "exception" in name else "pkg.c"
    assert f'__module__ = "{namespace}"' in text
