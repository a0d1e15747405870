"""The workers of a run in its run.json: their rows, what their engines reported, and their machines."""

from common.json_document import JsonObject, as_mappings, entry


def workers_of(record: JsonObject) -> list[JsonObject]:
    """List the rows of the workers in a run.json."""
    return as_mappings(entry(record, "summary", "workers"))


def infos_of(worker: JsonObject) -> list[JsonObject]:
    """List what a worker said of its engine, on each stream."""
    return as_mappings(worker.get("stream_infos"))


def engine_infos_of(record: JsonObject) -> list[JsonObject]:
    """List these descriptions of all workers of a run.json."""
    return [info for worker in workers_of(record) for info in infos_of(worker)]


def machines_of(host: JsonObject) -> list[JsonObject]:
    """List the machine of a worker and those of the other nodes of its engine, from one answer."""
    return [host, *as_mappings(host.get("engine_hosts"))]


def machines_of_worker(worker: JsonObject) -> list[JsonObject]:
    """List these machines from every answer of a worker, one for each stream."""
    return [machine for host in as_mappings(worker.get("hosts")) for machine in machines_of(host)]
