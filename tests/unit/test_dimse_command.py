"""Command sets (PS3.7 6.3.1, E.1)."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import dcmread
from pynetdicom import dimse_messages
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode as net_encode

from pacs.dimse.command import (
    AFFECTED_SOP_CLASS,
    AFFECTED_SOP_INSTANCE,
    C_STORE_RQ,
    decode,
    encode,
    response,
)
from pacs.dimse.wire import INVALID_PARAMETER, ProtocolError

STORE = encode({0x0002: b"1.2.840.10008.5.1.4.1.1.2", 0x0100: 1, 0x0110: 41, 0x0700: 0, 0x0800: 0, 0x1000: b"1.2.3"})


def _element(number: int, value: bytes, group: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<HHI", group, number, len(value) if length is None else length) + value


def test_a_store_request_is_read():
    command = decode(5, STORE)
    assert (command.context_id, command.field, command.message_id, command.has_data_set) == (5, C_STORE_RQ, 41, True)
    assert command.uid(AFFECTED_SOP_CLASS) == "1.2.840.10008.5.1.4.1.1.2"
    assert command.uid(AFFECTED_SOP_INSTANCE) == "1.2.3"
    assert command.uid(0x1001) == ""


def test_what_pynetdicom_encodes_is_read():
    primitive = C_STORE()
    primitive.MessageID = 65535
    primitive.AffectedSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    primitive.AffectedSOPInstanceUID = "1.2.3.4"
    primitive.Priority = 1
    primitive.DataSet = BytesIO(b"\0\0")
    message = dimse_messages.C_STORE_RQ()
    message.primitive_to_message(primitive)
    command = decode(1, net_encode(message.command_set, is_implicit_vr=True, is_little_endian=True))
    assert (command.field, command.message_id, command.has_data_set) == (C_STORE_RQ, 65535, True)
    assert command.uid(AFFECTED_SOP_INSTANCE) == "1.2.3.4"


def test_pydicom_reads_the_response():
    body = response(decode(1, STORE), 0xA700, "away \\ full, ă")
    read = dcmread(BytesIO(body), force=True)
    assert read.CommandGroupLength == len(body) - 12
    assert read.CommandField == 0x8001
    assert read.MessageIDBeingRespondedTo == 41
    assert read.CommandDataSetType == 0x0101
    assert read.Status == 0xA700
    assert read.ErrorComment == "away / full, ?"
    assert (read.AffectedSOPClassUID, read.AffectedSOPInstanceUID) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")


def test_an_error_comment_is_cut_at_64_characters():
    read = dcmread(BytesIO(response(decode(1, STORE), 0xC000, "x" * 100)), force=True)
    assert read.ErrorComment == "x" * 64


def test_bytes_that_are_no_uid_are_given_back_as_they_came():
    request = decode(1, encode({0x0002: b"1.2", 0x0100: 1, 0x0110: 1, 0x0800: 0, 0x1000: b"../\xff\x01/x"}))
    assert request.uid(AFFECTED_SOP_INSTANCE) == "../\\xff\x01/x"
    assert b"../\xff\x01/x" in response(request, 0x0117)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (STORE[:-3], "bad element"),
        (STORE[:-9], "within an element"),
        (STORE + _element(0x0010, b"", group=8), "0008"),  # not a command element
        (STORE + _element(0x0110, b"\1\0"), "0110"),  # out of order
        (STORE + STORE, "0000"),  # twice
        (_element(0x0100, b"\1\0", length=0xFFFFFFFF), "bad element"),
        (b"", "0100"),
        (encode({0x0100: 1, 0x0800: 0}), "0110"),  # no message id
        (encode({0x0100: 1, 0x0110: 1}), "0800"),
        (encode({0x0100: b"\1\0\0\0", 0x0110: 1, 0x0800: 0}), "0100"),  # two values
    ],
)
def test_a_malformed_command_set_breaks_the_protocol(broken: bytes, says: str):
    with pytest.raises(ProtocolError, match=says) as raised:
        decode(1, broken)
    assert raised.value.reason == INVALID_PARAMETER


def test_a_cancel_needs_no_message_id():
    assert decode(1, encode({0x0100: 0x0FFF, 0x0120: 3, 0x0800: 0x0101})).message_id == 0


@given(st.binary(max_size=200))
def test_garbage_is_read_or_refused_but_nothing_else(garbage: bytes):
    try:
        command = decode(1, garbage)
    except ProtocolError:
        return
    assert 0 <= command.field <= 0xFFFF


@given(
    st.dictionaries(
        st.integers(1, 0xFFFF).filter(lambda n: n not in {0x0100, 0x0110, 0x0800}), st.binary(max_size=20), max_size=8
    )
)
def test_what_is_encoded_is_decoded(values: dict[int, bytes]):
    command = decode(1, encode({**values, 0x0100: 0x20, 0x0110: 9, 0x0800: 1}))
    padded = {n: v + b"\0" * (len(v) % 2) for n, v in values.items()}
    assert {n: command.elements[n] for n in values} == padded
