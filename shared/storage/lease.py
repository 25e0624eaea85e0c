"""A right that one process at a time holds: to publish a service's facts, or to do what must not be done twice.

It expires by wall time, so that a dead or stopped holder loses it, and has an epoch, so that a holder that
comes back sees that it went on. A lease keeps processes from the same work at the same time; it does not make
that work right: each transaction reads again what it acts on.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa

from shared.storage.tables import Plumbing
from shared.storage.work import Work

LEASE = timedelta(seconds=10)


class Lease:
    """One named right of a service, as one process (`holder`) sees it."""

    def __init__(self, plumbing: Plumbing, name: str, holder: str) -> None:
        self._table = plumbing.lease
        self._name = name
        self._holder = holder
        self._epoch: int | None = None
        self._sure_until: datetime | None = None
        self._over = False

    @property
    def key(self) -> str:
        """The ordering key of the works that take or check it."""
        return f"lease:{self._name}"

    def is_fresh(self, wall: datetime) -> bool:
        """Whether it was taken so lately that most of its time is left."""
        return self._sure_until is not None and wall < self._sure_until

    def take(self, work: Work) -> bool:
        """Takes it, or keeps it for longer; False while another process has it, and once it was given back."""
        if self._over:
            return False  # asked before and run after, it would keep everybody else waiting
        table, mine = self._table, self._table.c.name == self._name
        found = work.db.execute(sa.select(table).where(mine)).first()
        fresh = {"holder": self._holder, "expires_at": work.wall + LEASE}
        if found is None:
            work.insert(table, [{"name": self._name, "epoch": 1, **fresh}])
            self._epoch = 1
        elif found.holder == self._holder and found.epoch == self._epoch:
            work.db.execute(sa.update(table).where(mine).values(**fresh))
        elif found.expires_at > work.wall and found.holder != self._holder:
            self._epoch = None
        else:
            self._epoch = int(found.epoch) + 1
            work.db.execute(sa.update(table).where(mine).values(epoch=self._epoch, **fresh))
        self._sure_until = None if self._epoch is None else work.wall + LEASE / 5
        return self._epoch is not None

    def give_back(self, work: Work) -> None:
        """Lets another process have it at once, if it is still held; this one never takes it again."""
        self._over, self._sure_until = True, None
        if self._is_mine(work):
            table = self._table
            work.db.execute(sa.update(table).where(table.c.name == self._name).values(expires_at=work.wall))

    def is_held(self, work: Work) -> bool:
        """Whether nobody has taken it since."""
        held = not self._over and self._is_mine(work)
        if not held:
            self._sure_until = None
        return held

    def _is_mine(self, work: Work) -> bool:
        # By the holder too: where a commit failed, the epoch that this one remembers can be another's.
        table = self._table
        found = work.db.execute(sa.select(table).where(table.c.name == self._name)).first()
        return found is not None and (found.holder, found.epoch) == (self._holder, self._epoch)
