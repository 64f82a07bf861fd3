"""Which competition a command is about: the description of that name in salt/, or in a file of the user's."""

import importlib.util
import pathlib
import re
from collections.abc import Sequence
from types import ModuleType

import salt
from desk.errors import ConfigurationError
from salt.description import Competition
from salt.tables import read_fields

DESCRIPTIONS = pathlib.Path(salt.__file__).parent
DEFAULT = "tgs"  # what runs were about before manifests said it
DESCRIPTION = re.compile(r"^COMPETITION = Competition\(\s*slug=\"([^\"]+)\"", re.MULTILINE)


def described_competitions() -> dict[str, str]:
    """The slugs of the competitions that salt/ describes, by the names of their modules; nothing is imported."""
    found = {}
    for path in sorted(DESCRIPTIONS.glob("*.py")):
        if match := DESCRIPTION.search(path.read_text(encoding="utf-8")):
            found[path.stem] = match[1]
    return found


def find_description(name: str = DEFAULT) -> pathlib.Path:
    """The file that describes a competition.

    Args:
        name: of a module of salt/ that describes one, its slug, or the path of a file of the user's.

    Raises:
        ConfigurationError: there is none.
    """
    if name.endswith(".py") and pathlib.Path(name).is_file():
        return pathlib.Path(name).resolve()
    known = described_competitions()
    for module, slug in known.items():
        if name in (module, slug):
            return DESCRIPTIONS / f"{module}.py"
    raise ConfigurationError(
        f"competition {name!r} is not described: salt/ describes {', '.join(known)}; name one of them, or a file of "
        "yours that ends in .py"
    )


def load_competition(name: str = DEFAULT) -> Competition:
    """The description of a competition, see `find_description`.

    Raises:
        ConfigurationError: there is none, or its file holds none.
    """
    return described_in(name).COMPETITION


def leaderboard_triples(manifest: dict) -> tuple:
    """What is known of earlier solutions of a run's competition, for `expect_leaderboard`; empty for most."""
    return getattr(described_in(manifest.get("competition", DEFAULT)), "LEADERBOARD_TRIPLES", ())


def described_in(name: str) -> ModuleType:
    """The module that describes a competition, see `load_competition`."""
    path = find_description(name)
    if path.parent == DESCRIPTIONS:
        module = importlib.import_module(f"salt.{path.stem}")
    else:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    if not isinstance(getattr(module, "COMPETITION", None), Competition):
        raise ConfigurationError(f"{path}: has no COMPETITION that is a Competition; see salt/tgs.py")
    return module


def slug_of(manifest: dict) -> str:
    """The slug of the competition that a run was about; nothing is imported."""
    return manifest.get("competition", described_competitions()[DEFAULT])


def competition_of(manifest: dict) -> Competition:
    """The competition that a run was about.

    Raises:
        ConfigurationError: it is described nowhere any more.
    """
    return load_competition(manifest.get("competition", DEFAULT))


def competition_as_before(named: str | None, sources: Sequence[str], slug: str | None, run: str) -> str | None:
    """The module that describes the competition of an earlier run, for a kernel that goes on with it.

    Args:
        named: what the command names; None: nothing.
        sources: the slugs of the competitions that the kernel mounts, as it is built for `named`.
        slug: of the run's competition; None: it does not say.
        run: how messages name it.

    Returns:
        `named` if that is right as it is: the kernel is of the same competition, or of none that is described.

    Raises:
        ConfigurationError: another one is named.
    """
    known = {each: module for module, each in described_competitions().items()}
    if slug not in known or slug in sources or not known.keys() & set(sources):
        return named
    if named is not None:
        raise ConfigurationError(f"--competition {named}: {run} is of {known[slug]}; leave the option out")
    return known[slug]


def competition_of_file(path: pathlib.Path) -> Competition:
    """The competition that a submission is for, by its columns.

    Raises:
        ConfigurationError: those of no competition that is described, or of several.
        DataError: it is no CSV file.
    """
    header, _ = read_fields(path)
    known = {name: load_competition(name) for name in described_competitions()}
    forms = {name: [each.sample_submission, *each.sample_submission.others] for name, each in known.items()}
    fitting = [name for name in known if any(set(form.columns) == set(header) for form in forms[name])]
    if len(fitting) == 1:
        return known[fitting[0]]
    columns = "; ".join(f"{name} {','.join(each[0].columns)}" for name, each in forms.items())
    found = f"those of {' and '.join(fitting)}" if fitting else f"of no submission that is described ({columns})"
    raise ConfigurationError(
        f"{path}: the first line is {','.join(header)!r}, {found}; say by --competition C what it is for"
    )
