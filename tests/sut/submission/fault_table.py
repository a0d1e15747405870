"""What is planted in the runs of a submission, and the line that must name it."""

from sut.log_files import ACCURACY, DETAIL, SUMMARY
from tests.sut.submission.planting import (
    PERFORMANCE,
    Plant,
    add_error,
    add_line,
    begin_together,
    change_text,
    drop_line,
    entries,
    info,
    logged,
    make_fifo,
    outcome,
    quote_sample_index,
    record,
    removed,
    rename_rejected,
    report,
    text,
    unlist_last_entry,
)
from tests.sut.submission.small_runs import change_report, seal, set_commit

FAULTS: dict[str, tuple[Plant, str]] = {
    "an INVALID run": (
        record("offline/accuracy", outcome("INVALID", "coverage: 3 of 4")),
        "offline/accuracy: the run is INVALID, not VALID: coverage: 3 of 4",
    ),
    "a performance run that is not graded": (
        record(PERFORMANCE, outcome("NOT_GRADED", "why")),
        f"{PERFORMANCE}: the run is NOT_GRADED, not VALID: why",
    ),
    "a failed check under an accepted verdict": (
        record(PERFORMANCE, lambda found: found["verdict"]["checks"][0].update(passed=False)),
        f"{PERFORMANCE}: the verdict is VALID, but its check loadgen_result did not pass",
    ),
    "an INVALID log under the right name": (
        logged(PERFORMANCE, result_validity="INVALID"),
        f"{PERFORMANCE}: LoadGen's result is INVALID, not VALID",
    ),
    "an error line of LoadGen": (
        add_error,
        f"{PERFORMANCE}: LoadGen logged 1 errors, first error_runtime: lost",
    ),
    "an error that was taken out of the log": (
        logged(PERFORMANCE, num_errors=1),
        f"{PERFORMANCE}: the detail log has num_errors 1, and no error",
    ),
    "an error that the summary tells of": (
        lambda results: (
            change_text(results / "offline/accuracy" / SUMMARY, "No errors", "1 ERROR"),
            seal(results / "offline/accuracy", SUMMARY),
        ),
        f"offline/accuracy: {SUMMARY} does not say 'No errors encountered during test.', "
        "the detail log has no error",
    ),
    "another figure than the run's": (
        record(PERFORMANCE, lambda found: found["loadgen"].update(result_tokens_per_second=1.5)),
        f"{PERFORMANCE}: the detail log has result_tokens_per_second ",
    ),
    "the seeds of another round": (
        logged("offline/accuracy", effective_qsl_rng_seed=1),
        "offline/accuracy: the detail log has other seeds than those of v6.1, the round of run.json",
    ),
    "a line that was taken out of the log": (
        drop_line("server/accuracy", "requested_server_target_qps"),
        "server/accuracy: the detail log lacks 1 lines that others have, first requested_server_target_qps",
    ),
    "a result that was taken out of the log": (
        drop_line(PERFORMANCE, "result_mean_latency_ns"),
        f"{PERFORMANCE}: the detail log lacks 1 lines that others have, first result_mean_latency_ns",
    ),
    "a log of another LoadGen": (
        logged("server/TEST07", loadgen_file_sha1="00"),
        "all runs: loadgen_file_sha1 of the detail logs differs: ",
    ),
    "a log that is a FIFO": (make_fifo(f"offline/TEST07/{ACCURACY}"), "offline/TEST07: offline/TEST07/"),
    "a user.conf that is a FIFO": (
        make_fifo("server/performance/user.conf"),
        "server/performance: server/performance/user.conf is not the file of the run: ",
    ),
    "a sample index that is a text": (
        entries("offline/accuracy", quote_sample_index),
        "offline/accuracy: a log of LoadGen cannot be read: ",
    ),
    "a start past any time": (
        record(PERFORMANCE, lambda found: found.update(ready_s=1e300)),
        f"{PERFORMANCE}: the times of run.json or of the detail log cannot be read: ",
    ),
    "a rejected log": (
        rename_rejected,
        f"{PERFORMANCE}: {PERFORMANCE}/{DETAIL} is named as rejected: the run was not accepted",
    ),
    "an edited log": (
        add_line,
        f"{PERFORMANCE}: {PERFORMANCE}/{DETAIL} is not the file of the run: "
        "its SHA-256 differs from run.json",
    ),
    "another user.conf": (
        text("server/performance/user.conf", "*.Server.target_qps = 9999\n"),
        "server/performance: server/performance/user.conf is not the file of the run: "
        "its SHA-256 differs from run.json",
    ),
    "a run without hashes": (
        record(PERFORMANCE, lambda found: found.pop("files_sha256")),
        f"{PERFORMANCE}: run.json has no SHA-256 of the logs: "
        "the run did not end, or is of an older tokenfleet",
    ),
    "a run of another scenario": (
        record("server/TEST07", lambda found: found.update(scenario="offline")),
        "server/TEST07: run.json is of the run offline/TEST07",
    ),
    "a log of the other mode": (
        logged("offline/accuracy", effective_test_mode="PerformanceOnly"),
        "offline/accuracy: the detail log has effective_test_mode PerformanceOnly, not AccuracyOnly",
    ),
    "a detail log whose clock is skewed": (
        logged("server/accuracy", power_end="01-01-2030 00:00:00.000"),
        "server/accuracy: the detail log spans",
    ),
    "a detail log of another day": (
        logged("server/accuracy", test_datetime="2020-01-01T00:00:00Z"),
        "server/accuracy: the detail log began at 2020-01-01T00:00:00+00:00, the run at ",
    ),
    "two runs at once on one worker": (
        begin_together,
        f"{PERFORMANCE}: overlaps offline/TEST09 by 3600 s on the same worker: a clock is wrong",
    ),
    "a missing sample": (
        entries("offline/accuracy", unlist_last_entry),
        "offline/accuracy: the accuracy log lacks 1 of 4395 samples",
    ),
    "a doubled sample of a compliance test": (
        entries("offline/TEST09", lambda lines: [lines[0], lines[1], *lines[1:]]),
        "offline/TEST09: the accuracy log has sample 0 2 times",
    ),
    "a doubled sample": (
        entries("offline/accuracy", lambda lines: [lines[0], lines[1], *lines[1:]]),
        "offline/accuracy: the accuracy log has sample ",
    ),
    "a truncated accuracy log": (
        entries("offline/accuracy", lambda lines: lines[:-1]),
        "offline/accuracy: the accuracy log is truncated: its list is not closed",
    ),
    "a score of another log": (
        report("offline/accuracy/accuracy.json", log_sha256="0" * 64),
        "offline/accuracy: accuracy.json is the score of another accuracy log",
    ),
    "a score by other reference data": (
        report("offline/accuracy/accuracy.json", reference_sha256="0" * 64),
        "offline/accuracy: accuracy.json was graded by another data set than that of the run",
    ),
    "a score by another tokenizer": (
        report("server/TEST07/accuracy.json", tokenizer_sha256="3" * 64),
        f"graded runs: the tokenizer differs: {'2' * 64} in offline/accuracy, {'3' * 64} in server/TEST07",
    ),
    "a score by other tests of programs": (
        report("server/accuracy/accuracy.json", lcb_tests_sha256="5" * 64),
        "graded runs: the SHA-256 of the tests of programs differs: "
        f"{'4' * 64} in offline/accuracy, {'5' * 64} in server/accuracy",
    ),
    "a score that its counts do not give": (
        lambda results: (
            change_report(results / "offline/accuracy/accuracy.json", score_percent=90.0),
            (results / "offline/accuracy/accuracy.txt").write_text("'exact_match': 90.000\n"),
        ),
        "offline/accuracy: accuracy.json has the score 90.000, its counts give 83.500",
    ),
    "a score of some rows": (
        report("server/TEST07/accuracy.json", per_dataset={"gpqa_diamond": {"correct": 689, "total": 980}}),
        "server/TEST07: accuracy.json counts 980 rows, the data set has 990",
    ),
    "ungraded answers": (
        report("offline/accuracy/accuracy.json", score_percent=None, ungraded=[{"row": 3}]),
        "offline/accuracy: accuracy.json has no score: 1 answers are ungraded",
    ),
    "a score that no float can hold": (
        report("offline/accuracy/accuracy.json", score_percent=10**400, ungraded=[]),
        "offline/accuracy: accuracy.json has no score: 0 answers are ungraded",
    ),
    "another score in the checker's file": (
        text("offline/accuracy/accuracy.txt", "'exact_match': 99.000\n"),
        "offline/accuracy: accuracy.txt has the score 99.000, accuracy.json has 83.500",
    ),
    "two spaces before the score": (
        text("offline/accuracy/accuracy.txt", "'exact_match':  83.500\n"),
        "offline/accuracy: accuracy.txt has 0 lines with 'exact_match': X, not 1",
    ),
    "no score": (
        removed("server/accuracy/accuracy.json"),
        "server/accuracy: server/accuracy/accuracy.json is missing: `tokenfleet accuracy` writes it",
    ),
    "a failed compliance test": (
        report("offline/TEST09/compliance.json", passed=False, reasons=["mean 1000"]),
        "offline/TEST09: TEST09 did not pass: mean 1000",
    ),
    "a compliance verdict of another log": (
        report("server/TEST07/compliance.json", log_sha256="0" * 64),
        "server/TEST07: compliance.json is the verdict on another accuracy log",
    ),
    "another value in the compliance verdict": (
        report("offline/TEST09/compliance.json", value=1300.0),
        "offline/TEST09: compliance.json has the value 1300.0, this run has 1278.000",
    ),
    "TEST FAIL where the checker looks": (
        text("server/TEST07/verify_accuracy.txt", "TEST FAIL\n"),
        "server/TEST07: server/TEST07/verify_accuracy.txt does not have the line TEST PASS",
    ),
    "no verify file": (
        removed("server/TEST09/verify_output_len.txt"),
        "server/TEST09: server/TEST09/verify_output_len.txt is missing: `tokenfleet compliance` writes it",
    ),
    "a missing TEST09": (removed("offline/TEST09"), "offline/TEST09: the run is missing"),
    "a missing scenario": (removed("offline"), "offline: no run of this scenario, which is required"),
    "neither Server nor Interactive": (
        removed("server"),
        "server or interactive: no run of either scenario, one is required",
    ),
    "other weights": (
        info("server/accuracy", "model_hash", "f" * 64),
        "all runs: the model hash differs: ",
    ),
    "another engine configuration in a scenario": (
        info("server/accuracy", "engine_hash", "f" * 64),
        "server: the engine hash differs: ",
    ),
    "other kernels in a scenario": (
        info("server/accuracy", "execution_facts", {"moe_backend": '"marlin"', "max_num_seqs": "8"}),
        'server: the moe_backend differs: the default in server/performance, "marlin" in server/accuracy',
    ),
    "another code revision": (
        lambda results: set_commit(results / "server/accuracy", "e" * 40),
        "all runs: the code revision differs: ",
    ),
    "another LoadGen": (
        record("server/accuracy", lambda found: found["versions"].update(mlcommons_loadgen="6.0.15")),
        "all runs: the LoadGen version differs: 6.0.17 in offline/performance, 6.0.15 in server/accuracy",
    ),
    "other sampling in a compliance run": (
        record("offline/TEST07", lambda found: found["generation"].update(temperature=0.5)),
        "offline: the sampling differs: ",
    ),
    "another data set for TEST09": (
        record("offline/TEST09", lambda found: found["dataset"].update(sha256="d" * 64)),
        "performance and TEST09 runs: the SHA-256 of the data set differs: ",
    ),
    "other machines": (
        record(
            "server/TEST09", lambda found: found["summary"]["workers"][0]["hosts"][-1].update(num_cores=1)
        ),
        "all runs: the set of machines differs: ",
    ),
    "a latency at the limit": (
        logged("server/performance", **{"result_first_token_99.00_percentile_latency_ns": 3 * 10**9}),
        "server/performance: result_first_token_99.00_percentile_latency_ns is 3000000000, "
        "not below 3000000000 ns of server",
    ),
    "too few samples in an Offline query": (
        logged(PERFORMANCE, effective_samples_per_query=660),
        f"{PERFORMANCE}: in the detail log effective_samples_per_query is 660, below 6396",
    ),
    "queries in groups": (
        logged("server/performance", requested_server_coalesce_queries=True),
        "server/performance: in the detail log requested_server_coalesce_queries is True, not False",
    ),
    "each sample once": (
        logged(PERFORMANCE, effective_performance_issue_unique=True),
        f"{PERFORMANCE}: in the detail log effective_performance_issue_unique is True, not False",
    ),
    "too few accuracy samples": (
        logged("server/accuracy", effective_accuracy_sample_count=4394),
        "server/accuracy: in the detail log effective_accuracy_sample_count is 4394, not 4395",
    ),
    "a deviation": (
        record(PERFORMANCE, lambda found: found["verdict"]["deviations"].append("prefix caching is on")),
        f"{PERFORMANCE}: deviation: prefix caching is on",
    ),
    "a log that is not JSON": (
        lambda results: (results / PERFORMANCE / DETAIL).write_text(":::MLLOG {\n"),
        f"{PERFORMANCE}: a log of LoadGen cannot be read: ",
    ),
}
