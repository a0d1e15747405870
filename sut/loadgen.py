"""Wrapper of LoadGen and its pitfalls; the only file that imports mlperf_loadgen (6.0.17).

LoadGen has global state: only one test per process. A test cannot be aborted; it ends with the process.
"""

import errno
import math
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlperf_loadgen as lg

from common.flags import FlagError
from sut.benchmark import Seeds
from sut.loadgen_conf import AUDIT_FLAG, USER_FLAG
from sut.log_files import DETAIL, LOADGEN_PREFIX, SUMMARY, find_log
from sut.settings import Mode, Scenario

Issue = Callable[[list[int], list[int]], None]
"""Receives LoadGen's response ids (pointers) and sample indices of one query, in order."""
CallTimes = tuple[int, int]
"""When LoadGen was called and when its call had returned, in ns of the monotonic clock.

LoadGen's own stamp lies between.
"""
AskName = Callable[[], str]
"""Returns the name of a Network SUT after a round trip to each of its nodes; must not raise."""

TOKEN_BYTES = 4
# LoadGen's buffered logs do not fit in less free space than this.
FULL_DISK_BYTES = 1 << 16
_GENERATED = {
    name: re.compile(rf'"key": "generated_{name}", "value": (\d+),')
    for name in ("query_count", "samples_per_query")
}
# Keys of the detail log, with the attributes of lg.TestSettings whose values they show.
_LOGGED_SETTINGS = {
    "effective_performance_issue_unique": "performance_issue_unique",
    "requested_server_coalesce_queries": "server_coalesce_queries",
    "effective_performance_sample_count": "performance_sample_count_override",
    "effective_accuracy_sample_count": "accuracy_sample_count_override",
    "requested_use_token_latencies": "use_token_latencies",
    "effective_sample_concatenate_permutation": "sample_concatenate_permutation",
    "effective_target_latency_percentile": "server_target_latency_percentile",
    "effective_min_duration_ms": "min_duration_ms",
    "requested_server_ttft_latency": "ttft_latency",
    "requested_server_tpot_latency": "tpot_latency",
    "effective_accuracy_log_sampling_target": "accuracy_log_sampling_target",
}
# LoadGen issues this many times the samples of the minimum duration in Offline (test_settings_internal.cc).
OFFLINE_SLACK = 1.1
_EMBEDDED_CONF, _USER_CONF, _OTHER_CONF = 0, 1, 2
_configured = threading.Event()


class LoadGenSettings(NamedTuple):
    """Settings of LoadGen before a test."""

    seeds: Seeds
    logged: dict[str, object]
    """Values by key of the detail log."""

    @classmethod
    def read(cls, user_conf: str, audit_conf: str | None, scenario: Scenario) -> "LoadGenSettings":
        """Read the confs on top of the embedded mlperf.conf, without running a test.

        Call it before LoadGenTest is created, after which LoadGen skips the embedded mlperf.conf.

        Args:
            user_conf: Text of the run's user.conf.
            audit_conf: Text of the audit.config; None without one.
            scenario: The run's scenario.

        Raises:
            FlagError: LoadGen rejects a conf.
        """
        settings = lg.TestSettings()
        # Not read as a user.conf: after a process's first user.conf LoadGen skips the embedded mlperf.conf.
        _apply_conf(settings, "", scenario, _EMBEDDED_CONF)
        _apply_conf(settings, user_conf, scenario, _OTHER_CONF)
        if audit_conf is not None:
            _apply_audit(settings, audit_conf, scenario)
        return cls.of(settings, scenario)

    @classmethod
    def of(cls, settings: lg.TestSettings, scenario: Scenario) -> "LoadGenSettings":
        """Copy the settings from LoadGen's object."""
        seeds = Seeds(settings.qsl_rng_seed, settings.sample_index_rng_seed, settings.schedule_rng_seed)
        logged = {key: getattr(settings, name) for key, name in _LOGGED_SETTINGS.items()}
        return cls(seeds, logged | _derived_settings(settings, scenario))


def _derived_settings(settings: lg.TestSettings, scenario: Scenario) -> dict[str, object]:
    """Compute the settings that LoadGen derives when a test starts.

    Source: loadgen/test_settings_internal.cc.
    """
    if scenario is not Scenario.OFFLINE:
        qps, num_samples = settings.server_target_qps, settings.min_query_count
        return {"effective_target_qps": qps, "effective_min_sample_count": num_samples}
    qps = settings.offline_expected_qps
    num_samples = max(settings.min_query_count, int(OFFLINE_SLACK * settings.min_duration_ms / 1000 * qps))
    if settings.performance_issue_unique or settings.performance_issue_same:
        num_samples = settings.performance_sample_count_override
    return {
        "effective_target_qps": qps,
        "effective_samples_per_query": num_samples,
        "effective_min_sample_count": num_samples,
    }


class LoadGenTest:
    """One LoadGen test (StartTest)."""

    def __init__(self, conf: str, scenario: Scenario, mode: Mode) -> None:
        """Read the settings.

        Args:
            conf: Text of the run's user.conf; LoadGen reads the embedded mlperf.conf before it.
            scenario: The run's scenario.
            mode: The run's mode.

        Raises:
            FlagError: LoadGen rejects the conf.
            RuntimeError: The process already ran a test; a second one would skip the embedded mlperf.conf.
        """
        if _configured.is_set():
            raise RuntimeError("one LoadGen test per process")
        _configured.set()
        self._scenario = scenario
        self._settings = lg.TestSettings()
        _apply_conf(self._settings, conf, scenario, _USER_CONF)
        self._settings.scenario = getattr(lg.TestScenario, scenario.loadgen_name)
        self._settings.mode = (
            lg.TestMode.PerformanceOnly if mode is Mode.PERFORMANCE else lg.TestMode.AccuracyOnly
        )

    @property
    def settings(self) -> LoadGenSettings:
        """Settings before the test."""
        return LoadGenSettings.of(self._settings, self._scenario)

    def run(
        self,
        num_samples: int,
        issue: Issue,
        output_dir: Path,
        audit_config: Path | None,
        ask_name: AskName | None = None,
        *,
        trace: bool = False,
    ) -> None:
        """Run the test; returns when all issued samples are complete.

        Args:
            num_samples: Rows of the data set, all in memory.
            issue: Called once per query; must not raise, which would crash the process, and must not wait.
            output_dir: Existing directory; without one LoadGen would return at once without a message.
            audit_config: Path, or None; never omitted, because LoadGen would then read audit.config from the
                working directory.
            ask_name: Network division: LoadGen uses a query dispatch library (QDL), and this is its Name().
            trace: Whether LoadGen writes its trace.

        Raises:
            RuntimeError: LoadGen wrote no summary.

        Thread: any except main, which must handle signals; blocks.
        """
        output_dir.stat()
        sut, destroy = _construct_sut(issue, ask_name)
        qsl = lg.ConstructQSL(num_samples, num_samples, _nothing, _nothing)
        try:
            lg.StartTestWithLogSettings(
                sut,
                qsl,
                self._settings,
                _log_settings(output_dir, trace=trace),
                "" if audit_config is None else str(audit_config),
            )
        finally:
            lg.DestroyQSL(qsl)
            destroy(sut)
        summary = find_log(output_dir, SUMMARY)
        if not summary.is_file() or summary.stat().st_size == 0:
            raise RuntimeError(f"LoadGen wrote no summary in {output_dir}{_full_disk(output_dir)}")


def _construct_sut(issue: Issue, ask_name: AskName | None) -> tuple[int, Callable[[int], None]]:
    """Construct LoadGen's SUT, or its QDL; returns it with the function that destroys it."""
    if ask_name is None:
        return lg.ConstructFastSUT(issue, _nothing), lg.DestroySUT
    return lg.ConstructQDL(_issuing(issue), _nothing, ask_name), lg.DestroyQDL


def _issuing(issue: Issue) -> Callable[[list[lg.QuerySample]], None]:
    """Return the callback of a QDL, which gets objects instead of two lists."""

    def issue_samples(samples: list[lg.QuerySample]) -> None:
        issue([sample.id for sample in samples], [sample.index for sample in samples])

    return issue_samples


def generated_samples(output_dir: Path) -> int | None:
    """Read from the detail log of a running test how many samples LoadGen will issue; None if not logged yet.

    Thread: any.
    """
    path = find_log(output_dir, DETAIL)
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    factors = [_GENERATED[name].search(text) for name in _GENERATED]
    return math.prod(int(factor[1]) for factor in factors if factor) if all(factors) else None


def first_token_complete(ids: list[int], addresses: list[int], counts: list[int]) -> CallTimes:
    """Report first tokens: LoadGen stops the requests' TTFT clocks at the time of this call.

    Args:
        ids: LoadGen's ids, each at most once per test.
        addresses: Memory address of each first token, an int32; LoadGen copies it before it returns.
        counts: 1, or 0 for an answer without tokens.

    Thread: the same as query_samples_complete, because LoadGen keeps no order across threads.
    """
    responses = [
        lg.QuerySampleResponse(id_, address, TOKEN_BYTES * count, count)
        for id_, address, count in zip(ids, addresses, counts, strict=True)
    ]
    called_ns = time.monotonic_ns()
    lg.FirstTokenComplete(responses)
    return called_ns, time.monotonic_ns()


def query_samples_complete(ids: list[int], addresses: list[int], counts: list[int]) -> CallTimes:
    """Report completions: LoadGen stops the requests' latency clocks at the time of this call.

    Args:
        ids: LoadGen's ids, each exactly once per test and never after it: the ids are pointers.
        addresses: Memory address of each request's tokens, int32; LoadGen copies them before it returns.
        counts: Number of all tokens of each request, including the first, because LoadGen computes
            TPOT = (latency - TTFT) / (n_tokens - 1) (loadgen/logging.cc).

    Thread: the same as first_token_complete.
    """
    responses = [
        lg.QuerySampleResponse(id_, address, TOKEN_BYTES * count, count)
        for id_, address, count in zip(ids, addresses, counts, strict=True)
    ]
    called_ns = time.monotonic_ns()
    lg.QuerySamplesComplete(responses)
    return called_ns, time.monotonic_ns()


def _apply_conf(settings: lg.TestSettings, conf: str, scenario: Scenario, kind: int) -> None:
    if code := _read_conf(settings, conf, (scenario.model_name, scenario.loadgen_name, kind)):
        raise FlagError(USER_FLAG, f"LoadGen rejects it with code {code}")


def _apply_audit(settings: lg.TestSettings, conf: str, scenario: Scenario) -> None:
    """Read an audit.config as LoadGen does when a test starts: for model "*"."""
    if code := _read_conf(settings, conf, ("*", scenario.loadgen_name, _OTHER_CONF)):
        raise FlagError(AUDIT_FLAG, f"LoadGen rejects it with code {code}")


def _read_conf(settings: lg.TestSettings, conf: str, names: tuple[str, str, int]) -> int:
    """Let LoadGen read a conf for a model, a scenario and a kind of conf; returns its error code or 0."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as file:
        file.write(conf)
        file.flush()
        return int(settings.FromConfig(file.name, *names))


def _log_settings(output_dir: Path, *, trace: bool) -> lg.LogSettings:
    output = lg.LogOutputSettings()
    output.outdir = str(output_dir)
    output.prefix = LOADGEN_PREFIX
    output.copy_summary_to_stdout = False
    settings = lg.LogSettings()
    settings.log_output = output
    settings.enable_trace = trace
    return settings


def _full_disk(directory: Path) -> str:
    """Return a message if the disk is full, else an empty string; LoadGen does not check its writes."""
    free_bytes = shutil.disk_usage(directory).free
    return "" if free_bytes >= FULL_DISK_BYTES else f": {os.strerror(errno.ENOSPC)}, {free_bytes} bytes free"


def _nothing(*_: object) -> None:
    """Do nothing on flush, load and unload: nothing is deferred, and all prompts are in memory."""
