"""`python -m worker`: flags, then one engine or a node of several, serve.

Exit codes: 0 stopped, 1 no engine is left, 2 bad input, 130 interrupted before it serves.
"""

import asyncio
import logging
import os
import sys
from typing import NoReturn

from common.config_file import PRINT_FLAG, name_source
from worker.auth import AuthInterceptor
from worker.config import BadInput, EngineKind, parse
from worker.engine_protocol import Engine, EngineDead
from worker.engines.vllm.checkpoint import find_checkpoint
from worker.engines.vllm.engine_core import check_installed
from worker.machine.cores import Cores, format_cores, parse_cores
from worker.machine.sd_notify import check_notices, end_with_node, tell_why
from worker.node.node import Node, divide
from worker.print_config import resolved
from worker.server import Server

logger = logging.getLogger("worker")


def make_engine(kind: EngineKind, model: str | None, argv: list[str]) -> Engine:
    """Create the engine that the flags ask for; only the one chosen is imported.

    Raises:
        ValueError: An unknown flag or a bad value.
    """
    if kind is EngineKind.VLLM:
        from worker.engines.vllm import vllm_engine

        return vllm_engine.VllmEngine(vllm_engine.parse_engine_flags(argv, _named(model)))
    if kind is EngineKind.SIMULATED:
        from worker.engines.scripted import simulated

        return simulated.SimulatedEngine(simulated.parse_engine_flags(argv))
    from worker.engines.scripted import counting

    return counting.CountingEngine(counting.parse_engine_flags(argv))


def main(argv: list[str]) -> int:
    """Run the daemon and return its exit code."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        if PRINT_FLAG in argv:
            print(show(argv), end="")
            return 0
        if not end_with_node():
            raise EngineDead("the node is gone")
        asyncio.run(make_service(argv).run())
    except BadInput as error:
        line = f"worker: {name_source(str(error), argv, 'worker')}"
        tell_why(line)
        print(line, file=sys.stderr)
        return 2
    except EngineDead as error:
        tell_why(f"engine died: {error}")
        logger.error("engine died: %s", error)
        return 1
    except KeyboardInterrupt:
        # Before it serves, which is when SIGINT comes to mean a drain.
        print("worker: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        tell_why(f"{type(error).__name__}: {error}")
        raise
    return 0


def make_service(argv: list[str]) -> Server | Node:
    """Turn a command line into one engine's server, or a node of several, not started yet.

    Raises:
        BadInput: An unknown flag, a bad value, or something that the machine does not have.
    """
    try:
        config, model, engine_argv = parse(argv)
        auth = AuthInterceptor.from_files(config.security_files)
        if config.cores:
            _stay_on(parse_cores(config.cores))
        if config.replicas > 1:
            if config.engine is EngineKind.VLLM:
                find_checkpoint(_named(model))
            check_notices()
            return Node(config, auth, divide(config, engine_argv), argv)
        return Server(config, make_engine(config.engine, model, engine_argv), auth)
    except (ValueError, ImportError) as error:
        raise BadInput(_reason(error)) from error


def _named(model: str | None) -> str:
    """Give the model's name to a vLLM that is there.

    Raises:
        ValueError: There is no name, or no vLLM.
    """
    if model is None:
        raise ValueError("--model: missing; --engine vllm needs a checkpoint")
    check_installed()
    return model


def _reason(error: ValueError | ImportError) -> str:
    """Say what is wrong; an import that fails is one within an engine that is installed."""
    if isinstance(error, ImportError):
        return f"--engine: cannot be imported: {type(error).__name__}: {error}"
    return str(error)


def _stay_on(cores: Cores) -> None:
    """Let this process and its children run on these cores alone.

    Raises:
        ValueError: They may not.
    """
    mine = sorted(os.sched_getaffinity(0))
    if not set(cores) <= set(mine):
        raise ValueError(f"--cores: {format_cores(cores)} is not within {format_cores(mine)}")
    os.sched_setaffinity(0, cores)


def show(argv: list[str]) -> str:
    """Write the flags in effect.

    Raises:
        BadInput: An unknown flag or a bad value.
    """
    try:
        return resolved(argv)
    except (ValueError, ImportError) as error:
        raise BadInput(_reason(error)) from error


def leave(code: int) -> NoReturn:
    """End the process; one that failed ends without the interpreter's end, and says nothing after its reason.

    Libraries that vLLM loads write there what they have leaked. The engine is closed: no process of its own
    is left to wait for.
    """
    if code == 0:
        sys.exit()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
