"""What may be left out, moved, or lose its namespace: judged by what the flat form of a small program looks like.

`tests/flatten_cases/effects.txt` runs such programs; these here import libraries that no machine has.
"""

import re

import pytest

from flattener.build import build_entry

FUTURE = "from __future__ import annotations\n"
TYPED = "def g(x: int) -> int: return x\n"
READS = {
    "a decorator": {
        "main.py": f"{FUTURE}from pkg.a import Tree\ndef f(x: int): return x\nprint(Tree.__name__, f(1))\n",
        "pkg/a.py": "import unknown\n@unknown.read\nclass Tree:\n    leaf: int\n",
    },
    "a base class": {
        "main.py": f"{FUTURE}from pkg.a import Tree\ndef f(x: int): return x\nprint(Tree.leaf, f(1))\n",
        "pkg/a.py": "from unknown import Model\nclass Tree(Model):\n    leaf: int\n",
    },
    "a call in another module": {
        "main.py": "from pkg.a import Tree\nfrom pkg.b import g, show\nprint(show(Tree), g(1))\n",
        "pkg/a.py": "class Tree:\n    leaf: int\n",
        "pkg/b.py": f"{FUTURE}import unknown\n{TYPED}def show(c): return unknown.read(c)\n",
    },
    "a call with an object": {
        "main.py": "from pkg.a import Tree\nfrom pkg.b import g\nimport unknown\nprint(unknown.read(Tree()), g(1))\n",
        "pkg/a.py": "class Tree:\n    leaf: int = 1\n",
        "pkg/b.py": FUTURE + TYPED,
    },
    "a call of an object that it made": {
        "main.py": "from pkg.a import Tree\nfrom pkg.b import g\nimport unknown\n"
        "u = unknown.U()\nu.read(Tree(), g(1))\n",
        "pkg/a.py": "class Tree:\n    leaf: int = 1\n",
        "pkg/b.py": FUTURE + TYPED,
    },
    "a method": {
        "main.py": "from pkg.a import Tree\nfrom pkg.b import g\nimport unknown\n"
        "t = Tree()\nprint(unknown.read(t.show), g(1))\n",
        "pkg/a.py": "class Tree:\n    def show(self, x: int): return 1\n",
        "pkg/b.py": FUTURE + TYPED,
    },
    "a list of classes": {
        "main.py": "from pkg.a import Tree\nfrom pkg.b import g, REG\nimport unknown\n"
        "print([unknown.read(c) for c in REG], g(1))\n",
        "pkg/a.py": "from pkg.b import REG\nclass Tree:\n    leaf: int\nREG.append(Tree)\n",
        "pkg/b.py": f"{FUTURE}REG = []\n{TYPED}",
    },
    "a quoted name that is renamed": {
        "main.py": "from pkg.a import Tree as A\nfrom pkg.b import Tree as B\nimport unknown\nunknown.read(A, B)\n",
        "pkg/a.py": 'class Leaf: size = 1\nclass Tree:\n    leaf: "Leaf"\n',
        "pkg/b.py": 'class Leaf: size = 2\nclass Tree:\n    leaf: "Leaf"\n',
    },
    "a quoted name in a function": {
        "main.py": "from pkg.a import f\nfrom pkg.b import f as g\nimport unknown\nunknown.read(f, g)\n",
        "pkg/a.py": 'class Leaf: size = 1\ndef f(leaf: "Leaf"): pass\n',
        "pkg/b.py": 'class Leaf: size = 2\ndef f(leaf: "Leaf"): pass\n',
    },
    "a name in an annotation that is never evaluated": {
        "main.py": "from pkg.a import Tree as A\nfrom pkg.b import Tree as B\nimport unknown\nunknown.read(A, B)\n",
        "pkg/a.py": f"{FUTURE}class Leaf: size = 1\nclass Tree:\n    leaf: Leaf\n",
        "pkg/b.py": f"{FUTURE}class Leaf: size = 2\nclass Tree:\n    leaf: Leaf\n",
    },
    "a quoted name of a module": {
        "main.py": "from pkg.a import Tree\nimport unknown\nunknown.read(Tree)\n",
        "pkg/a.py": 'from pkg import b\nclass Tree:\n    leaf: "b.Leaf"\n',
        "pkg/b.py": "class Leaf: pass\n",
    },
}  # fmt: skip


def built(tmp_path, files):
    """The text of the flat script, and which modules are not flat."""
    for name, text in {"pkg/__init__.py": "", **files}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    report = build_entry(tmp_path / "main.py", [tmp_path / "pkg"], tmp_path / "out" / "flat.py")
    return report.path.read_text(encoding="utf-8"), {reason.split(":")[0] for reason in report.reasons}


@pytest.mark.parametrize("how", READS)
def test_a_module_whose_annotations_an_unknown_library_may_read_keeps_its_namespace(how, tmp_path):
    assert built(tmp_path, READS[how])[1] & {"pkg/a.py", "pkg/b.py"}


@pytest.mark.parametrize("how", READS)
def test_a_library_that_is_known_to_read_no_annotations_changes_nothing(how, tmp_path):
    files = {name: re.sub(r"\bunknown\b", "torch", text) for name, text in READS[how].items()}
    assert built(tmp_path, files)[1] == set()


def test_what_an_unknown_library_never_gets_stays_flat(tmp_path):
    files = {
        "main.py": f"{FUTURE}from pkg.a import Tree\nimport unknown\ndef f(x: int): return x\n"
        "unknown.log(1)\nprint(Tree().leaf, f(1))\n",
        "pkg/a.py": "class Tree:\n    def __init__(self, leaf: int = 1): self.leaf = leaf\n",
    }
    assert built(tmp_path, files)[1] == set()


def test_an_import_that_only_a_quoted_annotation_needs_stays(tmp_path):
    files = {
        "main.py": "from pkg.a import Tree\nprint(Tree.__name__)\n",
        "pkg/a.py": 'import decimal\nclass Tree:\n    leaf: "decimal.Decimal"\n',
    }
    text, styled = built(tmp_path, files)
    assert "import decimal" in text and styled == set()


@pytest.mark.parametrize(
    "code",
    [
        'def setup(c):\n    os.environ["MODE"] = "1"\n    return c\n@setup\nclass A: pass\n',
        'class Base:\n    def __init_subclass__(cls): os.environ["MODE"] = "1"\nclass A(Base): pass\n',
        'class A:\n    os.environ["MODE"] = "1"\n',
        'def note(x):\n    os.environ["MODE"] = x\n    return x\nORDER = sorted("ab", key=note)\n',
        'def setup():\n    os.environ["MODE"] = "1"\n    return True\nif setup(): X = 1\n',
        'def setup(f):\n    os.environ.update(MODE="1")\n    return f\n@setup\ndef g(): pass\n',
    ],
)
def test_no_import_moves_above_code_that_sets_the_environment(code, tmp_path):
    files = {
        "main.py": "from pkg.a import f\nprint(f())\n",
        "pkg/a.py": f"import os\n{code}import unknown\ndef f(): return unknown.MODE\n",
    }
    text, _ = built(tmp_path, files)
    assert text.index("MODE") < text.index("import unknown")


def test_imports_still_move_above_plain_definitions_and_registries(tmp_path):
    files = {
        "main.py": "from pkg.a import f\nprint(f())\n",
        "pkg/a.py": "TABLE = {}\ndef register(c):\n    TABLE[c.__name__] = c\n    return c\n@register\nclass A: pass\n"
        "import unknown\ndef f(): return unknown.MODE\n",
    }
    text, _ = built(tmp_path, files)
    assert text.index("import unknown") < text.index("TABLE = {}")


@pytest.mark.parametrize(
    "line",
    [
        "NAMES = sorted(['b', 'a'], key=len)",
        "NAMES = sorted([('b', 1)], key=lambda pair: pair[1])",
        "BEST = max({'a': 1}, key=str.lower, default=None)",
        "BOTH = {key: value for key, value in zip(('a', 'b'), (1, 2)) if key not in SEEN}",
        "ALIAS = dict[str, Plain] | None",
        "PATH = Path('data') / 'images' / f'{SIZE:03d}.png'",
        "TABLE = {'plain': Plain, **{'kind': Kind}}",
        "MEMBERS = [Kind.A, Kind.B]",
        "ORDER = {kind: at for at, kind in enumerate(Kind)}",
        "FLAGS = re.IGNORECASE | re.MULTILINE",
        "WIDE = SIZE * 2 if SIZE > 2 else -SIZE",
        "ROOT = math.sqrt",
        "LONG = Plain.SIZE + SIZE",
    ],
)
def test_what_runs_no_code_of_the_packages_is_left_out_where_nothing_reads_it(line, tmp_path):
    files = {
        "main.py": "from pkg.a import f\nprint(f())\n",
        "pkg/a.py": "import enum\nimport math\nimport re\nfrom pathlib import Path\nSEEN = ('x',)\nSIZE = 3\n"
        "class Plain:\n    SIZE = 1\nclass Kind(enum.Enum):\n    A = enum.auto()\n    B = enum.auto()\n"
        f"{line}\ndef f(): return 1\n",
    }
    text, styled = built(tmp_path, files)
    assert styled == set() and line not in text and "class Plain" not in text


def test_a_name_is_imported_before_another_module_replaces_it(tmp_path):
    for name, text in {
        "main.py": "from pkg.a import f\nimport pkg.b\nfrom pkg import a\nprint(f(), a.f())\n",
        "pkg/__init__.py": "",
        "pkg/a.py": "def f(): return 1\n",
        "pkg/b.py": "from pkg import a\ndef g(): return 2\na.f = g\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    text = build_entry(tmp_path / "main.py", [tmp_path / "pkg"], tmp_path / "flat.py").path.read_text()
    assert 0 < text.index("f = a_f\n") < text.index("a_f = g\n")
