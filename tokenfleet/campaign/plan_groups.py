"""Groups of a plan: scenarios that the same workers serve, without a restart in between."""

from typing import NamedTuple

from common.config_file import Table, to_argv
from sut.settings import Scenario
from tokenfleet.campaign.plan_reader import PlanReader, nearest
from tokenfleet.campaign.plan_settings import NodeSettings

GROUP_KEYS = ("name", "scenarios", "worker", "addresses")
WORKER_SETS = frozenset(["host", "port", "config", "print-config"])
"""Flags of `tokenfleet worker` that a plan may not set."""


class Group(NamedTuple):
    """Scenarios that the same workers serve."""

    name: str
    scenarios: tuple[Scenario, ...]
    worker_flags: tuple[str, ...] | None
    """Flags of a local worker; None: the workers are nodes that this campaign does not start."""
    addresses: tuple[str, ...]
    """Of the nodes; empty for a local worker."""


def read_groups(
    reader: PlanReader, scenarios: tuple[Scenario, ...], nodes: NodeSettings | None
) -> tuple[Group, ...]:
    """Read the groups; without any, all scenarios are one.

    Raises:
        PlanError: Names the entry; also a scenario that is in no group or in two.
    """
    if reader.has("worker") == (nodes is not None):
        both = "the table excludes [nodes] and the flag --workers"
        wrong = both if nodes else "missing, and [nodes] too; a plan has one of them"
        raise reader.error("[worker]", wrong)
    given = reader.table_list("groups") or [{"name": "all", "scenarios": list(scenarios)}]
    groups = tuple(_read_group(reader, index, table, nodes) for index, table in enumerate(given, start=1))
    _check_groups(reader, scenarios, groups)
    return groups


def _check_groups(reader: PlanReader, scenarios: tuple[Scenario, ...], groups: tuple[Group, ...]) -> None:
    """Require each scenario of the plan in exactly one group, and no other."""
    chosen = [scenario for group in groups for scenario in group.scenarios]
    for scenario in scenarios:
        if chosen.count(scenario) != 1:
            reason = f"{scenario} is named {chosen.count(scenario)} times, not once"
            raise reader.error("[[groups]] scenarios", reason)
    for scenario in chosen:
        if scenario not in scenarios:
            raise reader.error(f"[{scenario}]", "missing; a group has this scenario")
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise reader.error("[[groups]] name", "two groups have the same name")


def _read_group(reader: PlanReader, index: int, table: object, nodes: NodeSettings | None) -> Group:
    entry = f"[[groups]] {index},"
    found = reader.dashed(entry.rstrip(","), table)
    for key in found:
        if key not in GROUP_KEYS:
            raise reader.error(f"{entry} {key}", f"unknown key{nearest(key, GROUP_KEYS)}")
    scenarios = _read_scenarios(reader, entry, found.get("scenarios"))
    name = found.get("name", "+".join(scenarios))
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise reader.error(f"{entry} name", f"{name!r} is no printable text")
    foreign = "addresses" if nodes is None else "worker"
    if foreign in found:
        reason = (
            "needs the table [nodes]" if nodes is None else "is for local workers, and the plan has [nodes]"
        )
        raise reader.error(f"{entry} {foreign}", reason)
    if nodes is not None:
        return Group(name, scenarios, None, _read_addresses(reader, entry, found, nodes))
    return Group(name, scenarios, _read_worker_flags(reader, entry, found), ())


def _read_worker_flags(reader: PlanReader, entry: str, found: Table) -> tuple[str, ...]:
    """Return the flags of [worker], and those of the group, which take precedence."""
    flags = reader.table("worker") | reader.dashed(f"{entry} worker", found.get("worker", {}))
    for key in flags:
        if key in WORKER_SETS:
            raise reader.error(f"[worker] {key}", "cannot be set in a plan")
    return tuple(to_argv(flags))


def _read_scenarios(reader: PlanReader, entry: str, names: object) -> tuple[Scenario, ...]:
    if not isinstance(names, list) or not names:
        raise reader.error(f"{entry} scenarios", "missing, or no list of scenarios")
    for name in names:
        if name not in tuple(Scenario):
            raise reader.error(f"{entry} scenarios", f"{name!r} is not one of {', '.join(Scenario)}")
    return tuple(Scenario(name) for name in names)


def _read_addresses(reader: PlanReader, entry: str, found: Table, nodes: NodeSettings) -> tuple[str, ...]:
    own = found.get("addresses", list(nodes.addresses))
    if not isinstance(own, list) or not own or not all(isinstance(address, str) for address in own):
        raise reader.error(f"{entry} addresses", "is no list of host:port")
    return tuple(own)
