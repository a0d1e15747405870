"""Flags of a program, and how a bad one is refused."""


class FlagError(ValueError):
    """A flag, or a file that it names, cannot be used; one line for the user, exit code 2."""

    def __init__(self, flag: str, reason: str, value: object = None) -> None:
        """Compose the line.

        Args:
            flag: With its dashes, e.g. --workers.
            reason: Names the value and the bound.
            value: What the flag was given, usually a path; None leaves it to the reason.
        """
        super().__init__(f"{flag}: {reason}" if value is None else f"{flag} {value}: {reason}")
        self.flag = flag
        self.reason = reason
