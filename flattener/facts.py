"""What the source of one module says about modules: its imports, its words, its strings."""

import ast
import functools
import itertools
import re

from flattener.source import KEPT_MODULES, Module, is_type_checking, last_name, words
from flattener.trees import FIELDS, child_nodes

IMPORTERS = words("import_module __import__")  # with a constant name, they are import statements
TAKE_CLASSES = words("""
    isinstance issubclass get_type_hints fields getattr hasattr setattr super signature register __new__
""")
TEXT_RUNNERS = words("exec eval")
LOOK_UPS = IMPORTERS | words("getattr attrgetter get")
CODE_RUNNERS = words("FunctionType LambdaType runcode interact")  # they run what `compile` makes of a text
SPAWNS = words("spawn forkserver")
# Third-party code that imports what a configuration names.
CONFIG_CALLS = words("""
    instantiate LightningCLI LazyCall LazyConfig import_string import_object locate resolve_name load_object get_class
    get_method get_object iter_entry_points load_entry_point
""")
CONFIG_IMPORTERS = CONFIG_CALLS | words("""
    hydra.utils hydra_zen gin jsonargparse detectron2.config pytorch_lightning.cli lightning.pytorch.cli mmengine mmcv
    lightning_fabric.cli fiddle stevedore allennlp fairseq entry_points
""")
CONFIG_FOLDERS = words("conf config configs configuration cfg cfgs settings")
CONFIG_KEYS = words("_target_ class_path custom_imports _component_")
ALLOWED = re.compile(r"#\s*flat: ok\b")
DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+(:[^\W\d][\w.]*)?")
# The kinds of nodes that `Facts.look_at` looks at.
FACT_NODES = frozenset((
    *(ast.Name, ast.Attribute, ast.Assign, ast.Compare, ast.Subscript, ast.Constant, ast.Import, ast.ImportFrom),
    *(ast.Expr, ast.Call, ast.FormattedValue, ast.BinOp, ast.JoinedStr, ast.List, ast.Tuple),
))  # fmt: skip
SHOWN = re.compile(r"repr|str|print|format|ascii|pprint|pformat")


class Facts:
    """What one module's source says about modules.

    The words of a line with a comment `# flat: ok` do not count: its author knows that it may behave differently where
    modules have become one, such as a read of a file's name that shows in tracebacks only.

    Attributes:
        imports: the import statements, in the order of the source.
        words: identifier, `.attribute`, `name.attribute`, dotted name of an import or `import:package` -> a line that
            holds it.
        strings: all but docstrings.
        names_modules: the line in which a module may be imported by a computed name; 0: nowhere.
        shown_types: the objects whose class itself is shown, as `print(type(x))` does.
        spawns: "spawn" or "forkserver", where it starts processes -> the line.
        runs_module: the line in which a command line has `-m` before a computed name; 0: nowhere.
        named: a string that is nothing but a dotted name -> its line, unless it is a logger's or compared.
        handed: what is given to calls and is a name, with or without attributes.
    """

    def __init__(self, module: Module) -> None:
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.words: dict[str, int] = {}
        self.strings: list[str] = []
        self.names_modules = 0
        self.shown_types: list[ast.expr] = []
        self.spawns: dict[str, int] = {}
        self.runs_module = 0
        self.named: dict[str, int] = {}
        self.handed: list[ast.Name | ast.Attribute] = []
        self.spawn_calls: list[ast.Call] = []
        self.config_calls: list[ast.Call] = []
        self.model_loads: list[ast.Call] = []
        self.joined: dict[str, int] = {}  # strings that are the first part of a computed one -> the line
        self.called: set[str] = set()  # the last parts of the names of what is called, or imported
        self.types: list[tuple[str, ast.expr]] = []  # a variable that is given the class of an object, and the object
        self.outside_importers: dict[str, int] = {}  # what third-party code imports by name: dotted name -> line
        marked = ALLOWED.search(module.text)
        self.allowed = {comment.line for comment in module.comments if ALLOWED.search(comment.text)} if marked else ()
        self.harmless: set[ast.AST] = set()  # expressions that do not show which class they are of
        self.docstrings: set[ast.AST] = set()
        self.stored: set[str] = set()
        self.looked_up: set[str] = set()  # strings by which a module or an attribute is looked up
        self.bare: set[str] = set()  # names that are read and are no attributes
        self.importers = 0  # how often an importer is mentioned, other than to be called
        todo: list[ast.AST] = [module.tree]
        while todo:
            node = todo.pop()
            if not (isinstance(node, ast.If) and is_type_checking(node)):
                if FIELDS[node.__class__]:
                    todo += child_nodes(node)
                if node.__class__ in FACT_NODES:
                    self.look_at(node)
        lazy = [node for node in module.body if getattr(node, "name", "") == "__getattr__"]
        stored = self.stored_outside_of_classes(module, "__getattr__")
        imports_late = bool(self.importers or lazy or stored)  # its own __getattr__ does, too
        imports_in_text = self.runs_text() and any("import " in text for text in self.strings)
        if imports_late or imports_in_text:
            self.names_modules = self.names_modules or 1
        read = {node.id for node in module.nodes if isinstance(node, ast.Name) and node not in self.harmless
                and isinstance(node.ctx, ast.Load)}  # fmt: skip
        self.shown_types += [given for name, given in self.types if name in read and given.lineno not in self.allowed]
        self.imports.sort(key=lambda node: (node.lineno, node.col_offset))
        for call in self.spawn_calls:
            if "multiproc" in self.dotted(call.func) and call.lineno not in self.allowed:
                self.spawns.setdefault("spawn", call.lineno)
        for call in self.model_loads:
            if "keras" in self.dotted(call.func):
                self.note("load_model without custom_objects", call)
        for call in self.config_calls:
            dotted = self.dotted(call.func)
            if "." in dotted and call.lineno not in self.allowed:
                self.outside_importers.setdefault(dotted, call.lineno)

    def stored_outside_of_classes(self, module: Module, name: str) -> list[ast.AST]:
        """Where a name is bound that may be the module's own, and no attribute of a class."""
        if name not in self.stored:
            return []
        attributes = {
            target
            for owner in module.of(ast.ClassDef)
            for node in owner.body
            for target in getattr(node, "targets", [getattr(node, "target", None)])
        }
        stores = [node for node in module.of(ast.Name) if node.id == name and isinstance(node.ctx, ast.Store)]
        return [node for node in stores if node not in attributes]

    def dotted(self, node: ast.AST) -> str:
        """The dotted name that an expression means if its first name is imported, wherever that is done."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        for site in self.imports:
            for alias in site.names:
                name = alias.asname or (
                    alias.name if isinstance(site, ast.ImportFrom) else alias.name.partition(".")[0]
                )
                if name == getattr(node, "id", ""):
                    whole = name if isinstance(site, ast.Import) and not alias.asname else alias.name
                    return ".".join(filter(None, [getattr(site, "module", None), whole, *parts]))
        return ""

    def note(self, word: str, node: ast.Name | ast.Attribute | ast.Import | ast.ImportFrom | ast.Call) -> None:
        if node.lineno not in self.allowed:
            self.words.setdefault(word, node.lineno)

    def look_at(self, node: ast.AST) -> None:
        match node:
            case ast.Name():
                self.note(node.id, node)
                self.importers += node.id in IMPORTERS
                (self.stored if isinstance(node.ctx, ast.Store) else self.bare).add(node.id)
            case ast.Attribute():
                self.harmless.add(node.value)
                self.importers += node.attr in IMPORTERS
                self.note(node.attr, node)
                self.note(f".{node.attr}", node)
                if isinstance(node.value, ast.Name):
                    self.note(f"{node.value.id}.{node.attr}", node)
            case ast.Assign(targets=[ast.Name(id="__package__")]):
                self.harmless.add(node.value)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(args=[given]) as call) if is_type_call(call):
                self.types.append((name, given))
                self.harmless.add(call)
            case ast.Compare():
                self.harmless |= {node.left, *node.comparators}
            case ast.Subscript():
                if isinstance(node.slice, ast.Constant):
                    self.looked_up.add(str(node.slice.value))
                else:
                    self.harmless.add(node.slice)
            case ast.Constant(value=str(text)):
                if node not in self.docstrings:
                    self.strings.append(text)
                    self.look_at_text(node, text)
            case ast.Import() | ast.ImportFrom():
                self.imports.append(node)
                base = getattr(node, "module", None) or ""
                self.importers += any(alias.name in IMPORTERS and alias.asname for alias in node.names)
                if node.lineno not in self.allowed:
                    self.called |= {base, *(alias.name for alias in node.names)}
                for dotted in [base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)]:
                    for word in (dotted, *dotted.split("."), f"import:{dotted.partition('.')[0]}"):
                        self.note(word, node)
                    if not getattr(node, "level", 0):
                        self.look_at_import(node, dotted)
            case ast.Expr(value=ast.Constant()):
                self.docstrings.add(node.value)
            case ast.Call():
                self.importers -= called_name(node) in IMPORTERS
                self.look_at_call(node)
            case ast.FormattedValue():
                self.look_at_shown(node.value)
            case ast.BinOp(op=ast.Mod()):
                self.look_at_shown(node.right)
            case (
                ast.BinOp(op=ast.Add(), left=ast.Constant(value=str(text)))
                | ast.JoinedStr(values=[ast.Constant(value=str(text)), _, *_])
            ):
                self.joined.setdefault(text, node.lineno)
                if text.endswith("-m ") and node.lineno not in self.allowed:
                    self.runs_module = node.lineno
            case ast.List() | ast.Tuple():
                self.look_at_command(node.elts)

    def look_at_text(self, node: ast.Constant, text: str) -> None:
        """Notes what a string says of modules and processes."""
        if node.lineno in self.allowed or node in self.harmless:
            return
        if text in CONFIG_KEYS:
            self.names_modules = self.names_modules or node.lineno
        if text in SPAWNS:
            self.spawns.setdefault(text, node.lineno)
        if DOTTED_NAME.fullmatch(text):
            self.named.setdefault(text, node.lineno)

    def look_at_import(self, node: ast.Import | ast.ImportFrom, dotted: str) -> None:
        """Notes an import of third-party code that imports what a configuration names, or that starts processes."""
        origin, _, name = dotted.rpartition(".")
        parts = [part for part in (dotted, origin, dotted.partition(".")[0]) if part in CONFIG_IMPORTERS]
        if (parts or (origin and name in CONFIG_IMPORTERS)) and node.lineno not in self.allowed:
            self.outside_importers.setdefault(dotted, node.lineno)

    def look_at_command(self, parts: list[ast.expr]) -> None:
        """Notes `-m` before a computed name in a list of words."""
        for flag, name in itertools.pairwise(parts):
            if getattr(flag, "value", None) == "-m" and not isinstance(name, ast.Constant):
                self.runs_module = flag.lineno

    def runs_text(self) -> bool:
        """Whether text may be run as code in this process: by `exec` itself, not by a method of that name."""
        by_name = {"builtins", "__builtins__"} & {*self.words, *self.looked_up}
        mentioned = {*self.words, *self.looked_up} if by_name else self.bare
        compiled = "compile" in mentioned and CODE_RUNNERS & self.words.keys()
        return bool(compiled or TEXT_RUNNERS & mentioned)

    def look_at_call(self, node: ast.Call) -> None:
        """Notes what a call says of modules and classes."""
        called = called_name(node)
        if node.lineno not in self.allowed:
            self.called |= {called, *attributes_of(node.func)}
        self.harmless.add(node.func)
        self.look_at_command(node.args)
        if called in LOOK_UPS:
            self.looked_up |= {str(part.value) for part in node.args if isinstance(part, ast.Constant)}
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        given += [part for each in given for part in getattr(each, "elts", [])]
        self.handed += [part for part in given if isinstance(part, ast.Name | ast.Attribute)]
        if called == "getLogger":
            self.harmless |= set(node.args)
        if called in SPAWNS:
            self.spawn_calls.append(node)
        if called in CONFIG_CALLS and isinstance(node.func, ast.Attribute):
            self.config_calls.append(node)
        if called == "load_model" and not any(keyword.arg == "custom_objects" for keyword in node.keywords):
            self.model_loads.append(node)
        if called in TAKE_CLASSES:
            self.harmless |= set(node.args)
        if is_type_call(node) and node not in self.harmless and node.lineno not in self.allowed:
            self.shown_types.append(node.args[0])  # unless only its name is asked for, or it is compared or called
        if called == "filterwarnings" and any(keyword.arg == "module" for keyword in node.keywords):
            self.note("filterwarnings of a module", node)
        first = node.args[0] if node.args else None
        if called in IMPORTERS:
            text = first.value if isinstance(first, ast.Constant) else None
            if not isinstance(text, str) or text.startswith("."):
                self.names_modules = node.lineno
        if called == "join" and isinstance(first, ast.List | ast.Tuple):
            for part in first.elts:
                if isinstance(part, ast.Constant):
                    self.joined.setdefault(str(part.value), part.lineno)
        if SHOWN.fullmatch(called):
            for argument in node.args:
                self.look_at_shown(argument)

    def look_at_shown(self, node: ast.AST) -> None:
        """`print(type(x))` shows the module's name; so does the name of a class, which looks like this: `Unet`."""
        if isinstance(node, ast.Attribute):
            if node.attr == "__class__" and node.lineno not in self.allowed:
                self.shown_types.append(node.value)
        elif isinstance(node, ast.Name):
            self.note(f"shown {node.id}", node)
        elif not isinstance(node, ast.Call):
            for part in child_nodes(node):
                self.look_at_shown(part)


@functools.lru_cache(KEPT_MODULES)
def find_facts(module: Module) -> Facts:
    """What the source of a module says about modules."""
    return Facts(module)


def attributes_of(node: ast.AST) -> list[str]:
    """The attributes in `a.b.c`: b and c."""
    found = []
    while isinstance(node, ast.Attribute):
        found.append(node.attr)
        node = node.value
    return found


def is_type_call(node: ast.Call) -> bool:
    """Whether a call asks for the class of an object: `type(x)`."""
    return isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) == 1


def called_name(node: ast.Call) -> str:
    """The last part of the name of what is called; empty if it has none."""
    return last_name(node.func)
