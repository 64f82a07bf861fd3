"""What each use of a name refers to in the flat program, and which statements the entry reaches."""

import ast
import collections
from dataclasses import dataclass

from flattener.annotations import ANNOTATION_READERS, Exposure, annotatable, annotations_of, is_annotated
from flattener.library import External, Library, Meaning, ModuleRef, Var
from flattener.loading import Loader
from flattener.meanings import Meanings
from flattener.merging import find_same
from flattener.names import Use
from flattener.purity import Purity
from flattener.refusals import refuse_constructs
from flattener.scopes import Scope
from flattener.source import Module


@dataclass
class Reference:
    """A use that means a variable of the flat program: the text from `start` to `end` becomes that variable's name."""

    use: Use
    start: int
    end: int
    meaning: Var | External


class Program:
    """The whole analysis of a flat program.

    Attributes:
        modules: the flat modules, the entry among them, in the order in which their loading ends.
        references: (module, statement) -> the uses in it that mean a variable of the program, or something external.
        builtins: (module, statement) -> the names of builtins that it reads.
        own_names: module -> its uses of `__name__`; the entry's are none of them.
        meant: all that some reference means.
        order: (module, statement) -> its position in the program.
        future: the features that its modules import from `__future__`.
        kept: the statements that run for their effects, those of the entry, and all that they refer to.
    """

    def __init__(self, library: Library, form: str, words: set[str]) -> None:
        self.library, self.form, self.words = library, form, words
        self.loader = Loader(library)
        self.chunks = self.loader.now.chunks
        self.meanings = Meanings(library, self.loader)
        self.meanings.merge(find_same(self.meanings, self.loader))
        self.names = self.meanings.names
        self.purity = Purity(library, self.names)
        self.exposure = Exposure(library, self.meanings, self.purity)
        self.all_text = "\n".join(module.text for module in self.meanings.modules)
        self.modules = self.meanings.modules
        self.references: dict[tuple[str, int], list[Reference]] = collections.defaultdict(list)
        self.builtins: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
        self.own_names: dict[str, list[Use]] = collections.defaultdict(list)
        self.local_bindings: dict[tuple[Scope, str], list[Use]] = collections.defaultdict(list)
        for module in self.modules:
            for use in self.names[module.name].uses:
                if use.owner.kind != "module" and use.action != "load":
                    self.local_bindings[use.owner, use.name].append(use)
        self.check_future()
        for module in self.modules:
            self.refer(module)
        self.meant = {reference.meaning for references in self.references.values() for reference in references}
        self.order: dict[tuple[str, int], int] = {}
        for chunk in self.chunks:
            for index in chunk.indices:
                self.order[chunk.module.name, index] = len(self.order)
        self.kept = self.shake()

    def check_future(self) -> None:
        """Refuses modules of which only some import `annotations` from `__future__`: it holds for a whole program."""
        annotated = [module for module in self.modules if any(map(is_annotated, annotatable(module)))]
        self.future = sorted({name for module in self.modules for name in module.future})
        with_it = [module for module in annotated if "annotations" in module.future]
        without = [module for module in annotated if "annotations" not in module.future]
        if not with_it or not without:
            return
        line = next(
            node for node in with_it[0].body if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        )
        remedy = "write it in all modules, or in none"
        if ANNOTATION_READERS & self.words:
            reason = f"it has `from __future__ import annotations`, {without[0].label} has annotations without it"
            with_it[0].refuse(line, reason, remedy)
        # Where nothing reads annotations, all of them may become strings.
        for module in without:
            reason = f"{with_it[0].label} has `from __future__ import annotations`, this module does not"
            blame = with_it[0].name if module.is_entry else None
            if self.exposure.exposes(module):
                reason += ", and third-party code may read its annotations"
                module.refuse(next(filter(is_annotated, annotatable(module))), reason, remedy, blame)
            for node in annotatable(module):
                if not all(self.purity.expression(module, part) for part in annotations_of(node)):
                    module.refuse(node, f"{reason}, and evaluating an annotation may have an effect", remedy, blame)

    # --- references ---

    def refer(self, module: Module) -> None:
        """Finds what the uses of a module refer to."""
        for use in self.names[module.name].uses:
            if use.action == "import":
                self.refer_import(module, use)
            elif use.owner.kind == "module":
                self.refer_name(module, use, self.meanings.of(module, use.name))
            else:
                imported = self.local_import(module, use)
                if imported is not None:
                    self.refer_name(module, use, imported)
        for use in self.names[module.name].quoted:
            meaning = self.meanings.of(module, use.name)
            if isinstance(meaning, Var | External):
                self.references[module.name, use.index].append(Reference(use, 0, 0, meaning))
            elif isinstance(meaning, ModuleRef) and self.reads_quoted(module):
                module.refuse(use.node, f"{use.name!r} in quotes is a module", "write the annotation without quotes")
        refuse_constructs(self.names[module.name], self.library, self.purity, self.form, self.words)

    def reads_quoted(self, module: Module) -> bool:
        """Whether some code may evaluate the annotations of a module that are written as strings."""
        return "get_type_hints" in self.all_text or self.exposure.exposes(module)

    def refer_import(self, module: Module, use: Use) -> None:
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

    def refer_name(self, module: Module, use: Use, meaning: Meaning | None) -> None:
        """Finds what a use with its attributes refers to; `meaning` is that of the name itself."""
        place, end, chain = meaning, use.end, list(use.chain)
        while isinstance(place, ModuleRef):
            if not chain:
                module.refuse(
                    use.node,
                    f"the module {place.name} is used as an object",
                    f"import the names that are needed, as in `from {place.name} import NAME`",
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
                self.own_names[module.name].append(use)
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

    def modules_in_order(self) -> list[Module]:
        """The modules in the order in which their code stands in the flat program."""
        return list({chunk.module.name: chunk.module for chunk in self.chunks}.values())

    def is_reexport(self, module: Module, use: Use) -> bool:
        """Whether another module imports this third-party name from here: then it is not imported for its effect."""
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
