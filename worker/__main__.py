"""`python -m worker`: serve one engine or a node of several replicas, or run a part of an engine.

Exit codes: 0 stopped, 1 all engines have died, 2 bad input, 130 interrupted before serving.
"""

import logging
import os
import sys

try:
    from common.command_exit import BAD_INPUT, FAILED, INTERRUPTED, end_command
    from common.config_file import PRINT_FLAG
    from common.flags import FlagError
    from common.open_files import raise_open_file_limit
    from common.standard_streams import (
        BackgroundStream,
        leave,
        log_to_stderr,
        open_standard_streams,
        stdout_to_stderr,
    )
    from worker.auth import AuthInterceptor
    from worker.bounded_stop import run_service
    from worker.config import BadInput, EngineKind, WorkerConfig, name_source, parse
    from worker.engine_protocol import Engine, EngineDead
    from worker.engines.model.checkpoint import find_checkpoint
    from worker.engines.sglang.scheduler_link import check_sglang_installed
    from worker.engines.vllm.engine_core import check_installed
    from worker.engines.vllm.ipc_directory import check_ipc_directory
    from worker.headless import HeadlessServer
    from worker.machine.cores import Cores, format_cores, parse_cores
    from worker.machine.locked_directory import remove_abandoned
    from worker.machine.parent_death import end_with_node
    from worker.machine.sd_notify import check_notify_socket, notify_exit_reason
    from worker.node.node import Node, divide
    from worker.prefill_groups import PrefillGroups
    from worker.print_config import resolved
    from worker.server import Server
except KeyboardInterrupt:
    sys.stderr.write("worker: interrupted\n")
    sys.exit(130)

logger = logging.getLogger("worker")


def make_server(
    config: WorkerConfig, model: str | None, argv: list[str], auth: AuthInterceptor
) -> Server | HeadlessServer:
    """Create the selected engine and its server; imports only that engine's modules.

    Raises:
        ValueError: An unknown flag, a bad value, or a file that cannot be used.
    """
    if config.engine is not EngineKind.VLLM:
        return Server(config, _grouped(config, make_engine(config.engine, model, argv)), auth)
    from worker.engines.vllm import headless_engine, vllm_engine

    flags = vllm_engine.parse_engine_flags(argv, _check_model(config.engine, model))
    if not flags.place.is_head:
        return HeadlessServer(config, headless_engine.HeadlessEngine(flags))
    return Server(config, _grouped(config, vllm_engine.VllmEngine(flags)), auth)


def _grouped(config: WorkerConfig, engine: Engine) -> Engine:
    """Return the engine, with prompts in groups if the flags ask for them."""
    if not config.prefill_group_tokens:
        return engine
    return PrefillGroups(engine, config.prefill_group_tokens, config.prefill_hold_ms / 1e3)


def make_engine(kind: EngineKind, model: str | None, argv: list[str]) -> Engine:
    """Create an engine other than vLLM; imports only that engine's modules.

    Raises:
        ValueError: An unknown flag, a bad value, or a file that cannot be used.
    """
    if kind is EngineKind.SGLANG:
        from worker.engines.sglang import sglang_engine

        return sglang_engine.SglangEngine(sglang_engine.parse_server_flags(argv, _check_model(kind, model)))
    if kind is EngineKind.SIMULATED:
        from worker.engines.scripted import simulated

        return simulated.SimulatedEngine(simulated.parse_engine_flags(argv))
    if kind is EngineKind.REPLAY:
        from worker.engines.scripted import answers_file, replay

        config = replay.parse_engine_flags(argv)
        return replay.ReplayEngine(config, answers_file.read_answers(config.answers))
    from worker.engines.scripted import counting

    return counting.CountingEngine(counting.parse_engine_flags(argv))


def main(argv: list[str]) -> int:
    """Run the worker and return its exit code."""
    open_standard_streams()
    with BackgroundStream("stderr"):
        log_to_stderr()
        return _execute(argv)


def _execute(argv: list[str]) -> int:
    try:
        if PRINT_FLAG in argv:
            with stdout_to_stderr():
                text = show(argv)
            print(text, end="")
            return 0
        raise_open_file_limit()
        if not end_with_node():
            raise EngineDead("the node has ended")
        service = make_service(argv)
        remove_abandoned()
        run_service(service.run)
    except BadInput as error:
        reason = name_source(error.refusal, argv)
        notify_exit_reason(reason)
        return end_command("worker", reason, BAD_INPUT)
    except EngineDead as error:
        notify_exit_reason(f"engine died: {error}")
        logger.error("engine died: %s", error)
        return FAILED
    except KeyboardInterrupt:
        # Interrupted before the worker serves; later SIGINT starts a drain.
        return end_command("worker", "interrupted", INTERRUPTED)
    except Exception as error:
        notify_exit_reason(f"{type(error).__name__}: {error}")
        raise
    return 0


def make_service(argv: list[str]) -> Server | Node | HeadlessServer:
    """Create the server of one engine or part of one, or a node of several replicas, without starting it.

    Raises:
        BadInput: An unknown flag, a bad value, or a resource that this machine lacks.
    """
    try:
        config, model, engine_argv = parse(argv)
        auth = AuthInterceptor.from_files(config.security_files)
        if config.cores:
            _bind_to_cores(parse_cores(config.cores))
        if config.replicas > 1:
            if config.engine.has_model:
                find_checkpoint(_check_model(config.engine, model))
            check_notify_socket()
            return Node(config, auth, divide(config, engine_argv), argv)
        return make_server(config, model, engine_argv, auth)
    except (ValueError, ImportError) as error:
        raise BadInput(_refusal(error)) from error


def _check_model(kind: EngineKind, model: str | None) -> str:
    """Check that --model is given, and that the engine is installed and can create its sockets.

    Raises:
        FlagError: One of them is not so.
    """
    if model is None:
        raise FlagError("--model", f"missing; the engine {kind} needs a checkpoint")
    if model != os.fsencode(model).decode(errors="replace"):
        # GetInfo sends the name, and protobuf takes only UTF-8.
        raise FlagError("--model", f"{model!a} is not UTF-8")
    if kind is EngineKind.VLLM:
        check_installed()
        check_ipc_directory()
    else:
        check_sglang_installed()
    return model


def _refusal(error: ValueError | ImportError) -> ValueError:
    """Return the error to report; an ImportError comes from importing an installed engine."""
    if isinstance(error, ImportError):
        return ValueError(f"the engine cannot be imported: {type(error).__name__}: {error}")
    return error


def _bind_to_cores(cores: Cores) -> None:
    """Restrict this process and its children to these cores.

    Raises:
        FlagError: The process may not use one of them.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not set(cores) <= set(allowed):
        raise FlagError("--cores", f"{format_cores(cores)} is not within {format_cores(allowed)}")
    os.sched_setaffinity(0, cores)


def show(argv: list[str]) -> str:
    """Return the effective flags as TOML.

    Raises:
        BadInput: An unknown flag or a bad value.
    """
    try:
        return resolved(argv)
    except (ValueError, ImportError) as error:
        raise BadInput(_refusal(error)) from error


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m worker"
    leave(main(sys.argv[1:]))
