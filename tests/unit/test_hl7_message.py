"""HL7 messages: header, character sets, escapes; whatever comes is read or refused with a reason."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from hl7_client import Ack, message, order, orm, pid, segment

from pacs.hl7.acknowledgment import acknowledgment, wants_answer
from pacs.hl7.message import Failure, Message, header_of, parse


def read(data: bytes) -> Message:
    header = header_of(data)
    assert header is not None
    return parse(data, header)


def refusal(data: bytes) -> Failure:
    with pytest.raises(Failure) as caught:
        read(data)
    return caught.value


def test_fields_repetitions_components_and_parts():
    found = read(message("ADT^A08", segment("PID", {3: "1^^^A&1.2&ISO^MR~2^^^B", 5: "Lê^Văn"}), "ZZZ", "ZZ2|a"))
    (person,) = found.all("PID")
    assert [person.get(3, repetition=n) for n in person.repetitions(3)] == ["1", "2"]
    assert person.get(3, 4) == "A"
    assert person.get(3, 4, 2) == "1.2"
    assert person.get(3, 4, repetition=2) == "B"
    assert person.get(5, 2) == "Văn"
    assert person.get(5, 2, 2) == person.get(5, 9) == person.get(99) == person.get(3, repetition=7) == ""
    assert found.get("ZZ2", 1) == "a"
    assert found.get("NOT", 1) == ""
    assert found.header.kind == ("ADT", "A08")
    assert found.header.sender == "HIS|BVA"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (r"a\F\b\S\c\R\d\T\e\E\f", "a|b^c~d&e\\f"),
        (r"one\.br\two\.sp2\three", "one\ntwo\n\nthree"),
        (r"\H\bold\N\ \Z12\end", "bold end"),
        (r"\XE1BB85\ \Xzz\x", "ễ x"),
        (r"\.sp999999999\x", "\n" * 100 + "x"),
        (r"a lone \ stays", r"a lone \ stays"),
        (r"\C2842\x\M2842\y", "xy"),
    ],
)
def test_escape_sequences(raw: str, text: str):
    assert read(message("ADT^A08", segment("NTE", {3: f"-{raw}-"}))).get("NTE", 3) == f"-{text}-"


@pytest.mark.parametrize(
    ("charset", "codec", "name"),
    [
        ("UNICODE UTF-8", "utf-8", "Nguyễn^Văn Đức"),
        ("", "utf-8", "Nguyễn^Văn Đức"),  # undeclared, but it is nothing else
        ("", "latin-1", "Müller^Jörg"),
        ("ASCII", "ascii", "Nguyen^Van Duc"),
        ("8859/1", "latin-1", "Müller^Jörg"),
        ("8859/15", "iso8859-15", "Müller^€"),
        ("8859/5", "iso8859-5", "Иванов^Иван"),
        ("GB 18030-2000", "gb18030", "王^小东"),
        ("UNICODE UTF-8~8859/1", "utf-8", "Nguyễn^Văn Đức"),
        ("windows-1258", "cp1258", "Lê^Hà"),
    ],
)
def test_character_sets(charset: str, codec: str, name: str):
    data = message("ADT^A08", pid(name=name), charset=charset, codec=codec)
    family, given_name = name.split("^")
    assert (read(data).get("PID", 5), read(data).get("PID", 5, 2)) == (family, given_name)


def test_bytes_that_are_not_in_the_declared_set_are_refused():
    found = refusal(message("ADT^A08", pid(name="Müller"), charset="UNICODE UTF-8", codec="latin-1"))
    assert (found.code, found.number, found.location) == ("AE", 102, "MSH^1^18")


def test_line_ends_and_a_byte_order_mark_are_forgiven():
    data = message("ADT^A08", pid())
    for changed in (data.replace(b"\r", b"\n"), data.replace(b"\r", b"\r\n"), b"\xef\xbb\xbf" + data, b"\n " + data):
        assert read(changed).get("PID", 8) == "M"


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (message("", pid()), 101),
        (message("ADT^A08", pid(), control=" "), 101),
        (message("ADT^A08", pid(), processing="T"), 202),
        (message("ADT^A08", pid(), version="3.0"), 203),
        (message("ADT^A08", pid(), charset="EBCDIC"), 103),
        (message("ADT^A08", pid()).replace(b"^~\\&", b"^^\\&"), 102),
        (message("ADT^A08", pid()).replace(b"^~\\&", b"^~"), 102),
        (message("ADT^A08", pid(name="A\0B")), 102),
        (message("ADT^A08", segment("NTE", {3: "|" * 60_000})), 207),
    ],
)
def test_what_cannot_be_taken_is_refused_with_a_code(data: bytes, number: int):
    assert refusal(data).number == number
    assert refusal(data).code == "AR"


@pytest.mark.parametrize("data", [b"", b"hello", b"MSH", b"PID|1", b"MSHx^~\\&|", b"MSH\r\r", b"\x00" * 20])
def test_without_a_header_there_is_none(data: bytes):
    assert header_of(data) is None


@given(st.binary(max_size=300))
def test_garbage_behind_a_header_is_read_or_refused(tail: bytes):
    data = message("ORM^O01", charset="") + tail
    with contextlib.suppress(Failure):
        for each in read(data).segments:
            assert isinstance(each.get(3, 2, 2), str)


@given(st.text(alphabet='MSHPIDORCOBR|^~\\&\r\n012 "é', max_size=300))
def test_shapes_of_messages_are_read_or_refused(text: str):
    data = ("MSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5\r" + text).encode()
    with contextlib.suppress(Failure):
        found = read(data)
        assert next(each.name for each in found.segments) == "MSH"
        assert all(isinstance(each.get(3, 1, 2, repetition=2), str) for each in found.segments)


# ---- acknowledgments


def acked(data: bytes, failure: Failure | None = None, text: str = "") -> Ack:
    return Ack(acknowledgment(header_of(data), text, failure))


def test_an_acknowledgment_goes_back_to_who_sent():
    ack = acked(message("ORM^O01", control="77"), text="order 1 placed")
    assert (ack.code, ack.field("MSA", 2), ack.reason) == ("AA", "77", "order 1 placed")
    assert [ack.field("MSH", n) for n in (3, 4, 5, 6)] == ["SANGLOC", "SANGLOC", "HIS", "BVA"]
    assert ack.field("MSH", 9) == "ACK^O01^ACK"
    assert ack.field("MSH", 12) == "2.5"
    assert "ERR" not in ack.rows


def test_a_refusal_says_where_and_why():
    failure = Failure("AE", 101, "A | is in the text", "PID^1^5")
    ack = acked(message("ADT^A08"), failure)
    assert (ack.code, ack.error, ack.field("ERR", 2), ack.field("ERR", 4)) == ("AE", "101", "PID^1^5", "E")
    assert ack.reason == r"A \F\ is in the text"
    old = acked(message("ADT^A08", version="2.3.1"), failure)
    assert old.field("ERR", 1) == "PID^1^5^101&Required field missing&HL70357"


def test_nobody_in_particular_is_answered_too():
    ack = acked(b"nonsense", Failure("AR", 100, "no MSH"))
    assert (ack.code, ack.field("MSA", 2)) == ("AR", "")


@pytest.mark.parametrize(
    ("accept", "application", "code"),
    [("AL", "NE", "CA"), ("AL", "", "CA"), ("", "AL", "AA"), ("", "", "AA"), ("AL", "AL", "AA")],
)
def test_enhanced_mode(accept: str, application: str, code: str):
    data = orm().replace(b"|P|2.5||||||", f"|P|2.5|||{accept}|{application}||".encode())
    assert acked(data).code == code


def test_who_wants_no_answer_gets_none():
    header = header_of(orm().replace(b"|P|2.5||||||", b"|P|2.5|||NE|NE||"))
    assert header is not None
    assert not wants_answer(header)


def test_foreign_separators_come_back():
    data = message("ORM^O01", *order()).replace(b"|", b"!").replace(b"^~\\&", b"@~\\&").replace(b"ORM^O01", b"ORM@O01")
    assert acknowledgment(header_of(data)).startswith(b"MSH!@~\\&!SANGLOC!")
    assert read(data).header.kind == ("ORM", "O01")


def test_what_is_given_back_keeps_its_bytes():
    data = message("ADT^A08", sender="BỆNH VIỆN")
    assert "BỆNH VIỆN".encode() in acknowledgment(header_of(data))
