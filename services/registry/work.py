"""One transaction of registry."""

from datetime import date, datetime

import sqlalchemy as sa

from services.registry.domain import City
from services.registry.store import Store, Vault
from services.registry.tables import PLUMBING
from shared.clock import today
from shared.storage.work import Work


class RegistryWork(Work):
    """A transaction with registry's store and what the city pack says."""

    def __init__(self, db: sa.Connection, vault: Vault, city: City, *, now: datetime, wall: datetime) -> None:
        super().__init__(db, PLUMBING, now=now, wall=wall)
        self.store = Store(db, vault)
        self.city = city

    @property
    def today(self) -> date:
        """The business day."""
        return today(self.now)
