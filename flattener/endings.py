"""Programs that end by `sys.exit()`: a notebook takes it for a failure, and what stands below must still run.

So the statements that may end a program well stand in `try: ... except SystemExit`, which lets a failure pass.
"""

import ast
import tokenize
from collections.abc import Iterable

from flattener.facts import Facts, called_name
from flattener.lines import Line
from flattener.modules_style import INDENT
from flattener.source import Module, words
from flattener.trees import walk

EXITS = words("exit quit SystemExit")
# They end by an exit, with status 0 if all went well.
EXITING_RUNNERS = words("app.run unittest.main tf.app.run fire.Fire Fire")
APPS = words("click typer cyclopts")  # what they make of a function ends by an exit, too
MAKERS = words("command group Typer App")


def calls_exit(facts: Facts) -> bool:
    """Whether a module may call the builtins `exit` or `quit`, which in a notebook are IPython's and end nothing."""
    return bool({"exit", "quit"} & facts.bare)


def exit_lines(in_modules: bool) -> list[str]:
    """The lines that give a notebook a script's `exit` and `quit`.

    Args:
        in_modules: whether modules with a namespace of their own call them, too; IPython takes them from the builtins.
    """
    lines = ["import sys", "", "exit = quit = sys.exit  # those of a notebook do not end the program"]
    if in_modules:
        lines += ["get_ipython().builtin_trap.auto_builtins.update(exit=sys.exit, quit=sys.exit)"]
        lines[1:1] = ["", "from IPython import get_ipython"]
    return lines


def exiting_statements(entry: Module, modules: Iterable[Module]) -> list[int]:
    """The indices of the entry's statements that may end the program with status 0, as far as the names show."""
    mentioned: dict[str, set[str]] = {}  # function -> the names in it
    exiting: set[str] = set()
    for module in [entry, *modules]:
        if not any(word in module.text for word in (*EXITS, *APPS, "app.run", "unittest")):
            continue
        uses_app = any(imports_app(node) for node in module.nodes)
        for node in module.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                mentioned.setdefault(node.name, set()).update(names_in(node))
                if may_exit(node) or (uses_app and any(names_in(each) & MAKERS for each in node.decorator_list)):
                    exiting.add(node.name)
            elif uses_app and isinstance(node, ast.Assign) and names_in(node.value) & MAKERS:
                exiting |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    if not exiting and not any(may_exit(node) for node in entry.body):
        return []
    grown = True
    while grown:
        more = {name for name, names in mentioned.items() if name not in exiting and names & exiting}
        exiting |= more
        grown = bool(more)
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    running = [index for index, node in enumerate(entry.body) if not isinstance(node, definitions)]
    return [index for index in running if may_exit(entry.body[index]) or calls(entry.body[index]) & exiting]


def imports_app(node: ast.AST) -> bool:
    """Whether a node imports a library that makes commands of functions."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return any(name.partition(".")[0] in APPS for name in names)


def names_in(node: ast.AST) -> set[str]:
    """The names and attributes in a piece of code."""
    parts = [(getattr(part, "id", None), getattr(part, "attr", None)) for part in walk(node)]
    return {name for pair in parts for name in pair if name}


def calls(node: ast.AST) -> set[str]:
    """The last parts of the names of what a statement calls."""
    return {called_name(part) for part in walk(node) if isinstance(part, ast.Call)}


def may_exit(node: ast.AST) -> bool:
    """Whether a piece of code ends the program by itself, other than with a status that says failure."""
    for part in walk(node):
        if isinstance(part, ast.Raise) and getattr(part.exc, "id", "") == "SystemExit":
            return True
        if not isinstance(part, ast.Call):
            continue
        if called_name(part) in EXITS:
            status = part.args[0] if part.args else None
            fails = isinstance(status, ast.JoinedStr) or (isinstance(status, ast.Constant) and bool(status.value))
            if not fails and ast.unparse(part.func) != "os._exit":
                return True
        elif ast.unparse(part.func) in EXITING_RUNNERS and not any(keyword.arg == "exit" for keyword in part.keywords):
            return True
    return False


def guarded(module: Module, lines: list[Line], name: str, form: str) -> list[Line]:
    """Lines that may end the program in a `try` that ends where the program does.

    Args:
        module: the source, for the lines that lie inside of a string: they keep their indentation.
        lines: of a cell.
        name: for the exception; one that the program does not use.
        form: of the output, for the comment that tells why.
    """
    inside = string_lines(module)
    body = [
        line
        if not line.text or (line.label == module.label and line.number in inside)
        else line._replace(text=INDENT + line.text)
        for line in lines
    ]
    why = "a notebook takes any exit for a failure" if form == "notebook" else "the cells below are still to run"
    ending = [f"except SystemExit as {name}:", f"{INDENT}if {name}.code:  # {why}", f"{INDENT}{INDENT}raise"]
    return [Line("try:"), *body, *map(Line, ending)]


def string_lines(module: Module) -> set[int]:
    """The lines that begin inside of a string."""
    found: set[int] = set()
    kinds = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in module.tokens:
        if token.start[0] < token.end[0] and token.type in kinds:
            found |= set(range(token.start[0] + 1, token.end[0] + 1))
    return found
