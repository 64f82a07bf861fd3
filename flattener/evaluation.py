"""What evaluating an expression may run, and what kind of value it gives.

Code of the packages can run without a call in sight: a `key=` of `sorted`, an operator, a subscript, an attribute, the
comparison of two values, their order in a set. So each value has a kind, and each operation is known to run nothing for
some kinds only.
"""

import ast
import builtins
import enum
import functools
import sys
from collections.abc import Callable

from flattener.facts import called_name
from flattener.library import External, Library, NameTables
from flattener.names import Use
from flattener.source import Module, last_name, words
from flattener.trees import walk


class Kind(enum.IntEnum):
    """What is known of a value; of several, the highest counts."""

    DATA = 0  # numbers, texts and containers of them; what the standard library and well-known packages define
    FIXED = 1  # a function, a plain class, a plain member of an Enum: comparing it or hashing it runs no code
    HOLDS = 2  # a container of such values
    OUTSIDE = 3  # something third-party: reading its attributes runs no code of the packages
    ANY = 4  # all else: it may be stored, and nothing more


LocalKinds = dict[str, Kind]  # the names of a class body or of a comprehension
VALUES = words("""
    bool bytes enumerate float frozenset int len range reversed round set slice sorted str sum max min abs
    tuple list dict zip object collections.OrderedDict collections.Counter collections.deque re.compile pathlib.Path
    pathlib.PurePosixPath fractions.Fraction decimal.Decimal datetime.timedelta operator.itemgetter operator.attrgetter
    enum.auto numpy.array numpy.arange numpy.linspace numpy.zeros numpy.ones numpy.full numpy.eye numpy.dtype
    numpy.float32 numpy.float64 numpy.uint8 numpy.int8 numpy.int16 numpy.int32 numpy.int64 numpy.sqrt numpy.log
    numpy.exp torch.device torch.Size
""")
CONTAINERS = words("""
    tuple list set frozenset dict zip enumerate reversed len bool collections.OrderedDict collections.Counter
    collections.deque
""")
STORES = words("""
    typing.TypeVar typing.NewType typing.ParamSpec dataclasses.field collections.namedtuple collections.defaultdict
""")  # they keep what they are given, and do nothing with it
PURE_CALLS = VALUES | STORES
GENERIC = words("list dict tuple set frozenset type")  # list[X] asks nothing of X
MUTABLE = words("list dict set OrderedDict Counter deque defaultdict")
TEXT_METHODS = ("str.", "bytes.", "int.", "float.")
# The constants and types of these packages have operators that run no foreign code.
KNOWN_PACKAGES = sys.stdlib_module_names | words("""
    numpy scipy pandas torch tensorflow keras jax sklearn cv2 PIL matplotlib typing_extensions jaxtyping
""")
UNKNOWN_READS = words("os.environ sys.stdin sys.stdout sys.stderr sys.modules")  # the machine's, or anybody's objects
GIVEN_NAMES = words("__name__ __file__ __doc__ __package__ __spec__")
TOLD_BY_NAME = words("__name__ __qualname__ __doc__ __module__")


class Evaluation:
    """Judges expressions by the names of their modules; when in doubt, evaluating them has effects."""

    def __init__(self, library: Library, names: NameTables) -> None:
        self.library, self.names = library, names
        self.kinds: dict[tuple[str, str], Kind] = {}

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

    def definition(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether a class statement does no more than make the class."""
        raise NotImplementedError

    def decorator(self, module: Module, node: ast.expr) -> bool:
        """Whether a decorator does no more than change what it decorates."""
        raise NotImplementedError

    def record(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether making an object of a class does no more than store what it is given."""
        raise NotImplementedError

    def origin_of(self, module: Module, node: ast.AST) -> tuple[Module, ast.AST] | None:
        """The definition in the packages that a name, or an attribute of a module, means; with its module."""
        name = node
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value
        bound = self.bound(module, name.id) if isinstance(name, ast.Name) else []
        for use in bound[-1:]:
            if use.action == "define":
                return module, use.node
            if use.action == "import":
                target = self.library.target(module, use)
                if isinstance(target, External) or not self.library.find(target[0]):
                    return None
                attribute = target[1] or getattr(node, "attr", "")
                if attribute in self.names[target[0]].bindings:
                    return self.origin_of(self.names[target[0]].module, ast.Name(attribute, ast.Load()))
        return None

    def class_of(self, module: Module, node: ast.AST, depth: int = 0) -> tuple[Module, ast.ClassDef] | None:
        """The class of the packages that a name always means, with its module; None if it means anything else."""
        bound = self.bound(module, node.id) if isinstance(node, ast.Name) else []
        if len(bound) != 1 or depth > 50:
            return None
        if isinstance(bound[0].node, ast.ClassDef):
            return module, bound[0].node
        if bound[0].action != "import":
            return None
        target = self.library.target(module, bound[0])
        if isinstance(target, External) or target[1] is None or not self.library.find(target[0]):
            return None
        return self.class_of(self.names[target[0]].module, ast.Name(target[1], ast.Load()), depth + 1)

    def ancestry(self, module: Module, node: ast.ClassDef, depth: int = 0) -> list[tuple[Module, ast.ClassDef]]:
        """A class of the packages and those that it inherits from, with their modules."""
        found = [(module, node)]
        for base in node.bases if depth < 50 else []:
            own = self.class_of(module, base.value if isinstance(base, ast.Subscript) else base)
            found += self.ancestry(*own, depth + 1) if own else []
        return found

    def is_enum(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether a class of the packages is an Enum."""
        bases = [(each, base) for each, made in self.ancestry(module, node) for base in made.bases]
        return any((self.dotted(each, base) or "").startswith("enum.") for each, base in bases)

    # --- names ---

    def name_kind(self, module: Module, name: str) -> Kind:
        """The kind of value that a variable of a module has."""
        key = module.name, name
        if key not in self.kinds:
            self.kinds[key] = Kind.DATA  # for names that are defined by each other
            bound = self.bound(module, name)
            given = name in GIVEN_NAMES or hasattr(builtins, name)
            self.kinds[key] = max((self.bound_kind(module, use) for use in bound), default=Kind.DATA)
            if not bound and not given:
                self.kinds[key] = Kind.ANY
        return self.kinds[key]

    def bound_kind(self, module: Module, use: Use) -> Kind:
        """The kind of value that a use binds to a variable of a module."""
        if use.action == "import":
            target = self.library.target(module, use)
            if isinstance(target, External):
                return self.external_kind(".".join(filter(None, [target.module, target.attribute])))
            origin, attribute = target
            if attribute is None or not self.library.find(origin):
                return Kind.ANY
            source = self.names[origin]
            return self.name_kind(source.module, attribute) if attribute in source.bindings else Kind.ANY
        if use.scope.module_name != module.name or use.scope.kind != "module":
            return Kind.ANY  # another module or a function sets it
        if use.action == "define":
            is_class = isinstance(use.node, ast.ClassDef)
            pure = self.definition(module, use.node) if is_class else all(
                self.decorator(module, part) for part in use.node.decorator_list
            )  # fmt: skip
            return Kind.FIXED if pure else Kind.ANY
        statement = module.body[use.index]
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            return Kind.ANY
        kind = self.kind(module, statement.value)
        if kind is None:
            return Kind.ANY
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if not all(isinstance(target, ast.Name) for target in targets):
            return self.element(kind)
        return Kind.ANY if is_mutable(statement.value) and self.may_change(use.name) else kind

    def external_kind(self, dotted: str) -> Kind:
        """The kind of something from outside of the packages, by its full name."""
        unknown = dotted.partition(".")[0] not in KNOWN_PACKAGES
        return (
            Kind.OUTSIDE if unknown or any(f"{dotted}.".startswith(f"{each}.") for each in UNKNOWN_READS) else Kind.DATA
        )

    def may_change(self, name: str) -> bool:
        """Whether some code may put other things into a container of that name."""
        return name in self.changing

    @functools.cached_property
    def changing(self) -> set[str]:
        """The names of all variables and attributes whose object may be changed."""
        links = {pair for changes in self.library.all_changes() for pair in changes.links}
        found = {name for name, target in links if not target}
        while True:
            more = {name for name, target in links if target in found} - found
            if not more:
                return found
            found |= more

    def element(self, kind: Kind) -> Kind:
        """The kind of what a container of a kind holds."""
        return {Kind.DATA: Kind.DATA, Kind.HOLDS: Kind.FIXED}.get(kind, Kind.ANY)

    # --- expressions ---

    def expression(self, module: Module, node: ast.AST) -> bool:
        """Whether evaluating an expression changes nothing elsewhere."""
        return self.kind(module, node) is not None

    def kind(self, module: Module, node: ast.AST, scope: LocalKinds | None = None) -> Kind | None:
        """The kind of an expression's value; None if evaluating it may have an effect.

        Args:
            module: in which it stands.
            node: the expression.
            scope: the names around it that are none of the module's.
        """
        scope = scope or {}

        def of(part: ast.AST) -> Kind | None:
            return self.kind(module, part, scope)

        match node:
            case ast.Constant():
                return Kind.DATA
            case ast.Name():
                return scope[node.id] if node.id in scope else self.name_kind(module, node.id)
            case ast.Attribute():
                return self.attribute_kind(module, node, scope)
            case ast.Tuple() | ast.List() | ast.Set():
                parts = [self.iterated(module, part.value, scope) if isinstance(part, ast.Starred) else of(part)
                         for part in node.elts]  # fmt: skip
                return self.contained(parts, hashed=parts if isinstance(node, ast.Set) else [])
            case ast.Dict():
                keys = [of(key) if key else Kind.DATA for key in node.keys]
                values = [
                    of(value) if key else self.iterated(module, value, scope)
                    for key, value in zip(node.keys, node.values, strict=True)
                ]
                return self.contained([*keys, *values], hashed=keys)
            case ast.Lambda():
                defaults = [of(part) for part in [*node.args.defaults, *filter(None, node.args.kw_defaults)]]
                return None if None in defaults else Kind.FIXED
            case ast.BinOp():
                return self.operator_kind(module, node, of(node.left), of(node.right))
            case ast.UnaryOp():
                kind = of(node.operand)
                most = Kind.HOLDS if isinstance(node.op, ast.Not) else Kind.DATA
                return Kind.DATA if kind is not None and kind <= most else None
            case ast.BoolOp():
                return self.chosen(node.values[:-1], node.values, of)
            case ast.IfExp():
                return self.chosen([node.test], [node.body, node.orelse], of)
            case ast.Compare():
                parts = [of(part) for part in [node.left, *node.comparators]]
                if all(isinstance(each, ast.Is | ast.IsNot) for each in node.ops):
                    return None if None in parts else Kind.DATA
                return self.most(parts, Kind.HOLDS, Kind.DATA)
            case ast.Subscript():
                return self.subscript_kind(module, node, scope)
            case ast.Slice():
                return self.most(
                    [of(part) for part in (node.lower, node.upper, node.step) if part], Kind.DATA, Kind.DATA
                )
            case ast.JoinedStr():
                return self.most([of(part) for part in node.values], Kind.DATA, Kind.DATA)
            case ast.FormattedValue():
                return self.most([of(part) for part in (node.value, node.format_spec) if part], Kind.DATA, Kind.DATA)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.comprehension_kind(module, node, scope)
            case ast.Call():
                return self.call_kind(module, node, scope)
        return None

    def most(self, parts: list[Kind | None], limit: Kind, result: Kind) -> Kind | None:
        """`result` if no part is above a limit."""
        return result if all(part is not None and part <= limit for part in parts) else None

    def contained(self, parts: list[Kind | None], hashed: list[Kind | None]) -> Kind | None:
        """The kind of a container of some values, of which it hashes and compares some."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or any(part is None or part > Kind.FIXED for part in hashed):
            return None
        kind = max(known, default=Kind.DATA)
        return Kind.DATA if kind is Kind.DATA else Kind.HOLDS if kind is Kind.FIXED else Kind.ANY

    def chosen(
        self, tests: list[ast.expr], values: list[ast.expr], of: Callable[[ast.AST], Kind | None]
    ) -> Kind | None:
        """The kind of one of several values, which tests decide on: their truth must run no code."""
        if self.most([of(test) for test in tests], Kind.HOLDS, Kind.DATA) is None:
            return None
        kinds = [of(value) for value in values]
        known = [kind for kind in kinds if kind is not None]
        return max(known) if len(known) == len(kinds) else None

    def iterated(self, module: Module, node: ast.expr, scope: LocalKinds) -> Kind | None:
        """The kind of what an expression gives when it is iterated over; None if that may have an effect."""
        own = self.class_of(module, node)
        if own and self.is_enum(*own) and self.definition(*own):
            return Kind.FIXED  # the members of an Enum
        kind = self.kind(module, node, scope)
        return None if kind is None or kind not in (Kind.DATA, Kind.HOLDS) else self.element(kind)

    def operator_kind(self, module: Module, node: ast.BinOp, left: Kind | None, right: Kind | None) -> Kind | None:
        """The kind of `a + b`."""
        if left is None or right is None:
            return None
        if max(left, right) is Kind.DATA:
            return Kind.DATA
        if isinstance(node.op, ast.Add) and {left, right} <= {Kind.DATA, Kind.HOLDS}:
            return Kind.HOLDS
        if isinstance(node.op, ast.BitOr):  # int | None: types
            sides = [(node.left, left), (node.right, right)]
            if all(kind <= Kind.FIXED or is_class_name(part, kind) for part, kind in sides):
                return Kind.FIXED
        return None

    def attribute_kind(self, module: Module, node: ast.Attribute, scope: LocalKinds) -> Kind | None:
        """The kind of `a.b`."""
        dotted = self.dotted(module, node)
        root = node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        if dotted and not (isinstance(root, ast.Name) and root.id in scope):
            return self.external_kind(dotted) if self.bound(module, dotted_root(node)) else Kind.DATA
        bound = self.bound(module, node.value.id) if isinstance(node.value, ast.Name) else []
        if len(bound) == 1 and bound[0].action == "import":
            target = self.library.target(module, bound[0])
            if not isinstance(target, External) and target[1] is None and self.library.find(target[0]):
                known = node.attr in self.names[target[0]].bindings  # a variable of another module
                return self.name_kind(self.names[target[0]].module, node.attr) if known else None
        kind = self.kind(module, node.value, scope)
        if kind in (Kind.DATA, Kind.OUTSIDE):
            return kind
        if node.attr in TOLD_BY_NAME and kind is Kind.FIXED:
            return Kind.DATA
        own = self.class_of(module, node.value)
        if own is None or kind is not Kind.FIXED:
            return None
        if self.is_enum(*own):
            return Kind.FIXED
        for part in own[1].body:
            if isinstance(part, ast.Assign) and [getattr(each, "id", "") for each in part.targets] == [node.attr]:
                return (
                    Kind.DATA if isinstance(part.value, ast.Constant) and not self.may_change(node.attr) else Kind.ANY
                )
        return Kind.ANY

    def subscript_kind(self, module: Module, node: ast.Subscript, scope: LocalKinds) -> Kind | None:
        """The kind of `a[b]`."""
        if isinstance(node.ctx, ast.Store | ast.Del):
            return None
        value, index = self.kind(module, node.value, scope), self.kind(module, node.slice, scope)
        if value is None or index is None:
            return None
        if value is Kind.DATA:
            if index is Kind.DATA:
                return Kind.DATA
            dotted = self.dotted(module, node.value) or ""
            if index is Kind.ANY and not dotted.startswith(("typing.", "collections.")) and dotted not in GENERIC:
                return None
            return Kind.FIXED if index <= Kind.HOLDS else Kind.ANY
        if value is Kind.HOLDS:
            return Kind.FIXED if index <= Kind.FIXED else None
        if value is Kind.OUTSIDE:
            return Kind.OUTSIDE if is_class_name(node.value, value) else None
        own = self.class_of(module, node.value)
        return Kind.FIXED if own and value is Kind.FIXED and self.takes_any_index(*own) else None

    def takes_any_index(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether a subscript of a plain class runs no code of its own."""
        return not any("__class_getitem__" in defined_names(made) for _, made in self.ancestry(module, node))

    def comprehension_kind(
        self, module: Module, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, scope: LocalKinds
    ) -> Kind | None:
        """The kind of a comprehension, whose elements are evaluated, be it later on."""
        inner = dict(scope)
        for generator in node.generators:
            element = self.iterated(module, generator.iter, inner)
            if element is None or generator.is_async:
                return None
            for part in walk(generator.target):
                if isinstance(part, ast.Name):
                    inner[part.id] = element
                elif not isinstance(part, ast.Tuple | ast.List | ast.Starred | ast.expr_context):
                    return None
            called = self.dotted(module, generator.iter.func) if isinstance(generator.iter, ast.Call) else None
            is_taken_apart = not isinstance(generator.target, ast.Name)
            if is_taken_apart and element > Kind.DATA and called not in ("zip", "enumerate"):
                return None
            tests = [self.kind(module, test, inner) for test in generator.ifs]
            if self.most(tests, Kind.HOLDS, Kind.DATA) is None:
                return None
        if isinstance(node, ast.DictComp):
            key, value = self.kind(module, node.key, inner), self.kind(module, node.value, inner)
            return self.contained([key, value], hashed=[key])
        parts = [self.kind(module, node.elt, inner)]
        return self.contained(parts, hashed=parts if isinstance(node, ast.SetComp) else [])

    def call_kind(self, module: Module, node: ast.Call, scope: LocalKinds) -> Kind | None:
        """The kind of the result of a call of a function that is known to have no effect."""
        called = self.dotted(module, node.func)
        made = self.class_of(module, node.func) if called is None else None
        is_record = made is not None and self.record(*made)
        if not (called in PURE_CALLS or is_record) or dotted_root(node.func) in scope:
            return None
        takes_key = not is_record and called not in CONTAINERS | STORES
        key = [keyword.value for keyword in node.keywords if keyword.arg == "key" and takes_key]
        given = [self.iterated(module, part.value, scope) if isinstance(part, ast.Starred)
                 else self.kind(module, part, scope) for part in node.args]  # fmt: skip
        named = [
            self.iterated(module, keyword.value, scope) if keyword.arg is None
            else self.kind(module, keyword.value, scope)
            for keyword in node.keywords if keyword.value not in key
        ]  # fmt: skip
        known = [part for part in [*given, *named] if part is not None]
        if len(known) < len(given) + len(named):
            return None
        if is_record:
            return Kind.ANY
        if called in STORES:
            runs_later = called == "collections.defaultdict" and Kind.DATA not in given[:1]
            return Kind.ANY if runs_later or max(known, default=Kind.DATA) is Kind.ANY else Kind.FIXED
        if called in CONTAINERS:
            elements = [
                self.element(kind) if kind in (Kind.DATA, Kind.HOLDS) else self.iterated(module, part, scope)
                for part, kind in zip(node.args, given, strict=True)
            ]
            return self.contained([*elements, *named], hashed=[])
        if not all(self.runs_nothing(module, part, scope) for part in key):
            return None
        return Kind.DATA if max(known, default=Kind.DATA) is Kind.DATA else None

    def runs_nothing(self, module: Module, node: ast.expr, scope: LocalKinds) -> bool:
        """Whether a function that is handed over, such as `key=`, does nothing but compute a value of data."""
        if isinstance(node, ast.Lambda):
            parameters = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
            return self.kind(module, node.body, scope | dict.fromkeys(parameters, Kind.DATA)) is Kind.DATA
        if isinstance(node, ast.Call):
            getter = self.dotted(module, node.func) in ("operator.itemgetter", "operator.attrgetter")
            return getter and self.kind(module, node, scope) is Kind.DATA
        called = self.dotted(module, node)
        return (called is not None and (called in VALUES or called.startswith(TEXT_METHODS))) or (
            isinstance(node, ast.Constant) and node.value is None
        )


def is_mutable(node: ast.expr) -> bool:
    """Whether an expression makes a container that other code may fill, or takes one out of another."""
    displays = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp | ast.Subscript
    return any(
        isinstance(part, displays) or (isinstance(part, ast.Call) and called_name(part) in MUTABLE)
        for part in walk(node)
    )


def is_class_name(node: ast.expr, kind: Kind) -> bool:
    """Whether something third-party is named like a class."""
    name = last_name(node)
    return kind is Kind.OUTSIDE and name.lstrip("_")[:1].isupper() and not name.isupper()


def dotted_root(node: ast.AST) -> str:
    """`a` of `a.b.c`; empty if it is no chain of names."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def defined_names(node: ast.ClassDef) -> set[str]:
    """The names that a class body binds, at any depth but that of its functions' bodies."""
    found = {part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return found | {part.id for part in walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
