"""Walks through syntax trees, several times as fast as those of `ast`: most phases look at every node.

Contexts such as `ast.Load` and operators such as `ast.Add` are left out; who needs them reads `node.ctx` and `node.op`.
"""

import ast

# The fields of nodes that hold texts and numbers, or nodes that are left out.
PLAIN = frozenset(["ctx", "op", "ops", "id", "attr", "arg", "level", "module", "kind", "type_comment", "type_ignores"])


class Fields(dict[type[ast.AST], tuple[str, ...]]):
    """The fields of each kind of nodes that may hold other nodes."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        self[kind] = tuple(name for name in kind._fields if name not in PLAIN)
        return self[kind]


FIELDS = Fields({ast.Constant: (), ast.alias: (), ast.arg: ("annotation",)})


def child_nodes(node: ast.AST) -> list[ast.AST]:
    """The nodes directly below a node, in the order in which `ast.iter_child_nodes` gives them."""
    found: list[ast.AST] = []
    for name in FIELDS[node.__class__]:
        value = getattr(node, name, None)
        if value.__class__ is list:
            found += [part for part in value if isinstance(part, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def walk(node: ast.AST) -> list[ast.AST]:
    """A node and all nodes below it, level by level, as `ast.walk` gives them."""
    fields, node_type = FIELDS, ast.AST  # local names are read faster
    found = [node]
    for each in found:
        for name in fields[each.__class__]:
            value = getattr(each, name, None)
            if value.__class__ is list:
                found += [part for part in value if isinstance(part, node_type)]
            elif isinstance(value, node_type):
                found.append(value)
    return found
