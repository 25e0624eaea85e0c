"""Units to register by the thousand, each with a right code and a phone of its own."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from shared.identifiers import org_code_check_char, uscc_check_char


def uscc_of(number: int) -> str:
    """The code of the unit with a number below 100,000,000."""
    code = f"91371082{number:08d}{org_code_check_char(f'{number:08d}')}"
    return code + uscc_check_char(code)


def mobile_of(number: int) -> str:
    """Its phone, which is nobody else's."""
    return f"139{number:08d}"


def bodies(*, established_on: str, first: int = 1) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers from `first` on, and what registers the unit of each."""
    for number in count(first):
        yield (
            number,
            {
                "uscc": uscc_of(number),
                "name": f"荣成市示例{number}有限公司",
                "kind": "enterprise",
                "established_on": established_on,
                "town": "寻山街道",
                "address": "示例路1号",
                "industry": "C1361",
                "contacts": [
                    {"role": "legal_representative", "name": "张示例", "mobile": mobile_of(number)},
                ],
            },
        )
