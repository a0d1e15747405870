"""The tables of columns on the pages are the columns of the files that the programs write."""

import csv
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.recording.arrow_files import PARTIAL_SCHEMA, STREAM_SCHEMA
from coordinator.scheduling.network_audit import AUDIT_NAME, NetworkAudit
from tests import fleet
from tests.forked import completed
from tokenfleet.find_qps.rate_sweep import SweepRow
from tokenfleet.local_run import main

DOCS = Path(__file__).resolve().parent.parent / "docs"


def section(page: str, heading: str) -> str:
    """Return the text below a heading of a page, up to the next one."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]


def table(page: str, heading: str) -> dict[str, str]:
    """Read two columns of the first table; a row may name several columns, of one type or several."""
    found: dict[str, str] = {}
    rows = section(page, heading).partition("\n| ")[2].partition("\n\n")[0]
    for names, second in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", rows, re.MULTILINE):
        columns, types = re.findall(r"`([\w.]+)`", names), second.split(", ")
        types = types * len(columns) if len(types) == 1 else types
        found |= dict(zip(columns, types, strict=True))
    return found


def schema_of(path: Path) -> dict[str, str]:
    """Map the columns of a parquet file to the pages' names of their types."""
    return {field.name: str(field.type).partition("<")[0] for field in pq.read_schema(path)}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a Server run with the counting engine."""
    directory = tmp_path_factory.mktemp("run")
    prompts = fleet.write_prompts(directory / "data.parquet", fleet.counting_prompts(8))
    conf = fleet.write_conf(directory / "user.conf")
    flags = [
        "--backend",
        "counting",
        "--no-report",
        "--scenario",
        "server",
        "--input-file",
        str(prompts),
        "--user-conf",
        str(conf),
    ]
    done = completed(main, [*flags, "--max-new-tokens", "64", "--output-dir", str(directory / "out")])
    # Files are written whatever the verdict is: 8 samples are too few for VALID on a fast machine.
    assert done.returncode in (0, 3), done.stderr
    return directory / "out" / "server" / "performance"


def test_the_columns_of_the_requests(run_dir: Path) -> None:
    """docs/requests.md has each column of requests.parquet with its type, in order."""
    assert list(table("requests.md", "## Columns").items()) == list(
        schema_of(run_dir / "requests.parquet").items()
    )


def test_the_columns_of_the_timeline(run_dir: Path) -> None:
    """docs/live.md has each column of timeline.parquet with its type."""
    assert table("live.md", "## timeline.parquet") == schema_of(run_dir / "timeline.parquet")


def test_the_lines_and_columns_of_the_summary(run_dir: Path) -> None:
    """docs/requests.md has each column of requests_summary.csv, and each line with its unit."""
    head, *lines = csv.reader((run_dir / "requests_summary.csv").read_text(encoding="utf-8").splitlines())
    columns = section("requests.md", "## Summary").partition("\n\n|")[0]
    assert ["requests_summary.csv", *head] == re.findall(r"`([\w.]+)`", columns)
    units = {line[0]: line[1] for line in lines}
    # Only known where the begin of LoadGen's schedule is.
    assert table("requests.md", "## Summary") == units | {"ttft_lateness": "ns"}


def test_the_columns_of_the_audit(tmp_path: Path) -> None:
    """docs/network.md has each column of network_audit.csv."""
    NetworkAudit().write(tmp_path / AUDIT_NAME)
    columns = (tmp_path / AUDIT_NAME).read_text(encoding="ascii").strip().split(",")
    assert set(columns) < set(re.findall(r"`(\w+)`", section("network.md", "## Audit")))


def test_the_columns_of_a_sweep() -> None:
    """docs/find-qps.md has each column of sweep.csv and sweep.parquet, in order."""
    text = section("find-qps.md", "## A curve of rates").partition("The columns are ")[2].partition(";")[0]
    assert list(SweepRow._fields) == re.findall(r"`(\w+)`", text)


@pytest.mark.parametrize(
    ("file", "schema"), [("partial_outputs.parquet", PARTIAL_SCHEMA), ("outputs.arrows", STREAM_SCHEMA)]
)
def test_the_columns_of_a_failed_run(file: str, schema: pa.Schema) -> None:
    """docs/faults.md has each column of the files of answers."""
    rows = re.findall(
        rf"^\| `{file}` \| (.*) \|$", section("faults.md", "## Files of a run that failed"), re.M
    )
    assert [schema.names] == [re.findall(r"`(\w+)`", row) for row in rows]
