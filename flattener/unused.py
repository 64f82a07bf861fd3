"""Which definitions of modules in modules style nothing mentions, so that they can be left out."""

import ast
import collections
import functools
import re
from collections.abc import Iterator

from flattener.evaluation import GENERIC
from flattener.facts import TEXT_RUNNERS, called_name
from flattener.refusals import FRAME_READERS
from flattener.source import KEPT_MODULES, Module, all_arguments, is_docstring, words
from flattener.trees import child_nodes, walk

DYNAMIC_NAMES = words("""
    vars dir globals locals attrgetter methodcaller getmembers modules __dict__ __getattr__
    import_module __import__ patch
""")
TYPING_MODULES = words("typing collections.abc typing_extensions collections numpy numpy.typing")
NAME_CALLS = words("getattr setattr hasattr delattr")


class Vocabulary:
    """The words in the code of a program: names, attributes, and words inside of strings.

    Attributes:
        places: word -> the statements that hold it, each as (module, index).
        computed: whether some code puts names together while it runs, so that it may mean any definition.
    """

    def __init__(self, modules: list[Module]) -> None:
        self.places: dict[str, set[tuple[str, int]]] = collections.defaultdict(set)
        self.computed = False
        for module in modules:
            for index, statement in enumerate(module.body):
                if not is_docstring(statement):
                    for word in self.words_of(statement):
                        self.places[word].add((module.name, index))
        if {"builtins", "__builtins__"} & self.places.keys() and TEXT_RUNNERS & self.places.keys():
            self.computed = True

    def words_of(self, statement: ast.stmt) -> Iterator[str]:
        """The words of a statement; notes whether it computes names."""
        todo: list[ast.AST] = [statement]
        while todo:
            node = todo.pop()
            todo.extend(child_nodes(node))
            for name in ("id", "attr", "name", "module", "arg", "asname", "rest"):
                word = getattr(node, name, None)
                if isinstance(word, str):
                    yield from word.split(".")
            for name in ("names", "kwd_attrs"):  # of global, nonlocal and class patterns
                yield from (word for word in getattr(node, name, []) if isinstance(word, str))
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from re.findall(r"\w+", node.value)
            if isinstance(node, ast.BinOp):
                text = joined_text(node)
                if text is not None:
                    yield from re.findall(r"\w+", text)
            self.computed = self.computed or computes_names(node)


def computes_names(node: ast.AST) -> bool:
    """Whether a node of the syntax tree refers to definitions by names that the source may not hold."""
    match node:
        case ast.Call(args=[_, name, *_]) if called_name(node) in NAME_CALLS and joined_text(name) is None:
            return True
        case ast.Name():
            return node.id in DYNAMIC_NAMES or node.id in TEXT_RUNNERS
        case ast.Attribute():
            return node.attr in DYNAMIC_NAMES  # a method called `eval` runs no text
        case ast.Import():
            return any(alias.name.split(".")[0] in FRAME_READERS for alias in node.names)
        case ast.ImportFrom():
            return (node.module or "").split(".")[0] in FRAME_READERS
    return False


def joined_text(node: ast.AST) -> str | None:
    """The text of a string constant, or of a sum of them; None for anything else."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = joined_text(node.left), joined_text(node.right)
        return None if left is None or right is None else left + right
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def only_defines(node: ast.stmt, module: Module) -> str | None:
    """The name that a statement binds, if it does nothing else and can be left out; None if it does more."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            annotations = [node.returns, *(argument.annotation for argument in all_arguments(node.args))]
            harmless = all(isinstance(part, ast.Constant) for part in defaults) and (
                "annotations" in module.future or all(runs_nothing(part, module) for part in annotations if part)
            )
            return node.name if harmless and not node.decorator_list else None
        case ast.ClassDef(bases=[], keywords=[], decorator_list=[]):
            harmless = all(is_docstring(part) or only_defines(part, module) is not None for part in node.body)
            return node.name if harmless else None
        case ast.Assign(targets=[ast.Name(id=name)]):
            try:
                ast.literal_eval(node.value)
            except (ValueError, TypeError):
                return None
            return None if "__" in name else name
    return None


@functools.lru_cache(KEPT_MODULES)
def names_of_types(module: Module) -> tuple[set[str], set[str], set[str]]:
    """The names of the modules that a module imports, of `typing` among them, and of the types that take brackets."""
    imported = [part for part in module.body if isinstance(part, ast.Import | ast.ImportFrom)]
    plain = [alias for part in imported if isinstance(part, ast.Import) for alias in part.names]
    modules = {alias.asname or alias.name for alias in plain}
    typing_modules = {alias.asname or alias.name for alias in plain if alias.name in TYPING_MODULES}
    generic = {
        alias.asname or alias.name
        for part in imported
        if isinstance(part, ast.ImportFrom) and part.module in TYPING_MODULES
        for alias in part.names
    }
    generic |= GENERIC - {getattr(part, "name", "") for part in module.body}
    return modules, typing_modules, generic


def runs_nothing(node: ast.expr, module: Module) -> bool:
    """Whether evaluating an annotation runs no code of the packages: it is made of names and of `typing`'s types."""
    modules, typing_modules, generic = names_of_types(module)
    for part in walk(node):
        match part:
            case ast.Name() | ast.Constant() | ast.Tuple() | ast.List() | ast.expr_context():
                pass
            case ast.Attribute(value=ast.Name(id=name)) if name in modules:
                pass
            case ast.Subscript(value=ast.Name(id=name)) if name in generic:
                pass
            case ast.Subscript(value=ast.Attribute(value=ast.Name(id=name))) if name in typing_modules:
                pass
            case ast.BinOp(op=ast.BitOr()) | ast.BitOr():
                pass
            case _:
                return False
    return True


def unused_statements(modules: list[Module], entry: Module, texts: list[str]) -> set[tuple[str, int]]:
    """The definitions whose name no other code of the program mentions, not even in a string.

    Args:
        modules: of the program, without the entry.
        entry: the entry.
        texts: other texts of the program that may name definitions.

    Returns:
        (module, index of the statement) of each; empty where names are computed, as in `getattr(module, name)`.
    """
    vocabulary = Vocabulary([entry, *modules])
    if vocabulary.computed:
        return set()
    for text in texts:
        for word in set(re.findall(r"\w+", text)):
            vocabulary.places[word].add(("", 0))
    candidates = {}
    for module in modules:
        for index, statement in enumerate(module.body):
            name = only_defines(statement, module)
            if name is not None and index not in module.dead:
                candidates[module.name, index] = name
    unused: set[tuple[str, int]] = set()
    while True:
        found = {
            place
            for place, name in candidates.items()
            if place not in unused and not vocabulary.places[name] - unused - {place}
        }
        if not found:
            return unused
        unused |= found
