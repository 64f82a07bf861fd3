"""What IPython changes in a cell before it runs it: a notebook must not hold such lines."""

import re
import tokenize

from flattener.source import Module

SHELL_NAMES = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_[dio]h|In|Out")  # IPython binds them before each cell


def shell_edits(module: Module) -> int:
    """The first line of a module, inside of a string, that IPython 9 would edit in a cell before it runs it; 0: none.

    It empties lines that hold only blanks, and it removes `>>> ` from lines that it does not take for a docstring's.
    """
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
    if delimiters != len(re.findall(r"(?<!\\)(\"\"\"|''')", module.text)):  # it counts others as quotes, too
        prompts |= {row for row, line in enumerate(module.lines, 1) if line.lstrip().startswith((">>>", "...:"))}
    return min(blank | prompts, default=0)


def refuse_shell_edits(module: Module) -> None:
    """Raises a `BuildError` for a module that a notebook cannot hold as it is."""
    line = shell_edits(module)
    if line:
        remedy = "write the blanks as \\x20 and `>>>` as \\x3e>>, or build a .py file"
        module.refuse(line, "IPython would change this line of a string before it runs it", remedy)
