"""What the driver has done, so that it goes on where it was ended."""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from services.demo.city import Done


class Journal:
    """Which actions were answered, when, and what was kept: a line of JSON each, on disk before going on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.done: dict[str, Done] = {}
        self.last: datetime | None = None
        if file.exists():
            self._read()

    def add(self, key: str, done: Done) -> None:
        """Writes down an answered action."""
        line = {
            "key": key,
            "asked_at": done.asked_at.isoformat(),
            "answered_at": done.answered_at.isoformat(),
            "kept": done.kept,
        }
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())
        self._remember(line)

    def _read(self) -> None:
        text = self._file.read_text("utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # the last line was being written when the driver ended; its action is done again
            os.truncate(self._file, len(whole.encode()))
        for line in whole.splitlines():
            self._remember(json.loads(line))

    def _remember(self, line: Mapping[str, Any]) -> None:
        asked_at, answered_at = (datetime.fromisoformat(line[name]) for name in ("asked_at", "answered_at"))
        self.done[line["key"]] = Done(asked_at, answered_at, line["kept"])
        self.last = answered_at
