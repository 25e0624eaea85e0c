"""Which bearer tokens are believed, and how the local issuer keeps its key."""

import asyncio
import base64
import hashlib
import hmac
import json
import stat
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, RSAKey

from shared.auth import (
    DEPARTMENT_SCOPES,
    OTHER_DEPARTMENTS_SCOPES,
    SCOPES,
    InvalidToken,
    LocalIssuer,
    LocalTokenSource,
    Verifier,
    department_scopes,
    jwks_file,
)
from shared.clock import FrozenClock

AT = datetime(2027, 2, 3, 1, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> FrozenClock:
    """A day in 2027: nothing may lean on the date of this machine."""
    return FrozenClock(AT)


@pytest.fixture
def issuer(tmp_path: Path, clock: FrozenClock) -> LocalIssuer:
    """An issuer with a key of its own."""
    return LocalIssuer(tmp_path / "keys" / "issuer.jwk", clock)


@pytest.fixture
def key(issuer: LocalIssuer, tmp_path: Path) -> ECKey:
    """The issuer's private key, to sign what the issuer would never sign."""
    assert issuer
    return ECKey.import_key(json.loads((tmp_path / "keys" / "issuer.jwk").read_text()))


def claims(**change: Any) -> dict[str, Any]:
    """Good claims for one hour; None takes one away."""
    now = int(AT.timestamp())
    good = {
        "iss": "yingbao-local",
        "aud": "yingbao",
        "sub": "adm",
        "nbf": now,
        "exp": now + 3600,
        "scope": "units:write",
    }
    return {name: value for name, value in (good | change).items() if value is not None}


def b64(data: bytes) -> str:
    """base64url without padding, as in a JWT."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def reason(verifier: Verifier, token: str) -> str:
    """Why a token is refused; the test fails when it is not."""
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(token)
    return refused.value.reason


def test_a_minted_token_says_who_asks(issuer: LocalIssuer, clock: FrozenClock) -> None:
    """Client, department, town and scopes come back as they were given."""
    token = issuer.token("adm-1", department="ADM", town="寻山街道", scopes=["units:write", "units:read"])
    who = Verifier(issuer.jwks, clock).verify(token)
    assert (who.client_id, who.department, who.town) == ("adm-1", "ADM", "寻山街道")
    assert who.scopes == {"units:write", "units:read"}


def test_a_token_lives_from_its_beginning_to_its_end(issuer: LocalIssuer, clock: FrozenClock) -> None:
    """Thirty seconds of leeway on both sides, also for a token that was verified before."""
    token = issuer.token("adm", scopes=["units:read"], ttl=timedelta(minutes=5))
    verifier = Verifier(issuer.jwks, clock)
    early = Verifier(issuer.jwks, FrozenClock(AT - timedelta(seconds=31)))
    assert reason(early, token) == "claims"
    assert Verifier(issuer.jwks, FrozenClock(AT - timedelta(seconds=29))).verify(token)
    clock.advance(timedelta(minutes=5, seconds=29))
    assert verifier.verify(token) == verifier.verify(token)
    clock.advance(timedelta(seconds=2))
    assert reason(verifier, token) == "expired"
    assert reason(Verifier(issuer.jwks, clock), token) == "expired"


def test_only_es256_is_believed(issuer: LocalIssuer, clock: FrozenClock, key: ECKey) -> None:
    """No token without signature, none signed with the public key as a shared secret, no other algorithm."""
    verifier = Verifier(issuer.jwks, clock)
    payload = b64(json.dumps(claims()).encode())
    for word in ("none", "None", "NONE"):
        head = b64(json.dumps({"alg": word, "kid": key.thumbprint()}).encode())
        assert reason(verifier, f"{head}.{payload}.") == "algorithm"
    for secret in (key.as_pem(private=False), json.dumps(issuer.jwks()["keys"][0]).encode()):
        head = b64(json.dumps({"alg": "HS256", "kid": key.thumbprint()}).encode())
        mac = hmac.digest(secret, f"{head}.{payload}".encode(), hashlib.sha256)
        assert reason(verifier, f"{head}.{payload}.{b64(mac)}") == "algorithm"
    rsa = RSAKey.generate_key(2048)
    other = jwt.encode({"alg": "RS256", "kid": key.thumbprint()}, claims(), rsa, algorithms=["RS256"])
    assert reason(verifier, other) == "algorithm"


def test_a_key_set_may_hold_keys_of_other_kinds(issuer: LocalIssuer, clock: FrozenClock) -> None:
    """Only P-256 keys with an id are used; a symmetric one is never a key for us."""
    secret = {"kty": "oct", "kid": "shared", "k": b64(b"0" * 32)}
    document = {"keys": [secret, {"kty": "EC"}, "x", *issuer.jwks()["keys"]]}
    verifier = Verifier(lambda: document, clock)
    assert verifier.verify(issuer.token("adm", scopes=[]))
    for broken in ({}, {"keys": 1}):
        with pytest.raises(ValueError, match="keys"):
            Verifier(lambda broken=broken: broken, clock)  # type: ignore[misc]


def test_another_hand_or_a_changed_word_is_noticed(
    issuer: LocalIssuer, clock: FrozenClock, key: ECKey
) -> None:
    """A foreign key under our key id, or one changed claim, breaks the signature."""
    verifier = Verifier(issuer.jwks, clock)
    forged = jwt.encode({"alg": "ES256", "kid": key.thumbprint()}, claims(), ECKey.generate_key("P-256"))
    assert reason(verifier, forged) == "signature"
    head, _, signature = issuer.token("adm", scopes=["units:read"]).split(".")
    payload = b64(json.dumps(claims(scope="people:unmask")).encode())
    assert reason(verifier, f"{head}.{payload}.{signature}") == "signature"


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "somebody"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"aud": ["a", "b"]},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": int(AT.timestamp()) + 31},
        {"sub": None},
        {"sub": ""},
        {"sub": 5},
        {"sub": "x" * 65},
        {"scope": ["units:write"]},
        {"department": 1},
        {"town": ["a"]},
        {"sub": "a\nb"},
        {"sub": "a\x00"},
        {"town": "\x7f"},
        {"town": "x" * 65},
        {"town": ""},
        {"department": "A\u202eM"},
        {"exp": True},
        {"exp": 10**400},
        {"exp": 2**33 + 1},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": -1},
        {"iat": -(10**400)},
        {"iss": ["yingbao-local"]},
        {"aud": {"yingbao": 1}},
        {"aud": [["yingbao"]]},
    ],
)
def test_wrong_claims_are_refused(
    issuer: LocalIssuer, clock: FrozenClock, key: ECKey, change: Mapping[str, Any]
) -> None:
    """Issuer, audience, dates and the words about the caller have to be there and right."""
    token = jwt.encode({"alg": "ES256", "kid": key.thumbprint()}, claims(**change), key)
    assert reason(Verifier(issuer.jwks, clock), token) == "claims"
    assert Verifier(issuer.jwks, clock).verify(
        jwt.encode({"alg": "ES256", "kid": key.thumbprint()}, claims(aud=["x", "yingbao"]), key)
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[1]",
        b"\xff",
        b"[" * 2800,
        b'{"x":' * 1000,
        b'{"x":' + b"[" * 2700 + b"]" * 2700 + b"}",
        b'{"x":' + b"9" * 5500 + b"}",
        json.dumps(claims(sub="\ud800")).encode(),
        json.dumps(claims(town="\udfff")).encode(),
        json.dumps(claims(department="\x00")).encode(),
        json.dumps(claims(scope=5)).encode(),
        json.dumps(claims(exp=0)).encode().replace(b'"exp": 0', b'"exp": 1e400'),
    ],
)
def test_a_signed_oddity_is_refused(
    issuer: LocalIssuer, clock: FrozenClock, key: ECKey, payload: bytes
) -> None:
    """Whatever an issuer signs, it is refused as claims; never a crash, here or later."""
    token = jws.serialize_compact({"alg": "ES256", "kid": key.thumbprint()}, payload, key)
    assert reason(Verifier(issuer.jwks, clock), token) == "claims"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "é.é.é",
        "\ud800.a.b",
        "W10.W10.W10",
        "x" * 9000,
        ".".join(["e30"] * 3),
    ],
)
def test_rubbish_is_refused(issuer: LocalIssuer, clock: FrozenClock, token: str) -> None:
    """Anything at all may stand in the header; it is refused, never a crash."""
    assert reason(Verifier(issuer.jwks, clock), token) in {"malformed", "algorithm"}


def test_a_new_key_is_fetched_once(tmp_path: Path, clock: FrozenClock, issuer: LocalIssuer) -> None:
    """An unknown key id loads the key set again, but not more often than every ten seconds."""
    loads = 0
    current = issuer

    def source() -> Mapping[str, Any]:
        nonlocal loads
        loads += 1
        return current.jwks()

    verifier = Verifier(source, clock)
    current = LocalIssuer(tmp_path / "second.jwk", clock)
    assert verifier.verify(current.token("adm", scopes=[]))
    assert loads == 2
    stranger = LocalIssuer(tmp_path / "third.jwk", clock)
    assert [reason(verifier, stranger.token("x", scopes=[])) for _ in range(3)] == ["unknown_key"] * 3
    assert loads == 2
    clock.advance(timedelta(seconds=10))
    assert reason(verifier, stranger.token("x", scopes=[])) == "unknown_key"
    assert loads == 3


def test_a_broken_key_file_keeps_the_old_keys(
    tmp_path: Path, clock: FrozenClock, issuer: LocalIssuer
) -> None:
    """A half-written JWKS file must not lock everybody out."""
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(issuer.jwks()))
    verifier = Verifier(jwks_file(file), clock)
    file.write_text('{"keys"')
    stranger = LocalIssuer(tmp_path / "third.jwk", clock)
    assert reason(verifier, stranger.token("x", scopes=[])) == "unknown_key"
    assert verifier.verify(issuer.token("adm", scopes=[]))


def test_the_key_survives_and_is_private(tmp_path: Path, clock: FrozenClock) -> None:
    """A restarted issuer signs with the same key; the file is its owner's alone and the JWKS public."""
    file = tmp_path / "issuer.jwk"
    first, second = LocalIssuer(file, clock), LocalIssuer(file, clock)
    assert first.jwks() == second.jwks()
    assert Verifier(first.jwks, clock).verify(second.token("adm", scopes=[]))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["issuer.jwk"]
    assert "d" not in first.jwks()["keys"][0]
    file.write_text("{}")
    with pytest.raises(ValueError, match="remove it"):
        LocalIssuer(file, clock)


def test_a_service_renews_its_token_in_time(issuer: LocalIssuer, clock: FrozenClock) -> None:
    """One token serves until a tenth of its life is left; renew always makes another."""
    verifier = Verifier(issuer.jwks, clock)
    source = LocalTokenSource(issuer, clock, client_id="notify", scopes=["last-look"])

    async def story() -> None:
        first = await source.token()
        assert verifier.verify(first).scopes == {"last-look"}
        clock.advance(timedelta(minutes=53))
        assert await source.token() == first
        clock.advance(timedelta(minutes=2))
        second = await source.token()
        assert second != first
        third = await source.renew()
        assert third != second
        assert await source.token() == third

    asyncio.run(story())


def test_development_scopes_are_real_ones() -> None:
    """No department is given a scope that does not exist, and unmasking is not given away."""
    for scopes in (*DEPARTMENT_SCOPES.values(), OTHER_DEPARTMENTS_SCOPES):
        assert scopes <= SCOPES
    assert {code for code in DEPARTMENT_SCOPES if "people:unmask" in department_scopes(code)} == {"HRSS"}
    assert department_scopes("OCEAN") == OTHER_DEPARTMENTS_SCOPES
