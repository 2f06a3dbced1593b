import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import names


@pytest.mark.parametrize(
    ("given_name", "folded"),
    [
        ("Nguyễn^Văn An", "nguyen van an"),
        ("NGUYEN^VAN AN", "nguyen van an"),
        (unicodedata.normalize("NFD", "Nguyễn^Văn An"), "nguyen van an"),
        ("Đỗ^Thị Hồng", "do thi hong"),
        ("O'Brien-Smith^Mary", "o brien smith mary"),
        ("Groß^Jürgen", "gross jurgen"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada tarou 山田 太郎 やまた たろう"),
        ("^^", ""),
        ("", ""),
    ],
)
def test_fold_drops_marks_case_and_punctuation(given_name: str, folded: str) -> None:
    assert names.fold(given_name) == folded


@given(st.text())
def test_folding_twice_changes_nothing_more(text: str) -> None:
    once = names.fold(text)
    assert names.fold(once) == once
    assert "  " not in once
    assert not set("^=\\") & set(once)


@given(st.text(min_size=1), st.sampled_from(["NFC", "NFD"]))
def test_composed_and_decomposed_text_have_one_key(text: str, form: str) -> None:
    assert names.fold(unicodedata.normalize(form, text)) == names.fold(text)  # type: ignore[arg-type]


def test_words_are_unique_and_come_from_all_groups() -> None:
    assert names.words("An^Van An=安^文=an^b") == ("an", "van", "安", "文", "b")


def test_words_are_limited_in_number_and_length() -> None:
    many = names.words(" ".join(f"w{n}" for n in range(1000)) + " " + "x" * 1000)
    assert len(many) == 32
    assert names.words("y" * 1000) == ("y" * 64,)


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("Nguyễn^Văn An", "Nguyễn Văn An"),
        ("Trần^Thị^Bích^BS^PhD", "BS Trần Thị Bích PhD"),
        ("=山田^太郎", "山田 太郎"),
        ("^^=^", ""),
        ("  A ^ B ", "A B"),
        ("A^B^C^D^E^F", "D A B C E"),
    ],
)
def test_display_writes_the_first_group_plainly(given_name: str, shown: str) -> None:
    assert names.display(given_name) == shown


@pytest.mark.parametrize(
    ("pattern", "found", "beginning"),
    [
        ("Nguyễn^Văn*", [("nguyen", True), ("van", False)], "nguyen van"),
        ("nguyen^*", [("nguyen", True)], "nguyen"),
        ("*an", [], ""),
        ("*an^binh", [("binh", True)], ""),
        ("Ng?yen van*", [("ng", False), ("van", False)], "ng"),
        ("an an", [("an", True), ("an", True)], ""),  # the same words are kept once
        ("=阮*", [("阮", False)], ""),
        ("Đỗ", [("do", True)], "do"),
        ("", [], ""),
    ],
)
def test_the_words_and_the_beginning_of_a_pattern(pattern: str, found: list[tuple[str, bool]], beginning: str):
    assert names.pattern_words(pattern) == found
    assert names.pattern_beginning(pattern) == beginning
