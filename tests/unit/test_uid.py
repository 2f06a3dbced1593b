import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidUID
from storage.uid import UID, InstanceUID, SeriesUID, StudyUID


@pytest.mark.parametrize("value", ["1.2.3", "0", "2.25." + "9" * 59, "1.0.1", "1.2.3\0", "1.2.3  "])
def test_valid_uids_are_taken_and_padding_goes(value: str) -> None:
    assert UID(value) == value.rstrip("\0 ")


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "1.",
        ".1",
        "1..2",
        "1.02",
        "01.2",
        "1.2a",
        "../../x",
        "1.2/../3",
        "1" * 65,
        "1.2\n",
        "١.٢",
        "1.2\0.3",
        " 1.2",
    ],
)
def test_invalid_uids_are_refused(value: str) -> None:
    with pytest.raises(InvalidUID, match=r"PS3\.5 9\.1"):
        UID(value)


def test_a_refusal_shows_no_raw_bytes_and_no_endless_text() -> None:
    with pytest.raises(InvalidUID) as refused:
        StudyUID("\x1b[31m" + "x" * 10_000)
    assert len(str(refused.value)) < 200
    assert "\x1b" not in str(refused.value)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=4))
def test_a_valid_uid_is_its_own_text(components: list[int]) -> None:
    text = ".".join(map(str, components))
    for kind in (StudyUID, SeriesUID, InstanceUID):
        assert kind(text) == text
        assert isinstance(kind(text), kind)
