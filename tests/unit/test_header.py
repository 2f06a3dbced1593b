"""The header scanner, PS3.5 7: whatever shape a data set has, the same few values come out."""

from __future__ import annotations

import datetime as dt
import sys
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from elements import BIG, DEFLATED, EXPLICIT, IMPLICIT, ROOT, UNDEFINED, data_set, element, head, sequence

from pacs.header import HeaderReader, read_header
from storage.errors import InvalidDataSet
from storage.received import RequestAttributes

SYNTAXES = [EXPLICIT, IMPLICIT, BIG]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_plain_data_set_in_every_byte_order(syntax: str) -> None:
    header = read_header(data_set(syntax, pixels=bytes(100)), syntax)
    assert (header.sop_uid, header.study_uid, header.series_uid) == (f"{ROOT}.3.1", f"{ROOT}.1.1", f"{ROOT}.2.1")
    assert (header.modality, header.rows, header.columns, header.instance_number) == ("CT", 512, 256, 7)
    assert header.transfer_syntax == syntax


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pieces_of_any_size_give_the_same_header(syntax: str, size: int) -> None:
    data = data_set(syntax) + element(0x00091010, "UN", bytes(30_000), syntax)
    data = (
        element(0x00080005, "CS", "ISO_IR 100", syntax)
        + sequence(0x00081111, b"", undefined=True, syntax=syntax)
        + data
    )
    reader = HeaderReader(syntax)
    for start in range(0, len(data), size):
        reader.feed(memoryview(data)[start : start + size])
    assert reader.header() == read_header(data, syntax)


def test_it_is_done_behind_the_last_wanted_element_and_not_before() -> None:
    reader = HeaderReader(EXPLICIT)
    assert not reader.feed(data_set())
    assert reader.study_uid() == f"{ROOT}.1.1"
    assert reader.feed(head(0x7FE00010, "OW", UNDEFINED))


def test_a_value_at_the_very_end_of_the_data_set_is_read() -> None:
    assert read_header(data_set(t00280100=b"US\x10\x00"), EXPLICIT).bits_allocated == 16


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_nothing_inside_sequences_is_taken_for_the_data_set_itself(syntax: str, *, undefined: bool) -> None:
    item = element(0x00080018, "UI", "9.9.9", syntax) + element(0x00100020, "LO", "OTHER", syntax)
    nested = sequence(
        0x00082112,
        item,
        sequence(0x00082112, item, undefined=undefined, syntax=syntax),
        undefined=undefined,
        syntax=syntax,
    )
    data = sequence(0x00081111, item, nested, item, undefined=undefined, syntax=syntax) + data_set(syntax)
    header = read_header(data, syntax)
    assert (header.sop_uid, header.patient_id) == (f"{ROOT}.3.1", "P1")


def test_an_unknown_sequence_of_undefined_length_is_implicit_inside() -> None:
    """PS3.5 6.2.2 note 2; the length 0x5643 = 'CV' inside must not be taken for a VR."""
    item = element(0x00080018, "UI", "9.9.9", IMPLICIT) + element(0x00091011, "", bytes(0x5653), IMPLICIT)
    data = sequence(0x00091010, item, undefined=True, vr="UN") + data_set()
    assert read_header(data, EXPLICIT).sop_uid == f"{ROOT}.3.1"


def test_encapsulated_pixels_in_a_private_icon_do_not_stop_the_scan() -> None:
    icon = head(0x7FE00010, "OB", UNDEFINED) + head(0xFFFEE000, "", 4) + b"\xff\xd8\xff\xd9" + head(0xFFFEE0DD, "", 0)
    data = sequence(0x00091010, icon, undefined=True) + data_set()
    assert read_header(data, EXPLICIT).rows == 512


def test_a_giant_private_element_before_the_wanted_tags_costs_no_memory() -> None:
    reader = HeaderReader(EXPLICIT)
    reader.feed(head(0x00091010, "OB", 64 << 20))
    chunk = bytes(1 << 20)
    for _ in range(64):
        assert not reader.feed(chunk)
    reader.feed(data_set())
    assert reader.header().sop_uid == f"{ROOT}.3.1"


def test_elements_out_of_order_are_found() -> None:
    late = element(0x0020000D, "UI", "1.2.3")
    data = data_set(t0020000D=b"UI") + element(0x7FE00010, "OW", bytes(64)) + late
    with pytest.raises(InvalidDataSet, match=r"Study Instance UID \(0020,000D\) is missing"):
        read_header(data, EXPLICIT)  # sent, but empty: the first one counts
    data = (
        data_set().replace(element(0x0020000D, "UI", f"{ROOT}.1.1"), b"") + element(0x7FE00010, "OW", bytes(64)) + late
    )
    assert read_header(data, EXPLICIT).study_uid == "1.2.3"


@pytest.mark.parametrize(("said", "sent"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT)])
def test_a_transfer_syntax_that_lies_about_the_vr(said: str, sent: str) -> None:
    assert read_header(data_set(sent), said).columns == 256


def test_a_vr_of_a_later_edition_has_a_long_length() -> None:
    unknown = b"\x09\x00\x10\x10ZZ\0\0\x06\0\0\0abcdef"
    assert read_header(unknown + data_set(), EXPLICIT).sop_uid == f"{ROOT}.3.1"


def test_a_single_element_without_vr_in_explicit_vr() -> None:
    stray = element(0x00081115, "", b"abcd", IMPLICIT)
    data = element(0x00080005, "CS", "ISO_IR 100") + stray + data_set()
    assert read_header(data, EXPLICIT).sop_uid == f"{ROOT}.3.1"


def test_deflated(recwarn: pytest.WarningsRecorder) -> None:
    packer = zlib.compressobj(wbits=-15)
    data = packer.compress(data_set(pixels=bytes(50_000))) + packer.flush()
    assert read_header(data, DEFLATED).rows == 512
    with pytest.raises(InvalidDataSet, match="cannot be inflated"):
        read_header(b"\xff" * 100, DEFLATED)


def test_a_deflated_bomb_is_put_down() -> None:
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(head(0x00091010, "OB", 1 << 31))
    bomb += b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    reader = HeaderReader(DEFLATED)
    assert reader.feed(bomb)
    with pytest.raises(InvalidDataSet, match="missing"):
        reader.header()


def test_an_endless_run_of_tiny_elements_is_given_up() -> None:
    reader = HeaderReader(EXPLICIT)
    chunk = element(0x00091010, "CS", "") * 10_000
    assert any(reader.feed(chunk) for _ in range(11))


@pytest.mark.parametrize("undefined", [True, False])
def test_other_patient_ids_of_the_list_and_of_the_sequence(*, undefined: bool) -> None:
    """(0010,1000) is retired but sent; (0010,1002) replaces it."""
    item = element(0x00100020, "LO", "B2") + element(0x00100021, "LO", "issuer of B2")
    ids = sequence(0x00101002, item, element(0x00100020, "LO", "C3"), undefined=undefined)
    base = data_set(t00101000=b"LOA1\\B2")
    at = base.index(element(0x0020000D, "UI", f"{ROOT}.1.1"))
    data = base[:at] + ids + base[at:]
    for size in (len(data), 9):
        reader = HeaderReader(EXPLICIT)
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
        header = reader.header()
        assert header.other_patient_ids == ("A1", "B2", "C3")
        assert (header.patient_id, header.issuer, header.study_uid) == ("P1", "", f"{ROOT}.1.1")


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        ("t00080018", b"UI../../etc", r"SOP Instance UID \(0008,0018\) is invalid"),
        ("t0020000D", b"UI1..2", r"Study Instance UID \(0020,000D\) is invalid"),
        ("t0020000E", b"UI", r"Series Instance UID \(0020,000E\) is missing"),
        ("t0020000E", b"UI  ", r"Series Instance UID \(0020,000E\) is missing"),
        ("t00080016", b"UI1.02", r"SOP Class UID \(0008,0016\) is invalid"),
        ("t00080018", b"UI" + b"1" * 65, "is not a valid UID"),
        ("t00080018", b"UI1.2\\1.3", "is not a valid UID"),
        ("t00080018", b"UI1.2\xb2", "is not a valid UID"),
    ],
)
def test_uids_that_are_missing_or_invalid(tag: str, value: bytes, message: str) -> None:
    with pytest.raises(InvalidDataSet, match=message):
        read_header(data_set(**{tag: value}), EXPLICIT)


@pytest.mark.parametrize(
    ("value", "date"),
    [
        (b"DA20240229", dt.date(2024, 2, 29)),
        (b"DA2024.02.29", dt.date(2024, 2, 29)),
        (b"DA20240229\0", dt.date(2024, 2, 29)),
        (b"DA20230229", None),
        (b"DA00000000", None),
        (b"DA202402", None),
        (b"DA2024022\xb2", None),
        (b"DA", None),
    ],
)
def test_dates(value: bytes, date: dt.date | None) -> None:
    assert read_header(data_set(t00080020=value), EXPLICIT).study_date == date


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"IS 12 ", 12),
        (b"IS-3", -3),
        (b"IS0", 0),
        (b"IS1\\2", 1),
        (b"IS1.5", None),
        (b"IS99999999999", None),
        (b"IS" + b"1" * 13, None),
        (b"ISx", None),
    ],
)
def test_integer_strings(value: bytes, number: int | None) -> None:
    assert read_header(data_set(t00200011=value), EXPLICIT).series_number == number


@pytest.mark.parametrize(
    ("value", "rows"), [(b"US\x00\x02", 512), (b"UL\x00\x02\0\0", 512), (b"UL\xff\xff\xff\xff", None), (b"US", None)]
)
def test_numbers(value: bytes, rows: int | None) -> None:
    assert read_header(data_set(t00280010=value), EXPLICIT).rows == rows


def test_text_is_cleaned_so_that_a_database_can_hold_it() -> None:
    header = read_header(data_set(t00081030=b"LO a\0b\x07c\t ", t00200010=b"SH" + b"x" * 1000), EXPLICIT)
    assert header.study_description == "abc"
    assert header.study_id == "x" * 256


def test_a_value_too_long_to_be_meant_is_passed_over() -> None:
    data = element(0x00080050, "UN", bytes(100_000)) + data_set()
    header = read_header(data, EXPLICIT)
    assert (header.accession_number, header.sop_uid) == ("", f"{ROOT}.3.1")


def test_laterality_of_the_series_before_that_of_the_image() -> None:
    assert read_header(data_set(t00200062=b"CSL"), EXPLICIT).laterality == "L"
    assert read_header(data_set(t00200060=b"CSR", t00200062=b"CSL"), EXPLICIT).laterality == "R"


def test_requested_priority_from_either_place() -> None:
    assert read_header(data_set(t0032000C=b"CSHIGH"), EXPLICIT).requested_priority == "HIGH"
    assert read_header(data_set(t0032000C=b"CSLOW", t00401003=b"SHSTAT"), EXPLICIT).requested_priority == "STAT"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Nguyễn^Văn An", "Nguyễn^Văn An"),
        ("Nguyễn^An^^^", "Nguyễn^An"),
        ("Wang^XiaoDong=王^小東=", "Wang^XiaoDong=王^小東"),
        ("A^B^^==か^な", "A^B==か^な"),
        ("A=B=C=D", "A=B=C"),
        ("==", ""),
        (" A^B ", "A^B"),
    ],
)
def test_person_names_keep_three_groups_without_empty_ends(name: str, expected: str) -> None:
    """PS3.5 6.2.1."""
    data = element(0x00080005, "CS", "ISO_IR 192") + data_set(t00100010=b"PN" + name.encode())
    assert read_header(data, EXPLICIT).patient_name == expected


REQUESTED = (RequestAttributes("SPS0", "RP0", "A0"), RequestAttributes("SPS1", "RP1", "A1"))


def requests(syntax: str, *, undefined: bool, count: int = 2, vr: str = "SQ") -> bytes:
    """A Request Attributes Sequence with codes inside, which name an accession number of their own."""
    inner = IMPLICIT if vr == "UN" else syntax
    code = element(0x00080050, "SH", "WRONG", inner) + element(0x00080104, "LO", "meaning " * 6, inner)
    items = [
        element(0x00080050, "SH", f"A{n}", inner)
        + sequence(0x00400008, code, undefined=undefined, syntax=inner)
        + element(0x00400009, "SH", f"SPS{n}", inner)
        + element(0x00401001, "SH", f"RP{n}", inner)
        for n in range(count)
    ]
    return sequence(0x00400275, *items, undefined=undefined, syntax=syntax, vr=vr)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_requests_that_a_series_answers(syntax: str, size: int, *, undefined: bool) -> None:
    data = data_set(syntax) + requests(syntax, undefined=undefined) + element(0x00401003, "SH", "STAT", syntax)
    reader = HeaderReader(syntax)
    for start in range(0, len(data), size):
        reader.feed(memoryview(data)[start : start + size])
    header = reader.header()
    assert header.request_attributes == REQUESTED
    assert (header.requested_priority, header.accession_number) == ("STAT", "")


@pytest.mark.parametrize("undefined", [True, False])
def test_requests_of_unknown_vr_are_implicit_inside(*, undefined: bool) -> None:
    data = data_set() + requests(EXPLICIT, undefined=undefined, vr="UN") + element(0x00401003, "LO", "STAT")
    header = read_header(data, EXPLICIT)
    assert (header.request_attributes, header.requested_priority) == (REQUESTED, "STAT")


def test_requests_in_the_character_set_of_the_data_set() -> None:
    item = element(0x00401001, "SH", "Ngực".encode())
    data = element(0x00080005, "CS", "ISO_IR 192") + data_set() + sequence(0x00400275, item, undefined=True)
    assert read_header(data, EXPLICIT).request_attributes == (RequestAttributes("", "Ngực", ""),)


@pytest.mark.parametrize(
    "broken",
    [
        head(0x00400275, "SQ", UNDEFINED),  # nothing behind it
        head(0x00400275, "SQ", UNDEFINED) + head(0xFFFEE000, "", 40) + b"short",
        head(0x00400275, "SQ", UNDEFINED) + head(0xFFFEE0DD, "", 0),  # without items
        head(0x00400275, "SQ", 6) + b"random",
        head(0x00400275, "SQ", 0),
        sequence(0x00400275, b"", undefined=False),  # an empty item
        sequence(0x00400275, element(0x00400009, "US", 7), undefined=False),  # not a text
        element(0x00400275, "LO", "a text"),
        sequence(0x00400275, *[element(0x00091010, "UN", bytes(500))] * 20, undefined=True),  # longer than is kept
    ],
)
def test_requests_that_cannot_be_read_are_none_and_fail_nothing(broken: bytes) -> None:
    header = read_header(data_set() + broken, EXPLICIT)
    assert (header.request_attributes, header.sop_uid) == ((), f"{ROOT}.3.1")


def test_what_comes_behind_requests_that_are_too_long_is_read() -> None:
    long = sequence(0x00400275, *[element(0x00091010, "UN", bytes(500))] * 20, undefined=True)
    assert read_header(data_set() + long + element(0x00401003, "SH", "STAT"), EXPLICIT).requested_priority == "STAT"


def test_no_more_requests_than_a_person_could_have_asked_for() -> None:
    items = [element(0x00400009, "SH", f"{n}") for n in range(200)]
    found = read_header(data_set() + sequence(0x00400275, *items, undefined=False), EXPLICIT).request_attributes
    assert [one.scheduled_step for one in found] == [str(n) for n in range(32)]
