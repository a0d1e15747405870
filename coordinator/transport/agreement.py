"""Check that all workers of a fleet have the same model, engine and protocol."""

from common.flags import FlagError
from coordinator.transport.worker_link import WorkerLink
from protos.columns import PROTOCOL_VERSION

EQUAL_FIELDS = ("engine", "engine_version", "model_hash", "vocab_size", "max_model_len", "stop_token_ids")
"""Fields of WorkerInfo that affect answers."""


class FleetError(FlagError):
    """The workers cannot serve this run; the reason names the worker and the cause."""

    def __init__(self, reason: str) -> None:
        """Create an error of the flag --workers."""
        super().__init__("--workers", reason)


def check_agreement(links: list[WorkerLink]) -> None:
    """Check that workers are distinct processes that serve the same model in the same way.

    Raises:
        FleetError: Names the field and the two workers that differ.
    """
    for link in links:
        if link.info.protocol_version != PROTOCOL_VERSION:
            raise FleetError(
                f"{link.address} speaks protocol {link.info.protocol_version}, "
                f"this coordinator {PROTOCOL_VERSION}"
            )
    seen: dict[str, str] = {}
    for link in links:
        other = seen.setdefault(link.info.instance_id, link.address)
        if other != link.address:
            raise FleetError(f"{other} and {link.address} are the same worker")
    for field in EQUAL_FIELDS:
        check_equal(field, links, [str(getattr(link.info, field)) for link in links])


def check_equal(what: str, links: list[WorkerLink], values: list[str]) -> None:
    """Check that all links have the same value.

    Raises:
        FleetError: Names the property, two workers and their values.
    """
    for link, value in zip(links, values, strict=True):
        if value != values[0]:
            raise FleetError(
                f"{what} differs: {links[0].address} has {values[0]}, {link.address} has {value}"
            )
