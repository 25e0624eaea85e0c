"""Each alert rule rings when it has to, and only then: promtool plays the figures to it."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import PROMETHEUS, read_yaml

QUIET_FOR = 2 * 24 * 60
"""Minutes that the healthy figures last."""


@dataclass(frozen=True)
class Case:
    """Figures by series, a value a minute, in Prometheus's notation of test series.

    `healthy` never ring. `broken` ring in minute `rings` and not yet in minute `not_yet`.
    """

    healthy: Mapping[str, str]
    broken: Mapping[str, str]
    not_yet: int
    rings: int


def steady(*series: str, healthy: str = "0", broken: str = "1", after: int) -> Case:
    """Gauges that have one value while all is well and another one from the first minute on when it is not."""
    return Case(
        dict.fromkeys(series, f"{healthy}x{QUIET_FOR}"),
        dict.fromkeys(series, f"{healthy} {broken}x{QUIET_FOR}"),
        after,
        after + 2,
    )


def growing(bad: Mapping[str, int], good: Mapping[str, int], *, not_yet: int, rings: int) -> Case:
    """Counters that grow by so much a minute."""
    healthy = {name: f"0+{0 if name in bad else step}x{QUIET_FOR}" for name, step in {**good, **bad}.items()}
    broken = {name: f"0+{step}x{QUIET_FOR}" for name, step in {**good, **bad}.items()}
    return Case(healthy, broken, not_yet, rings)


def _requests(status: str) -> str:
    return f'yingbao_http_requests_total{{job="registry", status="{status}"}}'


def _took(le: str) -> str:
    return f'yingbao_http_request_duration_seconds_bucket{{job="registry", le="{le}"}}'


def _submitted(outcome: str) -> str:
    return f'yingbao_submissions_total{{job="notify", channel="sms", outcome="{outcome}"}}'


def _notices(state: str) -> str:
    return f'yingbao_notices{{job="notify", channel="sms", state="{state}"}}'


UNSEALED = 'yingbao_audit_unsealed_rows{job="registry"}'
SEALED_AT = 'yingbao_audit_last_seal_timestamp_seconds{job="registry"}'

CASES = {
    "ServiceDown": steady('up{job="registry"}', healthy="1", broken="0", after=1),
    "DatabaseDown": steady('yingbao_database_up{job="registry"}', healthy="1", broken="0", after=1),
    "LoopFailing": steady('yingbao_loops_failing{job="registry"}', after=5),
    "RequestsFail": growing({_requests("503"): 2}, {_requests("200"): 100}, not_yet=4, rings=8),
    "RequestsSlow": Case(
        {_took("1.0"): f"0+100x{QUIET_FOR}", _took("+Inf"): f"0+100x{QUIET_FOR}"},
        {
            _took("1.0"): f"0+95x{QUIET_FOR}",
            _took("5.0"): f"0+100x{QUIET_FOR}",
            _took("+Inf"): f"0+100x{QUIET_FOR}",
        },
        9,
        13,
    ),
    "BusAway": steady('yingbao_bus_connected{job="matching"}', healthy="1", broken="0", after=1),
    "OutboxStuck": steady('yingbao_outbox_age_seconds{job="registry"}', healthy="5", broken="61", after=2),
    "ConsumerLag": steady(
        'yingbao_consumer_lag_messages{job="matching", topic="registry"}',
        healthy="1000",
        broken="1001",
        after=10,
    ),
    "ParkedKeys": steady('yingbao_parked_keys{job="matching"}', after=1),
    "AuditUnsealed": Case(
        {UNSEALED: f"3x{QUIET_FOR}", SEALED_AT: f"0+60x{QUIET_FOR}"},
        {UNSEALED: f"3x{QUIET_FOR}", SEALED_AT: f"0x{QUIET_FOR}"},
        2,
        5,
    ),
    "SourceLate": steady('yingbao_dataset_late_days{job="registry", dataset="participations"}', after=15),
    "ProvisionalCalendar": steady(
        'yingbao_clocks{job="matching", state="held", reason="provisional"}', after=60
    ),
    "ClocksNotLookedAt": steady('yingbao_clocks_due{job="matching"}', after=15),
    "LeadsOverdue": steady('yingbao_leads_overdue{job="matching"}', after=60),
    "LeadsLost": steady(
        'yingbao_leads_lost{job="matching"}', 'yingbao_leads_misplaced{job="matching"}', after=15
    ),
    "LastLookUnanswered": growing(
        {'yingbao_last_looks_asked_total{job="notify", answer="none"}': 1},
        {'yingbao_last_looks_asked_total{job="notify", answer="go"}': 50},
        not_yet=4,
        rings=8,
    ),
    "SendingStopped": steady('yingbao_sending{job="notify", account="sms", state="off"}', after=5),
    "NoticesWaiting": steady('yingbao_notices_due{job="notify"}', after=30),
    "CarrierRefuses": growing({_submitted("refused"): 2}, {_submitted("accepted"): 10}, not_yet=5, rings=15),
    "OutcomesUnknown": growing({_submitted("unknown"): 1}, {_submitted("accepted"): 10}, not_yet=5, rings=15),
    "UnreachedShare": Case(
        {_notices("delivered"): f"0+10x{QUIET_FOR}", _notices("unreached"): f"0+1x{QUIET_FOR}"},
        {_notices("delivered"): f"0+10x{QUIET_FOR}", _notices("unreached"): f"0+3x{QUIET_FOR}"},
        59,
        65,
    ),
    "NoticesUnsayable": steady('yingbao_notices_unsayable{job="notify"}', after=5),
    "ContactsOverdue": steady('yingbao_contacts_overdue{job="notify"}', after=5),
    "DailyCapReached": Case(
        {
            'yingbao_submitted_today{job="notify", account="sms"}': f"99x{QUIET_FOR}",
            'yingbao_daily_cap{job="notify", account="sms"}': f"100x{QUIET_FOR}",
        },
        {
            'yingbao_submitted_today{job="notify", account="sms"}': f"99 100x{QUIET_FOR}",
            'yingbao_daily_cap{job="notify", account="sms"}': f"100x{QUIET_FOR}",
        },
        0,
        1,
    ),
}


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    """The alert rules of the stack."""
    return [rule for group in read_yaml(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]


def test_every_alert_has_a_case(rules: list[dict[str, Any]]) -> None:
    """And no case is about a rule that is gone."""
    assert sorted(CASES) == sorted(rule["alert"] for rule in rules)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_rings_when_it_has_to_and_only_then(alert: str, tmp_path: Path) -> None:
    """No other rule rings by mistake at the same figures."""
    case = CASES[alert]
    ringing = 'count(ALERTS{alertstate="firing"}) or on() vector(0)'
    this_one = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    play(
        tmp_path,
        [
            (case.healthy, ringing, QUIET_FOR, 0),
            (case.broken, ringing, case.not_yet, 0),
            (case.broken, ringing, case.rings, 1),
            (case.broken, this_one, case.rings, 1),
        ],
    )


def play(folder: Path, told: list[tuple[Mapping[str, str], str, int, int]]) -> None:
    """Each of: figures, a question, the minute at which it is asked, the one number that has to come."""
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in figures.items()],
            "promql_expr_test": [
                {
                    "expr": question,
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": "{}", "value": number}],
                }
            ],
        }
        for figures, question, minute, number in told
    ]
    file = folder / "played.yml"
    rule_files = [str(PROMETHEUS / "alerts.yml")]
    file.write_text(json.dumps({"rule_files": rule_files, "evaluation_interval": "1m", "tests": tests}))
    run = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
