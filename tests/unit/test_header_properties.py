"""Whatever bytes come in, the header is read or refused with `InvalidDataSet`; never another error, never an attack."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from elements import BIG, DEFLATED, EXPLICIT, IMPLICIT, UNDEFINED, data_set, element, head

from pacs.charset import codecs_of, decode
from pacs.header import HeaderReader
from storage.errors import InvalidDataSet
from storage.received import InstanceHeader

SYNTAXES = st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED, "1.2.840.10008.1.2.4.70"])
TAGS = st.sampled_from(
    [
        0x00080005,
        0x00080018,
        0x00100010,
        0x00101002,
        0x0020000D,
        0x00280010,
        0x7FE00010,
        0xFFFEE000,
        0xFFFEE00D,
        0xFFFEE0DD,
    ]
)
VRS = st.sampled_from(["UI", "SQ", "UN", "OB", "PN", "US", "ZZ", "\0\0"])
PARTS = st.one_of(
    st.builds(head, TAGS, VRS, st.sampled_from([0, 1, 2, 8, 300])),
    st.builds(lambda tag, vr: head(tag, vr if vr in {"SQ", "UN", "OB"} else "SQ", UNDEFINED), TAGS, VRS),
    st.builds(element, TAGS, VRS, st.binary(max_size=40)),
    st.binary(max_size=20),
    st.just(data_set()),
)


def _read(pieces: list[bytes], syntax: str) -> InstanceHeader | str:
    reader = HeaderReader(syntax)
    try:
        for piece in pieces:
            reader.feed(piece)
        return reader.header()
    except InvalidDataSet as error:
        return str(error)


@given(st.lists(PARTS, max_size=30).map(b"".join), SYNTAXES, st.integers(1, 64))
@example(data_set(), EXPLICIT, 1)
@settings(max_examples=300, deadline=None)
def test_random_elements_never_crash_and_pieces_do_not_matter(data: bytes, syntax: str, size: int) -> None:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    whole = _read([data], syntax)
    assert _read(pieces, syntax) == whole
    if isinstance(whole, InstanceHeader):
        for name in InstanceHeader.__dataclass_fields__:
            value = getattr(whole, name)
            if isinstance(value, str):
                assert "\0" not in value
                value.encode()  # no lone surrogates


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x00080005, 0x00081030, 0x00100010, 0x00200011, 0x00080020, 0x00280010]),
            st.binary(max_size=80),
        )
    )
)
@settings(max_examples=200, deadline=None)
def test_no_text_number_or_date_makes_a_data_set_fail(values: list[tuple[int, bytes]]) -> None:
    data = b"".join(element(tag, "UN", value) for tag, value in values) + data_set()
    assert isinstance(_read([data], EXPLICIT), InstanceHeader)


@given(st.binary(max_size=60), st.binary(max_size=40))
def test_decoding_never_fails(raw: bytes, declared: bytes) -> None:
    assert isinstance(decode(raw, codecs_of(declared)), str)
