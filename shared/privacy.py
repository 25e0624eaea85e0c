"""Protects people's data: sealing (SM4-GCM), keyed indexes (HMAC-SM3), masks, and a scrubber for free text.

Every use has its own key, derived from the key ring by purpose. Indexes rest on a key of their own, so that
changing the sealing key leaves them valid.
"""

import base64
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from itertools import count
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import ciphers, hashes, hmac
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.identifiers import check_uscc

Random = Callable[[int], bytes]

_KEY_BYTES = 16  # SM4 has 128-bit keys only
_INDEX_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_VERSION = 1
_SM4_GCM = 1
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class Purpose(StrEnum):
    """What a derived key is for. Keys of two purposes tell nothing about each other."""

    RECORDS = "records"
    ID_INDEX = "id-index"
    PHONE_INDEX = "phone-index"
    CONTACTS = "contacts"
    IDEMPOTENCY = "idempotency"


class KeyRingError(Exception):
    """A key ring is malformed or cannot be read. The message never holds a key."""


class CannotOpenError(Exception):
    """A sealed value does not open."""


class UnknownKeyError(CannotOpenError):
    """Sealed with a key that the ring does not hold; add that key to the ring again."""


class BrokenSealError(CannotOpenError):
    """Not a sealed value, changed since it was sealed, or sealed for another context."""


@dataclass(frozen=True)
class KeyRing:
    """The keys of a deployment: sealing keys by id, one of them current, and the key behind all indexes.

    Older keys stay in the ring until everything is sealed with the current one.
    """

    current: str
    keys: Mapping[str, bytes] = field(repr=False)
    index_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))
        if self.current not in self.keys:
            raise KeyRingError(f"the current key {self.current!r} is not among the keys")
        for key_id, key in self.keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise KeyRingError("a key id has 1 to 32 letters, digits, dots, dashes or underscores")
            if len(key) != _KEY_BYTES:
                raise KeyRingError(f"key {key_id!r} must have {_KEY_BYTES} bytes")
        if len(self.index_key) != _INDEX_KEY_BYTES:
            raise KeyRingError(f"the index key must have {_INDEX_KEY_BYTES} bytes")

    @classmethod
    def create(cls, random: Random = secrets.token_bytes) -> "KeyRing":
        """A fresh ring with one key."""
        return cls("k1", {"k1": random(_KEY_BYTES)}, random(_INDEX_KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """A ring from JSON: {"current": id, "keys": {id: 32 hex digits}, "index_key": 64 hex digits}."""
        try:
            data = json.loads(text)
            keys = {key_id: bytes.fromhex(key) for key_id, key in data["keys"].items()}
            return cls(data["current"], keys, bytes.fromhex(data["index_key"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # The cause is not chained: its text may hold part of a key.
            raise KeyRingError(
                f"not a key ring ({type(error).__name__}): it is JSON with current, keys and index_key in hex"
            ) from None

    @classmethod
    def load(cls, file: Path) -> "KeyRing":
        """The ring in a file."""
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KeyRingError(f"key ring {file} cannot be read: {type(error).__name__}") from error
        return cls.parse(text)

    @classmethod
    def load_or_create(cls, file: Path, random: Random = secrets.token_bytes) -> "KeyRing":
        """The ring in a file, which is made at first use: whole, durable, readable by its owner alone.

        When several processes come first at once, all of them get the same ring.
        """
        if not file.exists():
            _publish_once(file, cls.create(random).to_json())
        return cls.load(file)

    def to_json(self) -> str:
        """The form that `parse` reads. It holds the keys in clear."""
        keys = {key_id: key.hex() for key_id, key in self.keys.items()}
        return json.dumps({"current": self.current, "keys": keys, "index_key": self.index_key.hex()})

    def derive(self, purpose: Purpose) -> "KeyRing":
        """The ring of one purpose, with the same key ids."""
        keys = {key_id: _derive(key, f"seal:{purpose}", _KEY_BYTES) for key_id, key in self.keys.items()}
        return KeyRing(self.current, keys, _derive(self.index_key, f"index:{purpose}", _INDEX_KEY_BYTES))

    def cipher(self, purpose: Purpose) -> "Cipher":
        """Seals and opens for one purpose."""
        return Cipher(self.derive(purpose))

    def index(self, purpose: Purpose) -> "Index":
        """The keyed index of one purpose."""
        return Index(self.derive(purpose).index_key)


class Cipher:
    """Seals values with SM4-GCM. What is sealed names its format, algorithm and key; a context binds it.

    Layout: version (1), algorithm (1), length of key id (1), key id, nonce (12), ciphertext, tag (16).
    Header and context are authenticated. Give it a derived ring: `keyring.cipher(purpose)`.
    """

    def __init__(self, keyring: KeyRing, random: Random = secrets.token_bytes) -> None:
        self._keys = {key_id: algorithms.SM4(key) for key_id, key in keyring.keys.items()}
        self._random = random
        self._current = self._keys[keyring.current]
        key_id = keyring.current.encode()
        self._header = bytes((_VERSION, _SM4_GCM, len(key_id))) + key_id

    def seal(self, plain: bytes, *, context: str) -> bytes:
        """Seals for one context (say, "person:<token>"), so that sealed values cannot be swapped."""
        return self._seal(plain, context, self._random(_NONCE_BYTES))

    def seal_all(self, plains: Mapping[str, bytes]) -> dict[str, bytes]:
        """Seals one value for each context.

        One reading of the random source serves them all: each reading lets another thread run first.
        """
        random = self._random(_NONCE_BYTES * len(plains))
        return {
            context: self._seal(plain, context, random[at : at + _NONCE_BYTES])
            for at, (context, plain) in zip(count(step=_NONCE_BYTES), plains.items(), strict=False)
        }

    def _seal(self, plain: bytes, context: str, nonce: bytes) -> bytes:
        sealer = ciphers.Cipher(self._current, modes.GCM(nonce)).encryptor()
        sealer.authenticate_additional_data(self._header + context.encode())
        return self._header + nonce + sealer.update(plain) + sealer.finalize() + sealer.tag

    def open(self, sealed: bytes, *, context: str) -> bytes:
        """What was sealed. Raises UnknownKeyError or BrokenSealError."""
        key_id, header, rest = _split(sealed)
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownKeyError(f"sealed with key {key_id!r}, which the key ring does not hold")
        nonce, body, tag = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:-_TAG_BYTES], rest[-_TAG_BYTES:]
        opener = ciphers.Cipher(key, modes.GCM(nonce, tag)).decryptor()
        opener.authenticate_additional_data(header + context.encode())
        try:
            return opener.update(body) + opener.finalize()
        except InvalidTag:
            raise BrokenSealError("the sealed value was changed or belongs to another context") from None

    def seal_texts(self, plains: Mapping[str, bytes]) -> dict[str, str]:
        """Seals one value for each context as URL-safe Base64, for events."""
        return {
            context: base64.urlsafe_b64encode(sealed).decode()
            for context, sealed in self.seal_all(plains).items()
        }

    def open_text(self, sealed: str, *, context: str) -> str:
        """The text that was sealed. Raises UnknownKeyError or BrokenSealError."""
        try:
            data = base64.b64decode(sealed.encode(), altchars=b"-_", validate=True)
        except ValueError:
            raise BrokenSealError("the sealed value is not URL-safe Base64") from None
        return self.open(data, context=context).decode()


class Index:
    """Finds equal values without storing them: HMAC-SM3 under a key that only the owner holds."""

    def __init__(self, key: bytes) -> None:
        self._start = hmac.HMAC(key, hashes.SM3())

    def of(self, value: str) -> str:
        """64 hex digits, the same for the same value. Normalise the value first."""
        mac = self._start.copy()
        mac.update(value.encode())
        return mac.finalize().hex()


def mask_name(name: str) -> str:
    """张明 → 张*, 张小明 → 张*明; a single character vanishes."""
    if len(name) <= 1:
        return "*" * len(name)
    if len(name) == 2:
        return f"{name[0]}*"
    return f"{name[0]}{'*' * (len(name) - 2)}{name[-1]}"


def mask_id_number(number: str) -> str:
    """First six and last four stay: 371082********0023. Anything shorter than an old number vanishes."""
    return _mask(number, 6, 4, shortest=15)


def mask_mobile(number: str) -> str:
    """First three and last four stay: 138****8000. Anything shorter than a mobile number vanishes."""
    return _mask(number, 3, 4, shortest=11)


# An ID number of 18 characters, or an old one of 15 with a likely date of birth; a mobile number, with or
# without +86. Blanks or dashes may stand where people put them (4-4-4-… too), digits may be full-width. A
# digit on either side makes it part of something else.
_GAP = r"[ \u00a0\u3000\t._\u2010-\u2015\u2212-]?"
_ID_RUN = re.compile(rf"(?<![0-9])[0-9](?:{_GAP}[0-9]){{16}}{_GAP}[0-9Xx](?![0-9])")
_OLD_ID_RUN = re.compile(
    rf"(?<![0-9])[1-9](?:{_GAP}[0-9]){{7}}{_GAP}"
    rf"(?:0{_GAP}[1-9]|1{_GAP}[0-2]){_GAP}(?:0{_GAP}[1-9]|[12]{_GAP}[0-9]|3{_GAP}[01])(?:{_GAP}[0-9]){{3}}(?![0-9])"
)
_MOBILE_RUN = re.compile(rf"(?<![0-9])((?:\+?86|0086)?{_GAP})(1{_GAP}[3-9](?:{_GAP}[0-9]){{9}})(?![0-9])")
_GAPS = re.compile(_GAP)
_PLAIN = {0xFEE0 + code: code for code in map(ord, "0123456789Xx+-")}


def scrub(text: str) -> str:
    """The text with everything that looks like an ID number or a mobile number masked.

    For logs, and for what officials write in their own words. Unit codes are public and stay, also those made
    of digits alone. Full-width digits become plain ones.
    """
    text = text.translate(_PLAIN)
    text = _ID_RUN.sub(_mask_unless_unit, text)
    text = _OLD_ID_RUN.sub(lambda run: mask_id_number(_together(run[0])), text)
    return _MOBILE_RUN.sub(lambda run: run[1] + mask_mobile(_together(run[2])), text)


def _together(run: str) -> str:
    return _GAPS.sub("", run)


def _mask_unless_unit(run: re.Match[str]) -> str:
    number = _together(run[0])
    if number != run[0] and not _holds_birth_date(number):
        return run[0]  # two dates beside each other have 18 digits as well
    is_unit = check_uscc(number).check_ok and not _holds_birth_date(number)
    return run[0] if is_unit else mask_id_number(number)


def _holds_birth_date(number: str) -> bool:
    try:
        year = date(int(number[6:10]), int(number[10:12]), int(number[12:14])).year
    except ValueError:
        return False
    return 1800 <= year < 2100


def _mask(value: str, head: int, tail: int, *, shortest: int) -> str:
    if len(value) < shortest:
        return "*" * len(value)
    return value[:head] + "*" * (len(value) - head - tail) + value[-tail:]


def _split(sealed: bytes) -> tuple[str, bytes, bytes]:
    """Key id, header, rest."""
    if len(sealed) < 3 or sealed[0] != _VERSION or sealed[1] != _SM4_GCM:
        raise BrokenSealError("not a sealed value, or of an unknown format")
    end = 3 + sealed[2]
    header, rest = sealed[:end], sealed[end:]
    if len(rest) < _NONCE_BYTES + _TAG_BYTES:
        raise BrokenSealError("the sealed value is cut short")
    return header[3:].decode("latin-1"), header, rest


def _derive(key: bytes, label: str, length: int) -> bytes:
    return HKDF(algorithm=hashes.SM3(), length=length, salt=None, info=label.encode()).derive(key)


def _publish_once(file: Path, text: str) -> None:
    """Writes a new file durably; one that appeared meanwhile is left alone. Nobody ever sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{secrets.token_hex(8)}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    with suppress(FileExistsError):
        os.link(part, file)
    part.unlink()
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
