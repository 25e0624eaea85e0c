"""What a WeChat official account calls us with: signatures, the sealed envelope, the events in it.

Only safe mode (安全模式) is spoken: a call without `Encrypt` and `msg_signature` is not from WeChat. WeChat
calls again until it is answered `success` in time, so an event carries a key that is the same each time.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hmac import compare_digest
from typing import Final, Self
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

import defusedxml.ElementTree
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from defusedxml.common import DefusedXmlException

from services.notify.carriers import Receipt
from shared.clock import ZONE

BLOCK: Final = 32
"""Padding goes to multiples of 32, twice the cipher's own block."""
SALT: Final = 16
"""Random bytes in front of every sealed message."""

FINISHED_WELL: Final = "success"
USER_BLOCKED: Final = "failed:user block"
SYSTEM_FAILED: Final = "failed: system failed"  # the blank is WeChat's


class CallbackError(ValueError):
    """A call that is not to be heeded; answer 403 or 400 and do nothing. The message holds no value of it."""


class CallbackForgedError(CallbackError):
    """The signature or the account is not ours: compare token and AppID with the account's settings page."""


class CallbackUnreadableError(CallbackError):
    """Rightly signed, but not in WeChat's format. The message names the part."""


@dataclass(frozen=True)
class CallbackKeys:
    """What the account's settings page and we share. `aes_key` is the key itself, 32 bytes."""

    app_id: str
    token: str = field(repr=False)
    aes_key: bytes = field(repr=False)

    @classmethod
    def read(cls, app_id: str, token: str, encoding_aes_key: str) -> Self:
        """From the page's texts. Raises ValueError when EncodingAESKey is not 43 letters and digits."""
        if not re.fullmatch(r"[A-Za-z0-9]{43}", encoding_aes_key):
            raise ValueError(
                "EncodingAESKey has 43 letters and digits: copy it from the account's settings page"
            )
        return cls(app_id, token, base64.b64decode(encoding_aes_key + "="))


def signature(*parts: str) -> str:
    """SHA-1 of the sorted parts written together: token, timestamp, nonce and, sealed, the Encrypt text."""
    plain = "".join(sorted(parts)).encode("utf-8", "surrogatepass")
    return hashlib.sha1(plain, usedforsecurity=False).hexdigest()


def check_address(keys: CallbackKeys, query: Mapping[str, str]) -> str:
    """What to answer when WeChat proves the callback's address (GET): `echostr`, verbatim.

    Raises CallbackForgedError when the signature is wrong.
    """
    _check(query.get("signature", ""), keys.token, query.get("timestamp", ""), query.get("nonce", ""))
    return query.get("echostr", "")


def open_callback(keys: CallbackKeys, query: Mapping[str, str], body: bytes) -> bytes:
    """The XML inside one call (POST). Raises CallbackForgedError or CallbackUnreadableError."""
    sealed = _child(_xml(body), "Encrypt")
    timestamp, nonce = query.get("timestamp", ""), query.get("nonce", "")
    _check(query.get("msg_signature", ""), keys.token, timestamp, nonce, sealed)
    return unseal(keys, sealed)


def seal(keys: CallbackKeys, plain: bytes, *, salt: bytes) -> str:
    """The Encrypt text of a message. `salt` is 16 random bytes."""
    framed = salt + len(plain).to_bytes(4, "big") + plain + keys.app_id.encode()
    pad = BLOCK - len(framed) % BLOCK
    encryptor = _cipher(keys).encryptor()
    return base64.b64encode(encryptor.update(framed + bytes([pad]) * pad) + encryptor.finalize()).decode()


def unseal(keys: CallbackKeys, sealed: str) -> bytes:
    """The message in an Encrypt text. Check the signature first: padding errors must not answer strangers."""
    try:
        data = base64.b64decode(sealed, validate=True)
        decryptor = _cipher(keys).decryptor()
        framed = decryptor.update(data) + decryptor.finalize()
    except (ValueError, binascii.Error):
        raise CallbackUnreadableError("Encrypt: not Base64 of whole blocks") from None
    pad = framed[-1] if framed else 0
    if not 1 <= pad <= BLOCK or framed[-pad:] != bytes([pad]) * pad:
        raise CallbackUnreadableError("Encrypt: wrong padding, so EncodingAESKey is not the account's")
    start = SALT + 4
    end = start + int.from_bytes(framed[SALT:start], "big")
    plain, app_id = framed[start:end], framed[end:-pad]
    if not compare_digest(app_id, keys.app_id.encode()):
        raise CallbackForgedError("sealed for another AppID")
    return plain


def seal_reply(keys: CallbackKeys, plain: bytes, *, timestamp: str, nonce: str, salt: bytes) -> bytes:
    """An answer with content, sealed and signed. Most calls are answered with the bare word `success`."""
    sealed = seal(keys, plain, salt=salt)
    return xml_of(
        Encrypt=sealed,
        MsgSignature=signature(keys.token, timestamp, nonce, sealed),
        TimeStamp=timestamp,
        Nonce=nonce,
    )


class EventKind(StrEnum):
    """What a call is about."""

    FINISHED = "finished"  # the fate of a template message
    FOLLOWED = "followed"
    UNFOLLOWED = "unfollowed"
    OTHER = "other"  # nothing that messages depend on: answer `success`, do nothing


@dataclass(frozen=True)
class CallbackEvent:
    """One thing that WeChat told us.

    `at` is the instant of WeChat, aware, Asia/Shanghai. `key` is the same each time WeChat says it again; it
    holds the openid, so keep a digest of it. `receipt` belongs to FINISHED alone: its `mobile` is the openid,
    its `message_group` the msgid.
    """

    kind: EventKind
    openid: str = field(repr=False)
    at: datetime
    key: str = field(repr=False)
    receipt: Receipt | None = None


_KINDS: Final = {
    "TEMPLATESENDJOBFINISH": EventKind.FINISHED,
    "subscribe": EventKind.FOLLOWED,
    "unsubscribe": EventKind.UNFOLLOWED,
}


def parse_event(xml: bytes) -> CallbackEvent:
    """The event in the XML of a call, also of a message that a person wrote (OTHER).

    Raises CallbackUnreadableError for what is not in the format.
    """
    root = _xml(xml)
    openid, made = _child(root, "FromUserName"), _child(root, "CreateTime")
    if not re.fullmatch(r"[0-9]{1,10}", made):
        raise CallbackUnreadableError("CreateTime: not Unix seconds")
    at = datetime.fromtimestamp(int(made), ZONE)
    name = _child(root, "Event") if _child(root, "MsgType") == "event" else ""
    kind = _KINDS.get(name, EventKind.OTHER)
    if kind is not EventKind.FINISHED:
        message = root.findtext("MsgId", "").strip()
        # following and leaving can fall into one second, so the event's name is part of the key
        return CallbackEvent(kind, openid, at, message or f"{openid}:{made}:{name}")
    message, status = _child(root, "MsgID"), _child(root, "Status")
    receipt = Receipt(
        message_group=message,
        mobile=openid,
        delivered=status == FINISHED_WELL,
        code=status,
        received_at=at,
    )
    return CallbackEvent(kind, openid, at, message, receipt)


def xml_of(**children: str) -> bytes:
    """The flat XML that WeChat speaks."""
    root = Element("xml")
    for name, text in children.items():
        SubElement(root, name).text = text
    written: bytes = tostring(root, encoding="utf-8")
    return written


def _check(given: str, *parts: str) -> None:
    if not compare_digest(given.encode("utf-8", "surrogatepass"), signature(*parts).encode()):
        raise CallbackForgedError("the signature does not fit")


def _cipher(keys: CallbackKeys) -> Cipher[modes.CBC]:
    return Cipher(algorithms.AES(keys.aes_key), modes.CBC(keys.aes_key[:16]))


def _xml(body: bytes) -> Element:
    try:
        # no document type: it is where entities that grow without end are declared
        return defusedxml.ElementTree.fromstring(body, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        raise CallbackUnreadableError("not the XML of WeChat") from None


def _child(root: Element, name: str) -> str:
    text = root.findtext(name, "").strip()
    # an Encrypt text is long; everything else is a name, a number or a word
    if not text or (name != "Encrypt" and not re.fullmatch(r"[ -~]{1,128}", text)):
        raise CallbackUnreadableError(f"{name}: missing, or not 1 to 128 printable ASCII characters")
    return text
