"""A watchdog that watches nothing: the launcher stops SGLang's."""


class SubprocessWatchdog:
    """See SGLang."""

    def stop(self) -> None:
        """Do nothing."""
