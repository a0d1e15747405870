"""`tokenfleet report compare` over directories of runs."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sut.results.comparison.compare_command import main
from sut.results.comparison.compared_figures import error_rates
from sut.results.comparison.request_rates import rate_before_tail, read_rate_before_tail
from sut.results.timing.requests_file import write_parquet
from tests.full_disk import files_of_at_most
from tests.sut.comparison.run_files import server_record, write_repeats, write_run

# Five repeats in turns; B takes 3 % longer per token, the runs of a side scatter by 0.1 %.
A_MS = [50.00, 50.05, 49.95, 50.00, 50.05]
B_MS = [51.50, 51.55, 51.45, 51.55, 51.50]


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Write five repeats of each side, in turns."""
    return write_repeats(tmp_path / "a", A_MS, 0), write_repeats(tmp_path / "b", B_MS, 1)


def test_a_slowdown_is_more_than_noise(sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A slowdown beyond the noise of the repeats is claimed, with its interval."""
    assert main([str(side) for side in sides]) == 0
    output = capsys.readouterr().out
    assert "== comparison, server performance ==" in output
    assert "B is 3.0 % (2.8 to 3.2) slower than A in TPOT p50: more than noise" in output
    assert "B is 0.0 % (0.0 to 0.0) faster than A in tokens/s: not more than noise" in output


def test_equal_sides_are_not_more_than_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sides with the same figures: no difference is claimed."""
    paths = write_repeats(tmp_path / "a", A_MS, 0), write_repeats(tmp_path / "b", A_MS[::-1], 1)
    assert main([str(path) for path in paths]) == 0
    output = capsys.readouterr().out
    assert "in TPOT p50: not more than noise" in output
    assert ": more than noise" not in output


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"dataset": {"sha256": "b0", "path": "b.parquet"}}, "dataset.sha256"),
        ({"generation": {"max_new_tokens": 16}}, "generation"),
        ({"dataset": {"sha256": "a0", "path": "b.parquet"}}, None),
    ],
)
def test_runs_of_other_work_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], names: str | None
) -> None:
    """Other prompts or a smaller budget make other figures; the same prompts in another place do not."""
    work: dict[str, object] = {"dataset": {"sha256": "a0"}, "generation": {"max_new_tokens": 10240}}
    paths = [
        str(write_run(tmp_path / name, server_record(name, 0, 50.0, **own)))
        for name, own in (("a", work), ("b", work | changes))
    ]
    assert main(paths) == 0
    output = " ".join(capsys.readouterr().out.split())
    if names is None:
        assert "not of the same work" not in output
    else:
        assert f"The runs are not of the same work: {names} differ." in output


def test_one_run_a_side_claims_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run a side: the ratio is shown, no difference is claimed, and the output says why."""
    runs = [
        write_run(tmp_path / name, server_record(name, 0, tpot)) for name, tpot in (("x", 50.0), ("y", 60.0))
    ]
    assert main([str(run) for run in runs]) == 0
    output = capsys.readouterr().out
    assert "TPOT p50: no claim about B against A: a side has one run" in output
    assert "With one run a side the noise between runs is unknown" in output
    assert "1.2000" in output


def test_sides_in_sequence_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All runs of A before those of B: the output says that a drift counts as a difference."""
    paths = write_repeats(tmp_path / "a", A_MS, 0), write_repeats(tmp_path / "b", B_MS, 30)
    assert main([str(path) for path in paths]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "a drift of the machine between them counts as a difference" in output


def test_the_files_hold_what_is_printed(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """--json holds every value and the claims; --html is one page without addresses of other pages."""
    files = [tmp_path / "c.json", tmp_path / "c.html"]
    assert main([*map(str, sides), "--json", str(files[0]), "--html", str(files[1])]) == 0
    found = json.loads(files[0].read_text())
    row = next(row for row in found["figures"] if row["name"] == "TPOT p50")
    assert (True, A_MS, B_MS) == (row["tested"], *(side["values"] for side in row["sides"]))
    # Two fifths of 5 %.
    assert row["sides"][1]["interval"]["confidence"] == pytest.approx(0.98)
    claim = next(claim for claim in found["claims"] if claim["figure"] == "TPOT p50")
    assert claim["is_more_than_noise"] is True
    page = files[1].read_text()
    assert claim["text"] in page
    assert "://" not in page


def test_differences_of_configuration_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Entries of run.json that differ are listed; the directory of the output is not one of them."""
    paths = (
        write_repeats(tmp_path / "a", A_MS, 0),
        write_repeats(tmp_path / "b", B_MS, 1, versions={"tokenfleet": "2"}),
    )
    assert main([str(path) for path in paths]) == 0
    output = capsys.readouterr().out
    assert "1 difference of configuration:" in output
    assert "versions.tokenfleet: A 1; B 2" in output


def test_an_entry_that_an_older_run_does_not_have_is_as_null(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new entry is a difference only where it has a value."""
    older, newer, limited = (
        str(write_run(tmp_path / name, server_record(name, 0, 50.0, host=host)))
        for name, host in (
            ("a", {}),
            ("b", {"cpu_quota_cores": None}),
            ("c", {"cpu_quota_cores": 4.0}),
        )
    )
    assert main([older, newer]) == 0
    assert "cpu_quota_cores" not in capsys.readouterr().out
    assert main([newer, limited]) == 0
    assert "host.cpu_quota_cores: A -; B 4.0" in capsys.readouterr().out


def workers_with(*facts: dict[str, str]) -> dict[str, object]:
    """Make the part of run.json that has the facts of each worker's engine."""
    return {"workers": [{"stream_infos": [{"engine_facts": fact}]} for fact in facts]}


def test_what_a_check_saw_in_some_runs_only_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lost worker in one run may be the difference; a warning of every run is none."""
    always = {"name": "equal_execution", "passed": True, "warning": True}
    lost = {"name": "continuation", "passed": True, "warning": True}
    fine = {"name": "continuation", "passed": True, "warning": False}
    for name, k, check in (("a", 0, fine), ("b", 1, fine), ("b", 3, lost)):
        verdict = {"outcome": "VALID", "checks": [always, check]}
        write_run(tmp_path / name / str(k), server_record(f"{name}{k}", k, 50.0, verdict=verdict))
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    output = capsys.readouterr().out
    assert "The check continuation failed or warned in 0 of 1 runs of A, 1 of 2 runs of B." in output
    assert "equal_execution" not in output


def gpus(num: int) -> dict[str, object]:
    """Return the host of a worker as run.json keeps it."""
    facts = {"driver_version": "570.133.20", "memory_bytes": 150_754_820_096, "max_sm_clock_mhz": 1980}
    return {"hostname": "n", "accelerators": [{"name": "NVIDIA H200", **facts, "num_devices": num}]}


LONG = "[" + "1, " * 60


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ([{"hosts": [gpus(8)]}], [{"hosts": [gpus(4)]}], ("'num_devices': 8}", "'num_devices': 4}")),
        (
            [{"stream_infos": [{"fact": f"{LONG}8]"}]}],
            [{"stream_infos": [{"fact": f"{LONG}9]"}]}],
            ("1, 8]", "1, 9]"),
        ),
        (
            [{"stream_infos": [{"fact": f"v{k}"}]} for k in range(6)],
            [{"stream_infos": [{"fact": f"v{k}"}]} for k in (0, 1, 2, 3, 4, 7)],
            ("v5", "v7"),
        ),
        (
            [{"stream_infos": [{"fact": "x", "own": "1"}]}, {"stream_infos": [{"fact": "x"}]}],
            [{"stream_infos": [{"fact": "x", "own": "1"}]}, {"stream_infos": [{"fact": "x", "own": "1"}]}],
            ("-, 1", "1"),
        ),
    ],
)
def test_a_difference_behind_equal_beginnings_is_listed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    one: list[object],
    other: list[object],
    shown: tuple[str, str],
) -> None:
    """Long values, many workers and a fact of some workers only: what differs is found, and can be seen."""
    summaries = [{"answer_tokens": {"count": 1, "mean": 1.0}, "workers": found} for found in (one, other)]
    a, b = (
        write_repeats(tmp_path / name, [60.0, 61.0], k, summary=summary)
        for k, (name, summary) in enumerate(zip("ab", summaries, strict=True))
    )
    assert main([str(a), str(b)]) == 0
    total, line = capsys.readouterr().out.splitlines()[-2:]
    assert "1 difference of configuration:" in total
    of_a, of_b = line.partition(": A ")[2].split("; B ")
    assert (shown[0] in of_a, shown[1] in of_b) == (True, True)
    assert of_a != of_b


@pytest.mark.parametrize(
    ("facts", "listed"),
    [
        (
            ({"random_weights": '{"device": "cpu"}'}, {"random_weights": '{"method": "even-experts"}'}),
            "A has the engine's own random weights; B has random weights even-experts.",
        ),
        (
            ({"random_weights": "[" * 100_000}, {}),
            "A has the engine's own random weights; B has no random weights.",
        ),
        (
            ({}, {"random_weights": '{"method": "even-experts"}'}),
            "A has no random weights; B has random weights even-experts.",
        ),
        (
            (
                {"random_weights": '{"method": "even-experts", "tp_size": 1}'},
                {"random_weights": '{"method": "even-experts", "tp_size": 2}'},
            ),
            "",
        ),
        (({}, {}), ""),
    ],
)
def test_weights_of_another_kind_are_told(
    tmp_path: Path, facts: tuple[dict[str, str], ...], listed: str
) -> None:
    """Trained weights, the engine's own random ones and ours have rates that do not compare."""
    for name, fact in zip("ab", facts, strict=True):
        record = server_record(name, 0, 50.0)
        write_run(tmp_path / name, record | {"summary": record["summary"] | workers_with(fact, fact)})
    assert main([*(str(tmp_path / name) for name in "ab"), "--json", str(tmp_path / "c.json")]) == 0
    *notes, _ = json.loads((tmp_path / "c.json").read_text())["notes"]
    reason = "The figures must not be compared: the weights decide how many experts a step reads."
    assert notes == ([f"The weights are not of one kind: {listed} {reason}"] if listed else [])


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"scenario": "offline"}, "is offline/performance, but"),
        ({"mode": "accuracy"}, "is server/accuracy, but"),
        ({"verdict": {"outcome": "UNFINISHED"}}, "the run is not complete: UNFINISHED"),
        ({"verdict": {}}, "the run is not complete: no verdict"),
        ({"scenario": "other"}, "is no run.json of tokenfleet"),
        ({"run_id": 7}, "is no run.json of tokenfleet"),
        ({"run_id": "x"}, "is the same run as"),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], reason: str
) -> None:
    """Another scenario or mode, no verdict, a foreign record, a run on both sides: one line, exit code 2."""
    x = write_run(tmp_path / "x", server_record("x", 0, 50.0))
    y = write_run(tmp_path / "y", server_record("y", 1, 50.0) | changes)
    page = tmp_path / "page.html"
    assert main([str(x), str(y), "--html", str(page)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert captured.err.startswith("report compare: RUNS ")
    assert reason in captured.err
    assert not page.exists()


def test_bad_arguments_are_refused(
    sides: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One side, a side twice, no run, a file that is no JSON, an output that exists: exit code 2."""
    a, b = map(str, sides)
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = write_run(tmp_path / "broken", {})
    (broken / "run.json").write_text("{")
    kept = tmp_path / "kept.json"
    kept.write_text("kept")
    same = str(tmp_path / "same")
    calls = (
        [a],
        [a, a],
        [a, str(empty)],
        [a, str(tmp_path / "no")],
        [a, str(broken)],
        [a, b, "--json", str(kept)],
        [a, b, "--json", same, "--html", same],
    )
    assert [main(call) for call in calls] == [2] * len(calls)
    lines = capsys.readouterr().err.splitlines()
    parts = (
        "2 to 8 are compared, not 1",
        "is the same run as",
        "holds no run",
        "is not a directory",
        "is not JSON",
        "exists, and is not overwritten",
        "is also the file of --json",
    )
    assert [part for part, line in zip(parts, lines, strict=True) if part not in line] == []
    assert kept.read_text() == "kept"


def test_the_error_rate_is_divided() -> None:
    """The rates of the tested figures of a scenario add up to the whole."""
    for scenario in ("offline", "server", "interactive"):
        assert sum(error_rates(scenario, 0.05).values()) == pytest.approx(0.05)


def test_the_rate_before_the_tail(tmp_path: Path) -> None:
    """Offline: tokens until the last request's first token, over that time."""
    # The last request begins at 2 s. By then the first (100 tokens in 0.5 to 1.5 s) is done, the second
    # (200 tokens in 1 to 3 s) has half, the third none: 200 tokens in 2 s.
    columns = {
        "answer_tokens": np.array([100, 200, 50], np.int32),
        "first_arrival_ns": np.array([500, 1000, 2000], np.int64) * 1_000_000,
        "done_arrival_ns": np.array([1500, 3000, 4000], np.int64) * 1_000_000,
    }
    assert read_rate_before_tail(tmp_path, "r") is None
    write_parquet(tmp_path / "requests.parquet", pa.table(columns), {"run_id": "r"})
    assert read_rate_before_tail(tmp_path, "r") == pytest.approx(100.0)
    # An answer without tokens never began.
    columns["answer_tokens"] = np.array([100, 200, 50, 0], np.int32)
    columns["first_arrival_ns"] = pa.array([500_000_000, 1_000_000_000, 2_000_000_000, None], pa.int64())
    columns["done_arrival_ns"] = np.array([1500, 3000, 4000, 9000], np.int64) * 1_000_000
    write_parquet(tmp_path / "requests.parquet", pa.table(columns), {"run_id": "r"})
    assert read_rate_before_tail(tmp_path, "r") == pytest.approx(100.0)
    nothing = np.zeros(0, np.int64)
    assert rate_before_tail(nothing, nothing, nothing) is None


def test_runs_of_one_query_have_no_rate_before_the_tail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The only request is the last one: no token comes before it begins, and no ratio is computed."""
    columns = {
        "answer_tokens": np.array([16], np.int32),
        "first_arrival_ns": np.array([9_000_000], np.int64),
        "done_arrival_ns": np.array([25_000_000], np.int64),
    }
    for name in ("a/0", "a/1", "b/0", "b/1"):
        run_dir = write_run(tmp_path / name, server_record(name, 0, 50.0, scenario="offline"))
        write_parquet(run_dir / "requests.parquet", pa.table(columns), {"run_id": name})
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    captured = capsys.readouterr()
    assert "before the tail" not in captured.out
    assert (captured.err, "nan" in captured.out) == ("", False)


def test_a_directory_whose_name_holds_commands_of_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table and page show the name without them, and the page without its markup."""
    place = tmp_path / "\x1b[31m<i>"
    paths = [str(write_run(place / name, server_record(name, 0, 50.0))) for name in "ab"]
    assert main([*paths, "--html", str(tmp_path / "c.html")]) == 0
    shown, page = capsys.readouterr().out, (tmp_path / "c.html").read_text()
    assert "/?[31m<i>/a: 1 run, 1 VALID" in shown
    assert (False, False, False) == ("\x1b" in shown, "\x1b" in page, "<i>" in page)
    assert main([*paths, str(place / "c")]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_disk_that_holds_only_the_first_file_gets_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The JSON file would fit, the page does not: one line names the page, and both are missing."""
    runs = [str(write_run(tmp_path / name, server_record(name, 0, 50.0))) for name in "ab"]
    argv = [*runs, "--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]
    assert main(argv) == 0
    small, large = ((tmp_path / name).stat().st_size for name in ("c.json", "c.html"))
    assert small < large
    for name in ("c.json", "c.html"):
        (tmp_path / name).unlink()
    capsys.readouterr()
    before = {*tmp_path.iterdir()}
    with files_of_at_most(small):
        assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"report compare: --html {tmp_path / 'c.html'}: File too large"
    assert before == {*tmp_path.iterdir()}
