"""Every refusal names the file and the line, or the option, the reason and a remedy: looked up in the sources."""

import ast
import re
from pathlib import Path

import pytest

from flattener.errors import BuildError

FLATTENER = Path(__file__).resolve().parents[1] / "flattener"
SOURCES = [*sorted(FLATTENER.glob("*.py")), FLATTENER.parent / "build_kernel.py"]
OPTION_OR_LINE = re.compile(r"--\w+|kernel |.*\{\}:(\d+|\{\})$")


def text_of(node: ast.expr) -> str:
    """A text of the source, with `{}` for what only the running program knows."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) else "{}"


def refusals(path: Path) -> list[tuple[int, list[ast.expr]]]:
    """The line and the arguments of each call that raises a `BuildError`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        if called in ("BuildError", "refuse"):
            found.append((node.lineno, node.args))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_refusal_of_a_source_has_a_place_a_reason_and_a_remedy(path):
    for line, arguments in refusals(path):
        where, reason, remedy = arguments[:3]
        place = f"{path.name}:{line}"
        if isinstance(where, ast.JoinedStr) or isinstance(getattr(where, "value", None), str):
            text = text_of(where)
            assert OPTION_OR_LINE.match(text), f"{place}: {text!r} names neither an option nor a line"
        assert re.search(r"\w{2}|\{\}", text_of(reason)), f"{place}: no reason"
        advice = text_of(remedy)
        assert re.match(r"[a-z`\[{]", advice) and not advice.endswith("."), f"{place}: {advice!r} is no order to add"


def test_some_refusals_were_looked_at():
    assert sum(len(refusals(path)) for path in SOURCES) > 90


def test_the_message_is_one_line_with_all_three():
    error = BuildError("pkg/a.py:3", "there is no module pkg.b", "correct the import")
    assert str(error) == "pkg/a.py:3: there is no module pkg.b. Remedy: correct the import."
    assert error.blame is None
