"""The command line of the check; see the package."""

import sys
from collections.abc import Sequence
from pathlib import Path

from services.demo.check.judge import check
from services.demo.check.records import read_records
from services.demo.check.rows import read_ledger


def main(arguments: Sequence[str]) -> int:
    """Judges the two files. Returns the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m services.demo.check RECORDS LEDGER\n")
        return 2
    rows = read_ledger(Path(arguments[1]))
    findings = check(read_records(Path(arguments[0])), rows)
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    sys.stdout.write(f"{len(rows)} rows in the ledger, {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
