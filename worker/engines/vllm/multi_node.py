"""An engine over several nodes: vLLM's flags for it, their checks, and the network that its ranks use."""

import argparse
import logging
import os
import socket
from dataclasses import dataclass

from common.flags import FlagError

logger = logging.getLogger(__name__)

# vLLM's torch.distributed store listens at --master-port.
_LINK_PORT_OFFSET = 1
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class NodePlace:
    """This node's place among the nodes of an engine."""

    nnodes: int
    """Number of nodes, at least 1."""
    node_rank: int
    """0: the head, which serves; above: a follower."""
    master_addr: str
    """Name or address of the head's machine."""
    master_port: int

    @property
    def is_head(self) -> bool:
        """Whether this node serves."""
        return self.node_rank == 0

    @property
    def link_port(self) -> int:
        """TCP port of the head at which the daemons of the followers connect."""
        return self.master_port + _LINK_PORT_OFFSET

    @property
    def link_address(self) -> str:
        """host:port of the head's link."""
        host = f"[{self.master_addr}]" if ":" in self.master_addr else self.master_addr
        return f"{host}:{self.link_port}"


def node_place(parsed: argparse.Namespace) -> NodePlace:
    """Read this node's place from vLLM's flags.

    Raises:
        FlagError: The flags contradict each other.
    """
    nnodes, node_rank = parsed.nnodes, parsed.node_rank
    if not 0 <= node_rank < max(nnodes, 1):
        raise FlagError("--node-rank", f"{node_rank} is not in 0..{max(nnodes, 1) - 1}: --nnodes is {nnodes}")
    if nnodes > 1:
        _check_executor(parsed)
        _check_port(parsed)
    return NodePlace(nnodes, node_rank, parsed.master_addr, parsed.master_port)


def _check_port(parsed: argparse.Namespace) -> None:
    if not 1 <= parsed.master_port <= _MAX_PORT - _LINK_PORT_OFFSET:
        reason = (
            f"{parsed.master_port} is not in 1..{_MAX_PORT - _LINK_PORT_OFFSET}: the next port is used too"
        )
        raise FlagError("--master-port", reason)


def _check_executor(parsed: argparse.Namespace) -> None:
    if parsed.distributed_executor_backend not in (None, "mp"):
        reason = f"needs --distributed-executor-backend mp, not {parsed.distributed_executor_backend}"
        raise FlagError("--nnodes", reason)
    if parsed.data_parallel_size > 1:
        reason = (
            f"needs --data-parallel-size 1, not {parsed.data_parallel_size}: start a worker for each engine"
        )
        raise FlagError("--nnodes", reason)
    if parsed.tensor_parallel_size is None:
        raise FlagError("--nnodes", "needs --tensor-parallel-size: GPUs of other nodes cannot be counted")
    num_ranks = parsed.tensor_parallel_size * parsed.pipeline_parallel_size
    if num_ranks % parsed.nnodes:
        reason = f"{parsed.nnodes} does not divide the {num_ranks} ranks of the engine"
        raise FlagError("--nnodes", reason)


def use_network(address: str) -> None:
    """Make vLLM's ranks use the network of an address of this machine, unless the user has chosen one.

    vLLM's own choice is the route to an address of the Internet, and that of Gloo is the address of the
    host's name, which often is a loopback address.
    """
    os.environ.setdefault("VLLM_HOST_IP", address)
    if (interface := _interface_of(address)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    logger.info(
        "ranks use VLLM_HOST_IP=%s, GLOO_SOCKET_IFNAME=%s",
        os.environ["VLLM_HOST_IP"],
        os.environ.get("GLOO_SOCKET_IFNAME", "not set"),
    )


def _interface_of(address: str) -> str | None:
    """Return the network interface with an address; None if none has it."""
    import psutil  # type: ignore[import-untyped]  # vLLM brings it, nobody its stubs

    families = (socket.AF_INET, socket.AF_INET6)
    for name, addresses in psutil.net_if_addrs().items():
        # The zone of a link-local address is not part of it.
        if any(own.family in families and own.address.split("%")[0] == address for own in addresses):
            return str(name)
    return None
