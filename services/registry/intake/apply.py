"""Applies a file piece by piece. A piece, how far the file is, and the events of its rows commit together.

So a process that dies anywhere goes on where the last piece ended, and applies no row twice.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
import structlog

from services.registry.commands import (
    ChangeUnit,
    DeclareComplete,
    EndParticipation,
    Recorded,
    RecordParticipation,
    Registered,
    RegisterUnit,
    change_unit,
    check_declaration,
    declare_complete,
    end_participation,
    record_participations,
    register_units,
    settle_dispute,
)
from services.registry.domain import (
    WITHDRAWN,
    Batch,
    BatchState,
    Effect,
    RejectedRow,
    State,
    Trouble,
)
from services.registry.intake.checks import Checked, check, troubles_of
from services.registry.intake.files import Files
from services.registry.intake.readers import Layout, rows, survey
from services.registry.intake.withdraw import own_batch, take_back
from services.registry.store import Store, Vault
from services.registry.work import RegistryWork
from shared.clock import today
from shared.datasets.contract import Contract
from shared.errors import FieldError, Problem, not_found
from shared.events.registry import BatchAccepted, IntakeDisputed
from shared.messaging.consumer import describe
from shared.privacy import CannotOpenError, scrub
from shared.service import Core
from shared.storage.database import is_transient
from shared.storage.work import Cause

log = structlog.get_logger(__name__)

PIECE_SECONDS: Final = 0.1
"""How long a piece should keep the committer: nobody else writes meanwhile."""
FIRST_ROWS: Final = 200
FEWEST_ROWS: Final = 20
MOST_ROWS: Final = 1_000
"""Rows of a piece: the first one's, and between what bounds it is then adapted."""
MISSING_FOR: Final = timedelta(hours=1)
"""How long a file that is not in the folder is waited for: restored, or the folder mounted, it goes on."""
SPARED: Final = timedelta(days=1)
"""How old a file without a batch must be to be removed: a younger one may be of a request being answered."""
_PARTICIPATIONS: Final = "participations"

_LOST = Trouble(
    "file_lost",
    "文件丢失或损坏，请重新导出后发送",
    "the file was lost or damaged; export it anew and send it",
)
_FAILED = Trouble(
    "unreadable",
    "处理文件时发生意外错误，已停止；已接收的行保留。请联系系统管理员，或更正后重新发送",
    "an unexpected error stopped the file; rows taken in so far stay. Tell the operators, or send it corrected",
)
_SENT_AGAIN: Final = (_LOST.code, _FAILED.code)
"""Where a batch ended so, the same file may be sent again: it was not the file's fault."""
_NOTHING_APPLIED = Trouble(
    "nothing_applied",
    "没有一行可以接收，因此未声明完整日期，请按错误文件改正后重新发送",
    "no row could be taken in, so nothing was declared complete; mend the rows and send them again",
)


# -- sending and settling --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReceiveBatch:
    """A file that lies sealed under `id`."""

    cause: Cause
    id: str
    contract: Contract
    department: str
    sha256: str
    size: int
    complete_through: date | None


def receive_batch(work: RegistryWork, item: ReceiveBatch) -> Batch:
    """A new batch, or the one that the same file became before; where its file was lost it goes on with this one."""
    known = work.store.same_file(item.department, item.contract.id, item.sha256)
    if known is not None:
        if known.replaced is not None:
            raise Problem(
                409,
                "batch_withdrawn",
                zh="该文件已撤回，请发送更正后的文件",
                en="this file was withdrawn; send the corrected one",
            )
        if known.complete_through != item.complete_through:
            raise Problem(
                409,
                "batch_differs",
                zh="该文件已接收，但完整日期不同；完整日期请用 complete-through 声明",
                en="the file is here already with another complete_through; declare the day with complete-through",
            )
        return _sent_again(work, item, known)
    if item.complete_through is not None:
        check_declaration(
            work, _declaration(item.cause, item.department, item.contract.id, item.complete_through)
        )
    batch = Batch(
        id=item.id,
        dataset=item.contract.id,
        department=item.department,
        sha256=item.sha256,
        size=item.size,
        complete_through=item.complete_through,
        client=item.cause.actor,
        correlation=item.cause.correlation,
        received_at=work.now,
    )
    work.store.add_batch(batch)
    work.audit("batch_received", batch.id, cause=item.cause, dataset=batch.dataset, sha256=batch.sha256)
    return batch


def _sent_again(work: RegistryWork, item: ReceiveBatch, known: Batch) -> Batch:
    if known.state is not BatchState.REFUSED or known.problems[-1].code not in _SENT_AGAIN:
        return known
    after = replace(
        known,
        state=BatchState.APPLYING if known.layout else BatchState.RECEIVED,
        file=item.id,
        client=item.cause.actor,
        correlation=item.cause.correlation,
        received_at=work.now,
        problems=known.problems[:-1],
        ended_at=None,
    )
    work.store.save_batch(after)
    work.audit("batch_received", after.id, cause=item.cause, dataset=after.dataset, sha256=after.sha256)
    return after


@dataclass(frozen=True)
class SettleRow:
    """The sender says what became of a rejected row."""

    cause: Cause
    department: str | None
    batch_id: str
    row: int
    reason: str


def settle_row(work: RegistryWork, item: SettleRow) -> RejectedRow:
    """The row holds its unit no more; settling it again changes nothing."""
    own_batch(work.store, item.batch_id, item.department)
    row = next(iter(work.store.rejected(item.batch_id, after=item.row - 1, limit=1)), None)
    if row is None or row.row != item.row:
        raise not_found("该批次没有这一行的错误", "no row of this number was rejected in the batch")
    if row.disputed is None:
        raise Problem(
            409,
            "not_disputed",
            zh="该行不涉及任何单位，无需处理",
            en="the row concerns no unit and holds nothing",
        )
    if row.disputed:
        settle_dispute(work, row, item.cause, reason=scrub(item.reason))
    return row


# -- applying --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Some rows of a batch that were checked, and where they end; `last`: nothing comes behind them."""

    batch: Batch
    layout: Layout
    rows: Sequence[Checked]
    position: int
    line: int
    last: bool


class Intake:
    """Applies what was received, one file after the other. `step` and `next_due` make its duty."""

    def __init__(
        self, core: Core[RegistryWork], vault: Vault, files: Files, contracts: Mapping[str, Contract]
    ) -> None:
        self._core = core
        self._vault = vault
        self._files = files
        self._contracts = contracts
        self._rows = FIRST_ROWS
        self._counter = core.metrics.counter(
            "intake_rows_total", "Rows of files, by what became of them", ["dataset", "outcome"]
        )
        self._failures = core.metrics.counter(
            "intake_failures_total", "Files that ended by an unexpected error", ["dataset"]
        )

    def next_due(self, db: sa.Connection, now: datetime) -> datetime | None:
        """Now while a batch can go on; the end of the wait where only files that are not here are left."""
        pending = Store(db, self._vault).pending_batches()
        return min((self._due(batch, now) for batch in pending), default=None)

    def _due(self, batch: Batch, now: datetime) -> datetime:
        if batch.state is BatchState.WITHDRAWING or self._files.has(batch.file_id):
            return now
        return batch.received_at + MISSING_FOR

    async def step(self) -> bool:
        """Surveys a file, or applies one piece of it. False when there was none.

        An error that would come again ends its file, so that those behind it go on.
        """
        now = self._core.clock.now()
        pending = await self._core.read(lambda db: Store(db, self._vault).pending_batches())
        batch = next((batch for batch in pending if self._due(batch, now) <= now), None)
        if batch is None:
            return False
        try:
            after = await self._go_on(batch)
        except (FileNotFoundError, CannotOpenError):
            after = await self._core.run(partial(refuse, batch=batch, why=_LOST))
        except Exception as error:
            if batch.state is BatchState.WITHDRAWING or is_transient(error):
                raise
            log.warning("file_stopped", batch=batch.id, error=describe(error))
            self._failures.labels(batch.dataset).inc()
            after = await self._core.run(partial(refuse, batch=batch, why=_FAILED))
        if after.is_over:
            self._files.remove(after.file_id)
        return True

    async def _go_on(self, batch: Batch) -> Batch:
        if batch.state is BatchState.WITHDRAWING:
            return await self._core.run(partial(take_back, id_=batch.id))
        if batch.state is BatchState.RECEIVED:
            found = await asyncio.to_thread(self._survey, batch)
            return await self._core.run(partial(begin, batch=batch, found=found))
        piece = await asyncio.to_thread(self._piece, batch)
        begun = self._core.clock.monotonic()
        after = await self._core.run(partial(apply_piece, piece=piece))
        self._count(batch, after)
        self._pace(self._core.clock.monotonic() - begun)
        return after

    def clear_files(self, work: RegistryWork) -> None:
        """At the start: old files of batches that are over, or never became one, go."""
        ids = {batch.file_id for batch in work.store.pending_batches()}
        self._files.keep_only(ids, before=work.wall - SPARED)

    def _survey(self, batch: Batch) -> Layout | Trouble:
        return survey(self._files.chunks(batch.file_id), self._contracts[batch.dataset])

    def _piece(self, batch: Batch) -> Piece:
        layout = Layout(**{name: _tupled(value) for name, value in batch.layout.items()})
        contract, day = self._contracts[batch.dataset], today(self._core.clock.now())
        source = rows(
            self._files.chunks(batch.file_id, batch.position),
            layout,
            number=batch.line,
            offset=batch.position,
        )
        found = list(islice(source, self._rows))
        return Piece(
            batch=batch,
            layout=layout,
            rows=[check(row, contract, layout, day) for row in found],
            position=found[-1].end if found else batch.position,
            line=found[-1].number if found else batch.line,
            last=len(found) < self._rows,
        )

    def _pace(self, seconds: float) -> None:
        """Fewer rows where a piece took long, more where it was quick."""
        if seconds > 0:
            self._rows = max(FEWEST_ROWS, min(MOST_ROWS, int(self._rows * min(PIECE_SECONDS / seconds, 2))))

    def _count(self, before: Batch, after: Batch) -> None:
        for outcome in ("accepted", "unchanged", "rejected"):
            grown = getattr(after, outcome) - getattr(before, outcome)
            self._counter.labels(before.dataset, outcome).inc(max(grown, 0))


def begin(work: RegistryWork, *, batch: Batch, found: Layout | Trouble) -> Batch:
    """The file can be applied, or is refused as a whole: then nothing of it is applied or complete.

    Changes nothing where the batch is not what it was when it was surveyed.
    """
    if (now := _as_it_is(work, batch)) != batch:
        return now
    if isinstance(found, Trouble):
        return _refused(work, batch, found)
    unknown = [
        text for text, name in zip(found.headings, found.columns, strict=True) if text and name is None
    ]
    note = Trouble(
        "unknown_columns",
        f"未采用的列：{'、'.join(unknown)[:500]}",
        f"columns that were not used: {', '.join(unknown)[:500]}",
    )
    after = replace(
        batch,
        state=BatchState.APPLYING,
        layout=asdict(found),
        position=found.offset,
        line=found.line,
        rows=found.rows,
        problems=(note,) if unknown else (),
    )
    work.store.save_batch(after)
    return after


def refuse(work: RegistryWork, *, batch: Batch, why: Trouble) -> Batch:
    """Ends a batch without going on, where it is still what it was when the trouble came."""
    now = _as_it_is(work, batch)
    return now if now != batch else _refused(work, batch, why)


def _refused(work: RegistryWork, batch: Batch, why: Trouble) -> Batch:
    after = replace(batch, state=BatchState.REFUSED, problems=(*batch.problems, why), ended_at=work.now)
    work.store.save_batch(after)
    work.audit("batch_refused", batch.id, cause=_cause(batch), code=why.code)
    return after


def _as_it_is(work: RegistryWork, batch: Batch) -> Batch:
    """The batch now: between reading it and this work it may have been withdrawn, or another process got on."""
    now = work.store.batch(batch.id)
    assert now is not None  # noqa: S101 - batches are never deleted
    return now


def apply_piece(work: RegistryWork, *, piece: Piece) -> Batch:
    """One piece: its good rows through the commands, the others kept. A piece of an old position is passed over."""
    batch = _as_it_is(work, piece.batch)
    if batch != piece.batch:
        return batch
    done = batch.accepted + batch.unchanged + batch.rejected
    if piece.last and done + len(piece.rows) != batch.rows:
        return _refused(work, batch, _LOST)  # the file was cut short since it was surveyed
    sound = [row for row in piece.rows if not row.troubles]
    apply = _record if batch.dataset == _PARTICIPATIONS else _register
    outcomes = apply(work, batch, sound)
    rejected = [row for row in piece.rows if row.troubles]
    effects: list[Effect] = []
    unchanged = 0
    for row, outcome in zip(sound, outcomes, strict=True):
        if isinstance(outcome, Problem):
            faults = outcome.errors or (FieldError("", outcome.code, outcome.zh, outcome.en),)
            rejected.append(replace(row, troubles=troubles_of(faults, piece.layout)))
        elif outcome is None:
            unchanged += 1
        else:
            effects.append(outcome)
    _reject(work, batch, rejected)
    work.store.add_effects(effects)
    after = replace(
        batch,
        position=piece.position,
        line=piece.line,
        accepted=batch.accepted + len(effects),
        unchanged=batch.unchanged + unchanged,
        rejected=batch.rejected + len(rejected),
    )
    if piece.last:
        after = _finish(work, after)
    work.store.save_batch(after)
    return after


def _register(work: RegistryWork, batch: Batch, sound: Sequence[Checked]) -> list[Effect | Problem | None]:
    """For each row what is new by it, None where nothing is."""
    cause = _cause(batch)
    known = work.store.units(row.facts["uscc"] for row in sound)
    withdrawn = {
        uscc for uscc, unit in known.items() if unit.origin == WITHDRAWN and unit.established_on is None
    }
    items = [
        RegisterUnit(cause=cause, within=None, origin="batch", **row.facts)
        for row in sound
        if row.facts["uscc"] not in withdrawn
    ]
    fresh = iter(register_units(work, items))
    return [
        _outcome(batch, row, _say_anew(work, cause, row) if row.facts["uscc"] in withdrawn else next(fresh))
        for row in sound
    ]


def _outcome(batch: Batch, row: Checked, outcome: Registered | Problem) -> Effect | Problem | None:
    if isinstance(outcome, Problem):
        return outcome
    unit = outcome.unit
    return Effect(batch.id, row.row.number, uscc=unit.uscc, version=unit.version) if outcome.is_new else None


def _say_anew(work: RegistryWork, cause: Cause, row: Checked) -> Registered | Problem:
    """A unit whose only file was withdrawn is as another file says: it is known, so as a correction."""
    facts = dict(row.facts)
    uscc, contacts = facts.pop("uscc"), facts.pop("contacts")
    try:
        said = change_unit(work, ChangeUnit(cause, None, uscc, {**facts, "origin": "batch"}, contacts))
    except Problem as problem:
        return problem
    return replace(said, is_new=True)


def _record(work: RegistryWork, batch: Batch, sound: Sequence[Checked]) -> list[Effect | Problem | None]:
    cause = _cause(batch)
    items = [RecordParticipation(cause=cause, within=None, batch_id=batch.id, **row.facts) for row in sound]
    outcomes = record_participations(work, items)
    return [
        outcome if isinstance(outcome, Problem) else _end(work, batch, row, outcome)
        for row, outcome in zip(sound, outcomes, strict=True)
    ]


def _end(work: RegistryWork, batch: Batch, row: Checked, recorded: Recorded) -> Effect | Problem | None:
    """Ends the participation of a row that says so. Its days were checked, so one just recorded can be ended."""
    id_ = recorded.participation.id
    effect = Effect(
        batch.id,
        row.row.number,
        participation_id=id_,
        recorded=recorded.is_new,
        ended_on=row.ended_on,
    )
    if row.ended_on is None:
        return effect if recorded.is_new else None
    before = work.store.participation(id_)
    try:
        end_participation(work, EndParticipation(_cause(batch), None, id_, row.ended_on))
    except Problem as problem:
        return problem
    return effect if before is not None and before.state is State.IN_FORCE else None


def _reject(work: RegistryWork, batch: Batch, rejected: Sequence[Checked]) -> None:
    """Keeps rows that were not applied. Where a participation names its unit, the unit is disputed."""
    kept = []
    for row in rejected:
        uscc = row.uscc if batch.dataset == _PARTICIPATIONS else None
        cells = row.row.cells
        kept.append(
            RejectedRow(
                batch_id=batch.id,
                row=row.row.number,
                text=row.row.text,
                troubles=row.troubles,
                uscc=uscc,
                keys=work.store.row_keys(uscc, cells.get("id_number", ""), cells.get("name", ""))
                if uscc
                else (),
                disputed=True if uscc else None,
            )
        )
        if uscc:
            told = IntakeDisputed(uscc=uscc, batch_id=batch.id, row=row.row.number, dataset=batch.dataset)
            work.emit(told, cause=_cause(batch))
    work.store.add_rejected(kept)


def _finish(work: RegistryWork, batch: Batch) -> Batch:
    """The whole file is applied; what it says of completeness comes behind all its facts."""
    problems = batch.problems
    cause = _cause(batch)
    if batch.complete_through is not None and not batch.accepted + batch.unchanged:
        problems += (_NOTHING_APPLIED,)
    elif batch.complete_through is not None:
        try:
            declare_complete(
                work, _declaration(cause, batch.department, batch.dataset, batch.complete_through)
            )
        except Problem as problem:
            problems += (Trouble(problem.code, problem.zh, problem.en),)
    counts = {name: getattr(batch, name) for name in ("rows", "accepted", "unchanged", "rejected")}
    work.emit(
        BatchAccepted(
            batch_id=batch.id,
            dataset=batch.dataset,
            department=batch.department,
            sha256=batch.sha256,
            complete_through=batch.complete_through,
            **counts,
        ),
        cause=cause,
    )
    work.audit("batch_applied", batch.id, cause=cause, **counts)
    return replace(batch, state=BatchState.APPLIED, problems=problems, ended_at=work.now)


def _declaration(cause: Cause, department: str, dataset: str, through: date) -> DeclareComplete:
    return DeclareComplete(cause, department, dataset, through)


def _cause(batch: Batch) -> Cause:
    return Cause(batch.client, batch.correlation)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
