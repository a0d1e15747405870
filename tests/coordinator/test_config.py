"""The coordinator's flags: what is read, what is refused and how, and where a run's files go."""

from pathlib import Path

import pytest

from coordinator.config import LossPolicy, OverduePolicy, RunConfig, build_parser, parse, to_argv
from sut.benchmark import BENCHMARK
from sut.settings import Mode, Scenario

NEEDED = ["--input-file", "data.parquet", "--workers", "a:1"]


def config(**changed: object) -> RunConfig:
    """Make a configuration."""
    values: dict[str, object] = {"input_file": Path("data.parquet"), "workers": ("a:1",)}
    return RunConfig(**(values | changed))  # type: ignore[arg-type]


def test_defaults_are_the_dataclass() -> None:
    """The shortest command line reads as the configuration's own defaults: Offline, performance."""
    read = parse(NEEDED)
    assert config() == read
    assert (read.scenario, read.mode) == (Scenario.OFFLINE, Mode.PERFORMANCE)
    assert read.output_dir == Path("mlperf_results")
    assert (read.max_new_tokens, read.target_qps, read.overwrite) == (None, None, False)


def test_a_lost_worker_ends_no_run_by_default_and_an_overdue_query_does() -> None:
    """Without flags: go on after a loss, 60 s without any worker, 3 losses of a request, an hour a query."""
    read = parse(NEEDED)
    assert (10.0, 120.0, 60.0) == (read.worker_timeout_s, read.stall_timeout_s, read.no_worker_timeout_s)
    assert (LossPolicy.CONTINUE, 3) == (read.on_worker_loss, read.max_worker_losses)
    assert (OverduePolicy.FAIL, 3600.0) == (read.overdue_policy, read.query_timeout_s)


def test_in_accuracy_mode_an_overdue_query_is_only_listed_by_default() -> None:
    """All its queries may wait at the workers for hours; what is asked for counts all the same."""
    assert OverduePolicy.REPORT is parse([*NEEDED, "--accuracy"]).overdue_policy
    asked = parse([*NEEDED, "--accuracy", "--on-overdue-query", "fail"])
    assert OverduePolicy.FAIL is asked.overdue_policy


EVERY_FLAG = [
    *(
        "--scenario",
        "interactive",
        "--accuracy",
        "--input-file",
        "d.pkl",
        "--workers",
        "a:1, b:2,[::1]:65535",
    ),
    *("--output-dir", "out", "--user-conf", "user.conf", "--generation-config", "g.json"),
    *(
        "--max-new-tokens",
        "9",
        "--max-samples",
        "8",
        "--target-qps",
        "1.5",
        "--audit-config",
        "TEST07/audit.config",
    ),
    *("--overwrite", "--ready-timeout-s", "1", "--worker-timeout-s", "2.5", "--stall-timeout-s", "3"),
    *("--on-worker-loss", "fail", "--no-worker-timeout-s", "4", "--max-worker-losses", "5"),
    *("--query-timeout-s", "0.5", "--on-overdue-query", "report"),
    *("--tls-ca", "ca.pem", "--tls-cert", "c.pem", "--tls-key", "k.pem", "--run-token-file", "token"),
]
EVERY_VALUE = RunConfig(
    scenario=Scenario.INTERACTIVE,
    accuracy=True,
    input_file=Path("d.pkl"),
    workers=("a:1", "b:2", "[::1]:65535"),
    output_dir=Path("out"),
    user_conf=Path("user.conf"),
    generation_config=Path("g.json"),
    max_new_tokens=9,
    max_samples=8,
    target_qps=1.5,
    audit_config=Path("TEST07/audit.config"),
    overwrite=True,
    ready_timeout_s=1.0,
    worker_timeout_s=2.5,
    stall_timeout_s=3.0,
    on_worker_loss=LossPolicy.FAIL,
    no_worker_timeout_s=4.0,
    max_worker_losses=5,
    query_timeout_s=0.5,
    on_overdue_query=OverduePolicy.REPORT,
    tls_ca=Path("ca.pem"),
    tls_cert=Path("c.pem"),
    tls_key=Path("k.pem"),
    run_token_file=Path("token"),
)


def test_every_flag_is_read() -> None:
    """Each flag reaches its field with its type; spaces after commas between workers are allowed."""
    assert parse(EVERY_FLAG) == EVERY_VALUE


@pytest.mark.parametrize(
    "made",
    [
        EVERY_VALUE,
        config(),
        config(target_qps=1e-07, stall_timeout_s=2.1 + 0.2),
        config(on_overdue_query=OverduePolicy.CONTINUE, query_timeout_s=1e300, max_worker_losses=1),
    ],
)
def test_a_written_command_line_reads_back(made: RunConfig) -> None:
    """What to_argv writes, parse reads to an equal configuration, to the last bit of each number."""
    assert made == parse(to_argv(made))


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--max-new-tokens", "0"),
        ("--max-new-tokens", "-5"),
        ("--max-new-tokens", "1.5"),
        ("--max-samples", "0"),
        ("--max-samples", "many"),
        ("--target-qps", "0"),
        ("--target-qps", "-1"),
        ("--target-qps", "nan"),
        ("--target-qps", "inf"),
        ("--ready-timeout-s", "0"),
        ("--ready-timeout-s", "nan"),
        ("--worker-timeout-s", "-1"),
        ("--worker-timeout-s", "1.9"),
        ("--stall-timeout-s", "1.9"),
        ("--stall-timeout-s", "soon"),
        ("--no-worker-timeout-s", "1.9"),
        ("--no-worker-timeout-s", "inf"),
        ("--query-timeout-s", "0"),
        ("--query-timeout-s", "-0.5"),
        ("--query-timeout-s", "never"),
        ("--max-worker-losses", "0"),
        ("--max-worker-losses", "-1"),
        ("--max-worker-losses", "2.5"),
        ("--on-worker-loss", "report"),
        ("--on-worker-loss", "FAIL"),
        ("--on-overdue-query", "ignore"),
        ("--on-overdue-query", ""),
        ("--scenario", "singlestream"),
        ("--scenario", "Offline"),
    ],
)
def test_a_bad_value_is_named_with_its_flag(flag: str, value: str) -> None:
    """A value out of bounds or of the wrong type is a ValueError of one line with the flag and the value."""
    with pytest.raises(ValueError) as caught:
        parse([*NEEDED, f"{flag}={value}"])
    message = str(caught.value)
    assert flag in message
    assert value in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "workers, named",
    [
        ("", "''"),
        ("host", "'host'"),
        ("host:", "'host:'"),
        (":50051", "':50051'"),
        ("host:0", "'host:0'"),
        ("host:65536", "'host:65536'"),
        ("host:-1", "'host:-1'"),
        ("host:1.5", "'host:1.5'"),
        ("a:1,,b:2", "''"),
        ("a:1,b:2,", "''"),
        ("a:1,b", "'b'"),
        ("a:\u0663", "port"),  # ARABIC-INDIC DIGIT THREE: decimal to Python, no port to gRPC
        ("http://127.0.0.1:52001", "'http://127.0.0.1:52001' is not host:port: the host holds '/'"),
        ("dns:///a:1", "'dns:///a:1' is not host:port: the host holds '/'"),
        ("a:1,b/c:2", "'b/c:2' is not host:port: the host holds '/'"),
        ("a b:1", "'a b:1' is not host:port: the host holds ' '"),
        ("a :1", "'a :1' is not host:port: the host holds ' '"),
        ("a\tb:1", r"'a\tb:1' is not host:port: the host holds '\t'"),
        ("::1:52001", "'::1:52001' is not host:port: an IPv6 address needs brackets"),
        ("dns:a:1", "'dns:a:1' is not host:port: an IPv6 address needs brackets"),
        ("[::1:52001", "'[::1:52001' is not host:port: an IPv6 address needs brackets"),
        ("[]:1", "'[]:1' is not host:port: an IPv6 address needs brackets"),
        ("[::1]:2:52001", "'[::1]:2:52001' is not host:port: an IPv6 address needs brackets"),
        ("a]:1", "'a]:1' is not host:port: an IPv6 address needs brackets"),
        ("a:1,b:2,a:1", "a:1 is named 2 times"),
        ("a:1, a:1", "a:1 is named 2 times"),
    ],
)
def test_a_bad_address_is_named(workers: str, named: str) -> None:
    """An address that is not host:port, or that comes twice, is named with --workers."""
    with pytest.raises(ValueError) as caught:
        parse(["--input-file", "d.parquet", "--workers", workers])
    assert str(caught.value).startswith("--workers: ")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "argv, named",
    [
        (["--workers", "a:1"], "--input-file"),
        (["--input-file", "d"], "--workers"),
        ([*NEEDED, "--bogus", "3"], "--bogus"),
        ([*NEEDED, "--acc"], "--acc"),  # no abbreviations: --acc may mean another flag one day
        ([*NEEDED, "--max-samples"], "--max-samples"),
        ([*NEEDED, "stray"], "stray"),
        ([*NEEDED, "--scenario", "offline", "server"], "--scenario: a run has one, and server is another"),
    ],
)
def test_a_missing_or_unknown_flag_is_named(argv: list[str], named: str) -> None:
    """Needed flags that are missing and flags that do not exist are ValueErrors of one line."""
    with pytest.raises(ValueError) as caught:
        parse(argv)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed, test, expected",
    [
        ({}, None, "mlperf_results/offline/performance"),
        ({"accuracy": True, "scenario": Scenario.SERVER}, None, "mlperf_results/server/accuracy"),
        ({"scenario": Scenario.INTERACTIVE, "output_dir": Path("/o")}, None, "/o/interactive/performance"),
        # The folder of the audit.config decides nothing.
        ({"audit_config": Path("/c/TEST09/audit.config")}, "TEST07", "mlperf_results/offline/TEST07"),
        ({"audit_config": Path("my_audit.config")}, "TEST09", "mlperf_results/offline/TEST09"),
    ],
)
def test_each_kind_of_run_has_its_directory(
    changed: dict[str, object], test: str | None, expected: str
) -> None:
    """Files go to <output-dir>/<scenario>/<mode or compliance test>."""
    tests = {test.name: test for test in BENCHMARK.compliance_tests}
    assert Path(expected) == config(**changed).run_dir(None if test is None else tests[test])


def test_help_tells_of_every_flag() -> None:
    """--help says what each flag means and what its default is, also where that depends on the mode."""
    shown = {action.dest: action.help or "" for action in build_parser()._actions}
    assert [] == [name for name, text in shown.items() if not text.strip() or "None" in text]
    ends = {
        "scenario": "offline",
        "output_dir": "mlperf_results",
        "max_new_tokens": "10240, accuracy 32768",
        "ready_timeout_s": "900.0",
        "worker_timeout_s": "10.0",
        "stall_timeout_s": "120.0",
        "on_worker_loss": "continue",
        "no_worker_timeout_s": "60.0",
        "max_worker_losses": "3",
        "query_timeout_s": "3600.0",
        "on_overdue_query": "fail, accuracy report",
    }
    assert [] == [name for name, end in ends.items() if f"(default {end}" not in shown[name]]
    assert "Server and Interactive need it" in shown["target_qps"]
