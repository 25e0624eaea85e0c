"""Sealing, keyed indexes, masks and the scrubber."""

import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from hypothesis import given
from hypothesis import strategies as st

from shared.identifiers import USCC_ALPHABET, uscc_check_char
from shared.privacy import (
    BrokenSealError,
    Cipher,
    Index,
    KeyRing,
    KeyRingError,
    Purpose,
    UnknownKeyError,
    mask_id_number,
    mask_mobile,
    mask_name,
    scrub,
)

RING = KeyRing("k1", {"k1": bytes(range(16))}, bytes(range(32)))
CIPHER = RING.cipher(Purpose.RECORDS)


@given(st.binary(max_size=300), st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_is_sealed_opens_again(plain: bytes, context: str) -> None:
    """Any bytes under any context."""
    assert CIPHER.open(CIPHER.seal(plain, context=context), context=context) == plain


@given(st.text(st.characters(codec="utf-8"), max_size=100))
def test_sealed_texts_travel_in_urls(plain: str) -> None:
    """URL-safe letters only, and the same text back."""
    sealed = CIPHER.seal_texts({"c": plain.encode()})["c"]
    assert set(sealed) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")
    assert CIPHER.open_text(sealed, context="c") == plain


@given(st.data())
def test_any_changed_byte_breaks_the_seal(data: st.DataObject) -> None:
    """Header, key id, nonce, ciphertext and tag are all protected; so is the length."""
    sealed = bytearray(CIPHER.seal(b"13800138000", context="unit:1"))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((BrokenSealError, UnknownKeyError)):
        CIPHER.open(bytes(sealed), context="unit:1")


@given(st.binary(max_size=60))
def test_bytes_that_were_never_sealed_do_not_open(junk: bytes) -> None:
    """A named error for any junk, also for what is cut short."""
    with pytest.raises((BrokenSealError, UnknownKeyError)):
        CIPHER.open(junk, context="")
    sealed = CIPHER.seal(b"x", context="")
    with pytest.raises(BrokenSealError):
        CIPHER.open(sealed[: min(len(junk), len(sealed) - 1)], context="")


@pytest.mark.parametrize("junk", ["", "?", "ÄÖ", "AQE", "AQEC"])
def test_texts_that_were_never_sealed_do_not_open(junk: str) -> None:
    """Other letters, wrong length and empty texts are named errors."""
    with pytest.raises(BrokenSealError):
        CIPHER.open_text(junk, context="")


def test_a_seal_belongs_to_its_context() -> None:
    """A sealed value moved to another row does not open."""
    sealed = CIPHER.seal(b"x", context="person:1")
    with pytest.raises(BrokenSealError):
        CIPHER.open(sealed, context="person:2")


def test_a_seal_belongs_to_its_purpose() -> None:
    """The key of one purpose opens nothing of another."""
    sealed = CIPHER.seal(b"x", context="c")
    for purpose in Purpose:
        if purpose is not Purpose.RECORDS:
            with pytest.raises(BrokenSealError):
                RING.cipher(purpose).open(sealed, context="c")


def test_the_same_value_is_sealed_differently_each_time() -> None:
    """Sealed values cannot be compared."""
    assert CIPHER.seal(b"x", context="c") != CIPHER.seal(b"x", context="c")


def test_a_sealed_value_names_format_algorithm_and_key() -> None:
    """Version 1, algorithm 1 (SM4-GCM), key id, nonce: the layout that stored rows rely on."""
    cipher = Cipher(RING.derive(Purpose.RECORDS), random=lambda size: b"n" * size)
    sealed = cipher.seal(b"", context="c")
    assert sealed[:-16] == b"\x01\x01\x02k1" + b"n" * 12


def test_an_older_key_opens_and_the_current_one_seals() -> None:
    """After a change of keys old values open, new ones use the new key, and indexes stay as they were."""
    newer = KeyRing("k2", {**RING.keys, "k2": b"2" * 16}, RING.index_key)
    sealed = CIPHER.seal(b"x", context="c")
    assert newer.cipher(Purpose.RECORDS).open(sealed, context="c") == b"x"
    with pytest.raises(UnknownKeyError, match="k2"):
        CIPHER.open(newer.cipher(Purpose.RECORDS).seal(b"x", context="c"), context="c")
    assert newer.index(Purpose.ID_INDEX).of("a") == RING.index(Purpose.ID_INDEX).of("a")


def test_a_key_ring_file_is_made_once_and_is_private(tmp_path: Path) -> None:
    """First use makes it, readable by the owner alone; the next use reads it; nothing else is left."""
    file = tmp_path / "data" / "keys.json"
    first = KeyRing.load_or_create(file)
    assert KeyRing.load_or_create(file) == first
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    assert KeyRing.parse(file.read_text()) == first


def test_processes_that_come_first_together_share_one_ring(tmp_path: Path) -> None:
    """Nobody seals with keys that another one overwrites."""
    file = tmp_path / "keys.json"
    gate = threading.Barrier(8)
    rings: list[KeyRing] = []

    def late_random(size: int) -> bytes:
        if size == 16:
            gate.wait(10)  # everybody has seen that there is no file
        return os.urandom(size)

    def run() -> None:
        rings.append(KeyRing.load_or_create(file, late_random))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rings) == 8
    assert all(ring == rings[0] for ring in rings)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"current": "k1", "keys": {}, "index_key": ""}',
        '{"current": "k1", "keys": {"k1": "00"}, "index_key": "' + "00" * 32 + '"}',
        '{"current": "k1", "keys": {"k1": "' + "00" * 16 + '"}, "index_key": "00"}',
        '{"current": "k 1", "keys": {"k 1": "' + "00" * 16 + '"}, "index_key": "' + "00" * 32 + '"}',
        '{"current": "k1", "keys": {"k1": "SECRET' + "0" * 26 + '"}, "index_key": "' + "00" * 32 + '"}',
    ],
)
def test_a_malformed_key_ring_is_refused_without_showing_keys(text: str) -> None:
    """A named error; nothing of a key in it."""
    with pytest.raises(KeyRingError) as caught:
        KeyRing.parse(text)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_ring_does_not_show_its_keys(tmp_path: Path) -> None:
    """Neither in its repr nor, for a missing file, as an unnamed error."""
    assert repr(RING) == "KeyRing(current='k1')"
    with pytest.raises(KeyRingError, match=r"keys\.json"):
        KeyRing.load(tmp_path / "keys.json")


def test_an_index_is_hmac_sm3_under_the_key_of_its_purpose() -> None:
    """The same value gives the same digest, another purpose another one, without the key nothing."""
    plain = hmac.HMAC(b"k" * 32, hashes.SM3())
    plain.update(b"371082198503150023")
    assert Index(b"k" * 32).of("371082198503150023") == plain.finalize().hex()
    by_purpose = {RING.index(purpose).of("371082198503150023") for purpose in Purpose}
    assert len(by_purpose) == len(Purpose)
    index = RING.index(Purpose.PHONE_INDEX)
    assert index.of("1") == index.of("1") != index.of("2")


@pytest.mark.parametrize(
    ("name", "masked"),
    [("张小明", "张*明"), ("张明", "张*"), ("欧阳小明", "欧**明"), ("张", "*"), ("", "")],
)
def test_names_are_masked(name: str, masked: str) -> None:
    """The family name's first character, and the last of three or more."""
    assert mask_name(name) == masked


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("371082198503150023", "371082********0023"),
        ("370633620720001", "370633*****0001"),
        ("3710821985", "*" * 10),
    ],
)
def test_id_numbers_are_masked(number: str, masked: str) -> None:
    """First six and last four stay; a fragment shows nothing."""
    assert mask_id_number(number) == masked


@pytest.mark.parametrize(("number", "masked"), [("13800138000", "138****8000"), ("1380013", "*" * 7)])
def test_mobile_numbers_are_masked(number: str, masked: str) -> None:
    """First three and last four stay; a fragment shows nothing."""
    assert mask_mobile(number) == masked


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("身份证371082198503150023。", "身份证371082********0023。"),
        ("id=37063319620720001x,", "id=370633********001x,"),
        ("wrong 371082198513990023", "wrong 371082********0023"),
        ("old 370633620720001", "old 370633*****0001"),
        ("a13800138000b 13900139000", "a138****8000b 139****9000"),
        ("+8613800138000", "+86138****8000"),
        ("008613800138000", "0086138****8000"),
        ("138-0013-8000 / 138 0013 8000", "138****8000 / 138****8000"),
        ('{"id":"371082198503150023","m":"13800138000"}', '{"id":"371082********0023","m":"138****8000"}'),
        ("３７１０８２１９８５０３１５００２Ｘ", "371082********002X"),
        ("371082 19850315 0023 / 371082-1985-0315-0023", "371082********0023 / 371082********0023"),
        ("370633 620720 001", "370633*****0001"),
        (
            "１３８００１３８０００，138－0013－8000，1 3 8 0 0 1 3 8 0 0 0",
            "138****8000，138****8000，138****8000",
        ),
        ("13800138000 13900139000", "138****8000 139****9000"),
        ("2026-02-10 2026-02-11 10:00", "2026-02-10 2026-02-11 10:00"),
        # What stays: unit codes (letters or digits alone), dates, longer numbers, landlines.
        ("91371082MA3XTE5T8Q", "91371082MA3XTE5T8Q"),
        ("2026-02-10T08:30:00+08:00", "2026-02-10T08:30:00+08:00"),
        ("msgGroup 0906163415000000332084", "msgGroup 0906163415000000332084"),
        ("0631-7562345", "0631-7562345"),
    ],
)
def test_free_text_is_scrubbed(text: str, scrubbed: str) -> None:
    """Whatever looks like an ID number or a mobile number is masked, the rest stays readable."""
    assert scrub(text) == scrubbed


def test_a_unit_code_of_digits_alone_stays_unless_it_could_be_a_person() -> None:
    """Its check character fits and there is no date of birth inside."""
    code = next(
        first17 + uscc_check_char(first17)
        for first17 in (f"913710820042600{n:02}" for n in range(100))
        if uscc_check_char(first17).isdigit()
    )
    assert scrub(code) == code
    person = next(
        first17 + uscc_check_char(first17)
        for first17 in (f"37108219850315{n:03}" for n in range(100))
        if uscc_check_char(first17) in USCC_ALPHABET[:10]
    )
    assert scrub(person) == mask_id_number(person)


def test_what_is_sealed_together_opens_each_in_its_own_context() -> None:
    """With a nonce of its own, all from one reading of the random source."""
    read: list[int] = []

    def random(number: int) -> bytes:
        read.append(number)
        return bytes(range(number))

    cipher = Cipher(RING.derive(Purpose.RECORDS), random)
    sealed = cipher.seal_all({"unit:1": b"a", "unit:2": b"a"})
    assert {context: CIPHER.open(value, context=context) for context, value in sealed.items()} == {
        "unit:1": b"a",
        "unit:2": b"a",
    }
    assert read == [24]
    assert len({value[5:17] for value in sealed.values()}) == 2
    assert cipher.seal_all({}) == {}
