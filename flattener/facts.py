"""What the source of one module says about modules: its imports, its words, its strings."""

import ast
import re

from flattener.source import Module, is_type_checking, words

IMPORTERS = words("import_module __import__")  # with a constant name, they are import statements
TAKE_CLASSES = words("""
    isinstance issubclass get_type_hints fields getattr hasattr setattr super signature register __new__
""")
TEXT_RUNNERS = words("exec eval compile")
ALLOWED = re.compile(r"#\s*flat: ok\b")
SHOWN = re.compile(r"repr|str|print|format|ascii|pprint|pformat")


class Facts:
    """What one module's source says about modules.

    The words of a line with a comment `# flat: ok` do not count: its author knows that it may behave differently where
    modules have become one, such as a read of a file's name that shows in tracebacks only.

    Attributes:
        imports: the import statements, in the order of the source.
        words: identifier, `.attribute`, `name.attribute` or dotted name of an import -> a line that holds it.
        strings: all but docstrings.
        names_modules: the line in which a module may be imported by a computed name; 0: nowhere.
        shows_class: the line in which a class itself is printed; 0: nowhere.
    """

    def __init__(self, module: Module) -> None:
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.words: dict[str, int] = {}
        self.strings: list[str] = []
        self.names_modules = 0
        self.shows_class = 0
        self.allowed = {comment.line for comment in module.comments if ALLOWED.search(comment.text)}
        self.harmless: set[ast.AST] = set()  # expressions that do not show which class they are of
        self.docstrings: set[ast.AST] = set()
        self.stored: set[str] = set()
        self.bare: set[str] = set()  # names that are read and are no attributes
        self.importers = 0  # how often an importer is mentioned, other than to be called
        todo: list[ast.AST] = [module.tree]
        while todo:
            node = todo.pop()
            if not (isinstance(node, ast.If) and is_type_checking(node)):
                todo.extend(ast.iter_child_nodes(node))
                self.look_at(node)
        lazy = [node for node in module.body if getattr(node, "name", "") == "__getattr__"]
        imports_late = bool(self.importers or lazy or "__getattr__" in self.stored)  # its own __getattr__ does, too
        imports_in_text = self.runs_text() and any("import " in text for text in self.strings)
        if imports_late or imports_in_text:
            self.names_modules = self.names_modules or 1
        self.imports.sort(key=lambda node: (node.lineno, node.col_offset))

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
            case ast.Compare():
                self.harmless |= {node.left, *node.comparators}
            case ast.Constant(value=str(text)):
                if node not in self.docstrings:
                    self.strings.append(text)
            case ast.Import() | ast.ImportFrom():
                self.imports.append(node)
                base = getattr(node, "module", None) or ""
                self.importers += any(alias.name in IMPORTERS and alias.asname for alias in node.names)
                for dotted in [base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)]:
                    for word in (dotted, *dotted.split(".")):
                        self.note(word, node)
            case ast.Expr(value=ast.Constant()):
                self.docstrings.add(node.value)
            case ast.Call():
                self.importers -= called_name(node) in IMPORTERS
                self.look_at_call(node)
            case ast.FormattedValue():
                self.look_at_shown(node.value)
            case ast.BinOp(op=ast.Mod()):
                self.look_at_shown(node.right)

    def runs_text(self) -> bool:
        """Whether text may be run as code in this process: by `exec` itself, not by a method of that name."""
        mentioned = {*self.words, *self.strings}
        return bool(TEXT_RUNNERS & (mentioned if {"builtins", "__builtins__"} & mentioned else self.bare))

    def look_at_call(self, node: ast.Call) -> None:
        """Notes what a call says of modules and classes."""
        called = called_name(node)
        self.harmless.add(node.func)
        if called in TAKE_CLASSES:
            self.harmless |= set(node.args)
        if called == "type" and len(node.args) == 1 and node not in self.harmless:
            self.shows_class = node.lineno  # unless only its name is asked for, or it is compared or called
        if called == "filterwarnings" and any(keyword.arg == "module" for keyword in node.keywords):
            self.note("filterwarnings of a module", node)
        if any(keyword.arg == "allow_pickle" and getattr(keyword.value, "value", 1) for keyword in node.keywords):
            self.note("allow_pickle", node)
        first = node.args[0] if node.args else None
        if called in IMPORTERS:
            text = first.value if isinstance(first, ast.Constant) else None
            if not isinstance(text, str) or text.startswith("."):
                self.names_modules = node.lineno
        if SHOWN.fullmatch(called):
            for argument in node.args:
                self.look_at_shown(argument)

    def look_at_shown(self, node: ast.AST) -> None:
        """`print(type(x))` shows the module's name; so does the name of a class, which looks like this: `Unet`."""
        if isinstance(node, ast.Attribute):
            if node.attr == "__class__":
                self.shows_class = node.lineno
        elif isinstance(node, ast.Name):
            self.note(f"shown {node.id}", node)
        elif not isinstance(node, ast.Call):
            for part in ast.iter_child_nodes(node):
                self.look_at_shown(part)


def called_name(node: ast.Call) -> str:
    """The last part of the name of what is called; empty if it has none."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))
