"""The proxy fails as told, and no other way."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.chaos.proxy import Proxy
from tests.support.native import wait_until


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets, and remembers it."""

    def handle(self) -> None:
        with suppress(OSError):
            while data := self.request.recv(100):
                self.server.heard += data  # type: ignore[attr-defined]
                self.request.sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    heard = b""


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: _Server) -> Iterator[Proxy]:
    with Proxy(server.server_address[1]) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    line.sendall(b"hello")
    return line


def answers(proxy: Proxy) -> bytes:
    """What a new connection gets; nothing when it is refused."""
    try:
        with connect(proxy) as line:
            return line.recv(100)
    except ConnectionError:
        return b""


def test_it_passes_both_ways(proxy: Proxy) -> None:
    """As if it were not there."""
    with connect(proxy) as line:
        assert line.recv(100) == b"hello"
        assert proxy.connections == 1


def test_cut_it_resets_and_refuses(proxy: Proxy) -> None:
    """Old connections break, new ones come to nothing; healed, new ones work."""
    with connect(proxy) as line:
        assert line.recv(100) == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            line.recv(100)
    assert answers(proxy) == b""
    proxy.heal()
    with connect(proxy) as line:
        assert line.recv(100) == b"hello"


def test_held_it_passes_nothing_until_healed(proxy: Proxy, server: _Server) -> None:
    """What was sent meanwhile arrives late, none of it is lost."""
    with connect(proxy) as line:
        assert line.recv(100) == b"hello"
        proxy.hold()
        line.sendall(b"again")
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            line.recv(100)
        assert server.heard == b"hello"
        proxy.heal()
        line.settimeout(5)
        assert line.recv(100) == b"again"


def test_half_closed_the_question_arrives_without_an_answer(proxy: Proxy, server: _Server) -> None:
    """The worst that a line can do to a submission."""
    with connect(proxy) as line:
        assert line.recv(100) == b"hello"
        proxy.half_close()
        line.sendall(b"again")
        assert line.recv(100) == b""
        wait_until(lambda: server.heard == b"helloagain", "the question arrived")
