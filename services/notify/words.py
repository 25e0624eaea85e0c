"""What messages say: about one unit, about several behind one phone, and in WeChat's fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from string import Formatter
from typing import Final

from services.notify.fragments import MOST_BODY, TextTooLongError, units

# No 0 O 1 I: people read it out on the phone.
_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
REFERENCE_BYTES: Final = 6
MOST_NAMES: Final = 3
"""A message about several units names so many and counts the others."""
SAMPLE_REFERENCE: Final = "2" * 9
"""As long as any: what can be said with it can be said."""
SHORT: Final = 20
"""Characters of the longest field of a WeChat template message (thing)."""


def make_reference(random: bytes) -> str:
    """A reference number of 9 characters (45 bits) from 6 random bytes."""
    value = int.from_bytes(random)
    return "".join(_ALPHABET[value >> 5 * place & 31] for place in range(9))


class TextError(ValueError):
    """A template lacks something that the law or the design asks for; mend texts.toml."""


_ALWAYS: Final = frozenset({"office", "service_number", "reference"})
LONE: Final = _ALWAYS | {"unit", "established_on", "deadline"}
"""Variables of a text about one unit: all of them have to be there, and no others."""
GROUP: Final = _ALWAYS | {"units", "count", "deadline"}
"""The same for a text about several units; the deadline is the earliest."""
FIELDS: Final = _ALWAYS | {"units", "deadline"}
"""The same for the fields of a WeChat message, all together."""
LONE_CORRECTION: Final = _ALWAYS | {"unit", "corrects"}
"""The same for a correction; `corrects` names the messages that were wrong by their references."""
GROUP_CORRECTION: Final = _ALWAYS | {"units", "count", "corrects"}


@dataclass(frozen=True)
class Subject:
    """One unit that a message is about."""

    unit: str
    established_on: date
    deadline: date


@dataclass(frozen=True)
class Issuer:
    """Who writes: the office and its telephone number."""

    office: str
    service_number: str


@dataclass(frozen=True)
class Words:
    """A message as a carrier takes it. `text` is what the person reads; template and fields are WeChat's."""

    text: str
    template_id: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    """One line of a WeChat message. `name` is WeChat's, `label` what stands before the value on the screen."""

    name: str
    label: str
    value: str


@dataclass(frozen=True)
class WechatTemplate:
    """A template of the official account. Raises TextError where the fields lack a variable."""

    template_id: str
    fields: Sequence[Field]

    def __post_init__(self) -> None:
        _check_variables("".join(one.value for one in self.fields), FIELDS)


@dataclass(frozen=True)
class Template:
    """The words of one stage of a rule.

    `sms` is about one unit, `group` about several. `words` stand in both. `wechat` None: this stage goes by
    SMS alone. Raises TextError for a missing or an unknown variable and for a missing word.
    """

    sms: str
    group: str
    words: Sequence[str]
    wechat: WechatTemplate | None = None
    correction: bool = False

    def __post_init__(self) -> None:
        _check_variables(self.sms, LONE_CORRECTION if self.correction else LONE)
        _check_variables(self.group, GROUP_CORRECTION if self.correction else GROUP)
        for text in (self.sms, self.group):
            if lacking := [word for word in self.words if word not in text]:
                raise TextError(f"the text lacks the word {', '.join(lacking)}")

    def write_sms(
        self, subjects: Sequence[Subject], issuer: Issuer, reference: str, corrects: str | None = None
    ) -> Words:
        """The text, without the signature that the carrier puts before it.

        Names three units where they fit, else fewer. Raises TextTooLongError where not even one does.
        """
        first, *others = in_order(subjects)
        values = _values(first, issuer, reference, corrects)
        if not others:
            return Words(_fitting(self.sms.format(unit=first.unit, **values)))
        count = len(subjects)
        for names in range(min(MOST_NAMES, count), 0, -1):
            named = "、".join(one.unit for one in (first, *others)[:names])
            text = self.group.format(units=f"{named}等{count}户", count=count, **values)
            if units(text) <= MOST_BODY or names == 1:
                break
        return Words(_fitting(text))

    def write_wechat(
        self, subjects: Sequence[Subject], issuer: Issuer, reference: str, corrects: str | None = None
    ) -> Words:
        """The fields, names cut to what WeChat shows. Raises TextError without a template."""
        if self.wechat is None:
            raise TextError("this stage has no WeChat template")
        first, *others = in_order(subjects)
        values = _values(first, issuer, reference, corrects)
        short = _short(first.unit, f"等{len(subjects)}户" if others else "")
        fields = {one.name: one.value.format(units=short, **values) for one in self.wechat.fields}
        text = "\n".join(f"{one.label}：{fields[one.name]}" for one in self.wechat.fields)
        return Words(text, self.wechat.template_id, fields)


def in_order(subjects: Sequence[Subject]) -> list[Subject]:
    """The units of a message, the most urgent first: those are named."""
    return sorted(subjects, key=lambda one: (one.deadline, one.established_on, one.unit))


def _values(first: Subject, issuer: Issuer, reference: str, corrects: str | None) -> dict[str, str]:
    return {
        "established_on": _written(first.established_on),
        "deadline": _written(first.deadline),
        "office": issuer.office,
        "service_number": issuer.service_number,
        "reference": reference,
        "corrects": corrects or "",
    }


def _fitting(text: str) -> str:
    if units(text) > MOST_BODY:
        raise TextTooLongError(f"the body has {units(text)} characters; carriers take {MOST_BODY}")
    return text


def _short(name: str, ending: str) -> str:
    room = SHORT - len(ending)
    return (name if len(name) <= room else name[: room - 1] + "…") + ending


def _check_variables(text: str, variables: frozenset[str]) -> None:
    holds = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    if missing := sorted(variables - holds):
        raise TextError(f"the text lacks the variable {', '.join(missing)}")
    if unknown := sorted(holds - variables):
        raise TextError(f"the text has an unknown variable {', '.join(unknown)}")


def _written(day: date) -> str:
    return f"{day.year}年{day.month}月{day.day}日"
