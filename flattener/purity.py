"""Which statements have no effect but to bind names, so that they can be moved or left out.

When in doubt, a statement has effects.
"""

import ast
import builtins
import functools
import re

from flattener.evaluation import CONTAINERS, PURE_CALLS, Evaluation, Kind, LocalKinds, defined_names
from flattener.library import External
from flattener.source import Module, all_arguments, words
from flattener.trees import child_nodes, walk

PURE_DECORATORS = words("""
    property staticmethod classmethod dataclasses.dataclass contextlib.contextmanager functools.cache
    functools.lru_cache functools.wraps functools.cached_property functools.total_ordering abc.abstractmethod
    enum.unique typing.overload typing.final typing.runtime_checkable
""")
PURE_BASES = words("""
    abc.ABC enum.Enum enum.IntEnum enum.Flag enum.IntFlag enum.StrEnum typing.NamedTuple typing.TypedDict
    typing.Protocol typing.Generic collections.UserDict collections.OrderedDict
""")
PURE_ROOTS = ("numpy.", "math.", "re.", "logging.getLogger", "functools.partial", "typing.", "collections.")
PURE_BASE_PACKAGES = ("keras.", "torch.nn.")  # their classes do nothing when they are subclassed


ENUM_METHODS = words("""
    __str__ __repr__ __format__ __lt__ __le__ __gt__ __ge__ __call__ __len__ __contains__ __bool__ __doc__ __slots__
    __module__ __annotations__
""")  # what a plain Enum may define: making the class calls none of these
# What a class may define that runs when one of its objects is made or goes, or is a field's default.
MAKING = words("__new__ __init__ __post_init__ __setattr__ __getattribute__ __del__ __get__ __set__")
GIVEN_LATER = re.compile(rf"\.({'|'.join(sorted(MAKING))})\s*=[^=]|[\"']({'|'.join(sorted(MAKING))})[\"']")
HOOK = re.compile(r"(__(?:init_subclass|class_getitem|set_name|subclasses|mro_entries|prepare)__)")


DISTURBERS = words("""
    environ putenv unsetenv sys chdir filterwarnings simplefilter use import_module __import__ exec eval load_dotenv
""")  # what code names that changes what a later import does


class Purity(Evaluation):
    """Judges statements by the names of their modules; when in doubt, they have effects."""

    def decorator(self, module: Module, node: ast.expr) -> bool:
        """Whether a decorator does no more than change what it decorates."""
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            kinds = [self.kind(module, part) for part in arguments]
            return self.decorator(module, node.func) and self.most(kinds, Kind.OUTSIDE, Kind.DATA) is not None
        if isinstance(node, ast.Attribute) and node.attr in ("setter", "getter", "deleter"):
            return isinstance(node.value, ast.Name) and not self.bound(module, node.value.id)  # of the class around it
        return self.dotted(module, node) in PURE_DECORATORS

    def decorators(self, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
        """Whether all decorators of a definition do no more than change it; a class property may run at any time."""
        named = [self.dotted(module, part) for part in node.decorator_list]
        return all(self.decorator(module, part) for part in node.decorator_list) and not (
            "classmethod" in named and len(named) > 1 and "abc.abstractmethod" not in named
        )

    def function(
        self, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: LocalKinds | None = None
    ) -> bool:
        """Whether a `def` statement does no more than make the function."""
        defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        annotations = [argument.annotation for argument in all_arguments(node.args)] + [node.returns]
        return (
            self.decorators(module, node)
            and all(self.kind(module, part, scope) is not None for part in defaults)
            and all(self.annotation(module, part, scope) for part in annotations)
        )

    def annotation(self, module: Module, node: ast.expr | None, scope: LocalKinds | None = None) -> bool:
        """Whether evaluating an annotation runs no code."""
        return node is None or "annotations" in module.future or self.kind(module, node, scope) is not None

    def definition(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether a class statement does no more than make the class: no metaclass, no registration of subclasses.

        Making a class asks each value in it for `__set_name__`, and an Enum makes its members.
        """
        key = module, node
        if key not in self.definitions:
            self.definitions[key] = True  # for classes that mention themselves
            self.definitions[key] = self.only_makes_class(module, node)
        return self.definitions[key]

    def only_makes_class(self, module: Module, node: ast.ClassDef) -> bool:
        """`definition`, without its cache."""
        names = defined_names(node)
        if self.hooks["__subclasses__"] or node.keywords or "__init_subclass__" in names:
            return False
        if not self.decorators(module, node) or not all(self.base(module, part) for part in node.bases):
            return False
        own_bases = [made for _, made in self.ancestry(module, node)[1:]]
        if own_bases and any(self.hooks[name] for name in ("__init_subclass__", "__set_name__", "__prepare__")):
            return False  # some code may give a class such a method later on
        if self.is_enum(module, node):
            names = names.union(*map(defined_names, own_bases))
            methods = {name for name in names if name.startswith("_") and name.endswith("_")}
            if methods - ENUM_METHODS or {"name", "value"} & names:
                return False
        scope: LocalKinds = {}
        for part in node.body:
            if not self.droppable(module, part, scope):
                return False
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                scope[part.name] = Kind.FIXED
            elif isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
                kind = self.kind(module, part.value, scope)
                if kind is None or kind is Kind.ANY:
                    return False
                targets = part.targets if isinstance(part, ast.Assign) else [part.target]
                for name in [name for target in targets for name in walk(target) if isinstance(name, ast.Name)]:
                    scope[name.id] = kind
            elif isinstance(part, ast.Import | ast.ImportFrom):
                return False  # it may be the only one that loads a sub-module
        return True

    def record(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether making an object of a class does no more than store what it is given: a dataclass without bases and
        without a method that runs then, be it the setter of a property in a field's place."""
        decorators = [part.func if isinstance(part, ast.Call) else part for part in node.decorator_list]
        if [self.dotted(module, part) for part in decorators] != ["dataclasses.dataclass"] or node.bases:
            return False
        methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        factories = [
            word.value
            for part in fields
            for call in walk(part)
            if isinstance(call, ast.Call)
            for word in call.keywords
            if word.arg == "default_factory" or word.arg is None
        ]
        return (
            not defined_names(node) & MAKING
            and not methods & {getattr(part.target, "id", "") for part in fields}
            and all(self.dotted(module, factory) in CONTAINERS for factory in factories)
            and self.definition(module, node)
            and not self.made_otherwise
        )

    @functools.cached_property
    def made_otherwise(self) -> bool:
        """Whether some code may give a class such a method as of `MAKING` later on."""
        return any(GIVEN_LATER.search(module.text) for module in list(self.library.sources.values()))

    @functools.cached_property
    def definitions(self) -> dict[tuple[Module, ast.ClassDef], bool]:
        """The answers of `definition`."""
        return {}

    @functools.cached_property
    def hooks(self) -> dict[str, bool]:
        """Which special names some code mentions other than to define a method of that name in a class.

        `Base.__subclasses__()` makes an effect of every class statement, `Base.__init_subclass__ = f` of some.
        """
        found = dict.fromkeys(
            words("__init_subclass__ __class_getitem__ __set_name__ __subclasses__ __prepare__"), False
        )
        for module in list(self.library.sources.values()):
            for name in set(HOOK.findall(module.text)):
                mentioned = re.search(rf"(?<!super\(\))\.{name}|[\"']{name}[\"']", module.text)
                found[name] = found.get(name, False) or bool(mentioned)
        return found

    def base(self, module: Module, node: ast.expr) -> bool:
        """Whether making a subclass of a class runs no code."""
        if isinstance(node, ast.Subscript):
            return self.base(module, node.value) and self.subscript_kind(module, node, {}) is not None
        dotted = self.dotted(module, node)
        if dotted is not None:
            return (
                dotted in PURE_BASES
                or dotted.startswith(PURE_BASE_PACKAGES)
                or isinstance(getattr(builtins, dotted, None), type)
            )
        own = self.class_of(module, node)
        return own is not None and self.definition(*own)

    def droppable(self, module: Module, node: ast.stmt, scope: LocalKinds | None = None) -> bool:
        """Whether a statement only binds names, so that it can be left out if they are not used.

        Args:
            module: in which it stands.
            node: the statement.
            scope: the names of the class body that it stands in.
        """
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return self.function(module, node, scope)
            case ast.ClassDef():
                return self.definition(module, node)
            case ast.Assign():
                kind = self.kind(module, node.value, scope)
                targets = [name for target in node.targets for name in getattr(target, "elts", [target])]
                taken_apart = len(targets) > len(node.targets) or any(hasattr(each, "elts") for each in node.targets)
                if taken_apart and kind not in (Kind.DATA, Kind.HOLDS) and not isinstance(node.value, ast.Tuple):
                    return False  # it is iterated over
                return kind is not None and all(isinstance(name, ast.Name) for name in targets)
            case ast.AnnAssign():  # not ast.AugAssign: x += y may change a list that other names mean, too
                return (
                    isinstance(node.target, ast.Name)
                    and self.annotation(module, node.annotation, scope)
                    and (node.value is None or self.kind(module, node.value, scope) is not None)
                )
            case ast.Expr():
                return isinstance(node.value, ast.Constant)
            case ast.Pass() | ast.Import() | ast.ImportFrom():
                return True
        return False

    def movable(self, module: Module, node: ast.stmt) -> bool:
        """Whether a statement only binds names and may do so earlier: it reads nothing that could change until then."""
        if not self.droppable(module, node):
            return False
        match node:
            case ast.Import():
                return True
            case ast.ImportFrom():
                origin = self.library.origin(module, node)
                if not self.library.contains(origin):
                    return not self.patches_others
                return all(self.is_settled(origin, alias.name) for alias in node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                parts = [*node.args.defaults, *filter(None, node.args.kw_defaults), *decorator_arguments(node)]
                return all(self.reads_nothing(module, part) for part in parts)
            case ast.ClassDef():
                return all(self.movable(module, part) for part in node.body) and all(
                    self.reads_nothing(module, part) for part in decorator_arguments(node)
                )
            case ast.Assign() | ast.AnnAssign():
                return node.value is None or self.reads_nothing(module, node.value)
        return True

    @functools.cached_property
    def patches_others(self) -> bool:
        """Whether some code sets an attribute of a third-party module, such as `time.time = ...`."""
        for changes in self.library.all_changes():
            for node in changes.imports:
                names = {alias.asname or alias.name.partition(".")[0] for alias in node.names}
                origin = node.module or "." if isinstance(node, ast.ImportFrom) else node.names[0].name
                if names & changes.patched.keys() and not self.library.contains(origin):
                    return True
        return False

    @functools.cached_property
    def replaced(self) -> set[str]:
        """The attributes that some code sets on what it imports: `speak` of `base.speak = louder`; "*" for any."""
        found: set[str] = set()
        for changes in self.library.all_changes():
            names = {alias.asname or alias.name.partition(".")[0] for node in changes.imports for alias in node.names}
            found = found.union(*(changes.patched[name] for name in names & changes.patched.keys()))
        return found

    def is_settled(self, origin: str, name: str) -> bool:
        """Whether a name that is imported from a module never changes there; only flat modules are looked at."""
        if not self.library.is_flat(origin) or not self.library.find(origin) or self.library.find(f"{origin}.{name}"):
            return True
        if {name, "*"} & self.replaced:
            return False
        bound = self.names[origin].bindings.get(name, [])
        return len(bound) == 1 and bound[0].scope.kind == "module" and not bound[0].conditional

    def reads_nothing(self, module: Module, node: ast.AST) -> bool:
        """Whether an expression reads only what never changes: functions, classes, results of calls without effects."""
        for part in walk(node):
            if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Store):
                bound = self.bound(module, part.id)
                called = self.dotted(module, part) in PURE_CALLS or (not bound and hasattr(builtins, part.id))
                if not called and not self.is_definition(module, part.id):
                    return False
            if isinstance(part, ast.Attribute) and self.dotted(module, part) not in PURE_CALLS:
                return False
        return True

    def is_definition(self, module: Module, name: str, depth: int = 0) -> bool:
        """Whether a name always means one function or class, or something imported from outside."""
        bound = self.bound(module, name)
        if len(bound) != 1 or bound[0].conditional or depth > 50:
            return False
        if bound[0].action != "import":
            return bound[0].action == "define"
        target = self.library.target(module, bound[0])
        if isinstance(target, External):
            return not self.library.contains(target.module)
        origin, attribute = target
        if attribute is None or not self.library.find(origin):
            return False
        return self.is_definition(self.names[origin].module, attribute, depth + 1)

    def makes_value(self, module: Module, node: ast.expr) -> bool:
        """Whether calling an expression only makes a value: a known function, or a named tuple of the module's own."""
        dotted = self.dotted(module, node)
        if dotted is not None:
            return dotted in PURE_CALLS or dotted.startswith(PURE_ROOTS)
        bound = self.bound(module, getattr(node, "id", ""))
        made = bound[0].node if len(bound) == 1 and bound[0].action == "define" else None
        return isinstance(made, ast.ClassDef) and (
            [self.dotted(module, base) for base in made.bases] == ["typing.NamedTuple"]
            and self.definition(module, made)
            and not any(getattr(part, "name", "") in ("__new__", "__init__") for part in made.body)
        )

    def before_imports(self, module: Module, node: ast.stmt) -> bool:
        """Whether a third-party import may be moved from below a statement to above it.

        It may not be moved above `os.environ["KERAS_BACKEND"] = "jax"`, nor above anything that is run for its effect.
        """
        if isinstance(node, ast.If | ast.Try):
            test = getattr(node, "test", None)
            if test and not self.expression(module, test) and self.disturbs_imports(module, test, set()):
                return False
            blocks = [*node.body, *node.orelse, *getattr(node, "finalbody", [])]
            blocks += [part for handler in getattr(node, "handlers", []) for part in handler.body]
            return all(self.before_imports(module, part) for part in blocks)
        if self.droppable(module, node):
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if not all(isinstance(target, ast.Name) for target in targets) or node.value is None:
                return False
            calls = [part.func for part in walk(node.value) if isinstance(part, ast.Call)]
            roots = {part.id for part in walk(node.value) if isinstance(part, ast.Name)}
            if roots & {"os", "sys"} or not all(self.makes_value(module, call) for call in calls):
                return False
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return False
        return not self.disturbs_imports(module, node, set())

    def disturbs_imports(self, module: Module, node: ast.AST, seen: set[ast.AST]) -> bool:
        """Whether a definition or assignment may run code of the packages that changes what an import does.

        Such code names the environment, the interpreter's state, or the settings of a library.
        """
        todo: list[ast.AST] = [node]
        while todo:
            part = todo.pop()
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not seen:
                # It is not called while the statement runs, apart from what is found by name.
                todo += [*part.args.defaults, *filter(None, part.args.kw_defaults)]
                todo += getattr(part, "decorator_list", [])
            else:
                todo += child_nodes(part)
            if {getattr(part, name, None) for name in ("id", "attr", "module")} & DISTURBERS:
                return True
            own = self.origin_of(module, part) if isinstance(part, ast.Name | ast.Attribute) else None
            if own and own[1] not in seen:
                seen.add(own[1])
                if self.disturbs_imports(*own, seen):
                    return True
        return False


def decorator_arguments(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[ast.expr]:
    """What a definition's decorators are called with."""
    calls = [part for part in node.decorator_list if isinstance(part, ast.Call)]
    return [value for call in calls for value in [*call.args, *(keyword.value for keyword in call.keywords)]]
