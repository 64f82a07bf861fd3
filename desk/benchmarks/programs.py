"""Groups `start` and `flattening`: whole processes, as a user starts them."""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

from desk.benchmarks.peers import PeerProcess, peer_python
from desk.benchmarks.timing import Comparison, Contender
from desk.errors import LocalRunError
from desk.paths import BUILD, ROOT

KERNELS = ("train", "predict", "search")
LINES = 20_000  # of the program that is flattened


def start_group(peers: PeerProcess, quick: bool) -> list[Comparison]:
    """What a user waits for before anything begins. The unit is a start; more a second is better."""
    verbs = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
    shown = verbs[:1] if quick else verbs
    found = [
        lone("import salt", run(sys.executable, "-c", "import salt")),
        *(lone(f"scripts/{verb}.py --help", run(sys.executable, f"scripts/{verb}.py", "--help")) for verb in shown),
    ]
    return found + [
        lone("build_kernel.py train", run(sys.executable, "build_kernel.py", "train")),
        lone(f"build_kernel.py {' '.join(KERNELS)}", run(sys.executable, "build_kernel.py", *KERNELS)),
    ]


def flattening_group(peers: PeerProcess, quick: bool) -> list[Comparison]:
    """A program of 20,000 lines, and a half of it: ours beside cribo and stickytape, which bundle and analyse less."""
    found = []
    for lines in (200,) if quick else (LINES // 2, LINES):
        folder = written_program(lines)
        out = folder / "out.py"
        ours = run(sys.executable, "build_kernel.py", "--entry", str(folder / "main.py"), "--out", str(out))
        python = peer_python()
        others = [
            ("cribo", [str(python.with_name("cribo")), "--entry", "main.py", "--output", "cribo.py"]),
            ("stickytape", [str(python.with_name("stickytape")), "main.py", "--output-file", "sticky.py"]),
        ]
        contenders = [Contender(name, lines, run(*command, folder=folder)) for name, command in others]
        found.append(Comparison(f"flatten {lines:,} lines", "line", Contender("salt", lines, ours), contenders))
    return found


def lone(name: str, *calls: Callable[[], float]) -> Comparison:
    """A comparison without peers."""
    return Comparison(name, "start", Contender("salt", 1, lambda: sum(call() for call in calls)))


def run(*command: str, folder: pathlib.Path = ROOT) -> Callable[[], float]:
    """A call of `Contender` that runs a command.

    Raises:
        LocalRunError: it fails; with what it printed last.
    """

    def call() -> float:
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise LocalRunError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-2000:]}")
        return seconds

    return call


def written_program(lines: int) -> pathlib.Path:
    """The folder of a program with so many lines: modules of functions that call those of the module before.

    Its entry is `main.py`, its package `parts`; it prints one number.
    """
    folder = BUILD / "benchmark" / f"program-{lines}"
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    (folder / "parts" / "__init__.py").touch()
    modules = max(1, lines // 500)
    for number in range(modules):
        text = [f'"""Part {number}."""', ""]
        text += [f"from parts.part{number - 1} import step{number - 1}_0"] if number else []
        for function in range(lines // modules // 10):
            before = f"step{number}_{function - 1}" if function else f"step{number - 1}_0" if number else "abs"
            text += [
                "", "", f"def step{number}_{function}(value):", f'    """Step {function} of part {number}."""',
                "    total = 0", "    for index in range(3):", "        total += index * value",
                "    if total > 1000:", f"        return {before}(1)", f"    return total % {7 + function}",
            ]  # fmt: skip
        names = ", ".join(f"step{number}_{function}" for function in range(lines // modules // 10))
        text += ["", "", f"ALL_{number} = [{names}]", ""]
        write_if_changed(folder / "parts" / f"part{number}.py", "\n".join(text))
    imports = [f"from parts.part{number} import ALL_{number}" for number in range(modules)]
    sums = " + ".join(f"sum(step(5) for step in ALL_{number})" for number in range(modules))
    write_if_changed(folder / "main.py", "\n".join([*imports, "", f"print({sums})", ""]))
    return folder


def write_if_changed(path: pathlib.Path, text: str) -> None:
    """Writes a file unless it has this text already."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        half = path.with_name(f"{path.name}.half")
        half.write_text(text, encoding="utf-8")
        os.replace(half, path)
