"""Sampling of a run: the reference's defaults, its file format, and values out of bounds."""

import json
from pathlib import Path

import pytest

from protos import worker_pb2 as pb
from sut.settings import GenerationConfig, Mode, load_generation_config

PERFORMANCE, ACCURACY = Mode.PERFORMANCE, Mode.ACCURACY


def write(path: Path, values: object) -> Path:
    """Write a generation_config.json; text is written unchanged."""
    path = path / "generation_config.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


@pytest.mark.parametrize("mode, budget", [(PERFORMANCE, 10_240), (ACCURACY, 32_768)])
def test_defaults_are_the_references(mode: Mode, budget: int) -> None:
    """Without a file: temperature 1, top_p 1, all candidates, no seed, and the mode's longest answer."""
    expected = GenerationConfig(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=budget, seed=None)
    assert expected == load_generation_config(None, mode, None)
    assert load_generation_config(None, mode, 77).max_new_tokens == 77


def test_a_file_beats_the_mode_and_the_flag_beats_the_file(tmp_path: Path) -> None:
    """Keys of the file replace defaults one by one; --max-new-tokens replaces the file's."""
    path = write(tmp_path, {"temperature": 0, "top_k": 5, "max_new_tokens": 123, "seed": 42})
    expected = GenerationConfig(temperature=0, top_p=1.0, top_k=5, max_new_tokens=123, seed=42)
    assert expected == load_generation_config(path, ACCURACY, None)
    assert load_generation_config(path, PERFORMANCE, 9).max_new_tokens == 9
    path = write(tmp_path, {"top_p": 0.5})
    assert load_generation_config(path, ACCURACY, None) == GenerationConfig(top_p=0.5, max_new_tokens=32_768)


def test_comments_and_keys_without_use_are_passed_over(tmp_path: Path) -> None:
    """Keys that begin with `_`, and keys that concern only text or streaming, are ignored."""
    values = {
        "_comment": "x",
        "_top_k": 0,
        "_": [1],
        "skip_special_tokens": False,
        "stream": True,
        **dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), 200_002),
        "transformers_version": "5.0",
        "top_k": -1,
    }
    assert load_generation_config(write(tmp_path, values), PERFORMANCE, None) == GenerationConfig()
    assert load_generation_config(write(tmp_path, {}), PERFORMANCE, None) == GenerationConfig()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"do_sample": False}, "do_sample: False contradicts temperature 1.0"),
        ({"do_sample": False, "temperature": 0.7}, "do_sample: False contradicts temperature 0.7"),
        ({"do_sample": True, "temperature": 0}, "do_sample: True contradicts temperature 0"),
        ({"do_sample": "no", "temperature": 1}, "do_sample: 'no' contradicts temperature 1"),
    ],
)
def test_do_sample_that_contradicts_the_temperature_is_refused(
    tmp_path: Path, values: dict[str, object], shown: str
) -> None:
    """Without do_sample transformers decodes greedily, vLLM at temperature 0: a file means one of them."""
    path = write(tmp_path, values)
    with pytest.raises(ValueError) as caught:
        load_generation_config(path, ACCURACY, None)
    assert f"--generation-config {path}: {shown}: only temperature 0 is greedy" == str(caught.value)


def test_do_sample_that_fits_the_temperature_changes_nothing(tmp_path: Path) -> None:
    """The file of gpt-oss has do_sample true, and a greedy one false."""
    sampled = {"do_sample": True, "eos_token_id": [200002, 199999, 200012], "transformers_version": "4.55"}
    assert GenerationConfig() == load_generation_config(write(tmp_path, sampled), PERFORMANCE, None)
    greedy = {"do_sample": False, "temperature": 0}
    assert 0 == load_generation_config(write(tmp_path, greedy), PERFORMANCE, None).temperature


@pytest.mark.parametrize("key", ["max_tokens", "Temperature", "temperature ", "min_p", "repetition_penalty"])
def test_an_unknown_key_is_named(tmp_path: Path, key: str) -> None:
    """An unknown key, which would have no effect, is refused with the file, the key and the known keys."""
    path = write(tmp_path, {"temperature": 1.0, key: 1})
    with pytest.raises(ValueError) as caught:
        load_generation_config(path, PERFORMANCE, None)
    assert str(caught.value).startswith(f"--generation-config {path}: unknown key {key!r}")
    assert "max_new_tokens" in str(caught.value)


@pytest.mark.parametrize(
    "key, value",
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 2.5),
        ("temperature", "1.0"),
        ("temperature", None),
        ("temperature", True),
        ("temperature", [1.0]),
        ("top_p", 0),
        ("top_p", -1),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("top_p", None),
        ("top_p", False),
        ("top_k", 0),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_k", "5"),
        ("top_k", None),
        ("top_k", 2**31),  # int32 on the wire
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_new_tokens", 10240.0),
        ("max_new_tokens", None),
        ("max_new_tokens", True),
        ("max_new_tokens", 2**32),  # uint32 on the wire
        ("seed", 1.5),
        ("seed", "42"),
        ("seed", True),
        ("seed", 2**63),  # int64 on the wire
        ("seed", -(2**63) - 1),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, key: str, value: object) -> None:
    """A value out of bounds or of another type is refused in one line with file, key and value."""
    path = write(tmp_path, {key: value})
    with pytest.raises(ValueError) as caught:
        load_generation_config(path, PERFORMANCE, None)
    message = str(caught.value)
    assert message.startswith(f"--generation-config {path}: {key}: ")
    assert repr(value) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "value, bound",
    [(5_000_000_000, "above 4294967295"), (2**32, "above 4294967295"), (0, "below 1"), (-1, "below 1")],
)
def test_a_bad_budget_of_the_flag_is_named_with_the_flag(tmp_path: Path, value: int, bound: str) -> None:
    """A --max-new-tokens out of bounds names the flag, with or without a file; a bad key names the file."""
    line = f"--max-new-tokens: {value} is {bound}"
    for path in (None, write(tmp_path, {"max_new_tokens": 9})):
        with pytest.raises(ValueError, match=f"^{line}$"):
            load_generation_config(path, PERFORMANCE, value)
    path = write(tmp_path, {"top_p": 2})
    with pytest.raises(ValueError, match=rf"^--generation-config {path}: top_p: 2"):
        load_generation_config(path, PERFORMANCE, value)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0, "top_p": 1, "top_k": 1, "max_new_tokens": 1, "seed": 0},
        {
            "temperature": 2,
            "top_p": 1e-6,
            "top_k": 2**31 - 1,
            "max_new_tokens": 2**32 - 1,
            "seed": -(2**63),
        },
        {"seed": None},
        {"seed": 2**63 - 1},
    ],
)
def test_whatever_passes_fits_the_wire(tmp_path: Path, values: dict[str, float]) -> None:
    """Values at their bounds pass and fit into a RunSpec unchanged; a seed of null sets no seed."""
    loaded = load_generation_config(write(tmp_path, values), PERFORMANCE, None)
    spec = pb.RunSpec(
        temperature=loaded.temperature,
        top_p=loaded.top_p,
        top_k=loaded.top_k,
        max_new_tokens=loaded.max_new_tokens,
        seed=loaded.seed,
    )
    assert (spec.top_k, spec.max_new_tokens) == (loaded.top_k, loaded.max_new_tokens)
    assert (spec.seed if spec.HasField("seed") else None) == values.get("seed")


@pytest.mark.parametrize(
    "text, named",
    [("", "Expecting value"), ("{", "Expecting"), ("[1]", "list"), ("7", "int"), ("null", "NoneType")],
)
def test_a_file_that_is_no_object_is_named(tmp_path: Path, text: str, named: str) -> None:
    """Broken JSON and JSON that is not an object are refused with the file and the reason."""
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=rf"^--generation-config {path}: .*{named}"):
        load_generation_config(path, PERFORMANCE, None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file and a file that is not UTF-8 are refused with their path."""
    path = tmp_path / "missing.json"
    with pytest.raises(ValueError, match=rf"^--generation-config {path}: .*No such file"):
        load_generation_config(path, PERFORMANCE, None)
    path.write_bytes(b'{"_comment": "caf\xe9"}')
    with pytest.raises(ValueError, match=rf"^--generation-config {path}: "):
        load_generation_config(path, PERFORMANCE, None)
