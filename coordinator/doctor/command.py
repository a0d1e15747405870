"""`tokenfleet doctor`: checks of workers, machines and files before a run, in one table.

It takes the flags of the run, of which only --workers is required, and starts no run. With --inputs-only it
needs --input-file and no worker. Exit codes: 0 no check failed, 1 a check failed, 2 bad input, 128 plus the
signal's number if interrupted.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from common import config_file
from common.flags import Flag, Flags, add_flags, build
from common.host_facts import nearest, read_disk_space, read_host_facts
from common.signals import Interrupts, run_until_signal
from common.text import print_table
from coordinator.config import RunConfig, build_parser, expand, to_config
from coordinator.doctor.accelerators import diagnose_accelerators
from coordinator.doctor.findings import Row, exit_code, layout
from coordinator.doctor.input_files import NO_INPUT, diagnose_files
from coordinator.doctor.machines import diagnose_hosts, diagnose_own
from coordinator.doctor.visits import Visit, visit_all
from coordinator.doctor.workers import diagnose_fleet
from coordinator.transport.access import Access
from protos import worker_pb2 as pb
from sut import settings
from sut.settings import GenerationConfig

INPUTS_ONLY_FLAG = "--inputs-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorConfig(Flags):
    """Flags of the doctor beside those of a run."""

    timeout_s: Annotated[
        float, Flag("longest time in which one worker answers everything, in seconds", gt=0, metavar="S")
    ] = 20.0
    model_hash: Annotated[str | None, Flag("hash that the workers' model must have", metavar="SHA256")] = None
    inputs_only: Annotated[
        bool, Flag("check only flags and files, before workers start; needs --input-file and no --workers")
    ] = False


class Order(NamedTuple):
    """The configuration to check."""

    run: RunConfig
    access: Access
    generation: GenerationConfig
    timeout_s: float
    """Seconds that one worker may take for all calls."""
    model_hash: str | None
    inputs_only: bool
    """Whether no worker is visited."""


def main(argv: list[str]) -> int:
    """Check, print the table and return the exit code.

    Args:
        argv: The words after `doctor`.

    Raises:
        ValueError: Bad input; names flag, value and bound.
        Interrupted: A signal arrived.
    """
    Interrupts()
    order = parse(argv)
    visits: list[Visit] = []
    if not order.inputs_only:
        visits = run_until_signal(visit_all(order.run.workers, order.access, order.timeout_s))
    rows, skipped = examine(order, visits)
    error = print_table(layout(rows, skipped))
    # A reader may close the pipe early.
    if error and not isinstance(error, BrokenPipeError):
        raise error
    return exit_code(rows)


def parse(argv: list[str]) -> Order:
    """Read the command line, and the files with credentials and sampling parameters.

    Raises:
        ValueError: Names flag, file, value and bound.
    """
    optional: dict[str, object] = {"input_file": NO_INPUT}
    if INPUTS_ONLY_FLAG in argv:
        # A run needs its data set; workers that do not exist yet have no address.
        optional = {"workers": ()}
    config_file.refuse_printing(argv, "`tokenfleet run`")
    description = "Check a fleet and this machine before a run; takes the flags of the run."
    parser = build_parser(optional, description=description, prints=False)
    parser.prog += " doctor"
    add_flags(parser, DoctorConfig)
    file, full_argv = expand(argv)
    values = parser.parse_args(full_argv)
    own = build(DoctorConfig, values)
    run = to_config(values, file)
    generation = settings.load_generation_config(run.generation_config, run.mode, run.max_new_tokens)
    return Order(
        run, Access.read(run.security_files), generation, own.timeout_s, own.model_hash, own.inputs_only
    )


def examine(order: Order, visits: list[Visit]) -> tuple[list[Row], list[str]]:
    """Check the visits, this machine and the run's files.

    Returns:
        The rows, and the checks that were not made.
    """
    workers = [visit for visit in visits if visit.trouble is None and not visit.info.replicas]
    num_workers = sum(not visit.info.replicas for visit in visits)
    rows = diagnose_fleet(visits, order.model_hash, order.run.scenario) if visits else []
    accelerators, unchecked = diagnose_accelerators(workers)
    if workers:
        rows += [*diagnose_hosts(workers), *accelerators]
    if not order.inputs_only:
        host, writable = _look_here(order.run.output_dir)
        rows += diagnose_own(host, num_workers, writable)
    files, skipped = diagnose_files(order.run, order.generation, workers, num_workers)
    rows += files
    if order.inputs_only:
        skipped.append(f"workers and machines: {INPUTS_ONLY_FLAG} is given")
    else:
        skipped += unchecked
    return rows, skipped


def _look_here(output_dir: Path) -> tuple[pb.HostInfo, bool]:
    host = pb.HostInfo(**read_host_facts()._asdict())
    host.disks.append(pb.Disk(**read_disk_space("output directory", output_dir)._asdict()))
    there = nearest(output_dir)
    return host, there.is_dir() and os.access(there, os.W_OK | os.X_OK)
