"""The files that departments sent, on disk until they are applied. Nothing of them lies there in clear.

A file is sealed frame by frame, so it can be read from any place without opening the rest.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from shared.privacy import Cipher

FRAME: Final = 64 * 1024
"""Bytes that are sealed together."""
_LENGTH: Final = 4


class Files:
    """A folder of sealed files, each under the id of its batch."""

    def __init__(self, folder: Path, cipher: Cipher) -> None:
        self._folder = folder
        self._cipher = cipher
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def receive(self, id_: str) -> "Receiving":
        """Begins a file; it exists under its id once it is finished."""
        return Receiving(self._path(id_), self._cipher, id_)

    def chunks(self, id_: str, offset: int = 0) -> Iterator[bytes]:
        """The content from a byte on. Raises FileNotFoundError, or CannotOpenError where it was changed."""
        with self._path(id_).open("rb") as file:
            number, within = divmod(offset, FRAME)
            if number:  # whole frames are all of one length
                file.seek(number * (_LENGTH + int.from_bytes(file.read(_LENGTH), "big")))
            while sealed := file.read(int.from_bytes(file.read(_LENGTH), "big")):
                yield self._cipher.open(sealed, context=_context(id_, number))[within:]
                number, within = number + 1, 0

    def remove(self, id_: str) -> None:
        """Forgets a file; one that is not there is forgotten already."""
        self._path(id_).unlink(missing_ok=True)

    def has(self, id_: str) -> bool:
        """Whether a finished file lies here."""
        return self._path(id_).exists()

    def keep_only(self, ids: set[str], *, before: datetime) -> None:
        """Removes every other file that was last written before an instant, also those that were never finished."""
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process finishes and removes files too
                if path.name not in ids and path.stat().st_mtime < before.timestamp():
                    path.unlink()

    def _path(self, id_: str) -> Path:
        return self._folder / id_


class Receiving:
    """A file that is being written. `finish` makes it durable, `abandon` leaves nothing of it."""

    def __init__(self, path: Path, cipher: Cipher, id_: str) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._cipher = cipher
        self._id = id_
        self._digest = hashlib.sha256()
        self._rest = b""
        self._frames = 0
        self._file: BinaryIO = os.fdopen(
            os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        )
        self.size = 0

    def add(self, chunk: bytes) -> None:
        """Writes the next bytes."""
        self._digest.update(chunk)
        self.size += len(chunk)
        self._rest += chunk
        while len(self._rest) >= FRAME:
            self._seal(self._rest[:FRAME])
            self._rest = self._rest[FRAME:]

    def finish(self) -> str:
        """Puts the file in its place for good; the SHA-256 of the content, in hex."""
        if self._rest:
            self._seal(self._rest)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Leaves nothing behind, also of a file that was finished."""
        self._file.close()
        self._part.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _seal(self, plain: bytes) -> None:
        sealed = self._cipher.seal(plain, context=_context(self._id, self._frames))
        self._file.write(len(sealed).to_bytes(_LENGTH, "big") + sealed)
        self._frames += 1


def _context(id_: str, number: int) -> str:
    return f"batch:{id_}:{number}"
