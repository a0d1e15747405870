"""`python -m bench.fleet growth`: growth of the coordinator's CPU with workers, requests and frames.

Each point is an Offline run in which all answers have the same length. Between the first tokens and the last
no request begins or ends, and each engine sends one frame per step, with one token per running request.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.command import check_above, check_at_least, check_workers, flag
from bench.fleet.fleet_run import Costs, Exchange, Goal, Left, Shown, Work, common_goals, run
from bench.fleet.notes import Window
from bench.processes import Processes
from bench.workload import draw_prompts
from common.flags import FlagError
from sut.settings import Scenario

PROMPT_TOKENS = 16
PREFILL_TOKENS_PER_S = 1e9
MAX_STEP_TOKENS = 10_000_000
SETTLING_S = 0.5
"""Time left out after the first sample in which all requests run, and before the last one."""
MAX_OFF_LINE = 0.2
MAX_TIMES = 2.0
MIN_SECONDS = 3.0
WORKERS, IN_FLIGHT, FRAMES = "workers", "in flight", "frame rate"
QUICK: dict[str, object] = {
    "seconds": 3.0,
    "by_workers": (4, 8),
    "by_in_flight": (16, 64),
    "by_step_ms": (40.0, 20.0),
    "workers": 4,
    "in_flight": 64,
    "step_ms": 40.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Varied quantities; `workers`, `in_flight` and `step_ms` are the point that all three series share."""

    workers: int = 18
    """Simulated engines in series that vary another quantity, 1..1000."""
    in_flight: int = 1_112
    """Requests per worker in series that vary another quantity, 1 or more."""
    step_ms: float = 40.0
    """Time of a step in ms, above 0, equal to the time between two frames of a worker."""
    by_workers: tuple[int, ...] = (8, 18, 36, 72)
    """Two or more numbers of workers, at equal tokens/s and steps/s."""
    by_in_flight: tuple[int, ...] = (64, 278, 1_112, 2_224)
    """Two or more numbers of requests per worker, at equal frames/s."""
    by_step_ms: tuple[float, ...] = (80.0, 40.0, 20.0, 10.0)
    """Two or more step times in ms, at equal tokens/s."""
    seconds: float = 12.0
    """Duration of the requests of a point in s."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        check_workers("workers", self.workers)
        check_workers("by_workers", *self.by_workers)
        check_at_least(self, in_flight=1, seconds=MIN_SECONDS)
        check_above(self, "step_ms")
        for name in ("by_workers", "by_in_flight", "by_step_ms"):
            values = getattr(self, name)
            if not all(0 < value < float("inf") for value in values) or len(values) < 2:
                raise FlagError(flag(name), f"{values} are not two or more values above 0")

    @property
    def points(self) -> dict[str, list["Point"]]:
        """Return the points of each series."""
        workers, in_flight, step_ms = self.workers, self.in_flight, self.step_ms
        tokens_per_step = workers * in_flight
        return {
            WORKERS: [Point(n, max(round(tokens_per_step / n), 1), step_ms) for n in self.by_workers],
            IN_FLIGHT: [Point(workers, n, step_ms) for n in self.by_in_flight],
            FRAMES: [Point(workers, max(round(in_flight * ms / step_ms), 1), ms) for ms in self.by_step_ms],
        }


class Point(NamedTuple):
    """One load."""

    workers: int
    in_flight: int
    """Requests of each worker, and so tokens of each frame."""
    step_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of a point while all of its requests ran."""

    window_s: float
    frames_per_s: float
    tokens_per_s: float
    cores: float

    @property
    def us_per_frame(self) -> float:
        """Return the CPU time of the coordinator's process per frame."""
        return self.cores / self.frames_per_s * 1e6


def show(plan: Growth, processes: Processes, directory: Path) -> Shown:
    """Run each point once, print each result, and judge the series.

    Raises:
        RuntimeError: A run failed.
    """
    costs: dict[Point, Cost] = {}
    exchanges: list[Exchange] = []
    for point in dict.fromkeys(point for series in plan.points.values() for point in series):
        place = directory / f"{point.workers}-{point.in_flight}-{point.step_ms:g}"
        place.mkdir()
        left = run(_work(point, plan.seconds), processes, place)
        costs[point] = _cost(point, left)
        exchanges.append(left.exchange)
    series = {name: [(point, costs[point]) for point in points] for name, points in plan.points.items()}
    line = fit(list(costs.values()))
    figures = {
        "cores = idle + frame * frames/s + token * tokens/s": line,
        "series": {name: [_columns(*row) for row in rows] for name, rows in series.items()},
    }
    return Shown(figures, [*_goals(series), *common_goals(*exchanges)], table(series))


def x(name: str, point: Point, cost: Cost) -> float:
    """Return the varied quantity of a series."""
    return {WORKERS: float(point.workers), IN_FLIGHT: float(point.in_flight)}.get(name, cost.frames_per_s)


def fit(costs: list[Cost]) -> dict[str, float]:
    """Fit a plane through the points by least squares: idle cores, us per frame, us per 1,000 tokens."""
    rows = np.array([(1.0, cost.frames_per_s, cost.tokens_per_s) for cost in costs])
    idle, frame, token = np.linalg.lstsq(rows, np.array([cost.cores for cost in costs]), rcond=None)[0]
    return {
        "idle, cores": float(idle),
        "frame, us": float(frame * 1e6),
        "1,000 tokens, us": float(token * 1e9),
    }


def off_line(costs: list[Cost]) -> float:
    """Return the largest relative distance of the cores from a least-squares line over frames/s."""
    frames = np.array([cost.frames_per_s for cost in costs])
    cores = np.array([cost.cores for cost in costs])
    line = np.polyval(np.polyfit(frames, cores, 1), frames)
    return float(np.abs(cores / line - 1).max())


def table(series: dict[str, list[tuple[Point, Cost]]]) -> str:
    """Format the series as tables."""
    head = ("workers", "in flight", "step ms", "frames/s", "tokens/s", "cores", "us/frame")
    lines = []
    for name, rows in series.items():
        lines += ["", f"by {name}", "".join(f"{title:>12}" for title in head)]
        lines += [
            f"{p.workers:>12}{p.in_flight:>12}{p.step_ms:>12g}"
            f"{c.frames_per_s:>12,.0f}{c.tokens_per_s:>12,.0f}{c.cores:>12.3f}{c.us_per_frame:>12.0f}"
            for p, c in rows
        ]
    return "\n".join(lines)


def _columns(point: Point, cost: Cost) -> dict[str, float]:
    return point._asdict() | asdict(cost) | {"us_per_frame": cost.us_per_frame}


def _work(point: Point, seconds: float) -> Work:
    # LoadGen issues whole data sets: the data set holds each worker's requests once.
    answer_tokens = max(round(seconds / (point.step_ms / 1e3)), 2)
    num_requests = point.workers * point.in_flight
    return Work(
        scenario=Scenario.OFFLINE,
        workers=point.workers,
        costs=Costs(
            step_base_ms=point.step_ms, step_per_seq_us=0.0, prefill_tokens_per_s=PREFILL_TOKENS_PER_S
        ),
        prompts=draw_prompts(point.in_flight, PROMPT_TOKENS, answer_tokens, answer_tokens),
        max_new_tokens=answer_tokens,
        conf={"target_qps": 1_000.0, "min_query_count": num_requests},
        timeout_s=120.0 + 10.0 * seconds,
        fleet_flags=(
            *("--max-num-seqs", str(point.in_flight), "--max-num-batched-tokens", str(MAX_STEP_TOKENS)),
            *("--frame-hold-ms", "0"),
        ),
    )


def _cost(point: Point, left: Left) -> Cost:
    samples = left.notes.samples
    full = samples[samples[:, 2] >= point.workers * point.in_flight, 0]
    settling_ns = int(SETTLING_S * 1e9)
    if not len(full) or full[-1] - full[0] <= 2 * settling_ns:
        raise RuntimeError(f"{point}: all requests ran for less than {2 * SETTLING_S:g} s: raise --seconds")
    window = Window(int(full[0]) + settling_ns, int(full[-1]) - settling_ns)
    tokens_per_s = left.notes.tokens_per_s(window)
    # A late frame may hold two steps, so tokens per frame are taken over the whole run.
    frames = sum(worker["frames"] for worker in left.record["summary"]["workers"])
    return Cost(
        window_s=window.length_s,
        frames_per_s=tokens_per_s * frames / left.checked.tokens,
        tokens_per_s=tokens_per_s,
        cores=left.cores(window),
    )


def _goals(series: dict[str, list[tuple[Point, Cost]]]) -> list[Goal]:
    goals = [
        Goal.at_most(
            f"a line, by {name}",
            100 * off_line([cost for _, cost in series[name]]),
            100 * MAX_OFF_LINE,
            "% off a straight line over frames/s",
        )
        for name in (WORKERS, FRAMES)
    ]
    rows = sorted(series[IN_FLIGHT])
    times = rows[-1][1].cores / rows[0][1].cores
    more = rows[-1][0].in_flight / rows[0][0].in_flight
    return [
        *goals,
        Goal.at_most("near flat", times, MAX_TIMES, f"times the CPU for {more:.1f} times the tokens"),
    ]
