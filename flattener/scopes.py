"""Which scope's variable a name means, by the compiler's own symbol table (`symtable`)."""

import collections
import symtable


class Scope:
    """A module, class or function, with its symbol table and the scope around it.

    Attributes:
        kind: "module", "class" or "function".
        bound_so_far: the names that a class body has bound up to the statement that is being looked at.
        children: (name, line) -> the tables of the scopes inside of it that have not been entered yet.
    """

    def __init__(self, kind: str, table: symtable.SymbolTable, parent: "Scope | None", module_name: str) -> None:
        self.kind, self.table, self.parent, self.module_name = kind, table, parent, module_name
        self.owners: dict[str, Scope | None] = {}
        self.bound_so_far: set[str] = set()
        self.children: dict[tuple[str, int], list[symtable.SymbolTable]] = collections.defaultdict(list)
        for child in table.get_children():
            self.children[child.get_name(), child.get_lineno()].append(child)

    @property
    def module(self) -> "Scope":
        """The scope of the module."""
        return self if self.parent is None else self.parent.module

    def owner(self, name: str) -> "Scope | None":
        """The scope whose variable `name` means here; None for a name that the symbol table does not know here.

        It knows no annotations under `from __future__ import annotations`: these are never evaluated.
        """
        if name not in self.owners:
            self.owners[name] = self.find_owner(name)
        return self.owners[name]

    def find_owner(self, name: str) -> "Scope | None":
        """`owner`, without its cache."""
        if name not in self.table.get_identifiers():
            return None
        if self.parent is None:
            return self
        symbol = self.table.lookup(name)
        if symbol.is_global():
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
        """Whether a name is a variable of this very scope."""
        try:
            return self.table.lookup(name).is_local()
        except KeyError:
            return False


class InlinedScope(Scope):
    """A comprehension that the compiler (from 3.12 on) runs inside of the function around it, without a table."""

    def __init__(self, parent: Scope, names: set[str]) -> None:
        super().__init__("function", parent.table, parent, parent.module_name)
        self.children = parent.children
        self.outer, self.names = parent, names

    def find_owner(self, name: str) -> Scope | None:
        if name in self.names:
            return self
        outer = self.outer
        while outer.kind == "class" and outer.parent:  # inlined or not, it does not see the names of its class
            outer = outer.parent
        return outer.owner(name) or outer.module  # what no function around it binds is a global

    def binds(self, name: str) -> bool:
        return name in self.names
