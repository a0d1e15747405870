"""The `tokenfleet` command, with one subcommand per program of this project.

A subcommand imports only its program's modules: worker nodes need no LoadGen, coordinators need no vLLM.
Exit codes: those of the program; 2 for an unknown subcommand.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# This module imports only the standard library until it has corrected sys.path.
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
USAGE = "usage: tokenfleet SUBCOMMAND [FLAG...]; tokenfleet SUBCOMMAND --help lists the flags"


class Subcommand(NamedTuple):
    """A program that a subcommand runs."""

    run: Callable[[list[str]], int]
    """Runs the program with arguments and returns its exit code."""
    summary: str
    leaves: bool = False
    """Whether the process ends without interpreter shutdown, because of threads or libraries in it."""


def _worker(argv: list[str]) -> int:
    from worker.__main__ import main

    return main(argv)


def _run(argv: list[str]) -> int:
    from coordinator.__main__ import main

    return main(argv)


def _doctor(argv: list[str]) -> int:
    from coordinator.__main__ import main

    # The coordinator's usage line adds "doctor".
    sys.argv[0] = "tokenfleet"
    return main(["doctor", *argv])


def _probe(argv: list[str]) -> int:
    from worker.probe import main

    return main(argv, os.environ)


def _checkpoint_hash(argv: list[str]) -> int:
    from worker.checkpoint_hash import main

    return main(argv)


def _accuracy(argv: list[str]) -> int:
    from sut.results.accuracy.__main__ import main

    return main(argv)


def _compliance(argv: list[str]) -> int:
    from sut.results.compliance.__main__ import main

    return main(argv)


def _submission(argv: list[str]) -> int:
    from sut.results.submission.submission_command import main

    return main(argv)


def _local(argv: list[str]) -> int:
    from tokenfleet.local_run import main

    return main(argv)


def _campaign(argv: list[str]) -> int:
    from tokenfleet.campaign.campaign import main

    return main(argv)


def _synthetic(argv: list[str]) -> int:
    from sut.synthetic import main

    return main(argv)


def _qualify(argv: list[str]) -> int:
    from tokenfleet.qualify.first_contact import main

    return main(argv)


def _find_qps(argv: list[str]) -> int:
    from tokenfleet.find_qps.find_qps import main

    return main(argv)


def _network_sut(argv: list[str]) -> int:
    from tokenfleet.network.sut_program import main

    return main(argv)


def _report(argv: list[str]) -> int:
    if argv[:1] == ["compare"]:
        from sut.results.comparison.compare_command import main as compare

        # The usage line names both words.
        sys.argv[0] = "tokenfleet report compare"
        return compare(argv[1:])
    from sut.results.report.__main__ import main

    return main(argv)


def _spans(argv: list[str]) -> int:
    from tokenfleet.spans.spans_command import main

    return main(argv)


def _plan(argv: list[str]) -> int:
    from tokenfleet.plan.plan_command import main

    return main(argv)


SUBCOMMANDS = {
    "worker": Subcommand(_worker, "serve the model on this node, with one replica or several", leaves=True),
    "run": Subcommand(_run, "run LoadGen against workers once (the coordinator)", leaves=True),
    "doctor": Subcommand(_doctor, "check workers, files and this machine before a run", leaves=True),
    "probe": Subcommand(_probe, "query a worker's health once", leaves=True),
    "checkpoint-hash": Subcommand(_checkpoint_hash, "hash a checkpoint's weights completely, once"),
    "local": Subcommand(_local, "start workers on this machine, run LoadGen against them, stop them"),
    "accuracy": Subcommand(_accuracy, "score an accuracy log as the official evaluator does"),
    "compliance": Subcommand(_compliance, "decide TEST07 or TEST09 of a run that exists"),
    "submission": Subcommand(_submission, "check the runs of a submission and lay out its tree"),
    "campaign": Subcommand(_campaign, "carry out all runs of a submission, as a plan says", leaves=True),
    "qualify": Subcommand(
        _qualify, "check weights, data, tokens and projected score of a new system", leaves=True
    ),
    "report": Subcommand(_report, "write the report of a run, or compare repeated runs (report compare)"),
    "spans": Subcommand(_spans, "export requests of a run as OpenTelemetry spans"),
    "find-qps": Subcommand(_find_qps, "find the highest target_qps that LoadGen calls VALID", leaves=True),
    "plan": Subcommand(_plan, "measure this host and tell what its coordinator can carry"),
    "network-sut": Subcommand(
        _network_sut, "serve a fleet of workers to LoadGen's node (Network division)", leaves=True
    ),
    "synthetic": Subcommand(_synthetic, "write synthetic data, answers or a tiny checkpoint"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that the command line names and return its exit code."""
    # A module of the current directory could still be taken for one of ours.
    _search_current_directory_last()
    from common.standard_streams import leave, open_standard_streams

    open_standard_streams()
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        return _print(_help())
    if name == "--version":
        return _print(f"tokenfleet {_version()}")
    if name not in SUBCOMMANDS:
        what = f"{name!r} is not a subcommand" if name else "the subcommand is missing"
        known = ", ".join(SUBCOMMANDS)
        sys.stderr.write(f"tokenfleet: {what}; subcommands: {known} (see tokenfleet --help)\n")
        return 2
    # Program name in the usage line.
    sys.argv = [f"tokenfleet {name}", *rest]
    try:
        code = SUBCOMMANDS[name].run(rest)
    except KeyboardInterrupt:
        # Interrupted while the program's modules were being imported.
        sys.stderr.write("tokenfleet: interrupted\n")
        return 130
    if SUBCOMMANDS[name].leaves:
        leave(code)
    return code


def _search_current_directory_last() -> None:
    """Keep modules in the current directory from shadowing this project's, also in child interpreters."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    if _is_current(str(PACKAGE_ROOT)):
        return
    current = [entry for entry in sys.path if _is_current(entry)]
    sys.path[:] = [entry for entry in sys.path if entry not in current] + current


def _is_current(entry: str) -> bool:
    """Return whether an entry of sys.path is the current directory."""
    try:
        return os.path.samefile(entry or ".", ".")
    except OSError:
        return False


def _help() -> str:
    lines = [f"  {name:<15} {subcommand.summary}" for name, subcommand in SUBCOMMANDS.items()]
    return "\n".join(
        [USAGE, "", *lines, "", "  --version  print the version", "  --help     print this text"]
    )


def _version() -> str:
    """Return the installed version, or a text if this checkout is not installed."""
    try:
        return metadata.version("tokenfleet")
    except metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def _print(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return 0
