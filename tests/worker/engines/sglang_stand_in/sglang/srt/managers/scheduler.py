"""A scheduler over a model that counts down: after token n comes n - 1, and after 1 the stop id.

As SGLang's does, it compares the length of an answer first and the stop ids then, sends the stop id with the
other tokens, aborts by the beginning of an id, and lets an aborted request run one more step. A top_k up to 8
is the number of tokens of a request in a step.
"""

import contextlib
import json
import os
import signal
import sys
import time
from array import array
from dataclasses import dataclass, field
from typing import Any

import zmq

from sglang.srt.managers.io_struct import (
    AbortReq,
    BatchTokenIDOutput,
    FlushCacheReqInput,
    FlushCacheReqOutput,
    GetLoadsReqInput,
    GetLoadsReqOutput,
    TokenizedGenerateReqInput,
    sock_recv,
    sock_send,
)
from sglang.srt.model_loader import loader
from sglang.srt.server_args import PortArgs, ServerArgs
from sglang.srt.utils.network import get_zmq_socket

CRASH = 1_000
"""A prompt of this one token makes the scheduler fail."""
KV_TOKENS = 100_000


@dataclass
class Request:
    """A request and what it has produced."""

    rid: str
    tokens: list[int]
    budget: int
    stop_ids: set[int]
    num_prompt: int
    tokens_per_step: int
    is_aborted: bool = False
    reason: dict[str, Any] | None = None
    new: list[int] = field(default_factory=list)

    def advance(self, stop_id: int) -> None:
        """Produce one token."""
        last = self.tokens[-1]
        token = last - 1 if last > 1 else stop_id
        self.tokens.append(token)
        self.new.append(token)
        if self.is_aborted:
            self.reason = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
        elif len(self.tokens) - self.num_prompt >= self.budget:
            self.reason = {"type": "length", "length": self.budget}
        elif token in self.stop_ids:
            self.reason = {"type": "stop", "matched": token}


class Scheduler:
    """Runs requests in the order of arrival."""

    def __init__(self, server_args: ServerArgs, port_args: PortArgs) -> None:
        """Connect the sockets."""
        self.knobs = json.loads(server_args.json_model_override_args)
        if self.knobs.get("fail_to_load"):
            raise RuntimeError("out of memory")
        if server_args.load_format == "dummy" and not self.knobs.get("load_in_another_way"):
            loader.load_dummy()
        context: zmq.Context[Any] = zmq.Context()
        self.inputs = get_zmq_socket(context, zmq.PULL, port_args.scheduler_input_ipc_name, False)
        self.outputs = get_zmq_socket(context, zmq.PUSH, port_args.tokenizer_ipc_name, False)
        assert server_args.max_running_requests is not None
        self.max_running = server_args.max_running_requests
        self.stop_id = next(iter(server_args.get_model_config().hf_eos_token_id))
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.flushes: list[float] = []

    def run(self) -> None:
        """Run steps for ever."""
        while True:
            timeout_ms = 10 if self.running or self.waiting or self.flushes else 1_000
            if self.inputs.poll(0 if self.running else timeout_ms):
                with contextlib.suppress(zmq.Again):
                    while True:
                        self.handle(sock_recv(self.inputs, zmq.NOBLOCK))
            self.step()
            if self.flushes and not (self.waiting or self.running):
                self.flushes.clear()
                sock_send(self.outputs, FlushCacheReqOutput(success=True))

    def handle(self, message: object) -> None:
        """Take a message."""
        if isinstance(message, TokenizedGenerateReqInput):
            self.add(message)
        elif isinstance(message, AbortReq):
            self.abort(message)
        elif isinstance(message, FlushCacheReqInput):
            self.flushes.append(message.timeout_s or 0)
        elif isinstance(message, GetLoadsReqInput):
            used = sum(len(request.tokens) for request in self.running)
            load = GetLoadsReqOutput(token_usage=used / KV_TOKENS, max_running_requests=self.max_running)
            sock_send(self.outputs, load)

    def add(self, message: TokenizedGenerateReqInput) -> None:
        """Queue a request."""
        assert message.stream and message.sampling_params.is_normalized
        assert not message.sampling_params.ignore_eos
        assert message.rid is not None and message.input_ids is not None
        tokens = message.input_ids.tolist()
        if tokens == [CRASH]:
            raise RuntimeError("a device-side assert")
        budget = message.sampling_params.max_new_tokens
        stop_ids = (message.sampling_params.stop_token_ids or set()) | {self.stop_id}
        assert budget is not None
        top_k = message.sampling_params.top_k
        tokens_per_step = top_k if 1 <= top_k <= 8 else 1
        self.waiting.append(Request(message.rid, tokens, budget, stop_ids, len(tokens), tokens_per_step))

    def abort(self, message: AbortReq) -> None:
        """Drop waiting requests, and end running ones with their next token."""

        def is_meant(request: Request) -> bool:
            return message.abort_all or request.rid.startswith(message.rid)

        for request in filter(is_meant, list(self.waiting)):
            self.waiting.remove(request)
            sock_send(self.outputs, AbortReq(rid=request.rid))
        for request in filter(is_meant, self.running):
            request.is_aborted = True

    def step(self) -> None:
        """Admit waiting requests, and give each running one its tokens."""
        room = self.max_running - len(self.running)
        admitted, self.waiting = self.waiting[:room], self.waiting[room:]
        self.running += admitted
        if not self.running:
            return
        time.sleep(self.knobs.get("step_s", 0.001))
        for request in self.running:
            request.new = []
            for _ in range(request.tokens_per_step):
                if request.reason is None:
                    request.advance(self.stop_id)
        output = BatchTokenIDOutput(
            rids=[request.rid for request in self.running],
            output_ids=[array("q", request.new) for request in self.running],
            finished_reasons=[request.reason for request in self.running],
        )
        sock_send(self.outputs, output)
        self.running = [request for request in self.running if request.reason is None]


def run_scheduler_process(server_args: ServerArgs, port_args: PortArgs, *ranks_and_pipe: Any) -> None:
    """Run the scheduler; report a failure to the parent as SGLang does."""
    pipe = ranks_and_pipe[-1]
    try:
        scheduler = Scheduler(server_args, port_args)
        context_length = server_args.context_length or 0
        pipe.send(
            {
                "status": "ready",
                "max_total_num_tokens": KV_TOKENS,
                "max_req_input_len": min(context_length, KV_TOKENS) - 6,
            }
        )
        scheduler.run()
    except RuntimeError as error:
        sys.stderr.write(f"Scheduler hit an exception: {error}\n")
        os.kill(os.getppid(), signal.SIGQUIT)


def run_detokenizer_process(*_: object) -> None:
    """Wait: the worker asks for no text."""
    while True:
        signal.pause()
