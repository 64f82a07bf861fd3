"""Which code would notice that modules have become one, and which modules it concerns.

One word is not enough: what is pickled, shown or started is looked at. What stays undecided is told to the user, who
can decide it with `--trust WORD`.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flattener import pickles
from flattener.facts import CONFIG_FOLDERS, Facts, called_name
from flattener.library import Library
from flattener.source import Module, last_name, words
from flattener.trees import walk
from flattener.values import UNKNOWN, Values, makes_class

# Code that reads these sees that the modules have become one: where a class or function comes from, its source, its
# callers.
OBSERVERS = frozenset(["filterwarnings of a module"]) | words("""
    __module__ __globals__ sys.modules copyreg marshal
    getsource getsourcelines getsourcefile getfile getmodule getmodulename getmembers currentframe _getframe
    inspect.stack extract_stack walk_stack setprofile settrace global_enum co_filename
""")
DEPRECATIONS = words("DeprecationWarning PendingDeprecationWarning")
LOG_PLACE = re.compile(r"%\((?:module|filename|pathname|lineno)\)|\{(?:module|filename|pathname|lineno)[}:!]")
LOG_CALLS = words(".debug .info .warning .warn .error .exception .critical .log")
# What finds a class's module in `sys.modules` by its `__module__`, which then must not name a module that is flat.
MODULE_LOOKUPS = words("""
    get_type_hints get_annotations jit import:pydantic import:attr import:attrs import:msgspec import:typeguard
    import:beartype import:typer import:fastapi import:transformers
""")
KERAS_LOOKUPS = words("load_model clone_model model_from_json deserialize register_keras_serializable")
POOLS = re.compile(
    r"(?i:(?!.*thread)(.*(process_?map|process_?pool|multiproc|imap|starmap|map_async|apply_async|parallel_a).*|spawn))"
    r"|DataLoader"
)
POOL_PACKAGES = words("multiprocessing multiprocess concurrent mpire pandarallel pathos ray dask billiard p_tqdm loky")
# Code that imports `multiprocessing` and has none of these words only counts the processors, or the like.
SENDERS = words("""
    multiprocessing.* Pool ThreadPool Process Queue SimpleQueue JoinableQueue Manager BaseManager SyncManager Pipe spawn
    forkserver get_context set_start_method multiprocessing.managers multiprocessing.pool multiprocessing.connection
    multiprocessing.process multiprocessing.context multiprocessing.queues multiprocessing.reduction Array RawArray
    multiprocessing.sharedctypes Value RawValue shared_memory
""")
CONFIG_SUFFIXES = (".yaml", ".yml", ".json", ".toml", ".gin", ".ini", ".cfg")
KERAS_BASES = re.compile(r"(?:Layer|Model|Loss|Metric|Initializer|Regularizer|Constraint|LearningRateSchedule)$")
RUNNERS = words("Process map submit apply run imap_unordered launch start_processes")
OTHERS = ("load_model", "type", "spawn", "logging", "DeprecationWarning", "-m", "import")
TRUSTED = sorted({*OBSERVERS, *pickles.WORDS, *OTHERS})


@dataclass(frozen=True)
class Notice:
    """Code that would notice the flat form.

    Attributes:
        word: by which `--trust` names it.
        text: for the user, with file and line.
        modules: that cannot be flat; None: none can.
        undecided: what the source leaves open; empty if nothing.
        opens: whether it may name what no source mentions, so that nothing of the packages may be left out.
    """

    word: str
    text: str
    modules: frozenset[str] | None = None
    undecided: str = ""
    opens: bool = False


def find_notices(
    library: Library, facts: dict[str, Facts], modules: dict[str, Module], values: Callable[[], Values], form: str
) -> list[Notice]:
    """All such code of a program, in the order of its modules.

    Args:
        library: the entry and its packages.
        facts: of the entry and of each module.
        modules: those of the packages that the entry may load.
        values: makes the index of the program's values, which takes a while.
        form: of the output, "notebook" or "script".
    """
    facts = {name: facts[name] for name in ["__main__", *modules]}
    found: list[Notice] = []
    for name, each in facts.items():
        found += in_module(library, library.source(name), each, form, values)
    if any(map(pickles.is_mentioned, facts.values())):
        found += pickled(values())
    found += configured(library, facts, modules)
    found += shown_in_logs(library, facts, modules)
    found += shown_classes(facts, modules, show_classes(library, facts, modules, values))
    return found


def in_module(
    library: Library, module: Module, facts: Facts, form: str, values: Callable[[], Values]
) -> Iterator[Notice]:
    """What the words and strings of one module say."""
    label = module.label
    for dotted, line in facts.named.items():
        name = longest_module(library, dotted.partition(":")[0])
        if name:
            yield Notice("import", f"{label}:{line}: {dotted!r} may be imported by its name", modules=frozenset([name]))
    for word, line in facts.words.items():
        if word in OBSERVERS:
            text = f"{label}:{line}: {word} shows where a class or function comes from"
            held = source_of(module, word, values) if word in ("getsource", "getsourcelines") else None
            yield Notice(word, text, undecided=text) if held is None else Notice(word, text, modules=held)
    if not module.is_entry and "warn" in facts.words and DEPRECATIONS & set(facts.words):
        text = f"{label}: a DeprecationWarning is shown where the main program causes it, and only there"
        yield Notice("DeprecationWarning", text, undecided=text)
    if form == "notebook":
        for word, line in facts.spawns.items():
            text = f"{label}:{line}: {word!r} starts processes that cannot see what a notebook defines"
            yield Notice("spawn", text, undecided=text)


def source_of(module: Module, word: str, values: Callable[[], Values]) -> frozenset[str] | None:
    """The modules of all that a function such as `getsource` is called for; None: it may be any."""
    calls = [call for call in module.of(ast.Call) if called_name(call) == word]
    functions = [node for node in module.of(ast.Name, ast.Attribute) if last_name(node) == word]
    if len(functions) != len(calls) or any(len(call.args) != 1 or call.keywords for call in calls):
        return None  # it is handed on
    held: set[str] = set()
    for call in calls:
        match call.args[0]:
            case ast.Attribute(value=inner, attr="__class__") | ast.Call(func=ast.Name(id="type"), args=[inner]):
                held |= values().classes_of(module, inner)
            case given:
                held |= values().held_by(module, given)
    return None if UNKNOWN in held else frozenset(held)


def longest_module(library: Library, dotted: str) -> str:
    """The module of the packages that a dotted name begins with: `pkg.models` of `pkg.models.Unet`; else empty."""
    parts = dotted.split(".") if library.contains(dotted) else []
    names = [".".join(parts[:count]) for count in range(len(parts), 1, -1)]
    return next((name for name in names if library.path_of(name)), "")


def pickled(values: Values) -> Iterator[Notice]:
    """What is pickled and unpickled."""
    for each in pickles.Pickles(values).found:
        place = f"{each.module.label}:{each.line}"
        if each.loads:
            text = f"{place}: {each.word} may load objects of any class of the packages"
            yield Notice(each.word, text, undecided=text, opens=True)
        elif each.modules is None:
            text = f"{place}: {each.word} may keep objects of the packages' classes"
            yield Notice(each.word, text, undecided=text)
        else:
            names = ", ".join(sorted(each.modules))
            yield Notice(each.word, f"{place}: {each.word} keeps what {names} defines", modules=each.modules)


def configured(library: Library, facts: dict[str, Facts], modules: dict[str, Module]) -> Iterator[Notice]:
    """What a configuration beside the entry names, and what a saved Keras model may name."""
    named = re.compile(rf"\b(?:{'|'.join(map(re.escape, library.packages)) or '!'})(?:\.[^\W\d]\w*)+")
    seen: set[Path] = set()
    for text in [text for each in facts.values() for text in each.strings]:
        for path in configuration_files(library.folder, text) if len(text) < 100 else []:
            content = path.read_text(encoding="utf-8", errors="ignore") if path not in seen else ""
            seen.add(path)
            for dotted in named.findall(content):
                if longest_module(library, dotted):
                    about = f"{path.name}: {dotted} may be imported by its name"
                    yield Notice("import", about, undecided=about, opens=True)
                    break
    for name, each in facts.items():
        line = each.words.get("load_model without custom_objects", 0)
        if line and any(map(defines_layer, modules.values())):
            text = f"{library.source(name).label}:{line}: load_model may find classes of the packages by their modules"
            yield Notice("load_model", text, undecided=text, opens=True)


def defines_layer(module: Module) -> bool:
    """Whether a module defines a class that a saved Keras model may name."""
    return any(KERAS_BASES.search(ast.unparse(base)) for node in module.of(ast.ClassDef) for base in node.bases)


def configuration_files(folder: Path, text: str) -> list[Path]:
    """The small files of configuration that a string means: a file's path from the entry's folder, or a folder's."""
    if not re.fullmatch(r"[\w./ -]*\w[\w./ -]*", text):
        return []
    path = folder / text
    if path.suffix not in CONFIG_SUFFIXES and path.name not in CONFIG_FOLDERS:
        return []  # most strings: the disk is not asked
    found = [path] if path.is_file() else []
    if path.is_dir() and path.name in CONFIG_FOLDERS:
        found = sorted(path.rglob("*"))
    return [
        each for each in found if each.suffix in CONFIG_SUFFIXES and each.is_file() and each.stat().st_size < 100_000
    ]


def shown_in_logs(library: Library, facts: dict[str, Facts], modules: dict[str, Module]) -> Iterator[Notice]:
    """Log messages that show in which file they were made."""
    for name, each in facts.items():
        if any(LOG_PLACE.search(text) for text in each.strings):
            text = f"{library.source(name).label}: log messages show in which file they were made"
            logs = frozenset(other for other in modules if LOG_CALLS & facts[other].words.keys())
            yield Notice("logging", text, modules=logs)


def shown_classes(facts: dict[str, Facts], modules: dict[str, Module], shown: dict[str, str]) -> Iterator[Notice]:
    """The modules with classes that are shown and whose `__module__` cannot be kept right.

    Args:
        facts: of the entry and of each module.
        modules: those of the packages that the entry may load.
        shown: what `show_classes` found.
    """
    everything: set[str] = set().union(*(each.words for each in facts.values())) if shown else set()
    pools = find_pools(facts) if shown else frozenset[str]()
    plain = plain_classes(modules) if KERAS_LOOKUPS & everything else frozenset[str]()
    for name, place in shown.items():
        module = modules[name]
        bases = {base for node in module.of(ast.ClassDef) for base in node.bases}  # what is shown is the class below
        by_call = any(makes_class(call) for call in module.of(ast.Call) if call not in bases)
        quotes = "annotations" in everything or any(map(has_quoted_annotation, module.of(ast.AnnAssign)))
        for node in module.of(ast.ClassDef) if not by_call else []:
            by_call |= bool(MODULE_LOOKUPS & everything or node.keywords or (pools and is_data_class(node)))
            by_call |= bool(KERAS_LOOKUPS & everything and node.name not in plain)
            by_call |= quotes and any("dataclass" in ast.unparse(each) for each in node.decorator_list)
        if by_call:
            yield Notice("type", f"{place}: a class is shown with its module's name", modules=frozenset([name]))


def plain_classes(modules: dict[str, Module]) -> frozenset[str]:
    """The names that are only those of classes without decorators, and without bases from outside of the packages."""
    classes = [node for module in modules.values() for node in module.nodes if isinstance(node, ast.ClassDef)]
    plain = {node.name for node in classes} | {"object"}
    while True:
        others = {
            node.name for node in classes if node.decorator_list or {last_name(base) for base in node.bases} - plain
        } & plain
        if not others:
            return frozenset(plain)
        plain -= others


def show_classes(
    library: Library, facts: dict[str, Facts], modules: dict[str, Module], values: Callable[[], Values]
) -> dict[str, str]:
    """The modules of the packages a class of which may be shown with its module's name -> the place that shows it.

    Args:
        library: the entry and its packages.
        facts: of the entry and of each module.
        modules: those of the packages that the entry may load.
        values: makes the index of the program's values.
    """
    owners: dict[str, set[str]] = {}  # class -> modules
    for name, module in modules.items():
        for node in module.of(ast.ClassDef, ast.Call):
            if isinstance(node, ast.ClassDef):
                owners.setdefault(node.name, set()).add(name)
            elif makes_class(node):
                owners.setdefault("", set()).add(name)
    everything = set[str]().union(*owners.values())
    found: dict[str, str] = {}
    for name, each in facts.items() if everything else []:
        shown = {line: owners[known] for known in owners if (line := each.words.get(f"shown {known}", 0))}
        if ".__repr__" in each.words:
            shown[each.words[".__repr__"]] = everything
        for node in each.shown_types:
            held = values().held_by(library.source(name), node)
            shown[node.lineno] = everything & held if UNKNOWN not in held else everything
        for line, owner in shown.items():
            for other in owner:
                found.setdefault(other, f"{library.source(name).label}:{line}")
    return {name: found[name] for name in modules if name in found}


def find_pools(facts: dict[str, Facts]) -> frozenset[str]:
    """What may send functions and objects to other processes: names of packages and of calls."""
    found: set[str] = set()
    for each in facts.values():
        imported = [alias.name for site in each.imports for alias in site.names if isinstance(site, ast.Import)]
        imported += [site.module or "" for site in each.imports if isinstance(site, ast.ImportFrom) and not site.level]
        made = {name.partition(".")[0] for name in imported} & POOL_PACKAGES
        made |= {word for word in each.called if POOLS.fullmatch(word)}
        found |= made - {"multiprocessing"} if SENDERS.isdisjoint(each.words) else made
    return frozenset(found)


def refuse_spawned(entry: Module) -> None:
    """Raises a `BuildError` if a new process would have to find a function or class that a notebook's entry defines."""
    defined = {node.name for node in entry.nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in entry.nodes:
        if isinstance(node, ast.Call) and (called_name(node) in RUNNERS or POOLS.fullmatch(called_name(node))):
            for part in [*node.args, *(keyword.value for keyword in node.keywords)]:
                names = {each.id for each in walk(part) if isinstance(each, ast.Name)} & defined
                if names and (isinstance(part, ast.Name) or called_name(node) == "DataLoader"):
                    reason = f"a process that is spawned cannot see {min(names)!r} of a notebook"
                    entry.refuse(part, reason, "move it into a module of the package, or build a .py file")


def has_quoted_annotation(node: ast.AnnAssign) -> bool:
    """Whether an annotation of a variable is written in quotes, or holds quotes."""
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in walk(node.annotation))


def is_data_class(node: ast.ClassDef) -> bool:
    """Whether objects of a class may be what a process sends to another: no layer and no data set is."""
    names = {last_name(base) for base in node.bases}
    return (
        not names or bool(node.decorator_list) or any(re.search(r"Error$|Exception$|Tuple|Enum|dict", n) for n in names)
    )
