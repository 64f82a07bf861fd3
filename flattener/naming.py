"""One name for each variable of the one namespace of the flat program."""

import ast
import builtins
import collections
import functools
import re
import sys
from collections.abc import Iterator

from flattener.library import External, Meaning, Var
from flattener.names import ImportSite, Use
from flattener.observers import POOL_PACKAGES, SENDERS, is_data_class
from flattener.pickles import FINDS_BY_NAME
from flattener.program import Program, Reference
from flattener.shell import SHELL_NAMES
from flattener.source import Module, words
from flattener.trees import walk

# Packages that call a function where they are given it, in this process.
KEEP_FUNCTIONS = words("""
    numpy scipy pandas polars matplotlib sklearn keras tensorflow jax flax optax torch torchvision timm cv2 PIL
    albumentations xgboost lightgbm catboost optuna tqdm hydra click
""")


class Naming:
    """Gives every kept variable its name in the flat program: its own, unless another one has it already.

    Of several variables of one name, the one that is bound last keeps it; the others get their module's name in front.
    A function or class that loses its name is still defined under it, so that `__name__`, `__qualname__` and `self.__x`
    are what they were; the next line gives it the new name, by which all code refers to it.

    Attributes:
        final: variable, or what is imported from outside -> its name in the flat program.
        taken: all names that some module uses for anything.
        reserved: the builtins that kept code reads, and those whose names a module gives to something of its own.
        externals: what is imported from outside, in load order -> the statements that import it.
        binding_order: variable -> where in the program it is bound first and last, and whether by `def` or `class`.
    """

    def __init__(self, program: Program, pools: frozenset[str] = frozenset()) -> None:
        self.program, self.pools = program, pools
        self.final: dict[Var | External, str] = {}
        self.taken = {use.name for module in program.modules for use in program.names[module.name].uses}
        self.reserved = {name for place in program.kept for name in program.builtins.get(place, ())}
        self.externals = self.find_externals()
        self.binding_order = self.find_binding_order()
        self.name_all()
        self.avoid_capture()
        self.check()

    @functools.cached_property
    def places(self) -> list[tuple[str, int]]:
        """The statements that are kept, in order."""
        return sorted(self.program.kept)

    def kept_references(self) -> Iterator[Reference]:
        """The references in the statements that are kept."""
        for place in self.places:
            yield from self.program.references.get(place, [])

    def find_externals(self) -> dict[External, list[tuple[Module, ImportSite, ast.alias]]]:
        """See `externals`."""
        program = self.program
        used = {(place, reference.meaning) for place in program.kept for reference in program.references.get(place, [])}
        needed = {meaning for _, meaning in used if isinstance(meaning, External)}
        in_module = {(place[0], meaning) for place, meaning in used}
        found: dict[External, list[tuple[Module, ImportSite, ast.alias]]] = collections.defaultdict(list)
        for module in program.modules_in_order():
            mentioned = {use.name for use in program.names[module.name].uses if use.action != "import"}
            for site in program.names[module.name].sites:
                for use in site.uses if site.plain else []:
                    meaning = program.meanings.of(module, use.name)
                    if not isinstance(meaning, External) or program.library.target(module, use) != meaning:
                        continue
                    for_effect = module.is_entry or (use.name not in mentioned and not program.is_reexport(module, use))
                    if for_effect or (
                        meaning in needed and ((module.name, meaning) in in_module or not found[meaning])
                    ):
                        found[meaning].append((module, site, use.alias))
        found = {meaning: sites for meaning, sites in found.items() if sites}
        self.add_submodules(found)
        return found

    def add_submodules(self, found: dict[External, list[tuple[Module, ImportSite, ast.alias]]]) -> None:
        """Adds the imports of sub-modules that kept code may read as attributes, `xml.dom` behind `import xml`.

        Any import of `xml.dom`, in whatever module, makes it an attribute of `xml`.
        """
        program = self.program
        roots: set[str] = set()
        loaded: set[str] = set()
        apart: set[str] = set()
        for module in program.modules:
            for site in program.names[module.name].sites:
                if (module.name, site.index) in program.kept and not site.plain:
                    roots |= {dotted.partition(".")[0] for dotted in program.library.named(module, site.node)}
        for name in program.library.apart:
            apart |= set(re.findall(r"\w+", program.library.source(name).text))
        roots |= apart | self.said if apart else apart
        roots |= {meaning.module.partition(".")[0] for meaning in found}
        for sites in found.values():
            loaded.update(*(submodules(site.node, alias) for _, site, alias in sites))
        for module in program.modules_in_order():
            for site in program.names[module.name].sites:
                for use in site.uses if site.plain else []:
                    meaning = program.library.target(module, use)
                    if not isinstance(meaning, External) or meaning.module.partition(".")[0] not in roots:
                        continue
                    paths = submodules(site.node, use.alias) - loaded
                    words_of_paths = [path.rpartition(".")[2] for path in paths]
                    known = any(word in apart or word in self.said for word in words_of_paths)
                    if known and program.meanings.of(module, use.name) == meaning:
                        found.setdefault(meaning, []).append((module, site, use.alias))
                        loaded |= paths

    @functools.cached_property
    def said(self) -> set[str]:
        """The attributes and words of strings in the statements that are kept."""
        program = self.program
        return set().union(*(said_words(program.names[name].module.body[index]) for name, index in program.kept))

    def find_binding_order(self) -> dict[Var | External, tuple[int, int, bool]]:
        """See `binding_order`."""
        order: dict[Var | External, tuple[int, int, bool]] = {}
        for place in self.places:
            for reference in self.program.references.get(place, []):
                use, var = reference.use, reference.meaning
                reads = use.action == "load" and use.chain_action == "load"
                copies = use.action == "import" and var != Var(use.scope.module_name, use.name)
                if reads or copies:
                    continue
                position = self.program.order[place]
                first, last, defines = order.get(var, (position, position, False))
                order[var] = min(first, position), max(last, position), defines or use.action == "define"
        return order

    def name_all(self) -> None:
        """Gives all of them their names."""
        groups: dict[str, set[Var | External]] = collections.defaultdict(set)
        for entity in [*(reference.meaning for reference in self.kept_references()), *self.externals]:
            groups[self.plain_name(entity)].add(entity)
        for name in sorted(groups):
            group = sorted(groups[name], key=self.claim, reverse=True)
            # A module's own `max` would be taken for the builtin in the cells that a reader adds.
            is_shells = self.program.form == "notebook" and SHELL_NAMES.fullmatch(name)
            if (hasattr(builtins, name) or is_shells) and not self.is_entrys(group[0]):
                self.reserved.add(name)
            if name not in self.reserved:
                self.final[group.pop(0)] = name
            for entity in group:
                self.final[entity] = self.fresh(entity)

    def claim(self, entity: Var | External) -> tuple:
        """The order in which several keep their common name: the highest does."""
        _, last, defines = self.binding_order.get(entity, (-1, -1, False))
        return self.is_entrys(entity), defines, isinstance(entity, External), last, str(entity)

    def is_entrys(self, entity: Var | External) -> bool:
        """Whether a variable is the entry's own, or what is imported is imported there under a builtin's name."""
        if isinstance(entity, Var):
            return entity.module == "__main__"
        return hasattr(builtins, entity.bound) and any(m.is_entry for m, _, _ in self.externals.get(entity, []))

    def fresh(self, entity: Var | External) -> str:
        """A readable name that no module uses for anything."""
        name = self.plain_name(entity)
        parts = [part for part in entity.module.strip("_").split(".") if part.isidentifier()]
        for count in range(1, len(parts) + 1):
            wanted = "_".join([*parts[-count:], name.strip("_") or "name"])
            if wanted not in self.taken:
                self.taken.add(wanted)
                return wanted
        number = 2
        while f"{wanted}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{wanted}_{number}")
        return f"{wanted}_{number}"

    def avoid_capture(self) -> None:
        """Renames what would be called like a local variable: an imported `f as g` beside a parameter `f`."""
        for place in self.places:
            module = self.program.names[place[0]].module
            for reference in self.program.references.get(place, []):
                name = self.final[reference.meaning]
                written = module.text[reference.start : reference.end]
                local = self.program.names[module.name].bound_inside.get(place[1], ())
                if written and written != name and name in local:
                    self.final[reference.meaning] = self.fresh(reference.meaning)

    def plain_name(self, entity: Var | External) -> str:
        """The name by which the source calls it."""
        return entity.name if isinstance(entity, Var) else entity.bound

    def is_renamed(self, entity: Var | External) -> bool:
        """Whether it has another name in the flat program."""
        return self.final[entity] != self.plain_name(entity)

    def check(self) -> None:
        """Refuses the renames that would change what the program does, and what would be read before it is bound."""
        for place in self.places:
            module = self.program.names[place[0]].module
            for reference in self.program.references.get(place, []):
                self.check_order(module, place, reference)
        owners = {name: entity for entity, name in self.final.items()}
        for place in self.places:
            module = self.program.names[place[0]].module
            for reference in self.program.references.get(place, []):
                use, entity = reference.use, reference.meaning
                if use.action == "define" and isinstance(entity, Var) and self.is_renamed(entity):
                    self.check_definition(module, use, owners.get(use.name))
                self.check_rename(module, reference)

    def check_order(self, module: Module, place: tuple[str, int], reference: Reference) -> None:
        """Refuses a variable that is read, while the program starts, above the statement that binds it."""
        use, var = reference.use, reference.meaning
        reads_at_load = use.action == "load" and use.scope.kind == "module" and not (use.conditional or use.quoted)
        if not isinstance(var, Var) or not reads_at_load or hasattr(builtins, use.name):
            return
        first = self.binding_order[var][0] if var in self.binding_order else 0
        if first > self.program.order[place]:
            module.refuse(use.node, f"{var.module}.{var.name} is read before it is bound", "import it earlier")

    def check_rename(self, module: Module, reference: Reference) -> None:
        """Refuses a new name where the text does not allow one."""
        use, name = reference.use, self.final[reference.meaning]
        written = module.text[reference.start : reference.end]
        if use.quoted:
            if use.name != name and self.program.reads_quoted(module):
                reason = f"{use.name!r} in quotes is called {name!r}"
                module.refuse(use.node, reason, "write the annotation without quotes")
            return
        if use.weak and written != name and self.program.exposure.exposes(module):
            reason = f"the annotation {written!r} is called {name!r}, and third-party code may read it"
            module.refuse(use.node, reason, "use another name")
        if use.in_pattern and use.chain and "." not in self.flat_text(module, reference):
            reason = f"`{written}` in a pattern would become a capture"
            module.refuse(use.node, reason, "use `case x if x == ...`")
        if use.pinned and written != name:
            module.refuse(use.node, f"{use.name!r} cannot be renamed here to {name!r}", "use another name")
        if hasattr(builtins, use.name) and isinstance(reference.meaning, Var) and self.is_renamed(reference.meaning):
            bound = self.program.names[module.name].bindings.get(use.name, [])
            early = bool(bound) and use.start < bound[0].start and use.scope.kind == "module"
            if bound and (bound[0].conditional or early or any(each.action == "delete" for each in bound)):
                reason = f"{use.name!r} is a builtin, and not always this module's own"
                module.refuse(use.node, reason, "use another name")

    def flat_text(self, module: Module, reference: Reference) -> str:
        """What a use with its attributes becomes."""
        return (
            self.final[reference.meaning]
            + module.text[reference.end : max([reference.end, *(end for _, end in reference.use.chain)])]
        )

    def check_definition(self, module: Module, use: Use, owner: Var | External | None) -> None:
        """Refuses a renamed definition that would overwrite another: its own name is bound for a moment.

        Args:
            module: of the definition.
            use: its name after `def` or `class`.
            owner: what has that name in the flat program.
        """
        remedy = "use another name"
        if use.scope.kind != "module":
            module.refuse(use.node, f"a global {use.name!r} defined in a function collides with another", remedy)
        if owner is None and use.name not in self.reserved:
            return  # it is found under its own name as well
        if self.pickling:
            reason = f"{use.name!r} collides with another, and {self.pickling}, "
            module.refuse(use.node, reason + "finds classes and functions by their names", remedy)
        if isinstance(use.node, ast.ClassDef) and not is_data_class(use.node):
            pools = self.pools - {"DataLoader"}
        elif isinstance(use.node, ast.ClassDef):
            pools = self.pools
        else:
            pools = self.pools - {"DataLoader"} or frozenset(self.takers.get(Var(module.name, use.name), ()))
        if pools:
            reason = f"{use.name!r} collides with another, and {min(pools)} may look for it by its name"
            module.refuse(use.node, reason, remedy)
        if owner is None:
            return
        first = self.binding_order[owner][0] if isinstance(owner, Var) else -1
        if first < self.program.order[module.name, use.index]:
            module.refuse(use.node, f"{use.name!r} collides with an earlier {owner.module}.{use.name}", remedy)

    @functools.cached_property
    def pickling(self) -> str:
        """The library that finds functions by their names, and the module that imports it; empty: there is none."""
        by_name = FINDS_BY_NAME | POOL_PACKAGES
        by_name -= {"multiprocessing"} if SENDERS.isdisjoint(self.program.words) else set()
        for module in self.program.modules:
            for use in [use for site in self.program.names[module.name].sites for use in site.uses]:
                target = self.program.library.target(module, use)
                if isinstance(target, External) and target.module.partition(".")[0] in by_name:
                    return f"{target.module}, which {module.label} imports"
        return ""

    @functools.cached_property
    def takers(self) -> dict[Meaning, set[str]]:
        """Variable -> what is given it, from outside of the standard library and of the well-known packages."""
        found: dict[Meaning, set[str]] = collections.defaultdict(set)
        outside = {meaning.module.partition(".")[0] for meaning in self.externals}
        unknown = sorted(outside - KEEP_FUNCTIONS - sys.stdlib_module_names)
        for module in self.program.modules:
            for node in module.of(ast.Call):
                # A function of the packages may hand it on.
                called = self.program.purity.dotted(module, node.func) or next(iter(unknown), "")
                top = called.partition(".")[0]
                if not called or top in KEEP_FUNCTIONS or top in sys.stdlib_module_names or hasattr(builtins, called):
                    continue
                for part in [*node.args, *(keyword.value for keyword in node.keywords)]:
                    meaning = self.program.meanings.of(module, part.id) if isinstance(part, ast.Name) else None
                    if meaning is not None:
                        found[meaning].add(called)
        return found

    def renamed(self) -> list[str]:
        """One line for each rename, for the user."""
        return sorted(
            f"{entity.module}.{self.plain_name(entity)} -> {name}"
            for entity, name in self.final.items()
            if self.is_renamed(entity)
        )


def import_path(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """The full name of what a part of an import statement names: `a.b` of `import a.b` and of `from a import b`."""
    return f"{node.module or ''}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name


def submodules(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> set[str]:
    """The modules below a package that an import statement may load: `a.b` and `a.b.c` of `import a.b.c`."""
    parts = import_path(node, alias).split(".")
    return {".".join(parts[:count]) for count in range(2, len(parts) + 1)}


def said_words(node: ast.AST) -> set[str]:
    """The attributes in a statement, and its strings."""
    found: set[str] = set()
    for part in walk(node):
        if part.__class__ is ast.Attribute:
            found.add(part.attr)
        elif part.__class__ is ast.Constant and isinstance(part.value, str):
            found.update(part.value.split("."))
    return found
