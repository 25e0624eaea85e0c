"""What the check has to say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One way in which ledger or answers contradict the records."""

    kind: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.subject}: {self.text}"
