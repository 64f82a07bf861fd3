"""What a kernel says of its run: the line that names it, and a manifest of the files that it has left.

A kernel that does so by itself stays as it is; any other gets these cells, so that its output can be checked when it is
fetched.
"""

import re
from collections.abc import Collection

from flattener.cells import FOLDED, Cell, code
from flattener.lines import Line
from flattener.source import python_literal

RUN_LINE = 'RUN_ID = ""  # what this run is called; empty: the time of its start'
START = '''
def start_manifest(run_id, kernel):
    """Writes manifest.json for a run that stops early; returns what writes that of a run that has reached its end."""
    import atexit, hashlib, json, os, pathlib, time

    folder, owner = pathlib.Path.cwd(), os.getpid()
    run_id = run_id or time.strftime(f"{kernel}-%Y%m%d-%H%M%S", time.gmtime())

    def write_manifest(finished=False):
        files = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            hidden = any(part[0] in "._" for part in name.split("/"))  # such as Kaggle adds
            if path.is_file() and not hidden and name != "manifest.json":
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                files[name] = {"bytes": path.stat().st_size, "sha256": digest}
        manifest = {"run_id": run_id, "kernel": kernel, "finished": finished, "config": {}, "files": files}
        text = json.dumps(manifest, indent=1) + "\\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")
        if finished:
            atexit.unregister(leave_manifest)
        return manifest

    def leave_manifest():
        if os.getpid() == owner:  # no other process that the program starts
            write_manifest()

    atexit.register(leave_manifest)
    write_manifest()
    return write_manifest


write_manifest = start_manifest(RUN_ID, KERNEL)
'''
END = """
manifest = write_manifest(finished=True)
print("run", manifest["run_id"])
for name, entry in manifest["files"].items():
    print(f"{entry['sha256']}  {entry['bytes']:,} bytes  {name}")
"""


def writes_manifest(words: Collection[str], settings: Collection[str]) -> bool:
    """Whether a kernel names its run and writes the manifest by itself, by the entry's words and its settings."""
    return "RUN_ID" in settings and any("manifest" in word.lower() for word in words)


def with_run_line(settings: Cell | None) -> Cell:
    """The settings cell, or one that is made, with a line for the run's name."""
    lines = [*settings.lines, Line(RUN_LINE)] if settings else [Line(RUN_LINE)]
    return Cell("code", "cell-settings", lines, ["parameters"])


def manifest_cells(kernel: str, words: Collection[str], form: str) -> tuple[Cell, Cell]:
    """The cell at the start of a run and the one at its end, which write its manifest.

    Args:
        kernel: its name.
        words: the names of the program, which the cells must not take.
        form: of the output; in a script they are for the main process, not for those that it starts.
    """
    names = {name: name for name in ("start_manifest", "write_manifest", "manifest")}
    for name in names:
        while names[name] in words:
            names[name] += "_of_run"
    found = re.compile(r"\b(start_manifest|write_manifest|manifest)\b(?!\.json|\w*\"\"\")")
    start, end = (found.sub(lambda part: names[part[0]], text).strip("\n") for text in (START, END))
    start = start.replace("KERNEL)", f"{python_literal(kernel)})")
    if form == "script":
        call = re.compile(r"\n(?=\w+ = start_manifest)")
        start = call.sub('\nif __name__ == "__main__":\n    ', start)
        end = 'if __name__ == "__main__":\n' + re.sub("(?m)^", "    ", end)
    first = code("cell-manifest", start.split("\n"), metadata=FOLDED)
    return first, code("cell-manifest-end", end.split("\n"))
