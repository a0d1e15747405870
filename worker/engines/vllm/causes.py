"""Root causes of vLLM failures, which vLLM's processes log but do not report to the front end.

Messages are shortened for display; no decision depends on their text.
"""

import copy
import json
import logging
import os
import re
from pathlib import Path

from worker.machine.locked_directory import LockedDirectory

VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
_FILE = "causes"


def one_line(error: BaseException) -> str:
    """Return vLLM's message on one line, without pydantic's headings, input values and URLs."""
    lines = [line.split(" [type=")[0].strip() for line in str(error).splitlines()]
    kept = " ".join(line for line in lines if not line.startswith("For further information"))
    message = re.sub(r"\d+ validation errors? for \w+|Value error, ", "", kept)
    return " ".join(message.split()) or type(error).__name__


def with_type(error: BaseException) -> str:
    """Return an error's type and message on one line."""
    kind, message = type(error).__name__, one_line(error)
    return kind if message == kind else f"{kind}: {message}"


class CauseHandler(logging.Handler):
    """Appends each logged exception to a file, one per line; runs in vLLM's processes."""

    def __init__(self, path: str) -> None:
        """Create a handler that appends to a file."""
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Append the exception of a record, if it has one."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        try:
            with Path(self._path).open("a", encoding="utf-8") as file:
                file.write(f"{with_type(error)}\n")
        except OSError:
            self.handleError(record)


class CauseLog:
    """Exceptions logged by the processes of one engine; stays empty if the user configures vLLM's logging."""

    def __init__(self, is_local: bool) -> None:
        """Make processes that vLLM starts from now on log their exceptions to a temporary file.

        Args:
            is_local: All of vLLM's processes run on this machine. On another one vLLM would not find the
                logging configuration and fail.
        """
        self._directory = LockedDirectory()
        self._path = self._directory.path / _FILE
        self._config = str(self._directory.path / "logging.json")
        is_users = VARIABLE in os.environ or os.environ.get("VLLM_CONFIGURE_LOGGING", "1") == "0"
        if is_local and not is_users:
            self._install()

    def _install(self) -> None:
        from vllm import envs
        from vllm.logger import DEFAULT_LOGGING_CONFIG

        config = copy.deepcopy(DEFAULT_LOGGING_CONFIG)
        # vLLM has read the variable when it was imported, perhaps before the worker set it.
        config["handlers"]["vllm"]["stream"] = envs.VLLM_LOGGING_STREAM
        name = f"{__name__}.{CauseHandler.__name__}"
        config["handlers"]["causes"] = {"class": name, "path": str(self._path)}
        config["loggers"]["vllm"]["handlers"].append("causes")
        Path(self._config).write_text(json.dumps(config), encoding="utf-8")
        os.environ[VARIABLE] = self._config

    def clear(self) -> None:
        """Delete causes logged during start-up; processes started later log no causes."""
        self._restore_environment()
        self._path.unlink(missing_ok=True)

    def first(self) -> str | None:
        """Return the first logged exception, which causes the later ones; None if none was logged."""
        try:
            with self._path.open(encoding="utf-8") as file:
                return file.readline().rstrip("\n") or None
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Remove the file."""
        self._restore_environment()
        self._directory.close()

    def _restore_environment(self) -> None:
        if os.environ.get(VARIABLE) == self._config:
            del os.environ[VARIABLE]
