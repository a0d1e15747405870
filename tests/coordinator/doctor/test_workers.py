"""The doctor's rules over a fleet, by hand: what was seen of it -> rows."""

import pytest
from grpc_health.v1 import health_pb2

from coordinator.doctor.findings import Level, Row
from coordinator.doctor.visits import Trouble, Visit
from coordinator.doctor.workers import diagnose_fleet
from protos import worker_pb2 as pb
from protos.hashes import engine_hash
from sut.settings import Scenario

READY = pb.WORKER_STATE_READY
MS = 1_000_000


def visit(address: str, **changed: object) -> Visit:
    """Make what a good worker shows, with changes to its info."""
    values = {
        "protocol_version": 4,
        "instance_id": f"instance of {address}",
        "state": READY,
        "engine": "vllm",
        "engine_version": "0.32.0",
        "model_hash": "abc",
        "engine_args": {"max_num_seqs": "1024"},
    }
    info = pb.WorkerInfo(**(values | changed))  # type: ignore[arg-type]
    info.engine_hash = info.engine_hash or engine_hash(info)
    return Visit(
        address,
        health=health_pb2.HealthCheckResponse.SERVING,
        info=info,
        round_trips_ns=[MS, MS, 2 * MS],
        load=pb.WorkerLoad(),
    )


def troubles(
    visits: list[Visit], model_hash: str | None = None, scenario: Scenario = Scenario.SERVER
) -> dict[str, tuple[Level, str]]:
    """Give level and words of each check that is not well; one row each."""
    rows = [row for row in diagnose_fleet(visits, model_hash, scenario) if row.level is not Level.OK]
    assert len(rows) == len({row.check for row in rows})
    assert all(row.advice for row in rows)
    return {row.check: (row.level, row.seen) for row in rows}


def test_alike_workers_have_no_trouble() -> None:
    """Two good workers, and one alone, give nothing but ok."""
    assert {} == troubles([visit("a:1")])
    assert {} == troubles([visit("a:1"), visit("b:2")], "abc")


def test_a_hold_of_prompts_counts_where_ttft_has_a_limit() -> None:
    """A worker with groups of prompts is named for Server, not for Offline; one without groups never is."""
    facts = {"prefill_group_tokens": "7040", "prefill_hold_ms": "1000.0"}
    visits = [visit("a:1", execution_facts=facts), visit("b:2", execution_facts=facts)]
    text = "--prefill-group-tokens 7040: TTFT includes a hold of up to 1000.0 ms (--prefill-hold-ms)"
    assert {} == troubles(visits, scenario=Scenario.OFFLINE)
    assert {"held prompts": (Level.WARN, f"a:1, b:2: {text}")} == troubles(visits)
    without = facts | {"prefill_group_tokens": "0"}
    assert {} == troubles([visit("a:1", execution_facts=without)], scenario=Scenario.INTERACTIVE)


def test_nobody_is_no_good_fleet() -> None:
    """Where nobody answers one row fails, and none says that all is well."""
    rows = diagnose_fleet([Visit("a:1", trouble=Trouble("refused", "start it"))], "abc", Scenario.SERVER)
    assert [Row("workers", "reachable", Level.FAIL, "a:1: refused", "start it")] == rows


def test_round_trip_is_the_median() -> None:
    """One slow call of three is nothing; two are a warning."""
    fine, slow = visit("a:1"), visit("b:2")
    fine.round_trips_ns = [MS, 50 * MS, MS]
    slow.round_trips_ns = [50 * MS, 11 * MS, MS]
    assert {"round trip": (Level.WARN, "b:2: 11 ms, more than 10")} == troubles([fine, slow])
    slow.round_trips_ns = []
    assert {"round trip": (Level.WARN, "b:2: answers too slowly to be measured")} == troubles([fine, slow])


@pytest.mark.parametrize("state", ["LOADING", "DRAINING", "FAILED", "STARTING"])
def test_worker_that_does_not_serve_fails(state: str) -> None:
    """Whatever it does instead is said; what it will be is not held against others while it loads."""
    odd = visit("b:2", state=f"WORKER_STATE_{state}", engine="", model_hash="")
    odd.health = health_pb2.HealthCheckResponse.NOT_SERVING
    assert {"health": (Level.FAIL, f"b:2: NOT_SERVING, {state}")} == troubles([visit("a:1"), odd])


def test_state_of_the_future_is_a_number() -> None:
    """A state that this coordinator does not know is no crash."""
    odd = visit("b:2", state=77)
    assert {"health": (Level.FAIL, "b:2: SERVING, state 77")} == troubles([visit("a:1"), odd])


def test_restarted_replica_is_a_warning() -> None:
    """A replica that is up and has been started again is told with what ended it; one that is not fails."""
    node = visit("n:1", engine="", state=pb.WORKER_STATE_DEGRADED)
    node.info.replicas.add(port=2, state=READY, restarts=2, reason="signal 9")
    expected = (Level.WARN, "n:1 replica 0: restarts: 2: signal 9")
    assert {"replicas": expected} == troubles([node, visit("n:2")])
    node.info.replicas[0].state = pb.WORKER_STATE_STARTING
    assert {"replicas": (Level.FAIL, "n:1 replica 0: STARTING: signal 9")} == troubles([node, visit("n:2")])


def test_what_decides_answers_must_be_equal() -> None:
    """The one of three that differs is named, wherever it stands."""
    odd = visit("a:1", model_hash="abd", engine_version="0.33.0")
    assert {
        "model_hash": (Level.FAIL, "a:1: abd where b:2, c:3 has abc"),
        "engine_version": (Level.FAIL, "a:1: 0.33.0 where b:2, c:3 has 0.32.0"),
    } == troubles([odd, visit("b:2"), visit("c:3")])


def test_hashes_of_the_complete_weights_must_be_equal_where_they_are_known() -> None:
    """As for a run: a worker without a hash is not compared, another hash fails."""
    whole = visit("a:1", weights_sha256="abc")
    assert {} == troubles([whole, visit("b:2")])
    found = troubles([whole, visit("b:2"), visit("c:3", weights_sha256="abd")])
    assert {"weights": (Level.FAIL, "c:3: abd where a:1 has abc")} == found


def test_a_hash_that_is_not_that_of_what_a_worker_reports_fails() -> None:
    """A worker whose version computes the engine hash in another way is named, as a run would name it."""
    odd = visit("b:2", engine_hash="0" * 64)
    expected = f"b:2: {'0' * 64}, but what it reports has the hash {engine_hash(odd.info)}"
    assert {"engine hash": (Level.FAIL, expected)} == troubles([visit("a:1"), odd])


def test_unequal_engine_flags_are_a_warning() -> None:
    """Unequal nodes may serve one run, and a run goes by the flags that they have."""
    odd = visit("b:2", engine_args={"max_num_seqs": "512", "seed": "1"})
    expected = "b:2: max_num_seqs 512 where a:1 has 1024; b:2: seed 1 where a:1 has absent"
    assert {"engine flags": (Level.WARN, expected)} == troubles([visit("a:1"), odd])


def test_facts_that_decide_answers_fail_and_those_of_the_execution_warn() -> None:
    """Each differing fact is named with its values; an engine argument that is a fact is not listed twice."""
    odd = visit(
        "a:1",
        engine_facts={"kv_cache_dtype": '"fp8"'},
        execution_facts={"block_size": "32"},
        engine_args={"kv_cache_dtype": '"fp8"', "block_size": "32", "max_num_seqs": "1024"},
    )
    usual = {"engine_facts": {"kv_cache_dtype": '"auto"'}, "execution_facts": {"block_size": "16"}}
    found = troubles([odd, visit("b:2", **usual), visit("c:3", **usual)])
    assert {
        "engine facts": (Level.FAIL, 'a:1: kv_cache_dtype "fp8" where b:2, c:3 has "auto"'),
        "execution": (Level.WARN, "a:1: block_size 32 where b:2, c:3 has 16"),
    } == found
