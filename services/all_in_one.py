"""The embedded default: four services, the bus and a carrier sandbox in one process.

A lock on the data folder refuses a second process; every service keeps a database file of its own there.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import httpx
from fastapi import APIRouter, FastAPI, Response
from markupsafe import Markup
from pydantic import SecretStr
from starlette.applications import Starlette

from services.demo_clock import clock_routes
from services.matching.app import build as build_matching
from services.matching.settings import MatchingSettings
from services.notify.app import build as build_notify
from services.notify.sandbox import SandboxSettings, build_sandbox
from services.notify.settings import NotifySettings
from services.registry.app import build as build_registry
from services.registry.settings import RegistrySettings
from services.targets.app import build as build_targets
from services.targets.settings import TargetsSettings
from shared.clock import Clock
from shared.http import StrictRoute, install, public
from shared.messaging.bus import Bus
from shared.messaging.in_process import InProcessBus
from shared.pages import IN_DEMO, Templates, Words, page, style_route
from shared.service import Service
from shared.settings import UnknownSetting

ON_FIRST_PAGE = ("matching", "notify", "registry", "targets")
"""Whose fragments stand on the first page, in this order."""

LEDGER = "sandbox.db"
"""The sandbox's file in the data folder."""

SETTINGS = (RegistrySettings, MatchingSettings, NotifySettings, TargetsSettings)
"""The settings that this process reads."""


FIXED = {
    *(
        f"YINGBAO_{name}_{what}"
        for name in ("REGISTRY", "MATCHING", "NOTIFY", "TARGETS")
        for what in ("MODE", "DEMO", "DATA_DIR", "ROLE")
    ),
    *("YINGBAO_KAFKA", "YINGBAO_KAFKA_PREFIX", "YINGBAO_CLOCK_FILE"),
    *(f"YINGBAO_NOTIFY_{what}" for what in ("REGISTRY_URL", "CARRIER", "CARRIER_URL", "CARRIER_SECRET_KEY")),
    *(f"YINGBAO_NOTIFY_{what}" for what in ("RECEIPTS_SECRET", "ACCOUNT", "EC_NAME", "AP_ID", "SIGN")),
    *(
        f"YINGBAO_SANDBOX_{what}"
        for what in ("EC_NAME", "AP_ID", "SECRET_KEY", "SIGN", "CALLBACK_URL", "FILE", "CLOCK_FILE")
    ),
    *(
        f"YINGBAO_{name}_WECHAT_{what}"
        for name in ("NOTIFY", "SANDBOX")
        for what in ("URL", "APP_ID", "SECRET", "TOKEN", "AES_KEY", "CALLBACK_URL", "TEMPLATES")
    ),
}
"""Settings that the embedded suite decides itself: its parts talk inside the process, its carrier is built in."""


def refuse_fixed(environ: Mapping[str, str]) -> None:
    """Raises UnknownSetting for a variable that would be passed over silently."""
    found = sorted(name for name in environ if name.upper() in FIXED)
    if found:
        raise UnknownSetting(
            f"the embedded suite decides these itself, remove them: {', '.join(found)} "
            "(its carrier is the built-in sandbox; the folder is --data)"
        )


class DataFolderInUse(RuntimeError):  # noqa: N818 - it names the cause
    """Another process runs on this data folder: stop it, or choose another folder."""


class Suite:
    """The four services and the sandbox, wired to each other.

    With a movable clock it is a demo: the clock and the sandbox can be reached over HTTP. `overrides` are
    settings per service; what they don't name comes from the environment. `through` wraps what carries
    notify's questions to registry and to the carrier, and `bus` the events: tests cut them there.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        clock: Clock,
        demo: bool = False,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        through: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] = lambda inside: inside,
        bus: Bus | None = None,
    ) -> None:
        self.clock = clock
        self._lock = lock_folder(data_dir)
        secret = SecretStr(_durable_secret(data_dir / "sandbox.secret"))
        self.app = FastAPI(
            title="yingbao", openapi_url=None, docs_url=None, redoc_url=None, lifespan=self._lifespan
        )
        wechat = _wechat_secrets(secret)
        # Calls between the parts stay in the process; the carrier is open to others in a demo only.
        within = Starlette()
        inside = httpx.ASGITransport(within, raise_app_exceptions=False)
        self.sandbox = build_sandbox(
            SandboxSettings(
                secret_key=secret,
                callback_url=SecretStr(
                    f"http://embedded/notify/v1/receipts/sandbox/{secret.get_secret_value()}"
                ),
                file=data_dir / LEDGER,
                wechat_callback_url=SecretStr("http://embedded/notify/v1/wechat"),
                **wechat,
            ),
            clock=clock,
            transport=inside,
        )

        def told(service: str, **wiring: Any) -> dict[str, Any]:
            common = {"data_dir": data_dir, "demo": demo, "mode": "embedded", "role": "all"}
            return {**common, **wiring, **(overrides or {}).get(service, {})}

        bus = bus or InProcessBus()
        parts: tuple[Service[Any], ...] = (
            build_registry(RegistrySettings(**told("registry")), bus=bus, clock=clock),
            build_matching(MatchingSettings(**told("matching")), bus=bus, clock=clock),
            build_notify(
                NotifySettings(
                    **told(
                        "notify",
                        registry_url="http://embedded/registry",
                        carrier_url="http://embedded/sandbox/yunmas",
                        carrier_secret_key=secret,
                        receipts_secret=secret,
                        wechat_url="http://embedded/sandbox/wechat",
                        **wechat,
                    )
                ),
                bus=bus,
                clock=clock,
                neighbours=through(inside),
            ),
            build_targets(TargetsSettings(**told("targets")), bus=bus, clock=clock),
        )
        self.services = {service.name: service for service in parts}
        install(self.app, clock=clock)
        self.app.include_router(self._front(demo=demo))
        for name, service in self.services.items():
            self.app.mount(f"/{name}", service.app)
            within.mount(f"/{name}", service.app)
        within.mount("/sandbox", self.sandbox)
        if demo:
            self.app.mount("/sandbox", self.sandbox)

    def wake(self) -> None:
        """Lets every service look at the clock at once."""
        for service in self.services.values():
            service.core.wake()

    def close(self) -> None:
        """Gives the data folder free; the end of the application's lifespan does it too."""
        self._lock.close()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncGenerator[None]:
        # A mounted application's own lifespan is not run by the one around it.
        async with contextlib.AsyncExitStack() as stack:
            for app in (self.sandbox, *(service.app for service in self.services.values())):
                await stack.enter_async_context(app.router.lifespan_context(app))
            try:
                yield
            finally:
                self.close()

    async def _section(self, name: str, now: datetime) -> Markup:
        service = self.services[name]
        return await service.core.read(lambda db: service.pages.fragment(db, now, name))

    def _front(self, *, demo: bool) -> APIRouter:
        router = APIRouter(route_class=StrictRoute)
        if not demo:

            @router.get("/", dependencies=[public("a list of addresses")])
            async def addresses() -> dict[str, Any]:
                """Where to look next."""
                return {name: dict(_addresses(name)) for name in self.services}

        if demo:
            router.include_router(style_route())
            templates = Templates("shared")

            @router.get("/", dependencies=[public(IN_DEMO)])
            async def first_page() -> Response:
                """The first page, put together from each service's own fragment."""
                now = self.clock.now()
                sections = [await self._section(name, now) for name in ON_FIRST_PAGE]
                links = [(service.pages.title, _addresses(name)) for name, service in self.services.items()]
                title = Words("一页总览", "at a glance")
                return page(
                    templates,
                    "first.html",
                    title=title,
                    root=".",
                    first="./",
                    now=now,
                    sections=sections,
                    links=links,
                )

            movable: Any = self.clock  # a demo is given one that can jump
            router.include_router(clock_routes(movable, self.wake))

        return router


def _addresses(name: str) -> tuple[tuple[str, str], ...]:
    """Where a service tells about itself."""
    return (
        ("contract", f"/{name}/openapi.json"),
        ("ready", f"/{name}/health/ready"),
        ("metrics", f"/{name}/metrics"),
    )


def lock_folder(data_dir: Path) -> IO[str]:
    """Takes the lock of a data folder until it is closed. Raises DataFolderInUse."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = (data_dir / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise DataFolderInUse(
            f"another process runs on {data_dir}: stop it, or choose another folder"
        ) from None
    return file


def _wechat_secrets(secret: SecretStr) -> dict[str, Any]:
    """What the built-in WeChat and the suite share; EncodingAESKey has 43 letters and digits."""
    derived = hashlib.sha256(secret.get_secret_value().encode()).hexdigest()
    return {
        "wechat_secret": secret,
        "wechat_token": SecretStr(derived[43:]),
        "wechat_aes_key": SecretStr(derived[:43]),
    }


def _durable_secret(file: Path) -> str:
    """The secret between the built-in carrier and the suite, made at the first start."""
    if not file.exists():
        part = file.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(24))
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    return file.read_text()
