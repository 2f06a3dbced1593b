"""What the DIMSE-N services have in common (PS3.7 10): a data set read whole, an answer that names the instance."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from pacs.dimse import command as dimse
from storage.errors import InvalidDataSet, ObjectTooLarge

if TYPE_CHECKING:
    from pacs.dimse.association import Association
    from pacs.dimse.command import Command
    from pacs.dimse.status import Status

__all__ = [
    "ACTION_TYPE", "EVENT_TYPE", "N_ACTION_RQ", "N_EVENT_REPORT_RQ", "REQUESTED_SOP_CLASS", "REQUESTED_SOP_INSTANCE",
    "answer", "decoded", "encoded", "receive",
]  # fmt: skip

N_EVENT_REPORT_RQ, N_ACTION_RQ = 0x0100, 0x0130
REQUESTED_SOP_CLASS, EVENT_TYPE, REQUESTED_SOP_INSTANCE, ACTION_TYPE = 0x0003, 0x1002, 0x1001, 0x1008
_NO_DATA_SET = 0x0101


def receive(association: Association, request: Command, limit_bytes: int) -> Dataset:
    """The data set of a request, in memory; an empty one where none came.

    Raises:
        ObjectTooLarge: it has more than `limit_bytes`.
        InvalidDataSet: it cannot be read.
    """
    if not request.has_data_set:
        return Dataset()
    too_long = ObjectTooLarge(f"The data set is longer than {limit_bytes} bytes")
    data = association.read_data(request, limit_bytes, too_long)
    return decoded(data, association.context(request).transfer_syntax)


def decoded(data: bytes | bytearray, transfer_syntax: str) -> Dataset:
    """The data set that these bytes are, all of it looked at; raises `InvalidDataSet`."""
    syntax = UID(transfer_syntax)
    try:
        found = read_dataset(BytesIO(data), syntax.is_implicit_VR, syntax.is_little_endian)
        found.walk(lambda _, __: None)  # elements are decoded when they are looked at: do so now, sequences too
    except Exception as error:  # pydicom lets struct, value, key and recursion errors of garbage through
        raise InvalidDataSet(f"The data set cannot be read: {type(error).__name__}") from error
    return found


def encoded(dataset: Dataset, transfer_syntax: str) -> bytes:
    """The data set in an uncompressed transfer syntax."""
    syntax, out = UID(transfer_syntax), DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(out, dataset)
    return out.getvalue()


def answer(
    association: Association,
    request: Command,
    status: Status,
    comment: str = "",
    *,
    extra: Mapping[int, int | bytes] | None = None,
) -> None:
    """Answer without a data set; Requested comes back as Affected (PS3.7 10.1.4, 10.3.4). `extra`: more elements."""
    association.drop_data()
    elements: dict[int, int | bytes] = {
        dimse.COMMAND_FIELD: request.field | dimse.RESPONSE,
        dimse.RESPONDED_TO: request.message_id,
        dimse.DATA_SET_TYPE: _NO_DATA_SET,
        dimse.STATUS: status.code,
    }
    for element, asked in (
        (dimse.AFFECTED_SOP_CLASS, REQUESTED_SOP_CLASS),
        (dimse.AFFECTED_SOP_INSTANCE, REQUESTED_SOP_INSTANCE),
        (ACTION_TYPE, ACTION_TYPE),
        (EVENT_TYPE, EVENT_TYPE),
    ):
        value = request.elements.get(element) or request.elements.get(asked)
        if value:
            elements[element] = value
    if comment:
        elements[dimse.ERROR_COMMENT] = (
            comment.encode("ascii", "replace").replace(b"\\", b"/")[:64].ljust(2 * ((min(len(comment), 64) + 1) // 2))
        )
    association.send(request.context_id, dimse.encode({**elements, **(extra or {})}))
