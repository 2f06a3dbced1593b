"""A value of a stored data set by its place, as the addresses in our metadata name it."""

from __future__ import annotations

from pacs.dicomjson import little_endian
from pacs.elements import PIXEL_TAGS, DataSet, Element, inflated, read_header
from pacs.frames import Range
from pacs.scan import DEFLATED
from storage.errors import InvalidDataSet
from storage.objects import ObjectStore
from storage.retrieval import StoredInstance

__all__ = ["find"]


def find(store: ObjectStore, instance: StoredInstance, place: str) -> Range | bytes | None:
    """Where the value lies in the object, or its bytes if they differ from those; None where there is none.

    Args:
        store: where its bytes are.
        instance: of which data set.
        place: tag in hexadecimal digits, or tag/item/tag with items of sequences counted from 0.

    Raises:
        InvalidDataSet: the data set cannot be read so far.
        ObjectStoreUnavailable, NotFound: of the store.
    """
    steps = place.split("/")
    data_set, elements = read_header(store, instance)
    for tag, item in zip(steps[::2], steps[1::2], strict=False):
        sequence = _by_tag(elements, tag)
        inside = _item(data_set, sequence, int(item)) if sequence is not None and sequence.vr == "SQ" else None
        if inside is None:
            return None
        data_set, elements = inside, list(inside.elements())
    found = _by_tag(elements, steps[-1])
    if found is None or found.undefined or found.end <= found.start:
        return None
    if data_set.big_endian and found.vr in ("OW", "OF", "OL", "OD", "OV"):
        size = found.end - found.start
        value = store.read(instance.object_key, found.start, size)
        return little_endian(value, found.vr)
    if instance.transfer_syntax in DEFLATED:
        pixels = found.tag in PIXEL_TAGS and len(steps) == 1  # which the header does not reach
        return (inflated(store, instance) if pixels else data_set.data)[found.start : found.end]
    if found.end > instance.object_size:
        raise InvalidDataSet("the value is cut off")
    return Range(found.start, found.end - found.start)


def _by_tag(elements: list[Element], tag: str) -> Element | None:
    number = int(tag, 16)
    return next((one for one in elements if one.tag == number), None)


def _item(data_set: DataSet, sequence: Element, number: int) -> DataSet | None:
    return next((item for at, item in enumerate(data_set.items(sequence)) if at == number), None)
