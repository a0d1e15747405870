"""Check that all workers of a run give the same answers, list what may differ and what they warn of."""

from collections.abc import Iterable, Mapping, Sequence

from common.flags import FlagError
from common.text import printable
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION
from protos.hashes import engine_hash, run_hash

EQUAL_FIELDS = ("engine", "engine_version", "model_hash", "vocab_size", "max_model_len", "stop_token_ids")
"""Fields of WorkerInfo that decide answers, beside `engine_facts`."""
ABSENT = "the default"
"""Value of a fact that a worker does not report."""
MAX_VALUE_LEN = 100
MAX_WARNING_LEN = 300
MAX_NAMES = 8
GROUP_FLAG = "--prefill-group-tokens"
Served = tuple[str, pb.WorkerInfo]
"""Address and description of a worker."""


class FleetError(FlagError):
    """The workers cannot serve this run; the reason names the worker and the cause."""

    def __init__(self, reason: str) -> None:
        """Create an error of the flag --workers."""
        super().__init__("--workers", reason)


class Agreement:
    """What every worker of a run must agree with: the run specification and the run's first worker."""

    def __init__(self, spec: pb.RunSpec, address: str, info: pb.WorkerInfo) -> None:
        """Create it from the specification that is sent and the description of the first worker."""
        self._spec = spec
        self._first = address, info
        self._hashed: Served | None = None
        """The first worker that opened its stream with a hash of its complete weight files."""
        self.spec_hash = run_hash(spec, info)
        """Run hash that every worker must return."""

    def check_info(self, address: str, info: pb.WorkerInfo) -> None:
        """Check that a worker would give the same answers as the first.

        Raises:
            FleetError: Names the property and both values.
        """
        known = [] if self._hashed is None else [self._hashed]
        check_same_engine([self._first, *known, (address, info)])

    def check_opened(self, address: str, opened: pb.Opened) -> None:
        """Check a worker's answer to `open`.

        Raises:
            FleetError: The worker would answer differently, or has read another run specification.
        """
        self.check_info(address, opened.info)
        if opened.spec_hash != self.spec_hash:
            raise FleetError(
                f"run specification differs: {address} returns the hash {_short(opened.spec_hash)}, "
                f"not {self.spec_hash}"
            )
        if self._hashed is None and opened.info.weights_sha256:
            self._hashed = address, opened.info


def check_agreement(links: list[WorkerLink]) -> None:
    """Check that workers are distinct processes that serve the same model in the same way.

    Raises:
        FleetError: Names the property and the two workers that differ.
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
    check_same_engine([(link.address, link.info) for link in links])


def check_same_engine(workers: Sequence[Served]) -> None:
    """Check that workers agree on everything that decides an answer.

    Raises:
        FleetError: Names the property, the first worker and the one that differs, and their values.
    """
    for address, info in workers:
        expected = engine_hash(info)
        if info.engine_hash != expected:
            raise FleetError(
                f"{address}: its engine hash is {_short(info.engine_hash)}, "
                f"but what it reports has the hash {expected}"
            )
    first_address, first_info = workers[0]
    first_facts = deciding_facts(first_info)
    for address, info in workers[1:]:
        facts = deciding_facts(info)
        # Arguments are named before the hashes of what they change.
        names = sorted(facts.keys() | first_facts.keys(), key=lambda name: (name.endswith("_hash"), name))
        if differing := [name for name in names if facts.get(name) != first_facts.get(name)]:
            name = differing[0]
            mine, other = _excerpts(first_facts.get(name, ABSENT), facts.get(name, ABSENT))
            raise FleetError(
                f"{_short(name)} differs: {first_address} has {mine}, {address} has {other}"
                f"{_list_more(differing[1:])}"
            )
    _check_weights(workers)


def deciding_facts(info: pb.WorkerInfo) -> dict[str, str]:
    """Return everything that decides a worker's answers, by name."""
    facts = {name: value for name, value in info.engine_facts.items() if name not in EQUAL_FIELDS}
    return {field: str(getattr(info, field)) for field in EQUAL_FIELDS} | facts


def execution_differences(workers: Sequence[Served]) -> list[str]:
    """List the allowed differences between workers: parallel sizes, backends, batch limits, CUDA graphs.

    Returns:
        One line for each property, with its values and the number of workers that have each.
    """
    found = []
    for name in sorted({name for _, info in workers for name in info.execution_facts}):
        addresses: dict[str, list[str]] = {}
        for address, info in workers:
            addresses.setdefault(_value(info.execution_facts, name), []).append(address)
        if len(addresses) > 1:
            values = ", ".join(f"{value} at {_name(group)}" for value, group in addresses.items())
            found.append(f"{_short(name)}: {values}")
    return found


def worker_warnings(workers: Sequence[Served]) -> list[str]:
    """List the warnings of workers: one line for each text, with the workers that have it."""
    return _lines((address, text) for address, info in workers for text in info.warnings)


def held_prompts(workers: Sequence[Served]) -> list[str]:
    """List how long workers hold prompts for a group, a line for each text, with the workers that have it."""
    return _lines((address, text) for address, info in workers if (text := prompt_hold(info)) is not None)


def prompt_hold(info: pb.WorkerInfo) -> str | None:
    """Say how long a worker may hold a prompt for its group: with a limit of TTFT it counts; None: not.

    A worker that warns of its groups itself, for example because they have no effect, is passed over.
    """
    tokens = info.execution_facts.get("prefill_group_tokens", "0")
    if tokens == "0" or any(GROUP_FLAG in text for text in info.warnings):
        return None
    hold_ms = _value(info.execution_facts, "prefill_hold_ms")
    return f"{GROUP_FLAG} {_short(tokens)}: TTFT includes a hold of up to {hold_ms} ms (--prefill-hold-ms)"


def _lines(texts: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each text, with the workers that have it."""
    addresses: dict[str, list[str]] = {}
    for address, text in texts:
        having = addresses.setdefault(printable(text, MAX_WARNING_LEN), [])
        if address not in having:
            having.append(address)
    return [f"{_name(having)}: {text}" for text, having in addresses.items()]


def _check_weights(workers: Sequence[Served]) -> None:
    """Check that the hashes of the complete weight files are equal where workers have one."""
    known = [(address, info.weights_sha256) for address, info in workers if info.weights_sha256]
    for address, sha256 in known[1:]:
        if sha256 != known[0][1]:
            raise FleetError(
                f"weights_sha256 differs: {known[0][0]} has {_short(known[0][1])}, "
                f"{address} has {_short(sha256)}"
            )


def _short(text: str) -> str:
    return printable(text, MAX_VALUE_LEN)


def _value(facts: Mapping[str, str], name: str) -> str:
    return _short(facts.get(name, ABSENT))


def _excerpts(one: str, other: str) -> tuple[str, str]:
    """Shorten two different values so that both show where they differ."""
    pairs = enumerate(zip(one, other, strict=False))
    equal_len = next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
    is_short = max(len(one), len(other)) <= MAX_VALUE_LEN
    start = 0 if is_short else max(equal_len - MAX_VALUE_LEN // 2, 0)
    dots = "..." if start else ""
    return dots + _short(one[start:]), dots + _short(other[start:])


def _list_more(names: list[str]) -> str:
    """Name further properties that differ; empty if there are none."""
    listed = ", ".join(map(_short, names[:MAX_NAMES]))
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f" (also different: {listed}{rest})" if names else ""


def _name(addresses: list[str]) -> str:
    """Name one worker, or count several and name the first."""
    return addresses[0] if len(addresses) == 1 else f"{len(addresses)} workers, first {addresses[0]}"
