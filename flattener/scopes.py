"""Which scope's variable a name means, by the compiler's own symbol table (`symtable`)."""

import collections


class Scope:
    """A scope of the compiler's symbol table, with the way to its parent and the names bound so far in a class body."""

    def __init__(self, kind: str, table, parent: "Scope | None", module_name: str):
        self.kind, self.table, self.parent, self.module_name = kind, table, parent, module_name
        self.bound_so_far: set[str] = set()
        self.children = collections.defaultdict(list)
        for child in table.get_children():
            self.children[child.get_name(), child.get_lineno()].append(child)

    @property
    def module(self) -> "Scope":
        return self if self.parent is None else self.parent.module

    def owner(self, name: str) -> "Scope | None":
        """The scope whose variable `name` means here; None for a name that the symbol table does not know here.

        It knows no annotations under `from __future__ import annotations`: these are never evaluated.
        """
        try:
            symbol = self.table.lookup(name)
        except KeyError:
            return None
        if self.parent is None or symbol.is_global():
            return self.module
        if not symbol.is_free():
            return self
        scope = self.parent
        while scope.parent is not None:
            if scope.kind != "class" and scope.binds(name):
                return scope
            scope = scope.parent
        return scope

    def binds(self, name: str) -> bool:
        try:
            return self.table.lookup(name).is_local()
        except KeyError:
            return False


class InlinedScope(Scope):
    """A comprehension that the compiler (from 3.12 on) runs inside of the surrounding function, without a table."""

    def __init__(self, parent: Scope, names: set[str]):
        self.kind, self.table, self.parent, self.module_name = "function", parent.table, parent, parent.module_name
        self.children = parent.children
        self.names = names

    def owner(self, name: str) -> Scope | None:
        if name in self.names:
            return self
        outer = self.parent
        while outer.kind == "class":  # inlined or not, a comprehension does not see the names of its class
            outer = outer.parent
        return outer.owner(name) or outer.module  # what no function around it binds is a global

    def binds(self, name: str) -> bool:
        return name in self.names
