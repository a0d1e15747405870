"""--overwrite replaces what a run wrote, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.flags import FlagError
from coordinator.recording.run_dir import check_free

# Every file that any run leaves, however it ends.
OWN = [
    "run.json",
    "user.conf",
    "audit.config",
    ".reserved",
    "run.json.partial",
    "outputs.arrows",
    "partial_outputs.parquet",
    "partial_outputs.parquet.partial",
    "requests.parquet",
    "requests.jsonl",
    "requests_summary.csv",
    "requests.parquet.partial",
    "timeline.parquet",
    "timeline.parquet.partial",
    "mlperf_log_summary.txt",
    "mlperf_log_detail.txt",
    "mlperf_log_accuracy.json",
    "mlperf_log_trace.json",
    "rejected_mlperf_log_summary.txt",
    "rejected_mlperf_log_detail.txt",
    "rejected_mlperf_log_accuracy.json",
    "rejected_mlperf_log_trace.json",
]
RECORD = '{\n "run_id": "offline-performance-0123abcd",\n "scenario": "offline"\n}\n'


def make_run(directory: Path) -> Path:
    """Make the directory of an earlier run."""
    directory.mkdir()
    for name in OWN:
        (directory / name).write_text(RECORD if name == "run.json" else "")
    return directory


@pytest.mark.parametrize("make", [make_run, Path.mkdir])
def test_run_directory_and_empty_directory_are_replaced(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    """Nothing is lost by either; without --overwrite both are refused."""
    directory = tmp_path / "performance"
    make(directory)
    check_free(directory, overwrite=True)
    with pytest.raises(FlagError, match="exists; --overwrite replaces it"):
        check_free(directory, overwrite=False)


def add_file(directory: Path) -> str:
    """Add a file of the user's."""
    (directory / "notes.txt").write_text("mine")
    return "it holds 'notes.txt'"


def add_folder(directory: Path) -> str:
    """Add a folder under the name of a run's file."""
    (directory / "outputs.arrows").unlink()
    (directory / "outputs.arrows").mkdir()
    return "it holds 'outputs.arrows'"


def add_link(directory: Path) -> str:
    """Add a link under the name of a run's file."""
    (directory / "user.conf").unlink()
    (directory / "user.conf").symlink_to(directory / "run.json")
    return "it holds 'user.conf'"


def remove_record(directory: Path) -> str:
    """Remove run.json."""
    (directory / "run.json").unlink()
    return "it holds no run.json of a run"


def replace_record(directory: Path) -> str:
    """Put another program's run.json in the place of ours."""
    (directory / "run.json").write_text('{"id": 7, "run_id": "x"}')
    return "it holds no run.json of a run"


@pytest.mark.parametrize("change", [add_file, add_folder, add_link, remove_record, replace_record])
def test_what_no_run_wrote_is_refused(tmp_path: Path, change: Callable[[Path], str]) -> None:
    """One line names the path and what is not ours; nothing is removed."""
    directory = make_run(tmp_path / "performance")
    reason = change(directory)
    before = sorted(directory.rglob("*"))
    with pytest.raises(FlagError) as refused:
        check_free(directory, overwrite=True)
    line = f"--output-dir: {directory} was not written by a run, and --overwrite replaces nothing else: "
    assert line + reason == str(refused.value)
    assert before == sorted(directory.rglob("*"))


def test_file_and_link_in_place_of_the_directory_are_refused(tmp_path: Path) -> None:
    """A link to a run's directory is not replaced either: its target would stay, without a name."""
    run = make_run(tmp_path / "run")
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(run)
    file.write_text("mine")
    for path in (link, file):
        with pytest.raises(FlagError, match="it is not a directory"):
            check_free(path, overwrite=True)
