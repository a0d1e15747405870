"""Derives each request's latencies from requests.parquet, and their distributions."""

from typing import NamedTuple

from sut.log_files import REQUESTS
from sut.results.report.markup import Number
from sut.results.report.run_columns import Ints, RunColumns
from sut.results.timing.spread import percentile


class Quantity(NamedTuple):
    """One quantity of every request that has it."""

    name: str
    """Its name in the sources of the page."""
    values: Ints
    """(M,) in ns or tokens."""

    def figure(self, mark: str) -> Number:
        """Return one figure of the distribution: count, mean, min, p50 to p99.9, max."""
        return Number(_figure(self.values, mark), f"{REQUESTS}#{self.name}/{mark}")


def _figure(values: Ints, mark: str) -> float | int | None:
    if mark == "count":
        return len(values)
    if not len(values):
        return None
    if mark == "mean":
        return float(values.mean())
    if mark in ("min", "max"):
        return int(values.min() if mark == "min" else values.max())
    return percentile(values, float(mark.removeprefix("p")) / 100)


def ttft_ns(requests: RunColumns) -> Quantity:
    """From LoadGen's call to the arrival of the first token."""
    return Quantity("ttft_ns", requests.difference("first_arrival_ns", "issued_ns"))


def scheduled_ttft_ns(requests: RunColumns) -> Quantity:
    """From the time that LoadGen's schedule wanted to the report of the first token, as LoadGen counts."""
    return Quantity("ttft_scheduled_ns", requests.difference("first_reported_ns", "scheduled_ns"))


def tpot_ns(requests: RunColumns) -> Quantity:
    """(done - first) / (tokens - 1), of answers of at least two tokens."""
    rows = requests.known("first_arrival_ns", "done_arrival_ns", "answer_tokens")
    rows &= requests.ints["answer_tokens"] > 1
    column = {name: values[rows] for name, values in requests.ints.items()}
    decode_ns = column["done_arrival_ns"] - column["first_arrival_ns"]
    return Quantity("tpot_ns", decode_ns // (column["answer_tokens"] - 1))


def latency_ns(requests: RunColumns) -> Quantity:
    """From LoadGen's call to the arrival of the end."""
    return Quantity("latency_ns", requests.difference("done_arrival_ns", "issued_ns"))


def lengths(requests: RunColumns, column: str) -> Quantity:
    """Token counts of the requests: prompt_tokens or answer_tokens."""
    return Quantity(column, requests.ints[column][requests.known(column)])
