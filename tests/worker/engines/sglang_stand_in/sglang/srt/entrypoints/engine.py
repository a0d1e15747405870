"""Starts the processes."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.scheduler import run_detokenizer_process, run_scheduler_process
from sglang.srt.server_args import PortArgs, ServerArgs
from sglang.srt.utils.watchdog import SubprocessWatchdog


class Engine:
    """See SGLang."""

    run_scheduler_process_func = staticmethod(run_scheduler_process)
    run_detokenizer_process_func = staticmethod(run_detokenizer_process)

    @classmethod
    def _launch_subprocesses(
        cls,
        server_args: ServerArgs,
        init_tokenizer_manager_func: Callable[..., Any],
        run_scheduler_process_func: Callable[..., None],
        run_detokenizer_process_func: Callable[..., None],
        port_args: PortArgs | None = None,
    ) -> tuple[Any, Any, PortArgs, SimpleNamespace, SubprocessWatchdog]:
        """Start a scheduler and a detokenizer, and wait until the model is loaded."""
        assert port_args is not None
        assert server_args.custom_sigquit_handler is not None
        signal.signal(signal.SIGQUIT, server_args.custom_sigquit_handler)
        multiprocessing.set_start_method("spawn", force=True)
        reader, writer = multiprocessing.Pipe(duplex=False)
        ranks = (0, 0, 0, 0, 0, 0, None)
        scheduler = multiprocessing.Process(
            target=run_scheduler_process_func, args=(server_args, port_args, *ranks, writer)
        )
        scheduler.start()
        writer.close()
        detokenizer = multiprocessing.Process(
            target=run_detokenizer_process_func, args=(server_args, port_args)
        )
        detokenizer.start()
        manager, template = init_tokenizer_manager_func(server_args, port_args)
        try:
            info = reader.recv()
        except EOFError:
            scheduler.join()
            code = scheduler.exitcode
            text = f"Rank 0 scheduler died during initialization (exit code: {code})."
            raise RuntimeError(text) from None
        manager.max_req_input_len = info["max_req_input_len"]
        pids = [scheduler.pid, detokenizer.pid]
        started = SimpleNamespace(scheduler_infos=[info], all_child_pids=pids)
        # Its own processes are no concern of the engine that started this one.
        assert os.getpid() == os.getpgid(0)
        return manager, template, port_args, started, SubprocessWatchdog()
