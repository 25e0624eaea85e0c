"""Ids that the suite makes itself."""

import time
import uuid

from shared.ids import new_event_ids


def test_event_ids_are_sortable_uuids_of_their_own() -> None:
    """Version 7, RFC variant, the millisecond of birth in front, no two alike."""
    before = time.time_ns() // 1_000_000
    ids = [uuid.UUID(text) for text in new_event_ids(1_000)]
    after = time.time_ns() // 1_000_000
    assert {(id_.version, id_.variant) for id_ in ids} == {(7, uuid.RFC_4122)}
    assert all(before <= id_.int >> 80 <= after for id_ in ids)
    assert len({id_.int & ((1 << 62) - 1) for id_ in ids}) == len(ids)
    assert len({id_.int >> 64 & 0xFFF for id_ in ids}) > 500
    assert [str(id_) for id_ in ids] != new_event_ids(1_000)
    assert new_event_ids(0) == []
