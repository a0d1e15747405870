"""Tables, medians and ratios of bench.gpu's rounds, and the configuration in engine logs."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from bench.gpu.found import Found, Round

Figure = Callable[[Round], float]
# Lines of vLLM's log about its configuration, equal on every side; start-up lines go to the file only.
_CONFIG = re.compile(r"Initializing a V1 LLM engine \(v(?P<version>[^)]*)\) with config: (?P<config>.*)")
_SETTINGS = re.compile(
    r"Chunked prefill is enabled with max_num_batched_tokens=\d+|Asynchronous scheduling is \w+"
    r"|Using '?\S+'? \S*(?:backend|MoE)[^(]*"
)
_START = re.compile(
    r"Model loading took .*|Graph capturing finished .*|init engine .* took .*|torch.compile took .*"
    r"|(?:GPU|CPU) KV cache size: .*|Maximum concurrency .*|warmed up on .*"
)
_FIELD = re.compile(r",? ?(\w+)=")
# Fields that name files and ports of one side, or that do not affect a run.
_OWN_FIELDS = {"served_model_name"}


def ratios(found: Found, side: str, reference: str, figure: Figure) -> list[float]:
    """Return figure of `side` / figure of `reference` for each round number."""
    beside = {one.number: figure(one) for one in found.counted(reference)}
    return [figure(one) / beside[one.number] for one in found.counted(side) if beside.get(one.number)]


def table(found: Found, sides: Sequence[str]) -> str:
    """Format every round, then the medians of each side."""
    lines = ["", HEAD]
    for one in found.rounds:
        if not one.warm_up:
            left_out = "  unequal work: left out" if one.is_unequal else ""
            lines.append(_row(f"{one.number:>5}", one.side, [one]) + left_out)
    lines += ["", HEAD]
    lines += [_row("  med", side, found.counted(side)) for side in sides if found.counted(side)]
    return "\n".join(lines)


HEAD = (
    f"{'round':>5} {'side':<13}{'GPUs':<7}{'s':>8}{'requests':>10}{'tokens':>10}{'tokens/s':>10}"
    f"{'before tail':>12}{'kernels':>8}{'GPU %':>7}{'W':>6}{'front s/Mtok':>14}{'client':>8}{'engine':>8}"
)


def _row(number: str, side: str, rounds: list[Round]) -> str:
    uses = [use for one in rounds for use in one.gpu if use is not None]
    busy = f"{median(use.busy_percent for use in uses):.0f}" if uses else "-"
    power = f"{median(use.power_w for use in uses):.0f}" if uses else "-"
    places = sorted({",".join(map(str, one.gpus)) or "CPU" for one in rounds})

    def mid(figure: Figure) -> float:
        return median(figure(one) for one in rounds)

    return (
        f"{number} {side:<13}{' '.join(places):<7}{mid(lambda one: one.seconds):>8.2f}"
        f"{mid(lambda one: one.requests):>10.0f}{mid(lambda one: one.tokens):>10.0f}"
        f"{mid(lambda one: one.tokens_per_s):>10.0f}"
        f"{_median_or_dash(one.tokens_per_s_before_tail for one in rounds):>12}"
        f"{_median_or_dash(one.compiled_kernels for one in rounds):>8}{busy:>7}{power:>6}"
        f"{mid(lambda one: one.per_mtok(one.front_cpu_s)):>14.1f}"
        f"{mid(lambda one: one.per_mtok(one.client_cpu_s)):>8.1f}"
        f"{mid(lambda one: one.per_mtok(one.engine_cpu_s)):>8.1f}"
    )


def _median_or_dash(values: Iterable[float | None]) -> str:
    """Format the median; a dash if a value is not known."""
    known = list(values)
    return "-" if None in known else f"{median(value for value in known if value is not None):.0f}"


def ratio_lines(found: Found, sides: Sequence[str]) -> list[str]:
    """Compare each side's tokens/s with the first side's, over the whole round and before its tail."""
    figures: tuple[tuple[str, Figure], ...] = (
        ("tokens/s", lambda one: one.tokens_per_s),
        ("tokens/s before the tail", lambda one: one.tokens_per_s_before_tail or 0.0),
    )
    return [
        f"{what} {side} / {sides[0]}: {_of_pairs(values)}; {_loads(found, (side, sides[0]))}"
        for side in sides[1:]
        for what, figure in figures
        if all(values := ratios(found, side, sides[0], figure)) and values
    ]


def _of_pairs(values: Sequence[float]) -> str:
    """Format the ratios of pairs of rounds; one pair does not show how much they scatter."""
    each = " ".join(f"{value:.4f}" for value in values)
    if len(values) == 1:
        return f"{each} in one pair, its noise is not known"
    return f"median {median(values):.4f} of {len(values)} pairs ({each})"


def _loads(found: Found, sides: Sequence[str]) -> str:
    """Say how many loads of each side were measured: equal loads differ too."""
    names = [start["side"] for start in found.starts]
    return "loads: " + ", ".join(f"{side} {names.count(side)}" for side in sides)


def compiled_lines(found: Found) -> list[str]:
    """Name the rounds whose time includes the compilation of kernels: other rounds do not have it."""
    return [
        f"{one.side} compiled {one.compiled_kernels} kernels within {one.plan}, round {one.number}"
        for one in found.rounds
        if one.is_counted and one.compiled_kernels
    ]


def start_lines(found: Found) -> list[str]:
    """List the duration of each load."""
    return [
        f"start of {start['side']} on {start['gpus'] or 'the CPU'}: engine {start['engine_s']:.1f} s, "
        f"serving {start['serving_s']:.1f} s"
        for start in found.starts
    ]


def read_config(log: Path) -> dict[str, str]:
    """Read an engine's configuration from its log, by name."""
    text = log.read_text(encoding="utf-8", errors="replace")
    said = _CONFIG.search(text)
    config: dict[str, str] = {} if said is None else {"version": said["version"]}
    if said is not None:
        names = [*_FIELD.finditer(said["config"])]
        ends = [name.start() for name in names[1:]] + [len(said["config"])]
        config |= {name[1]: said["config"][name.end() : end] for name, end in zip(names, ends, strict=True)}
    for line in sorted({found.group().strip() for found in _SETTINGS.finditer(text)}):
        config[line] = "said"
    return {name: value for name, value in config.items() if name not in _OWN_FIELDS}


def read_start(log: Path) -> list[str]:
    """Read the start-up lines of an engine's log."""
    return [said.group() for said in _START.finditer(log.read_text(encoding="utf-8", errors="replace"))]


def differences(configs: dict[str, dict[str, str]]) -> list[str]:
    """List the differences between the configurations of several sides."""
    names = sorted({name for config in configs.values() for name in config})
    lines = []
    for name in names:
        values = {side: config.get(name, "not logged") for side, config in configs.items()}
        if len(set(values.values())) > 1:
            lines.append(f"{name}: " + ", ".join(f"{side} {value}" for side, value in values.items()))
    return lines
