"""Why vLLM fails, on one line: its other processes log it, and tell the front end only that it is so."""

import copy
import json
import logging
import os
import re
import tempfile
from pathlib import Path

VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
_FILE = "causes"


def one_line(error: BaseException) -> str:
    """Put vLLM's message on one line, without pydantic's headings, echo of the input and web address."""
    lines = [line.split(" [type=")[0].strip() for line in str(error).splitlines()]
    kept = " ".join(line for line in lines if not line.startswith("For further information"))
    message = re.sub(r"\d+ validation errors? for \w+|Value error, ", "", kept)
    return " ".join(message.split()) or type(error).__name__


def with_kind(error: BaseException) -> str:
    """Put an error's kind before its message, on one line."""
    kind, message = type(error).__name__, one_line(error)
    return kind if message == kind else f"{kind}: {message}"


class CauseHandler(logging.Handler):
    """Appends each logged exception to a file, on a line of its own; lives in vLLM's processes."""

    def __init__(self, path: str) -> None:
        """Write to this file."""
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's exception, where it has one."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        try:
            with Path(self._path).open("a", encoding="utf-8") as file:
                file.write(f"{with_kind(error)}\n")
        except OSError:
            self.handleError(record)


class Causes:
    """What the processes of one engine logged as exceptions; nothing where the user configures vLLM's log."""

    def __init__(self, is_local: bool) -> None:
        """Have processes that vLLM starts from here on write their exceptions down.

        Args:
            is_local: All of them are on this machine; on another one vLLM would not find the file, and fail.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="tokenfleet-vllm-")
        self._path = Path(self._directory.name) / _FILE
        self._config = str(Path(self._directory.name) / "logging.json")
        is_users = VARIABLE in os.environ or os.environ.get("VLLM_CONFIGURE_LOGGING", "1") == "0"
        if is_local and not is_users:
            self._install()

    def _install(self) -> None:
        from vllm.logger import DEFAULT_LOGGING_CONFIG

        config = copy.deepcopy(DEFAULT_LOGGING_CONFIG)
        name = f"{__name__}.{CauseHandler.__name__}"
        config["handlers"]["causes"] = {"class": name, "path": str(self._path)}
        config["loggers"]["vllm"]["handlers"].append("causes")
        Path(self._config).write_text(json.dumps(config), encoding="utf-8")
        os.environ[VARIABLE] = self._config

    def start_over(self) -> None:
        """Let go of what was logged while the engine started; later processes are not its own."""
        self._give_back()
        self._path.unlink(missing_ok=True)

    def first(self) -> str:
        """Read what was logged first, the rest follows from it; empty where nothing was."""
        try:
            with self._path.open(encoding="utf-8") as file:
                return file.readline().rstrip("\n")
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Remove the file."""
        self._give_back()
        self._directory.cleanup()

    def _give_back(self) -> None:
        if os.environ.get(VARIABLE) == self._config:
            del os.environ[VARIABLE]
