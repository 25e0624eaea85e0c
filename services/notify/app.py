"""The composition root of notify."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import SecretStr

from services import notify
from services.notify.api import notice_routes, public_routes, receipt_routes, wechat_routes
from services.notify.carriers import Submission
from services.notify.carriers.wechat import TemplateMessage, Wechat, WechatAccount
from services.notify.carriers.yunmas import YunMas, YunMasAccount
from services.notify.commands import Outgoing, try_texts_again
from services.notify.delivery import Delivery, Submit
from services.notify.domain import Channel, NoticeState, SendingState, is_open
from services.notify.handlers import SUBSCRIPTIONS, hold_parked, index_contacts, release_parked
from services.notify.last_look import RegistryLastLook
from services.notify.pages import pages
from services.notify.settings import NotifySettings, callback_keys, read_rules
from services.notify.store import Store
from services.notify.tables import PLUMBING
from services.notify.work import NotifyWork, Tools
from shared.auth import LocalIssuer, LocalTokenSource
from shared.clock import Clock, start_of, today
from shared.documents import pack
from shared.messaging.bus import Bus
from shared.metrics import Reading
from shared.privacy import KeyRing, Purpose
from shared.service import Core, Service, assemble
from shared.settings import MissingSetting


def build(
    settings: NotifySettings, *, bus: Bus, clock: Clock, neighbours: httpx.AsyncBaseTransport | None = None
) -> Service[NotifyWork]:
    """Notify, ready to start.

    `neighbours` carries the calls to registry and to the carrier; None: real sockets. An in-process
    ASGITransport has to be made with `raise_app_exceptions=False`.
    Raises DocumentError where the city pack lacks something, MissingSetting where a setting is missing.
    """
    if settings.receipts_secret is None or settings.carrier_secret_key is None:
        raise MissingSetting(
            "set YINGBAO_NOTIFY_CARRIER_SECRET_KEY, the account's key, and YINGBAO_NOTIFY_RECEIPTS_SECRET, the last "
            "part of the address that receipts are pushed to"
        )
    if settings.mode == "server" and not {"registry_url", "carrier_url"} <= settings.model_fields_set:
        raise MissingSetting(
            "set YINGBAO_NOTIFY_REGISTRY_URL and YINGBAO_NOTIFY_CARRIER_URL: the defaults are for the suite in one process"
        )
    keys = callback_keys(settings)
    own = KeyRing.load_or_create(settings.keys)
    tools = Tools(
        rules=read_rules(settings, pack(settings.city_pack)),
        records=own.cipher(Purpose.RECORDS),
        contacts=KeyRing.load_or_create(settings.contact_keys).cipher(Purpose.CONTACTS),
        phones=own.index(Purpose.PHONE_INDEX),
        random=secrets.token_bytes,
    )

    def make_work(db: sa.Connection) -> NotifyWork:
        return NotifyWork(db, tools, now=clock.now(), wall=clock.wall())

    core = Core(settings, clock=clock, plumbing=PLUMBING, make_work=make_work)
    limits = httpx.Limits(max_connections=1_000, max_keepalive_connections=100)
    registry = httpx.AsyncClient(
        base_url=settings.registry_url, transport=neighbours, timeout=settings.look_timeout_s
    )
    line = httpx.AsyncClient(transport=neighbours, limits=limits)
    issuer = LocalIssuer(settings.issuer_key, clock, issuer=settings.issuer)
    look = RegistryLastLook(
        registry,
        LocalTokenSource(issuer, clock, client_id=settings.client_id, scopes=["last-look"]),
        clock,
        timeout_s=settings.look_timeout_s,
        oldest=timedelta(seconds=settings.submit_within_s),
    )
    delivery = Delivery(
        core,
        tools,
        look,
        _channels(settings, settings.carrier_secret_key, line, clock),
        rate_per_s=settings.rate_per_s,
        latest_s=settings.latest_s,
    )
    service = assemble(
        core,
        bus,
        card=notify.__doc__ or "",
        routers=[
            notice_routes(core, tools),
            receipt_routes(core, settings.account, settings.receipts_secret),
            public_routes(core, tools, per_s=settings.verify_per_s),
            *([] if keys is None else [wechat_routes(core, keys)]),
        ],
        pages=pages(tools),
        migrations=Path(__file__).parent / "migrations",
        reactions=SUBSCRIPTIONS,
        keyed=True,
        duties=delivery.duties,
        on_parked=hold_parked,
        on_released=release_parked,
        at_start=begin,
        measure=partial(measure, tools),
    )
    _close_with(service.app, registry, line)
    return service


def begin(work: NotifyWork) -> None:
    """What is made up for at a start: phones that were not indexed, texts that may have been mended."""
    index_contacts(work)
    try_texts_again(work)


def _channels(
    settings: NotifySettings, carrier_secret: SecretStr, line: httpx.AsyncClient, clock: Clock
) -> dict[Channel, Submit]:
    sms = YunMas(_account(settings, carrier_secret), line)

    async def by_sms(message: Outgoing) -> Submission:
        return await sms.submit(message.to, message.words.text)

    if settings.wechat_secret is None:
        return {Channel.SMS: by_sms}
    account = WechatAccount(
        base_url=settings.wechat_url,
        app_id=settings.wechat_app_id,
        secret=settings.wechat_secret.get_secret_value(),
        timeout_s=settings.carrier_timeout_s,
    )
    wechat = Wechat(account, line, clock)

    async def by_wechat(message: Outgoing) -> Submission:
        words = message.words
        return await wechat.submit(
            message.to, TemplateMessage(words.template_id, words.fields, message.attempt.reference)
        )

    return {Channel.SMS: by_sms, Channel.WECHAT: by_wechat}


def _account(settings: NotifySettings, secret_key: SecretStr) -> YunMasAccount:
    return YunMasAccount(
        base_url=settings.carrier_url,
        ec_name=settings.ec_name,
        ap_id=settings.ap_id,
        secret_key=secret_key.get_secret_value(),
        sign=settings.sign,
        timeout_s=settings.carrier_timeout_s,
    )


def measure(tools: Tools, db: sa.Connection, now: datetime, reading: Reading) -> None:
    """What notify wants to be watched by."""
    store, accounts = Store(db, tools.rules), tools.rules.accounts
    notices = dict.fromkeys(((str(state), "") for state in NoticeState), 0) | store.count_by_channel()
    reading.gauges(
        "notices", "Notices by state, and the channel that took them last", ["state", "channel"], notices
    )
    brakes, used = store.brakes(), store.submitted_since(start_of(today(now)))
    may_leave = any(line.takes_more for line in store.lines(now).values()) and is_open(
        now, store.calendar(), tools.rules.hours
    )
    reading.gauge("notices_due", "Notices that could leave now", store.count_due(now) if may_leave else 0)
    reading.gauge(
        "contacts_overdue",
        "Notices that have waited for contacts for more than an hour",
        store.contacts_overdue(now - timedelta(hours=1)),
    )
    reading.gauge(
        "notices_unsayable", "Notices held because their text or contacts are no good", store.unsayable()
    )
    reading.gauges(
        "sending",
        "The brakes: 1 at the state that a carrier account is in",
        ["account", "state"],
        {
            (accounts[channel], state): float(state is brake.state)
            for channel, brake in brakes.items()
            for state in SendingState
        },
    )
    reading.gauges(
        "submitted_today",
        "Messages submitted since midnight, as the daily caps count them",
        ["account"],
        {(account,): used[channel] for channel, account in accounts.items()},
    )
    reading.gauges(
        "daily_cap",
        "Most messages a day of a carrier account that has a cap",
        ["account"],
        {
            (accounts[channel],): brake.daily_cap
            for channel, brake in brakes.items()
            if brake.daily_cap is not None
        },
    )


def _close_with(app: FastAPI, *clients: httpx.AsyncClient) -> None:
    """Closes the clients when the service has stopped."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(within: FastAPI) -> AsyncGenerator[None]:
        async with inner(within):
            yield
        for client in clients:
            await client.aclose()

    app.router.lifespan_context = lifespan
