"""The page of a report: every number equals its source, no text becomes markup, nothing is loaded."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sut.results.report.__main__ import main
from tests.sources import ROOT
from tests.sut.report import run_files
from tests.sut.report.page_reader import Page, value_of

HOSTILE = "<script>alert('x')</script>&\"</td>\x1b[31m"


def report(run_dir: Path, *flags: str) -> Page:
    """Write the report of a run and read it back."""
    assert 0 == main([str(run_dir), *flags])
    page = Page((run_dir / "report.html").read_text(encoding="utf-8"))
    assert page.is_closed
    return page


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the files of a complete run."""
    return run_files.write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    """Make its report."""
    return report(run_dir)


def test_every_number_equals_its_source(page: Page, run_dir: Path) -> None:
    """Each number is the value at its path in run.json or the figure of requests.parquet, rounded as shown.

    Of the 100 requests, issued each 100 ms, worker 0 ends with request 98 (13 tokens, 9,800 + 168 ms), worker
    1 with request 99 (14 tokens, 9,900 + 178 ms).
    """
    record = json.loads((run_dir / "run.json").read_text())
    ms = run_files.MS
    ends = np.array([9_968, 10_078]) * ms
    computed = {
        "processes/head": 1,
        "processes/node0": 1,
        "processes/node1": 1,
        "processes/other0": 1,
        "processes/other1": 1,
        "tail/end_ns": 10_078 * ms,
        "tail/flat_end_ns": 10_023.0 * ms,
        "tail/idle_share": float(1 - ends.mean() / ends.max()),
        "tail/0/idle_ns": 110 * ms,
        "tail/1/idle_ns": 0,
    }
    assert len(page.numbers) > 100
    for shown in page.numbers:
        file, _, place = shown.source.partition("#")
        expected = computed[place] if place in computed else value_of(record, shown.source)
        assert ("run.json" if place.startswith(("/", "processes")) else "requests.parquet") == file
        assert repr(expected) == shown.value, shown
        assert shown.is_rounded_value, shown
    assert set(computed) < {shown.source.partition("#")[2] for shown in page.numbers}
    assert [] == page.bare_cells


def test_the_tail_is_what_a_flat_finish_would_save(tmp_path: Path) -> None:
    """Workers that end at 100 s and at 90 s: 1 - 95 / 100 idle; a flat finish gives 100 / 95 - 1 more."""
    found = tail_figures(tmp_path, num_workers=2)
    shares = (found["tail/idle_share"], found["tail/flat_gain"])
    assert ("100.000", "95.000", "5.00", "5.26") == (found["tail/end_ns"], found["tail/flat_end_ns"], *shares)
    assert ("10.000", "0.000") == (found["tail/0/idle_ns"], found["tail/1/idle_ns"])


def test_a_worker_that_finished_nothing_was_idle_all_the_time(tmp_path: Path) -> None:
    """With a third worker without requests the idle share is 1 - (100 + 90 + 0) / 300 = 36.67 %."""
    found = tail_figures(tmp_path, num_workers=3)
    assert ("36.67", "100.000") == (found["tail/idle_share"], found["tail/2/idle_ns"])


def test_no_flat_finish_is_claimed_of_a_run_that_lost_a_worker(tmp_path: Path) -> None:
    """The lost worker had no later end to share: its idle time is shown, the gain of a flat finish is not."""
    losses = run_files.disturbances()["losses"]
    found = tail_figures(tmp_path, num_workers=2, losses=losses)
    assert "5.00" == found["tail/idle_share"]
    assert "tail/flat_gain" not in found


def tail_figures(run_dir: Path, *, num_workers: int, losses: Sequence[object] = ()) -> dict[str, str]:
    """Report an Offline run whose workers 0 and 1 end at 90 s and at 100 s; returns its numbers by source."""
    record = run_files.run_json(num_workers, scenario="offline")
    record["summary"]["losses"] = losses
    (run_dir / "run.json").write_text(json.dumps(record))
    columns = run_files.request_rows(4)
    columns["done_arrival_ns"] = np.array([80, 100, 90, 95]) * run_files.SECOND
    run_files.write_requests(run_dir, columns)
    return {number.source.partition("#")[2]: number.text for number in report(run_dir).numbers}


def test_requests_that_lost_a_worker_are_counted_below_the_parts(tmp_path: Path) -> None:
    """Without any there is no such row; with 2 of the p99's the number is shown with its place."""
    run_files.write_run(tmp_path)
    assert not any("num_continued" in number.source for number in report(tmp_path).numbers)
    record = run_files.run_json()
    p99 = record["decomposition"]["quantities"]["ttft_ns"]["percentiles"]["p99"]
    p99["num_continued"] = 2
    run_files.write_run(tmp_path, record)
    found = {number.source: number.text for number in report(tmp_path, "--overwrite").numbers}
    assert "2" == found["run.json#/decomposition/quantities/ttft_ns/percentiles/p99/num_continued"]


def test_the_headline_is_loadgens(page: Page) -> None:
    """LoadGen's tokens/s, samples/s and both p99 stand on the page with limits and target."""
    shown = {
        number.source.rpartition("/")[2]: number.text
        for number in page.numbers
        if "#/loadgen/" in number.source
    }
    assert {
        "result_completed_tokens_per_second": "117",
        "result_completed_samples_per_sec": "9.75",
        "result_first_token_99.00_percentile_latency_ns": "48.900",
        "result_time_per_output_token_99.00_percentile_ns": "10.100",
    } == shown
    limits = {number.source: number.text for number in page.numbers if number.source.endswith("/value")}
    assert "3,000" == limits["run.json#/loadgen_bounds/result_first_token_99.00_percentile_latency_ns/value"]


def test_charts_hold_the_requests_and_readings(page: Page) -> None:
    """Histograms and series have the values that follow from the files' formulas."""
    charts = page.chart_data
    # Every TTFT is 48 ms: one bin has all requests.
    assert 100 == max(charts["ttft"]["series"][0]["values"])
    for name in ("ttft", "tpot", "latency", "answer_tokens", "prompt_tokens"):
        assert 100 == pytest.approx(sum(charts[name]["series"][0]["values"]), abs=0.01)
    # The coordinator's counter grows by 100 tokens a second; the two workers use 300 and 301 W.
    assert [100.0] * 6 == charts["token_rate"]["series"][0]["values"]
    assert {601.0} == set(charts["gpu_power_w"]["series"][0]["values"])
    # In second s, worker w has s + w running requests: 2 s + 1 in all. Each of the six bins of 1.67 s holds
    # two seconds.
    assert [2.0, 6.0, 10.0] == charts["engine_load"]["series"][0]["values"][:3]
    # Cache use of the two workers in second s: s and s + 10 %.
    assert [5.5, 7.5] == charts["kv_use"]["series"][0]["values"][:2]
    assert 100 == pytest.approx(
        sum(charts["request_rate"]["series"][0]["values"]) * 10.078 / len(charts["request_rate"]["xs"]),
        rel=1e-3,
    )


def test_latencies_are_taken_apart(page: Page) -> None:
    """The parts of each percentile of TTFT are on the page, and they add up to the mean beside them."""
    path = "run.json#/decomposition/quantities/ttft_ns/percentiles/p99/"
    found = {
        number.source.removeprefix(path): number.text
        for number in page.numbers
        if path in number.source and " + " not in number.source
    }
    assert {f"parts_ns/{name}": f"{ms:.3f}" for name, ms in run_files.TTFT_PARTS_MS.items()} | {
        "mean_ns": "49.000",
        "value_ns": "49.000",
        "clock_error_ns": "0.100",
    } == found
    text = "".join(page.texts)
    assert "TTFT taken apart" in text
    assert "TTFT p99: 43.000 ms of 49.000 ms are the engine's" in text
    assert "TPOT p99: 10.000 ms of 10.000 ms are the engine's" in text


@pytest.mark.parametrize("scenario", ["offline", "server"])
def test_samples_that_wait_for_engines_are_no_cost_of_the_coordinator(tmp_path: Path, scenario: str) -> None:
    """The page says so where LoadGen issues all samples at once, and only there."""
    (tmp_path / "run.json").write_text(json.dumps(run_files.run_json(scenario=scenario)))
    texts = "".join(report(tmp_path).texts)
    assert (scenario == "offline") == ("no cost of the coordinator" in texts)


def test_events_have_their_times(page: Page) -> None:
    """The loss, with its reason, and the pauses, the longest first, have their times."""
    shown = [number.text for number in page.numbers if "origin_ns" in number.source]
    assert ["4.000"] == shown
    assert "stream ended: UNAVAILABLE" in page.texts
    pauses = [number.text for number in page.numbers if number.source.endswith("/duration_ns")]
    assert ["120.000", "12.000"] == pauses
    for kind in ("pause: gc", "pause: event loop", "loss", "continued"):
        assert any(kind in text for text in page.texts)


def test_the_page_loads_nothing(run_dir: Path, page: Page) -> None:
    """The policy forbids every request, no element has an address outside the page, no handler is inline."""
    (policy,) = [
        tag["content"] for name, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ")
    for name, attributes in page.tags:
        assert name not in ("link", "iframe", "object", "embed", "base", "form", "img", "image")
        assert not any(attribute.startswith("on") for attribute in attributes)
        for attribute in ("src", "href", "xlink:href"):
            assert attributes.get(attribute, "#").startswith("#")
    styles = re.findall(r"<style>(.*?)</style>", (run_dir / "report.html").read_text(), re.DOTALL)
    assert len(styles) == 1
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]


def test_texts_of_a_run_never_become_markup(tmp_path: Path) -> None:
    """Hostile texts in every place of run.json, keys too, are shown bounded and printable."""
    record = run_files.run_json()
    verdict = record["verdict"] | {"outcome": HOSTILE, "reason": HOSTILE * 1000, "deviations": [HOSTILE]}
    verdict["checks"] = [{"name": HOSTILE, "passed": False, "seen": HOSTILE}]
    names = dict.fromkeys(("run_id", "scenario", "mode", "started_utc", "round", "spec_hash"), HOSTILE)
    record |= names | {"verdict": verdict, "versions": {HOSTILE: HOSTILE}, "config": {HOSTILE: [HOSTILE]}}
    record |= {"changed_flags": [HOSTILE], "loadgen": {HOSTILE: HOSTILE}, "generation": {HOSTILE: HOSTILE}}
    record["summary"]["workers"] = [
        run_files.worker_row(0, hostname=HOSTILE, engine=HOSTILE) | {"address": HOSTILE}
    ]
    record["loadgen_bounds"][HOSTILE] = {"name": HOSTILE, "value": HOSTILE}
    (tmp_path / "run.json").write_text(json.dumps(record))
    page = report(tmp_path)
    assert 2 == len(page.scripts)
    shown = [text for text in page.texts if "alert" in text]
    assert len(shown) > 20
    assert all(len(text) < 2100 and "\x1b" not in text for text in shown)


@pytest.mark.parametrize("absent", ["requests.parquet", "both"])
def test_a_missing_file_leaves_a_sentence(tmp_path: Path, absent: str) -> None:
    """Without a file the page has a sentence in its place, and what the other files tell."""
    directory = run_files.write_run(tmp_path)
    names = ["requests.parquet", "timeline.parquet"] if absent == "both" else [absent]
    for name in names:
        (directory / name).unlink()
    page = report(directory)
    for name in names:
        assert f"The run has no {name}." in page.texts
    assert (absent != "both") == bool(page.chart_data)


def test_a_failed_run_has_a_report(tmp_path: Path) -> None:
    """A run that failed before its first answer: the reason, no figures, and no error."""
    verdict = {"outcome": "FAILED", "reason": "no worker for 60 s", "checks": [], "deviations": []}
    empty = {"loadgen": {}, "loadgen_bounds": {}, "loadgen_latencies": {}, "summary": None}
    (tmp_path / "run.json").write_text(json.dumps(run_files.run_json(verdict=verdict, **empty)))
    run_files.write_requests(tmp_path, run_files.request_rows(0))
    page = report(tmp_path)
    assert "no worker for 60 s" in page.texts
    assert "The run has no percentiles." in page.texts


def test_gpus_that_nobody_read_have_no_chart(tmp_path: Path) -> None:
    """Columns of nulls and absent columns leave their charts out."""
    run_files.write_run(tmp_path)
    columns = run_files.timeline_rows(5, gpus=False)
    del columns["kv_use"]
    run_files.write_timeline(tmp_path, columns)
    charts = report(tmp_path).chart_data
    assert "engine_load" in charts
    assert not {"kv_use", "gpu_power_w", "gpu_clock_mhz", "gpu_memory_bytes"} & set(charts)


def test_damaged_files_leave_a_sentence(tmp_path: Path) -> None:
    """A file that is no parquet, and a column of texts: the page says so and has the rest."""
    (tmp_path / "run.json").write_text(json.dumps(run_files.run_json()))
    (tmp_path / "requests.parquet").write_bytes(b"PAR1 not a parquet file PAR1")
    run_files.write_timeline(tmp_path, {"time_ns": ["<b>"], "worker": [0]})
    page = report(tmp_path)
    for name in ("requests.parquet", "timeline.parquet"):
        assert any(text.startswith(f"{name} cannot be read: ") for text in page.texts)
    assert {} == page.chart_data


def test_impossible_times_leave_a_page(tmp_path: Path) -> None:
    """Times from the ends of their range, and lengths below 0: a page of bounded charts is written."""
    (tmp_path / "run.json").write_text(json.dumps(run_files.run_json()))
    columns = run_files.request_rows(8)
    for name in ("issued_ns", "sent_ns", "first_arrival_ns", "done_arrival_ns"):
        columns[name] = np.array([-(2**63) + 1, 2**63 - 1, 0, -1, 1, 2**62, -(2**62), 5])
    columns["answer_tokens"] = np.array([-1, 0, 1, 2**31 - 1, -(2**31), 2, 3, 4], np.int32)
    columns["worker"] = np.array([-1, 2**31 - 1, 0, 1, 2, 3, 4, 5], np.int32)
    run_files.write_requests(tmp_path, columns)
    charts = report(tmp_path).chart_data
    assert all(len(chart["xs"]) <= 240 for chart in charts.values())


def test_the_examples_are_small_and_name_no_private_place() -> None:
    """Each example is below 1.5 MB, all files together below 4 MB; no page has a path of a home."""
    files = [*(ROOT / "docs" / "examples").iterdir()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    pages = [path for path in files if path.suffix == ".html"]
    assert 2 == len(pages)
    for path in pages:
        assert path.stat().st_size < 1_500_000
        shown = Page(path.read_text(encoding="utf-8"))
        assert shown.is_closed
        assert not [text for text in shown.texts if re.search(r"/(home|root|tmp|work)\b", text)]
