"""WeChat's calls to us: the official vectors, what is refused, what the events say."""

import base64
import hashlib
from datetime import datetime

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from services.notify.carriers.wechat_crypt import (
    CallbackError,
    CallbackForgedError,
    CallbackKeys,
    CallbackUnreadableError,
    EventKind,
    check_address,
    open_callback,
    parse_event,
    seal,
    seal_reply,
    signature,
    unseal,
    xml_of,
)
from shared.clock import ZONE

# The samples that Tencent gives out with its own encryption library (WXBizMsgCrypt, Python and Java).
AES_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
KEYS = CallbackKeys.read("wx2c2769f8efd9abc2", "spamtest", AES_KEY)
QUERY = {
    "timestamp": "1409735669",
    "nonce": "1320562132",
    "msg_signature": "5d197aaffba7e9b25a30732f161a50dee96bd5fa",
    "encrypt_type": "aes",
}
SEALED = (
    "hyzAe4OzmOMbd6TvGdIOO6uBmdJoD0Fk53REIHvxYtJlE2B655HuD0m8KUePWB3+LrPXo87wzQ1QLvbeUgmBM4x6F8PGHQHFVAFmOD2LdJF9"
    "FrXpbUAh0B5GIItb52sn896wVsMSHGuPE328HnRGBcrS7C41IzDWyWNlZkyyXwon8T332jisa+h6tEDYsVticbSnyU8dKOIbgU6ux5VTjg3y"
    "t+WGzjlpKn6NPhRjpA912xMezR4kw6KWwMrCVKSVCZciVGCgavjIQ6X8tCOp3yZbGpy0VxpAe+77TszTfRd5RJSVO/HTnifJpXgCSUdUue1v"
    "6h0EIBYYI1BD1DlD+C0CR8e6OewpusjZ4uBl9FyJvnhvQl+q5rv1ixrcpCumEPo5MJSgM9ehVsNPfUM669WuMyVWQLCzpu9GhglF2PE="
)
BODY = (
    f"<xml><ToUserName><![CDATA[gh_10f6c3c3ac5a]]></ToUserName><Encrypt><![CDATA[{SEALED}]]></Encrypt></xml>"
)
SALT = b"aaaabbbbccccdddd"
OPENID = "oyORnuP8q7ou2gfYjqLzSIWZf0rs"


def finished(**changed: str) -> bytes:
    fields = {
        "ToUserName": "gh_10f6c3c3ac5a",
        "FromUserName": OPENID,
        "CreateTime": "1770683400",
        "MsgType": "event",
        "Event": "TEMPLATESENDJOBFINISH",
        "MsgID": "200163836",
        "Status": "success",
    } | changed
    return xml_of(**fields)


def test_the_official_call_is_opened() -> None:
    """Signature and text of the published sample."""
    plain = open_callback(KEYS, QUERY, BODY.encode())
    assert plain.startswith(b"<xml><ToUserName><![CDATA[gh_10f6c3c3ac5a]]></ToUserName>")
    assert b"<Content><![CDATA[abcdteT]]></Content>" in plain
    assert plain.endswith(b"</xml>")
    event = parse_event(plain)
    assert (event.kind, event.openid, event.key) == (EventKind.OTHER, OPENID, "6054768590064713728")


def test_the_official_text_is_sealed_to_the_same_bytes() -> None:
    """With the sample's 16 bytes in front, another account's AppID behind, and padding to 32."""
    keys = CallbackKeys.read("wxb11529c136998cb6", "pamtest", AES_KEY)
    sealed = "jn1L23DB+6ELqJ+6bruv21Y6MD7KeIfP82D6gU39rmkgczbWwt5+3bnyg5K55bgVtVzd832WzZGMhkP72vVOfg=="
    assert sealed == seal(keys, "我是中文abcd123".encode(), salt=SALT)
    assert unseal(keys, sealed).decode() == "我是中文abcd123"


def test_the_address_is_proved_by_the_echo() -> None:
    """The plain signature of the sample's three values; the echo comes back verbatim."""
    query = {
        **QUERY,
        "signature": "16120ec1b8dbb870f510d87ce6bc2463eae6ca1a",
        "echostr": "5837397576500011341",
    }
    assert check_address(KEYS, query) == "5837397576500011341"
    for wrong in ({"signature": ""}, {"signature": "签"}, {"nonce": "1"}, {"timestamp": "1"}):
        with pytest.raises(CallbackForgedError):
            check_address(KEYS, query | wrong)
    with pytest.raises(CallbackForgedError):
        check_address(KEYS, {})


@pytest.mark.parametrize("size", [0, 1, 11, 12, 13, 27, 28, 29, 43, 44, 45, 5000])
def test_every_length_comes_back(size: int) -> None:
    """Padding is 1 to 32 bytes, a whole block where nothing is missing; the cipher's own 16 would not do."""
    plain = b"x" * size
    sealed = seal(KEYS, plain, salt=SALT)
    assert plain == unseal(KEYS, sealed)
    assert len(base64.b64decode(sealed)) % 32 == 0


def test_a_reply_is_signed_over_what_it_seals() -> None:
    """WeChat reads our answer as we read its call."""
    reply = seal_reply(KEYS, b"<xml/>", timestamp="1", nonce="2", salt=SALT)
    sealed = seal(KEYS, b"<xml/>", salt=SALT)
    expected = hashlib.sha1(
        "".join(sorted(["spamtest", "1", "2", sealed])).encode(), usedforsecurity=False
    ).hexdigest()
    assert (
        f"<MsgSignature>{expected}</MsgSignature><TimeStamp>1</TimeStamp><Nonce>2</Nonce>" in reply.decode()
    )
    query = {"timestamp": "1", "nonce": "2", "msg_signature": expected}
    assert open_callback(KEYS, query, reply) == b"<xml/>"


@pytest.mark.parametrize(
    "changed",
    [
        {"msg_signature": QUERY["msg_signature"][:-1] + "b"},
        {"msg_signature": QUERY["msg_signature"].upper()},
        {"msg_signature": "签\ud800"},
        {"timestamp": "1409735670"},
        {"nonce": "0"},
    ],
)
def test_a_changed_call_is_forged(changed: dict[str, str]) -> None:
    """Each signed part counts."""
    with pytest.raises(CallbackForgedError):
        open_callback(KEYS, QUERY | changed, BODY.encode())


def test_an_unsigned_call_is_forged() -> None:
    """No signature, or the plain one that does not cover the sealed text."""
    for query in ({}, {**QUERY, "msg_signature": signature("spamtest", QUERY["timestamp"], QUERY["nonce"])}):
        with pytest.raises(CallbackForgedError):
            open_callback(KEYS, query, BODY.encode())


def call(sealed: str, keys: CallbackKeys = KEYS) -> bytes:
    query = {"timestamp": "1", "nonce": "2", "msg_signature": signature(keys.token, "1", "2", sealed)}
    return open_callback(keys, query, xml_of(ToUserName="gh_x", Encrypt=sealed))


def test_a_call_for_another_account_is_forged() -> None:
    """Rightly signed with the same token and key: the AppID inside decides, whole."""
    for app_id in ("wx2c2769f8efd9abc3", "wx2c2769f8efd9abc", "", "xwx2c2769f8efd9abc2"):
        with pytest.raises(CallbackForgedError):
            call(seal(CallbackKeys.read(app_id, "spamtest", AES_KEY), b"<xml/>", salt=SALT))


def framed(tail: bytes) -> str:
    """A sealed text whose last block ends as given."""
    raw = SALT + (6).to_bytes(4, "big") + b"<xml/>" + b"wx2c2769f8efd9abc2"
    whole = raw + b"\0" * (96 - len(raw) - len(tail)) + tail
    encryptor = Cipher(algorithms.AES(KEYS.aes_key), modes.CBC(KEYS.aes_key[:16])).encryptor()
    return base64.b64encode(encryptor.update(whole) + encryptor.finalize()).decode()


@pytest.mark.parametrize(
    "sealed",
    [
        "x",
        "====",
        "字",
        "!" + seal(KEYS, b"<xml/>", salt=SALT),
        base64.b64encode(b"x" * 17).decode(),
        framed(b"\0"),
        framed(b"\x21" * 33),
        framed(b"\x01\x03\x03"),
    ],
)
def test_what_cannot_be_unsealed_is_named(sealed: str) -> None:
    """Signed, but no Base64, no whole blocks, or padding that is not 1 to 32 equal bytes."""
    with pytest.raises(CallbackUnreadableError):
        call(sealed)


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><xml><Encrypt>&b;</Encrypt></xml>'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<xml>",
        b"\xff\xfe",
        b"<xml/>",
        b"<xml><Encrypt></Encrypt></xml>",
        b'<?xml version="1.0" encoding="nowhere"?><xml/>',
        b'<!DOCTYPE xml SYSTEM "file:///etc/passwd"><xml><Encrypt>x</Encrypt></xml>',
        BOMB,
    ],
)
def test_what_is_no_envelope_is_named(body: bytes) -> None:
    """One named error; a document type, where entities are declared, is never read."""
    with pytest.raises(CallbackUnreadableError):
        open_callback(KEYS, QUERY, body)


@pytest.mark.parametrize("key", ["", AES_KEY + "=", AES_KEY[:-1], AES_KEY[:-1] + "+"])
def test_a_wrong_aes_key_stops_the_start(key: str) -> None:
    """43 letters and digits; the error does not repeat it."""
    with pytest.raises(ValueError, match="43 letters") as error:
        CallbackKeys.read("wx", "t", key)
    assert key == "" or key not in str(error.value)


def test_keys_are_not_printed() -> None:
    """The printed form shows the AppID alone."""
    assert repr(KEYS) == "CallbackKeys(app_id='wx2c2769f8efd9abc2')"


@pytest.mark.parametrize(
    ("status", "delivered"),
    [("success", True), ("failed:user block", False), ("failed: system failed", False), ("Success", False)],
)
def test_the_fate_of_a_message_is_a_receipt(status: str, delivered: bool) -> None:
    """Only the exact word is delivered; the receipt names msgid and openid."""
    event = parse_event(finished(Status=status))
    receipt = event.receipt
    assert receipt is not None
    assert (receipt.message_group, receipt.mobile, receipt.delivered, receipt.code) == (
        "200163836",
        OPENID,
        delivered,
        status,
    )
    assert datetime(2026, 2, 10, 8, 30, tzinfo=ZONE) == receipt.received_at == event.at
    assert (event.kind, event.openid, event.key) == (EventKind.FINISHED, OPENID, "200163836")
    assert OPENID not in repr(event)


def test_following_and_leaving_have_keys_of_their_own() -> None:
    """The same each time it is said again, different for leaving within the same second."""
    first = parse_event(finished(Event="subscribe"))
    assert (first.kind, first.openid, first.receipt) == (EventKind.FOLLOWED, OPENID, None)
    assert first.key == parse_event(finished(Event="subscribe", EventKey="qrscene_7")).key
    gone = parse_event(finished(Event="unsubscribe"))
    later = parse_event(finished(Event="subscribe", CreateTime="1770683401"))
    assert gone.kind == EventKind.UNFOLLOWED
    assert len({first.key, gone.key, later.key}) == 3


def test_a_message_that_only_says_it_is_an_event_is_none() -> None:
    """What a person writes cannot pass for a receipt."""
    event = parse_event(finished(MsgType="text", MsgId="7"))
    assert (event.kind, event.key, event.receipt) == (EventKind.OTHER, "7", None)


@pytest.mark.parametrize(
    "changed",
    [
        {"FromUserName": ""},
        {"FromUserName": "字"},
        {"CreateTime": "noon"},
        {"CreateTime": "99999999999"},
        {"MsgType": ""},
        {"Event": ""},
        {"MsgID": ""},
        {"MsgID": "7" * 129},
        {"Status": ""},
    ],
)
def test_what_is_no_event_is_named(changed: dict[str, str]) -> None:
    """The error names the part, never its value."""
    with pytest.raises(CallbackUnreadableError) as error:
        parse_event(finished(**changed))
    [(name, value)] = changed.items()
    assert name in str(error.value)
    assert value == "" or value not in str(error.value).removeprefix(name)
    assert isinstance(error.value, CallbackError)
