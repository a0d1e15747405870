"""What the worker and its stand-in take for SGLang's interface is SGLang's, as recorded from its source."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.worker.engines.sglang_interface import RECORD, read_interface
from worker.engines.sglang import scheduler_link, server_facts, server_flags

STAND_IN = Path(__file__).parent / "sglang_stand_in"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """Read the record."""
    record: dict[str, Any] = json.loads(RECORD.read_text())
    return record


def test_the_record_is_of_the_version_that_the_worker_names(recorded: dict[str, Any]) -> None:
    """A worker for another version needs another record."""
    assert scheduler_link.KNOWN_VERSIONS == recorded["version"]


def test_the_stand_in_has_nothing_that_sglang_has_not(recorded: dict[str, Any]) -> None:
    """Its functions have SGLang's parameters, its classes only fields of SGLang."""
    stand_in = read_interface(STAND_IN)
    for name, parameters in stand_in["functions"].items():
        real = recorded["functions"][name]
        assert [] == [parameter for parameter in parameters if parameter not in real], name
    for name, fields in stand_in["classes"].items():
        real = {*recorded["classes"][name]["required"], *recorded["classes"][name]["optional"]}
        assert set() == {*fields["required"], *fields["optional"]} - real, name


def test_the_stand_in_requires_of_a_request_what_sglang_does(recorded: dict[str, Any]) -> None:
    """The worker sends every field of a request that has no default."""
    name = "TokenizedGenerateReqInput"
    assert recorded["classes"][name]["required"] == read_interface(STAND_IN)["classes"][name]["required"]


def test_the_launcher_gives_every_parameter(recorded: dict[str, Any]) -> None:
    """Of the function that starts SGLang's processes."""
    assert {
        *("server_args", "port_args", "init_tokenizer_manager_func"),
        *("run_scheduler_process_func", "run_detokenizer_process_func"),
    } == set(recorded["functions"]["Engine._launch_subprocesses"])


def test_the_tables_name_flags_of_sglang(recorded: dict[str, Any]) -> None:
    """A flag that SGLang renames would otherwise be taken for one that decides answers."""
    fields = recorded["classes"]["ServerArgs"]
    flags = {*fields["required"], *fields["optional"]}
    assert set() == (server_facts.EXECUTION | server_facts.NEITHER | set(server_flags.FIXED)) - flags
    assert set() == server_facts.EXECUTION & server_facts.NEITHER


def test_the_record_is_that_of_the_installed_sglang(recorded: dict[str, Any]) -> None:
    """Where the version of the record is installed."""
    found = importlib.util.find_spec("sglang")
    if found is None or found.origin is None:
        pytest.skip("SGLang is not installed")
    assert recorded == read_interface(Path(found.origin).parent.parent)
