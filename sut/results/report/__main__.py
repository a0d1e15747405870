"""`tokenfleet report` writes the report of one run.

Exit codes: 0 written, 2 bad input or a file that cannot be written.
"""

import sys
from pathlib import Path

from common.command_exit import run_command
from common.flags import FlagError
from common.text import print_table
from sut.log_files import REPORT
from sut.results.report.config import ReportConfig, parse
from sut.results.report.run_report import write_report


def main(argv: list[str]) -> int:
    """Write one report and return the exit code."""
    return run_command("report", _report, argv)


def _report(argv: list[str]) -> int:
    run_dir, config = parse(argv)
    page = config.output or run_dir / REPORT
    _check_own(page, run_dir)
    _check_free(page, config)
    write_report(run_dir, page, config.plots)
    print_table(str(page))
    return 0


def _check_own(page: Path, run_dir: Path) -> None:
    """Refuse to replace the run's own files, also with --overwrite.

    Raises:
        FlagError: Names the file.
    """
    if page.suffix != ".html" and page.parent.resolve() == run_dir.resolve():
        raise FlagError("--output", "must end with .html in the run's own directory", page)


def _check_free(page: Path, config: ReportConfig) -> None:
    """Refuse to replace files without --overwrite.

    Raises:
        FlagError: Names the file or the directory.
    """
    if config.overwrite:
        return
    if page.exists():
        raise FlagError("--output", "exists; --overwrite replaces it", page)
    if config.plots is not None and config.plots.exists() and any(config.plots.iterdir()):
        raise FlagError("--plots", "is not empty; --overwrite replaces plots in it", config.plots)


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m sut.results.report"
    sys.exit(main(sys.argv[1:]))
