"""Logs: one JSON object a line on stderr, with service and correlation id, without personal data.

`configure` is called by entry points alone; importing this file changes nothing.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

correlation: ContextVar[str] = ContextVar("correlation", default="")
"""The correlation id of the request or message that is being worked on; empty outside of any."""

_ID_NUMBER = re.compile(r"(?<!\d)(\d{6})\d{8}(\d{3}[\dXx])(?![\dXx])")
_OLD_ID_NUMBER = re.compile(r"(?<!\d)(\d{6})\d{6}(\d{3})(?!\d)")
_MOBILE = re.compile(r"(?<!\d)((?:\+?86[- ]?)?1[3-9]\d)[- ]?\d{4}[- ]?(\d{4})(?!\d)")


def scrub(text: str) -> str:
    """Masks everything in a text that looks like an ID number (18 or 15 digits) or a mobile number."""
    if not any(c.isdigit() for c in text):
        return text
    text = _ID_NUMBER.sub(r"\1********\2", text)
    text = _MOBILE.sub(r"\1****\2", text)
    return _OLD_ID_NUMBER.sub(r"\1******\2", text)


def scrubbed(value: Any) -> Any:
    """The same JSON data with every text in it, keys too, passed through `scrub`."""
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        masked = scrub(str(value))
        return value if masked == str(value) else masked
    if isinstance(value, Mapping):
        return {scrub(str(key)): scrubbed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrubbed(inner) for inner in value]
    return scrub(str(value))


def _scrub_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {key: scrubbed(value) if not key.startswith("_") else value for key, value in event.items()}


def _add_correlation(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    current = correlation.get()
    if current:
        event.setdefault("correlation", current)
    return event


def configure(service: str, *, level: str = "INFO", stream: Any = None) -> None:
    """Sends structlog's and the standard library's logs as JSON lines to `stream` (stderr unless given).

    `level` is a name such as INFO. uvicorn's access log is silenced: it would write query strings, and
    the metrics count requests already.
    """

    def add_service(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        event.setdefault("service", service)
        return event

    common: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _add_correlation,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _scrub_event,
                structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log whole addresses, secret paths too
    # While a broker is away its client complains many times a second; our own loops say it once per try.
    logging.getLogger("aiokafka").setLevel(logging.DEBUG if level.upper() == "DEBUG" else logging.CRITICAL)
