"""What lets `asyncio.run` work in a notebook, whose cells run inside of an event loop."""

import ast
from collections.abc import Iterable

from flattener.facts import Facts
from flattener.source import words

LIBRARIES = words("""
    aiohttp aiofiles anyio asyncer asyncio asyncpg discord grpclib httpx hypercorn playwright pyrogram sanic telegram
    telethon tornado uvicorn uvloop websockets
""")
# They start an event loop, or ask whether one runs.
STARTERS = words("""
    run run_until_complete run_forever Runner run_app run_polling run_sync serve start sync_playwright
    IsolatedAsyncioTestCase get_running_loop get_event_loop
""")
HELPER = '''
def let_cells_start_event_loops():
    """Lets the cells below start event loops, as a script may; it hides the one that a notebook's cells run in."""
    import asyncio

    from IPython import get_ipython

    shell, loop, hidden = get_ipython(), asyncio.new_event_loop(), []

    def hide_running_loop(info):
        if not shell.should_run_async(info.raw_cell, transformed_cell=shell.transform_cell(info.raw_cell)):
            hidden.append(asyncio._get_running_loop())
            asyncio._set_running_loop(None)
            asyncio.set_event_loop(loop)

    def show_running_loop(result):
        if hidden:
            asyncio._set_running_loop(hidden[-1])
            asyncio.set_event_loop(hidden.pop())

    shell.events.register("pre_run_cell", hide_running_loop)
    shell.events.register("post_run_cell", show_running_loop)


let_cells_start_event_loops()
del let_cells_start_event_loops
'''


def starts_event_loops(facts: Iterable[Facts]) -> bool:
    """Whether a program may start an event loop, or ask for the one that runs, by the facts of its modules."""
    found = list(facts)
    imported = {alias.name for each in found for node in each.imports for alias in node.names}
    imported |= {node.module or "" for each in found for node in each.imports if isinstance(node, ast.ImportFrom)}
    used = {name.partition(".")[0] for name in imported} & LIBRARIES
    return bool(used) and any(STARTERS & set(each.words) for each in found)
