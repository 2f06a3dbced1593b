"""One table of statuses, each error in it."""

from __future__ import annotations

import inspect

import pytest

import storage.errors
from pacs.dimse import status
from storage.errors import (
    DatabaseUnavailable,
    InvalidDataSet,
    InvalidIdentifier,
    InvalidInput,
    InvalidUID,
    NotFound,
    ObjectStoreFull,
    ObjectStoreUnavailable,
    ObjectTooLarge,
    SanglocError,
)

TABLES: list[tuple[status.Status, ...]] = [
    table for name, table in sorted(vars(status).items()) if name.endswith("STATUSES")
]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatabaseUnavailable, 0xA700),
        (ObjectStoreUnavailable, 0xA700),
        (ObjectStoreFull, 0xA700),
        (ObjectTooLarge, 0xA710),
        (InvalidDataSet, 0xC000),
        (InvalidUID, 0x0117),
        (SanglocError, 0x0110),
    ],
)
def test_an_error_has_its_status(error: type[SanglocError], code: int):
    assert status.status_of(error()).code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatabaseUnavailable, 0xA700),
        (InvalidIdentifier, 0xA900),
        (InvalidInput, 0xC000),
        (NotFound, 0x0110),
    ],
)
def test_an_error_of_a_query_has_its_status(error: type[SanglocError], code: int):
    assert status.find_status_of(error()).code == code


def test_every_error_has_a_failure_status_of_the_table():
    kinds = [kind for _, kind in inspect.getmembers(storage.errors, inspect.isclass) if issubclass(kind, SanglocError)]
    assert len(kinds) > 10
    for kind in kinds:
        answer = status.status_of(kind())
        assert answer in status.STATUSES
        assert answer.code != 0
        assert answer.code >> 12 != 0xB  # a warning would say that the object is stored (PS3.7 C.3)


def test_codes_are_unique_and_stand_in_the_ranges_of_the_standard():
    for table in TABLES:
        if table is not status.MPPS_STATUSES:  # 0110 is two: a fault, and with an Error ID a step that is over
            assert len({entry.code for entry in table}) == len(table)
    for entry in (*status.STATUSES, *status.FIND_STATUSES, *status.MPPS_STATUSES):
        if entry.clause == "PS3.4 C.4.1.1.4" and entry.code >> 8 in {0xFE, 0xFF}:
            assert entry.code in {0xFE00, 0xFF00, 0xFF01}
        elif entry.clause == "PS3.7 C.3":  # general warnings
            assert entry.code >> 12 == 0xB
        elif entry.clause.startswith("PS3.4") and entry is not status.STEP_IS_OVER:  # PS3.4 table B.2-1
            assert entry.code == 0 or entry.code >> 8 in {0xA7, 0xA9} or entry.code >> 12 == 0xC
        else:
            assert 0x0100 <= entry.code < 0x0300
        assert entry.meaning
        assert entry.when


def test_every_status_constant_is_in_the_table():
    named = {value for value in vars(status).values() if isinstance(value, status.Status)}
    assert named == {entry for table in TABLES for entry in table}
