"""The running suite as seen from outside."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import httpx

from services.demo.city import INSURES
from shared.clock import ZONE

SERVER_BACK_WITHIN_S = 180.0
QUIET_WITHIN_S = 300.0
PAUSE_S = 0.01
LONG_PAUSE_S = 1.0

QUIET = (
    *(f"/{name}/demo/quiet" for name in ("registry", "matching", "notify", "targets")),
    "/sandbox/quiet",
)

_UNAUTHORIZED, _OK_BELOW = 401, 300
_GATEWAY_ERRORS = (502, 503, 504)


class StoryError(Exception):
    """The story cannot go on; the message says at what."""


@dataclass(frozen=True)
class Addresses:
    """Where each part answers, prefix included; `clock` is whoever serves /demo/clock."""

    registry: str
    matching: str
    notify: str
    targets: str
    sandbox: str
    clock: str

    @classmethod
    def below(cls, url: str) -> Self:
        """All of them in one process."""
        root = url.rstrip("/")
        registry, matching, notify, targets, sandbox = (
            f"{root}/{name}" for name in ("registry", "matching", "notify", "targets", "sandbox")
        )
        return cls(registry, matching, notify, targets, sandbox, clock=root)

    def of(self, path: str) -> str:
        """The address of a path of the story, which begins with the part's name, or with /demo for the clock."""
        part, slash, rest = path.removeprefix("/").partition("/")
        return f"{self.clock}{path}" if part == "demo" else f"{getattr(self, part)}{slash}{rest}"


@dataclass(frozen=True)
class Patience:
    """How the driver waits: a pause of so many seconds, and a clock that only runs forward (seconds)."""

    pause: Callable[[float], object]
    monotonic: Callable[[], float]


def real_patience() -> Patience:
    """Waits in real time. A plain sleep: timed waits on locks never end under a shifted system date."""
    return Patience(pause=time.sleep, monotonic=time.monotonic)


class Suite:
    """The running suite; a path begins with the name of the part that it is of."""

    def __init__(
        self,
        client: httpx.Client,
        token: Callable[[str], str],
        patience: Patience,
        addresses: Addresses,
    ) -> None:
        self.addresses = addresses
        self._client = client
        self._token = token
        self._patience = patience
        self._tokens: dict[str, str] = {}

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        key: str | None = None,
        params: Mapping[str, str] | None = None,
        department: str = INSURES,
    ) -> Any:
        """The answer's JSON, or its text when it is a file. A body of bytes is sent as a file.

        Waits for a server that is away or busy; raises StoryError for any refusal.
        """
        give_up = self._patience.monotonic() + SERVER_BACK_WITHIN_S
        renewed = False
        content = body if isinstance(body, bytes) else None
        while True:
            headers = {"Authorization": f"Bearer {self._bearer(department)}"}
            if content is not None:
                headers["Content-Type"] = "text/csv"
            elif key:
                headers["Idempotency-Key"] = key
            try:
                answer = self._client.request(
                    method,
                    self.addresses.of(path),
                    content=content,
                    json=body if content is None else None,
                    params=params,
                    headers=headers,
                )
            except httpx.TransportError as error:
                self._wait_until(give_up, f"{method} {path}: {type(error).__name__}")
                continue
            if answer.status_code == _UNAUTHORIZED and not renewed:
                self._tokens.pop(department, None)
                renewed = True
            elif "Retry-After" in answer.headers or answer.status_code in _GATEWAY_ERRORS:
                self._wait_until(give_up, f"{method} {path}: {answer.status_code}")
            elif answer.status_code >= _OK_BELOW:
                raise StoryError(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
            else:
                return _read(answer)

    def everything(self, path: str, **params: str) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.ask("GET", path, params={**params, **({"cursor": cursor} if cursor else {})})
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def now(self) -> datetime:
        """Business time of the suite."""
        return datetime.fromisoformat(self.ask("GET", "/demo/clock")["now"]).astimezone(ZONE)

    def move_to(self, at: datetime) -> None:
        """Jumps the simulated clock forward to an instant."""
        self.ask("POST", "/demo/clock", body={"to": at.isoformat()})

    def settle(self) -> datetime | None:
        """Waits until nothing is due or in flight, twice in a row; returns when something will be next."""
        give_up = self._patience.monotonic() + QUIET_WITHIN_S
        calm = 0
        due: datetime | None = None
        while calm < 2:
            dues: list[datetime] = []
            for path in QUIET:
                answer = self.ask("GET", path)
                if not answer["quiet"]:
                    self._wait_until(give_up, f"not quiet: {path}")
                    calm = 0
                    break
                if answer["next_due"]:
                    dues.append(datetime.fromisoformat(answer["next_due"]))
            else:
                calm, due = calm + 1, min(dues, default=None)
        return due

    def rest(self) -> None:
        """Pauses between two looks at a clock that people move."""
        self._patience.pause(LONG_PAUSE_S)

    def _bearer(self, department: str) -> str:
        if department not in self._tokens:
            self._tokens[department] = self._token(department)
        return self._tokens[department]

    def _wait_until(self, give_up: float, why: str) -> None:
        if self._patience.monotonic() >= give_up:
            raise StoryError(f"waited too long; {why}")
        self._patience.pause(PAUSE_S)


def _read(answer: httpx.Response) -> Any:
    if answer.headers.get("Content-Type", "").startswith("text/csv"):
        return answer.text
    return answer.json() if answer.content else None
