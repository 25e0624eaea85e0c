"""The independent check of the demo's story: every message once, in time, to the right party, and no other.

It reads the generator's records (facts, each with the instants between which they were taken) and the ledger
of the carrier sandbox, and knows the law on its own: `law` has the working days written out by hand, `records`
what is true of a unit, `due` when which message may and must leave, `rows` what a message says, `judge` the
contradictions, `figures` the counts. It imports nothing of the services and no calendar; an error there
cannot repeat itself here.

    python -m services.demo.check RECORDS LEDGER        prints findings; exit code 1 when there is any
"""

from services.demo.check.due import Story
from services.demo.check.figures import tally
from services.demo.check.finding import Finding
from services.demo.check.judge import check
from services.demo.check.law import WORKED, deadline, is_working_day, next_working_day
from services.demo.check.records import MAY, MUST, read_records
from services.demo.check.rows import Row, read_ledger

__all__ = [
    "MAY",
    "MUST",
    "WORKED",
    "Finding",
    "Row",
    "Story",
    "check",
    "deadline",
    "is_working_day",
    "next_working_day",
    "read_ledger",
    "read_records",
    "tally",
]
