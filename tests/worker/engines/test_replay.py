"""The replaying engine: answers of a file by prompt, cut at the budget; bad files are one line."""

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.flags import FlagError
from protos import worker_pb2 as pb
from protos.columns import FrameError
from tests.worker.asks import Ask, answer, run, submit
from worker.engines.scripted.answers_file import read_answers
from worker.engines.scripted.replay import ReplayConfig, ReplayEngine, parse_engine_flags

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
END, CALL = 200_002, 200_012
Answers = dict[int, tuple[list[int], int]]


def write(path: Path, prompts: list[Any], answers: list[Any], prompt_column: str = "input_tokens") -> Path:
    """Write an answers file."""
    pq.write_table(pa.table({prompt_column: prompts, "output_tokens": answers}), path)
    return path


def engine(path: Path, **flags: Any) -> ReplayEngine:
    """Make an engine whose steps take no time."""
    values: dict[str, Any] = {"answers": path, "step_ms": 0, "tokens_per_s": float("inf")}
    return ReplayEngine(ReplayConfig(**values | flags), read_answers(path))


def ask(replay: ReplayEngine, *asks: Ask) -> Answers:
    """Submit the requests 0, 1, ... and return their answers."""

    async def walk() -> Answers:
        submit(replay, dict(enumerate(asks)))
        return await answer(replay, len(asks))

    return run(walk())


@pytest.fixture
def replay(tmp_path: Path) -> ReplayEngine:
    """Make an engine with three prompts; the first has two answers, the last an empty one."""
    prompts = [[4, 5], [7], [4, 5], [8, 9]]
    return engine(write(tmp_path / "a.parquet", prompts, [[1, 2, END], [3, CALL], [1, 6, 7, END], []]))


@pytest.mark.parametrize("column", ["input_tokens", "tok_input"])
def test_the_answer_is_that_of_the_prompts_row(tmp_path: Path, column: str) -> None:
    """Each request gets the answer in the row of its prompt, its stop id included."""
    path = write(tmp_path / "a.parquet", [[4, 5], [7]], [[1, 2, END], [3, CALL]], column)
    assert ask(engine(path), Ask([7]), Ask([4, 5])) == {0: ([3, CALL], STOP), 1: ([1, 2, END], STOP)}


def test_an_answer_is_cut_at_the_budget(replay: ReplayEngine) -> None:
    """Budget 2 of 3 tokens ends with LENGTH, budget 3 with the stop id; an empty answer has no token."""
    asks = (Ask([4, 5], 2), Ask([7], 2), Ask([8, 9], 2))
    assert ask(replay, *asks) == {0: ([1, 2], LENGTH), 1: ([3, CALL], STOP), 2: ([], STOP)}


def test_several_answers_to_one_prompt_are_given_in_turn_in_each_run(replay: ReplayEngine) -> None:
    """The prompt's rows come in order, then again the first; a new run begins with the first."""
    first, second = ([1, 2, END], STOP), ([1, 6, 7, END], STOP)
    assert ask(replay, *[Ask([4, 5])] * 3) == {0: first, 1: second, 2: first}
    replay.open(pb.RunSpec())
    assert ask(replay, Ask([4, 5])) == {0: first}


def test_a_continued_request_gets_the_rest_of_the_answer_that_it_began(replay: ReplayEngine) -> None:
    """[1, 6] begins the second row only; [1] begins the first; a budget of 1 leaves [2] of it."""
    asks = (Ask([4, 5, 1, 6], produced=2), Ask([4, 5, 1], 1, produced=1), Ask([7, 3], produced=1))
    assert ask(replay, *asks) == {0: ([7, END], STOP), 1: ([2], LENGTH), 2: ([CALL], STOP)}


@pytest.mark.parametrize(
    "asked, reason",
    [
        (Ask([1, 2, 3]), "the answers file has no answer to a prompt of 3 tokens"),
        (Ask([7, 4], produced=1), "no answer in the answers file begins with the 1 produced tokens"),
    ],
)
def test_a_prompt_without_an_answer_ends_the_stream(replay: ReplayEngine, asked: Ask, reason: str) -> None:
    """The refusal names the prompt's length; nothing is invented."""
    with pytest.raises(FrameError, match=reason):
        submit(replay, {1: asked})


def test_an_answer_without_a_stop_id_serves_only_budgets_that_it_fills(tmp_path: Path) -> None:
    """Three tokens without a stop id are cut by a budget of 3 or less, and refused under 4."""
    path = write(tmp_path / "a.parquet", [[7]], [[1, 2, 3]])
    assert ask(engine(path), Ask([7], 3), Ask([7], 2)) == {0: ([1, 2, 3], LENGTH), 1: ([1, 2], LENGTH)}
    with pytest.raises(FrameError, match="row 0 of the answers file has 3 tokens and no stop id"):
        submit(engine(path), {1: Ask([7], 4)})


def test_a_step_keeps_the_rate_of_all_requests_together(tmp_path: Path) -> None:
    """100 requests at 1,000 tokens/s: the second and the third token of each take 0.1 s."""
    prompts = [[row] for row in range(100)]
    replay = engine(write(tmp_path / "a.parquet", prompts, [[1, 2, END]] * 100), tokens_per_s=1000.0)

    async def walk() -> float:
        submit(replay, {row: Ask([row]) for row in range(100)})
        begun_s = asyncio.get_running_loop().time()
        await answer(replay, 100)
        return asyncio.get_running_loop().time() - begun_s

    assert run(walk()) >= 0.19


def test_the_engine_is_named_replay_and_its_model_is_the_file(tmp_path: Path) -> None:
    """The engine reports gpt-oss's stop ids; two files have different model hashes."""
    paths = [write(tmp_path / name, [[7]], [[tokens, END]]) for name, tokens in [("a", 1), ("b", 2)]]
    infos = [run(engine(path).start()) for path in paths]
    assert [info.engine for info in infos] == ["replay", "replay"]
    assert infos[0].stop_token_ids == (200_002, 199_999, 200_012)
    assert len({info.model_hash for info in infos}) == 2


@pytest.mark.parametrize(
    "columns, reason",
    [
        ({"input_tokens": [[1]]}, "has no columns input_tokens and output_tokens"),
        (
            {"input_tokens": pa.array([], pa.list_(pa.int32()))}
            | {"output_tokens": pa.array([], pa.list_(pa.int32()))},
            "has 0 rows",
        ),
        ({"input_tokens": ["a"], "output_tokens": [[1]]}, "column of type string, not a list of token ids"),
        ({"input_tokens": [[1], [2]], "output_tokens": [[1], None]}, "a null value in rows 0 to 1"),
        ({"input_tokens": [[1]], "output_tokens": [[5, -1]]}, "row 0: token -1 is outside 0 <= id < 201088"),
        (
            {"input_tokens": [[1], [2]], "output_tokens": [[5], [6, 201_088]]},
            "row 1: token 201088 is outside",
        ),
        (
            {"input_tokens": [[1], [2], [3]], "output_tokens": [[END], [6, END, 7], [END, 8]]},
            "row 1: stop id 200002 inside the answer",
        ),
        (
            {"input_tokens": [[1]], "output_tokens": pa.array([[]], pa.list_(pa.int32()))},
            "has no token in any",
        ),
    ],
)
def test_a_bad_file_is_named_with_row_and_value(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    """The line has the flag, the file, the row, the value and the bound."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(FlagError, match=reason) as caught:
        read_answers(path)
    assert str(caught.value).startswith(f"--answers {path}: ")


def test_a_file_that_is_no_parquet_or_absent_is_one_line(tmp_path: Path) -> None:
    """The line names flag and file, and has no line break."""
    (tmp_path / "text").write_text("hello")
    for name in ("text", "absent"):
        with pytest.raises(FlagError) as caught:
            read_answers(tmp_path / name)
        assert str(caught.value).startswith(f"--answers {tmp_path / name}: ")
        assert "\n" not in str(caught.value)


def test_the_answers_flag_is_required() -> None:
    """Without --answers the engine is refused; the line names the flag."""
    with pytest.raises(ValueError, match="--answers"):
        parse_engine_flags([])
