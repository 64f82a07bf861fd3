"""Deaths and full disks in this process: at the n-th change of a file, or at the n-th request.

A killed process changes nothing any more, so after a `Killed` nothing in the block can be written, renamed or removed,
by `finally` or otherwise. What a lock held is let go, as the system does.
"""

import builtins
import contextlib
import errno
import io
import os


class Killed(BaseException):
    """The process has died here."""


class Trap:
    """What happens at the `at`-th point of a block; 0: nothing.

    Attributes:
        kind: "kill" (before the change), "kill_after", or "full": from then on nothing can be written.
        count: of the points that were reached.
        sprung: whether it has happened.
    """

    def __init__(self, at=0, kind="kill"):
        self.at, self.kind, self.count, self.sprung = at, kind, 0, False

    @property
    def dead(self):
        return self.sprung and self.kind != "full"

    def reach(self, act, writes=False):
        """Does something at one of the points."""
        if self.dead:
            raise Killed
        self.count += 1
        if self.at and self.count >= self.at and (self.kind != "full" or writes):
            self.sprung = True
            if self.kind == "kill_after":
                opened = act()
                if opened is not None and hasattr(opened, "close"):
                    opened.close()
            if self.kind != "full":
                raise Killed
        if self.sprung and writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return act()

    @contextlib.contextmanager
    def set(self):
        """Within the block every change of a file is a point."""
        names = {"replace": True, "rename": True, "mkdir": True, "link": True, "fsync": True}
        names |= {"unlink": False, "remove": False, "rmdir": False}
        real = {name: getattr(os, name) for name in names}
        calls = real | {"fsync": lambda handle: None}  # no power cut is played here, and it takes milliseconds
        opening = builtins.open

        def wrapped(name, writes):
            return lambda *words, **named: self.reach(lambda: calls[name](*words, **named), writes)

        def opened(file, mode="r", *words, **named):
            if set(mode) & set("wax+") and isinstance(file, str | os.PathLike):
                if self.sprung and self.kind == "full" and "w" in mode:
                    opening(file, mode, *words, **named).close()  # its name has room, its content has not
                return self.reach(lambda: opening(file, mode, *words, **named), writes=True)
            return opening(file, mode, *words, **named)

        for name, writes in names.items():
            setattr(os, name, wrapped(name, writes))
        builtins.open = io.open = opened
        try:
            yield self
        finally:
            builtins.open = io.open = opening
            for name, function in real.items():
                setattr(os, name, function)
