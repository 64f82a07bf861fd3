"""`build_kernel.py`: flat programs do what their packages do, and what cannot be flattened is refused."""

import ast
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest

import build_kernel as bk

ROOT = Path(bk.__file__).resolve().parent
KERNELS = sorted(path.stem for path in (ROOT / "kernels").glob("*.py"))


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def read_cases(text: str) -> dict[str, dict[str, str]]:
    """Small programs: `=== name` begins a case, `--- path` one of its files; pkg/__init__.py is empty by default."""
    cases = {}
    for case in text.split("=== ")[1:]:
        name, *files = re.split(r"(?m)^--- ", case)
        parts = dict(file.split("\n", 1) for file in files)
        cases[name.strip()] = {"pkg/__init__.py": "", **parts}
    return cases


def run_python(path: Path, cwd: Path):
    environment = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, path], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


def flatten(folder: Path, suffix: str = ".py", style: str = "auto") -> str:
    """Flattens main.py with pkg; returns the text of the output."""
    out = folder / "flat" / f"flat{suffix}"
    bk.build_entry(folder / "main.py", [folder / "pkg"], out, style)
    return out.read_text()


# ----------------------------------------------------------------------------------------------------------------------
# Faithful: the flat program prints what the package prints
# ----------------------------------------------------------------------------------------------------------------------

FAITHFUL = read_cases(r"""
=== import forms
--- main.py
import os, pkg.a as m; import pkg.sub.b
from pkg.sub import (  # why
    b as bee,
)
print(m.f(1), pkg.sub.b.g(2), bee.K, os.sep == os.path.sep, pkg.TOP)
--- pkg/__init__.py
TOP = 'top'
--- pkg/a.py
from .sub.b import g as h, K as k2
def f(x):
    return h(x) + k2
--- pkg/sub/__init__.py
--- pkg/sub/b.py
from .. import TOP
K = 7
def g(x):
    return x * len(TOP)
=== equal names in several modules
--- main.py
from pkg.a import area
from pkg.b import bound, Node
EPS = 'mine'
def helper():
    return EPS
print(area(2), bound(2), helper(), Node.__name__, Node.Inner.__qualname__, vars(Node()), area.__name__)
--- pkg/a.py
EPS = 1
def helper(x):
    return x + EPS
class Node:
    pass
def area(x):
    return helper(x), Node.__name__
--- pkg/b.py
EPS = 5
def helper(x):
    return x - EPS
class Node:
    class Inner:
        pass
    def __init__(self):
        self.__v = 2
def bound(x):
    return helper(x) * EPS
=== shadowing
--- main.py
from pkg.a import go
scale, helper = 'main', 'main'
print(go(2), scale, helper)
--- pkg/a.py
scale = 3
def helper(x):
    return x * scale
class Box:
    scale = scale + 1
    both = [scale for _ in 'a']
    def helper(self, scale=scale):
        return scale + self.scale
def inner(helper, scale=None):
    try:
        raise ValueError(scale)
    except ValueError as scale:
        return helper, scale.args
def cased(x):
    match x:
        case int(scale):
            return scale, helper(1)
def go(x):
    a = [scale for scale in range(2)]
    b = (lambda helper: helper + scale)(1)
    c = {scale: helper(scale) for scale in (1, 2)}
    def nested():
        helper = 5
        return helper + scale
    return (a, cased(x), b, c, Box().helper(), Box.both, inner(helper='h', scale=7), nested(), dict(scale=scale))
=== f-strings
--- main.py
from pkg.a import text
WIDTH = NAME = 1
print(text(3.14159), WIDTH, NAME)
--- pkg/a.py
WIDTH, NAME = 12, 'n'
def text(x):
    return f"[{x!r:>{WIDTH}}] {NAME=} {NAME=!s} {WIDTH = :d} {WIDTH=!s} {{WIDTH}} {'é' + str(WIDTH)}"
=== an alias that a parameter hides
--- main.py
from pkg.b import call
print(call(5))
--- pkg/a.py
def f(x):
    return x + 1
--- pkg/b.py
from .a import f as g
def call(f):
    return g(f)
=== a snapshot and a live view
--- main.py
from pkg import state
from pkg.state import COUNT, bump
bump()
print(state.COUNT, COUNT)
--- pkg/state.py
COUNT = 0
def bump():
    global COUNT
    COUNT += 1
=== an attribute of a module set from outside
--- main.py
from pkg import config
from pkg.config import rate, LR
config.LR = 2
print(rate(), LR, config.LR)
--- pkg/config.py
LR = 1
def rate():
    return LR
=== order of effects
--- main.py
print('start')
from pkg import b
print('between')
from pkg import a
print(a.V, b.V)
--- pkg/__init__.py
print('pkg')
--- pkg/a.py
print('a')
V = 1
--- pkg/b.py
print('b')
from . import c
V = c.V + 1
--- pkg/c.py
print('c')
V = 10
=== cycles
--- main.py
from pkg.a import A, fa
print(A().make().tag, fa(3))
--- pkg/a.py
from . import c
LIMIT = 1
def fa(n):
    return [n] + (c.fc(n - 1) if n > LIMIT else [])
class A:
    tag = 'A'
    def make(self):
        return B()
from .b import B
--- pkg/b.py
from . import a
class B(a.A):
    pass
--- pkg/c.py
from . import a
def fc(n):
    return ['c'] + a.fa(n)
=== a registry filled by decorators
--- main.py
import pkg.plugins
from pkg.registry import REGISTRY
print(REGISTRY)
--- pkg/registry.py
REGISTRY = []
def register(f):
    REGISTRY.append(f.__name__)
    return f
--- pkg/plugins.py
from .registry import register
from . import more
@register
def one():
    pass
--- pkg/more.py
from .registry import register
@register
def one():
    pass
=== subclasses that register themselves
--- main.py
from pkg.b import Base
print(Base.known)
--- pkg/b.py
class Base:
    known = []
    def __init_subclass__(cls):
        Base.known.append(cls.__name__)
class Middle(Base):
    pass
class Leaf(Middle):
    pass
=== operators, properties and descriptors with effects
--- main.py
from pkg.a import LOG
print(LOG)
--- pkg/a.py
LOG = []
class Thing:
    def __set_name__(self, owner, name):
        LOG.append(name)
    def __add__(self, other):
        LOG.append('add')
    def __iter__(self):
        LOG.append('iter')
        return iter('')
    @property
    def p(self):
        LOG.append('p')
thing = Thing()
a = thing + 1
b = thing.p
c = [x for x in thing]
alias = thing
class Owner:
    field = alias
other = LOG
other += ['more']
=== imports in functions, classes and branches
--- main.py
from pkg.a import use, empty, K, size
print(use(), empty(), K.val, size)
--- pkg/a.py
import sys
if sys.maxsize > 10:
    from .big import size
else:
    from .small import size
class K:
    from .big import val
def use():
    from .lazy import thing as t
    import pkg.big
    import math
    return t() + pkg.big.val + math.floor(1.5)
def empty():
    from .lazy import thing
--- pkg/big.py
size = 'big'
val = 1
--- pkg/small.py
size = 'small'
--- pkg/lazy.py
def thing():
    return 5
=== equal aliases of different libraries
--- main.py
from pkg.a import dump
from pkg.b import root
import os.path as m
print(dump([1]), root(9), m.basename('/a/b'))
--- pkg/a.py
import json as m
def dump(x):
    return m.dumps(x)
--- pkg/b.py
import math as m
from math import sqrt as dump
def root(x):
    return m.sqrt(x) + dump(x)
=== names of builtins
--- main.py
from pkg.a import open as o, sum as s
from pkg.b import total
print(o(), s([1]), total())
--- pkg/a.py
def open():
    return 'mine'
def sum(x):
    return 'mine'
--- pkg/b.py
def total():
    return sum([1, 2]), callable(open)
=== re-exports and stars
--- main.py
from pkg import *
import pkg
print(one(), two(), shared(), GAMMA, pkg.shared(), sorted(pkg.__all__))
--- pkg/__init__.py
from .x import *
from .y import *
from .y import _g as GAMMA
__all__ = ['one', 'two', 'shared', 'GAMMA']
--- pkg/x.py
__all__ = ['one', 'shared']
def one():
    return 1
def shared():
    return 'x'
--- pkg/y.py
def two():
    return 2
_g = 3
def shared():
    return 'y'
=== a function called like its module
--- main.py
import pkg
from pkg import resize
from pkg.resize import helper
print(resize(2), pkg.resize(3), helper(1))
--- pkg/__init__.py
from .resize import resize
--- pkg/resize.py
def helper(x):
    return x + 100
def resize(x):
    return helper(x) * 2
=== an imported name that is wrapped
--- main.py
from pkg import a, b
print(a.f(), b.f())
--- pkg/a.py
def f():
    return 'a'
--- pkg/b.py
from .a import f
orig = f
def f():
    return 'wrapped ' + orig()
=== main guards and module names
--- main.py
import logging
from pkg.a import log, go
if __name__ == '__main__':
    print(go(), log.name)
--- pkg/a.py
import logging
log = logging.getLogger(__name__)
def go():
    return 'go'
if __name__ == '__main__':
    print('wrong')
=== type checking
--- main.py
from pkg.a import f
print(f(1), f.__annotations__)
--- pkg/a.py
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .types import Missing
def f(m: 'Missing') -> 'int':
    return m
--- pkg/types.py
raise RuntimeError
=== future annotations everywhere
--- main.py
from __future__ import annotations
from pkg.a import f
def g(x: nothing): pass
print(f.__annotations__, g.__annotations__)
--- pkg/a.py
from __future__ import annotations
def f(x: Unknown) -> int:
    return x
=== an import that must not move above an effect
--- main.py
import sys
sys.path.insert(0, 'elsewhere')
import onlythere
from pkg.a import f
print(onlythere.X, f())
--- pkg/a.py
import onlythere
def f():
    return onlythere.X
--- elsewhere/onlythere.py
X = 'found'
""")


@pytest.mark.parametrize("name", FAITHFUL)
def test_a_flat_program_prints_what_its_package_prints(name, tmp_path):
    folder = write_files(tmp_path / "src", FAITHFUL[name])
    expected = run_python(folder / "main.py", folder)
    assert expected[0] == 0 and expected[1], expected[2]
    text = flatten(folder)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "flat.py").write_text(text)
    if (folder / "elsewhere").exists():
        shutil.copytree(folder / "elsewhere", alone / "elsewhere")
    assert run_python(alone / "flat.py", alone) == expected


@pytest.mark.parametrize(
    "name", ["shadowing", "order of effects", "future annotations everywhere", "re-exports and stars"]
)
def test_a_notebook_of_cells_prints_what_its_package_prints(name, tmp_path):
    folder = write_files(tmp_path / "src", FAITHFUL[name])
    book = nbformat.reads(flatten(folder, ".ipynb"), 4)
    nbformat.validate(book)
    cells = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    (tmp_path / "cells.py").write_text(cells)
    assert run_python(tmp_path / "cells.py", tmp_path) == run_python(folder / "main.py", folder)


# ----------------------------------------------------------------------------------------------------------------------
# Readable and shaken
# ----------------------------------------------------------------------------------------------------------------------

READABLE = read_cases(r"""
=== readable
--- main.py
# a comment on the entry
from pkg.a import kept

print(kept())  # the end
--- pkg/a.py
'''What a is for.

More about a.
'''
import math  # for floor
from .b import B  # noqa: F401
from .b import LIMIT  # the limit


# -- a heading of its own --

# directly above
def kept():
    # inside   with  odd   spaces
    return math.floor( LIMIT )


# about the unused one
def unused():
    return B, GONE


GONE = 'gone'
--- pkg/b.py
import json
LIMIT = (1.5 +
         # between
         2)

class B:
    x = json.dumps
""")["readable"]


def test_comments_and_layout_of_what_is_kept_stay_byte_for_byte(tmp_path):
    text = flatten(write_files(tmp_path, READABLE))
    for part in (
        "# -- a heading of its own --\n\n# directly above\ndef kept():\n",
        "def kept():\n    # inside   with  odd   spaces\n    return math.floor( LIMIT )\n",
        "LIMIT = (1.5 +\n         # between\n         2)\n",
        "# the limit",
        "# a comment on the entry",
        "print(kept())  # the end",
        "# What a is for.\n#\n# More about a.\n",
    ):
        assert part in text


def test_unreached_code_is_left_out_with_its_comments_and_imports(tmp_path):
    text = flatten(write_files(tmp_path, READABLE))
    for part in ("unused", "about the unused one", "GONE", "class B", "json", "noqa"):
        assert part not in text


def test_third_party_imports_come_once_and_on_top(tmp_path):
    files = {
        "main.py": "from pathlib import Path\nfrom pkg.a import f\nprint(Path('x'), f())\n",
        "pkg/__init__.py": "",
        "pkg/a.py": "import re\nfrom pathlib import Path, PurePath\n\n"
        "def f():\n    import zlib\n    return re, Path, PurePath, zlib\n",
    }
    text = flatten(write_files(tmp_path, files))
    assert "import re\nfrom pathlib import Path, PurePath\n" in text
    assert len(re.findall("^(?:import|from) ", text, re.M)) == 2
    assert "    import zlib\n" in text


def test_a_colliding_constant_gets_its_modules_name(tmp_path):
    files = {
        "main.py": "from pkg.losses import f\nEPS = 2\nprint(f(), EPS)\n",
        "pkg/__init__.py": "",
        "pkg/losses.py": "EPS = 1  # small\ndef f():\n    return EPS\n",
    }
    report = bk.build_entry(write_files(tmp_path, files) / "main.py", [tmp_path / "pkg"], tmp_path / "o.py")
    assert report.renamed == ["pkg.losses.EPS -> losses_EPS"]
    assert "losses_EPS = 1  # small\ndef f():\n    return losses_EPS\n" in (tmp_path / "o.py").read_text()


def test_long_modules_are_split_between_definitions(tmp_path):
    body = "".join(f"def f{n}():\n    return (\n{'        1 +' + chr(10)}        {n}\n    )\n\n\n" for n in range(40))
    main = "import pkg.a\nprint(" + " + ".join(f"pkg.a.f{n}()" for n in range(40)) + ")\n"
    folder = write_files(tmp_path, {"main.py": main, "pkg/__init__.py": "", "pkg/a.py": body})
    cells = [cell for cell in nbformat.reads(flatten(folder, ".ipynb"), 4).cells if cell.id.startswith("cell-pkg-a")]
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert len(code) > 2 and all(len(cell.source.splitlines()) <= 80 for cell in code)
    assert all(cell.source.startswith("def f") for cell in code)


def test_every_line_of_code_knows_its_source(tmp_path):
    files = FAITHFUL["shadowing"] | {"pkg/b.py": ""}
    folder = write_files(tmp_path, files)
    library = bk.Library(folder / "main.py", {"pkg": folder / "pkg"}, "main.py")
    document = bk.analyse(library, "script")
    lines = [line for cell in document.body if cell.kind == "code" for line in cell.lines if line.text.strip()]
    assert lines
    for line in lines:
        source = files[line.label].split("\n")[line.number - 1]
        assert line.text == source or line.text.replace("a_", "") == source.replace("a_", "") or " = " in line.text


# ----------------------------------------------------------------------------------------------------------------------
# Refused: a clear error with file and line, never a wrong program
# ----------------------------------------------------------------------------------------------------------------------

REFUSED = read_cases(r"""
=== a module as a value | main.py:2 | used as an object
--- main.py
from pkg import a
print(getattr(a, 'x'))
--- pkg/a.py
x = 1
=== globals | pkg/a.py:2 | globals
--- main.py
from pkg.a import f
f()
--- pkg/a.py
def f():
    return globals()
=== __file__ | pkg/a.py:2 | __file__
--- main.py
from pkg.a import f
f()
--- pkg/a.py
def f():
    return __file__
=== __doc__ | pkg/a.py:2 | __doc__
--- main.py
from pkg.a import f
f()
--- pkg/a.py
def f():
    return __doc__
=== exec | pkg/a.py:2 | exec
--- main.py
from pkg.a import f
f()
--- pkg/a.py
def f():
    exec('x')
=== dir of the module | pkg/a.py:1 | whole program
--- main.py
from pkg.a import f
f()
--- pkg/a.py
NAMES = dir()
def f():
    return NAMES
=== package data | pkg/a.py:1 | resources
--- main.py
from pkg.a import f
f()
--- pkg/a.py
from importlib import resources
def f():
    resources.files('pkg')
=== sys.modules | pkg/a.py:3 | sys.modules
--- main.py
from pkg.a import f
f()
--- pkg/a.py
import sys
def f():
    return sys.modules['pkg.a']
=== import by name | pkg/a.py:3 | by name
--- main.py
from pkg.a import f
f()
--- pkg/a.py
import importlib
def f(n):
    importlib.import_module(n)
=== an unknown star | pkg/a.py:1 | name them
--- main.py
from pkg.a import f
f()
--- pkg/a.py
from math import *
def f():
    return pow(pi, 2)
=== a computed __all__ | pkg/a.py:1 | __all__
--- main.py
from pkg.a import *
--- pkg/a.py
__all__ = [n for n in ('f',)]
def f(): pass
=== a module's __getattr__ | pkg/a.py:1 | __getattr__
--- main.py
from pkg.a import f
f()
--- pkg/a.py
def __getattr__(n): pass
def f(): pass
=== a missing module | main.py:1 | no module pkg.nowhere
--- main.py
from pkg.nowhere import f
--- pkg/a.py
=== a missing name | main.py:1 | no 'g'
--- main.py
from pkg.a import g
--- pkg/a.py
def f(): pass
=== a missing attribute | main.py:2 | no 'g'
--- main.py
import pkg.a as m
m.g()
--- pkg/a.py
def f(): pass
=== mixed future imports | pkg/a.py:1 | in all modules
--- main.py
from pkg.a import f
def g(x: int): pass
print(g.__annotations__)
--- pkg/a.py
from __future__ import annotations
def f(x: int): pass
=== a late import with effects | main.py:2 | late
--- main.py
def f():
    from pkg.a import g
    g()
--- pkg/a.py
print('effect')
def g(): pass
=== a late third-party import | main.py:2 | optional_thing
--- main.py
def f():
    from pkg.a import g
    g()
--- pkg/a.py
import optional_thing
def g(): pass
=== a module in a class | main.py:2 | class
--- main.py
class K:
    from pkg import a
--- pkg/a.py
=== a module's attribute set in a function | main.py:3 | sets 'X'
--- main.py
from pkg import a
def f():
    a.X = 1
--- pkg/a.py
X = 0
=== a module's name in a pattern | main.py:3 | capture
--- main.py
from pkg import a
match 1:
    case a.X:
        pass
--- pkg/a.py
X = 1
=== mock.patch | main.py:2 | pkg.a.f
--- main.py
from unittest import mock
with mock.patch('pkg.a.f'):
    pass
--- pkg/a.py
def f(): pass
=== equal names and pickle | pkg/a.py:1 | pickle
--- main.py
import pickle
from pkg.a import f
def g(): pass
print(f())
--- pkg/a.py
def g(): pass
def f():
    return g
=== a mangled name | pkg/a.py:3 | _C__x
--- main.py
from pkg.a import C
C()
--- pkg/a.py
_C__x = 1
class C:
    y = __x
=== a quoted name that changes | pkg/a.py:2 | quotes
--- main.py
import typing
from pkg.a import f
class M: pass
typing.get_type_hints(f)
--- pkg/a.py
class M: pass
def f(m: 'M'): pass
=== a builtin overwritten later | pkg/a.py:2 | builtin
--- main.py
from pkg.a import A
from pkg.b import g
print(A, g())
--- pkg/a.py
from .b import g
A = max(1, 2)
max = min
B = max(1, 2), g
print(B)
=== a syntax error | pkg/a.py:1 | not valid Python
--- main.py
from pkg.a import f
--- pkg/a.py
def f(:
=== a relative import that leaves | pkg/a.py:1 | leaves the package
--- main.py
from pkg.a import f
--- pkg/a.py
from ...x import f
=== an f-string that prints a renamed expression | pkg/a.py:3 | renamed
--- main.py
from pkg.a import f
X = 2
print(f())
--- pkg/a.py
X = 1
def f():
    return f'{X + 1=}'
=== __module__ | main.py:2 | __module__
--- main.py
from pkg.a import f
print(f.__module__)
--- pkg/a.py
def f(): pass
""")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_flattened_is_refused_with_file_and_line(name, tmp_path):
    _, where, what = name.split(" | ")
    folder = write_files(tmp_path, REFUSED[name] | {"pkg/b.py": "def g():\n    return max(3, 2)\n"})
    with pytest.raises(bk.BuildError) as error:
        flatten(folder, style="flat")
    assert where in str(error.value) and what in str(error.value)
    assert not (folder / "flat").exists()


def test_a_module_outside_of_the_packages_is_shipped_in_a_kernel(tmp_path):
    root = kernel_root(tmp_path, body="import helpers\nprint(helpers.x)\n")
    (root / "helpers.py").write_text("x = 1\n")
    assert "x = 1" in "".join(path.read_text() for path in build(root).glob("*.ipynb"))


# ----------------------------------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------------------------------

HEAD = '''# /// script
# requires-python = ">=3.11"
# dependencies = []
#
# [tool.kaggle]
# title = "Tiny kernel"
# accelerator = "NvidiaTeslaT4"
# internet = false
# competition_sources = ["some-competition"]
# kernel_sources = ["other-kernel", "else/other-kernel/3"]
# ///
'''  # fmt: skip
SETTINGS = """
# %% tags=["parameters"]
PRESET = "small"  # which one
SET = {}
RUN_ID = ""
BUILD_ID = ""  # written by build_kernel.py

# %% [markdown]
# ## Preflight
# Look **first**.

# %%
config = preset(PRESET, **SET)
print(config, RUN_ID, BUILD_ID)
"""
CONFIG = '''"""Settings."""
PRESETS = {"small": {"epochs": 1}, "large": {"epochs": 9}}


def preset(name, **changes):
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} does not exist")
    for key, value in changes.items():
        if key not in ("epochs", "tag"):
            raise ValueError(f"setting {key!r} does not exist; there are epochs, tag")
        if key == "epochs" and type(value) is not int:
            raise ValueError(f"epochs={value!r}: must be int")
    return {**PRESETS[name], **changes}
'''


def kernel_root(tmp_path, head: str = HEAD, body: str = "", settings: str = SETTINGS) -> Path:
    """A repository with one package, `deep`, and one kernel, `tiny`."""
    imports = "import sys\nfrom deep.config import preset\n"
    kernel = f'{head}"""Does a tiny thing.\n\nIn two paragraphs.\n"""\n{imports}{settings}{body}'
    files = {"kernels/tiny.py": kernel, "deep/__init__.py": "", "deep/config.py": CONFIG}
    return write_files(tmp_path / "checkout", files)


def build(root: Path, **options) -> Path:
    return bk.build_kernel("tiny", out=root / "build", root=root, **options)


def notebook(folder: Path):
    book = nbformat.read(folder / "tiny.ipynb", 4)
    nbformat.validate(book)
    return book


@pytest.fixture(autouse=True)
def no_kaggle_account(monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("KAGGLE_USERNAME", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_a_kernel_is_a_notebook_with_title_contents_settings_imports_modules_and_run(tmp_path):
    cells = notebook(build(kernel_root(tmp_path))).cells
    names = [
        "cell-title",
        "cell-contents",
        "cell-settings",
        "cell-manifest",
        "cell-imports",
        "cell-deep-config-text",
        "cell-deep-config",
    ]
    assert [cell.id for cell in cells] == [*names, "cell-run-text", "cell-run-1", "cell-run-2", "cell-manifest-end"]
    assert cells[0].source.startswith("# Tiny kernel\n\nDoes a tiny thing.\n\nIn two paragraphs.\n")
    assert "edit the package instead" in cells[0].source and "`some-competition`" in cells[0].source
    assert "(#deep-config)" in cells[1].source and '<a id="deep-config"></a>' in cells[5].source
    assert cells[2].metadata.tags == ["parameters"]
    assert cells[4].source == "import sys"
    assert '"""Settings."""' not in cells[6].source and cells[6].source.startswith("PRESETS")
    assert cells[8].source == "### Preflight\nLook **first**."


def test_the_settings_cell_gets_preset_settings_run_and_build_id(tmp_path):
    root = kernel_root(tmp_path)
    folder = build(root, settings={"epochs": 3, "tag": 'é "x"'}, preset="large", run_id="r1")
    values = {}
    exec(notebook(folder).cells[2].source, values)
    assert values["PRESET"] == "large" and values["SET"] == {"epochs": 3, "tag": 'é "x"'} and values["RUN_ID"] == "r1"
    assert re.fullmatch("[0-9a-f]{12}", values["BUILD_ID"])
    assert '"large"  # which one' in notebook(folder).cells[2].source


def test_the_build_id_stands_for_the_source_not_for_its_settings(tmp_path):
    root = kernel_root(tmp_path)

    def build_id(**options):
        return re.search('BUILD_ID = "(.*?)"', notebook(build(root, **options)).cells[2].source)[1]

    first = build_id()
    assert build_id(settings={"epochs": 2}, run_id="x") == first == build_id(owner="me")
    (root / "deep" / "config.py").write_text(CONFIG.replace("does not exist", "is unknown"))
    assert build_id() != first


@pytest.mark.parametrize(
    "options, message",
    [
        ({"settings": {"epoch": 3}}, "setting 'epoch' does not exist; there are epochs, tag"),
        ({"settings": {"epochs": "3"}}, "epochs='3': must be int"),
        ({"preset": "huge"}, "preset 'huge' does not exist"),
    ],
)
def test_bad_settings_are_refused_when_the_kernel_is_built(options, message, tmp_path):
    root = kernel_root(tmp_path)
    with pytest.raises(bk.BuildError, match=re.escape(message)):
        build(root, **options)
    assert not (root / "build").exists()


def test_settings_on_the_command_line_have_the_grammar_of_the_other_commands(tmp_path, capsys):
    root = kernel_root(tmp_path)

    def built(*arguments) -> dict:
        assert bk.main(["--out", str(root / "build"), *arguments], root) == 0
        values = {}
        exec(notebook(root / "build/tiny").cells[2].source, values)
        return values["SET"]

    assert built("tiny", "--set", "epochs=5", "tag=False") == {"epochs": 5, "tag": False}
    assert built("tiny", "--set", "tag=(1, 2)", "--set", "epochs=6") == {"tag": [1, 2], "epochs": 6}
    assert built("--set", "tag=a b", "tiny") == {"tag": "a b"}
    for bad in ("epochs", "=3", "a-b=3"):
        with pytest.raises(SystemExit):
            bk.main(["tiny", "--set", bad], root)
        assert f"--set {bad}: must be key=value, such as epochs=5" in capsys.readouterr().err


def test_the_recorded_command_makes_the_same_again(tmp_path):
    root = kernel_root(tmp_path)
    settings = {"epochs": 3, "tag": "5"}
    first = build(root, settings=settings, preset="large")
    text = notebook(first).cells[0].source
    command = re.search("Built by `python build_kernel.py (.*?)` from", text)[1]
    assert shlex.split(command) == ["tiny", "--preset", "large", "--set", "epochs=3", "--set", 'tag="5"']
    assert bk.main([*shlex.split(command), "--out", str(tmp_path / "again")], root) == 0
    assert notebook(tmp_path / "again/tiny").cells == notebook(first).cells
    folder = write_files(tmp_path / "entry", MIXED)
    text = flatten(folder, style="modules")
    command = re.search("Built by `python build_kernel.py (.*?)`;", text)[1]
    assert command == "--entry main.py --package pkg --out flat.py --style modules"
    (folder / "alone.py").write_text("ONE = 1\n")
    bk.build_entry(folder / "main.py", [folder / "pkg", folder / "alone.py"], folder / "two.py")
    assert "--package pkg --package alone.py --out two.py`" in (folder / "two.py").read_text()
    shutil.copytree(folder / "pkg", folder / "code" / "lib" / "pkg")
    bk.build_entry(folder / "main.py", [folder / "code" / "lib" / "pkg"], folder / "deep.py")
    assert "--entry main.py --package code/lib/pkg --out deep.py`" in (folder / "deep.py").read_text()
    assert "--style" not in flatten(folder)


def test_settings_without_a_settings_cell_are_refused_but_the_name_of_the_run_gets_one(tmp_path):
    root = kernel_root(tmp_path, settings="", body="\nprint(preset('small'))\n")
    with pytest.raises(bk.BuildError, match="no line SET = "):
        build(root, settings={"epochs": 1})
    cell = next(cell for cell in notebook(build(root, run_id="x")).cells if cell.id == "cell-settings")
    assert cell.source.startswith('RUN_ID = "x"  #') and cell.metadata.tags == ["parameters"]


def test_a_settings_cell_that_computes_is_refused(tmp_path):
    root = kernel_root(tmp_path, settings=SETTINGS.replace("SET = {}", "SET = dict()"))
    with pytest.raises(bk.BuildError, match=r"tiny.py:\d+.*NAME = literal"):
        build(root)


def test_the_metadata_says_everything_that_kaggle_would_guess(tmp_path):
    folder = build(kernel_root(tmp_path), owner="me")
    assert all(path.read_bytes().endswith(b"}\n") for path in folder.iterdir())
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    assert metadata == {
        "id": "me/tiny-kernel",
        "title": "Tiny kernel",
        "code_file": "tiny.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "keywords": [],
        "machine_shape": "NvidiaTeslaT4",
        "competition_sources": ["some-competition"],
        "dataset_sources": [],
        "kernel_sources": ["me/other-kernel", "else/other-kernel/3"],
        "model_sources": [],
    }


def test_a_cpu_kernel_names_no_machine(tmp_path):
    root = kernel_root(tmp_path, head=HEAD.replace("NvidiaTeslaT4", "").replace("# internet = false\n", ""))
    metadata = json.loads((build(root) / "kernel-metadata.json").read_text())
    assert metadata["enable_internet"] is False and metadata["is_private"] is True
    assert metadata["enable_gpu"] is metadata["enable_tpu"] is False and "machine_shape" not in metadata


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("NvidiaTeslaT4", "NvidiaTeslaP100", "retired.*NvidiaTeslaT4"),
        ("NvidiaTeslaT4", "T4", "not known.*NvidiaTeslaT4"),
        ("internet = false", "internets = false", "unknown key 'internets'"),
        ("internet = false", 'internet = "no"', "true or false"),
        ('"some-competition"]', "3]", "list of strings"),
        ("some-competition", "https://kaggle.com/c/some", "is not slug"),
        ("other-kernel/3", "Other_Kernel", "kernel_sources"),
        ("other-kernel", "abc", "fewer than 5"),
        ("Tiny kernel", "T !!", "5 to 50"),
        ("Tiny kernel", "Tiny" * 13, "5 to 50"),
        ("[tool.kaggle]", "[tool.kagle]", "no \\[tool.kaggle\\]"),
        ("[tool.kaggle]", "[tool.kaggle", "not valid TOML"),
    ],
)
def test_a_bad_head_is_refused(old, new, message, tmp_path):
    with pytest.raises(bk.BuildError, match=f"kernels/tiny.py:[1-9]: .*{message}"):
        build(kernel_root(tmp_path, head=HEAD.replace(old, new)))


def test_the_owner_comes_from_flag_variable_or_kaggle_json(tmp_path, monkeypatch):
    home = Path(os.environ["HOME"])
    assert bk.find_owner(None) is None
    write_files(home, {".config/kaggle/kaggle.json": '{"username": "xdg", "key": "k"}'})
    assert bk.find_owner(None) == "xdg"
    write_files(home, {".kaggle/kaggle.json": '{"username": "home", "key": "k"}'})
    assert bk.find_owner(None) == "home"
    write_files(home, {"c/kaggle.json": '{"username": "folder", "key": "k"}'})
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "c"))
    assert bk.find_owner(None) == "folder"
    monkeypatch.setenv("KAGGLE_USERNAME", "variable")
    assert bk.find_owner(None) == "variable" and bk.find_owner("flag") == "flag"
    with pytest.raises(bk.BuildError, match="no Kaggle name"):
        bk.find_owner("a/b")


def test_without_an_owner_the_build_works_and_the_id_shows_it(tmp_path):
    metadata = json.loads((build(kernel_root(tmp_path)) / "kernel-metadata.json").read_text())
    assert metadata["id"] == f"{bk.NO_OWNER}/tiny-kernel"


@pytest.mark.parametrize(
    "line, about",
    [
        ('AUTH = {"username": "me", "key": "0123456789abcdef0123456789abcdef"}', "Kaggle key"),
        ('TOKEN = "KGAT_0123456789abcdef0123"', "Kaggle token"),
        ('PEM = "-----BEGIN RSA PRIVATE KEY-----"', "private key"),
        ('ROOT = "{root}/data"', "checkout"),
        ('ROOT = "{home}/data"', "home folder"),
    ],
)
def test_secrets_and_paths_of_this_machine_are_refused(line, about, tmp_path):
    line = line.replace("{root}", str(tmp_path / "checkout")).replace("{home}", os.environ["HOME"])
    with pytest.raises(bk.BuildError, match=f"kernels/tiny.py:\\d+: holds .*{about}"):
        build(kernel_root(tmp_path, body=line + "\n"))


def test_too_large_a_kernel_is_refused_and_a_large_one_warned_about(tmp_path):
    def report(size):
        root = kernel_root(tmp_path, body=f"TEXT = '{'x' * size}'\n")
        return bk.build_report(bk.KernelRequest("tiny", root, root / "build"))

    assert not report(700_000).warnings
    assert "bytes" in report(900_000).warnings[0]
    with pytest.raises(bk.BuildError, match="1,000,000"):
        report(1_000_000)


def test_a_failed_build_leaves_the_earlier_one_whole(tmp_path):
    root = kernel_root(tmp_path)
    before = (build(root) / "tiny.ipynb").read_bytes()
    with pytest.raises(bk.BuildError):
        build(root, preset="huge")
    assert (root / "build/tiny/tiny.ipynb").read_bytes() == before
    build(root, form="script")
    assert sorted(path.name for path in (root / "build/tiny").iterdir()) == [
        "kernel-metadata.json",
        "tiny.py",
        "tiny.py.map.json",
    ]
    assert [path.name for path in (root / "build").iterdir()] == ["tiny"]


def test_a_folder_that_is_no_build_is_not_replaced(tmp_path):
    root = kernel_root(tmp_path)
    write_files(root, {"build/tiny/precious.txt": "x"})
    with pytest.raises(bk.BuildError, match="no earlier build"):
        build(root)
    assert (root / "build/tiny/precious.txt").is_file() and len(list((root / "build").iterdir())) == 1


def test_an_unknown_kernel_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(bk.BuildError, match="'huge'.*tiny"):
        bk.build_kernel("huge", root=kernel_root(tmp_path))


def test_the_script_form_has_the_same_cells(tmp_path):
    root = kernel_root(tmp_path)
    cells = [cell for cell in notebook(build(root)).cells if cell.cell_type == "code"]
    cells = [cell for cell in cells if not cell.id.startswith("cell-manifest")]  # which are for the main process only
    text = (build(root, form="script") / "tiny.py").read_text()
    assert text.startswith("# /// script\n") and '# %% tags=["parameters"]\nPRESET' in text
    positions = [text.index(cell.source) for cell in cells]
    assert positions == sorted(positions) and text.count("# %%") == 11
    code, printed, _ = run_python(root / "build/tiny/tiny.py", tmp_path)
    assert code == 0 and printed.startswith("{'epochs': 1}  ")


def test_a_kernels_imports_below_an_effect_stay_below_it(tmp_path):
    body = "import os\nos.environ['KERAS_BACKEND'] = 'jax'\n"
    settings = SETTINGS + "import keras\nprint(keras)\n"
    cells = notebook(build(kernel_root(tmp_path, settings=body + settings))).cells
    assert "keras" not in cells[4].source.replace("os", "")
    assert "import keras" in cells[-2].source


# ----------------------------------------------------------------------------------------------------------------------
# This repository's kernels
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The repository's own kernels, built by the command."""
    out = tmp_path_factory.mktemp("built")
    run_build(ROOT, out, "0")
    return out


def run_build(root: Path, out: Path, seed: str):
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, root / "build_kernel.py", "--out", out, "--owner", "someone"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", KERNELS)
def test_our_kernels_are_valid_notebooks_without_the_package(name, built):
    book = nbformat.read(built / name / f"{name}.ipynb", 4)
    nbformat.validate(book)
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    for node in ast.walk(ast.parse("\n".join(code))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level and node.module.split(".")[0] != "salt"
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "salt" for alias in node.names)
    text = (built / name / f"{name}.ipynb").read_text()
    assert str(ROOT) not in text and str(Path.home()) not in text


@pytest.mark.parametrize("name", KERNELS)
def test_our_kernels_carry_the_comments_of_what_they_ship(name, built):
    book = nbformat.read(built / name / f"{name}.ipynb", 4)
    shipped = comments_of("\n".join(cell.source for cell in book.cells if cell.cell_type == "code"))
    assert len(shipped) > 10
    checked = 0
    for path in sorted((ROOT / "salt").glob("*.py")):
        for definition, wanted in comments_of(path.read_text()).items():
            if definition in shipped:
                assert shipped[definition] == wanted, f"{path.name}: {definition}"
                checked += len(wanted)
    assert checked > 10


def comments_of(source: str) -> dict[str, list[str]]:
    """The comments inside of each definition of a module, by its name."""
    spans = {
        node.name: range(node.lineno, node.end_lineno + 1) for node in ast.parse(source).body if hasattr(node, "name")
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    return {name: [text for line, text in comments if line in lines] for name, lines in spans.items()}


@pytest.mark.parametrize("name", KERNELS)
def test_our_kernels_need_no_rename(name, tmp_path):
    report = bk.build_report(bk.KernelRequest(name, ROOT, tmp_path))
    assert report.renamed == []


def test_our_kernels_have_the_same_bytes_in_any_folder_and_under_any_hash_seed(built, tmp_path):
    copy = tmp_path / "another" / "place"
    copy.mkdir(parents=True)
    shutil.copy(ROOT / "build_kernel.py", copy)
    for folder in ("flattener", "salt", "kernels"):
        if (ROOT / folder).is_dir():  # the one file that test_dist.py runs these tests with has no package
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run_build(copy, tmp_path / "out", "77")
    names = [f"{name}/{file}" for name in KERNELS for file in (f"{name}.ipynb", "kernel-metadata.json")]
    assert names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (built / name).read_bytes()


def test_the_command_refuses_what_the_function_refuses(tmp_path):
    command = [sys.executable, ROOT / "build_kernel.py", "--out", tmp_path / "out"]
    done = subprocess.run([*command, "nothing"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: kernel 'nothing': there is no kernel")
    done = subprocess.run([*command, "--set", "no_such=1"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "no_such" in done.stderr and not list((tmp_path).glob("out/*"))


# ----------------------------------------------------------------------------------------------------------------------
# Styles: which modules are flat, and which keep a namespace of their own
# ----------------------------------------------------------------------------------------------------------------------

MIXED = {
    "main.py": "from pkg import state\nfrom pkg.plain import double\nprint(double(3), [state][0].COUNT)\n",
    "pkg/__init__.py": "",
    "pkg/state.py": "COUNT = 3\n",
    "pkg/plain.py": "def double(x):\n    return 2 * x\n",
}


def sections(text: str) -> list[str]:
    return re.findall(r'(?m)^if __name__ == "(.+)":  # ', text)


def test_only_the_module_that_cannot_be_flat_keeps_its_namespace(tmp_path):
    folder = write_files(tmp_path, MIXED)
    text = flatten(folder)
    assert sections(text) == ["pkg.state"]
    assert "\ndef double(x):" in text and "from pkg import state" in text
    assert run_python(folder / "flat/flat.py", tmp_path) == (0, "6 3\n", "")


def test_an_entry_that_looks_into_modules_keeps_them_all(tmp_path):
    folder = write_files(tmp_path, MIXED)
    (folder / "main.py").write_text(MIXED["main.py"] + "import sys\nprint(sys.modules['pkg.state'] is state)\n")
    text = flatten(folder)
    assert sections(text) == ["pkg.state", "pkg.plain"]
    shutil.rmtree(folder / "pkg")
    assert run_python(folder / "flat/flat.py", tmp_path) == (0, "6 3\nTrue\n", "")


def test_the_modules_style_can_be_asked_for_and_the_flat_one_refuses(tmp_path):
    files = {"main.py": "from pkg.a import f\nprint(f())\n", "pkg/__init__.py": "", "pkg/a.py": "def f(): return 1\n"}
    folder = write_files(tmp_path, files)
    assert sections(flatten(folder)) == []
    assert sections(flatten(folder, style="modules")) == ["pkg.a"]
    (folder / "main.py").write_text("import pkg.a\nprint(vars(pkg.a))\n")
    with pytest.raises(bk.BuildError, match=r"main.py:2: the module pkg.a is used as an object"):
        flatten(folder, style="flat")


def test_a_new_python_that_gets_its_functions_by_value_needs_no_module(tmp_path):
    files = {
        "main.py": "from pkg.work import square\nfrom pkg.away import far\nprint('by pkg', far(square, 7))\n",
        "pkg/work.py": "FACTOR = 1\ndef square(x):\n    return FACTOR * x * x\n",
        "pkg/away.py": (
            "import subprocess, sys\nimport cloudpickle\n"
            "def far(function, value):\n"
            "    code = 'import pickle, sys; f, x = pickle.load(sys.stdin.buffer); print(f(x))'\n"
            "    data = cloudpickle.dumps((function, value))\n"
            "    return int(subprocess.run([sys.executable, '-c', code], input=data, capture_output=True).stdout)\n"
        ),
    }
    folder = write_files(tmp_path, files)
    assert sections(flatten(folder)) == []
    shutil.rmtree(folder / "pkg")
    assert run_python(folder / "flat/flat.py", tmp_path) == (0, "by pkg 49\n", "")


COMPILES = """import re
CODE = "import keras; print(keras)"
WORDS = re.compile("a|b")
class Model:
    def compile(self, loss):
        return loss
    def eval(self):
        return self.exec()
    def exec(self):
        return CODE
def fit(model):
    return model.compile(loss=len(WORDS.findall("abc"))), model.eval()
"""


def test_a_method_called_compile_or_eval_runs_no_text(tmp_path):
    files = {
        "main.py": "from pkg.train import Model, fit\nprint(fit(Model()))\n",
        "pkg/__init__.py": "",
        "pkg/train.py": COMPILES,
        "pkg/other.py": "",
    }
    folder = write_files(tmp_path, files)
    assert sections(flatten(folder)) == [] and "pkg.other" not in flatten(folder)
    assert run_python(folder / "flat/flat.py", tmp_path) == (0, "(2, 'import keras; print(keras)')\n", "")


@pytest.mark.parametrize(
    "runs",
    [
        "exec(CODE)",
        "eval(compile(CODE, '', 'exec'))",
        "import builtins\nbuiltins.exec(CODE)",
        "from builtins import exec as run\nrun(CODE)",
        "getattr(__import__('builtins'), 'exec')(CODE)",
        "f = exec\nf(CODE)",
    ],
)
def test_text_that_is_run_may_import_any_module(runs, tmp_path):
    files = {
        "main.py": "import pkg.train\n",
        "pkg/__init__.py": "",
        "pkg/train.py": f"CODE = 'from pkg' + '.other import say; say()'\nMORE = 'import '\n{runs}\n",
        "pkg/other.py": "def say():\n    print('said')\n",
    }
    folder = write_files(tmp_path, files)
    assert sorted(sections(flatten(folder))) == ["pkg.other", "pkg.train"]
    shutil.rmtree(folder / "pkg")
    assert run_python(folder / "flat/flat.py", tmp_path) == (0, "said\n", "")


def test_a_method_called_eval_keeps_no_unused_definition_in_modules_style(tmp_path):
    files = {
        "main.py": "from pkg import a\nprint([a][0].f())\n",
        "pkg/__init__.py": "",
        "pkg/a.py": "class M:\n    def eval(self): return 1\ndef f():\n    return M().eval()\n\ndef lost(): pass\n",
    }
    text = flatten(write_files(tmp_path, files))
    assert sections(text) == ["pkg.a"] and "lost" not in text
    (tmp_path / "pkg/a.py").write_text(files["pkg/a.py"].replace("M().eval()", "eval('M')().eval()"))
    assert "lost" in flatten(tmp_path)


def test_a_line_whose_author_allows_it_may_read_where_code_comes_from(tmp_path):
    files = {
        "main.py": "from pkg.a import place\nprint(len(place(compile('1', 'some file', 'eval'))))\n",
        "pkg/__init__.py": "",
        "pkg/a.py": "def place(code):\n    return code.co_filename\n",
    }
    folder = write_files(tmp_path, files)
    assert sections(flatten(folder)) == ["pkg.a"]
    (folder / "pkg/a.py").write_text(files["pkg/a.py"].replace("filename", "filename  # flat: ok, for a traceback"))
    assert sections(flatten(folder)) == []
    assert run_python(folder / "flat/flat.py", tmp_path) == (0, "9\n", "")


def test_a_suite_of_tests_gets_every_module_as_it_is(tmp_path):
    files = {
        "main.py": "import pytest\nfrom pkg.a import f\ndef test_f():\n    assert f() == 1\n",
        "pkg/a.py": "def f(): return 1\n\ndef unused(): pass\n",
        "pkg/b.py": "def never_named(): pass\n",
    }
    text = flatten(write_files(tmp_path, {"pkg/__init__.py": "", **files}))
    assert sections(text) == ["pkg.a", "pkg.b"] and "def unused" in text


@pytest.mark.parametrize("form", [".py", ".ipynb"])
def test_modules_style_leaves_out_what_nothing_names_and_says_so(form, tmp_path):
    files = {
        "main.py": "import pickle\nfrom pkg.a import K\nprint(pickle.loads(pickle.dumps(K())).x)\n",
        "pkg/__init__.py": "",
        "pkg/a.py": "class K:\n    x = 1\n\n\n# nobody calls it\ndef lost():\n    return LOST\n\n\nLOST = 2\n",
    }
    folder = write_files(tmp_path, files)
    out = folder / f"flat/flat{form}"
    report = bk.build_entry(folder / "main.py", [folder / "pkg"], out)
    assert report.dropped == ["pkg.a.LOST", "pkg.a.lost"]
    assert not re.search("lost|LOST|nobody", out.read_text())


def test_the_helper_is_short_and_only_there_when_needed(tmp_path):
    folder = write_files(tmp_path, MIXED)
    flatten(folder, ".ipynb", "modules")
    cells = json.loads((folder / "flat/flat.ipynb").read_text())["cells"]
    helper = next(cell for cell in cells if cell["id"] == "cell-helper")
    assert helper["source"].count("\n") < 25 and helper["metadata"] == {"_kg_hide-input": True}
    lines = flatten(folder, ".py", "modules").split("\n")
    first, last = lines.index("def unpack_modules():"), lines.index("del unpack_modules")
    assert 10 < last - first < 25
    plain = write_files(tmp_path / "plain", {**MIXED, "main.py": "from pkg.plain import double\nprint(double(1))\n"})
    assert "helper" not in flatten(plain, ".ipynb")


def test_files_of_the_package_are_carried_as_text_or_compressed(tmp_path):
    files = {
        "main.py": "from pkg import words, blob\nprint(words(), len(blob()))\n",
        "pkg/__init__.py": (
            "import pathlib\nHERE = pathlib.Path(__file__).parent\n"
            "def words():\n    return (HERE / 'data/words.txt').read_text().split()\n"
            "def blob():\n    return (HERE / 'blob.bin').read_bytes()\n"
        ),
        "pkg/data/words.txt": "salt\nsäule\n",
    }
    folder = write_files(tmp_path, files)
    (folder / "pkg/blob.bin").write_bytes(bytes(range(256)) * 100)
    text = flatten(folder)
    shutil.rmtree(folder / "pkg")
    assert '"salt\\n"' in text and len(text) < 6_000
    assert run_python(folder / "flat/flat.py", tmp_path) == (0, "['salt', 'säule'] 25600\n", "")


# ----------------------------------------------------------------------------------------------------------------------
# Trace: from a log back to the source
# ----------------------------------------------------------------------------------------------------------------------

BOOM = {
    "main.py": "from pkg.losses import boom\n\ndef main():\n    boom(41)\n\nif __name__ == '__main__':\n    main()\n",
    "pkg/__init__.py": "",
    "pkg/losses.py": '"""Losses."""\n\nEPS = 1\n\n\ndef unused():\n    return EPS\n\n\ndef boom(x):\n    # here\n'
    "    y = x + 1\n    raise RuntimeError(f'boom {y}')\n",
}


def failed_run(folder: Path, form: str) -> str:
    """What a failing flat program writes, as Python or as a notebook's kernel prints it."""
    if form == ".py":
        status, _, error = run_python(folder / "flat/flat.py", folder / "flat")
    else:
        code = (
            "import json, sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
            "shell = InteractiveShell.instance()\n"
            "for cell in json.load(open('flat.ipynb'))['cells']:\n"
            "    if cell['cell_type'] == 'code' and not shell.run_cell(cell['source'], store_history=True).success:\n"
            "        sys.exit(1)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder / "flat",
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "IPYTHONDIR": str(folder / "ipython")},
        )
        status, error = done.returncode, done.stdout + done.stderr
    assert status == 1 and "raise RuntimeError(f'boom {y}')" in re.sub(r"\x1b\[[0-9;]*m", "", error)
    return error


@pytest.mark.parametrize("style", ["flat", "modules"])
@pytest.mark.parametrize("form", [".py", ".ipynb"])
def test_trace_leads_every_frame_of_a_log_to_its_source(form, style, tmp_path, capsys):
    folder = write_files(tmp_path, BOOM)
    flatten(folder, form, style)
    error = failed_run(folder, form)
    assert "pkg/losses.py:13" not in error
    log, book = tmp_path / "kernel.log", tmp_path / f"flat/flat{form}.map.json"
    rows = [{"stream_name": "stderr", "time": 1.5, "data": error[at : at + 7]} for at in range(0, len(error), 7)]
    for text in (error, json.dumps(rows)):
        log.write_text(text)
        assert bk.main(["--trace", str(log), "--map", str(book)]) == 0
        traced = capsys.readouterr().out
        assert "pkg/losses.py:13" in traced and "main.py:4" in traced and "main.py:7" in traced
        assert "raise RuntimeError(f'boom {y}')" in traced


def test_trace_knows_the_files_that_ipykernel_gives_to_cells(tmp_path):
    folder = write_files(tmp_path, BOOM)
    flatten(folder, ".ipynb", "flat")
    cells = json.loads((folder / "flat/flat.ipynb").read_text())["cells"]
    cell = next(cell["source"] for cell in cells if "def boom" in cell["source"])
    compiler = pytest.importorskip("ipykernel.compiler")
    line = cell.split("\n").index("    raise RuntimeError(f'boom {y}')") + 1
    log = tmp_path / "kernel.log"
    log.write_text(f'  File "{compiler.get_file_name(cell)}", line {line}, in boom\n  File "/x/y.py", line 3, in z\n')
    traced = bk.trace_log(log, folder / "flat/flat.ipynb.map.json")
    assert traced == '  File pkg/losses.py:13, in boom\n  File "/x/y.py", line 3, in z\n'


def test_trace_without_a_map_or_with_a_broken_one_says_what_to_do(tmp_path, capsys):
    (tmp_path / "kernel.log").write_text("text")
    (tmp_path / "a.map.json").write_text("{}")
    (tmp_path / "b.map.json").write_text("{}")
    assert bk.main(["--trace", str(tmp_path / "kernel.log")]) == 1
    assert "a.map.json, b.map.json. Remedy: give one by --map" in capsys.readouterr().err
    assert bk.main(["--trace", str(tmp_path / "kernel.log"), "--map", str(tmp_path / "a.map.json")]) == 1
    assert "a.map.json" in capsys.readouterr().err
    assert bk.main(["--trace", str(tmp_path / "no.log"), "--map", str(tmp_path / "a.map.json")]) == 1
    assert "no.log" in capsys.readouterr().err


def test_the_maps_of_this_project_know_every_line_of_its_kernels(tmp_path):
    folder = bk.build_kernel("train", out=tmp_path)
    known = json.loads((folder / "train.ipynb.map.json").read_text())["texts"]
    cells = [cell for cell in json.loads((folder / "train.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        lines = cell["source"].split("\n")
        for row, count, label, first in known.get(str(number), []):
            source = (ROOT / label).read_text().split("\n") if (ROOT / label).is_file() else None
            assert source is not None, label
            for at in range(count):
                if lines[row - 1 + at].startswith(("def ", "class ")):
                    assert lines[row - 1 + at] == source[first - 1 + at]


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_of_this_project_are_flat_without_helper_or_rename(name, tmp_path):
    report = bk.build_report(bk.KernelRequest(name, ROOT, tmp_path))
    assert report.reasons == [] and report.renamed == []
    ids = [cell["id"] for cell in json.loads((report.path / f"{name}.ipynb").read_text())["cells"]]
    assert "cell-helper" not in ids
    assert "__name__ =" not in (report.path / f"{name}.ipynb").read_text()
