"""What a client accepts (RFC 9110 12.5.1, PS3.18 8.7.5)."""

from __future__ import annotations

import contextlib

import pytest
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st

from api.dicomweb.media import MediaRange, Offer, choose, parse_accept

DICOM, MANY = Offer("application/dicom"), Offer("application/dicom", multipart=True)
JSON = Offer("application/dicom+json", aliases=("application/json",))
OFFERS = (MANY, DICOM, JSON)


def chosen(accept: str, offers: tuple[Offer, ...] = OFFERS) -> tuple[Offer, list[str]]:
    return choose(parse_accept(accept), offers)


@pytest.mark.parametrize(
    ("accept", "offer", "syntaxes"),
    [
        ("*/*", MANY, []),
        ("application/dicom", DICOM, []),
        ("application/*", DICOM, []),
        ("application/json", JSON, []),
        ("APPLICATION/DICOM", DICOM, []),
        ('multipart/related; type="application/dicom"', MANY, []),
        ("multipart/related; type=application/dicom; transfer-syntax=*", MANY, ["*"]),
        ('multipart/related;type="application/dicom";transfer-syntax="1.2.3"', MANY, ["1.2.3"]),
        ("multipart/related", MANY, []),
        ("multipart/*", MANY, []),
        (
            "application/dicom; transfer-syntax=1.2; q=0.2, application/dicom; transfer-syntax=1.3",
            DICOM,
            ["1.3", "1.2"],
        ),
        ("image/png, application/dicom;q=0.1", DICOM, []),
        ("application/dicom+json;q=0.5, application/dicom;q=0.9", DICOM, []),
        ("*/*;q=0.1, application/dicom+json", JSON, []),
        ("multipart/related;q=0, */*", DICOM, []),
        ("nonsense, ;;;, application/dicom", DICOM, []),
        ('multipart/related; type="application/dicom"; x="a,b;c\\"", image/png', MANY, []),
    ],
)
def test_the_form_that_suits_best(accept: str, offer: Offer, syntaxes: list[str]) -> None:
    assert chosen(accept) == (offer, syntaxes)


@pytest.mark.parametrize(
    "accept", ["image/png", "application/dicom;q=0", "*/*;q=0", "nonsense", "multipart/related; type=image/png"]
)
def test_nothing_that_suits(accept: str) -> None:
    with pytest.raises(HTTPException) as refused:
        chosen(accept)
    assert refused.value.status_code == 406


@given(st.text(max_size=300))
def test_any_text_is_parsed(text: str) -> None:
    found = parse_accept(text)
    assert all(isinstance(one, MediaRange) and 0 <= one.quality <= 1 and "/" in one.kind for one in found)
    assert [one.quality for one in found] == sorted((one.quality for one in found), reverse=True)
    with contextlib.suppress(HTTPException):
        chosen(text)


KINDS = st.sampled_from(["application/dicom", "image/jpeg", "application/dicom+json", "*/*", "image/*"])
SYNTAXES = st.none() | st.sampled_from(["*", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80"])


@given(st.lists(st.tuples(KINDS, st.booleans(), SYNTAXES, st.integers(1, 1000)), max_size=10))
def test_what_is_written_is_read(members: list[tuple[str, bool, str | None, int]]) -> None:
    written = ", ".join(
        (f'multipart/related; type="{kind}"' if many else kind)
        + (f"; transfer-syntax={syntax}" if syntax else "")
        + f"; q={quality / 1000}"
        for kind, many, syntax, quality in members
    )
    best_first = sorted(members, key=lambda member: -member[3])
    assert [(one.kind, bool(one.multipart), one.syntax) for one in parse_accept(written)] == [
        (kind, many, syntax) for kind, many, syntax, _ in best_first
    ]


@given(st.integers(0, 100_000))
def test_a_long_field_costs_little(length: int) -> None:
    parse_accept('a/b;c="' + "\\" * length)
    assert len(parse_accept(",".join(["a/b"] * min(length, 5000)))) <= 64
