"""How many SMS a text costs."""

import pytest

from services.notify.fragments import TextTooLongError, fragments


@pytest.mark.parametrize(
    ("body", "expected"),
    [(0, 1), (64, 1), (65, 2), (128, 2), (129, 3), (154, 3), (500, 8)],
)
def test_signature_and_brackets_count(body: int, expected: int) -> None:
    """With 【荣成人社】 (6) one SMS holds 70 characters, each of several holds 67."""
    assert expected == fragments("荣成人社", "字" * body)


def test_the_signature_may_come_with_its_brackets() -> None:
    """The brackets are counted once, whether or not the caller wrote them."""
    assert (fragments("荣成人社", "字" * 64), fragments("荣成人社", "字" * 65)) == (1, 2)
    assert (fragments("【荣成人社】", "字" * 64), fragments("【荣成人社】", "字" * 65)) == (1, 2)


def test_an_emoji_counts_two() -> None:
    """Carriers count UTF-16 code units; letters, digits and punctuation count one."""
    assert fragments("荣成人社", "a" * 62 + "😀") == 1
    assert fragments("荣成人社", "a" * 63 + "😀") == 2


def test_160_characters_in_all_are_three() -> None:
    """The carriers' own example."""
    assert fragments("荣成人社", "字" * 154) == 3


@pytest.mark.parametrize("text", ["字" * 501, "字" * 499 + "😀"])
def test_a_body_over_500_is_refused(text: str) -> None:
    """Carriers take a body of 500; the error does not repeat the text."""
    with pytest.raises(TextTooLongError) as error:
        fragments("荣成人社", text)
    assert "字" not in str(error.value)
