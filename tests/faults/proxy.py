"""A TCP proxy between the coordinator and one worker that can reset, throttle or drop, on its own thread.

The coordinator connects to `address`; each of its connections gets one to the worker.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")
CHUNK_BYTES = 1 << 16
SLICE_S = 0.05
# Small, so that a slow reader is felt by the writer and not by the kernel's buffers.
RECEIVE_BUFFER_BYTES = 1 << 12


class Proxy:
    """One worker's proxy; methods may be called from any thread."""

    def __init__(self, target: str) -> None:
        """Listen.

        Args:
            target: The worker's host:port.
        """
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._reset_in: int | None = None
        self._bytes_per_s: int | None = None
        self._delay_s = 0.0
        self._open_up, self._open_down = asyncio.Event(), asyncio.Event()
        self.num_resets = 0
        """Connections reset so far."""
        self.num_bytes = 0
        """Bytes sent to the coordinator so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy of {target}", daemon=True)
        self._thread.start()
        self.heal()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{port}"

    def reset_after(self, num_bytes: int) -> None:
        """Reset the connection inside the chunk that exceeds this number of further bytes from the worker."""
        self._reset_in = num_bytes

    def throttle(self, bytes_per_s: int) -> None:
        """Limit reading from the worker to this rate."""
        self._bytes_per_s = bytes_per_s

    def delay(self, seconds: float) -> None:
        """Forward what either side sends later by this time, as a longer network would."""
        self._delay_s = seconds

    def swallow(self, *, to_worker: bool = True, to_coordinator: bool = True) -> None:
        """Stop reading from one side or both; connections stay open."""
        for closed, gate in ((to_worker, self._open_up), (to_coordinator, self._open_down)):
            if closed:
                self._loop.call_soon_threadsafe(gate.clear)

    def heal(self) -> None:
        """Forward everything again."""
        self._reset_in = self._bytes_per_s = None
        for gate in (self._open_up, self._open_down):
            self._loop.call_soon_threadsafe(gate.set)

    def close(self) -> None:
        """Reset open connections and end the thread."""
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setblocking(False)
        try:
            await self._loop.sock_connect(sock, (self._host, self._port))
        except OSError:
            _reset(writer)
            sock.close()
            return
        up_reader, up_writer = await asyncio.open_connection(sock=sock, limit=RECEIVE_BUFFER_BYTES)
        loops = [
            asyncio.ensure_future(self._carry_up(reader, up_writer)),
            asyncio.ensure_future(self._carry_down(up_reader, writer)),
        ]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            _reset(writer)
            _reset(up_writer)

    async def _carry_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward what the coordinator sends until either end breaks."""
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(CHUNK_BYTES):
                await self._open_up.wait()
                self._write(writer, chunk)
                await writer.drain()

    async def _carry_down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward what the worker sends at the allowed rate until an end or the test breaks it."""
        with contextlib.suppress(ConnectionError):
            while chunk := await self._read_down(reader):
                await self._open_down.wait()
                part = self._count_down(chunk)
                self._write(writer, part)
                await writer.drain()
                self.num_bytes += len(part)
                if len(part) < len(chunk):
                    self.num_resets += 1
                    # A reset throws away what its receiver has not read yet.
                    await asyncio.sleep(SLICE_S)
                    return

    def _write(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        if self._delay_s:
            self._loop.call_later(self._delay_s, writer.write, chunk)
        else:
            writer.write(chunk)

    async def _read_down(self, reader: asyncio.StreamReader) -> bytes:
        if self._bytes_per_s is None:
            return await reader.read(CHUNK_BYTES)
        await asyncio.sleep(SLICE_S)
        return await reader.read(max(int(self._bytes_per_s * SLICE_S), 1))

    def _count_down(self, chunk: bytes) -> bytes:
        """Return the chunk, or its first part if the connection must break inside it."""
        left = self._reset_in
        if left is None:
            return chunk
        if len(chunk) <= max(left, 1):
            self._reset_in = max(left - len(chunk), 0)
            return chunk
        self._reset_in = None
        return chunk[: max(left, 1)]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def proxied(targets: list[str]) -> Iterator[list[Proxy]]:
    """Put a proxy before each worker for the length of a block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Proxy(target))) for target in targets]
