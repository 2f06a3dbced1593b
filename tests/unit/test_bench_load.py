"""The bench's query load: prepared bytes say what is meant, and the studies of a bench are counted right."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from pydicom.filereader import read_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bench.lean import FIND_STUDY, Answered, find_message, measure
from bench.query import COUNTS, KINDS, RETURNED, Study, finds, paths

STUDY = Study("BN1", "A1", "20260102", "Nguyễn^Văn An Bình")


def _parts(message: bytes) -> tuple[pydicom.Dataset, pydicom.Dataset]:
    """The command and the identifier of two P-DATA-TF PDUs."""
    found = []
    for flags in (3, 2):
        kind, length, pdv, context, given = struct.unpack_from(">BxIIBB", message)
        assert (kind, pdv, context, given) == (4, length - 4, 1, flags)
        body, message = message[12 : 6 + length], message[6 + length :]
        found.append(read_dataset(io.BytesIO(body), is_implicit_VR=True, is_little_endian=True))
    assert message == b""
    return found[0], found[1]


def test_a_find_message_is_a_request_with_its_identifier() -> None:
    command, identifier = _parts(find_message({0x00100010: STUDY.prefix}, RETURNED))
    assert (command.AffectedSOPClassUID, command.CommandField, command.MessageID) == (FIND_STUDY, 0x0020, 1)
    assert command.CommandDataSetType != 0x0101
    assert (identifier.QueryRetrieveLevel, identifier.PatientName) == ("STUDY", "Nguyễn^Văn An*")
    assert {element.tag for element in identifier} == {0x00080005, 0x00080052, *RETURNED}


@pytest.mark.parametrize("kind", KINDS)
def test_both_protocols_ask_the_same(kind: str) -> None:
    (path,), (message,) = paths([STUDY], KINDS[kind], limit="100"), finds([STUDY], KINDS[kind])
    (keyword,) = KINDS[kind](STUDY)
    asked = parse_qs(urlsplit(path.decode()).query)
    assert asked == {keyword: [str(_parts(message)[1][keyword].value)], "limit": ["100"]}


def test_recent_studies_are_asked_for_with_their_counts() -> None:
    (path,) = paths([STUDY], lambda _: {}, limit="100", **COUNTS)
    assert path == b"/dicom-web/studies?limit=100&includefield=00080061,00201206,00201208"


def test_percentiles_are_nearest_rank() -> None:
    answered = Answered([n / 1000 for n in range(1, 101)], 50)
    assert (answered.ms(50), answered.ms(95), answered.ms(100)) == (50, 95, 100)
    assert answered.detail()["answers_each"] == 0.5


def test_clients_ask_their_own_queries_after_one_to_warm_up() -> None:
    asked = measure(lambda: int, [["7", "1", "2"], ["7", "4"]], 10)
    assert (asked.answers, len(asked.times)) == (7, 3)


def test_a_client_that_fails_is_not_counted_as_an_answer() -> None:
    with pytest.raises(RuntimeError, match="ValueError"):
        measure(lambda: int, [["1", "x"], ["1", "2"]], 10)
