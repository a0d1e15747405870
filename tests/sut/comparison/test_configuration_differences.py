"""In which parts of the configuration the sides of a comparison differ, and in which they may."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sut.results.comparison.compared_runs import ComparedRun, Side
from sut.results.comparison.configuration_differences import find_differences


def side(name: str, *records: Mapping[str, object]) -> Side:
    """Make a side from the records of its runs."""
    runs = [ComparedRun(Path(f"{name}{at}"), record) for at, record in enumerate(records)]
    return Side(name, Path(name), tuple(runs))


def differing(*records: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Return the differences between runs of one side each, by name."""
    sides = [side(chr(ord("A") + at), record) for at, record in enumerate(records)]
    return {found.name: found.values for found in find_differences(sides)}


def values_of(*sides: list[object]) -> tuple[str, ...]:
    """Return how a setting is shown that has these values in the runs of each side."""
    made = [
        side(chr(ord("A") + at), *({"config": {"name": value}} for value in values))
        for at, values in enumerate(sides)
    ]
    (found,) = find_differences(made)
    assert "config.name" == found.name
    return found.values


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"config": {"target_qps": "{}"}}, "config.target_qps"),
        ({"generation": {"top_p": "{}"}}, "generation.top_p"),
        ({"dataset": {"sha256": "{}"}}, "dataset.sha256"),
        ({"versions": {"commit": "{}"}}, "versions.commit"),
        ({"round": "{}"}, "round"),
        ({"spec_hash": "{}"}, "spec_hash"),
        ({"host": {"hostname": "{}"}}, "host.hostname"),
        *(
            ({"summary": {"workers": [{"stream_infos": [{key: "{}"}]}]}}, f"worker.{key}")
            for key in ("engine_version", "model_hash")
        ),
        *(
            ({"summary": {"workers": [{"hosts": [{key: "{}"}]}]}}, f"worker host.{key}")
            for key in (
                *("hostname", "commit", "python_version", "num_cores", "num_usable_cores"),
                *("cpu_quota_cores", "memory_bytes"),
            )
        ),
        ({"summary": {"workers": [{"hosts": [{"package_versions": {"torch": "{}"}}]}]}}, "torch"),
        ({"summary": {"workers": [{"hosts": [{"accelerators": ["{}"]}]}]}}, "worker host.accelerators"),
    ],
)
def test_every_part_that_describes_the_run_is_compared(part: dict[str, object], name: str) -> None:
    """A difference in it alone is the only one that is listed, with both values."""

    def filled(content: object, value: str) -> object:
        if isinstance(content, dict):
            return {key: filled(inner, value) for key, inner in content.items()}
        if isinstance(content, list):
            return [filled(inner, value) for inner in content]
        return value

    records = [filled(part, value) for value in ("one", "two")]
    assert [isinstance(record, dict) for record in records] == [True, True]
    ((found, values),) = differing(*(record for record in records if isinstance(record, dict))).items()
    assert found.endswith(name)
    assert values in (("one", "two"), ("['one']", "['two']"))


@pytest.mark.parametrize("name", ["output_dir", "not_told", "instance_id", "pid", "state", "path", "port"])
def test_what_names_a_run_or_a_moment_is_not_compared(name: str) -> None:
    """Wherever it is in the record; neither are parts of it that describe the result."""
    records = [
        {
            "config": {name: value},
            "host": {"gpu": {name: value}},
            "verdict": {"outcome": value},
            "run_id": value,
        }
        for value in "ab"
    ]
    assert {} == differing(*records)


def test_a_missing_entry_is_a_difference_and_null_is_missing() -> None:
    """Three sides: one value each, with a dash where there is none."""
    records: list[dict[str, object]] = [{"round": "v6.1"}, {"round": None}, {}]
    assert {"round": ("v6.1", "-", "-")} == differing(*records)
    assert {} == differing(*records[1:])


def test_the_number_of_workers_is_compared() -> None:
    """And of the values of their engines how many workers have each; of one that all have, only itself."""

    def workers(*versions: str) -> dict[str, object]:
        return {"summary": {"workers": [{"stream_infos": [{"engine": version}]} for version in versions]}}

    assert {"workers": ("1", "2")} == differing(workers("x"), workers("x", "x"))
    assert {"worker.engine": ("x", "1 x x, 1 x y")} == differing(workers("x", "x"), workers("y", "x"))
    # A worker of two streams with different engines has both; one that told nothing has none.
    two = {"summary": {"workers": [{"stream_infos": [{"engine": "y"}, {"engine": "x"}]}, {}]}}
    one = {"summary": {"workers": [{"stream_infos": [{"engine": "x"}]}, {}]}}
    assert {"worker.engine": ("x, y", "x")} == differing(two, one)


def test_names_are_in_order() -> None:
    """Of every part."""
    records = [{"versions": {"b": value, "a": value}, "config": {"z": value}} for value in "xy"]
    assert ["config.z", "versions.a", "versions.b"] == list(differing(*records))


def test_runs_of_a_side_that_differ_are_counted() -> None:
    """What only this side has comes first; more than four values are cut, and the others counted."""
    assert ("2 x b | 1 x a", "a") == values_of(["b", "a", "b"], ["a", "a"])
    assert ("1 x a | 1 x b", "c") == values_of(["b", "a"], ["c"])
    assert ("1 x a | 1 x b | 1 x c | 1 x d", "e") == values_of(list("dcba"), ["e"])
    assert ("1 x a | 1 x b | 1 x c | 1 x d and 1 more", "e") == values_of(list("edcba"), ["e"])
    # What two of three sides have is not common to all.
    assert ("1 x a | 1 x b", "1 x a | 1 x c", "c") == values_of(["a", "b"], ["a", "c"], ["c"])
    assert ("1 x b | 1 x a", "1 x c | 1 x a", "a") == values_of(["a", "b"], ["a", "c"], ["a"])


def test_long_values_are_cut_to_where_they_differ() -> None:
    """More than 32 equal characters are cut to 16 before the first one that differs; values to 120."""
    assert (f"{'x' * 32}a", f"{'x' * 32}b") == values_of([f"{'x' * 32}a"], [f"{'x' * 32}b"])
    assert (f"...{'x' * 16}a", f"...{'x' * 16}b") == values_of([f"{'x' * 33}a"], [f"{'x' * 33}b"])
    # One value is the beginning of the other.
    assert (f"...{'x' * 16}", f"...{'x' * 16}y") == values_of(["x" * 40], [f"{'x' * 40}y"])
    short, long = values_of(["a"], ["b" * 200])
    assert ("a", 120) == (short, len(long))
