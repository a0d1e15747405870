"""bench.gpu: what the command plans, computes and rejects, and a run with vLLM on a CPU."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.gpu.__main__ import main, token_problems
from bench.gpu.answers import answered
from bench.gpu.budgeted import BudgetedRules, budgeted
from bench.gpu.climb import Climb, arriving_at, next_rate
from bench.gpu.coordinate import Setting
from bench.gpu.engine import RequestTimes
from bench.gpu.figures import differences, ratios, read_config
from bench.gpu.found import Clock, Found, Round
from bench.gpu.gpu_rounds import Place
from bench.gpu.load import (
    Work,
    arriving,
    engine_flags,
    extension_flags,
    last_value,
    offline,
    set_stop_id,
    sglang_flags,
)
from bench.gpu.model import write_full_size
from bench.gpu.offline import Offline, Server, latency_lines, notes
from bench.gpu.replay import Row
from bench.gpu.unstopped_worker import stop_ids_or_none
from bench.gpu.watch import use_between
from bench.processes import Processes
from common.flags import FlagError
from protos import worker_pb2 as pb
from protos.columns import FrameError, PromptColumns
from worker.engines.model.checkpoint import read_limits, stop_token_ids


def round_of(side: str, number: int, tokens: int, seconds: float, *, warm_up: bool = False) -> Round:
    """Build a round in which only the rate matters."""
    return Round(
        side=side,
        plan="offline",
        gpus=(0,),
        number=number,
        warm_up=warm_up,
        at_s=0.0,
        seconds=seconds,
        requests=1,
        tokens=tokens,
        expected_tokens=100,
        verdict="",
        front_cpu_s=0.0,
        client_cpu_s=0.0,
        engine_cpu_s=0.0,
        gpu=[],
        ttft_ms={},
        tpot_ms={},
    )


def setting_of(*flags: str) -> Setting:
    """Build a setting without files."""
    work = Work(Path(), Path(), np.array([2]), 1.0, is_exact=True)
    return Setting(Processes(), work, flags, Path(), 600.0)


def test_ratios_are_taken_within_a_round_and_leave_warm_ups_out() -> None:
    """50 against 100 tokens/s in round 0 is 0.5; 120 against 100 in round 1 is 1.2."""
    rounds = [
        round_of("bare", -1, 100, 9.0, warm_up=True),
        round_of("bare", 0, 100, 1.0),
        round_of("ours", 0, 100, 2.0),
        round_of("bare", 1, 100, 1.0),
        round_of("ours", 1, 120, 1.0),
        round_of("ours", 2, 100, 1.0),
    ]
    found = Found(rounds=rounds)
    assert [0.5, 1.2] == ratios(found, "ours", "bare", lambda one: one.tokens_per_s)


def test_a_round_of_other_tokens_is_named() -> None:
    """120 tokens instead of 100 are reported; if answers may stop early, only differences between sides."""
    found = Found(rounds=[round_of("bare", 0, 120, 1.0), round_of("ours", 0, 120, 1.0)])
    assert ["120 tokens of bare in round 0, not 100", "120 tokens of ours in round 0, not 100"] == (
        token_problems(found, exact=True)
    )
    assert [] == token_problems(found, exact=False)
    found.rounds.append(round_of("serve", 0, 119, 1.0))
    assert ["119 tokens of serve in round 0, not 120"] == token_problems(found, exact=False)


def test_latencies_count_from_when_a_request_was_due() -> None:
    """Due at 10 ms, first token at 30 ms, last of 5 tokens at 70 ms: TTFT 20 ms, TPOT 10 ms."""
    plan = arriving([0], seed=1, target_qps=1.0)
    rows = [[10_000_000, 30_000_000, 70_000_000, 5]]
    found = answered({"begin_s": 1.0, "end_s": 2.0, "rows": rows}, plan, client_cpu_s=0.5)
    assert {"p50": 20.0, "p90": 20.0, "p99": 20.0} == found.ttft_ms
    assert [20.0] == found.request_ttft_ms
    assert {"p50": 10.0, "p90": 10.0, "p99": 10.0} == found.tpot_ms
    assert (1, 5) == (found.requests, found.tokens)


def test_ttft_is_compared_request_by_request() -> None:
    """12, 20 and 37 ms against 10, 20 and 30 of the same requests: 2, 0 and 7 ms more."""
    spread = {"p50": 20.0, "p90": 20.0, "p99": 20.0}
    of_a, of_b = (
        replace(round_of(side, 0, 100, 1.0), ttft_ms=spread, tpot_ms=spread, request_ttft_ms=ttft_ms)
        for side, ttft_ms in (("async", [10.0, 20.0, 30.0]), ("ours", [12.0, 20.0, 37.0]))
    )
    line = latency_lines(Found(rounds=[of_a, of_b]), ["async", "ours"])[-1]
    assert line.endswith("TTFT of each of 3 requests: median +2.00 ms, mean +3.00 ms")
    # Without LoadGen's schedule the times of one side are not known.
    unknown = latency_lines(Found(rounds=[of_a, replace(of_b, request_ttft_ms=[])]), ["async", "ours"])
    assert "of each of" not in unknown[-1]


def test_only_offline_has_all_requests_at_once() -> None:
    """8 requests over 16 slots: in Offline the rate before the tail means little, in Server there is none."""
    setting = setting_of("--max-num-seqs", "16")
    place = Place(setting, (), Path(), Clock(1.0))
    (note,) = notes(Offline(requests=8), place)
    assert note.startswith("all 8 requests run at once")
    assert [] == [*notes(Server(requests=8), place)]


def test_tokens_before_the_tail_end_at_the_last_first_token() -> None:
    """Answers of 10 and 6 tokens begin at 1 s and 2 s, end at 3 s: by 2 s there are 5, which are 2.5/s."""
    rows = [[0, 10**9, 3 * 10**9, 10], [0, 2 * 10**9, 3 * 10**9, 6]]
    answer = {"begin_s": 1.0, "end_s": 4.0, "rows": rows}
    assert 2.5 == answered(answer, offline(2), client_cpu_s=0.0).tokens_per_s_before_tail
    untimed = answered(answer | {"is_timed": False}, offline(2), client_cpu_s=0.0)
    assert untimed.tokens_per_s_before_tail is None


def test_requests_of_the_bare_engine_have_their_own_times() -> None:
    """Request 0 ends in the second step, request 10 in the third; vLLM appends characters to the ids."""
    output = SimpleNamespace
    steps = [
        [output(request_id="10-b", finish_reason=None), output(request_id="9-a", finish_reason=None)],
        [output(request_id="9-a", finish_reason=1), output(request_id="10-b", finish_reason=None)],
        [output(request_id="10-b", finish_reason=1)],
    ]
    core = SimpleNamespace(get_output=lambda: output(outputs=steps.pop(0)))
    times = RequestTimes(core)
    begin_ns = time.monotonic_ns()
    for _ in range(3):
        core.get_output()
    (first, second), is_timed = times.rows([2, 3], begin_ns, time.monotonic_ns())
    assert is_timed
    assert (2, 3) == (first.tokens, second.tokens)
    assert 0 < first.first_ns == second.first_ns < first.done_ns < second.done_ns
    # A core without these outputs: all answers are at the end, and the rate before the tail is not known.
    assert ([Row(0, 5, 5, 2)], False) == times.rows([2], 10, 15)


def test_flags_of_all_sides_are_written_out_unless_given() -> None:
    """A given flag is kept as the only one, in whichever form it is written."""
    flags = engine_flags(["--max_num_seqs=7", "--enable-prefix-caching"], 4096, num_gpus=2)
    assert ["--max_num_seqs=7", "--enable-prefix-caching"] == flags[-2:]
    assert not {"--max-num-seqs", "--no-enable-prefix-caching", "--enforce-eager"} & set(flags)
    assert "4096" == flags[flags.index("--max-model-len") + 1]
    assert "2" == flags[flags.index("--tensor-parallel-size") + 1]


def test_flags_of_sglangs_sides_come_after_the_defaults() -> None:
    """SGLang takes the last value of a flag; its context has room for the tokens that it keeps."""
    flags = sglang_flags("--tp-size 2 --dtype 'float32'", 4096, 0, is_dummy=True)
    assert ["--context-length", "4104", "--tp-size", "1", "--load-format", "dummy"] == flags[:6]
    assert ["--tp-size", "2", "--dtype", "float32"] == flags[6:]
    assert "dummy" not in sglang_flags("", 4096, 0, is_dummy=False)


def test_sglangs_sides_have_the_sizes_of_the_others() -> None:
    """On GPUs slots, tokens of a step, memory and number of GPUs are the same by default."""
    ours, other = engine_flags([], 4096, num_gpus=2), sglang_flags("", 4096, 2, is_dummy=False)
    for vllm, sglang, value in (
        ("--max-num-seqs", "--max-running-requests", "512"),
        ("--max-num-seqs", "--cuda-graph-max-bs-decode", "512"),
        ("--max-num-batched-tokens", "--chunked-prefill-size", "8192"),
        ("--gpu-memory-utilization", "--mem-fraction-static", "0.9"),
        ("--tensor-parallel-size", "--tp-size", "2"),
    ):
        assert value == last_value(ours, vllm) == last_value(other, sglang), sglang


@pytest.mark.parametrize(
    ("flags", "is_dummy"),
    [
        ("--load-format dummy --max-num-seqs 4", True),
        ("--load_format=dummy", True),
        ("--load-format auto --load-format=dummy", True),
        ("--load-format dummy --load-format auto", False),
        ("--max-num-seqs 4", False),
    ],
)
def test_all_sides_have_the_random_weights_of_the_worker(flags: str, is_dummy: bool) -> None:
    """VLLM's server gets them by a flag, which the worker accepts; the last load format counts."""
    wanted = "--worker-extension-cls worker.engines.vllm.worker_extension.EvenExperts"
    assert (wanted.split() if is_dummy else []) == extension_flags(flags.split())


@pytest.mark.parametrize(
    ("begin_at", "limit", "upward", "from_above"),
    [
        (3, 9, [3, 4, 5], [3, 5]),
        (3, 4, [3, 4, 5], [3, 5, 4]),
        (3, 3, [3, 4], [3, 5, 4]),
        (3, 2, [3, 2], [3, 2]),
        (3, 1, [3, 2, 1], [3, 2, 1]),
        (3, 0, [3, 2, 1], [3, 2, 1]),
        (5, 3, [5, 4, 3], [5, 4, 3]),
        (5, 5, [5], [5]),
    ],
)
def test_a_climb_ends_between_a_valid_rate_and_another(
    begin_at: float, limit: float, upward: list[float], from_above: list[float]
) -> None:
    """Of the rates 1 to 5 those up to a limit are VALID: from above only one VALID rate is run."""
    rates = [1.0, 2.0, 3.0, 4.0, 5.0]
    for expected, is_from_above in ((upward, False), (from_above, True)):
        is_valid: dict[float, bool] = {}
        rate: float | None = begin_at
        while rate is not None:
            is_valid[rate] = rate <= limit
            rate = next_rate(rates, is_valid, from_above=is_from_above)
        assert expected == list(is_valid)


def test_a_climb_begins_where_it_takes_the_least_time() -> None:
    """A rate that is given up takes little time, one that is run to its end does not."""
    assert 4.0 == Climb(rates="4,6,8").first_qps
    assert 8.0 == Climb(rates="4,6,8", give_up=True).first_qps
    assert 6.0 == Climb(rates="4,6,8", give_up=True, begin_at=6.0).first_qps


def test_rates_that_differ_by_little_are_different_rounds() -> None:
    """The verdict of a rate is read from the rounds of its name."""
    plan = Climb(rates="4,4.004")
    assert ["server-4", "server-4.004"] == [arriving_at(plan, rate).name for rate in (4.0, 4.004)]


def test_a_round_has_time_for_its_arrivals() -> None:
    """460 queries at 0.5/s take 920 s, longer than the bound of 600 s; Offline has no arrivals."""
    setting = setting_of()
    plan = arriving_at(Climb(scenario="interactive", rates="0.5", queries=460), 0.5)
    assert 920 + 600 + 30 == setting.timeout_s(plan)
    assert 600 + 30 == setting.timeout_s(offline(1000))


def test_a_climb_has_the_same_queries_at_each_rate() -> None:
    """600 queries take 600 s at 1/s and 300 s at 2/s, and the data set has 600 rows."""
    plan = Climb(rates="1,2", queries=600, requests=64)
    assert (600.0, 300.0) == (plan.seconds_at(1.0), plan.seconds_at(2.0))
    assert 600 == plan.num_rows
    assert 130.0 == Climb(rates="4").seconds_at(4.0)


def test_each_request_gets_the_budget_that_its_prompt_names() -> None:
    """First tokens 5 and 9, with 0 and 4 tokens received, at most 8 in total: budgets 5 and 5 remain."""
    columns = PromptColumns(
        requests=np.array([1, 2], np.uint64),
        prompt_lens=np.array([2, 3], np.uint32),
        prompt_tokens=np.array([5, 70, 9, 80, 90], np.int32),
        max_new_tokens=np.array([8, 8], np.uint32),
        produced=np.array([0, 4], np.uint32),
    )
    assert [5, 5] == budgeted(columns).max_new_tokens.tolist()


def test_an_answer_may_end_at_the_budget_of_its_request() -> None:
    """Of a run's 30 tokens a request has 4: LENGTH at 4 is its end; an early stop id is refused."""
    rules = BudgetedRules(vocab_size=100, stop_token_ids=[9])
    rules.check_end(np.array([1, 2, 3, 4], np.uint32), pb.FINISH_REASON_LENGTH, 30)
    with pytest.raises(FrameError):
        rules.check_end(np.array([1, 9, 3, 4], np.uint32), pb.FINISH_REASON_LENGTH, 30)


def test_a_gpu_is_averaged_over_the_window_alone(tmp_path: Path) -> None:
    """Two of four readings of two GPUs are of this GPU and in the window: 40 % and 60 % average to 50 %."""
    log = tmp_path / "watch.log"
    log.write_text(
        "no pynvml: x\ngpu 9.0 1 99 1 1 1\ngpu 10.0 1 40 300 5 1980\ngpu 11.0 0 99 1 1 1\n"
        "gpu 12.0 1 60 500 7 1960\n"
    )
    assert (2, 50.0, 400.0, 6.0, 1970.0) == use_between(log, 1, 10.0, 12.0)
    assert None is use_between(log, 2, 10.0, 12.0)


def test_configurations_are_compared_by_what_engines_log(tmp_path: Path) -> None:
    """Only the field that differs is reported."""
    line = (
        "INFO [core.py:1] Initializing a V1 LLM engine (v0.25.1) with config: model='m', seed={}, dtype=x\n"
    )
    configs = {}
    for side, seed in (("bare", 0), ("ours", 1)):
        log = tmp_path / f"{side}.log"
        log.write_text(line.format(seed))
        configs[side] = read_config(log)
    assert {"version": "0.25.1", "model": "'m'", "seed": "0", "dtype": "x"} == configs["bare"]
    assert ["seed: bare 0, ours 1"] == differences(configs)


def test_the_full_size_model_is_one_that_the_worker_knows(tmp_path: Path) -> None:
    """The configuration has gpt-oss-120b's heads, vocabulary and stop ids."""
    write_full_size(tmp_path / "model")
    limits = read_limits(tmp_path / "model")
    assert (201_088, 64, 8) == (limits.vocab_size, limits.num_attention_heads, limits.num_key_value_heads)
    assert (199_999, 200_002, 200_012) == stop_token_ids(tmp_path / "model")


def test_a_model_has_the_asked_stop_id_or_none(checkpoint: Path, tmp_path: Path) -> None:
    """-1 removes all stop ids, which only bench.gpu's worker accepts; others must be in the vocabulary."""
    for stop_token_id in (-1, 7):
        assert 4096 == set_stop_id(checkpoint, tmp_path / str(stop_token_id), stop_token_id)
    assert () == stop_ids_or_none(tmp_path / "-1")
    assert (7,) == stop_ids_or_none(tmp_path / "7") == stop_token_ids(tmp_path / "7")
    with pytest.raises(FlagError, match="no stop ids"):
        stop_token_ids(tmp_path / "-1")
    with pytest.raises(FlagError, match="--stop-token-id: 4096 is not below the vocab_size 4096"):
        set_stop_id(checkpoint, tmp_path / "4096", 4096)


GROUPED = ["offline", "--sides", "bare,grouped", "--model", "{checkpoint}"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["offline", "--gpus", "0,0"], "--gpus: '0,0'"),
        (["offline", "--gpus", "0,x"], "--gpus: '0,x'"),
        (["offline", "--gpus", "0", "--sides", "bare,theirs"], "--sides: 'theirs'"),
        (["offline", "--gpus", "0", "--sides", "bare,bare"], "--sides: bare"),
        (["server", "--gpus", "0", "--sides", "bare"], "--sides: 'bare'"),
        (["server", "--gpus", "0", "--target-qps", "0"], "--target-qps: 0"),
        (["climb", "--gpus", "0", "--scenario", "offline"], "--scenario: 'offline'"),
        (["climb", "--gpus", "0", "--rates", ""], "--rates: ''"),
        (["climb", "--gpus", "0", "--rates", "4,4"], "--rates: '4,4'"),
        (["climb", "--gpus", "0", "--rates", "4,inf"], "--rates: '4,inf'"),
        (["climb", "--gpus", "0", "--rates", "3.4", "--seconds", "130"], "--seconds: 442 queries at 3.4/s"),
        (["climb", "--gpus", "0", "--rates", "4", "--queries", "458"], "--queries: 458 queries at 4/s"),
        (["climb", "--gpus", "0", "--rates", "4,6", "--begin-at", "5"], "--begin-at: 5 is not one of 4,6"),
        (["offline"], "--model: required without --gpus"),
        (["offline", "--gpus", "0", "--deadline-s", "nan"], "--deadline-s: nan"),
        (["offline", "--gpus", "0", "--turns", "3"], "--turns: 3"),
        (["offline", "--gpus", "0", "--warm-requests", "1025"], "--warm-requests: 1025"),
        (["offline", "--gpus", "0", "--output", __file__], "test_gpu.py exists"),
        (["offline", "--gpus", "0", "--requests", "1"], "--requests: 1"),
        (["offline", "--gpus", "0", "--requests", "1048577"], "--requests: 1048577"),
        (["offline", "--gpus", "0", "--mean-answer-len", "2000"], "--mean-answer-len: 2000"),
        (["offline", "--model", "/nowhere"], "--model: /nowhere"),
        (GROUPED, "--max-num-seqs: 16 is below 64"),
        ([*GROUPED, "--", "--max-num-seqs", "2048"], "--max-num-batched-tokens: 2048 is not above"),
        (
            [*GROUPED, "--", "--max-num-seqs", "64", "--max-num-batched-tokens=8k"],
            "tokens: '8k' is not a number",
        ),
        (["offline", "--gpus", "0", "--output", "/nowhere/x.json"], "--output"),
        (["offline", "--gpus", "0", "--keep-logs", str(Path(__file__).parent)], "not an empty directory"),
    ],
)
def test_a_bad_flag_is_named_in_one_line(
    flags: list[str], named: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits with code 2, and the last line names flag and value."""
    assert 2 == main([word.format(checkpoint=checkpoint) for word in flags])
    assert named in capsys.readouterr().out.splitlines()[-1]
