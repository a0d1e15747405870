"""Check that the workers of a fleet agree, so that one run may use them all."""

from common.flags import FlagError
from coordinator.transport.worker_link import WorkerLink
from protos.columns import PROTOCOL_VERSION

EQUAL_FIELDS = ("engine", "engine_version", "model_hash", "vocab_size", "max_model_len", "stop_token_ids")
"""Fields of WorkerInfo that decide an answer."""


class FleetError(FlagError):
    """The workers cannot serve this run; the reason names which and why."""

    def __init__(self, reason: str) -> None:
        """Blame --workers."""
        super().__init__("--workers", reason)


def check_agreement(links: list[WorkerLink]) -> None:
    """Check that workers are distinct processes that serve the same thing.

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
    """Check that all links have one value.

    Raises:
        FleetError: Names what differs, two workers and their values.
    """
    for link, value in zip(links, values, strict=True):
        if value != values[0]:
            raise FleetError(
                f"{what} differs: {links[0].address} has {values[0]}, {link.address} has {value}"
            )
