"""Programs that are hard to flatten: the flat script and the flat notebook do what the package does.

The programs lie in flatten_cases/*.txt. `=== name | topic | description` begins one, then come its options, if any, and
`--- path` begins each of its files. An empty pkg/__init__.py is added unless the program has one. The options:

    args: --n 3           arguments of the program
    exit: 3               the exit status that the original must have (0 if not given)
    python: -W error      options of the interpreter
    entry: pkg/__main__.py    what is flattened, main.py if not given
    run: -m pkg           how the original is started, if not by its entry's path
    packages: pkg other.py    what is flattened with it, pkg if not given; none: what it needs is found
    namespace: pkg        a folder to which no __init__.py is added
    needs: 3.12           the oldest Python that can run it
    only: py              the form that can do it at all

Text that an editor would spoil (line ends, encodings, bytes) is made in Python below.
"""

import ast
import collections
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import build_kernel as bk

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "flatten_cases"
FORMS = ("py", "ipynb")
TIMEOUT = 600  # seconds; the longest takes a few, on a machine at rest


@dataclass(frozen=True)
class Case:
    name: str
    topic: str
    description: str
    files: dict[str, bytes] = field(hash=False)
    options: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def entry(self) -> str:
        return self.options.get("entry", "main.py")

    @property
    def packages(self) -> list[str]:
        return [name for name in self.options.get("packages", "pkg").split() if name != "none"]

    @property
    def arguments(self) -> list[str]:
        return self.options.get("args", "").split()

    @property
    def needs(self) -> tuple[int, ...]:
        return tuple(map(int, self.options.get("needs", "3.11").split(".")))


def add_init(case: Case) -> Case:
    for package in case.packages:
        if not package.endswith(".py") and package != case.options.get("namespace"):
            case.files.setdefault(f"{package}/__init__.py", b"")
    return case


def read_cases(text: str) -> list[Case]:
    cases = []
    for part in re.split(r"(?m)^=== ", text)[1:]:
        head, *files = re.split(r"(?m)^--- ", part)
        title, *options = head.strip().split("\n")
        name, topic, description = (word.strip() for word in title.split("|", 2))
        texts = dict(file.split("\n", 1) for file in files)
        found = {path.strip(): f"{body.rstrip()}\n".lstrip("\n").encode() for path, body in texts.items()}
        cases.append(add_init(Case(name, topic, description, found, dict(line.split(": ", 1) for line in options))))
    return cases


def made(name: str, description: str, files: dict[str, str | bytes], **options: str) -> Case:
    found = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    return add_init(Case(name, "text", description, found, options))


# ----------------------------------------------------------------------------------------------------------------------
# Programs whose bytes matter
# ----------------------------------------------------------------------------------------------------------------------

SHOW = "from pkg.a import VALUE, show\nprint(repr(VALUE), show(2))\n"
TRICKY_LINES = [
    'if __name__ == "pkg":',
    "# %%",
    "# %% [markdown]",
    "%%writefile pkg/a.py",
    "%matplotlib inline",
    "!ls",
    "    four spaces",
    "\ta tab",
    "from pkg.b import thing",
    "'''",
    '"""',
    "\\",
    ">>> import pkg",
    "In [1]: x",
    "help?",
    "{braces} {{doubled}} %s %d",
    "",
    "   ",
    "# ---",
    "```",
    "</script>",
    "\x0c",
    "é漢字\u2028\u0085\ufeff",
]


def long_function(i: int) -> str:
    more = f" + f{i - 1}(x)" if i % 7 else ""
    return f"def f{i}(x):\n    # comment {i}\n    return x + {i}{more}\n\n"


def long_string(i: int) -> str:
    rows = "\n".join(f"row {row} of {i}" for row in range(30))
    return f"TEXTS.append('''{rows}''')\n"


MADE = [
    made(
        "crlf_lines",
        "every line ends in CR LF, strings over several lines too",
        {
            "main.py": SHOW.replace("\n", "\r\n"),
            "pkg/a.py": 'from .b import (\r\n    K,  # why\r\n)\r\nVALUE = """one\r\ntwo"""\r\n\r\n\r\n'
            "def show(x):\r\n    # a comment\r\n    return x * K\r\n",
            "pkg/b.py": "K = 4\r\n",
        },
    ),
    made(
        "cr_lines_mixed",
        "LF and CR LF and a lone CR in one file",
        {
            "main.py": SHOW,
            "pkg/a.py": b'VALUE = """a\r\nb\nc"""\r\nX = 1\rY = 2\ndef show(x):\r\n    return x + X + Y\n',
        },
    ),
    made(
        "tabs",
        "tabs for indentation, and tabs inside of strings",
        {
            "main.py": SHOW,
            "pkg/a.py": "from .b import K\nVALUE = '''\n\tx\n\t\ty\n'''\n\ndef show(x):\n\tif x:\n\t\treturn x * K,\\\n"
            "\t\t\tVALUE.count('\t')\n\treturn None\n",
            "pkg/b.py": "if True:\n\tK = 3\n\tdef unused():\n\t\treturn 0\n",
        },
    ),
    made(
        "form_feeds",
        "form feeds between definitions, at the head of an indented block's line too",
        {
            "main.py": SHOW,
            "pkg/a.py": "\x0c\nimport sys\n\x0c\nVALUE = 'ff\x0cff'\n\x0c\ndef show(x):\n    y = x\n\x0c\n"
            "    return y, sys.maxsize > 1\n\x0cZ = 1\n",
        },
    ),
    made(
        "copied_to_the_last_byte",
        "modules that keep their own style, and whose files the program copies: they stay as they are to the last byte",
        {
            "main.py": "import hashlib, shutil\nfrom pkg.a import f\nfrom pkg.b import g\n"
            'for name in ("a", "b"):\n    shutil.copy(f"pkg/{name}.py", f"{name}.log")\n'
            '    print(name, hashlib.sha256(open(f"{name}.log", "rb").read()).hexdigest())\nprint(f(), g())\n',
            "pkg/a.py": "def f():\n    return f.__module__\n\n\n",
            "pkg/b.py": "X = 1\r\ndef g():\r\n    return g.__module__",
        },
    ),
    made(
        "no_final_newline",
        "files that end without a newline, one of them in a comment and one in a string",
        {
            "main.py": SHOW + "print('end')  # last",
            "pkg/a.py": "from .b import B\nfrom .c import C\nVALUE = B + C\ndef show(x): return x  # the end",
            "pkg/b.py": "B = '''x\n'''",
            "pkg/c.py": "C = 'c'\n# trailing comment",
        },
    ),
    made(
        "byte_order_mark",
        "files that begin with a byte order mark",
        {
            "main.py": b"\xef\xbb\xbf" + SHOW.encode(),
            "pkg/a.py": b'\xef\xbb\xbf"""Doc."""\nVALUE = __doc__\ndef show(x):\n    return -x\n',
            "pkg/__init__.py": b"\xef\xbb\xbf",
        },
    ),
    made(
        "latin_1_source",
        "a module in latin-1, with its coding line",
        {
            "main.py": SHOW,
            "pkg/a.py": "# -*- coding: latin-1 -*-\nVALUE = 'größer'\n".encode("latin-1")
            + "def show(x):\n    # naïve\n    return 'é' * x\n".encode("latin-1"),
        },
    ),
    made(
        "coding_lines",
        "utf-8 coding lines of several styles, after a shebang too",
        {
            "main.py": "#!/usr/bin/env python3\n# vim: set fileencoding=utf-8 :\n" + SHOW,
            "pkg/a.py": "# coding: utf8\nVALUE = 'ж'\ndef show(x):\n    return VALUE * x\n",
        },
    ),
    made(
        "tricky_string_lines",
        "lines of strings that look like marks, magics, prompts, guards",
        {
            "main.py": 'from pkg.a import VALUE, DOUBLE, show\nfor line in VALUE.split("\\n"): print(repr(line))\n'
            "print(VALUE == DOUBLE, show.__doc__ == show(), len(VALUE))\nENTRY = r'''\n"
            + "\n".join(line for line in TRICKY_LINES if "'''" not in line and line != "\\")
            + "\n'''\nprint(repr(ENTRY))\n",
            "pkg/a.py": "VALUE = '''"
            + "\n".join(line.replace("\\", "\\\\").replace("'''", "\\'''") for line in TRICKY_LINES)
            + "'''\nDOUBLE = \"\"\""
            + "\n".join(line.replace("\\", "\\\\").replace('"""', '\\"""') for line in TRICKY_LINES)
            + '"""\ndef show():\n    """'
            + "\n".join(line.replace("\\", "\\\\").replace('"""', '\\"""') for line in TRICKY_LINES)
            + '"""\n    return DOUBLE\n',
        },
        refused="ipynb",  # the entry's own strings are in cells
    ),
    made(
        "tricky_strings_beside_module_object",
        "the same strings in a module that can only be kept whole",
        {
            "main.py": "import importlib, sys\nm = importlib.import_module('pkg.' + 'a')\n"
            "print([line for line in m.VALUE.split('\\n')])\n"
            "print(m.__name__, sorted(n for n in vars(m) if n.isupper()), sys.modules['pkg.a'] is m)\n",
            "pkg/a.py": "VALUE = '''"
            + "\n".join(line.replace("\\", "\\\\").replace("'''", "\\'''") for line in TRICKY_LINES)
            + "'''\n",
        },
    ),
    made(
        "blank_lines_in_strings",
        "lines of spaces and tabs inside of strings and docstrings, which IPython 9 empties",
        {
            "main.py": SHOW + "print(repr(show.__doc__), repr('''x\n   \ny'''), repr(r\"\"\"\n \n\"\"\"))\n",
            "pkg/a.py": 'VALUE = """\\\n  a\n  \n\t\n  b"""\n\ndef show(x):\n    """Doc.\n    \n    End.\n    """\n'
            "    \n    return f'''{x}\n      \n{VALUE}'''\n",
        },
        refused="ipynb",  # the entry's own strings are in cells
    ),
    made(
        "prompts_in_strings",
        "prompts in strings that are no docstrings, which IPython 9 strips in a cell",
        {
            "main.py": SHOW + "print(repr(show.__doc__))\nprint('''\n>>> 1\n... 2\n    >>> 3\n''')\n",
            "pkg/a.py": "VALUE = '''\n>>> a\n... b\n  >>> c\nIn [3]: d\n   ...: e\n'''\n\n"
            'def show(x):\n    """Doc.\n\n'
            '    >>> show(1)\n    ... # more\n    """\n    return """\n    >>> x\n"""\n',
        },
        refused="ipynb",  # the entry's own strings are in cells
    ),
    made(
        "prompts_in_docstrings_after_quotes",
        "docstrings with prompts, after strings and comments that hold triple quotes",
        {
            "main.py": SHOW + "print(repr(show.__doc__))\n",
            "pkg/a.py": '# a comment with """ in it\nVALUE = \'"""\', "\'\'\'"\n\ndef show(x):\n    """Doc.\n\n'
            '    >>> show(1)\n    1\n    """\n    return x, r\'"""\'\n',
        },
    ),
    made(
        "control_characters",
        "strings and bytes with control characters and all kinds of escapes",
        {
            "main.py": SHOW,
            "pkg/a.py": b"VALUE = '\\x00\\x01\x01\x02\x7f\\u2028\xe2\x80\xa8\\N{BULLET}', b'\\x00\\xff', rb'\\d\\n'\n"
            b"def show(x):\n    return VALUE[0].splitlines()[:x]\n",
        },
    ),
    made(
        "long_module",
        "a module of 300 functions and 30 long strings",
        {
            "main.py": "from pkg.a import f0, f150, f299, TEXTS\nfrom pkg import b\n"
            "print(f0(1), f150(2), f299(3), len(TEXTS), sum(map(len, TEXTS)), b.f7(1))\n",
            "pkg/a.py": "TEXTS = []\n" + "".join(map(long_function, range(300))) + "".join(map(long_string, range(30))),
            "pkg/b.py": "\n".join(f"def f{i}(x):\n    return x * {i}\n" for i in range(60)),
        },
    ),
    made(
        "long_single_class",
        "one class of 700 lines, which no cell split can divide",
        {
            "main.py": "from pkg.a import Long\nprint(Long().m349(), sum(n.startswith('m') for n in dir(Long)))\n",
            "pkg/a.py": "class Long:\n" + "".join(f"    def m{i}(self):\n        return {i}\n" for i in range(350)),
        },
    ),
    made(
        "binary_data",
        "binary data: zip, picture, null bytes, 256 byte values, an empty file",
        {
            "main.py": "import hashlib\nfrom pkg.store import blob, names\nfor n in names():\n"
            "    b = blob(n)\n    print(n, len(b), hashlib.sha256(b).hexdigest()[:12])\n",
            "pkg/store.py": "from importlib import resources\nDATA = resources.files(__package__) / 'data'\n"
            "def names():\n    return sorted(p.name for p in DATA.iterdir())\n"
            "def blob(n):\n    return (DATA / n).read_bytes()\n",
            "pkg/data/all.bin": bytes(range(256)) * 40,
            "pkg/data/zero.bin": bytes(5000),
            "pkg/data/empty.dat": b"",
            "pkg/data/text.txt": b"line one\r\nline two\n\ttab\n",
            "pkg/data/latin.txt": "größe".encode("latin-1"),
            "pkg/data/tricky.txt": "\n".join(TRICKY_LINES).encode(),
        },
    ),
    made(
        "text_data_line_ends",
        "text data keeps its line ends, its marks and a missing final newline",
        {
            "main.py": "from pkg.a import get\nfor n in ('crlf.csv', 'bom.csv', 'open.csv', 'marks.txt'):\n"
            "    print(n, get(n))\n",
            "pkg/a.py": "import pkgutil\ndef get(n):\n    return pkgutil.get_data(__name__, n)\n",
            "pkg/crlf.csv": b"a,b\r\n1,2\r\n",
            "pkg/bom.csv": b"\xef\xbb\xbfa;b\n",
            "pkg/open.csv": b"a\nb",
            "pkg/marks.txt": "\n".join(TRICKY_LINES).encode(),
        },
    ),
    made(
        "unicode_module_names",
        "module and function names outside of ASCII; ﬁ (a ligature) is the same name as fi",
        {
            "main.py": "from pkg.größe import Ä, maß\nfrom pkg import größe as g\nfrom pkg.b import ﬁle\n"
            "print(Ä, maß(2), g.µ, ﬁle(), sorted(n for n in vars(g) if not n.isascii()))\n",
            "pkg/größe.py": "Ä = 'ä'\nµ = 'micro'\ndef maß(x):\n    ß = x\n    return ß * 2, 'é', μ\n",
            "pkg/b.py": "µ = 3\ndef ﬁle():\n    return file\n"
            "def file():\n    return ﬁle_name + μ\nfile_name = 7\nname = ﬁle\nfile = 'rebound'\nﬁle = name\n",
        },
    ),
]

CASES = [case for path in sorted(FOLDER.glob("*.txt")) for case in read_cases(path.read_text(encoding="utf-8"))] + MADE
BY_NAME = {case.name: case for case in CASES}


def test_every_case_has_a_name_of_its_own():
    counts = collections.Counter(case.name for case in CASES)
    assert [name for name, count in counts.items() if count > 1] == []


# ----------------------------------------------------------------------------------------------------------------------
# The bench on which they run
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a user sees of a run: the exit status, what was printed, and the last line of an uncaught exception."""

    status: int
    stdout: str
    error: str


def clean_environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }


def last_line(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


def write_case(case: Case, folder: Path) -> Path:
    for path, data in case.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def run_python(command: list[str], folder: Path, home: Path) -> Outcome:
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=clean_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        return Outcome(124, stdout.decode(errors="replace"), "timeout")
    return Outcome(process.returncode, stdout.decode(errors="replace"), last_line(stderr.decode(errors="replace")))


class NotebookServer:
    """A process that runs one notebook after the other, see notebook_runner.py."""

    def __init__(self, home: Path):
        self.process = subprocess.Popen(
            [sys.executable, FOLDER / "notebook_runner.py"],
            env=clean_environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, notebook: Path, arguments: list[str], home: Path) -> Outcome:
        stdout, stderr = home / "stdout", home / "stderr"
        job = {
            "notebook": notebook.name,
            "folder": str(notebook.parent),
            "arguments": arguments,
            "environment": clean_environment(home),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "timeout": TIMEOUT,
        }
        print(json.dumps(job), file=self.process.stdin, flush=True)
        status = int(self.process.stdout.readline())
        text = stdout.read_bytes().decode(errors="replace")
        text = re.sub(r"(?m)^(Writing|Overwriting) \S+\n", "", text)  # what %%writefile says
        return Outcome(status, text, last_line(stderr.read_bytes().decode(errors="replace")))

    def close(self):
        """Ends the process."""
        self.process.communicate()


def build(case: Case, folder: Path, out: Path):
    """Flattens a written case."""
    packages = [folder / package for package in case.packages]
    bk.build_entry(folder / case.entry, packages, out, arguments=case.arguments or None)


def make_folder(*parts: str | Path) -> Path:
    path = Path(*parts)
    path.mkdir(parents=True)
    return path


def run_original(case: Case, root: Path) -> Outcome:
    folder = write_case(case, make_folder(root, "source"))
    options = case.options.get("python", "").split()
    command = case.options.get("run", case.entry).split()
    return run_python([*options, *command, *case.arguments], folder, make_folder(root, "home"))


def run_flat(case: Case, form: str, root: Path) -> Outcome | str:
    """The outcome, or the message of a failed build."""
    source = write_case(case, make_folder(root, "source"))
    out, home = make_folder(root, "empty") / f"flat.{form}", make_folder(root, "home")
    try:
        build(case, source, out)
    except Exception as error:  # reported by the test
        return f"{type(error).__name__}: {error}"
    for path in out.parent.iterdir():
        if path != out:
            path.unlink()  # the map of lines
    if form == "ipynb":
        return notebook_server(root.parent.parent).run(out, case.arguments, home)
    options = case.options.get("python", "").split()
    return run_python([*options, out.name, *case.arguments], out.parent, home)


@functools.cache
def notebook_server(bench: Path) -> NotebookServer:
    """The server of this process; the fixture `bench` ends it."""
    return NotebookServer(make_folder(bench, "server"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The folder of all runs; what ran an original before is not run again for the other form."""
    folder = tmp_path_factory.mktemp("bench")
    yield folder
    if notebook_server.cache_info().currsize:
        notebook_server(folder).close()
        notebook_server.cache_clear()


@functools.cache
def original_outcome(case: Case, bench: Path) -> Outcome:
    return run_original(case, bench / case.name / "original")


def parameters():
    for case in CASES:
        for form in FORMS:
            marks = []
            if case.options.get("only", form) != form:
                continue
            if sys.version_info < case.needs:
                marks = [pytest.mark.skip(reason=f"needs Python {case.options['needs']}")]
            yield pytest.param(case, form, id=f"{case.name}-{form}", marks=marks)


@pytest.mark.parametrize(("case", "form"), parameters())
def test_flat_program_behaves_as_its_package(case, form, bench):
    original = original_outcome(case, bench)
    assert original.status == int(case.options.get("exit", "0")), f"the case itself is wrong: {original}"
    flat = run_flat(case, form, bench / case.name / form)
    if form in case.options.get("refused", "").split():
        assert re.fullmatch(r"BuildError: main.py:\d+: IPython would change this line of a string.*", flat)
        return
    assert not isinstance(flat, str), f"build failed: {flat}"
    assert flat.stdout == original.stdout, flat.error
    assert flat.status == original.status
    if original.error and original.status:
        # Flat code lies in the main module, and Python shows the exceptions of the main module without its name.
        assert without_module(flat.error) == without_module(original.error)
    out = bench / case.name / form / "empty" / f"flat.{form}"
    assert str(bench) not in out.read_text(encoding="utf-8"), "it names the folder of its build"


def without_module(line: str) -> str:
    """The last line of a traceback without the module of the exception's class."""
    return re.sub(r"^(?:\w+\.)+(?=\w+(?::|$))", "", line)


# ----------------------------------------------------------------------------------------------------------------------
# What a reader sees of them
# ----------------------------------------------------------------------------------------------------------------------

STATION = BY_NAME["station"]
UNUSED = {"unused_setting", "_unused_helper", "lost"}


def visible_code(path: Path) -> str:
    """The code as a reader sees it: a script's text, or a notebook's code cells without their %%writefile lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n\n".join(re.sub(r"^%%writefile.*\n", "", "".join(cell["source"])) for cell in cells)


def comments(code: str) -> set[str]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {token.string for token in tokens if token.type == tokenize.COMMENT}


def definitions(code: str) -> collections.Counter:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return collections.Counter(node.name for node in ast.walk(ast.parse(code)) if isinstance(node, kinds))


def docstrings(code: str) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = (ast.get_docstring(node) for node in ast.walk(ast.parse(code)) if isinstance(node, kinds))
    return {text for text in found if text}


@pytest.fixture(scope="module", params=FORMS)
def station(request, tmp_path_factory) -> Path:
    """The flat station, as a script and as a notebook."""
    folder = tmp_path_factory.mktemp("station")
    write_case(STATION, folder / "source")
    out = folder / f"flat.{request.param}"
    build(STATION, folder / "source", out)
    return out


@pytest.fixture(scope="module")
def station_source() -> list[str]:
    return [data.decode() for path, data in STATION.files.items() if not path.endswith("never.py")]


def test_every_comment_of_used_code_is_kept(station, station_source):
    notes = {note for code in station_source for note in comments(code) if not note.startswith("# note 9")}
    assert len(notes) == 27
    assert notes - comments(visible_code(station)) == set()


def test_every_used_definition_is_plain_code(station, station_source):
    wanted = sum((definitions(code) for code in station_source), collections.Counter())
    seen = definitions(visible_code(station))
    missing = {}
    for name in wanted.keys() - UNUSED:
        renamed = re.compile(rf"_*(\w+_)?{name}(_\w+|\d+)?")  # a renamed one counts
        count = seen[name] or sum(found for other, found in seen.items() if renamed.fullmatch(other))
        if seen[name] < wanted[name]:
            count = sum(found for other, found in seen.items() if renamed.fullmatch(other))
        if count < wanted[name]:
            missing[name] = (count, wanted[name])
    assert missing == {}


def test_every_docstring_of_used_code_is_kept(station, station_source):
    wanted = {text for code in station_source for text in docstrings(code) if "UNUSED" not in text}
    assert wanted - docstrings(visible_code(station)) == set()


def test_unused_code_is_not_shipped(station):
    text = station.read_text(encoding="utf-8")
    for trace in ("UNUSED_FUNCTION_TEXT", "UNUSED_MODULE_TEXT", "_unused_helper", "note 90", "note 91", "note 92"):
        assert trace not in text


def test_the_source_text_is_not_reformatted(station, station_source):
    """Of the source's code lines that no edit concerns, each stands in the output as it was."""
    lines = set(visible_code(station).split("\n"))
    lines |= {line.removeprefix("    ") for line in lines}  # a script holds a module in modules style as a block
    edited = re.compile(
        r"import|station|__|\b(u|sensors|units|_?store|keep|make|base|_round|_FACTOR|SCALE|Sensor|KEPT)\b"
    )
    kept = [
        line
        for code in station_source
        for line in code.split("\n")
        if not edited.search(line) and not re.search(r"note 9|unused|UNUSED", line, re.I)
    ]
    outside = [line for line in kept if line not in lines and '"""' not in line]
    assert len(kept) > 120
    assert [line for line in outside if line.startswith((" ", "def", "class", "@"))] == []


BUILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import test_flatten_cases as t
root = Path(sys.argv[3])
for name in sys.argv[4:]:
    case = t.BY_NAME[name]
    source = t.write_case(case, root / name)
    for form in t.FORMS:
        try:
            t.build(case, source, root / f"{name}.{form}")
        except Exception:
            pass
"""


def assert_same_bytes(names: list[str], tmp_path: Path):
    """Builds with two hash seeds in two folders, in two processes."""
    roots = [tmp_path / "one", tmp_path / "another" / "deep er"]
    processes = []
    for seed, root in zip(("1", "77"), roots, strict=True):
        root.mkdir(parents=True)
        command = [sys.executable, "-c", BUILD, str(HERE.parent), str(HERE), str(root), *names]
        processes.append(subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=root))
    assert [process.wait() for process in processes] == [0, 0]
    one, another = ({path.name: path.read_bytes() for path in root.glob("*.*") if path.is_file()} for root in roots)
    assert one.keys() == another.keys()
    assert [name for name in one if one[name] != another[name]] == []
    return one


def test_another_folder_and_hash_seed_give_the_same_bytes(tmp_path):
    assert {"station.py", "station.ipynb"} <= assert_same_bytes(["station"], tmp_path).keys()


@pytest.mark.slow
def test_another_folder_and_hash_seed_give_the_same_bytes_for_every_case(tmp_path):
    assert assert_same_bytes([case.name for case in CASES if sys.version_info >= case.needs], tmp_path)


def test_the_output_does_not_name_the_folder_of_its_build(station):
    assert str(station.parent) not in station.read_text(encoding="utf-8")
