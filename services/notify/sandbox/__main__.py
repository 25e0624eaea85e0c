"""Runs the sandbox as a process of its own."""

import argparse
import os
from collections.abc import Sequence

import uvicorn

from services.notify.sandbox import SandboxSettings, build_sandbox
from shared.clock import Clock, SimulatedClock, SystemClock
from shared.logs import configure
from shared.settings import ServiceSettings, refuse_unknown


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the sandbox as a process of its own, settings from YINGBAO_SANDBOX_… variables."""
    parser = argparse.ArgumentParser(prog="python -m services.notify.sandbox", description="carrier sandbox")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(arguments)
    configure("sandbox", level="WARNING")  # at INFO httpx logs addresses, the callback's secret path too
    refuse_unknown(
        os.environ, [SandboxSettings, ServiceSettings], others=("registry", "matching", "notify", "targets")
    )
    settings = SandboxSettings()  # the required ones come from the environment
    clock: Clock = SystemClock()
    if settings.clock_file is not None:
        clock = SimulatedClock(settings.clock_file, start=clock.now())
    app = build_sandbox(settings, clock=clock)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
