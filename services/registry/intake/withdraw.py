"""Takes a file back: what its rows brought and nobody has touched since is undone by events, in portions."""

from dataclasses import dataclass, replace
from typing import Final

from services.registry.commands import (
    CancelParticipation,
    ChangeUnit,
    cancel_participation,
    change_unit,
    recorded,
    settle_dispute,
)
from services.registry.domain import (
    WITHDRAWN,
    Batch,
    BatchState,
    Effect,
    Participation,
    RejectedRow,
    State,
    Trouble,
)
from services.registry.store import Store
from services.registry.work import RegistryWork
from shared.errors import Problem, not_found
from shared.events.registry import BatchWithdrawn, IntakeDisputed
from shared.privacy import scrub
from shared.storage.work import Cause

PORTION: Final = 100
"""Rows taken back in one transaction."""

_TAKEN_BACK = Trouble(
    "withdrawn",
    "该行所在文件已撤回，等待更正后的文件",
    "the file of this row was withdrawn; the corrected one is waited for",
)


@dataclass(frozen=True)
class WithdrawBatch:
    """The sender takes a file back. `replaced`: a corrected one will take its place."""

    cause: Cause
    department: str | None
    batch_id: str
    reason: str
    replaced: bool


def own_batch(store: Store, id_: str, department: str | None) -> Batch:
    """A batch of this department; raises 404 for any other."""
    batch = store.batch(id_)
    if batch is None or batch.department != department:
        raise not_found("没有该编号的批次", "there is no batch with this id")
    return batch


def withdraw_batch(work: RegistryWork, item: WithdrawBatch) -> tuple[Batch, int]:
    """Nothing more of the file is applied; what it brought is taken back afterwards. Again changes nothing.

    Returns the batch and how many of its rows are in dispute. 409: it was withdrawn with another `replaced`.
    """
    disputes = work.store.open_disputes(item.batch_id)
    batch = own_batch(work.store, item.batch_id, item.department)
    if batch.replaced not in (None, item.replaced):
        raise Problem(
            409,
            "withdrawn_otherwise",
            zh="该文件已撤回，replaced 与当时不同，不能更改；仍暂缓的行请逐行处理（settle）",
            en="the file is withdrawn with another `replaced`, which stays; settle the rows that still hold a unit",
        )
    if batch.replaced is not None:
        return batch, disputes
    after = replace(
        batch,
        state=BatchState.WITHDRAWING,
        replaced=item.replaced,
        client=item.cause.actor,
        correlation=item.cause.correlation,
        ended_at=None,
    )
    work.store.save_batch(after)
    reason = scrub(item.reason)
    work.audit("batch_withdrawn", batch.id, cause=item.cause, reason=reason, replaced=item.replaced)
    return after, disputes


def take_back(work: RegistryWork, *, id_: str) -> Batch:
    """One portion of a withdrawn file, or its end when nothing is left to take back."""
    batch = work.store.batch(id_)
    assert batch is not None  # noqa: S101 - batches are never deleted
    if effects := work.store.effects(id_, PORTION):
        taken = sum(_undo(work, batch, effect) for effect in effects)
        work.store.forget_effects(id_, effects[-1].row)
        after = replace(batch, taken_back=batch.taken_back + taken, kept=batch.kept + len(effects) - taken)
    elif not batch.replaced and (disputes := work.store.disputes_of(id_, PORTION)):
        for row in disputes:
            settle_dispute(work, row, _cause(batch), reason=f"batch {id_} withdrawn")
        after = batch
    else:
        after = _finish(work, batch)
    work.store.save_batch(after)
    return after


def _undo(work: RegistryWork, batch: Batch, effect: Effect) -> bool:
    """Takes back what a row brought, unless something has touched it since."""
    if effect.uscc is not None:
        return _undo_unit(work, batch, effect.uscc, effect.version)
    assert effect.participation_id is not None  # noqa: S101 - it is the one or the other
    found = work.store.participation(effect.participation_id)
    as_it_was = found is not None and (
        found.state is State.IN_FORCE or (found.state is State.ENDED and found.ended_on == effect.ended_on)
    )
    if found is None or not as_it_was or not effect.recorded:
        return False
    if batch.replaced and found.uscc is not None:
        _wait_for_replacement(work, batch, effect.row, found.uscc, found)
    cancel_participation(
        work, CancelParticipation(_cause(batch), None, found.id, f"batch {batch.id} withdrawn")
    )
    return True


def _undo_unit(work: RegistryWork, batch: Batch, uscc: str, version: int | None) -> bool:
    """A unit exists, whatever file was wrong about it: its date and contacts go, and with the date its clock."""
    unit = work.store.units([uscc])[uscc]
    if unit.version != version or work.store.has_participations(uscc):
        return False
    change_unit(
        work, ChangeUnit(_cause(batch), None, uscc, {"established_on": None, "origin": WITHDRAWN}, ())
    )
    return True


def _wait_for_replacement(
    work: RegistryWork, batch: Batch, row: int, uscc: str, participation: Participation
) -> None:
    """The unit may be insured all the same: it is told nothing until the corrected row is here, or settled."""
    person = recorded(work.store, participation).person
    work.store.add_rejected(
        [
            RejectedRow(
                batch_id=batch.id,
                row=row,
                text="",
                troubles=(_TAKEN_BACK,),
                uscc=uscc,
                keys=work.store.row_keys(uscc, person.id_number, person.name),
                disputed=True,
            )
        ]
    )
    told = IntakeDisputed(uscc=uscc, batch_id=batch.id, row=row, dataset=batch.dataset)
    work.emit(told, cause=_cause(batch))


def _finish(work: RegistryWork, batch: Batch) -> Batch:
    told = BatchWithdrawn(
        batch_id=batch.id,
        dataset=batch.dataset,
        department=batch.department,
        taken_back=batch.taken_back,
        kept=batch.kept,
        replaced=bool(batch.replaced),
    )
    work.emit(told, cause=_cause(batch))
    work.audit(
        "batch_taken_back", batch.id, cause=_cause(batch), taken_back=batch.taken_back, kept=batch.kept
    )
    return replace(batch, state=BatchState.WITHDRAWN, ended_at=work.now)


def _cause(batch: Batch) -> Cause:
    return Cause(batch.client, batch.correlation)
