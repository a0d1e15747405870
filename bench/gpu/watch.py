"""`python -m bench.gpu.watch`: print GPU utilization, one line per reading and GPU.

This is a separate process because the benchmark must be single-threaded while it starts processes.
"""

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.command import installed
from bench.flag_help import prints_usage
from common.flags import FlagError

INTERVAL_S = 0.2
FIRST_TIMEOUT_S = 90.0
"""Time until the first reading: without nvidia-ml-py all of vLLM is imported for its copy."""
FREE_TIMEOUT_S = 15.0
"""Time for the processes of an earlier command to end."""
# NVML counts memory that the driver reserves.
MAX_IDLE_MIB = 3000.0
MAX_IDLE_PERCENT = 20.0
ASK_TIMEOUT_S = 30.0
_QUERY = "--query-gpu=index,utilization.gpu,power.draw,memory.used,clocks.sm"
_MODULES = ("pynvml", "vllm.third_party.pynvml")


class Look(NamedTuple):
    """One reading of one GPU."""

    at_s: float
    """Time of the reading, system clock."""
    gpu: int
    busy_percent: float
    """Share of the driver's last sampling period in which a kernel ran."""
    power_w: float
    used_mib: float
    sm_mhz: float
    """Clock of the multiprocessors."""


class Use(NamedTuple):
    """Average usage of one GPU over a window."""

    num_looks: int
    busy_percent: float
    power_w: float
    used_mib: float
    sm_mhz: float


def wait_free(
    process: "subprocess.Popen[bytes]", log: Path, gpus: Sequence[int], name: str
) -> dict[int, float]:
    """Wait until the watch has readings of all GPUs and no other process uses them.

    Args:
        process: The process of this module.
        log: Its output.
        gpus: Indices of the GPUs; may be empty.
        name: Flag that names them.

    Returns:
        The memory in use of each GPU, in MiB.

    Raises:
        FlagError: There is no GPU with an index.
        RuntimeError: No readings come, or a GPU is in use.
    """
    deadline_s = time.monotonic() + FIRST_TIMEOUT_S
    is_first = True
    while True:
        last = {look.gpu: look for look in read_looks(log)}
        busy = [last[gpu] for gpu in gpus if gpu in last and _is_used(last[gpu])]
        if last and not busy:
            break
        if last and is_first:
            is_first = False
            deadline_s = time.monotonic() + FREE_TIMEOUT_S
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(_why_not_free(busy, log))
        time.sleep(INTERVAL_S)
    for gpu in gpus:
        if gpu not in last:
            raise FlagError(name, f"{gpu} is not one of the GPUs {', '.join(map(str, sorted(last)))}")
    return {gpu: last[gpu].used_mib for gpu in gpus}


def _is_used(look: Look) -> bool:
    return look.used_mib > MAX_IDLE_MIB or look.busy_percent > MAX_IDLE_PERCENT


def _why_not_free(busy: Sequence[Look], log: Path) -> str:
    if busy:
        one = busy[0]
        return f"GPU {one.gpu} is in use: {one.used_mib:.0f} MiB, busy {one.busy_percent:.0f} % of the time"
    said = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-200:]
    return f"no readings of the GPUs: {said or 'the watch prints nothing'}"


def last_used_mib(log: Path, index: int) -> float | None:
    """Return the memory in use at the latest reading of a GPU; None without readings."""
    return next((look.used_mib for look in reversed([*read_looks(log)]) if look.gpu == index), None)


def use_between(log: Path, index: int, begin_s: float, end_s: float) -> Use | None:
    """Average the readings of a GPU in a window; return None without readings."""
    looks = [look for look in read_looks(log) if look.gpu == index and begin_s <= look.at_s <= end_s]
    if not looks:
        return None
    sums = [sum(column) / len(looks) for column in list(zip(*looks, strict=True))[2:]]
    return Use(len(looks), *sums)


def describe_gpus() -> dict[str, str]:
    """Describe the GPUs and the versions of torch, triton and the engines."""
    query = ["nvidia-smi", "--query-gpu=index,name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True)
        gpus = "; ".join(done.stdout.splitlines())
    except (OSError, subprocess.SubprocessError) as error:
        gpus = f"unknown: {error}"
    versions = {name: installed(name) for name in ("torch", "triton", "vllm", "sglang", "sglang-kernel")}
    return {"GPUs": gpus, **versions}


def read_looks(log: Path) -> Iterator[Look]:
    """Parse the readings in this command's output; skip other lines."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if len(words) == len(Look._fields) + 1 and words[0] == "gpu":
            yield Look(float(words[1]), int(words[2]), *map(float, words[3:]))


def main(argv: list[str]) -> int:
    """Print readings until killed; return 1 if neither NVML nor nvidia-smi works."""
    if prints_usage(argv, __doc__):
        return 0
    nvml = _open_nvml()
    looks = _by_nvidia_smi() if nvml is None else _by_nvml(nvml)
    for look in looks:
        say = " ".join(["gpu", *map(str, look)])
        print(say, flush=True)  # noqa: T201 - the result
    return 1


def _open_nvml() -> Any | None:
    for name in _MODULES:
        try:
            nvml = importlib.import_module(name)
            nvml.nvmlInit()
        except (ImportError, OSError) as error:
            print(f"no {name}: {error}", flush=True)  # noqa: T201 - says why
        except Exception as error:  # noqa: BLE001 - NVML's own errors have no type before it is imported
            print(f"{name}: {error}", flush=True)  # noqa: T201 - says why
        else:
            return nvml
    return None


def _by_nvml(nvml: Any) -> Iterator[Look]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    while True:
        for index, handle in enumerate(handles):
            yield Look(
                time.time(),
                index,
                nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
                nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
                nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20,
                nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            )
        time.sleep(INTERVAL_S)


def _by_nvidia_smi() -> Iterator[Look]:
    command = ["nvidia-smi", _QUERY, "--format=csv,noheader,nounits", f"-lms={INTERVAL_S * 1e3:.0f}"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        print(f"no nvidia-smi: {error}", flush=True)  # noqa: T201 - says why
        return
    assert process.stdout is not None
    for line in process.stdout:
        index, *numbers = line.split(",")
        yield Look(time.time(), int(index), *map(float, numbers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
