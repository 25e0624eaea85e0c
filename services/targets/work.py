"""One transaction of targets."""

from functools import cached_property

from services.targets.store import Figures
from shared.storage.work import Work


class TargetsWork(Work):
    """A transaction with the figures."""

    @cached_property
    def figures(self) -> Figures:
        """Who counts, and how many."""
        return Figures(self.db)
