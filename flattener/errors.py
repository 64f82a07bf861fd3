"""The error of a build that cannot go on."""


class BuildError(Exception):
    """The build cannot go on; the message names the file and line, the reason and the remedy.

    Attributes:
        blame: the module that cannot be flat, if the modules style can do what the flat style cannot; else None.
    """

    def __init__(self, where: str, reason: str, remedy: str) -> None:
        """Makes the message.

        Args:
            where: the file and the line, `pkg/a.py:3`, or the option and its value, `--out flat.txt`.
            reason: what is wrong there.
            remedy: what to do about it, as an order: "name one of these".
        """
        super().__init__(f"{where}: {reason}. Remedy: {remedy}.")
        self.blame: str | None = None
