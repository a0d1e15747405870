"""The coordinator's flags; flags that the MLPerf reference also has keep its names."""

import argparse
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from common import config_file
from common.config_file import ConfigFile, join_lists
from common.exposure import refuse_exposed
from common.flags import Flag, FlagError, Parser, UnknownFlagsError, add_flags, build
from common.tls import WorkerAccessFlags
from coordinator.reference_flags import refuse_reference_flags
from sut.benchmark import BENCHMARK, ComplianceTest
from sut.settings import Mode, Scenario


class LossPolicy(StrEnum):
    """Effect of a worker's loss on the run."""

    CONTINUE = "continue"
    FAIL = "fail"


class OverduePolicy(StrEnum):
    """Treatment of a query that is older than its deadline; each policy also lists these queries."""

    REPORT = "report"
    CONTINUE = "continue"
    FAIL = "fail"


# Flags of every program that sends requests to workers.
WorkerAddresses = Annotated[
    tuple[str, ...],
    Flag("addresses of workers, or of nodes with several replicas", metavar="HOST:PORT[,HOST:PORT...]"),
]
ReadyTimeout = Annotated[
    float, Flag("longest wait until every worker is SERVING, in seconds", gt=0, metavar="S")
]
# The limits of at least 2 s are counted once a second, in whole seconds: a worker that does well may already
# seem silent, stalled or gone for one second, and for two after this process was suspended.
WorkerTimeout = Annotated[
    float,
    Flag(
        "a worker that sends nothing, not even a reply to a ping, for this long is lost, in seconds; "
        "workers are pinged after one silent second",
        ge=2,
        metavar="S",
    ),
]
StallTimeout = Annotated[
    float,
    Flag("a worker with requests that sends no token for this long is lost, in seconds", ge=2, metavar="S"),
]
NoWorkerTimeout = Annotated[
    float, Flag("the run fails if there is no worker for this long, in seconds", ge=2, metavar="S")
]
MaxWorkerLosses = Annotated[
    int, Flag("the run fails if one request has lost its worker this many times without a new token", ge=1)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(WorkerAccessFlags):
    """One run."""

    scenario: Annotated[
        Scenario,
        Flag("LoadGen's scenario; interactive is Server with the latency limits of Interactive"),
    ] = Scenario.OFFLINE
    accuracy: Annotated[bool, Flag("accuracy mode instead of performance")] = False
    input_file: Annotated[Path, Flag("parquet or pickle file with a column tok_input or input_tokens")]
    workers: WorkerAddresses
    output_dir: Annotated[
        Path,
        Flag("a run writes its files to <scenario>/<performance|accuracy|TESTnn>/ in it", metavar="DIR"),
    ] = Path("mlperf_results")
    overwrite: Annotated[bool, Flag("replace the directory of an earlier run")] = False
    verbose: Annotated[bool, Flag("list the passing checks, too, in the table at the end")] = False
    loadgen_trace: Annotated[
        bool, Flag("let LoadGen write its trace, about 1 kB per query, and read the scheduled times from it")
    ] = False
    live_view: Annotated[
        bool,
        Flag("show the run live if stderr is a terminal; otherwise a line is printed every 10 s"),
    ] = True
    requests_jsonl: Annotated[
        bool, Flag("also write the requests of requests.parquet as JSON lines, to requests.jsonl")
    ] = False
    report: Annotated[bool, Flag("write report.html into the run's directory when the verdict is known")] = (
        True
    )
    user_conf: Annotated[Path | None, Flag("LoadGen's user.conf; its lines are copied to the run's")] = None
    generation_config: Annotated[
        Path | None,
        Flag("sampling parameters, JSON in the reference's format", default_text="temperature 1, top_p 1"),
    ] = None
    max_new_tokens: Annotated[
        int | None, Flag("longest answer in tokens", ge=1, default_text="10240, accuracy 32768")
    ] = None
    max_samples: Annotated[
        int | None, Flag("use only the first N rows of the input file", ge=1, default_text="all")
    ] = None
    target_qps: Annotated[
        float | None,
        Flag(
            "LoadGen's target_qps, in queries/s; Server and Interactive need it, here or in the user.conf",
            gt=0,
            metavar="QPS",
        ),
    ] = None
    max_over_latency: Annotated[
        int | None,
        Flag(
            "Server and Interactive: the run fails once more than N queries are over LoadGen's limit of TTFT "
            "or of TPOT, see find-qps.md",
            ge=0,
            default_text="it goes on to its end",
        ),
    ] = None
    compliance: Annotated[
        str | None,
        Flag(
            "run a compliance test with its official audit settings",
            choices=lambda: [test.name for test in BENCHMARK.compliance_tests],
        ),
    ] = None
    audit_config: Annotated[
        Path | None,
        Flag("audit.config of a compliance test, TEST07 or TEST09 by its keys, instead of --compliance"),
    ] = None
    ungraded: Annotated[
        bool,
        Flag("permit accuracy and TEST07 on data without the columns by which answers are graded"),
    ] = False
    tokenizer: Annotated[
        Path | None,
        Flag(
            "directory with the model's tokenizer.json: scores an accuracy run or TEST07 at its end",
            metavar="DIR",
        ),
    ] = None
    lcb_tests: Annotated[
        Path | None, Flag("tests of the LiveCodeBench questions, to score an accuracy run; needs --tokenizer")
    ] = None
    network_sut: Annotated[
        bool,
        Flag(
            "Network division: --workers is the address of a `tokenfleet network-sut`, each message has one "
            "sample, and a loss of the connection fails the run"
        ),
    ] = False
    random_weights: Annotated[
        bool, Flag("the model's weights are random: degenerate answers are a warning, never INVALID")
    ] = False
    ready_timeout_s: ReadyTimeout = 900.0
    worker_timeout_s: WorkerTimeout = 10.0
    stall_timeout_s: StallTimeout = 120.0
    on_worker_loss: Annotated[
        LossPolicy,
        Flag(
            "when a worker is lost: continue moves its requests to other workers and readmits it when it "
            "returns, fail ends the run"
        ),
    ] = LossPolicy.CONTINUE
    no_worker_timeout_s: NoWorkerTimeout = 60.0
    max_worker_losses: MaxWorkerLosses = 3
    query_timeout_s: Annotated[
        float,
        Flag(
            "a query that has been on its worker for longer is overdue and is listed, in seconds",
            gt=0,
            metavar="S",
        ),
    ] = 3600.0
    on_overdue_query: Annotated[
        OverduePolicy | None,
        Flag(
            "when a query is overdue: report only lists it, continue moves it to another worker, fail ends "
            "the run",
            default_text="fail, accuracy report",
        ),
    ] = None
    log_stall_timeout_s: Annotated[
        float,
        Flag(
            "the run fails if LoadGen's logs do not grow for this long after the last completion, or cannot "
            "be read for this long, in seconds",
            gt=0,
            metavar="S",
        ),
    ] = 120.0
    metrics_port: Annotated[
        int | None,
        Flag(
            "serve the run's Prometheus metrics at this TCP port, from a process of its own",
            ge=1,
            le=65535,
            metavar="PORT",
            default_text="no metrics",
        ),
    ] = None
    metrics_host: Annotated[
        str,
        Flag(
            "address of --metrics-port; an address other than loopback needs --metrics-tls-cert or "
            "--metrics-insecure",
            metavar="HOST",
        ),
    ] = "127.0.0.1"
    metrics_insecure: Annotated[
        bool, Flag("serve metrics in plaintext on an address that is not loopback")
    ] = False
    metrics_tls_cert: Annotated[
        Path | None, Flag("serve metrics with TLS, with this certificate (PEM); needs --metrics-tls-key")
    ] = None
    metrics_tls_key: Annotated[
        Path | None, Flag("private key of --metrics-tls-cert (PEM, not encrypted)")
    ] = None
    config_file: ConfigFile | None = None
    """File of --config, the source of flags that the command line does not give."""

    def _check_together(self) -> None:
        _check_utf8("--output-dir", self.output_dir)
        if self.network_sut and len(self.workers) > 1:
            raise FlagError("--network-sut", f"--workers names {len(self.workers)} addresses, not one")
        if self.network_sut and self.on_overdue_query is OverduePolicy.CONTINUE:
            raise FlagError("--network-sut", "--on-overdue-query continue would send a sample twice")
        self._check_max_over_latency()
        if self.compliance is not None and self.accuracy:
            raise FlagError("--accuracy", f"--compliance {self.compliance} is a performance run")
        if self.compliance is not None and self.audit_config is not None:
            reason = f"--compliance {self.compliance} has the official settings; give one of the two"
            raise FlagError("--audit-config", reason, self.audit_config)
        if not self.metrics_insecure and self.metrics_tls_cert is None:
            refuse_exposed(
                self.metrics_host,
                "--metrics-tls-cert and --metrics-tls-key",
                flag="--metrics-host",
                insecure_flag="--metrics-insecure",
            )
        check_addresses(self.workers)

    def _check_max_over_latency(self) -> None:
        """Refuse --max-over-latency where LoadGen has no latency limits."""
        if self.max_over_latency is None:
            return
        if self.scenario is Scenario.OFFLINE:
            raise FlagError("--max-over-latency", f"{self.scenario} has no latency limits")
        if self.accuracy:
            raise FlagError("--max-over-latency", "--accuracy has no latency limits")

    @property
    def mode(self) -> Mode:
        """What the run measures."""
        return Mode.ACCURACY if self.accuracy else Mode.PERFORMANCE

    @property
    def continues_on_loss(self) -> bool:
        """Whether requests of a lost worker continue elsewhere; LoadGen's node sends no sample twice."""
        return self.on_worker_loss is LossPolicy.CONTINUE and not self.network_sut

    @property
    def stall_limit_s(self) -> float:
        """The effective --stall-timeout-s; a Network SUT itself watches its workers."""
        return math.inf if self.network_sut else self.stall_timeout_s

    @property
    def overdue_policy(self) -> OverduePolicy:
        """The effective policy. Default: fail; report in accuracy mode, where queries may wait for hours."""
        default = OverduePolicy.REPORT if self.accuracy else OverduePolicy.FAIL
        return self.on_overdue_query or default

    def run_dir(self, test: ComplianceTest | None) -> Path:
        """Return the directory of this run's files.

        Args:
            test: The compliance test of the audit.config; None without one.
        """
        return self.output_dir / self.scenario / (self.mode if test is None else test.name)


def _check_utf8(flag: str, path: Path) -> None:
    """Require a path that is UTF-8: LoadGen takes no other.

    Raises:
        FlagError: It is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise FlagError(flag, f"{str(path)!a} is not UTF-8") from error


def check_addresses(addresses: Sequence[str]) -> None:
    """Check the addresses of workers.

    Raises:
        FlagError: One is not host:port, or is named twice.
    """
    for address in addresses:
        _check_address(address)
        if addresses.count(address) > 1:
            raise FlagError("--workers", f"{address} is named {addresses.count(address)} times")


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise FlagError("--workers", f"{address!r} is not host:port with a port in 1..65535")
    # gRPC would read it as a URI scheme, or try to resolve it until --ready-timeout-s.
    if stray := re.search(r"[\s/]", host):
        raise FlagError("--workers", f"{address!r} is not host:port: the host holds {stray[0]!r}")
    if not re.fullmatch(r"\[[^][]+\]|[^][:]+", host):
        reason = (
            f"{address!r} is not host:port: an IPv6 address needs brackets, as in [::1]:50051, "
            "and any other host has no ':'"
        )
        raise FlagError("--workers", reason)


def parse(argv: list[str]) -> RunConfig:
    """Read the command line.

    Raises:
        ValueError: Names flag, value and bound.
    """
    file, full_argv = expand(argv)
    try:
        return to_config(build_parser().parse_args(full_argv), file)
    except UnknownFlagsError as error:
        if error.words[0] in set(Scenario):
            reason = f"a run has one, and {error.words[0]} is another; `tokenfleet local` takes several"
            raise FlagError("--scenario", reason) from error
        raise


def expand(argv: list[str]) -> tuple[ConfigFile | None, list[str]]:
    """Return the file of --config, and its flags followed by those of the command line.

    Raises:
        FlagError: Names file and key: not readable, not TOML, or an unknown flag; or a flag that only the
            reference has, and what to use instead.
    """
    refuse_reference_flags(argv)
    file, table = config_file.read(argv, "coordinator", [RunConfig], is_complete=True)
    return file, [*config_file.to_argv(join_lists(RunConfig, table), argv), *argv]


def to_config(values: argparse.Namespace, file: ConfigFile | None) -> RunConfig:
    """Build a configuration from parsed values and the file that some of them come from.

    Raises:
        FlagError: Names flag, value and bound.
    """
    return build(RunConfig, values, config_file=file)


def build_parser(
    defaults: Mapping[str, object] | None = None,
    *,
    description: str = "Run MLPerf LoadGen against tokenfleet workers.",
    epilog: str | None = None,
    hidden: Collection[str] = (),
    prints: bool = True,
) -> Parser:
    """Build the parser; a flag that a program adds replaces the run's flag of that name.

    Args:
        defaults: Values by field that replace RunConfig's defaults; their flags are not required.
        description: Sentence before the flags in --help.
        epilog: Text behind them.
        hidden: Fields whose flags the program refuses; --help does not list them.
        prints: Whether the program has --print-config.
    """
    parser = Parser(allow_abbrev=False, description=description, epilog=epilog, conflict_handler="resolve")
    add_flags(parser, RunConfig, defaults, hidden)
    config_file.add_flags(parser, prints=prints)
    return parser


def to_argv(config: RunConfig) -> list[str]:
    """Return the command line for which `parse` returns this configuration."""
    file = [] if config.config_file is None else [f"--config={config.config_file.path}"]
    return [*file, *config_file.to_argv(join_lists(RunConfig, config_file.to_table(config)))]
