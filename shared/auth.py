"""Who calls: bearer tokens (JWT, RFC 9068 in spirit) verified offline against a set of public keys.

One algorithm is accepted, ES256. A local issuer serves development, tests and the embedded mode.
"""

import base64
import contextlib
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from joserfc import jwt
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidPayloadError, JoseError
from joserfc.jwk import ECKey

from shared.clock import Clock

ALGORITHM: Final = "ES256"
AUDIENCE: Final = "yingbao"
LOCAL_ISSUER: Final = "yingbao-local"
LEEWAY_S: Final = 30
"""How far the clocks of issuer and service may differ, in seconds."""
MAX_TOKEN = 8192
"""A longer bearer token is refused unread, in bytes."""
RELOAD_INTERVAL_S = 10.0
RELOAD_AGE_S = 300.0
"""Keys are read again after so long, so that one that was taken away stops counting."""
"""Unknown key ids make the key set load again at most this often, in seconds."""
REMEMBERED_TOKENS = 1024
LATEST: Final = 2**33
"""Dates of a token lie between 1970 and this instant (year 2242), in seconds; others are a mistake."""

log = structlog.get_logger(__name__)

_READS = (
    "units:read participations:read datasets:read leads:read clocks:read visits:read notices:read "
    "sending:read progress:read"
)
SCOPES: Final = frozenset(
    [
        "units:write",
        "units:read",
        "participations:write",
        "participations:read",
        "datasets:write",
        "datasets:read",
        "last-look",
        "leads:read",
        "leads:write",
        "clocks:read",
        "visits:read",
        "visits:write",
        "notices:read",
        "sending:read",
        "sending:write",
        "bindings:write",
        "progress:read",
        "operations",
        "calendar:write",
        "people:unmask",
    ]
)
"""Every scope there is."""
DEPARTMENT_SCOPES: Final[Mapping[str, frozenset[str]]] = {
    code: frozenset(scopes.split())
    for code, scopes in {
        "ADM": "units:write units:read datasets:write datasets:read progress:read",
        "HRSS": f"{_READS} participations:write datasets:write leads:write visits:write sending:write "
        "bindings:write calendar:write people:unmask",
        "TOWN": "units:read clocks:read leads:read visits:read visits:write notices:read progress:read",
        "TAX": "units:read participations:write participations:read datasets:write datasets:read "
        "leads:read progress:read",
        "MI": "participations:write participations:read datasets:write datasets:read progress:read",
        "AMR": "units:read datasets:write datasets:read progress:read",
        "OPS": f"{_READS} operations datasets:write sending:write calendar:write",
    }.items()
}
"""What a development token of a department may do; production scopes are the issuer's decision."""
OTHER_DEPARTMENTS_SCOPES: Final = frozenset(
    {"units:read", "datasets:write", "datasets:read", "progress:read"}
)
"""The same for the departments that only supply data."""


def department_scopes(department: str) -> frozenset[str]:
    """The scopes of a department's development token."""
    return DEPARTMENT_SCOPES.get(department, OTHER_DEPARTMENTS_SCOPES)


class InvalidToken(Exception):  # noqa: N818 - RFC 6750's word
    """The bearer token proves nothing.

    `reason` is a stable word: malformed, algorithm, unknown_key, signature, expired, claims.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Identity:
    """Who a verified token speaks for. `town` and `department` limit rows; None is no limit by that."""

    client_id: str
    department: str | None
    town: str | None
    scopes: frozenset[str]


KeySource = Callable[[], Mapping[str, Any]]
"""Gives the current JWKS document; called at start and when a token names an unknown key."""


def jwks_file(path: Path) -> KeySource:
    """A key source that reads a JWKS document from a file."""

    def read() -> Mapping[str, Any]:
        document: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        return document

    return read


class Verifier:
    """Verifies bearer tokens. Dates are compared with wall time, never with business time."""

    def __init__(self, source: KeySource, clock: Clock, *, issuer: str = LOCAL_ISSUER) -> None:
        self._source = source
        self._clock = clock
        self._issuer = issuer
        self._keys: dict[str, ECKey] = _public_keys(source())
        self._loaded_at = float("-inf")  # so that the first unknown key is looked for at once
        self._remembered: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()

    def verify(self, token: str) -> Identity:
        """Who the token speaks for. Raises InvalidToken."""
        now = self._clock.wall().timestamp()
        if self._clock.monotonic() - self._loaded_at >= RELOAD_AGE_S:
            self._reload()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered.get(digest)
        if known is not None and now <= known[1]:
            self._remembered.move_to_end(digest)
            return known[0]
        claims = self._claims(token, now)
        identity = _identity(claims)
        self._remembered[digest] = (identity, claims["exp"] + LEEWAY_S)
        if len(self._remembered) > REMEMBERED_TOKENS:
            self._remembered.popitem(last=False)
        return identity

    def _claims(self, token: str, now: float) -> dict[str, Any]:
        key = self._key(_key_id(token))
        try:
            claims = jwt.decode(token, key, algorithms=[ALGORITHM]).claims
        except (InvalidPayloadError, RecursionError) as error:
            raise InvalidToken("claims") from error
        except (JoseError, ValueError, TypeError) as error:
            raise InvalidToken("signature") from error
        rules = jwt.JWTClaimsRegistry(
            now=int(now),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": AUDIENCE},
            exp={"essential": True},
            sub={"essential": True},
        )
        try:
            rules.validate(claims)
        except ExpiredTokenError as error:
            raise InvalidToken("expired") from error
        except (ClaimError, ValueError, TypeError, RecursionError) as error:
            raise InvalidToken("claims") from error
        if not all(0 <= claims.get(name, 0) <= LATEST for name in ("exp", "nbf", "iat")):
            raise InvalidToken("claims")
        return claims

    def _key(self, kid: str) -> ECKey:
        if kid not in self._keys and self._clock.monotonic() - self._loaded_at >= RELOAD_INTERVAL_S:
            self._reload()
        if kid not in self._keys:
            raise InvalidToken("unknown_key")
        return self._keys[kid]

    def _reload(self) -> None:
        """Reads the keys again; tokens of a key that was taken away are worth nothing from then on."""
        self._loaded_at = self._clock.monotonic()
        try:
            keys = _public_keys(self._source())
        except (OSError, ValueError) as error:
            log.warning("keys_not_reloaded", error=type(error).__name__)
            return
        if keys.keys() != self._keys.keys():
            self._remembered.clear()
        self._keys = keys


def _public_keys(document: Mapping[str, Any]) -> dict[str, ECKey]:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise ValueError('a JWKS document needs a list "keys"')  # noqa: TRY004 - the content is wrong
    fit = [k for k in keys if isinstance(k, dict) and k.get("kty") == "EC" and k.get("crv") == "P-256"]
    try:
        return {key["kid"]: ECKey.import_key(key) for key in fit if isinstance(key.get("kid"), str)}
    except JoseError as error:
        raise ValueError("the JWKS document holds a broken key") from error


def _key_id(token: str) -> str:
    if len(token) > MAX_TOKEN or token.count(".") != 2:
        raise InvalidToken("malformed")
    head = token.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError) as error:
        raise InvalidToken("malformed") from error
    if not isinstance(header, dict):
        raise InvalidToken("malformed")
    if header.get("alg") != ALGORITHM:
        raise InvalidToken("algorithm")
    if not isinstance(header.get("kid"), str):
        raise InvalidToken("unknown_key")
    return str(header["kid"])


def _identity(claims: Mapping[str, Any]) -> Identity:
    client, scope = claims["sub"], claims.get("scope", "")
    department, town = claims.get("department"), claims.get("town")
    names = [client, *(word for word in (department, town) if word is not None)]
    if not isinstance(scope, str) or not all(_is_name(name) for name in names):
        raise InvalidToken("claims")
    return Identity(client, department, town, frozenset(scope.split()))


def _is_name(word: Any) -> bool:
    """Whether a word may stand in audit rows and statements: visible, no lone surrogate, not endless."""
    return isinstance(word, str) and 0 < len(word) <= 64 and word.isprintable()


class LocalIssuer:
    """Mints tokens with a key of its own, kept in a file that only its owner may read.

    The key is made at the first start and survives restarts; two processes that start at once agree on
    one key.
    """

    def __init__(self, key_file: Path, clock: Clock, *, issuer: str = LOCAL_ISSUER) -> None:
        self._clock = clock
        self._issuer = issuer
        if not key_file.exists():
            _write_new_key(key_file)
        try:
            self._key = ECKey.import_key(json.loads(key_file.read_text("utf-8")))
        except (ValueError, JoseError) as error:
            raise ValueError(f"{key_file} holds no EC key; remove it to have a new one made") from error
        self._kid = self._key.thumbprint()

    def token(
        self,
        client_id: str,
        *,
        department: str | None = None,
        town: str | None = None,
        scopes: Collection[str],
        ttl: timedelta = timedelta(hours=1),
    ) -> str:
        """A signed bearer token that is good from now for `ttl`, in wall time."""
        now = int(self._clock.wall().timestamp())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": client_id,
            "iat": now,
            "nbf": now,
            "exp": now + int(ttl.total_seconds()),
            "scope": " ".join(sorted(scopes)),
        }
        if department is not None:
            claims["department"] = department
        if town is not None:
            claims["town"] = town
        return jwt.encode({"alg": ALGORITHM, "kid": self._kid}, claims, self._key, algorithms=[ALGORITHM])

    def jwks(self) -> Mapping[str, Any]:
        """The public half of the key as a JWKS document; a KeySource."""
        public = self._key.as_dict(private=False)
        return {"keys": [{**public, "kid": self._kid, "alg": ALGORITHM, "use": "sig"}]}


def _write_new_key(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(ECKey.generate_key("P-256", private=True).as_dict(private=True), out)
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: its key is the one
            os.link(part, file)
    finally:
        part.unlink()
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class TokenSource(Protocol):
    """Where a service gets the token for its calls to a neighbour."""

    async def token(self) -> str:
        """A token that is good now."""

    async def renew(self) -> str:
        """A new token, because the neighbour answered 401."""


class LocalTokenSource:
    """Tokens from the local issuer, for a service's own client (notify: `last-look`)."""

    def __init__(
        self,
        issuer: LocalIssuer,
        clock: Clock,
        *,
        client_id: str,
        scopes: Collection[str],
        ttl: timedelta = timedelta(hours=1),
    ) -> None:
        self._issuer = issuer
        self._clock = clock
        self._client_id = client_id
        self._scopes = frozenset(scopes)
        self._ttl = ttl
        self._token = ""
        self._renew_at = float("-inf")

    async def token(self) -> str:
        """A token with at least a tenth of its life left."""
        if self._clock.wall().timestamp() >= self._renew_at:
            return await self.renew()
        return self._token

    async def renew(self) -> str:
        """A freshly minted token."""
        self._token = self._issuer.token(self._client_id, scopes=self._scopes, ttl=self._ttl)
        self._renew_at = self._clock.wall().timestamp() + 0.9 * self._ttl.total_seconds()
        return self._token
