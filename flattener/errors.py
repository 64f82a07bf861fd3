"""The error of a build that cannot go on."""


class BuildError(Exception):
    """The build cannot go on; the message names the file, the line, the reason and the remedy.

    Attributes:
        blame: the module that cannot be flat, if the modules style can do what the flat style cannot; else None.
    """

    blame: str | None = None
