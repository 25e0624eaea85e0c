"""The story's driver against a small suite of its own: order, restarts, lost answers, rest between moves."""

import io
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import httpx
import pytest
from rich.console import Console

from services.demo.city import END, START, Action, City, Done, generate
from services.demo.story import (
    JOURNAL,
    LEDGER,
    Addresses,
    Journal,
    Patience,
    StoryError,
    Suite,
    play,
    services_figures,
    stay,
    tell_story,
)
from services.demo.story.show import show_funnel, show_messages
from services.notify import sandbox

QUIET = {"quiet": True, "next_due": None}


class SmallSuite:
    """Answers like the suite: idempotent, with a clock that ticks a little with each request.

    `lose` numbers requests whose answer never arrives, `refuse` those that never arrive themselves.
    """

    def __init__(self, *, lose: Iterable[int] = (), refuse: Iterable[int] = ()) -> None:
        self.now = START
        self.requests = 0
        self.taken: list[tuple[datetime, str, str, str]] = []
        self.lists: dict[str, list[dict]] = {}
        self.details: dict[str, dict] = {}
        self.targets: list[dict] = []
        self.restless: list[str] = []
        self.due: list[datetime] = []
        self.moves: list[datetime] = []
        self.tokens: Counter[str] = Counter()
        self._answers: dict[str, dict] = {}
        self._lose, self._refuse = set(lose), set(refuse)

    def suite(self) -> Suite:
        client = httpx.Client(base_url="http://suite", transport=httpx.MockTransport(self.answer))
        ticks = iter(range(10_000_000))
        return Suite(
            client,
            self._token,
            Patience(pause=lambda _: None, monotonic=lambda: float(next(ticks))),
            Addresses.below("http://suite"),
        )

    def knows(self, city: City) -> "SmallSuite":
        """Has a lead and a visit of every unit, and a message that names them all."""
        names = "、".join(unit.name for unit in city.units)
        self.lists["/sandbox/messages"] = [{"content": f"{names}，核验编号23456789A"}]
        self.lists["/matching/v1/visits"] = [{"id": f"visit-{u.uscc}", "uscc": u.uscc} for u in city.units]
        for unit in city.units:
            self.lists[f"/matching/v1/leads?{unit.uscc}"] = [{"id": f"R01-{unit.uscc}"}]
        return self

    def _token(self, department: str) -> str:
        self.tokens[department] += 1
        return f"{department}-{self.tokens[department]}"

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        self.now += timedelta(milliseconds=1)
        if self.requests in self._refuse:
            raise httpx.ConnectError("down")
        response = self._do(request)
        if self.requests in self._lose:
            raise httpx.ReadError("killed before the answer")
        return response

    def _do(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/demo/clock":
            if request.method == "POST":
                self.moves.append(datetime.fromisoformat(json.loads(request.content)["to"]))
                self.now = max(self.now, self.moves[-1])
            return httpx.Response(200, json={"now": self.now.isoformat()})
        if path.endswith("/quiet"):
            return httpx.Response(200, json=self._quiet(path))
        if path.endswith("/errors"):
            text = "\ufeff行号,列,错误\n7,姓名,missing\n9,,wrong_column_count\n"
            return httpx.Response(200, text=text, headers={"Content-Type": "text/csv; charset=utf-8"})
        return self._read(request) if request.method == "GET" else self._write(request)

    def _read(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/notify/v1/verify":
            answer = {"genuine": request.url.params["reference"] == "23456789A"}
        elif path in self.details:
            answer = self.details[path]
        else:
            key = path if not request.url.params.get("uscc") else f"{path}?{request.url.params['uscc']}"
            items = self.lists.get(key, [])
            at = int(request.url.params.get("cursor", 0))
            end = at + int(request.url.params.get("limit", 2))
            more = str(end) if end < len(items) else None
            answer = {"items": items[at:end], "next_cursor": more, "targets": self.targets}
            answer |= {"places": {}, "leads": 0, "checked": None}
        return httpx.Response(200, json=answer)

    def _quiet(self, path: str) -> dict:
        if self.restless and self.restless[0] == path:
            self.restless.pop(0)
            return {"quiet": False, "next_due": None}
        dues = [due for due in self.due if due > self.now]
        return {"quiet": True, "next_due": min(dues).isoformat() if dues else None}

    def _write(self, request: httpx.Request) -> httpx.Response:
        key = request.headers.get("Idempotency-Key") or f"{request.url.path} {request.content!r}"
        if key not in self._answers:
            self._answers[key] = {"id": 1000 + len(self._answers)}
            self.taken.append(
                (self.now, request.method, request.url.path, request.content.decode(errors="replace"))
            )
        return httpx.Response(201, json=self._answers[key])


@pytest.fixture(scope="module")
def city() -> City:
    """Two units of every fate."""
    whole = generate(3, ["俚岛镇", "成山镇"])
    seen: Counter[str] = Counter()
    units = []
    for unit in whole.units:
        seen[unit.fate] += 1
        if seen[unit.fate] <= 2:
            units.append(unit)
    codes = {unit.uscc for unit in units}
    return City(tuple(units), whole.people, tuple(a for a in whole.actions if a.uscc in codes or not a.uscc))


def writes(city: City) -> list[Action]:
    return [action for action in city.actions if action.method != "GET"]


def expected(city: City, journal: Journal) -> list[tuple[str, str]]:
    return [(a.method, meant(a, journal).partition("?")[0]) for a in writes(city)]


def meant(action: Action, journal: Journal) -> str:
    id_ = journal.done[action.after].kept if action.after else ""
    if action.find:
        id_ = f"{'visit' if 'visits' in action.path else 'R01'}-{action.uscc}"
    return action.path.replace("{id}", str(id_))


def test_the_actions_are_done_once_in_order_of_time(city, tmp_path):
    """Each at its instant or just after, the id of an answer in the path of what follows."""
    small, journal = SmallSuite().knows(city), Journal(tmp_path / JOURNAL)
    until = play(small.suite(), city, journal, lambda _: None)
    assert [(method, path) for _, method, path, _ in small.taken] == expected(city, journal)
    assert END <= until < END + timedelta(seconds=1)
    for action, (at, *_) in zip(writes(city), small.taken, strict=True):
        done = journal.done[action.key]
        assert action.at <= done.asked_at <= at <= done.answered_at < action.at + timedelta(seconds=5)


def test_what_an_action_is_about_is_looked_up(city, tmp_path):
    """The reference of a message goes into the question and into the recall; the answers are kept."""
    small, journal = SmallSuite().knows(city), Journal(tmp_path / JOURNAL)
    play(small.suite(), city, journal, lambda _: None)
    genuine = [done.kept for key, done in journal.done.items() if key.startswith("verify-")]
    assert Counter(genuine) == {True: 7, False: 1}
    assert journal.done["errors-units"].kept == [7, 9]
    recalls = [json.loads(text) for _, _, path, text in small.taken if path.endswith("/recall")]
    assert [body["references"] for body in recalls] == [["23456789A"]] * 2


def test_an_action_about_what_is_not_there_stops_the_story(city, tmp_path):
    """A visit that nobody asked for cannot be reported."""
    small = SmallSuite().knows(city)
    small.lists["/matching/v1/visits"] = []
    with pytest.raises(StoryError, match="/matching/v1/visits has nothing like"):
        play(small.suite(), city, Journal(tmp_path / JOURNAL), lambda _: None)


def test_a_file_is_sent_as_it_is_and_applied_before_its_facts_count(tmp_path):
    """No JSON, no key: the same file is the same batch. Its rows are taken in before the clock is read."""
    action = Action("file-x", START, "POST", "/registry/v1/datasets/y/batches?z=1", "名".encode("gbk"), "ADM")
    seen: list[httpx.Request] = []
    small = SmallSuite()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return small.answer(request)

    patience = Patience(pause=lambda _: None, monotonic=lambda: 0.0)
    client = httpx.Client(transport=httpx.MockTransport(answer))
    suite = Suite(client, lambda _: "token", patience, Addresses.below("http://suite"))
    journal = Journal(tmp_path / JOURNAL)
    play(suite, City((), (), (action,)), journal, lambda _: None)
    (sent,) = (n for n, request in enumerate(seen) if request.url.path.endswith("/batches"))
    assert (seen[sent].content, seen[sent].headers["Content-Type"]) == ("名".encode("gbk"), "text/csv")
    assert "Idempotency-Key" not in seen[sent].headers
    assert seen[sent].url.query == b"z=1"
    behind = [request.url.path for request in seen[sent + 1 :]]
    assert behind.index("/demo/clock") == 2 * 5


def test_each_part_may_have_an_address_of_its_own():
    """Paths begin with the part's name; the clock is wherever it is told to be."""
    apart = Addresses("http://r:1", "http://m:2", "http://n:3", "http://t:4", "http://s:5/x", "http://c:6")
    assert apart.of("/registry/v1/units") == "http://r:1/v1/units"
    assert apart.of("/notify/v1/verify?reference=A") == "http://n:3/v1/verify?reference=A"
    assert apart.of("/sandbox/quiet") == "http://s:5/x/quiet"
    assert apart.of("/demo/clock") == "http://c:6/demo/clock"
    assert Addresses.below("http://all/").of("/targets/v1/progress") == "http://all/targets/v1/progress"


def test_lost_answers_and_a_server_that_is_away_change_nothing(city, tmp_path):
    """The same key is sent again until there is an answer; nothing is done twice."""
    small = SmallSuite(lose=range(5, 12000, 7), refuse=range(6, 12000, 11)).knows(city)
    journal = Journal(tmp_path / JOURNAL)
    play(small.suite(), city, journal, lambda _: None)
    assert [(method, path) for _, method, path, _ in small.taken] == expected(city, journal)


def test_a_driver_that_was_killed_goes_on(city, tmp_path):
    """What the journal holds is not done again; a torn last line is, under the same key."""
    whole, file = SmallSuite().knows(city), tmp_path / JOURNAL
    first = City(city.units, city.people, city.actions[:100])
    play(whole.suite(), first, Journal(file), lambda _: None)
    text = file.read_text("utf-8")
    file.write_text(text[:-20], "utf-8")
    journal = Journal(file)
    assert len(journal.done) == 99
    play(whole.suite(), city, journal, lambda _: None)
    assert [(method, path) for _, method, path, _ in whole.taken] == expected(city, journal)
    assert set(Journal(file).done) == {action.key for action in city.actions}
    # it may have been taken long before: only what was answered last is sure
    assert journal.done[city.actions[99].key].asked_at < END


def test_the_clock_stops_at_what_the_services_have_to_do(tmp_path):
    """Moves go to the next instant of any service, never beyond it."""
    small = SmallSuite()
    small.due = [datetime(2026, 1, 6, 8, 30, tzinfo=START.tzinfo), datetime(2026, 2, 1, tzinfo=START.tzinfo)]
    play(small.suite(), City((), (), ()), Journal(tmp_path / JOURNAL), lambda _: None)
    assert small.moves == [*small.due, END]


def test_nothing_moves_before_two_quiet_looks():
    """A message may have passed from one service to another behind the first look."""
    small = SmallSuite()
    small.restless = ["/sandbox/quiet", "/notify/demo/quiet"]
    assert small.suite().settle() is None
    assert small.requests == 5 + 3 + 5 + 5


def test_a_suite_that_never_rests_stops_the_story():
    """With a message that names who is not quiet."""
    small = SmallSuite()
    small.restless = ["/matching/demo/quiet"] * 1_000_000
    with pytest.raises(StoryError, match="/matching/demo/quiet"):
        small.suite().settle()


def test_a_server_that_stays_away_stops_the_story():
    """After a bounded time."""
    with pytest.raises(StoryError, match="ConnectError"):
        SmallSuite(refuse=range(1_000_000)).suite().now()


def answering(*answers: httpx.Response) -> tuple[Suite, list[httpx.Request]]:
    seen: list[httpx.Request] = []
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return left.pop(0)

    minted = iter(range(9))
    client = httpx.Client(base_url="http://suite", transport=httpx.MockTransport(answer))
    patience = Patience(pause=lambda _: None, monotonic=lambda: 0.0)
    here = Addresses.below("http://suite")
    return Suite(client, lambda department: f"{department}-{next(minted)}", patience, here), seen


def test_a_busy_server_is_asked_again_and_a_refusal_is_told():
    """409 and 429 with Retry-After wait; 422 stops with the server's words."""
    retry = {"Retry-After": "1"}
    suite, seen = answering(
        httpx.Response(409, headers=retry),
        httpx.Response(429, headers=retry),
        httpx.Response(200, json={"a": 1}),
    )
    assert suite.ask("POST", "/registry/x", body={}, key="k") == {"a": 1}
    assert [request.headers["Idempotency-Key"] for request in seen] == ["k"] * 3
    suite, _ = answering(httpx.Response(422, text="established_on"))
    with pytest.raises(StoryError, match="422: established_on"):
        suite.ask("POST", "/registry/x")


def test_an_expired_token_is_renewed_once():
    """A second 401 is a refusal."""
    suite, seen = answering(httpx.Response(401), httpx.Response(200, json={}))
    suite.ask("GET", "/registry/x", department="ADM")
    assert [request.headers["Authorization"] for request in seen] == ["Bearer ADM-0", "Bearer ADM-1"]
    suite, _ = answering(httpx.Response(401), httpx.Response(401))
    with pytest.raises(StoryError, match="401"):
        suite.ask("GET", "/registry/x")


def test_after_the_story_each_night_is_declared_once():
    """Nights that people jump over are caught up by one declaration, never before 00:20."""
    small, puts = SmallSuite(), []
    evening = datetime(2026, 3, 25, 20, tzinfo=START.tzinfo)
    night, morning, much_later = (evening + timedelta(hours=hours) for hours in (4, 5, 9 * 24))
    later = iter([evening, night, morning, morning, much_later, much_later])

    def pause(_seconds: float) -> None:
        small.now = next(later, None) or _end()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            puts.append((small.now.hour, json.loads(request.content)["through"]))
        return small.answer(request)

    client = httpx.Client(base_url="http://suite", transport=httpx.MockTransport(answer))
    small.now = evening
    patience = Patience(pause=pause, monotonic=lambda: 0.0)
    suite = Suite(client, lambda _: "token", patience, Addresses.below("http://suite"))
    with pytest.raises(StopIteration):
        stay(suite)
    assert puts == [(1, "2026-03-25"), (20, "2026-04-02")]


def _end() -> datetime:
    raise StopIteration


def city_of_figures() -> SmallSuite:
    """One unit for each thing that can have happened."""
    small = SmallSuite()
    enrolled, due = ("stopped", "enrolled"), ("due", None)
    fared = {  # clock, end of the lead, notices
        "in_time": (enrolled, [], []),
        "closed_in_time": (("stopped", "closed"), [], []),
        "reminded": (due, [None], [("delivered", None), ("delivered", None, "second_reminder")]),
        "enrolled_after": (enrolled, ["enrolled"], [("delivered", None)]),
        "withdrawn": (enrolled, ["enrolled"], [("withdrawn", None)]),
        "corrected": (due, ["wrong_data"], [("withdrawn", None), ("handed_over", None)]),
        "taken_back": (due, ["wrong_data"], [("delivered", None), ("delivered", None, "correction")]),
        "silent": (due, [None], [("unreached", "silent")]),
        "wechat": (due, [None], [("delivered", None, "reminder", "wechat")]),
        "exempt": (("stopped", "exempt"), ["exempt"], []),
        "disputed": (("held", "disputed"), [], []),
        "no_phone": (
            due,
            [None],
            [("unreached", "no_contact"), ("unreached", "no_contact", "second_reminder")],
        ),
        "waiting": (("waiting", None), [], []),
        "sole_trader": (("stopped", "not_obliged"), [], []),
    }
    small.lists = {"/registry/v1/units": [], "/matching/v1/leads": [], "/notify/v1/notices": []}
    small.lists["/matching/v1/visits"] = [
        {"uscc": "silent", "state": "done"},
        {"uscc": "silent", "state": "open"},
    ]
    small.lists["/matching/v1/visits"] += [{"uscc": "no_phone", "state": "open"}]
    for uscc, ((state, reason), ends, notices) in fared.items():
        small.lists["/registry/v1/units"].append({"uscc": uscc})
        small.lists[f"/matching/v1/clocks?{uscc}"] = [{"uscc": uscc, "state": state, "reason": reason}]
        small.lists["/matching/v1/leads"] += [{"uscc": uscc, "end": end, "state": "open"} for end in ends]
        small.lists["/notify/v1/notices"] += [
            {
                "uscc": uscc,
                "id": f"{uscc}-{n}",
                "stage": stage,
                "state": s,
                "reason": r,
                "channel": channel,
                "handed_over_at": "2026-02-10T10:40:02+08:00" if s == "delivered" else None,
            }
            for n, (s, r, stage, channel) in enumerate(
                (*notice, *("reminder", "sms")[len(notice) - 2 :]) for notice in notices
            )
        ]
    return small


def test_the_figures_are_counted_by_unit_over_all_pages(tmp_path):
    """A unit counts in each column that fits it."""
    journal = Journal(tmp_path / JOURNAL)
    went_on = datetime(2026, 2, 10, 10, 40, tzinfo=START.tzinfo)
    journal.add("sending-on", Done(went_on, went_on))
    assert services_figures(city_of_figures().suite(), City((), (), ()), journal) == {
        "registered": 14,
        "enrolled in time": 1,
        "leads": 9,
        "reminded": 6,
        "reached by WeChat": 1,
        "joint messages": 0,
        "reminded twice": 1,
        "enrolled after reminder": 1,
        "withdrawn": 1,
        "unreached": 2,
        "visits asked for": 2,
        "visits reported": 1,
        "exempt": 1,
        "message taken back": 1,
        "left when the stop ended": 4,
        "left in stock": 0,
        "held by a rejected row": 1,
        "waiting": 1,
    }


def test_two_channels_and_joint_messages_are_counted_by_attempts(city, tmp_path):
    """One notice that went both ways, and one message for two units; a released attempt is none."""
    small = city_of_figures()
    phone = {"mobile": "13800138000", "openid": None}
    units = tuple(
        replace(city.units[0], uscc=uscc, **given)
        for uscc, given in (
            ("silent", {"openid": "o"}),
            ("wechat", {"openid": "p"}),
            ("reminded", phone),
            ("enrolled_after", phone),
            ("taken_back", {"mobile": "13900139000", "openid": None}),  # its attempts are not asked for
        )
    )

    def attempts(*tries: tuple[str, str, str, str | None], state: str = "delivered") -> dict:
        names = ("reference", "channel", "state", "code")
        return {"state": state, "attempts": [dict(zip(names, t, strict=True)) for t in tries]}

    wechat, sms = ("A", "wechat", "accepted", None), ("B", "sms", "accepted", None)
    refused, joint = ("F", "wechat", "refused", "43101"), ("C", "sms", "accepted", None)
    lost = ("D", "wechat", "released", "late")
    small.details = {
        "/notify/v1/notices/silent-0": attempts(wechat, sms, state="unreached"),
        "/notify/v1/notices/wechat-0": attempts(refused, ("G", "sms", "accepted", None)),
        "/notify/v1/notices/reminded-0": attempts(lost, joint),
        "/notify/v1/notices/reminded-1": attempts(("E", "sms", "accepted", None)),
        "/notify/v1/notices/enrolled_after-0": attempts(lost, joint),
    }
    figures = services_figures(small.suite(), City(units, (), ()), Journal(tmp_path / JOURNAL))
    columns = ("WeChat silent, then SMS", "silent on both", "WeChat refused, then SMS", "joint messages")
    assert [figures[column] for column in columns] == [1, 1, 1, 1]


def test_answers_are_counted(tmp_path):
    """To files, to the release of stock, and to the question whether a message is genuine."""
    small, journal = SmallSuite(), Journal(tmp_path / JOURNAL)
    kept = {"file": 7, "stock": 4, "real": True, "forged": False}
    fields = {"stock": "released", "real": "genuine", "forged": "genuine"}
    actions = tuple(
        Action(key, START, "POST", "/x", b"" if key == "file" else None, "ADM", keeps=fields.get(key, "id"))
        for key in (*kept, "never_done")
    )
    for key, value in kept.items():
        journal.add(key, Done(START, START, value))
    batch = {"dataset": "unit_registrations", "accepted": 9, "rejected": 2}
    small.details = {"/registry/v1/batches/7": batch}
    figures = services_figures(small.suite(), City((), (), actions), journal)
    columns = (
        "registered by file",
        "rows rejected",
        "released from stock",
        "found genuine",
        "found not genuine",
    )
    assert [figures[column] for column in columns] == [9, 2, 4, 1, 1]


def ledger_with(file, *mobiles: str) -> None:
    db = sqlite3.connect(file)
    db.executescript(sandbox.SCHEMA)
    for mobile in mobiles:
        db.execute(
            "INSERT INTO messages (received_at, received_wall, msg_group, mobile, content, sign, verdict, action,"
            " response, receipt, report_status, error_code, copies, next_push_wall)"
            " VALUES ('2026-02-10T08:30:00+08:00', '', '', ?, '', '', 'accepted', '', '', 'none', '', '', 0, '')",
            (mobile,),
        )
    db.commit()
    db.close()


def told(tmp_path, small: SmallSuite) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=150)
    code = tell_story(small.suite(), City((), (), ()), tmp_path, console)
    return code, console.file.getvalue()


def test_a_story_that_came_true_ends_with_zero_and_is_told_once(tmp_path):
    """Tables, messages and towns are shown; a second telling answers from the journal.

    Addresses are not: the suite may stop with the story.
    """
    small = SmallSuite()
    text = "荣成市[b]示例有限公司：登记期限至2026年2月9日届满。"
    small.lists["/sandbox/messages"] = [
        {
            "channel": "sms",
            "recipient": "138****8000",
            "content": text,
            "verdict": "accepted",
            "received_at": "2026-02-10T08:30:00",
        }
    ]
    figures = {"actual": 3, "target": 9900, "completion_pct": 0.03, "pace_pct": 21.9, "difference_pp": -21.87}
    small.targets = [
        {"name": "企业职工养老", **figures, "lines": [{"town": "俚岛镇", "actual": 3}]},
        {"name": "覆盖率", **dict.fromkeys(figures), "lines": []},
    ]
    ledger_with(tmp_path / LEDGER)
    code, shown = told(tmp_path, small)
    assert code == 0
    assert all(part in shown for part in ("came true", text, "138****8000", "俚岛镇", "-21.87"))
    assert "/demo/clock" not in shown
    requests = small.requests
    assert told(tmp_path, small) == (0, "The story was told already.\n")
    assert small.requests == requests


def test_a_message_of_each_kind_is_shown():
    """The newest; of joint ones the one for the most units; a refused one never."""

    def message(content: str, channel: str = "sms", verdict: str = "accepted") -> dict:
        received_at, recipient = "2026-02-10T08:30:00", "138****8000"
        return {
            "channel": channel,
            "recipient": recipient,
            "content": content,
            "verdict": verdict,
            "received_at": received_at,
        }

    small = SmallSuite()
    small.lists["/sandbox/messages"] = [
        message("拒收", verdict="refused"),
        message("甲等2户：期限"),
        message("乙等5户：期限"),
        message("丙：期限"),
        message("丁：期限"),
        message("戊：经提醒仍未"),
        message("己：请勿据此办理"),
        message(
            json.dumps({"template_id": "R01-SECOND", "data": {"thing1": "庚", "date2": "2月9日"}}), "wechat"
        ),
    ]
    console = Console(file=io.StringIO(), width=150)
    show_messages(console, small.suite())
    shown = console.file.getvalue()
    assert [name for name in "甲乙丙丁戊己庚" if name in shown] == list("乙丙戊己庚")
    assert "R01-SECOND" not in shown
    assert "拒收" not in shown


@pytest.mark.parametrize(
    ("leads", "listed", "checked", "sound"),
    [
        (3, {"open": 2, "ended": 1}, {"sound": True}, True),
        (3, {"open": 2, "ended": 1}, None, True),
        (3, {"open": 2, "ended": 1}, {"sound": False}, False),
        (3, {"open": 2}, {"sound": True}, False),
        (4, {"open": 2, "ended": 1}, {"sound": True}, False),
    ],
)
def test_a_funnel_that_does_not_add_up_is_told(leads, listed, checked, sound):
    """Its places, its own sum and the list of leads are one number, and the daily check found nothing lost."""
    told = {"places": {"reminded": 2, "exempt": 1}, "leads": leads, "listed": listed, "checked": checked}
    assert show_funnel(Console(file=io.StringIO()), told) is sound


def test_a_finding_ends_with_one(tmp_path):
    """A row that belongs to nobody is named."""
    ledger_with(tmp_path / LEDGER, "13800138000")
    code, shown = told(tmp_path, SmallSuite())
    assert code == 1
    assert "no unit: row 1" in shown


def test_figures_that_differ_end_with_one(tmp_path):
    """The services count a unit that the records do not know."""
    ledger_with(tmp_path / LEDGER)
    code, shown = told(tmp_path, city_of_figures())
    assert code == 1
    assert "0 differs" in shown
