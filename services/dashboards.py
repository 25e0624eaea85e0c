"""Grafana's dashboards as code: what an operator watches the main job and the four services by.

`yingbao docs` writes them to `deploy/grafana/dashboards/`. Queries name no variable of Grafana, so that each can
be asked of Prometheus as it stands. Figures from a database are the same in all instances of a service, hence
`max by`; what a process counts itself is added up.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
"""The data source that `deploy/grafana/provisioning` sets up."""

_WIDE, _HIGH, _ROW = 8, 8, 24


@dataclass(frozen=True)
class Query:
    """A question to Prometheus, and what its lines are called (`{{label}}` stands for a label's value)."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A chart. `title` and `meaning` are Chinese first, then English; `unit` is one of Grafana's."""

    title: str
    meaning: str
    queries: Sequence[Query]
    unit: str = "short"


@dataclass(frozen=True)
class Dashboard:
    """A page of charts; `uid` is its address and its file's name."""

    uid: str
    title: str
    panels: Sequence[Panel]


MAIN_JOB: Final = Dashboard(
    "main-job",
    "应保尽保：主流程 · The main job",
    (
        Panel(
            "到期与等待的时钟 · Clocks due and waiting",
            "法定期限的时钟：待处理、运行中，以及因何等待。Legal clocks: due, running, and what the others wait for.",
            (
                Query("max(yingbao_clocks_due)", "到期待处理 due"),
                Query(
                    'max by (state, reason) (yingbao_clocks{state!~"due|stopped"})', "{{state}} {{reason}}"
                ),
            ),
        ),
        Panel(
            "各阶段线索 · Leads by stage",
            "线索所处阶段与状态。Leads by stage of the ladder and state.",
            (Query("max by (stage, state) (yingbao_leads)", "{{stage}} {{state}}"),),
        ),
        Panel(
            "各状态通知 · Notices by state",
            "通知从排队到送达、未送达或撤回。Notices from the queue to delivered, unreached or withdrawn.",
            (Query("sum by (state) (max by (state, channel) (yingbao_notices))", "{{state}}"),),
        ),
        Panel(
            "发件箱最早事实的等待时间 · Outbox age",
            "最早一条尚未发布的事实已等待多久。How long the oldest fact has waited to be published.",
            (Query("max by (job) (yingbao_outbox_age_seconds)", "{{job}}"),),
            unit="s",
        ),
        Panel(
            "消费积压 · Consumer lag",
            "各服务尚未处理的消息，以及处理速度。Messages that a service has still to take in, and how fast it does.",
            (
                Query("max by (job, topic) (yingbao_consumer_lag_messages)", "{{job}} ← {{topic}}"),
                Query("sum by (job) (rate(yingbao_consumed_messages_total[5m]))", "{{job}} 条/秒 per second"),
            ),
        ),
        Panel(
            "等待的数据集 · Data sets waited for",
            "因数据未申报完整而等待的时钟数，以及数据迟到天数。Clocks that wait for a data set, and days it is late.",
            (
                Query("max by (dataset) (yingbao_clocks_waiting_for_data)", "{{dataset}} 等待的时钟 clocks"),
                Query("max by (dataset) (yingbao_dataset_late_days)", "{{dataset}} 迟到天数 days late"),
            ),
        ),
        Panel(
            "发送前核对未通过 · Last looks refused",
            "发送前最后核对的次数与未通过的原因，一小时内。Last looks within an hour, and why messages were kept back.",
            (
                Query('sum(increase(yingbao_last_looks_total{answer="go"}[1h]))', "通过 go"),
                Query(
                    'sum by (reason) (increase(yingbao_last_looks_total{answer="hold"}[1h]))',
                    "未通过 {{reason}}",
                ),
            ),
        ),
        Panel(
            "停放的键 · Parked keys",
            "因消息处理失败而停住的单位或个人，须人工重放。Units or people that stand still behind a failed message.",
            (Query("max by (job) (yingbao_parked_keys)", "{{job}}"),),
        ),
        Panel(
            "各路由请求 · HTTP by route",
            "每秒请求数，按服务、路由与状态码。Requests a second by service, route and status.",
            (
                Query(
                    "sum by (job, route, status) (rate(yingbao_http_requests_total[5m]))",
                    "{{job}} {{route}} {{status}}",
                ),
            ),
            unit="reqps",
        ),
    ),
)

SERVICES: Final = Dashboard(
    "services",
    "应保尽保：服务运行 · The services",
    (
        Panel(
            "进程与数据库 · Processes and databases",
            "1 为正常。1 is well.",
            (
                Query("min by (job) (up)", "{{job}} 进程 process"),
                Query("min by (job) (yingbao_database_up)", "{{job}} 数据库 database"),
            ),
        ),
        Panel(
            "请求耗时 p99 · Request time, p99",
            "百分之九十九的请求在此时间内答复。99 % of requests are answered within this time.",
            (
                Query(
                    "histogram_quantile(0.99, sum by (job, le)"
                    " (rate(yingbao_http_request_duration_seconds_bucket[5m])))",
                    "{{job}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "失败的请求 · Failed requests",
            "每秒非 2xx 答复；5xx 是我方错误。Answers other than 2xx a second; 5xx are our own failures.",
            (
                Query(
                    'sum by (job, status) (rate(yingbao_http_requests_total{status!~"2.."}[5m]))',
                    "{{job}} {{status}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "循环失败 · Failing loops",
            "上一步失败的循环数。Loops whose last step failed.",
            (Query("sum by (job) (yingbao_loops_failing)", "{{job}}"),),
        ),
        Panel(
            "发件箱 · Outbox",
            "尚未发布的事实。Facts not yet published.",
            (Query("max by (job) (yingbao_outbox_rows)", "{{job}}"),),
        ),
        Panel(
            "消息处理结果 · Messages by outcome",
            "每秒消息数。Messages a second.",
            (
                Query(
                    "sum by (job, outcome) (rate(yingbao_consumed_messages_total[5m]))", "{{job}} {{outcome}}"
                ),
            ),
        ),
        Panel(
            "审计未封存 · Audit rows not yet sealed",
            "已提交、尚未封入审计链的记录。Rows committed and not yet chained.",
            (Query("max by (job) (yingbao_audit_unsealed_rows)", "{{job}}"),),
        ),
        Panel(
            "线索漏斗 · The funnel",
            "每条线索恰在一处。Every lead is in exactly one place.",
            (
                Query("max by (place) (yingbao_funnel_leads)", "{{place}}"),
                Query("max(yingbao_leads_overdue)", "逾期未办 overdue"),
                Query("max(yingbao_visits_open)", "待走访 visits"),
            ),
        ),
        Panel(
            "运营商提交 · Submissions to carriers",
            "一小时内，按渠道与结果。Within an hour, by channel and outcome.",
            (
                Query(
                    "sum by (channel, outcome) (increase(yingbao_submissions_total[1h]))",
                    "{{channel}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "发送开关 · The brake",
            "账户所处状态为 1；今日已提交与上限。1 at the account's state; submitted today.",
            (
                Query("max by (account, state) (yingbao_sending)", "{{account}} {{state}}"),
                Query("max by (account) (yingbao_submitted_today)", "{{account}} 今日 today"),
            ),
        ),
        Panel(
            "登记单位 · Units",
            "登记的单位，按是否有人参保。Registered units, by whether anybody is insured.",
            (Query("max by (insured) (yingbao_units)", "有人参保 insured: {{insured}}"),),
        ),
        Panel(
            "新增参保 · Newly insured",
            "本年新增参保人数，按目标。People newly insured this year, by target of the plan.",
            (Query("max by (target) (yingbao_target_people)", "{{target}}"),),
        ),
    ),
)

DASHBOARDS: Final = (MAIN_JOB, SERVICES)


def dashboard_json(dashboard: Dashboard) -> str:
    """The dashboard as Grafana reads it from a file."""
    model = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["yingbao"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "Asia/Shanghai",
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(model, ensure_ascii=False, indent=1) + "\n"


def _panel(number: int, panel: Panel) -> Mapping[str, Any]:
    across = _ROW // _WIDE
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "gridPos": {"x": number % across * _WIDE, "y": number // across * _HIGH, "w": _WIDE, "h": _HIGH},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for place, query in enumerate(panel.queries)
        ],
    }
