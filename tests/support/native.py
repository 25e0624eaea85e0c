"""What tests need around processes of their own."""

import socket
import time
from collections.abc import Callable

UP_WITHIN_S = 60.0


def free_port() -> int:
    """A port on the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], what: str, *, alive: Callable[[], bool] = lambda: True) -> None:
    """Waits for something that a process of its own does; fails after a while, or when the process died."""
    give_up = time.monotonic() + UP_WITHIN_S
    while not holds():
        if not alive() or time.monotonic() > give_up:
            raise RuntimeError(f"never happened: {what}")
        time.sleep(0.05)
