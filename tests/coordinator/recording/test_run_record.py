"""The record of a run: a spread says of a quantity what was seen of it; the acceptance length."""

import numpy as np

from coordinator.recording.run_record import Spread, acceptance_length
from coordinator.transport.stream import StreamCounts
from protos import worker_pb2 as pb


def test_a_spread_has_both_ends() -> None:
    """Of 30, 10 and 20: lowest, mean and highest; the median is LoadGen's, sorted[int(3 * 0.5)]."""
    spread = Spread.of(np.array([30, 10, 20]))
    assert (3, 10, 20.0, 30) == (spread.count, spread.minimum, spread.mean, spread.maximum)
    assert 20 == spread.percentiles["p50"]


def test_no_values_have_no_figures() -> None:
    """Where nothing was seen every figure is 0, and there are no percentiles."""
    assert Spread(0, 0.0, 0, {}, 0) == Spread.of(np.zeros(0, np.int64))


def counts_of(rows: int, tokens: int, **engine_args: str) -> StreamCounts:
    """Return the counts of a stream to an engine with these arguments."""
    info = pb.WorkerInfo(engine_args=engine_args)
    return StreamCounts(decode_rows=rows, decode_tokens=tokens, info=info)


def test_the_acceptance_length_is_of_the_engines_that_speculate() -> None:
    """30 and 60 tokens in 10 and 25 rows are 90 / 35; engines of one token a row are left out."""
    plain = counts_of(1000, 1000)
    assert acceptance_length([plain]) is None
    drafting = {"speculative_config": '{"method": "eagle3"}'}
    assert acceptance_length([counts_of(0, 0, **drafting)]) is None
    some = [counts_of(10, 30, **drafting), plain, counts_of(25, 60, speculative_algorithm='"EAGLE3"')]
    assert 90 / 35 == acceptance_length(some)


def test_a_network_sut_has_no_acceptance_length() -> None:
    """It sends the first token and then the rest of an answer: no tokens of an engine step."""
    rest = counts_of(1, 1277, speculative_config='{"method": "eagle3"}')
    rest.info.execution_facts["num_workers"] = "2"
    assert acceptance_length([rest]) is None
