"""From a library to the cells of its program: as flat as it can be, or in the style that was asked for."""

from flattener.documents import Document, FlatDocument, ModulesDocument
from flattener.errors import BuildError
from flattener.finding import find_program
from flattener.library import Library
from flattener.naming import Naming
from flattener.observers import refuse_spawned
from flattener.program import Program

MANY_TRIES, FEW_TRIES, LARGE = 12, 1, 10_000  # flat programs tried; fewer where the packages have many lines


def analyse(library: Library, form: str, style: str = "auto") -> Document:
    """The program's document: as many modules flat as can be, or as `style` says.

    A flat program is tried first. If a module cannot be flat, it and what it imports are in modules style at the next
    try; if the entry is what prevents it, all modules are.

    Args:
        library: the entry and its packages.
        form: of the output, "notebook" or "script".
        style: "auto"; "flat" refuses what cannot be flat; "modules" keeps all modules in modules style.

    Raises:
        BuildError: neither style can do what the program does, or not the one that was asked for.
    """
    library, reach = find_program(library, form)
    reasons: dict[str, str] = {}  # module -> why it is not flat
    as_it_is = bool(reach.reason) and style == "auto"  # nothing is flat, and the entry stays as it is
    if style == "modules":
        reasons = dict.fromkeys(reach.modules, "--style modules")
    elif style == "auto" and reach.reason:
        reasons = dict.fromkeys(reach.modules, reach.reason)
    if style == "auto":
        tops = {name: reach.searched.get(name.partition(".")[0]) for name in reach.modules}
        reasons |= {name: reason for name, reason in tops.items() if reason and name not in reasons}
        reasons |= {name: reason for name, reason in reach.reasons.items() if name not in reasons}
        named = {name: f"{where}: names it" for name, where in library.wanted.items() if name in reach.modules}
        reasons |= {name: reason for name, reason in named.items() if name not in reasons}
    if any(notice.word == "spawn" for notice in reach.notices):
        refuse_spawned(library.entry)
    tries = MANY_TRIES if sum(len(module.lines) for module in reach.modules.values()) < LARGE else FEW_TRIES
    while True:
        apart = reach.closure(set(reasons))
        given = {name: reasons.get(name, "imported by a module in modules style") for name in sorted(apart)}
        divided = library.with_apart(apart)
        if as_it_is or (reach.modules and len(apart) == len(reach.modules)):
            return ModulesDocument(divided, reach, form, given)
        try:
            program = Program(divided, form, set().union(*(facts.words for facts in reach.facts.values())))
            return FlatDocument(divided, reach, given, program, Naming(program, reach.pools))
        except BuildError as error:
            if style == "flat" or error.blame is None:
                raise
            known = set(reasons) | apart
            tries -= 1
            as_it_is = error.blame not in reach.modules or error.blame in known or not tries
            blamed = set(reach.modules) if as_it_is else {error.blame}
            reasons |= {name: str(error) for name in sorted(blamed - known)}
