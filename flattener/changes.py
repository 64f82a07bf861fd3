"""Whose objects the source of one module may change, by name."""

import ast
import collections
import functools

from flattener.source import KEPT_MODULES, Module, last_name, words
from flattener.trees import child_nodes, walk

CHANGERS = words("""
    append appendleft extend extendleft insert add update setdefault sort reverse pop popitem remove discard clear
    intersection_update difference_update symmetric_difference_update subtract __setitem__ __iadd__ __ior__
""")  # methods that change a container
CONTAINER_READERS = words("""
    len sorted sum min max any all enumerate zip range list tuple set frozenset dict reversed print str repr isinstance
    join format get issubset issuperset isdisjoint startswith endswith
""")  # they only read the containers they are given
PLAIN_NODES = frozenset((
    *(ast.Name, ast.Constant, ast.Compare, ast.BinOp, ast.UnaryOp, ast.FormattedValue, ast.Expr, ast.If, ast.While),
    *(ast.Starred, ast.arguments, ast.arg),
))  # fmt: skip
ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
DISPLAYS = frozenset((ast.List, ast.Tuple, ast.Set, ast.Dict, ast.keyword))


class Changes:
    """What the code of a module may change.

    Attributes:
        links: the names of variables and attributes whose object may be changed, or given to code that may change it;
            each with the variable that has to be changed for it, empty for none: `b` for `a` in `b = [a]`.
        patched: the names of which it sets an attribute, and the attributes: `a` and `b` of `a.b = 1` and of
            `setattr(a, "b", 1)`; "*" for one that only the running program knows.
        imports: its import statements.
    """

    def __init__(self, nodes: list[ast.AST]) -> None:
        self.links: set[tuple[str, str]] = set()
        self.patched: dict[str, set[str]] = collections.defaultdict(set)
        self.imports: list[ast.Import | ast.ImportFrom] = []
        assigned: dict[ast.AST, str] = {}  # a container that is written out -> the variable that it is assigned to
        for node in nodes:
            if node.__class__ in PLAIN_NODES:
                continue
            target = assigned.get(node, "")
            if isinstance(node, ASSIGNMENTS):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                target = targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""
                if isinstance(node.value, ast.Subscript):
                    self.link(chain_name(node.value), target)
            if target:
                assigned.update((child, target) for child in child_nodes(node) if child.__class__ in DISPLAYS)
            self.look_at(node, target)

    def link(self, name: str, target: str = "") -> None:
        if name:
            self.links.add((name, target))

    def patch(self, node: ast.AST, attribute: str) -> None:
        for part in walk(node):
            if isinstance(part, ast.Name):
                self.patched[part.id].add(attribute)

    def look_at(self, node: ast.AST, target: str) -> None:
        """Notes what a node of the syntax tree changes, or gives to other code."""
        match node:
            case ast.Attribute():
                if isinstance(node.ctx, ast.Store | ast.Del):
                    self.link(node.attr)
                    self.patch(node, node.attr)
                if node.attr in CHANGERS:
                    self.link(chain_name(node.value))
            case ast.Subscript():
                if isinstance(node.ctx, ast.Store | ast.Del):
                    self.link(chain_name(node))
            case ast.AugAssign():
                self.link(chain_name(node.target))
            case ast.Import() | ast.ImportFrom():
                self.imports.append(node)
                for alias in node.names:
                    self.link(alias.name if alias.asname else "")
            case ast.Call():
                called = chain_name(node.func)
                for part in node.args if called not in CONTAINER_READERS else []:
                    self.link(chain_name(part))
                if called in ("setattr", "delattr") and len(node.args) > 1:
                    name = node.args[1]
                    self.patch(node.args[0], str(name.value) if isinstance(name, ast.Constant) else "*")
            case ast.For() | ast.comprehension():
                self.link(chain_name(node.iter), chain_name(node.target))
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    self.link(chain_name(value) if key else "", target)
            case ast.keyword():
                self.link(chain_name(node.value) if node.arg else "", target)
            case _:
                for child in child_nodes(node):
                    if isinstance(getattr(child, "ctx", None), ast.Load):
                        self.link(chain_name(child), target)


@functools.lru_cache(KEPT_MODULES)
def find_changes(module: Module) -> Changes:
    """What the code of a module may change."""
    return Changes(module.nodes)


def chain_name(node: ast.AST) -> str:
    """`c` of `a.b.c`, and of `a.b.c[0][1]`; empty for anything but such a chain."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return last_name(node)
