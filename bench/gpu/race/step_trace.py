"""Reads a trace of torch's profiler: what each step of vLLM's worker started, and how long that ran.

A step is all that the worker starts between two of its annotations. A kernel belongs to the step in which it
was launched, although the GPU runs it later or as a part of a CUDA graph. In a trace without a GPU the
operators of the CPU take the place of the kernels.
"""

import gzip
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Event = dict[str, Any]
"""One event in Chrome's trace format; times are in microseconds."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Source: vllm/v1/worker/gpu_worker.py, annotate_profile (vLLM 0.25.1 and 0.32.0): requests and tokens of
# prompts, then of answers.
_STEP = re.compile(r"execute_context_\d+\((\d+)\)_generation_\d+\((\d+)\)")
_KERNEL = "kernel"
_ON_GPU = {_KERNEL, "gpu_memcpy", "gpu_memset"}
_LAUNCHES = {"cuda_runtime", "cuda_driver"}


class Call(NamedTuple):
    """One kernel or copy on the GPU, or one operator on the CPU."""

    name: str
    us: float
    """Duration, without that of operators which this one calls."""


class TraceStep(NamedTuple):
    """One step."""

    prompt_tokens: int
    output_tokens: int
    period_us: float
    """From the begin of its first kernel until that of the next step."""
    busy_us: float
    """Part of the period in which a kernel or copy ran, of whichever step."""
    calls: list[Call]


class _Activity(NamedTuple):
    call: Call
    begin_us: float
    duration_us: float
    started_us: float
    """Time at which the CPU launched it; NaN if the trace does not have the launch."""
    is_kernel: bool


class _Mark(NamedTuple):
    """Begin of a step on the CPU."""

    at_us: float
    prompt_tokens: int
    output_tokens: int


def read_steps(path: Path) -> list[TraceStep]:
    """Read the complete steps of a trace: all but the first one and the last one.

    Raises:
        ValueError: The file is not a trace, or has fewer than three steps.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        document = json.loads(data.decode(errors="replace"))
        events = [event for event in document["traceEvents"] if event.get("ph") == "X"]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path.name} is not a trace: {error!r}") from error
    marks = _marks(events)
    activities = sorted(_on_gpu(events) or _on_cpu(events), key=lambda one: one.begin_us)
    if len(marks) < 3 or not activities:
        raise ValueError(f"{path.name} has {len(marks)} steps and {len(activities)} kernels or operators")
    step_of = _step_of(marks, activities)
    begins_us = np.full(len(marks), np.inf)
    calls: list[list[Call]] = [[] for _ in marks]
    for activity, step in zip(activities, step_of.tolist(), strict=True):
        if step >= 0:
            calls[step].append(activity.call)
            if activity.is_kernel:
                begins_us[step] = min(begins_us[step], activity.begin_us)
    busy_us = _busy_until(activities, begins_us)
    return [
        TraceStep(
            prompt_tokens=marks[step].prompt_tokens,
            output_tokens=marks[step].output_tokens,
            period_us=float(begins_us[step + 1] - begins_us[step]),
            busy_us=float(busy_us[step + 1] - busy_us[step]),
            calls=calls[step],
        )
        for step in range(1, len(marks) - 1)
        if begins_us[step] < begins_us[step + 1] < np.inf
    ]


def _marks(events: list[Event]) -> list[_Mark]:
    found = [
        _Mark(float(event["ts"]), int(match[1]), int(match[2]))
        for event in events
        if event.get("cat") == "user_annotation" and (match := _STEP.fullmatch(event["name"]))
    ]
    return sorted(found)


def _on_gpu(events: list[Event]) -> list[_Activity]:
    launched_us = {
        event["args"]["correlation"]: float(event["ts"])
        for event in events
        if event.get("cat") in _LAUNCHES and "correlation" in event.get("args", {})
    }
    return [
        _Activity(
            Call(event["name"], float(event["dur"])),
            float(event["ts"]),
            float(event["dur"]),
            launched_us.get(event.get("args", {}).get("correlation"), np.nan),
            event["cat"] == _KERNEL,
        )
        for event in events
        if event.get("cat") in _ON_GPU
    ]


def _on_cpu(events: list[Event]) -> list[_Activity]:
    threads = defaultdict(list)
    for event in events:
        if event.get("cat") == "cpu_op":
            threads[event["pid"], event["tid"]].append(event)
    return [activity for operators in threads.values() for activity in _of_thread(operators)]


def _of_thread(operators: list[Event]) -> list[_Activity]:
    """Return the operators of one thread; operators that one calls do not count as its own time."""
    ordered = sorted(operators, key=lambda event: (event["ts"], -event["dur"]))
    own_us = [float(event["dur"]) for event in ordered]
    open_ones: list[int] = []
    for index, event in enumerate(ordered):
        while open_ones and event["ts"] >= ordered[open_ones[-1]]["ts"] + ordered[open_ones[-1]]["dur"]:
            open_ones.pop()
        if open_ones:
            own_us[open_ones[-1]] -= float(event["dur"])
        open_ones.append(index)
    return [
        _Activity(Call(event["name"], max(us, 0.0)), event["ts"], event["dur"], event["ts"], is_kernel=True)
        for event, us in zip(ordered, own_us, strict=True)
    ]


def _step_of(marks: list[_Mark], activities: list[_Activity]) -> Ints:
    """Return the index of each activity's step, -1 before the first one.

    One without a launch in the trace belongs to the step of the one before it on the GPU.
    """
    started_us = np.array([activity.started_us for activity in activities])
    at_us = np.array([mark.at_us for mark in marks])
    steps = np.searchsorted(at_us, started_us, side="right") - 1
    known = np.where(np.isnan(started_us), -1, np.arange(len(activities)))
    last_known = np.maximum.accumulate(known)
    found: Ints = np.where(last_known < 0, -1, steps[last_known])
    return found


def _busy_until(activities: list[_Activity], at_us: Floats) -> Floats:
    """Return the time before each moment in which at least one activity ran.

    Args:
        activities: In order of their begins.
        at_us: The moments.
    """
    begins = np.array([activity.begin_us for activity in activities])
    ends = np.maximum.accumulate([activity.begin_us + activity.duration_us for activity in activities])
    gaps = np.flatnonzero(begins[1:] > ends[:-1])
    first_us, last_us = begins[np.r_[0, gaps + 1]], ends[np.r_[gaps, len(ends) - 1]]
    total_us = np.cumsum(last_us - first_us)
    corners_us = np.stack([first_us, last_us], axis=1).ravel()
    until_us = np.stack([total_us - (last_us - first_us), total_us], axis=1).ravel()
    busy: Floats = np.interp(at_us, corners_us, until_us)
    return busy
