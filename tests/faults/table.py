"""The table of fault cases and their outcomes, written to the directory in FAULTS_TABLE."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = {
    "case": "case",
    "mode": "mode",
    "outcome": "outcome",
    "code": "exit",
    "detect_s": "detected, s",
    "continued": "continued",
    "kept": "kept",
    "resent": "resent",
}
"""Columns of faults.md; faults.json also has the reasons, under `happened`."""


@dataclass
class Table:
    """Rows of all cases of a session."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: str, run: Any, code: int, injected_ns: int | None = None) -> None:
        """Add a row.

        Args:
            case: What was done to the run.
            run: A runs.Run that has ended.
            code: Its exit code.
            injected_ns: When, CLOCK_MONOTONIC; None: nothing that a loss could be timed against.
        """
        found = run.json
        summary = found["summary"] or {}
        losses = summary.get("losses", [])
        detect_s = [] if injected_ns is None else [(loss["at_ns"] - injected_ns) / 1e9 for loss in losses]
        happened = [loss["reason"] for loss in losses]
        if found["verdict"]["reason"]:
            happened.append(f"run: {found['verdict']['reason']}")
        self.rows.append(
            {
                "case": case,
                "mode": run.mode,
                "outcome": found["verdict"]["outcome"],
                "code": code,
                "detect_s": [round(s, 3) for s in detect_s],
                "continued": len(summary.get("continuations", [])),
                "kept": sum(loss["kept_tokens"] for loss in losses),
                "resent": sum(loss["resent_tokens"] for loss in losses),
                "happened": happened,
            }
        )

    def note(self, case: str, **cells: Any) -> None:
        """Add a row that summarizes several runs; `cells` uses the keys of COLUMNS."""
        self.rows.append(dict.fromkeys(COLUMNS, "") | {"case": case} | cells)

    def write(self, directory: Path) -> None:
        """Write faults.json and faults.md."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "faults.json").write_text(json.dumps(self.rows, indent=1) + "\n")
        lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
        lines += ["| " + " | ".join(_cell(row[key]) for key in COLUMNS) + " |" for row in self.rows]
        (directory / "faults.md").write_text("\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "/").replace("\n", " ")
