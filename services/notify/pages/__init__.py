"""What notify shows people: the newest messages as a phone has them, notices by state, and the brake."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from markupsafe import Markup

from services.notify.domain import AttemptState, Channel, Notice, NoticeState, SendingState
from services.notify.store import Store
from services.notify.work import Tools
from shared.clock import start_of, today
from shared.pages import SHOWN, ListPage, Pages, Templates, Words, code_words
from shared.privacy import mask_mobile

MESSAGES: Final = 1000
"""Among so many of the newest messages the first page looks for the newest of each kind."""

STATES: Final = {
    NoticeState.QUEUED: Words("排队待发", "queued"),
    NoticeState.HELD: Words("暂缓发送", "held"),
    NoticeState.HANDED_OVER: Words("已交运营商，待回执", "handed over"),
    NoticeState.DELIVERED: Words("已送达", "delivered"),
    NoticeState.UNREACHED: Words("未送达", "unreached"),
    NoticeState.WITHDRAWN: Words("已撤回", "withdrawn"),
}
BRAKE: Final = {
    SendingState.ON: Words("发送中", "sending"),
    SendingState.ALLOWLIST: Words("仅发白名单", "allow-list only"),
    SendingState.OFF: Words("已停发", "stopped"),
}
CHANNELS: Final = {Channel.SMS: Words("短信", "SMS"), Channel.WECHAT: Words("微信", "WeChat")}
_UNDECIDED: Final = {
    AttemptState.OPEN: Words("正在发送", "on its way"),
    AttemptState.REFUSED: Words("运营商拒收", "refused by the carrier"),
    AttemptState.UNKNOWN: Words("结果未知", "outcome unknown"),
    AttemptState.RELEASED: Words("未发出，将重试", "not sent, will be tried again"),
}
"""What is shown of a message that the carrier did not take."""

_STAGES: Final = {"reminder": "首次提醒", "second_reminder": "二次提醒", "correction": "更正"}
_REASONS: Final = {
    "no_contact": "无联系方式",
    "refused": "运营商拒收",
    "silent": "无回执",
    "unknown": "结果未知",
    "enrolled": "已参保",
    "exempt": "豁免",
    "no_obligation": "无参保义务",
    "unit_closed": "单位已注销或吊销",
    "wrong_data": "数据有误",
    "settled_by_inspection": "稽核监察已处理",
    "paused": "人工暂停",
    "visited": "走访情况待核定",
    "code": "统一社会信用代码待核实",
    "disputed": "报送数据有误，待部门更正",
    "suspended": "歇业",
    "parked": "该单位有消息处理失败",
    "parked_here": "该单位有消息处理失败",
    "contact": "等待联系方式",
    "allowlist": "不在白名单",
    "stopped": "账号已停发",
    "look:cap": "今日额度已用完",
    "phone": "该号码上一条结果未知",
    "text": "文本或联系方式不可用",
    "recalled": "已召回",
}

_COLUMNS: Final = (
    Words("单位", "unit"),
    Words("统一社会信用代码", "code"),
    Words("镇街", "town"),
    Words("阶段", "stage"),
    Words("建立时间", "created"),
    Words("移交时间", "handed over"),
    Words("原因", "reason"),
)
_NONE: Final = Words("目前没有这种状态的通知", "No notice is in this state now")


@dataclass(frozen=True)
class Bubble:
    """A message as it lies on a phone, the number masked: a text, or the fields of a WeChat card.

    `units` is how many units it is about.
    """

    channel: Words
    text: str
    fields: Sequence[tuple[str, str]]
    units: int
    mobile: str
    at: datetime
    state: Words
    good: bool
    bad: bool


def pages(tools: Tools) -> Pages:
    """The pages, with these tools."""
    templates = Templates("services.notify")

    def fragment(db: sa.Connection, now: datetime, base: str) -> Markup:
        store = Store(db, tools.rules)
        counts, submitted = store.count_by_state(), store.submitted_since(start_of(today(now)))
        return templates.render(
            "fragment.html",
            base=base,
            states=[(state, words, counts.get(state, 0)) for state, words in STATES.items()],
            bubbles=[_bubble(row, store, tools) for row in store.newest_of_each_kind(MESSAGES)],
            brakes=[
                (CHANNELS[channel], BRAKE[one.state], one, submitted[channel])
                for channel, one in store.brakes().items()
            ],
            hours=tools.rules.hours,
        )

    def listing(db: sa.Connection, _now: datetime, name: str, skip: int) -> ListPage | None:
        if name not in set(NoticeState):
            return None
        store, state = Store(db, tools.rules), NoticeState(name)
        return ListPage(
            STATES[state],
            _COLUMNS,
            [_cells(notice) for notice in store.newest(state, SHOWN, skip=skip)],
            store.count_by_state().get(state, 0),
            f"/notify/v1/notices?state={state}",
            _NONE,
        )

    return Pages(Words("通知", "notify"), fragment, listing)


def _bubble(row: Any, store: Store, tools: Tools) -> Bubble:
    covered = store.covered(row.reference)
    accepted = row.state == AttemptState.ACCEPTED and covered
    state = covered[0].state if accepted else None
    return Bubble(
        channel=CHANNELS[Channel(row.channel)],
        text=f"【{tools.rules.signature.strip('【】')}】{row.text}",
        fields=_fields(row.text) if row.channel == Channel.WECHAT else (),
        units=len(covered),
        mobile=mask_mobile(tools.open_mobile(row.reference, row.mobile)),
        at=row.opened_at,
        state=STATES[state] if state else _UNDECIDED.get(row.state, STATES[NoticeState.HANDED_OVER]),
        good=state is NoticeState.DELIVERED,
        bad=state is NoticeState.UNREACHED or row.state in (AttemptState.REFUSED, AttemptState.UNKNOWN),
    )


def _fields(text: str) -> list[tuple[str, str]]:
    """Label and value of each line of a WeChat message, as `write_wechat` puts them."""
    lines = (line.partition("：") for line in text.splitlines())
    return [(label, value) for label, _, value in lines]


def _cells(notice: Notice) -> tuple[Any, ...]:
    reasons = [notice.reason] if notice.reason else notice.held
    why = [Words(_REASONS.get(reason, reason), reason.replace("_", " ")) for reason in reasons]
    return (
        notice.facts.unit_name,
        notice.uscc,
        notice.facts.town,
        code_words(_STAGES, notice.wording[1]),
        notice.created_at,
        notice.handed_over_at,
        Words("、".join(word.zh for word in why), ", ".join(word.en for word in why)) if why else None,
    )
