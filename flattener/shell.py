"""What IPython changes in a cell before it runs it: a notebook must not hold such lines."""

import ast
import re
import tokenize
from collections.abc import Collection

from flattener.source import Module, words

SHELL_NAMES = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_[dio]h|In|Out")  # IPython binds them before each cell

# What may read a docstring; every other string that stands alone is read by nothing.
DOC_READERS = words("""
    __doc__ getdoc getcomments getsource getsourcelines help docopt doctest pydoc import:click import:fire import:typer
    import:tyro import:defopt import:plac import:argh import:jsonargparse import:simple_parsing import:pydantic
    import:fastapi import:mcp import:fastmcp import:langchain import:dspy import:strawberry
""")

DELIMITER = re.compile(r"(?<!\\)(\"\"\"|''')")
TRIPLE = re.compile(r"(?is)[rbfut]*(\"\"\"|''')(?:[^\\]|\\.)*?\1")


def shell_edits(module: Module, mentioned: Collection[str] | None = None) -> int:
    """The first line of a module, inside of a string, that IPython 9 would edit in a cell before it runs it; 0: none.

    It empties lines that hold only blanks, and it removes `>>> ` from lines that it does not take for a docstring's.

    Args:
        module: the source.
        mentioned: the words of the whole program, if strings that nothing reads do not matter.
    """
    if not may_hold_edits(module):
        return 0
    blank: set[int] = set()
    prompts: set[int] = set()
    delimiters = 0
    for token in module.tokens:
        if re.match(r"(?i)[rbfut]*(\"\"\"|''')", token.string):
            delimiters += 1 + (token.type == tokenize.STRING)
        if token.start[0] < token.end[0] and token.type not in (tokenize.NEWLINE, tokenize.NL):
            inside = range(token.start[0], token.end[0] + 1)
            blank |= {row for row in inside if module.lines[row - 1] and module.lines[row - 1].isspace()}
            if module.lines[token.start[0] - 1][: token.start[1]].strip():  # no docstring
                prompts |= {row for row in inside if module.lines[row - 1].lstrip().startswith((">>>", "...:"))}
    if delimiters != len(DELIMITER.findall(module.text)):  # it counts others as quotes, too
        prompts |= {row for row, line in enumerate(module.lines, 1) if line.lstrip().startswith((">>>", "...:"))}
    return min((blank | prompts) - (unread_rows(module, mentioned) if mentioned is not None else set()), default=0)


def unread_rows(module: Module, mentioned: Collection[str]) -> set[int]:
    """The lines of the strings that stand alone, and of the docstrings, unless something of the program reads these."""
    strings = [node for node in module.of(ast.Expr) if isinstance(getattr(node.value, "value", None), str)]
    if not DOC_READERS.isdisjoint(mentioned):
        owners = [module.tree, *module.of(ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)]
        docstrings = [owner.body[0] for owner in owners if owner.body]
        strings = [node for node in strings if node not in docstrings]
    return {row for node in strings for row in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def may_hold_edits(module: Module) -> bool:
    """Whether `shell_edits` may find a line; to read all tokens takes long, and most modules have no such line."""
    strings = [(start, end) for start, end in module.strings if "\n" in module.text[start:end]]
    rows = [range(module.line_of(start), module.line_of(end) + 1) for start, end in strings]
    if any(module.lines[row - 1].isspace() for inside in rows for row in inside):
        return True
    prompts = [row for row, line in enumerate(module.lines, 1) if line.lstrip().startswith((">>>", "...:"))]
    if not prompts:
        return False
    docstrings: set[int] = set()
    for (start, _), inside in zip(strings, rows, strict=True):
        if not module.text[module.starts[inside[0] - 1] : start].strip():
            docstrings.update(inside)
    delimiters = 2 * sum(bool(TRIPLE.fullmatch(module.text, start, end)) for start, end in module.strings)
    return not docstrings.issuperset(prompts) or delimiters != len(DELIMITER.findall(module.text))


def refuse_shell_edits(module: Module, mentioned: Collection[str]) -> None:
    """Raises a `BuildError` for a module that a notebook cannot hold as it is.

    Args:
        module: the source; what was a cell is one again, and IPython has always edited it.
        mentioned: the words of the whole program.
    """
    line = 0 if module.label.endswith(".ipynb") else shell_edits(module, mentioned)
    if line:
        remedy = "write the blanks as \\x20 and `>>>` as \\x3e>>, or build a .py file"
        module.refuse(line, "IPython would change this line of a string before it runs it", remedy)
