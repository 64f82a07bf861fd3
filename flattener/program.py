"""What each use of a name refers to in the flat program, and which statements the entry reaches."""

import ast
import collections
from dataclasses import dataclass

from flattener.library import External, Library, Meaning, ModuleRef, Var
from flattener.loading import Loader
from flattener.meanings import Meanings
from flattener.names import Use
from flattener.purity import Purity
from flattener.scopes import Scope
from flattener.shell import SHELL_NAMES, refuse_shell_edits
from flattener.source import Module, all_arguments, words

ANNOTATION_READERS = words("""
    __annotations__ get_type_hints get_annotations signature getfullargspec fields pydantic attr attrs msgspec typeguard
    beartype typer fastapi singledispatch NamedTuple TypedDict __dataclass_fields__
""")
REFUSED_NAMES = {
    "__file__": "pass paths as arguments",
    "__spec__": "do without it",
    "__package__": "do without it",
    "__path__": "do without it",
    "__loader__": "do without it",
    "__builtins__": "import builtins",
    "__doc__": "write the text as a constant",
    "__annotations__": "do without it",
    "globals": "use a dictionary of your own",
    "__import__": "use an import statement",
    "eval": "write the code itself",
    "exec": "write the code itself",
}
REFUSED_MODULES = {
    "importlib.resources": "pass paths as arguments",
    "importlib_resources": "pass paths as arguments",
    "pkgutil": "name the modules in import statements",
    "pkg_resources": "pass paths as arguments",
}


@dataclass
class Reference:
    """A use that means a variable of the flat program: the text from `start` to `end` becomes that variable's name."""

    use: Use
    start: int
    end: int
    meaning: Var | External


class Program:
    """The whole analysis of one build: what is kept and what it refers to."""

    def __init__(self, library: Library, form: str, words: set[str]):
        self.library, self.form, self.words = library, form, words
        self.loader = Loader(library)
        self.chunks = self.loader.run()
        self.meanings = Meanings(library, self.loader)
        self.names = self.meanings.names
        self.purity = Purity(library, self.names)
        self.all_text = "\n".join(module.text for module in self.meanings.modules)
        self.modules = self.meanings.modules
        self.references: dict[tuple[str, int], list[Reference]] = collections.defaultdict(list)
        self.builtins: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
        self.own_names: list[tuple[Module, Use]] = []  # uses of __name__ in package modules
        self.local_bindings: dict[tuple[Scope, str], list[Use]] = collections.defaultdict(list)
        for module in self.modules:
            for use in self.names[module.name].uses:
                if use.owner.kind != "module" and use.action != "load":
                    self.local_bindings[use.owner, use.name].append(use)
        self.check_future()
        for module in self.modules:
            self.refer(module)
        self.meant = {reference.meaning for references in self.references.values() for reference in references}
        self.order = {}  # (module, statement) -> position in the flat program
        for chunk in self.chunks:
            for index in chunk.indices:
                self.order[chunk.module.name, index] = len(self.order)
        self.kept = self.shake()

    def check_future(self):
        """`from __future__ import annotations` holds for a whole program: all modules with annotations must agree."""
        annotated = [module for module in self.modules if any(map(is_annotated, ast.walk(module.tree)))]
        self.future = sorted({name for module in self.modules for name in module.future})
        with_it = [module for module in annotated if "annotations" in module.future]
        without = [module for module in annotated if "annotations" not in module.future]
        if with_it and without:
            line = next(
                node for node in with_it[0].body if isinstance(node, ast.ImportFrom) and node.module == "__future__"
            )
            if not ANNOTATION_READERS & self.words:
                return  # nobody can tell that all annotations have become strings
            with_it[0].refuse(
                line,
                f"it has `from __future__ import annotations`, {without[0].label} has annotations without it",
                "write it in all modules, or in none",
            )

    # --- references ---

    def refer(self, module: Module):
        for use in self.names[module.name].uses:
            if use.action == "import":
                self.refer_import(module, use)
            elif use.owner.kind == "module":
                self.refer_name(module, use, self.meanings.of(module, use.name))
            else:
                imported = self.local_import(module, use)
                if imported is not None:
                    self.refer_name(module, use, imported)
        known = set(self.names[module.name].bindings)
        for index, name in self.names[module.name].quoted:
            meaning = self.meanings.of(module, name) if name in known else None
            if isinstance(meaning, Var):
                use = Use(name, 0, 0, "load", None, None, index, module.body[index], weak=True)
                self.references[module.name, index].append(Reference(use, 0, 0, meaning))
        self.refuse_constructs(module)

    def refer_import(self, module: Module, use: Use):
        """An import that stays an assignment refers to the variable that it makes, and to the one that it copies."""
        if use.site.scope.kind == "module":
            meaning = self.meanings.of(module, use.name)
            target = self.meanings.target(module, use)
            if isinstance(meaning, Var) and meaning == Var(module.name, use.name):
                self.references[module.name, use.index].append(Reference(use, 0, 0, meaning))
                if isinstance(target, Var):
                    self.references[module.name, use.index].append(Reference(use, 0, 0, target))
        elif use.site.scope.kind == "class" and not isinstance(self.library.target(module, use), External):
            target = self.meanings.target(module, use)
            if isinstance(target, ModuleRef):
                module.refuse(use.node, "a module as an attribute of a class", "import it at the head of the module")
            self.references[module.name, use.index].append(Reference(use, 0, 0, target))

    def local_import(self, module: Module, use: Use) -> Meaning | None:
        """The meaning of a function's local variable that is bound by importing from the packages, else None."""
        bound = self.local_bindings.get((use.owner, use.name), [])
        ours = [
            each
            for each in bound
            if each.action == "import" and not isinstance(self.library.target(module, each), External)
        ]
        if not ours or use.owner.kind == "class":
            return None
        targets = {self.meanings.target(module, each) for each in ours}
        if len(ours) < len(bound) or len(targets) > 1:
            module.refuse(
                ours[0].node, f"{use.name!r} is imported here and bound elsewhere in the function", "use two names"
            )
        target = targets.pop()
        if target in self.meanings.unstable:
            module.refuse(
                ours[0].node, f"{use.name!r} changes after its module is loaded", "import it at the head of the module"
            )
        return target

    def refer_name(self, module: Module, use: Use, meaning: Meaning | None):
        place, end, chain = meaning, use.end, list(use.chain)
        while isinstance(place, ModuleRef):
            if not chain:
                module.refuse(
                    use.node,
                    f"the module {place.name} is used as an object",
                    f"import the names that are needed: from {place.name} import ...",
                    blame=place.name,
                )
            attribute, end = chain.pop(0)
            found = self.meanings.attribute(place.name, attribute)
            if found is None:
                module.refuse(
                    use.node,
                    f"{place.name} has no {attribute!r} that is known before it runs",
                    "import it by name",
                    blame=place.name,
                )
            place = found
        if place is None:
            if use.name == "__name__" and not module.is_entry:
                self.own_names.append((module, use))
            elif not use.weak:
                self.builtins[module.name, use.index].add(use.name)
            return
        sets_attribute = isinstance(meaning, ModuleRef) and not chain and use.chain_action != "load"
        if sets_attribute and (use.chain_action == "delete" or use.scope.kind != "module"):
            module.refuse(
                use.node,
                f"a function sets {use.chain[-1][0]!r} of another module",
                "write a function for it in that module",
            )
        self.references[module.name, use.index].append(Reference(use, use.start, end, place))

    def refuse_constructs(self, module: Module):
        """What the flat form would do wrongly, as far as it can be seen in the source."""
        if self.form == "notebook" and not module.is_entry:
            for name in sorted(filter(SHELL_NAMES.fullmatch, self.names[module.name].bindings)):
                use = self.names[module.name].bindings[name][0]
                module.refuse(use.node, f"{name!r} means something else to IPython", "use another name")
            refuse_shell_edits(module)
        for use in self.names[module.name].uses:
            is_builtin = (
                use.owner.kind == "module"
                and use.action == "load"
                and not self.names[module.name].bindings.get(use.name)
            )
            given = module.is_entry and use.name in ("__doc__", "__file__", "__package__")
            if is_builtin and use.name in REFUSED_NAMES and not given:
                reason = f"`{use.name}` is not what it was in a flat program"
                module.refuse(use.node, reason, REFUSED_NAMES[use.name])
            if use.action == "import":
                target = self.library.target(module, use)
                if isinstance(target, External):
                    for name in (target.module, f"{target.module}.{target.attribute}", use.alias.name):
                        if name in REFUSED_MODULES:
                            module.refuse(use.node, f"{name} needs the package's files", REFUSED_MODULES[name])
        for site in self.names[module.name].sites:
            for name in self.library.named(module, site.node):
                if name.partition(".")[0] in FRAME_READERS:
                    module.refuse(site.node, f"{name} reads the names of its caller", "do without it")
        for name in ("__getattr__", "__dir__"):
            for use in self.names[module.name].bindings.get(name, []):
                module.refuse(use.node, f"a module's own `{name}`", "define the names themselves")
        at_module_level = {use.node for use in self.names[module.name].uses if use.scope.kind == "module"}
        own_local = any(
            not site.at_load and any(map(self.library.owns, self.library.named(module, site.node)))
            for site in self.names[module.name].sites
        )
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                self.refuse_call(module, node)
                lists_names = self.purity.dotted(module, node.func) in ("vars", "dir", "locals") and not node.args
                if lists_names and (own_local or node.func in at_module_level):
                    module.refuse(node, "this call at module level sees the whole program", "do without it")
            elif self.names_sys_modules(module, node):
                module.refuse(node, "`sys.modules` does not hold the packages of a flat program", "do without it")

    def names_sys_modules(self, module: Module, node) -> bool:
        if isinstance(node, ast.ImportFrom):
            return node.module == "sys" and any(alias.name == "modules" for alias in node.names)
        return isinstance(node, ast.Attribute) and self.purity.dotted(module, node) == "sys.modules"

    def refuse_call(self, module: Module, node: ast.Call):
        called = self.purity.dotted(module, node.func) or ""
        last = called.rpartition(".")[2] or getattr(node.func, "attr", getattr(node.func, "id", ""))
        texts = [part.value for part in node.args[:1] if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if last == "import_module" and not (texts and not texts[0].startswith(".") and not self.library.owns(texts[0])):
            module.refuse(node, "a module imported by name while the program runs", "use an import statement")
        if self.form == "notebook" and called.startswith("inspect.getso"):
            module.refuse(
                node, f"`{called}` does not find all sources in a notebook", "do without it, or build a .py file"
            )
        if last in ("patch", "get_data", "run_module") and texts and self.library.owns(texts[0]):
            module.refuse(node, f"the module of {texts[0]!r} does not exist in a flat program", "do without it")
        if self.form == "notebook" and last in ("get_context", "set_start_method") and texts and texts[0] != "fork":
            module.refuse(node, f"{texts[0]!r} cannot start processes from a notebook", "use threads, or subprocess")

    def modules_in_order(self) -> list[Module]:
        """The modules in the order in which their code stands in the flat program."""
        return list({chunk.module.name: chunk.module for chunk in self.chunks}.values())

    def is_reexport(self, module: Module, use: Use) -> bool:
        """Whether another module may take this third-party name from here: then it is not imported for its effect."""
        return self.meanings.of(module, use.name) in self.meant

    # --- reachability ---

    def shake(self) -> set[tuple[str, int]]:
        """The statements that run for their effects, those of the entry, and all that they refer to."""
        bound: dict[Var, list[tuple[str, int]]] = collections.defaultdict(list)
        for module in self.modules:
            for name, uses in self.names[module.name].bindings.items():
                home = Var(module.name, name)
                for use in uses:
                    bound[home].append((use.scope.module_name if use.chain else module.name, use.index))
        kept: set[tuple[str, int]] = set()
        todo = []
        for module in self.modules:
            for index, statement in enumerate(module.body):
                if index not in module.dead and (module.is_entry or not self.purity.droppable(module, statement)):
                    todo.append((module.name, index))
        while todo:
            place = todo.pop()
            if place in kept:
                continue
            kept.add(place)
            for reference in self.references.get(place, []):
                if isinstance(reference.meaning, Var):
                    todo += bound[reference.meaning]
        return kept


def is_annotated(node) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.returns is not None or any(argument.annotation for argument in all_arguments(node.args))
    return isinstance(node, ast.AnnAssign)


FRAME_READERS = words("ply fire numexpr patsy formulaic statsmodels")
