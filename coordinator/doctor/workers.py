"""Checks of the workers of a fleet, from their visits."""

from collections.abc import Mapping, Sequence
from statistics import median

from grpc_health.v1 import health_pb2

from coordinator.doctor.findings import Check, Finding, Level, Row, differing, several
from coordinator.doctor.visits import Visit
from coordinator.transport.agreement import EQUAL_FIELDS, GROUP_FLAG, prompt_hold
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION
from protos.hashes import engine_hash
from sut.settings import Scenario

# A LAN takes less than 1 ms; each query's first token is delayed by one round trip.
MAX_ROUND_TRIP_MS = 10.0
READY = pb.WORKER_STATE_READY
SERVING = health_pb2.HealthCheckResponse.SERVING
_STATE_ADVICE = {
    pb.WORKER_STATE_LOADING: "wait until it has loaded; its log shows the progress",
    pb.WORKER_STATE_STARTING: "wait: its node restarts it; its log shows why it ended",
    pb.WORKER_STATE_DRAINING: "it was told to stop: start it again",
    pb.WORKER_STATE_DEGRADED: "see its replicas below",
    pb.WORKER_STATE_FAILED: "correct the error in its log, and start it again",
}
_READ_LOG = "read its log"
_EQUAL_ADVICE = "start all workers with the same model, flags and versions: these decide the answers"


def diagnose_fleet(visits: Sequence[Visit], model_hash: str | None, scenario: Scenario) -> list[Row]:
    """Check reachability, state and agreement.

    Args:
        visits: Nodes and workers.
        model_hash: Required hash of the model; None: any that all have.
        scenario: Of the run.
    """
    answering = [visit for visit in visits if visit.trouble is None]
    workers = [visit for visit in answering if not visit.info.replicas]
    rows = _reachable(visits, len(answering))
    if answering:
        rows += [*_round_trips(answering), *_serving(answering), *_replicas(answering), *_protocol(answering)]
    if workers:
        rows += [*_run_tokens(workers), *_not_held(workers), *_distinct(workers)]
    # A worker that loads does not know its engine yet.
    loaded = [visit for visit in workers if visit.info.engine]
    if loaded:
        rows += _warnings(loaded)
        if scenario is not Scenario.OFFLINE:
            rows += _holds(loaded)
        for name in EQUAL_FIELDS:
            rows += _equal(name, loaded)
        rows += [*_weights(loaded), *_engine_hash(loaded)]
        rows += [*_engine_facts(loaded), *_execution_facts(loaded), *_engine_args(loaded)]
    if loaded and model_hash is not None:
        rows += _model_is(model_hash, loaded)
    return rows


def _reachable(visits: Sequence[Visit], num_answering: int) -> list[Row]:
    findings = [Finding(visit.address, Level.FAIL, *visit.trouble) for visit in visits if visit.trouble]
    return Check("workers", "reachable").rows(findings, f"all {num_answering} addresses answer")


def _round_trips(answering: Sequence[Visit]) -> list[Row]:
    times_ms = {v.address: median(v.round_trips_ns) / 1e6 for v in answering if v.round_trips_ns}
    advice = "move the coordinator closer; every first token is delayed by one round trip"
    findings = [
        Finding(address, Level.WARN, f"{time_ms:.3g} ms, more than {MAX_ROUND_TRIP_MS:g}", advice)
        for address, time_ms in times_ms.items()
        if time_ms > MAX_ROUND_TRIP_MS
    ]
    slow = [v.address for v in answering if not v.round_trips_ns]
    findings += [Finding(a, Level.WARN, "answers too slowly to be measured", _READ_LOG) for a in slow]
    return Check("workers", "round trip").rows(
        findings, f"at most {max(times_ms.values(), default=0):.3g} ms"
    )


def _run_tokens(workers: Sequence[Visit]) -> list[Row]:
    advice = "use the same --run-token-file for coordinator and workers, or none"
    findings = [
        Finding(visit.address, Level.FAIL, visit.token_refusal, advice)
        for visit in workers
        if visit.token_refusal
    ]
    return Check("workers", "run token").rows(findings, "every worker would accept this coordinator")


def _serving(answering: Sequence[Visit]) -> list[Row]:
    findings = []
    for visit in answering:
        if visit.health != SERVING or visit.info.state not in (READY, pb.WORKER_STATE_DEGRADED):
            advice = _STATE_ADVICE.get(visit.info.state, _READ_LOG)
            findings.append(
                Finding(visit.address, Level.FAIL, f"{_health(visit)}, {_state(visit.info.state)}", advice)
            )
    return Check("workers", "health").rows(findings, "all SERVING")


def _replicas(answering: Sequence[Visit]) -> list[Row]:
    """Check the replicas that nodes report; no row without nodes."""
    findings = []
    num_replicas = 0
    for visit in answering:
        for index, replica in enumerate(visit.info.replicas):
            num_replicas += 1
            place = f"{visit.address} replica {index}"
            why = f": {replica.reason}" if replica.reason else ""
            if replica.state != READY:
                advice = _STATE_ADVICE.get(replica.state, _READ_LOG)
                findings.append(Finding(place, Level.FAIL, f"{_state(replica.state)}{why}", advice))
            elif replica.restarts:
                seen = f"restarts: {replica.restarts}{why}"
                findings.append(Finding(place, Level.WARN, seen, "find out why it ended: it may end again"))
    return Check("workers", "replicas").rows(findings, f"{num_replicas} ready") if num_replicas else []


def _not_held(workers: Sequence[Visit]) -> list[Row]:
    advice = "wait for the end of that run, or end its coordinator: a worker serves one run at a time"
    findings = [
        Finding(visit.address, Level.FAIL, f"run {visit.load.run_id} holds it", advice)
        for visit in workers
        if visit.load is not None and visit.load.run_id
    ]
    return Check("workers", "free").rows(findings, "no run holds a worker")


def _protocol(answering: Sequence[Visit]) -> list[Row]:
    findings = [
        Finding(
            visit.address,
            Level.FAIL,
            f"version {visit.info.protocol_version}, this coordinator has {PROTOCOL_VERSION}",
            "install the same version of tokenfleet on both machines, and restart the worker",
        )
        for visit in answering
        if visit.info.protocol_version != PROTOCOL_VERSION
    ]
    return Check("workers", "protocol").rows(findings, f"all have version {PROTOCOL_VERSION}")


def _distinct(workers: Sequence[Visit]) -> list[Row]:
    names: dict[str, list[str]] = {}
    for visit in workers:
        names.setdefault(visit.info.instance_id, []).append(visit.address)
    findings = [
        Finding("", Level.FAIL, f"{several(same)} are the same worker", "name each worker once in --workers")
        for same in names.values()
        if len(same) > 1
    ]
    return Check("workers", "distinct").rows(findings, f"{len(workers)} different processes")


def _equal(name: str, workers: Sequence[Visit]) -> list[Row]:
    values = {visit.address: str(getattr(visit.info, name)) for visit in workers}
    return Check("agreement", name).rows(*differing(values, Level.FAIL, _EQUAL_ADVICE))


def _weights(workers: Sequence[Visit]) -> list[Row]:
    """Compare the hashes of the complete weight files; no row if no worker has one."""
    values = {visit.address: visit.info.weights_sha256 for visit in workers if visit.info.weights_sha256}
    advice = "copy the weights again, and run `tokenfleet checkpoint-hash` there"
    return Check("agreement", "weights").rows(*differing(values, Level.FAIL, advice)) if values else []


def _engine_hash(workers: Sequence[Visit]) -> list[Row]:
    """Check that each worker's hash is that of what it reports, as a run does."""
    findings = [
        Finding(
            visit.address,
            Level.FAIL,
            f"{visit.info.engine_hash}, but what it reports has the hash {expected}",
            "install the same version of tokenfleet on both machines, and restart the worker",
        )
        for visit in workers
        if visit.info.engine_hash != (expected := engine_hash(visit.info))
    ]
    return Check("agreement", "engine hash").rows(findings, "each is that of what the worker reports")


def _engine_facts(workers: Sequence[Visit]) -> list[Row]:
    facts = {visit.address: visit.info.engine_facts for visit in workers}
    return _compare("engine facts", facts, Level.FAIL, _EQUAL_ADVICE)


def _execution_facts(workers: Sequence[Visit]) -> list[Row]:
    facts = {visit.address: visit.info.execution_facts for visit in workers}
    return _compare("execution", facts, Level.WARN, "allowed; for equal workers, use the same flags")


def _engine_args(workers: Sequence[Visit]) -> list[Row]:
    """Compare the engine arguments that are not among the facts; workers of a run may differ in them."""
    facts = {name for v in workers for name in (*v.info.engine_facts, *v.info.execution_facts)}
    args = {
        visit.address: {name: value for name, value in visit.info.engine_args.items() if name not in facts}
        for visit in workers
    }
    return _compare("engine flags", args, Level.WARN, "allowed; for equal workers, use the same flags")


def _warnings(workers: Sequence[Visit]) -> list[Row]:
    """Show what the workers warn of."""
    advice = "the worker is slower than its flags suggest: change the flag that it names"
    findings = [
        Finding(visit.address, Level.WARN, text, advice) for visit in workers for text in visit.info.warnings
    ]
    return Check("workers", "warnings").rows(findings, "no worker warns")


def _holds(workers: Sequence[Visit]) -> list[Row]:
    """Show what the workers' groups of prompts add to TTFT."""
    advice = f"{GROUP_FLAG} 0, or a hold that is short against the limit of TTFT"
    holds = [(visit.address, text) for visit in workers if (text := prompt_hold(visit.info)) is not None]
    findings = [Finding(address, Level.WARN, text, advice) for address, text in holds]
    return Check("workers", "held prompts").rows(findings, "no worker holds prompts for a group")


def _compare(check: str, facts: Mapping[str, Mapping[str, str]], level: Level, advice: str) -> list[Row]:
    """Compare named values between workers, given by address."""
    findings: list[Finding] = []
    names = sorted({name for values in facts.values() for name in values})
    for name in names:
        values = {address: known.get(name, "absent") for address, known in facts.items()}
        findings += differing(values, level, advice, f"{name} ")[0]
    return Check("agreement", check).rows(findings, f"{len(names)} equal")


def _model_is(model_hash: str, workers: Sequence[Visit]) -> list[Row]:
    advice = "copy the model to that machine again, or correct --model-hash"
    findings = [
        Finding(visit.address, Level.FAIL, f"{visit.info.model_hash}, not {model_hash}", advice)
        for visit in workers
        if visit.info.model_hash != model_hash
    ]
    return Check("agreement", "model as asked").rows(findings, model_hash)


def _health(visit: Visit) -> str:
    known = visit.health in health_pb2.HealthCheckResponse.ServingStatus.values()
    return (
        health_pb2.HealthCheckResponse.ServingStatus.Name(visit.health) if known else f"health {visit.health}"
    )


def _state(state: pb.WorkerState) -> str:
    known = state in pb.WorkerState.values()
    return pb.WorkerState.Name(state).removeprefix("WORKER_STATE_") if known else f"state {state}"
