"""Which statements have no effect but to bind names, so that they can be moved or left out.

When in doubt, a statement has effects.
"""

import ast
import builtins

from flattener.library import External, Library, NameTables
from flattener.names import Use
from flattener.source import Module, all_arguments, words

PURE_CALLS = words("""
    bool bytes dict enumerate float frozenset int len list max min object range reversed round set slice sorted str sum
    tuple zip collections.namedtuple collections.defaultdict collections.OrderedDict collections.Counter re.compile
    typing.TypeVar typing.NewType typing.ParamSpec dataclasses.field pathlib.Path pathlib.PurePosixPath
    fractions.Fraction decimal.Decimal datetime.timedelta operator.itemgetter operator.attrgetter
    numpy.array numpy.arange numpy.linspace numpy.zeros numpy.ones numpy.full numpy.eye numpy.dtype numpy.float32
    numpy.float64 numpy.uint8 numpy.int8 numpy.int16 numpy.int32 numpy.int64 numpy.sqrt numpy.log numpy.exp
""")
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


class Purity:
    """Judges statements and expressions by the names of their modules; when in doubt, they have effects."""

    def __init__(self, library: Library, names: NameTables) -> None:
        self.library, self.names = library, names
        self.plain: dict[tuple[str, str], bool] = {}

    def bound(self, module: Module, name: str) -> list[Use]:
        """The uses that bind a variable of a module."""
        return self.names[module.name].bindings.get(name, [])

    def dotted(self, module: Module, node: ast.AST) -> str | None:
        """`contextlib.contextmanager` for an expression of that meaning, `len` for a builtin, None for all else."""
        attributes = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        bound = self.bound(module, node.id)
        if not bound:
            return ".".join([node.id, *reversed(attributes)]) if hasattr(builtins, node.id) else None
        if len(bound) > 1 or bound[0].action != "import":
            return None
        target = self.library.target(module, bound[0])
        if not isinstance(target, External):
            return None
        return ".".join([target.module, *filter(None, [target.attribute]), *reversed(attributes)])

    def expression(self, module: Module, node: ast.AST) -> bool:
        """Whether evaluating an expression changes nothing elsewhere.

        It must call nothing but functions that are known to have no effect, and must read no object of an unknown
        class: `a + b`, `a.b` and `for x in a` may run any code of the class of `a`.
        """
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and self.dotted(module, part.func) not in PURE_CALLS:
                return False
            if isinstance(part, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
                return False
            if isinstance(part, ast.Name) and not self.is_plain(module, part.id):
                return False
        return True

    def is_plain(self, module: Module, name: str) -> bool:
        """Whether a name of a module stands for a function, a plain class or constant, or something third-party."""
        key = module.name, name
        if key not in self.plain:
            self.plain[key] = True  # for names that are defined by each other
            self.plain[key] = all(self.binds_plainly(module, use) for use in self.bound(module, name))
        return self.plain[key]

    def binds_plainly(self, module: Module, use: Use) -> bool:
        """Whether a use binds a variable of a module to such a value."""
        if use.action == "import":
            target = self.library.target(module, use)
            if isinstance(target, External):
                return True
            origin, attribute = target
            if attribute is None or not self.library.find(origin):
                return False
            source = self.names[origin]
            return attribute in source.bindings and self.is_plain(source.module, attribute)
        if use.action == "define" and isinstance(use.node, ast.ClassDef):
            return self.definition(module, use.node)
        if use.action == "define":
            return all(self.decorator(module, part) for part in use.node.decorator_list)
        if use.scope.module_name != module.name:
            return False  # another module sets it
        return use.scope.kind == "module" and self.droppable(module, module.body[use.index])

    def decorator(self, module: Module, node: ast.expr) -> bool:
        """Whether a decorator does no more than change what it decorates."""
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            return self.decorator(module, node.func) and all(self.expression(module, part) for part in arguments)
        if isinstance(node, ast.Attribute) and node.attr in ("setter", "getter", "deleter"):
            return isinstance(node.value, ast.Name) and not self.bound(module, node.value.id)  # of the class around it
        return self.dotted(module, node) in PURE_DECORATORS

    def function(self, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Whether a `def` statement does no more than make the function."""
        defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        annotations = [argument.annotation for argument in all_arguments(node.args)] + [node.returns]
        calls = [part for each in annotations if each for part in ast.walk(each) if isinstance(part, ast.Call)]
        return (
            all(self.decorator(module, part) for part in node.decorator_list)
            and all(self.expression(module, part) for part in defaults)
            and not calls
        )

    def definition(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether a class statement does no more than make the class: no metaclass, no registration of subclasses."""
        if (
            self.lists_subclasses()
            or node.keywords
            or not all(self.decorator(module, part) for part in node.decorator_list)
        ):
            return False
        names = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        if "__init_subclass__" in names:
            return False  # making a subclass runs code of this class
        return all(self.base(module, part) for part in node.bases) and all(
            self.droppable(module, part) for part in node.body
        )

    def lists_subclasses(self) -> bool:
        """Whether some code asks a class for its subclasses: then every class statement has an effect."""
        return any("__subclasses__" in names.module.text for names in self.names.values())

    def base(self, module: Module, node: ast.expr, depth: int = 0) -> bool:
        """Whether making a subclass of a class runs no code."""
        if isinstance(node, ast.Subscript):
            node = node.value
        dotted = self.dotted(module, node)
        if dotted is not None:
            return (
                dotted in PURE_BASES
                or dotted.startswith(PURE_BASE_PACKAGES)
                or isinstance(getattr(builtins, dotted, None), type)
            )
        if not isinstance(node, ast.Name) or depth > 50:
            return False
        bound = self.bound(module, node.id)
        if len(bound) != 1:
            return False
        if bound[0].action == "import":
            target = self.library.target(module, bound[0])
            if isinstance(target, External) or target[1] is None or not self.library.find(target[0]):
                return False
            return self.base(self.names[target[0]].module, ast.Name(target[1], ast.Load()), depth + 1)
        made = bound[0].node
        return isinstance(made, ast.ClassDef) and self.definition(module, made)

    def droppable(self, module: Module, node: ast.stmt) -> bool:
        """Whether a statement only binds names, so that it can be left out if they are not used."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return self.function(module, node)
            case ast.ClassDef():
                return self.definition(module, node)
            case ast.Assign():
                names = [name for target in node.targets for name in getattr(target, "elts", [target])]
                return all(isinstance(name, ast.Name) for name in names) and self.expression(module, node.value)
            case ast.AnnAssign():  # not ast.AugAssign: x += y may change a list that other names mean, too
                return isinstance(node.target, ast.Name) and (node.value is None or self.expression(module, node.value))
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
                    return not self.patches_others()
                return all(self.is_settled(origin, alias.name) for alias in node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                parts = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
                return all(self.reads_nothing(module, part) for part in parts)
            case ast.ClassDef():
                return all(self.movable(module, part) for part in node.body)
            case ast.Assign() | ast.AnnAssign():
                return node.value is None or self.reads_nothing(module, node.value)
        return True

    def patches_others(self) -> bool:
        """Whether some code sets an attribute of a third-party module, such as `time.time = ...`."""
        for names in self.names.values():
            module = names.module
            for use in names.uses:
                if use.chain and use.chain_action == "store" and use.owner.kind == "module":
                    bound = names.bindings.get(use.name, [])
                    imports = [each for each in bound if each.action == "import"]
                    if any(isinstance(self.library.target(module, each), External) for each in imports):
                        return True
        return False

    def is_settled(self, origin: str, name: str) -> bool:
        """Whether a name that is imported from a module never changes there; only flat modules are looked at."""
        if not self.library.is_flat(origin) or not self.library.find(origin) or self.library.find(f"{origin}.{name}"):
            return True
        bound = self.names[origin].bindings.get(name, [])
        return len(bound) == 1 and bound[0].scope.kind == "module" and not bound[0].conditional

    def reads_nothing(self, module: Module, node: ast.AST) -> bool:
        """Whether an expression reads only what never changes: functions, classes, results of calls without effects."""
        for part in ast.walk(node):
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
            blocks = [*node.body, *node.orelse, *getattr(node, "finalbody", [])]
            blocks += [part for handler in getattr(node, "handlers", []) for part in handler.body]
            return all(self.before_imports(module, part) for part in blocks)
        if isinstance(node, ast.Assign | ast.AnnAssign) and not self.droppable(module, node):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if not all(isinstance(target, ast.Name) for target in targets) or node.value is None:
                return False
            roots = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
            calls = [part.func for part in ast.walk(node.value) if isinstance(part, ast.Call)]
            return all(self.makes_value(module, call) for call in calls) and not roots & {"os", "sys", "environ"}
        return self.droppable(module, node) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
