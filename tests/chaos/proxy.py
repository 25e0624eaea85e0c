"""A loopback TCP proxy that fails as networks do: it cuts, holds, and closes half a connection."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

CHUNK = 65_536


class Proxy:
    """Stands before a port of this machine; what it does to connections changes while it runs.

    Runs in a thread with a loop of its own, so that whoever uses it may block. Use as a context manager.
    """

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        """The port behind it; None until that is known, connections are refused meanwhile."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._refuses = False
        self._passes = asyncio.Event()
        self._passes.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pairs)

    def cut(self) -> None:
        """Resets every connection and refuses new ones."""
        self._do(self._cut())

    def hold(self) -> None:
        """Takes new connections and keeps the old ones, but passes nothing on."""
        self._do(self._hold())

    def half_close(self) -> None:
        """Ends the way back of every connection: what is asked arrives, no answer comes. New ones are fine."""
        self._do(self._half_close())

    def heal(self) -> None:
        """Works again; what was held passes."""
        self._do(self._heal())

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    # -- in the loop ---------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listening)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._passes.set()
        await self._cut()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _cut(self) -> None:
        self._refuses = True
        for pair in list(self._pairs):
            for writer in pair:
                _reset(writer)

    async def _hold(self) -> None:
        self._passes.clear()

    async def _half_close(self) -> None:
        for client, _ in self._pairs:
            if client.can_write_eof() and not client.is_closing():
                client.write_eof()

    async def _heal(self) -> None:
        self._refuses = False
        self._passes.set()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._refuses or self.target is None:
            _reset(client)
            return
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(client)
            return
        pair = (client, server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, server), self._pump(from_server, client))
        finally:
            self._pairs.discard(pair)
            for writer in pair:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(CHUNK):
                await self._passes.wait()
                if to.transport.is_closing():
                    return
                to.write(data)
                await to.drain()
            to.write_eof()
        except (OSError, RuntimeError):
            # Reset by either side, or written to after its end: the other side has to notice too.
            to.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as a broken line does, not by a goodbye."""
    at_once = struct.pack("ii", 1, 0)
    with suppress(OSError):  # its end may have closed it just before
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()
