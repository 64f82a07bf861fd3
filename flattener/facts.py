"""What the source of one module says about modules: its imports, its words, its strings."""

import ast
import re

from flattener.source import Module, is_type_checking, words

IMPORTERS = words("import_module __import__")  # with a constant name, they are import statements
TAKE_CLASSES = words("""
    isinstance issubclass get_type_hints fields getattr hasattr setattr super signature register __new__
""")
SHOWN = re.compile(r"repr|str|print|format|ascii|pprint|pformat")


class Facts:
    """What one module's source says about modules: the imports in it, the words and the strings."""

    def __init__(self, module: Module):
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.words: dict[str, int] = {}  # identifier, or dotted name of an import -> first line
        self.strings: list[str] = []
        self.names_modules = 0  # the line in which a module is imported by a computed name
        self.shows_class = 0  # the line in which a class itself is printed
        docstrings, harmless = set(), set()
        stored = set()
        importers = 0  # how often an importer is mentioned, other than to be called
        todo: list[ast.AST] = [module.tree]
        while todo:
            node = todo.pop()
            if isinstance(node, ast.If) and is_type_checking(node):
                continue
            todo.extend(ast.iter_child_nodes(node))
            if isinstance(node, ast.Name):
                self.words.setdefault(node.id, node.lineno)
                importers += node.id in IMPORTERS
                if isinstance(node.ctx, ast.Store):
                    stored.add(node.id)
            elif isinstance(node, ast.Attribute):
                harmless.add(node.value)
                importers += node.attr in IMPORTERS
                self.words.setdefault(node.attr, node.lineno)
                self.words.setdefault(f".{node.attr}", node.lineno)
                if isinstance(node.value, ast.Name):
                    self.words.setdefault(f"{node.value.id}.{node.attr}", node.lineno)
            elif isinstance(node, ast.Compare):
                harmless |= {node.left, *node.comparators}
            elif isinstance(node, ast.Constant):
                if isinstance(node.value, str) and node not in docstrings:
                    self.strings.append(node.value)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self.imports.append(node)
                base = getattr(node, "module", None) or ""
                importers += any(alias.name in IMPORTERS and alias.asname for alias in node.names)
                for dotted in [base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)]:
                    for word in (dotted, *dotted.split(".")):
                        self.words.setdefault(word, node.lineno)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                docstrings.add(node.value)
            elif isinstance(node, ast.Call):
                importers -= getattr(node.func, "attr", getattr(node.func, "id", "")) in IMPORTERS
                self.look_at_call(node, harmless)
            elif isinstance(node, ast.FormattedValue):
                self.look_at_shown(node.value)
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
                self.look_at_shown(node.right)
        lazy = [node for node in module.body if getattr(node, "name", "") == "__getattr__"]
        if importers or lazy or "__getattr__" in stored:  # a module's own __getattr__ is there to import others late
            self.names_modules = self.names_modules or 1
        if {"exec", "eval", "compile"} & set(self.words) and any("import " in text for text in self.strings):
            self.names_modules = self.names_modules or 1
        self.imports.sort(key=lambda node: (node.lineno, node.col_offset))

    def look_at_call(self, node: ast.Call, harmless: set):
        """Notes what a call says of modules and classes; `harmless` are expressions that show nobody what they are."""
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        harmless.add(node.func)
        if called in TAKE_CLASSES:
            harmless |= set(node.args)
        if called == "type" and len(node.args) == 1 and node not in harmless:
            self.shows_class = node.lineno  # unless only its name is asked for, or it is compared or called
        if called == "filterwarnings" and any(keyword.arg == "module" for keyword in node.keywords):
            self.words.setdefault("filterwarnings of a module", node.lineno)
        if any(keyword.arg == "allow_pickle" and getattr(keyword.value, "value", 1) for keyword in node.keywords):
            self.words.setdefault("allow_pickle", node.lineno)
        first = node.args[0] if node.args else None
        if called in IMPORTERS:
            text = first.value if isinstance(first, ast.Constant) else None
            if not isinstance(text, str) or text.startswith("."):
                self.names_modules = node.lineno
        if SHOWN.fullmatch(called):
            for argument in node.args:
                self.look_at_shown(argument)

    def look_at_shown(self, node):
        """`print(type(x))` shows the module's name; so does the name of a class, which looks like this: `Unet`."""
        if isinstance(node, ast.Attribute):
            if node.attr == "__class__":
                self.shows_class = node.lineno
        elif isinstance(node, ast.Name):
            self.words.setdefault(f"shown {node.id}", node.lineno)
        elif not isinstance(node, ast.Call):
            for part in ast.iter_child_nodes(node):
                self.look_at_shown(part)
