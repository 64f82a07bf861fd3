"""What IPython changes in a cell before it runs it: a notebook must not hold such lines."""

import re
import tokenize

from flattener.source import Module

SHELL_NAMES = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_[dio]h|In|Out")  # IPython binds them before each cell

DELIMITER = re.compile(r"(?<!\\)(\"\"\"|''')")
TRIPLE = re.compile(r"(?is)[rbfut]*(\"\"\"|''')(?:[^\\]|\\.)*?\1")


def shell_edits(module: Module) -> int:
    """The first line of a module, inside of a string, that IPython 9 would edit in a cell before it runs it; 0: none.

    It empties lines that hold only blanks, and it removes `>>> ` from lines that it does not take for a docstring's.
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
    return min(blank | prompts, default=0)


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


def refuse_shell_edits(module: Module) -> None:
    """Raises a `BuildError` for a module that a notebook cannot hold as it is."""
    line = shell_edits(module)
    if line:
        remedy = "write the blanks as \\x20 and `>>>` as \\x3e>>, or build a .py file"
        module.refuse(line, "IPython would change this line of a string before it runs it", remedy)
