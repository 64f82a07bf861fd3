"""One name for each variable of the one namespace of the flat program."""

import ast
import builtins
import collections

from flattener.library import External, Var
from flattener.names import ImportSite, Use
from flattener.program import Program, Reference
from flattener.source import Module

PICKLERS = {"pickle", "multiprocessing", "concurrent", "joblib", "dill", "cloudpickle", "shelve", "copyreg"}


class Naming:
    """Gives every kept variable its name in the flat program: its own, unless another one has it already.

    Of several that want a name, the one that is bound last keeps it; the others get their module's name in front.
    A function or class that loses its name is still defined under it, so that `__name__`, `__qualname__` and `self.__x`
    are what they were; the next line gives it the new name, under which all code finds it.
    """

    def __init__(self, program: Program):
        self.program = program
        self.final: dict[Var | External, str] = {}
        self.taken = {use.name for module in program.modules for use in program.names[module.name].uses}
        self.reserved = {name for place in program.kept for name in program.builtins.get(place, ())}
        self.externals = self.find_externals()
        self.binding_order = self.find_binding_order()
        self.name_all()
        self.avoid_capture()
        self.check()

    def kept_references(self):
        for place in sorted(self.program.kept):
            yield from self.program.references.get(place, [])

    def find_externals(self) -> dict[External, list[tuple[Module, ImportSite, ast.alias]]]:
        """The third-party imports that the flat program needs, in load order, with the statements that make them."""
        program = self.program
        used = {(place, reference.meaning) for place in program.kept for reference in program.references.get(place, [])}
        needed = {meaning for _, meaning in used if isinstance(meaning, External)}
        in_module = {(place[0], meaning) for place, meaning in used}
        found = collections.defaultdict(list)
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
        return {meaning: sites for meaning, sites in found.items() if sites}

    def find_binding_order(self) -> dict[Var | External, tuple[int, int, bool]]:
        """For each variable where it is bound first and last, and whether by `def` or `class`."""
        order: dict[Var | External, tuple[int, int, bool]] = {}
        for place in sorted(self.program.kept):
            for reference in self.program.references.get(place, []):
                use, var = reference.use, reference.meaning
                if (use.action == "load" and use.chain_action == "load") or (
                    use.action == "import" and var != home(use)
                ):
                    continue
                position = self.program.order[place]
                first, last, defines = order.get(var, (position, position, False))
                order[var] = min(first, position), max(last, position), defines or use.action == "define"
        return order

    def name_all(self):
        groups = collections.defaultdict(set)
        for entity in [*(reference.meaning for reference in self.kept_references()), *self.externals]:
            groups[entity.name if isinstance(entity, Var) else entity.bound].add(entity)
        for name in sorted(groups):
            group = sorted(groups[name], key=self.claim, reverse=True)
            if name not in self.reserved:
                self.final[group.pop(0)] = name
            for entity in group:
                self.final[entity] = self.fresh(entity)

    def claim(self, entity: Var | External) -> tuple:
        """How strong an entity's claim to its plain name is."""
        _, last, defines = self.binding_order.get(entity, (-1, -1, False))
        is_entry = isinstance(entity, Var) and entity.module == "__main__"
        return is_entry, defines, isinstance(entity, External), last, str(entity)

    def fresh(self, entity: Var | External) -> str:
        """A readable name that no module uses for anything."""
        name = entity.name if isinstance(entity, Var) else entity.bound
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

    def avoid_capture(self):
        """An imported `f as g` is called `f` again: not where a parameter is called `f`."""
        for place in sorted(self.program.kept):
            module = self.program.names[place[0]].module
            for reference in self.program.references.get(place, []):
                name = self.final[reference.meaning]
                written = module.text[reference.start : reference.end]
                if (
                    written
                    and written != name
                    and name in self.program.names[module.name].bound_inside.get(place[1], ())
                ):
                    self.final[reference.meaning] = self.fresh(reference.meaning)

    def plain_name(self, entity: Var | External) -> str:
        return entity.name if isinstance(entity, Var) else entity.bound

    def is_renamed(self, entity: Var | External) -> bool:
        return self.final[entity] != self.plain_name(entity)

    def check(self):
        """Refuses the renames that would change what the program does, and what would be read before it is bound."""
        for place in sorted(self.program.kept):
            for reference in self.program.references.get(place, []):
                use, var = reference.use, reference.meaning
                at_load = use.scope is not None and use.scope.kind == "module" and not use.conditional
                bound = self.binding_order.get(var, (0,))[0]
                if (
                    isinstance(var, Var)
                    and at_load
                    and bound > self.program.order[place]
                    and use.action == "load"
                    and (not hasattr(builtins, use.name))
                ):
                    module = self.program.names[place[0]].module
                    module.refuse(use.node, f"{var.module}.{var.name} is read before it is bound", "import it earlier")
        owners = {name: entity for entity, name in self.final.items()}
        for place in sorted(self.program.kept):
            module = self.program.names[place[0]].module
            for reference in self.program.references.get(place, []):
                use, entity = reference.use, reference.meaning
                written = module.text[reference.start : reference.end]
                if use.in_pattern and use.chain and "." not in self.flat_text(module, reference):
                    module.refuse(
                        use.node, f"`{written}` in a pattern would become a capture", "use `case x if x == ...`"
                    )
                if use.pinned and written != self.final[entity]:
                    module.refuse(
                        use.node, f"{use.name!r} cannot be renamed here to {self.final[entity]!r}", "use another name"
                    )
                if use.action == "define" and self.is_renamed(entity):
                    self.check_definition(module, use, entity, owners.get(use.name))
                if use.scope is None and use.name != self.final[entity] and "get_type_hints" in self.program.all_text:
                    module.refuse(
                        use.node,
                        f"{use.name!r} in quotes is called {self.final[entity]!r}",
                        "write the annotation without quotes",
                    )
                if use.scope is None:
                    continue
                if hasattr(builtins, use.name) and self.is_renamed(entity) and isinstance(entity, Var):
                    bound = self.program.names[module.name].bindings.get(use.name, [])
                    early = bound and use.start < bound[0].start and use.scope.kind == "module"
                    if bound and (bound[0].conditional or early or any(each.action == "delete" for each in bound)):
                        module.refuse(
                            use.node, f"{use.name!r} is a builtin, and not always this module's own", "use another name"
                        )

    def flat_text(self, module: Module, reference: Reference) -> str:
        """What a use with its attributes becomes."""
        return (
            self.final[reference.meaning]
            + module.text[reference.end : max([reference.end, *(end for _, end in reference.use.chain)])]
        )

    def check_definition(self, module: Module, use: Use, entity: Var, owner: Var | External | None):
        """The plain name of a definition is bound for a moment: nobody else's may be overwritten by that."""
        if use.scope.kind != "module":
            module.refuse(
                use.node, f"a global {use.name!r} defined in a function collides with another", "use another name"
            )
        for other in self.program.modules:
            for site in self.program.names[other.name].sites:
                for each in site.uses:
                    target = self.program.library.target(other, each)
                    if isinstance(target, External) and target.module.partition(".")[0] in PICKLERS:
                        reason = (
                            f"{use.name!r} collides with another, and {target.module}, which {other.label} imports, "
                        )
                        module.refuse(
                            use.node, reason + "finds classes and functions by their names", "use another name"
                        )
        if owner is None:
            return
        first = self.binding_order[owner][0] if isinstance(owner, Var) else -1
        if first < self.program.order[module.name, use.index]:
            module.refuse(
                use.node, f"{use.name!r} collides with an earlier {owner.module}.{use.name}", "use another name"
            )

    def renamed(self) -> list[str]:
        """One line for each rename, for the user."""
        return sorted(
            f"{entity.module}.{self.plain_name(entity)} -> {name}"
            for entity, name in self.final.items()
            if self.is_renamed(entity)
        )


def home(use: Use) -> Var:
    """The variable of its own module that an import binds."""
    return Var(use.scope.module_name, use.name)
