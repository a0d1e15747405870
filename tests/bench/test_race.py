"""bench.gpu race: the requests of the steady state, the figures of a window, the order, and the journal."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.gpu.__main__ import main
from bench.gpu.race.journal import Finals, Journal, coming, standing
from bench.gpu.race.race_command import journal_plan
from bench.gpu.race.race_file import read_race_file
from bench.gpu.race.race_flags import RACE_FILE, RacePlan
from bench.gpu.race.race_table import HEAD, window_line
from bench.gpu.race.steady_load import RaceLengths, SteadyLoad, share_prefixes
from bench.gpu.race.step_log import (
    StepLog,
    StepRecord,
    WindowSetting,
    fit_step_ms,
    life_tpot_ms,
    window_figures,
)
from common.flags import FlagError
from tests.bench.outliving import run_bench
from worker.engines.model.preset import read_preset

RESULTS = Path(__file__).parents[2] / "bench/results"
ABBA = Finals(num_finalists=2, num_runs=2)
ENTRY = '[[configuration]]\nname = "a"\nrows = [8, 4]\n'


def test_running_requests_are_uniform_over_their_answers() -> None:
    """Prompts of 6, answers of 4: of four requests one each has 0, 1, 2 and 3 tokens of its answer."""
    lengths = RaceLengths(mean_prompt_len=6, max_prompt_len=6, mean_answer_len=4, max_answer_len=4)
    running = SteadyLoad(lengths).running(4)
    assert [1, 2, 3, 4] == sorted(running.remaining_lens.tolist())
    assert [10] * 4 == (running.context_lens + running.remaining_lens).tolist()


def test_the_state_is_steady_from_the_first_step() -> None:
    """Of 2,000 requests 2,000 / 1,278 end per step, and the mean context is the same after 400 steps."""
    load = SteadyLoad(RaceLengths())
    contexts, remaining = load.running(2000)
    following = load.following()
    expected = load.mean_context_len
    assert contexts.mean() == pytest.approx(expected, rel=0.03)
    num_ends = 0
    for _ in range(400):
        contexts, remaining = contexts + 1, remaining - 1
        ended = np.flatnonzero(remaining == 0)
        num_ends += len(ended)
        for row in ended.tolist():
            contexts[row], remaining[row] = next(following)
    assert contexts.mean() == pytest.approx(expected, rel=0.03)
    assert num_ends == pytest.approx(400 * 2000 / 1278, rel=0.05)


def test_following_requests_have_the_official_means() -> None:
    """A hundred strata of 64 requests have the mean prompt and the mean answer within 2 %."""
    drawn = np.array(list(islice(SteadyLoad(RaceLengths()).following(), 6400)))
    assert drawn.mean(0).tolist() == pytest.approx([1500, 1278], rel=0.02)


def test_requests_of_one_prefix_are_far_apart() -> None:
    """Contexts of 40 and 30 share 40 tokens, 20 and 10 share 20; two neighbors never share."""
    shared = share_prefixes(np.array([10, 40, 20, 30]), 2, seed=0)
    assert [40, 20] == shared.prefix_lens.tolist()
    assert [1, 0, 1, 0] == shared.prefix_of.tolist()
    sent = shared.prefix_of[shared.order].tolist()
    assert [0, 1, 2, 3] == sorted(shared.order.tolist())
    assert sorted(sent[:2]) == sorted(sent[2:]) == [0, 1]


def step(at_ms: float, output_tokens: int, prompt_tokens: int = 0, context_tokens: int = 0) -> StepRecord:
    """Build a step in which each request has one token."""
    return StepRecord(
        at_ns=round(at_ms * 1e6),
        rows=output_tokens,
        output_tokens=output_tokens,
        prompt_tokens=prompt_tokens,
        cached_tokens=0,
        preemptions=0,
        kv_use=0.5,
        context_tokens=context_tokens,
    )


def test_a_window_is_brought_to_the_ratio_of_the_steady_state() -> None:
    """Steps of 10 ms plus 10 us per prompt token, 10 requests: at a ratio of 50, 500 prompt tokens a step.

    That is 15 ms a step, 667 tokens/s; the window itself has 300 a step: 13 ms, 769 tokens/s.
    """
    steps = [step(0, 10), step(10, 10), step(23, 10, 300), step(39, 10, 600, context_tokens=1600)]
    setting = WindowSetting(50.0, np.array([2, 2]), num_blocks=500, block_size=16)
    figures = window_figures(steps, setting)
    assert (3, 30, 900) == (figures["steps"], figures["output_tokens"], figures["prompt_tokens"])
    assert figures["tokens_per_s"] == pytest.approx(30 / 0.039)
    assert figures["steady_tokens_per_s"] == pytest.approx(10 / 0.015)
    assert figures["step_ms_without_prefill"]["p50"] == pytest.approx(10.0)
    # 100 blocks of contexts, and for each of 10 requests half a block and 9 of its sliding window.
    assert figures["kv_use_unshared"] == pytest.approx(195 / 500)


def test_a_window_begins_with_the_step_before_it() -> None:
    """The first step in the window is measured from the end of the one before it."""
    log = StepLog([step(at_ms, 1) for at_ms in (1, 2, 3, 4)])
    assert [1.0, 2.0, 3.0] == [one.at_ns / 1e6 for one in log.between(2_000_000, 4_000_000)]
    assert [] == log.between(9_000_000, 10_000_000)


def test_equal_steps_have_one_time_per_token() -> None:
    """Steps of 20 ms: requests shorter and longer than the window have 20 ms; a fit has no slope."""
    steps_ms = np.full(10, 20.0)
    assert {20.0} == {round(value, 9) for value in life_tpot_ms(steps_ms, np.array([2, 5, 500])).tolist()}
    assert (20.0, 0.0) == fit_step_ms(steps_ms, np.full(10, 7.0))
    # A step with prefill that happens to be faster does not make prefill a gain.
    assert (15.0, 0.0) == fit_step_ms(np.array([20.0, 10.0]), np.array([0.0, 100.0]))


def run_of(
    name: str, figures: Sequence[tuple[int, float, float]], failure: str | None = None
) -> dict[str, Any]:
    """Build a run with windows of requests, tokens/s and use of the KV cache without shared prefixes."""
    windows = [
        {"rows": rows, "steady_tokens_per_s": tokens_per_s, "kv_use_unshared": kv_use}
        for rows, tokens_per_s, kv_use in figures
    ]
    return {"name": name, "windows": windows, "failure": failure}


def test_winners_are_repeated_in_turns() -> None:
    """After one run of each of a, b and c, the two best run A B B A; a race that stopped continues there."""
    assert ["a", "b", "c"] == coming([], ["a", "b", "c"], ABBA)
    runs = [run_of("a", [(8, 100, 0.5)]), run_of("b", []), run_of("c", [(8, 120, 0.5)])]
    assert ["b", "c"] == coming(runs[:1], ["a", "b", "c"], ABBA)
    order = []
    while names := coming(runs, ["a", "b", "c"], ABBA):
        order.append(names[0])
        # Later figures do not change who is in the final; a failed run is not repeated.
        runs.append(run_of(names[0], [], failure="out of memory"))
    assert ["c", "a", "a", "c"] == order


def test_an_interrupted_run_is_made_again() -> None:
    """The interrupted run of b has a window, which counts, and b is still to be run."""
    interrupted = run_of("b", [(8, 120, 0.5)], failure="interrupted") | {"interrupted_with": 130}
    runs = [run_of("a", [(8, 100, 0.5)]), interrupted]
    assert ["b"] == coming(runs, ["a", "b"], ABBA)
    assert ["b", "a"] == [one["name"] for one in standing(runs)]


class TellingPipe:
    """In place of an engine's output: one window, and then a failure."""

    window: ClassVar[dict[str, Any]] = {}
    journal: ClassVar[Path] = Path()
    kept: ClassVar[dict[str, Any]] = {}
    """The journal after the window."""

    def __init__(self, *_: object) -> None:
        figures = {"prefill_group_tokens": 0, **self.window}
        names = ("imported", "loaded", "running")
        self._left = [{"part": name, "after_s": 1.0} for name in names]
        self._left.append({"part": "window", "figures": figures})

    def take(self, _: float) -> dict[str, Any]:
        """Return the next message."""
        if not self._left:
            type(self).kept = json.loads(self.journal.read_text())
            return {"part": "failed", "reason": "no memory"}
        return self._left.pop(0)


def test_a_window_is_in_the_journal_before_its_run_has_ended(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the machine is lost now, the run has its window and is made again; its end replaces it."""
    stored = json.loads((RESULTS / "2026-11-30-h200-even-experts" / "journal.json").read_text())
    monkeypatch.setattr(TellingPipe, "window", stored["runs"][0]["windows"][0])
    monkeypatch.setattr(TellingPipe, "journal", tmp_path / "journal.json")
    monkeypatch.setattr("bench.gpu.race.race_command.Pipe", TellingPipe)
    (tmp_path / "race.toml").write_text("[flags]\n" + ENTRY)
    argv = ["race", "--journal", str(tmp_path), "--configs", str(tmp_path / "race.toml")]
    assert 0 == main([*argv, "--model", str(checkpoint), "--finalists", "0"])
    (lost,) = TellingPipe.kept["runs"]
    assert (1, "the command was lost") == (len(lost["windows"]), lost["failure"])
    assert ["a"] == TellingPipe.kept["next"] == coming([lost], ["a"], ABBA)
    (ended,) = json.loads((tmp_path / "journal.json").read_text())["runs"]
    assert (1, "no memory") == (len(ended["windows"]), ended["failure"].partition(": ")[2])


def test_the_standing_says_why_a_configuration_is_behind() -> None:
    """The last window of equal requests counts, and none whose requests would not fit without sharing."""
    runs = [
        run_of("cold", [(8, 50, 0.5), (8, 90, 0.5)]),
        run_of("large", [(16, 200, 1.2), (8, 100, 0.6)]),
        run_of("broken", [], failure="no such backend"),
    ]
    found = [(one["name"], one["steady_tokens_per_s"], one["behind"]) for one in standing(runs)]
    assert [
        ("large", 100, ""),
        ("cold", 90, "10.0 % below large"),
        ("broken", 0.0, "no such backend"),
    ] == found


def test_the_race_file_is_valid() -> None:
    """A configuration has its flags and the common ones, and a slot per request of its first window."""
    found = {one.name: one for one in read_race_file(RACE_FILE)}
    argv = found["bf16-kv"].argv(16_096)
    assert {"--max-num-seqs=512", "--enable-prefix-caching", "--kv-cache-dtype=auto"} <= set(argv)
    assert {"--load-format=dummy", "--moe-backend=triton", "--max-model-len=16096"} <= set(argv)


def test_figures_of_few_experts_and_of_all_do_not_share_a_journal() -> None:
    """The stored journal is of vLLM's own random weights; it is refused now, with its path."""
    reason = "was written with random_weights None, not even-experts: use another directory"
    with pytest.raises(FlagError, match=reason):
        Journal(RESULTS / "2026-11-30-h200-race", journal_plan(RacePlan()))


@pytest.mark.parametrize(
    ("race_file", "results", "following"),
    [
        ("h200.toml", "2026-11-30-h200-even-experts", "flashinfer-cutlass"),
        ("h200_interactive.toml", "2026-11-30-h200-few-rows", "batched-2048-flashinfer-cutlass"),
    ],
)
def test_a_stored_race_continues_with_its_race_file(race_file: str, results: str, following: str) -> None:
    """The configurations with a run have the values of it, and the first one without a run is next."""
    configurations = read_race_file(RACE_FILE.with_name(race_file))
    journal = Journal(RESULTS / results, journal_plan(RacePlan()))
    journal.check(configurations)
    assert following == journal.next(configurations, ABBA)[0]


def test_the_race_of_presets_has_their_flags() -> None:
    """Each preset's configuration has its flags and rows as sequences; the winner has those for Offline."""
    by_name = {one.name: one for one in read_race_file(RACE_FILE.with_name("h200_seed_presets.toml"))}
    presets = {"winner": "h200_tp1_offline", "throughput": "throughput", "latency": "latency"}
    assert presets.keys() == by_name.keys()
    for name, preset_name in presets.items():
        expected = read_preset(preset_name)
        expected.pop("prefill-group-tokens", None)
        one = by_name[name]
        assert expected.pop("max-num-seqs") == one.rows[0]
        common = {"load-format": "dummy", "tensor-parallel-size": 1, "disable-log-stats": True}
        assert expected | common == one.flags


def test_runs_of_another_gpu_or_vllm_do_not_share_a_journal(tmp_path: Path) -> None:
    """The number of GPUs and the driver may differ, the model of the GPU and vLLM may not."""
    one = {"GPUs": "0, NVIDIA H200, 580.1", "vllm": "0.25.1"}
    journal = Journal(tmp_path, {})
    journal.add(run_of("a", []) | {"machine": one}, [], ABBA)
    journal.check_machine(one | {"GPUs": "0, NVIDIA H200, 590.2; 1, NVIDIA H200, 590.2"})
    with pytest.raises(FlagError, match="has runs with GPU NVIDIA H200, not NVIDIA H100"):
        journal.check_machine(one | {"GPUs": "0, NVIDIA H100, 580.1"})
    with pytest.raises(FlagError, match=r"has runs with vLLM 0\.25\.1, not 0\.32\.0"):
        journal.check_machine(one | {"vllm": "0.32.0"})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x = 1\n" + ENTRY, "[flags]"),
        ("", "0 configurations"),
        (ENTRY + ENTRY, "2 configurations with 1 names"),
        (ENTRY.replace('"a"', '"a b"'), "name 'a b'"),
        (ENTRY.replace("[8, 4]", "[4, 8]"), "rows [4, 8] ascend"),
        (ENTRY.replace("[8, 4]", "[0]"), "rows [0]"),
        (ENTRY + "slots = 3\n", "slots is not one of"),
        (
            ENTRY + "prefill-group-tokens = [7]\n",
            "prefill-group-tokens [7] is not a number from 0 for each of 2",
        ),
    ],
)
def test_a_bad_race_file_is_named_in_one_line(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits with code 2 before it starts anything."""
    (tmp_path / "race.toml").write_text(text)
    assert 2 == main(
        ["race", "--journal", str(tmp_path / "journal"), "--configs", str(tmp_path / "race.toml")]
    )
    assert named in capsys.readouterr().out.splitlines()[-1]
    assert not (tmp_path / "journal").exists()


def test_a_journal_has_runs_of_one_plan_and_definition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other lengths, or other flags under a name that has a run, are refused."""
    race_file = tmp_path / "race.toml"
    race_file.write_text(ENTRY)
    argv = ["race", "--journal", str(tmp_path), "--configs", str(race_file)]
    definition = {"rows": [8, 4], "flags": {}, "environment": {"X": "1"}}
    runs = [{"name": "a", "definition": definition, "windows": [], "failure": None, "seconds": 1.0}]
    plan = journal_plan(RacePlan())
    for changed, named in (
        ({"window_s": 9.0}, "was written with window_s 9.0, not 30.0"),
        ({}, "--configs: a has a run with other values"),
    ):
        (tmp_path / "journal.json").write_text(json.dumps({"plan": plan | changed, "runs": runs}))
        assert 2 == main(argv)
        assert named in capsys.readouterr().out.splitlines()[-1]


def test_each_line_has_the_size_of_its_windows_groups() -> None:
    """Of the race of groups: none, groups of up to 7,040 tokens twice, none, and none with 640 rows."""
    journal = json.loads((RESULTS / "2026-11-30-h200-prefill-groups" / "journal.json").read_text())
    lines = [window_line(window).split() for window in journal["runs"][0]["windows"]]
    titles = HEAD.split()[:3]
    assert ["rows", "group", "tokens/s"] == titles
    expected = [["1152", "0"], ["1152", "7040"], ["1152", "7040"], ["1152", "0"], ["640", "0"]]
    assert expected == [line[:2] for line in lines]


@pytest.mark.vllm
@pytest.mark.long
def test_an_engine_is_in_steady_state_over_real_vllm(tmp_path: Path, checkpoint: Path) -> None:
    """On a CPU, 16 requests run with the computed context and prompt tokens, and a failure is recorded."""
    race_file = tmp_path / "race.toml"
    race_file.write_text(
        '[flags]\ndtype = "float32"\nkv-cache-memory-bytes = 268435456\nenforce-eager = true\n'
        '[[configuration]]\nname = "wrong"\nrows = [16]\nflags = { no-such-flag = 1 }\n'
        '[[configuration]]\nname = "right"\nrows = [16, 8, 8]\nprefill-group-tokens = [0, 0, 40]\n'
    )
    argv = ["bench.gpu", "race", "--journal", str(tmp_path), "--configs", str(race_file)]
    argv += ["--model", str(checkpoint), "--mean-prompt-len", "60", "--max-prompt-len", "300"]
    argv += ["--mean-answer-len", "50", "--max-answer-len", "200", "--window-s", "4", "--other-window-s", "1"]
    done = run_bench([*argv, "--settle-s", "0.5", "--finalists", "0"], timeout_s=300)
    assert 0 == done.returncode, done.stdout + done.stderr
    journal = json.loads((tmp_path / "journal.json").read_text())
    wrong, right = journal["runs"]
    assert "no-such-flag" in wrong["failure"]
    assert [] == journal["next"]
    assert right["failure"] is None
    window, smaller, grouped = right["windows"]
    assert 15 <= window["rows_mean"] <= 16
    assert 7 <= smaller["rows_mean"] <= 8
    # Of 8 rows a group has one prompt: it waits for no other.
    assert 7 <= grouped["rows_mean"] <= 8
    assert [0, 0, 40] == [one["prefill_group_tokens"] for one in right["windows"]]
    assert window["context_len_mean"] == pytest.approx(window["expected_context_len"], rel=0.25)
    assert window["prompt_tokens_per_output_token"] == pytest.approx(60 / 50, rel=0.25)
    # Each request of the window has a prompt of its own.
    assert 0 == window["cached_tokens"]
