"""`tokenfleet report` writes the report of one run.

Exit codes: 0 written, 2 bad input or a file that cannot be written.
"""

import sys
from pathlib import Path

from common.flags import FlagError
from common.standard_streams import open_standard_streams
from common.text import one_line, print_table
from sut.log_files import REPORT
from sut.results.report.config import ReportConfig, parse
from sut.results.report.run_report import write_report

WRITTEN, BAD_INPUT = 0, 2
"""Exit codes."""


def main(argv: list[str]) -> int:
    """Write one report and return the exit code."""
    open_standard_streams()
    try:
        run_dir, config = parse(argv)
        page = config.output or run_dir / REPORT
        _check_own(page, run_dir)
        _check_free(page, config)
        write_report(run_dir, page, config.plots)
    except (ValueError, OSError) as error:
        print(f"report: {one_line(str(error))}", file=sys.stderr)
        return BAD_INPUT
    print_table(str(page))
    return WRITTEN


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
