"""The documents: they are short where they should be, and name nothing that does not exist.

python tests/test_documents.py        writes docs/commands.md anew, from the --help of every command
"""

import argparse
import ast
import concurrent.futures
import functools
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = ROOT / "docs" / "commands.md"
WIDTH = 110
README_LINES = 150

# --- the commands ---


@functools.cache
def verbs() -> list[str]:
    """The commands, as paths in the repository: the flattener, and each file of scripts/ that has a command line."""
    found = ["build_kernel.py"]
    for path in sorted((ROOT / "scripts").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in text and "argparse" in text:
            found.append(f"scripts/{path.name}")
    return found


@functools.cache
def helps() -> dict[str, str]:
    """The text that each command prints for --help, each option on a line of its own."""
    environment = {**os.environ, "COLUMNS": "10000", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}

    def ask(verb: str) -> str:
        command = [sys.executable, str(ROOT / verb), "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{verb} --help: {done.stderr}"
        return done.stdout

    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(verbs(), pool.map(ask, verbs()), strict=True))


def long_options(text: str) -> set[str]:
    """The long options that stand in a command or in a text of --help."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def option_lines(text: str) -> list[tuple[str, str]]:
    """(name, explanation) of each argument and option in a text of --help, in its order."""
    found: list[tuple[str, str]] = []
    inside = False
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            inside = True  # "positional arguments:", "options:"
        elif line and not line.startswith(" "):
            inside = False  # the description, or what stands below the options
        elif inside and line.strip():
            if line.startswith("   "):  # an explanation below a long name
                found[-1] = (found[-1][0], line.strip())
            else:
                name, _, about = line.strip().partition("  ")
                found.append((name, about.strip()))
    return [(name, about) for name, about in found if not name.startswith("-h,")]


def command_section(verb: str, text: str) -> str:
    """What commands.md says of one command."""
    docstring = ast.get_docstring(ast.parse((ROOT / verb).read_text(encoding="utf-8"))) or ""
    usage = " ".join(text.partition("\n\n")[0].removeprefix("usage: ").split()).replace(" [-h]", "")
    wrapped = textwrap.wrap(usage, WIDTH, subsequent_indent=" " * 4, break_long_words=False, break_on_hyphens=False)
    lines = [f"## `{verb}`", "", docstring, "", "```", *wrapped, "```", ""]
    for name, about in option_lines(text):
        item = f"- `{name}`" + (f": {about}" if about else "")
        lines += textwrap.wrap(item, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).rstrip() + "\n"


def make_targets() -> dict[str, str]:
    """The targets of the Makefile that are meant for people, with the comment above each."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    phony = {name for line in lines if line.startswith(".PHONY:") for name in line.split()[1:]}
    found = {}
    for number, line in enumerate(lines):
        name = line.partition(":")[0]
        if name in phony:
            above = number
            while above and lines[above - 1].startswith("# "):
                above -= 1
            found[name] = " ".join(comment.removeprefix("# ") for comment in lines[above:number])
    return found


def commands_text() -> str:
    """The whole of commands.md."""
    head = """\
# Commands

Made from the source and from the `--help` of every command by `python tests/test_documents.py`; a test keeps it equal.
`python` is `.venv/bin/python`.
"""
    targets = "\n".join(f"- `make {name}`" + (f": {about}" if about else "") for name, about in make_targets().items())
    contents = "\n".join(f"- [`{verb}`](#{re.sub(r'[^a-z0-9_-]', '', verb)})" for verb in verbs())
    sections = [command_section(verb, helps()[verb]) for verb in verbs()]
    return "\n".join([head, contents, "", "## `make`", "", targets, "", *sections])


# --- what the documents say ---


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of the fenced blocks of a document."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def inline_code(text: str) -> list[str]:
    """The texts in backticks, outside of fenced blocks."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", outside)


def command_lines(text: str) -> list[str]:
    """The command lines of a document: in fenced blocks, continued lines joined, and in backticks."""
    found = inline_code(text)
    for language, content in fenced_blocks(text):
        if language in ("", "bash", "sh"):
            found += re.sub(r"\\\n\s*", " ", content).splitlines()
    return [line.split("  # ")[0] for line in found]


@functools.cache
def definitions() -> frozenset[str]:
    """The functions, classes and methods of the repository: `name` and `Class.name`."""
    found = set()
    for folder in ("", "salt", "flattener", "desk", "scripts", "kernels", "tests"):
        for path in (ROOT / folder).glob("**/*.py" if folder else "*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    found.add(node.name)
                if isinstance(node, ast.ClassDef):
                    found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return frozenset(found)


@functools.cache
def settings() -> frozenset[str]:
    """The names of the settings of a run."""
    tree = ast.parse((ROOT / "salt" / "config.py").read_text(encoding="utf-8"))
    config = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config")
    return frozenset(node.target.id for node in config.body if isinstance(node, ast.AnnAssign))


def headings(text: str) -> set[str]:
    """The anchors of a document: those of its headings, as GitHub makes them, and those written as <a id="...">."""
    found = set(re.findall(r'<a id="([^"]+)"></a>', text))
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for title in re.findall(r"^#+ (.*)$", outside, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return found


def named(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_readme_is_read_in_a_minute():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES, f"README.md has {len(lines)} lines; move some to docs/"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_and_pictures_lead_somewhere(path):
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path if not name else path.parent / name
        if not file.exists() or (anchor and anchor not in headings(file.read_text(encoding="utf-8"))):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_commands_and_their_options_exist(path):
    wrong = []
    for line in command_lines(path.read_text(encoding="utf-8")):
        for target in re.findall(r"(?:^|&& |then )make ([a-z][a-z-]*)", line):
            if target not in make_targets():
                wrong.append(f"make {target}")
        called = re.search(r"(?:^|\s)(?:\.venv/bin/)?python (scripts/\w+\.py|build_kernel\.py)\b(.*)", line)
        called = called or re.match(r"()(?:scripts/)?(\w+\.py)\b(.*)", line)
        if not called:
            continue
        verb, rest = called.groups()[-2:]
        verb = verb if "/" in verb or verb == "build_kernel.py" else f"scripts/{verb}"
        if verb not in verbs():
            if not (ROOT / "salt" / pathlib.Path(verb).name).exists() and "python" in line:
                wrong.append(line)
            continue
        rest = re.sub(r'--args "[^"]*"', "--args", rest)  # the options in it are those of a script
        wrong += [f"{verb} {option}" for option in long_options(rest) - long_options(helps()[verb])]
    assert not wrong


def file_names(text: str) -> list[str]:
    """The files and folders of this repository that a piece of inline code names; placeholders are left out."""
    found = re.findall(r"(?:^|(?<=\s))((?:salt|flattener|desk|scripts|tests|docs|kernels)/[\w./-]*)(?=$|[\s,:;])", text)
    found += re.findall(r"(?:^|(?<=\s))([A-Z]+\.md|pyproject\.toml|(?:requirements|constraints)[\w-]*\.txt)\b", text)
    return [name for name in found if not re.search(r"NAME|VERB", name)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_files_that_are_named_exist(path):
    names = [name for text in inline_code(path.read_text(encoding="utf-8")) for name in file_names(text)]
    assert not [name for name in names if not any((base / name).exists() for base in (ROOT, path.parent))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_settings_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    parts = [content for language, content in fenced_blocks(text) if not language] + inline_code(text)
    known = settings() | {"key"}  # key=value stands for any of them
    keys = {key for part in parts for key in re.findall(r"(?<![\w.(-])([a-z]\w*)=(?=[^=\s])", part) if "(" not in part}
    assert not keys - known


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_functions_that_are_named_exist(path):
    texts = inline_code(path.read_text(encoding="utf-8"))
    calls = [found[1] for text in texts if (found := re.fullmatch(r"([A-Za-z_]\w*(?:\.\w+)?)\(\)", text))]
    foreign = {"globals"}  # Python's own
    assert not [name for name in calls if name not in definitions() | foreign]


def test_the_page_of_the_commands_is_what_they_say():
    assert COMMANDS.read_text(encoding="utf-8") == commands_text(), "python tests/test_documents.py writes it anew"


def test_each_line_of_the_documents_fits_a_screen():
    long = []
    for path in DOCUMENTS:
        if path != COMMANDS:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if len(line) > 128 and not line.startswith(("|", "![")) and "](http" not in line:
                    long.append(f"{named(path)}:{number}: {len(line)}")
    assert not long


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kernels/NAME.py", []),
        ("scripts/push.py train --set epochs=5", ["scripts/push.py"]),
        ("flattener/cells.py, trace.py", ["flattener/cells.py"]),
        ("main.py", []),
    ],
)
def test_file_names_are_found_in_inline_code(text, expected):
    assert file_names(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("options:\n  -h, --help   show\n  --set K=V    change\n", [("--set K=V", "change")]),
        (
            "options:\n  --a-long-name-of-an-option N\n                        what\n",
            [("--a-long-name-of-an-option N", "what")],
        ),
        ("usage: x\n\nA text.\n\npositional arguments:\n  NAME  which\n\nexample: x NAME\n", [("NAME", "which")]),
    ],
)
def test_options_are_found_in_a_help(text, expected):
    assert option_lines(text) == expected


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes docs/commands.md anew.")
    parser.parse_args()
    COMMANDS.write_text(commands_text(), encoding="utf-8")
    print(f"{named(COMMANDS)}  {len(commands_text().splitlines())} lines, {len(verbs())} commands")


if __name__ == "__main__":
    main()
