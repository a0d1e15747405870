"""Faults that tests plant in the runs of a submission."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sut.log_files import DETAIL
from tests.sut.submission.small_runs import (
    change_record,
    change_report,
    read_record,
    seal,
    set_entries,
    set_info,
    set_logged,
)

PERFORMANCE = "offline/performance"
Plant = Callable[[Path], object]


def record(run: str, change: Callable[[Any], object]) -> Plant:
    """Plant a change of run.json."""
    return lambda results: change_record(results / run, change)


def logged(run: str, **values: object) -> Plant:
    """Plant values in the detail log."""
    return lambda results: set_logged(results / run, **values)


def report(path: str, **values: object) -> Plant:
    """Plant values in a report beside a run."""
    return lambda results: change_report(results / path, **values)


def text(path: str, content: str) -> Plant:
    """Plant the content of a file."""
    return lambda results: (results / path).write_text(content)


def change_text(path: Path, old: str, new: str) -> None:
    """Change a part of a file."""
    path.write_text(path.read_text().replace(old, new))


def entries(run: str, change: Callable[[list[str]], list[str]]) -> Plant:
    """Plant lines in the accuracy log."""
    return lambda results: set_entries(results / run, change)


def info(run: str, key: str, value: object) -> Plant:
    """Plant what the workers said of themselves."""
    return lambda results: set_info(results / run, key, value)


def removed(path: str) -> Plant:
    """Remove a file or a run."""

    def plant(results: Path) -> None:
        place = results / path
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    return plant


def outcome(value: str, reason: str) -> Callable[[Any], object]:
    """Change the verdict of a run."""
    return lambda record: record["verdict"].update(outcome=value, reason=reason)


def add_error(results: Path) -> None:
    """Let LoadGen have logged an error in a performance run, which the official checker accepts."""
    path = results / PERFORMANCE / DETAIL
    line = path.read_text().splitlines()[-1].removeprefix(":::MLLOG ")
    entry = json.loads(line) | {"key": "error_runtime", "value": "lost"}
    entry["metadata"]["is_error"] = True
    path.write_text(f"{path.read_text()}:::MLLOG {json.dumps(entry)}\n")
    seal(results / PERFORMANCE, DETAIL)


def drop_line(run: str, key: str) -> Plant:
    """Take a line out of the detail log, which run.json then has the hash of."""

    def plant(results: Path) -> None:
        path = results / run / DETAIL
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if f'"key": "{key}"' not in line))
        seal(results / run, DETAIL)

    return plant


def make_fifo(path: str) -> Plant:
    """Put a FIFO, whose reader would wait, in the place of a file."""

    def plant(results: Path) -> None:
        (results / path).unlink()
        os.mkfifo(results / path)

    return plant


def add_line(results: Path) -> None:
    """Edit a log."""
    path = results / PERFORMANCE / DETAIL
    path.write_text(f"{path.read_text()}\n")


def rename_rejected(results: Path) -> None:
    """Give a log the name of one that the verdict has not accepted."""
    path = results / PERFORMANCE / DETAIL
    path.rename(path.with_name(f"rejected_{DETAIL}"))


def copy_run(source: str, target: str) -> Plant:
    """Put a run in the place of another."""

    def plant(results: Path) -> None:
        shutil.rmtree(results / target)
        shutil.copytree(results / source, results / target)

    return plant


def begin_together(results: Path) -> None:
    """Let two runs of one worker last an hour from the same second."""
    began = read_record(results / PERFORMANCE)["started_utc"]
    for name in (PERFORMANCE, "offline/TEST09"):
        change_record(
            results / name, lambda found: found.update(started_utc=began, ready_s=0.0, wall_s=3600.0)
        )


def quote_sample_index(lines: list[str]) -> list[str]:
    """Make a text of the sample index of the first entry."""
    entry = json.loads(lines[1].rstrip(","))
    return [lines[0], f"{json.dumps(entry | {'qsl_idx': str(entry['qsl_idx'])})},", *lines[2:]]


def unlist_last_entry(lines: list[str]) -> list[str]:
    """Leave out the last entry of an accuracy log."""
    return [*lines[:-3], lines[-3].rstrip(","), lines[-1]] if lines[-1] == "]" else lines
