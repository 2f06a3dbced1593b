"""Specific Character Set, PS3.3 C.12.1.1.2 and PS3.5 6.1.2, with the examples of PS3.5 annexes H to K."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from pacs.charset import NAME_DELIMITERS, codecs_of, decode


@pytest.mark.parametrize(
    ("declared", "raw", "text"),
    [
        (b"ISO_IR 192", "Nguyễn^Văn Đức".encode(), "Nguyễn^Văn Đức"),
        (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"ISO_IR 101", "Wałęsa".encode("iso8859-2"), "Wałęsa"),
        (b"ISO_IR 109", "Ħal".encode("iso8859-3"), "Ħal"),
        (b"ISO_IR 110", "Äneas^Rūdiņš".encode("iso8859-4"), "Äneas^Rūdiņš"),
        (b"ISO_IR 126", "Διονυσιος".encode("iso8859-7"), "Διονυσιος"),
        (b"ISO_IR 127", "قباني^لنزار".encode("iso8859-6"), "قباني^لنزار"),
        (b"ISO_IR 138", "שרון^דבורה".encode("iso8859-8"), "שרון^דבורה"),
        (b"ISO_IR 144", "Люкceмбypг".encode("iso8859-5"), "Люкceмбypг"),
        (b"ISO_IR 148", "Çavuşoğlu".encode("iso8859-9"), "Çavuşoğlu"),
        (b"ISO_IR 166", "นามสกุล".encode("tis_620"), "นามสกุล"),
        (b"ISO_IR 203", "10 €".encode("iso8859-15"), "10 €"),
        (b"ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        (b"GBK", "王^小东".encode("gbk"), "王^小东"),
        (
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            b"ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        ),
        (
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        (
            b"\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
            "Zhang^XiaoDong=张^小东=",
        ),
        (b"ISO 2022 IR 100\\ISO 2022 IR 144", b"J\xe9r\xf4me^\x1b-L\xbb\xee\xda", "Jérôme^Люк"),
    ],
)
def test_declared_character_sets(declared: bytes, raw: bytes, text: str) -> None:
    assert decode(raw, codecs_of(declared), NAME_DELIMITERS) == text


@pytest.mark.parametrize("declared", [b"ISO-IR 192", b"ISO IR 192", b"ISO_IR_192", b"iso_ir 192 ", b"UTF-8", b"UTF8"])
def test_misspelt_terms_are_understood(declared: bytes) -> None:
    assert codecs_of(declared) == ("utf-8",)


def test_an_unknown_character_set_is_read_without_loss_and_logged_once() -> None:
    codecs_of.cache_clear()
    with capture_logs() as logs:
        for _ in range(3):
            text = decode(b"\xc1\xd2", codecs_of(b"KOI8-R"))
    assert text.encode("latin-1") == b"\xc1\xd2"
    assert [entry["character_set"] for entry in logs] == ["KOI8-R"]


@pytest.mark.parametrize(
    "declared", [b"ISO_IR 192", b"\\ISO 2022 IR 87", b"GB18030", b"ISO 2022 IR 13", b"\\ISO 2022 IR 149"]
)
def test_bytes_that_do_not_fit_are_read_as_latin_1(declared: bytes) -> None:
    raw = b"\xff\xfe\x80"
    assert decode(raw, codecs_of(declared)) == raw.decode("latin-1")


def test_nothing_declared_and_utf_8_sent() -> None:
    assert decode("Nguyễn^Ánh".encode(), codecs_of(b"")) == "Nguyễn^Ánh"
    assert decode(b"J\xe9r\xf4me", codecs_of(b"")) == "Jérôme"


def test_a_delimiter_brings_the_first_character_set_back() -> None:
    """PS3.5 6.1.2.5.3."""
    codecs = codecs_of(b"ISO 2022 IR 100\\ISO 2022 IR 144")
    assert decode(b"\x1b-L\xbb^\xe9", codecs, NAME_DELIMITERS) == "Л^é"


@pytest.mark.parametrize("raw", [b"\x1b", b"ab\x1b(", b"\x1b$", b"\x1b%Gx", b"\x1b$)"])
def test_cut_off_and_unknown_escape_sequences_lose_no_text(raw: bytes) -> None:
    text = decode(raw, codecs_of(b"ISO 2022 IR 100"))
    assert text.replace("\x1b", "") == raw.replace(b"\x1b", b"").decode()
