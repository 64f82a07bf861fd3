"""What an imported name stands for: through re-exports, aliases and attributes of modules."""

from flattener.library import External, Library, Meaning, ModuleRef, NameTables, Var
from flattener.loading import Loader
from flattener.names import ImportSite, Use
from flattener.source import Module


class Meanings:
    """What the names of the loaded modules stand for.

    Attributes:
        modules: the loaded modules.
        names: the names in each, with the variables that other modules set: `config.LR = 0.5`.
        unstable: the variables that get another value after their module is loaded.
        same: variable -> the one of another module that it is merged with.
    """

    def __init__(self, library: Library, loader: Loader) -> None:
        self.library, self.loader = library, loader
        self.modules = [loader.now.names[name].module for name in loader.now.loaded]
        self.names = NameTables(library, loader.now.names)
        self.cache: dict[tuple[str, str], Meaning | None] = {}
        self.same: dict[Var, Var] = {}
        self.unstable = {
            Var(module.name, name)
            for module in self.modules
            for name, bound in self.names[module.name].bindings.items()
            for use in bound
            if (use.scope.kind != "module" and use.action != "import") or use.action == "delete"
        }
        self.add_outside_stores()
        self.cache.clear()

    def add_outside_stores(self) -> None:
        """Adds the variables that other modules set."""
        for module in self.modules:
            for use in self.names[module.name].uses:
                if use.chain and use.chain_action != "load" and use.owner.kind == "module":
                    place: Meaning | None = self.of(module, use.name)
                    for attribute, _ in use.chain[:-1]:
                        place = self.attribute(place.name, attribute) if isinstance(place, ModuleRef) else None
                    if isinstance(place, ModuleRef):
                        name = use.chain[-1][0]
                        self.names[place.name] = self.names[place.name].with_bindings([use], name)
                        self.unstable.add(Var(place.name, name))

    def of(self, module: Module, name: str) -> Meaning | None:
        """What a variable of a module stands for; None if the module does not bind it."""
        key = module.name, name
        if key not in self.cache:
            self.cache[key] = None  # for imports in a circle
            self.cache[key] = self.find(module, name)
        return self.cache[key]

    def find(self, module: Module, name: str) -> Meaning | None:
        """`of`, without its cache."""
        bound = self.names[module.name].bindings.get(name)
        if not bound:
            return None
        here = Var(module.name, name)
        if all(use.action == "import" and use.site.plain for use in bound):
            targets = {self.target(module, use) for use in bound}
            if len(targets) == 1:
                target = targets.pop()
                if not isinstance(target, Var) or self.is_settled(target, bound[0].site):
                    return target
        for use in bound:
            if use.action == "import" and isinstance(self.target(module, use), ModuleRef):
                module.refuse(use.node, f"{name!r} is a module here and something else elsewhere", "use two names")
        return self.same.get(here, here)

    def merge(self, same: dict[Var, Var]) -> None:
        """Lets variables stand for those that they are the same as."""
        self.same = same
        self.cache.clear()

    def is_settled(self, var: Var, site: ImportSite) -> bool:
        """Whether a variable has, when it is imported, the value that it keeps."""
        if var in self.unstable:
            return False
        finished = var.module not in self.loader.now.unfinished.get(site, ())
        return finished or len(self.names[var.module].bindings[var.name]) == 1

    def target(self, module: Module, use: Use) -> Meaning:
        """What an import binds."""
        target = self.library.target(module, use)
        if isinstance(target, External):
            return target
        origin, attribute = target
        if attribute is None:
            return ModuleRef(origin)
        if self.loader.is_own_submodule(module, origin, attribute):
            return ModuleRef(f"{origin}.{attribute}")
        meaning = self.attribute(origin, attribute)
        if meaning is None:
            module.refuse(use.node, f"{origin} has no {attribute!r}", "correct the import")
        return meaning

    def attribute(self, origin: str, name: str) -> Meaning | None:
        """What `name` means as an attribute of a module: one of its variables, or a sub-module."""
        module = self.names[origin].module
        dotted = f"{origin}.{name}"
        is_loaded = dotted in self.loader.now.loaded
        if name not in self.names[module.name].bindings:
            return ModuleRef(dotted) if is_loaded else None
        if is_loaded:
            last = max(
                self.loader.now.bound_at.get((origin, use.index), 0) for use in self.names[module.name].bindings[name]
            )
            meaning = self.of(module, name)
            if meaning != ModuleRef(dotted) and self.loader.now.loaded[dotted] > last:
                line = self.names[module.name].bindings[name][0].node
                module.refuse(
                    line, f"{name!r} is overwritten by the sub-module {dotted}, loaded later", "rename one of them"
                )
            return meaning
        return self.of(module, name)
