"""What workers must agree on before a run begins."""

from types import SimpleNamespace
from typing import cast

import pytest

from coordinator.transport.agreement import Agreement, FleetError, check_agreement
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION
from protos.hashes import engine_hash, run_hash

FIRST, SECOND, THIRD = "a:1", "b:2", "c:3"


def link(address: str, **changed: object) -> WorkerLink:
    """Make what the check reads of a link: its address and its worker's info."""
    values = {
        "protocol_version": PROTOCOL_VERSION,
        "instance_id": f"instance of {address}",
        "engine": "vllm",
        "engine_version": "0.32.0",
        "model": "/models/gpt-oss-120b",
        "model_hash": "abc",
        "vocab_size": 201_088,
        "max_model_len": 48_128,
        "max_num_seqs": 256,
        "tensor_parallel_size": 8,
        "stop_token_ids": [199_999, 200_002],
        "hostname": "node",
    }
    info = pb.WorkerInfo(**(values | changed))  # type: ignore[arg-type]
    info.engine_hash = info.engine_hash or engine_hash(info)
    return cast("WorkerLink", SimpleNamespace(address=address, info=info))


def test_equal_workers_agree() -> None:
    """Workers that serve the same thing agree, one alone included, wherever and however wide they run."""
    check_agreement([link(FIRST)])
    other = link(SECOND, hostname="n2", tensor_parallel_size=1, max_num_seqs=1024, model="/elsewhere/model")
    check_agreement([link(FIRST), other, link(THIRD)])


@pytest.mark.parametrize(
    "field, value",
    [
        ("engine", "counting"),
        ("engine_version", "0.33.0"),
        ("model_hash", "abd"),
        ("vocab_size", 201_089),
        ("max_model_len", 48_129),
        ("stop_token_ids", [200_002]),
    ],
)
@pytest.mark.parametrize("position", [1, 2])
def test_a_difference_names_both_workers_and_both_values(field: str, value: object, position: int) -> None:
    """The error names the field, and address and value of the first worker and of the one that differs."""
    links = [link(FIRST), link(SECOND), link(THIRD)]
    odd = links[position] = link(links[position].address, **{field: value})
    with pytest.raises(FleetError) as caught:
        check_agreement(links)
    one, other = getattr(links[0].info, field), getattr(odd.info, field)
    expected = f"--workers: {field} differs: {FIRST} has {one}, {odd.address} has {other}"
    assert expected == str(caught.value)


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("position", [0, 1])
def test_another_protocol_is_named(version: int, position: int) -> None:
    """A worker of an older or a newer protocol is named with both versions."""
    links = [link(FIRST), link(SECOND)]
    odd = links[position] = link(links[position].address, protocol_version=version)
    with pytest.raises(FleetError) as caught:
        check_agreement(links)
    expected = f"--workers: {odd.address} speaks protocol {version}, this coordinator 4"
    assert expected == str(caught.value)


def test_one_worker_under_two_addresses_is_named() -> None:
    """Two addresses of one process are told by its instance id, also where the two are not neighbours."""
    links = [link(FIRST, instance_id="x"), link(SECOND, instance_id="y"), link(THIRD, instance_id="x")]
    with pytest.raises(FleetError) as caught:
        check_agreement(links)
    assert str(caught.value) == f"--workers: {FIRST} and {THIRD} are the same worker"


def test_a_disagreement_is_bad_input() -> None:
    """A FleetError is a ValueError of one line: the coordinator's exit code 2."""
    with pytest.raises(ValueError) as caught:
        check_agreement([link(FIRST), link(SECOND, engine="counting")])
    assert "\n" not in str(caught.value)


def test_a_fact_of_the_engine_is_named_before_the_hashes_it_changes() -> None:
    """Facts come in the order of their names, hashes last; up to 8 more names follow in parentheses."""
    usual = link(FIRST, engine_facts={"b": "1", "a_hash": '"x"'})
    odd = link(SECOND, model_hash="abd", engine_facts={"b": "2", "a_hash": '"y"'})
    with pytest.raises(FleetError) as caught:
        check_agreement([usual, odd])
    expected = f"--workers: b differs: {FIRST} has 1, {SECOND} has 2 (also different: a_hash, model_hash)"
    assert expected == str(caught.value)


def test_a_fact_that_only_one_worker_reports_is_a_difference() -> None:
    """An argument that is left at its default is not reported; the line says so."""
    with pytest.raises(FleetError) as caught:
        check_agreement([link(FIRST), link(SECOND, engine_facts={"enable_lora": "true"})])
    assert f"enable_lora differs: {FIRST} has the default, {SECOND} has true" in str(caught.value)


def test_many_and_long_and_unprintable_facts_are_one_bounded_line() -> None:
    """Whatever a worker reports, the line is short and printable, and shows where two long values differ."""
    facts = {f"\x1b[31m{number:05}" * 40: "\n" * 9000 for number in range(3000)}
    with pytest.raises(FleetError) as caught:
        check_agreement([link(FIRST), link(SECOND, engine_facts=facts)])
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1500
    assert "and 2991 more" in line
    same = "x" * 5000
    with pytest.raises(FleetError) as caught:
        check_agreement(
            [link(FIRST, engine_facts={"a": same + "1"}), link(SECOND, engine_facts={"a": same + "2"})]
        )
    tail = "..." + "x" * 50
    assert f"a differs: {FIRST} has {tail}1, {SECOND} has {tail}2" in str(caught.value)


@pytest.mark.parametrize("position", [0, 1])
def test_a_hash_that_is_not_the_hash_of_the_facts_is_refused(position: int) -> None:
    """A worker cannot report the others' hash with facts of its own."""
    links = [link(FIRST), link(SECOND)]
    good = links[0].info.engine_hash
    odd = links[position] = link(links[position].address, engine_hash="f" * 64)
    with pytest.raises(FleetError) as caught:
        check_agreement(links)
    assert f"{odd.address}: its engine hash is {'f' * 64}, " in str(caught.value)
    assert good in str(caught.value)


def test_complete_weight_hashes_are_compared_where_there_are_two() -> None:
    """Workers without one agree with any; two different ones are refused, wherever they stand."""
    check_agreement([link(FIRST), link(SECOND, weights_sha256="a"), link(THIRD, weights_sha256="a")])
    with pytest.raises(FleetError) as caught:
        check_agreement([link(FIRST, weights_sha256="a"), link(SECOND), link(THIRD, weights_sha256="b")])
    assert f"weights_sha256 differs: {FIRST} has a, {THIRD} has b" in str(caught.value)


def test_other_weights_than_those_of_any_stream_of_the_run_are_refused() -> None:
    """The hash of complete weights stays known when its worker, which is not the first, is lost."""
    spec = pb.RunSpec(max_new_tokens=8)
    first = link(FIRST).info
    agreement = Agreement(spec, FIRST, first)

    def opened(address: str, sha256: str) -> pb.Opened:
        info = link(address, weights_sha256=sha256).info
        return pb.Opened(info=info, spec_hash=run_hash(spec, info))

    for address, sha256 in ((FIRST, ""), (SECOND, "a" * 64), (THIRD, "a" * 64)):
        agreement.check_opened(address, opened(address, sha256))
    for address in (SECOND, THIRD):
        agreement.check_opened(address, opened(address, ""))
        with pytest.raises(FleetError) as caught:
            agreement.check_opened(address, opened(address, "b" * 64))
        expected = f"--workers: weights_sha256 differs: {SECOND} has {'a' * 64}, {address} has {'b' * 64}"
        assert expected == str(caught.value)
