"""The arguments of a script: whether the program reads any, and which of them it asks for."""

import ast
from collections.abc import Iterable, Iterator, Sequence

from flattener.facts import Facts, called_name
from flattener.source import Module, last_line, last_name, words
from flattener.trees import walk

ARGUMENT_READERS = words("""
    absl argh argparse cappa chz click cliff clize configargparse cyclopts datargs defopt docopt draccus fileinput fire
    getopt hydra jsonargparse optparse plac simple_parsing tap typer tyro
""")
READING = words("""
    sys.argv .argv parse_args_into_dataclasses from_cli LightningCLI unittest.main pytest.main
""")


def reads_arguments(facts: Iterable[Facts]) -> bool:
    """Whether a program may read the arguments of its command line, by the facts of its modules."""
    for each in facts:
        by_tensorflow = {"tf", "tensorflow"} & set(each.words) and {".flags", ".app"} & set(each.words)
        if READING & set(each.words) or by_tensorflow:
            return True
        for node in each.imports:
            origin = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(
                name.partition(".")[0] in ARGUMENT_READERS for name in origin or [alias.name for alias in node.names]
            ):
                return True
    return False


def required_arguments(modules: Sequence[Module]) -> list[str]:
    """What a program asks for on its command line, as far as the source shows: "main.py:3: `data`" for each.

    What a function asks for whose name the program does not mention is nothing that it will be asked for.
    """
    found = [(module, line, about) for module in modules for line, about in find_required(module.tree)]
    named = read_names(modules) if found else set[str]()
    return [f"{module.label}:{line}: {about}" for module, line, about in found if is_called(module.tree, line, named)]


def read_names(modules: Iterable[Module]) -> set[str]:
    """The names that a program reads or imports, also those of attributes."""
    found: set[str] = set()
    for module in modules:
        found |= {last_name(node) for node in module.of(ast.Name, ast.Attribute)}
        found |= {alias.name for node in module.of(ast.ImportFrom) for alias in node.names}
    return found


def is_called(tree: ast.Module, line: int, named: set[str]) -> bool:
    """Whether a line stands at the head of a module, in a class, or in a function that is mentioned, or decorated."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.decorator_list]
    return not any(node.lineno <= line <= last_line(node) and node.name not in named for node in functions)


def find_required(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The lines of a module that require an argument, each with the argument; not those of one command of several."""
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    commands, parsers, groups = find_commands(tree)
    of_groups = [node for node in tree.body if isinstance(node, ast.FunctionDef) and is_command(node)]
    skipped = {part for node in of_groups for each in [*node.decorator_list, node.args] for part in walk(each)}
    if len(of_groups) > 1:
        yield of_groups[0].lineno, f"a command ({', '.join(node.name for node in of_groups)})"
    lengths = [node for node in walk(tree) if isinstance(node, ast.Call) and called_name(node) == "len"]
    counts = any("argv" in ast.unparse(node) for node in lengths)
    for node in walk(tree):
        if node in skipped and len(of_groups) > 1:
            continue
        if isinstance(node, ast.Call):
            of_command = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in parsers
            about = "" if of_command else required_by_call(node, definitions)
            about = about and (commands if called_name(node) == "add_subparsers" else about)
            if about:
                yield node.lineno, about
        elif isinstance(node, ast.Subscript) and not counts:
            index = node.slice.value if isinstance(node.slice, ast.Constant) else 0
            if ast.unparse(node.value) in ("sys.argv", "argv") and type(index) is int and index > 0:
                yield node.lineno, f"`sys.argv[{index}]`"
        elif isinstance(node, ast.Assign) and is_required_group(node, groups):
            yield node.lineno, commands
        elif [node] == of_groups and "app.command" in "".join(map(ast.unparse, of_groups[0].decorator_list)):
            yield from ((of_groups[0].lineno, f"`{name}`") for name in without_default(node))


def find_commands(tree: ast.Module) -> tuple[str, set[str], set[str]]:
    """What argparse's `add_parser` makes: its commands, for a message; the names of their parsers and groups."""
    calls = [node for node in walk(tree) if isinstance(node, ast.Call) and called_name(node) == "add_parser"]
    names = [ast.unparse(node.args[0]).strip("'") for node in calls if node.args]
    made: dict[str, set[str]] = {"add_parser": set(), "add_subparsers": set()}
    for node in walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and called_name(node.value) in made:
            made[called_name(node.value)] |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return f"a command ({', '.join(names)})", made["add_parser"], made["add_subparsers"]


def is_command(node: ast.FunctionDef) -> bool:
    """Whether a function is a command of a group of click or typer: `@cli.command()`, not `@click.command()`."""
    called = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    found = [each for each in called if isinstance(each, ast.Attribute) and each.attr == "command"]
    return any(getattr(each.value, "id", "click") not in ("click", "typer") for each in found)


def is_required_group(node: ast.Assign, groups: set[str]) -> bool:
    """Whether a statement is `subparsers.required = True`."""
    target, value = node.targets[0], node.value
    is_true = isinstance(value, ast.Constant) and value.value is True
    return is_true and isinstance(target, ast.Attribute) and getattr(target.value, "id", "") in groups


def required_by_call(node: ast.Call, definitions: dict[str, ast.FunctionDef | ast.ClassDef]) -> str:
    """What a call such as `parser.add_argument("data")` asks for; empty: nothing."""
    called, given = called_name(node), {keyword.arg: keyword.value for keyword in node.keywords}
    names = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    shown = f"`{names[0]}`" if names else f"`{called}`"
    required = given.get("required")
    if isinstance(required, ast.Constant):
        return shown if required.value is True else ""
    if called == "add_argument" and names and not names[0].startswith("-"):
        optional = ast.unparse(given["nargs"]) if "nargs" in given else ""
        return "" if optional in ("'?'", "'*'") or "REMAINDER" in optional else shown
    if ast.unparse(node.func) == "click.argument" and names:
        return "" if "default" in given or ast.unparse(given.get("nargs", node)) == "-1" else shown
    if called in ("Argument", "Option") and node.args and getattr(node.args[0], "value", None) is ...:
        return shown
    if called in ("mark_flag_as_required", "mark_flags_as_required"):
        return shown
    if ast.unparse(node.func) in ("fire.Fire", "tyro.cli", "Fire") and node.args:
        missing = without_default(definitions.get(getattr(node.args[0], "id", "")))
        return f"`{missing[0]}`" if missing else ""
    return ""


def without_default(node: ast.AST | None) -> list[str]:
    """The parameters of a function, or the fields of a class, that have no default."""
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        plain = [*arguments.posonlyargs, *arguments.args]
        named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        missing = [*plain[: len(plain) - len(arguments.defaults)], *(each for each, value in named if value is None)]
        return [each.arg for each in missing]
    body = node.body if isinstance(node, ast.ClassDef) else []
    fields = [each for each in body if isinstance(each, ast.AnnAssign) and each.value is None]
    return [each.target.id for each in fields if isinstance(each.target, ast.Name)]
