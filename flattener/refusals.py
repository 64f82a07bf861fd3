"""Constructs that the flat style would get wrong, as far as they can be seen in the source."""

import ast

from flattener.facts import called_name
from flattener.library import External, Library
from flattener.names import Names
from flattener.purity import Purity
from flattener.shell import refuse_shell_edits
from flattener.source import Module, words

FRAME_READERS = words("ply fire numexpr patsy formulaic statsmodels")
REFUSED_NAMES = {
    "__file__": "pass paths as arguments",
    "__spec__": "do without it",
    "__package__": "do without it",
    "__path__": "do without it",
    "__loader__": "do without it",
    "__builtins__": "import builtins",
    "__doc__": "write the text as a constant",
    "__annotations__": "do without it",
    "globals": "use a dictionary of your own",
    "__import__": "use an import statement",
    "eval": "write the code itself",
    "exec": "write the code itself",
}
REFUSED_MODULES = {
    "importlib.resources": "pass paths as arguments",
    "importlib_resources": "pass paths as arguments",
    "pkgutil": "name the modules in import statements",
    "pkg_resources": "pass paths as arguments",
}


def refuse_constructs(names: Names, library: Library, purity: Purity, form: str, mentioned: set[str]) -> None:
    """Raises a `BuildError` for a module with a construct that would not do in a flat program what it does now.

    Args:
        names: of the module.
        library: of the program.
        purity: for the meaning of what is called.
        form: of the output, "notebook" or "script".
        mentioned: the words of the whole program.
    """
    module = names.module
    if form == "notebook" and not module.is_entry:
        refuse_shell_edits(module, mentioned)
    for use in names.uses:
        is_builtin = use.owner.kind == "module" and use.action == "load" and not names.bindings.get(use.name)
        given = module.is_entry and use.name in ("__doc__", "__file__", "__package__")
        if is_builtin and use.name in REFUSED_NAMES and not given:
            reason = f"`{use.name}` is not what it was in a flat program"
            module.refuse(use.node, reason, REFUSED_NAMES[use.name])
        if use.action == "import":
            target = library.target(module, use)
            if isinstance(target, External):
                for name in (target.module, f"{target.module}.{target.attribute}", use.alias.name):
                    if name in REFUSED_MODULES:
                        module.refuse(use.node, f"{name} needs the package's files", REFUSED_MODULES[name])
    for site in names.sites:
        for name in library.named(module, site.node):
            if name.partition(".")[0] in FRAME_READERS:
                module.refuse(site.node, f"{name} reads the names of its caller", "do without it")
    for name in ("__getattr__", "__dir__"):
        for use in names.bindings.get(name, []):
            module.refuse(use.node, f"a module's own `{name}`", "define the names themselves")
    at_module_level = {use.node for use in names.uses if use.scope.kind == "module"}
    own_local = any(
        not site.at_load and any(map(library.is_flat, library.named(module, site.node))) for site in names.sites
    )
    for node in module.of(ast.Call, ast.Attribute, ast.ImportFrom):
        if isinstance(node, ast.Call):
            refuse_call(module, node, library, purity, form)
            lists_names = not node.args and purity.dotted(module, node.func) in ("vars", "dir", "locals")
            if lists_names and (own_local or node.func in at_module_level):
                module.refuse(node, "this call at module level sees the whole program", "do without it")
        elif names_sys_modules(module, node, purity):
            module.refuse(node, "`sys.modules` does not hold the packages of a flat program", "do without it")


def names_sys_modules(module: Module, node: ast.AST, purity: Purity) -> bool:
    """Whether a node of the syntax tree reads or imports `sys.modules`."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "sys" and any(alias.name == "modules" for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr == "modules" and purity.dotted(module, node) == "sys.modules"


def refuse_call(module: Module, node: ast.Call, library: Library, purity: Purity, form: str) -> None:
    """Raises a `BuildError` for a call that would not do in a flat program what it does now."""
    called = purity.dotted(module, node.func) or ""
    last = called.rpartition(".")[2] or called_name(node)
    texts = [part.value for part in node.args[:1] if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    if last == "import_module" and not (texts and not texts[0].startswith(".") and not library.is_flat(texts[0])):
        module.refuse(node, "a module imported by name while the program runs", "use an import statement")
    if form == "notebook" and called.startswith("inspect.getso"):
        module.refuse(node, f"`{called}` does not find all sources in a notebook", "do without it, or build a .py file")
    if last in ("patch", "get_data", "run_module") and texts and library.is_flat(texts[0]):
        module.refuse(node, f"the module of {texts[0]!r} does not exist in a flat program", "do without it")
    if form == "notebook" and last in ("get_context", "set_start_method") and texts and texts[0] != "fork":
        module.refuse(node, f"{texts[0]!r} cannot start processes from a notebook", "use threads, or subprocess")
