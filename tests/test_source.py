"""How a source file is read: comments and strings without all tokens, syntax trees without contexts and operators."""

import ast
import doctest
import textwrap
import tokenize
from pathlib import Path

import pytest

from flattener import shell
from flattener.facts import Facts
from flattener.source import Comment, Module, read_module
from flattener.trees import child_nodes, walk

ROOT = Path(__file__).resolve().parents[1]
STRINGS = '''
"""# no comment
# none either"""
a = "#" '#'  # after "two"
b = ("# no"  # between "parts"
     f"{a + '#'}#"  # and # again
     """# no
"""  # at the end
     r"\\#")
c = f"""
# no {a:#>10}
"""; d = "\\\\"  # after a backslash
e = b"#"; f = 'it\\'s #'  # é "
#'''


def module(text: str) -> Module:
    return Module("pkg.a", "pkg/a.py", text)


def by_tokens(text: str) -> list[Comment]:
    rows = iter(text.splitlines(keepends=True))
    tokens = tokenize.generate_tokens(lambda: next(rows, ""))
    return [Comment(*token.start, token.string) for token in tokens if token.type == tokenize.COMMENT]


FILES = [ROOT / "flattener/documents.py", ROOT / "salt/parallel.py", Path(doctest.__file__), Path(textwrap.__file__)]


@pytest.mark.parametrize("text", [STRINGS, *(path.read_text(encoding="utf-8") for path in FILES)],
                         ids=["strings", *(path.name for path in FILES)])  # fmt: skip
def test_comments_are_those_that_python_reads(text):
    found = module(text).comments
    assert found == by_tokens(text) and found
    assert module(text).comments_on(3, 5) == [comment for comment in found if 3 <= comment.line <= 5]


def test_a_walk_visits_all_nodes_but_contexts_and_operators():
    tree = ast.parse(STRINGS + "\nx[1:2] = lambda y, *z: -y ** 2 if not a and b or 1 < c else [i async for i in z]\n")
    skipped = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
    assert walk(tree) == [node for node in ast.walk(tree) if not isinstance(node, skipped)]
    for node in walk(tree):
        assert child_nodes(node) == [each for each in ast.iter_child_nodes(node) if not isinstance(each, skipped)]


def test_the_nodes_of_some_kinds_come_in_the_order_of_all():
    source = module("import a\nx = a.b(1)\nfrom c import d\ny = d(2)\n")
    kinds = (ast.Call, ast.ImportFrom, ast.Import)
    assert source.of(*kinds) == [node for node in source.nodes if isinstance(node, kinds)]
    assert source.of(ast.Constant) == [node for node in source.nodes if isinstance(node, ast.Constant)]
    assert source.of(ast.While) == source.of(ast.While, ast.For) == []


def test_the_same_text_is_read_once():
    assert read_module("a", "a.py", "x = 1\n") is read_module("a", "a.py", "x = 1\n")
    assert read_module("a", "a.py", "x = 1\n") is not read_module("a", "b.py", "x = 1\n")


@pytest.mark.parametrize("text, line", [
    ('def f():\n    """Adds.\n\n    >>> f()\n    """\n', 0),  # a docstring's prompts stay
    ('TEXT = """\n>>> f()\n"""\n', 2),
    ('TEXT = """\n   \n"""\n', 2),
    ("def f():\n   \n    return 1\n", 0),  # blanks outside of strings may go
    ("def f():\n    '''\n    >>> f(\"\"\"x\"\"\")\n    '''\n", 3),  # IPython counts quotes, and takes these for others
    ('x = f(1, """\n    >>> a""", 2)\n', 2),
    ('class C:\n    """A.\n    \n    B."""\n', 3),
])  # fmt: skip
def test_the_lines_that_ipython_would_edit_are_found(text, line, monkeypatch):
    assert shell.shell_edits(module(text)) == line
    monkeypatch.setattr(shell, "may_hold_edits", lambda module: True)  # with all tokens
    assert shell.shell_edits(module(text)) == line


IMPORTS_A_TEXT = 'TEXT = "import os"\n'


@pytest.mark.parametrize("code", [
    "exec(TEXT)", "import builtins\nbuiltins.exec(TEXT)", 'import builtins\ngetattr(builtins, "exec")(TEXT)',
    '__builtins__["eval"](TEXT)', "from types import FunctionType\nFunctionType(compile(TEXT, '', 'exec'), {})()",
])  # fmt: skip
def test_code_that_runs_text_may_import_any_module(code):
    assert Facts(module(f"{IMPORTS_A_TEXT}{code}\n")).names_modules


@pytest.mark.parametrize("code", [
    "import builtins, re\nre.compile(TEXT)", 'import re\nNAMES = {"builtins", "exec"}\nre.compile(TEXT)',
    "compile(TEXT, '', 'exec')", "import builtins\ncompile(TEXT, '', 'exec')", "shell.exec(TEXT)",
])  # fmt: skip
def test_code_that_only_compiles_text_imports_none(code):
    assert not Facts(module(f"{IMPORTS_A_TEXT}{code}\n")).names_modules
