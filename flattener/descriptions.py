"""A kernel for another competition than it was written for: one import line and three lines of its head change.

A kernel takes what its competition is from one module, by a line such as `from package.module import COMPETITION`. That
module holds `COMPETITION = Competition(...)`, whose `slug` is the competition's name in Kaggle's addresses and whose
`label` begins the titles of its kernels. Both are read from the source; nothing is run.
"""

import ast
import re
from pathlib import Path

from flattener.errors import BuildError

IMPORT = re.compile(r"^from (\w+)\.(\w+) import COMPETITION\b", re.MULTILINE)
DESCRIPTION_FIELDS = ("slug", "label")


def with_competition(text: str, label: str, root: Path, name: str) -> str:
    """The text of a kernel for another competition; no line is added or taken away.

    Args:
        text: of the kernel.
        label: its name, for messages.
        root: the repository, in which the packages are.
        name: of the module that describes the competition, beside the one that the kernel imports.

    Raises:
        BuildError: the kernel imports none, or there is no such description.
    """
    found = IMPORT.search(text)
    if found is None:
        reason = "it has no line `from PACKAGE.MODULE import COMPETITION`"
        raise BuildError(f"--competition {name}", f"{label} is of one competition: {reason}", "write that line")
    package, module = found.groups()
    old, new = (read_fields(root / package, each) for each in (module, name))
    text = text[: found.start()] + f"from {package}.{name} import COMPETITION" + text[found.end() :]
    head = re.compile(r"(?s)^# /// script\n.*?^# ///$", re.MULTILINE).search(text)
    if head is None:
        return text
    lines = head[0].replace(f'"{old["slug"]}"', f'"{new["slug"]}"')
    for first, last in ((old["label"], new["label"]), (old["label"].lower(), new["label"].lower())):
        lines = re.sub(rf'(")({re.escape(first)})(?=[ -])', rf"\g<1>{last}", lines)
    return text[: head.start()] + lines + text[head.end() :]


def read_fields(package: Path, module: str) -> dict[str, str]:
    """Slug and label of the competition that a module describes.

    Raises:
        BuildError: there is no such module, or it describes none.
    """
    path, place = package / f"{module}.py", f"--competition {module}"
    if not path.is_file():
        known = ", ".join(described(package)) or "none"
        raise BuildError(place, f"{package.name}/ has no {path.name}; it describes {known}", "name one of these")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign) or getattr(node.targets[0], "id", "") != "COMPETITION":
            continue
        if isinstance(node.value, ast.Call):
            given = {word.arg: getattr(word.value, "value", None) for word in node.value.keywords}
            texts = {name: text for name in DESCRIPTION_FIELDS if isinstance(text := given.get(name), str)}
            if len(texts) == len(DESCRIPTION_FIELDS):
                return texts
    reason = f"{package.name}/{path.name} has no COMPETITION = Competition(slug=..., label=...) of plain texts"
    raise BuildError(place, reason, "write it as the other descriptions")


def described(package: Path) -> list[str]:
    """The modules of a package that describe a competition."""
    start = re.compile(r"^COMPETITION = ", re.MULTILINE)
    return [path.stem for path in sorted(package.glob("*.py")) if start.search(path.read_text(encoding="utf-8"))]
