"""How many SMS a text costs. Source: the carriers' counting rule (signature and body together, UCS-2)."""

from typing import Final

MOST_BODY: Final = 500
ONE: Final = 70
EACH: Final = 67


class TextTooLongError(ValueError):
    """The body is longer than carriers take; shorten the template or its values."""


def units(text: str) -> int:
    """Length as carriers count it: UTF-16 code units, so that an emoji counts two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def fragments(signature: str, text: str) -> int:
    """Fragments that `text` takes when sent under `signature` (with or without its 【】, which count).

    Raises `TextTooLongError` when the body alone is over 500 code units.
    """
    body = units(text)
    if body > MOST_BODY:
        raise TextTooLongError(f"the body has {body} characters; carriers take {MOST_BODY}")
    length = units(f"【{signature.strip('【】')}】") + body
    return 1 if length <= ONE else -(-length // EACH)
