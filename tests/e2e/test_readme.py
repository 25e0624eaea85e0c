"""README's ten minutes with curl, run as they stand there against a running suite."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.native import free_port, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    """A suite that stands where the demo's story ends. Its participations are live: no driver declares them."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "services.cli",
                "serve",
                "--demo",
                "--port",
                str(port),
                "--data",
                str(tmp_path / "data"),
            ],
            stdout=log,
            stderr=log,
        )

    def up() -> bool:
        try:
            return httpx.get(f"{url}/registry/health/ready").is_success
        except httpx.TransportError:
            return False

    wait_until(up, "the suite answers", alive=lambda: server.poll() is None)
    httpx.post(f"{url}/demo/clock", json={"to": "2026-03-21T10:00:00+08:00"})
    yield url
    server.terminate()
    server.wait(15)


def answers(text: str) -> list[Any]:
    """The JSON documents that curl printed one after the other."""
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text.rstrip()):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
    return found


def test_the_blocks_show_what_their_comments_say(base: str, tmp_path: Path) -> None:
    """Clock, deadline, lead, message, delivery, the end by enrolment; then the rest of the job behind it."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    script = (
        "".join(blocks)
        .replace("http://127.0.0.1:8000", base)
        .replace(
            ".venv/bin/yingbao token", f"{sys.executable} -m services.cli token --data {tmp_path / 'data'}"
        )
    )
    done = subprocess.run(
        ["bash", "-e"],
        input=script,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=dict(os.environ),
    )
    shown = answers(done.stdout)
    clock, unit, clocks, jumped, leads, notice, person, ended, progress = shown[:9]
    assert clock["now"].startswith("2026-03-21T10:0")
    assert (unit["uscc"], unit["code_confirmed"]) == ("91371082MA3XTE5T8Q", True)
    assert clocks["items"][0]["deadline"] == "2026-04-20"
    assert jumped["now"].startswith("2026-04-23")
    assert leads["items"][0]["state"] == "open"
    assert (notice["state"], notice["mobile"]) == ("delivered", "138****8000")
    assert "荣成市示例水产有限公司" in notice["text"]
    assert person["first_ever"] is True
    assert ended["items"][0]["end"] == "enrolled"
    (pension,) = [target for target in progress["targets"] if target["id"] == "T1"]
    assert {line["town"]: line["actual"] for line in pension["lines"]}["寻山街道"] == 1
    _the_rest_of_the_job(shown[9:])
    assert "5,成立日期,not_a_day" in done.stderr


def _the_rest_of_the_job(shown: list[Any]) -> None:
    file, stock, exemption, _, _, stopped, released, _, waiting, _, sent, *rest = shown
    assert (file["state"], file["accepted"], file["rejected"]) == ("applied", 3, 1)
    assert (stock["count"], exemption["uscc"], released) == (3, "91371082MA3XTE6337", {"released": 2})
    assert {account["state"] for account in stopped["items"]} == {"off"}
    assert waiting["items"][0]["state"] == "queued"
    assert (sent["state"], sent["channel"]) == ("delivered", "wechat")
    genuine, visited, funnel, withdrawn, ended = rest
    assert genuine["genuine"] is True
    assert visited["next_step"] == "recheck"
    assert funnel["leads"] == sum(funnel["places"].values()) == 3
    assert withdrawn["state"] == "withdrawing"
    assert ended["items"][0]["end"] == "wrong_data"
