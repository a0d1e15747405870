"""Compose the user.conf of a run, and check what a run needs from its confs."""

from common.flags import FlagError
from sut.benchmark import BENCHMARK
from sut.loadgen_conf import USER_FLAG, ConfFile
from sut.settings import Mode, Scenario


def planned_qps(user: ConfFile, scenario: Scenario, target_qps: float | None) -> tuple[float, str] | None:
    """Return the planned rate in queries/s and its source; None if only LoadGen's default of 1 applies."""
    if target_qps is not None:
        return target_qps, "--target-qps"
    line = user.applied(scenario).get("target_qps")
    return None if line is None else (float(line.value), f"{USER_FLAG}, line {line.number}")


def compose_user_conf(
    user: ConfFile, *, scenario: Scenario, mode: Mode, num_samples: int, target_qps: float | None
) -> str:
    """Compose the user.conf of a run: defaults for missing settings, the user's lines, values of flags.

    Offline needs min_query_count: mlperf.conf does not set it for this benchmark, and the submission checker
    requires a query with the whole data set. If the data set has fewer rows than mlperf.conf's sample count,
    the count is set to the number of rows: LoadGen crashes if it issues more unique samples than there are
    rows (TEST07).

    Args:
        user: Contents of --user-conf, or NO_USER_CONF.
        scenario: The run's scenario.
        mode: The run's mode.
        num_samples: Rows of the data set.
        target_qps: Value of --target-qps, or None.
    """
    prefix = f"{scenario.model_name}.{scenario.loadgen_name}"
    needed = {}
    if scenario is Scenario.OFFLINE:
        needed["min_query_count"] = min(num_samples, BENCHMARK.performance_sample_count)
    if num_samples < BENCHMARK.performance_sample_count and mode is Mode.PERFORMANCE:
        needed["performance_sample_count_override"] = num_samples
    if num_samples < BENCHMARK.accuracy_sample_count and mode is Mode.ACCURACY:
        needed["accuracy_sample_count_override"] = num_samples
    chosen = user.applied(scenario)
    lines = ["# Written for this run."]
    lines += [f"{prefix}.{key} = {value}" for key, value in needed.items() if key not in chosen]
    if user.text:
        lines += ["# From --user-conf:", user.text.rstrip()]
    if target_qps is not None:
        # Of two lines with the same name LoadGen uses the last; an exact name takes precedence over `*`.
        lines += ["# From --target-qps:", f"{prefix}.target_qps = {target_qps!r}"]
    return "\n".join(lines) + "\n"


def check_rate(user: ConfFile, scenario: Scenario, target_qps: float | None) -> None:
    """Require target_qps in Server and Interactive; LoadGen would otherwise default to 1 query/s.

    Raises:
        FlagError: Neither --target-qps nor --user-conf sets it.
    """
    if scenario is Scenario.OFFLINE or planned_qps(user, scenario, target_qps) is not None:
        return
    key = f"{scenario.model_name}.{scenario.loadgen_name}.target_qps"
    raise FlagError("--target-qps", f"missing, and --user-conf has no {key} either")


def check_count(conf: ConfFile, scenario: Scenario, mode: Mode, num_samples: int) -> None:
    """Refuse a sample count above the data set's number of rows, which would crash LoadGen.

    Args:
        conf: user.conf or audit.config.
        scenario: The run's scenario.
        mode: The run's mode.
        num_samples: Rows of the data set.

    Raises:
        FlagError: Names key, value and bound.
    """
    key = f"{mode}_sample_count_override"
    line = conf.applied(scenario).get(key)
    if line is not None and not 1 <= int(line.value) <= num_samples:
        raise FlagError(conf.flag, f"{key} is {line.value}, not in 1..{num_samples}, the data set's rows")
