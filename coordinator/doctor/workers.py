"""Rules over the workers of a fleet: what `doctor` saw of them -> rows; nothing here asks anybody."""

from collections.abc import Sequence
from statistics import median

from coordinator.doctor.findings import Check, Finding, Level, Row, differing, several
from coordinator.doctor.visits import Visit
from coordinator.transport.agreement import EQUAL_FIELDS
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION

# A LAN takes below 1 ms; each query's first token comes one round trip later.
MAX_ROUND_TRIP_MS = 10.0
READY = pb.WORKER_STATE_READY
_STATE_ADVICE = {
    pb.WORKER_STATE_LOADING: "wait: it loads; its log says how far it is",
    pb.WORKER_STATE_STARTING: "wait: its node starts it again; its log says what ended it",
    pb.WORKER_STATE_DRAINING: "it was told to stop: start it anew",
    pb.WORKER_STATE_DEGRADED: "see its replicas below",
    pb.WORKER_STATE_FAILED: "its log says what ended the engine; correct that and start it anew",
}
_READ_LOG = "its log says more"


def diagnose_fleet(visits: Sequence[Visit], model_hash: str | None) -> list[Row]:
    """Judge reachability, state and agreement.

    Args:
        visits: Nodes and workers.
        model_hash: What the model's must be; None: whatever all have.
    """
    answering = [visit for visit in visits if visit.trouble is None]
    workers = [visit for visit in answering if not visit.info.replicas]
    rows = _reachable(visits, len(answering))
    if answering:
        rows += [*_near(answering), *_serving(answering), *_replicas_up(answering), *_protocol(answering)]
    if workers:
        rows += [*_let_in(workers), *_free(workers), *_distinct(workers)]
    # A worker that loads does not know yet what it will be.
    loaded = [visit for visit in workers if visit.info.engine]
    if loaded:
        for name in EQUAL_FIELDS:
            rows += _equal(name, loaded)
        rows += _engine_args(loaded)
    if loaded and model_hash is not None:
        rows += _model_is(model_hash, loaded)
    return rows


def _reachable(visits: Sequence[Visit], num_answering: int) -> list[Row]:
    findings = [Finding(visit.address, Level.FAIL, *visit.trouble) for visit in visits if visit.trouble]
    return Check("workers", "reachable").rows(findings, f"all {num_answering} addresses answer")


def _near(answering: Sequence[Visit]) -> list[Row]:
    times_ms = {v.address: median(v.round_trips_ns) / 1e6 for v in answering if v.round_trips_ns}
    advice = "put the coordinator nearer; every first token comes one round trip later"
    findings = [
        Finding(address, Level.WARN, f"{time_ms:.3g} ms, more than {MAX_ROUND_TRIP_MS:g}", advice)
        for address, time_ms in times_ms.items()
        if time_ms > MAX_ROUND_TRIP_MS
    ]
    silent = [v.address for v in answering if not v.round_trips_ns]
    findings += [Finding(a, Level.WARN, "answers too slowly to be timed", _READ_LOG) for a in silent]
    return Check("workers", "round trip").rows(
        findings, f"at most {max(times_ms.values(), default=0):.3g} ms"
    )


def _let_in(workers: Sequence[Visit]) -> list[Row]:
    advice = "give coordinator and workers the same --run-token-file, or neither"
    findings = [
        Finding(visit.address, Level.FAIL, visit.token_refusal, advice)
        for visit in workers
        if visit.token_refusal
    ]
    return Check("workers", "run token").rows(findings, "every worker would let this coordinator in")


def _serving(answering: Sequence[Visit]) -> list[Row]:
    findings = []
    for visit in answering:
        if visit.health != "SERVING" or visit.info.state not in (READY, pb.WORKER_STATE_DEGRADED):
            advice = _STATE_ADVICE.get(visit.info.state, _READ_LOG)
            findings.append(
                Finding(visit.address, Level.FAIL, f"{visit.health}, {_state(visit.info.state)}", advice)
            )
    return Check("workers", "health").rows(findings, "all SERVING")


def _replicas_up(answering: Sequence[Visit]) -> list[Row]:
    """Judge what nodes say of their replicas; no row where there is no node."""
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
                findings.append(Finding(place, Level.WARN, seen, "find out what ended it, or it will again"))
    return Check("workers", "replicas").rows(findings, f"{num_replicas} ready") if num_replicas else []


def _free(workers: Sequence[Visit]) -> list[Row]:
    advice = "wait for that run, or end its coordinator: a worker serves one run at a time"
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
            f"speaks {visit.info.protocol_version}, this coordinator {PROTOCOL_VERSION}",
            "install the same version of tokenfleet here and there, and start the worker anew",
        )
        for visit in answering
        if visit.info.protocol_version != PROTOCOL_VERSION
    ]
    return Check("workers", "protocol").rows(findings, f"all speak {PROTOCOL_VERSION}")


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
    advice = "start the workers with the same model, flags and versions: their answers would not be one run's"
    values = {visit.address: str(getattr(visit.info, name)) for visit in workers}
    return Check("agreement", name).rows(*differing(values, Level.FAIL, advice))


def _engine_args(workers: Sequence[Visit]) -> list[Row]:
    """Compare every engine argument; unequal nodes may serve one run, knowingly."""
    advice = "fine if you mean it: start the workers with the same flags"
    findings: list[Finding] = []
    names = sorted({name for visit in workers for name in visit.info.engine_args})
    for name in names:
        values = {visit.address: visit.info.engine_args.get(name, "absent") for visit in workers}
        findings += differing(values, Level.WARN, advice, f"{name} ")[0]
    return Check("agreement", "engine flags").rows(findings, f"{len(names)} equal")


def _model_is(model_hash: str, workers: Sequence[Visit]) -> list[Row]:
    advice = "copy the model there again, or correct --model-hash"
    findings = [
        Finding(visit.address, Level.FAIL, f"{visit.info.model_hash}, not {model_hash}", advice)
        for visit in workers
        if visit.info.model_hash != model_hash
    ]
    return Check("agreement", "model as asked").rows(findings, model_hash)


def _state(state: pb.WorkerState) -> str:
    known = state in pb.WorkerState.values()
    return pb.WorkerState.Name(state).removeprefix("WORKER_STATE_") if known else f"state {state}"
