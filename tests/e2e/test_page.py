"""The worklist page in a real Chromium: both languages, keys, live changes, tokens, narrow screens, contrast."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from browser import Browser
from http_server import serving

from api.config import ApiConfig
from inference.eligibility import screen
from models.phantom import chest
from storage import worklist
from storage.database import Database
from storage.studies import InstanceHeader

ROWS = "[...document.querySelectorAll('#rows tr')]"
NAMES = f"{ROWS}.map((row) => row.querySelector('.patient strong').textContent)"


@pytest.fixture
def page(chromium: Browser) -> Browser:
    """The browser as new: English, a desk's screen, nothing in its log."""
    chromium.open("about:blank")
    chromium.wait_for("location.href === 'about:blank'")
    chromium.language("en-GB")
    chromium.size(1440, 900)
    chromium.call("Emulation.setEmulatedMedia", features=[])
    chromium.events.clear()
    return chromium


@pytest.fixture
def archive(database: Database, store: Any) -> Archive:
    """Three studies: flagged, waiting and not for the model; a worker is alive."""
    made = Archive(database, store)
    made.worker()
    flagged = made.add(
        chest(3, "pneumothorax", rows=256, columns=224),
        patient_name="Nguyễn^Thị Hồng Hạnh",
        patient_sex="F",
    )
    made.score(flagged, 0.93, due_min=20, Pneumothorax=0.88, Nodule=0.05)
    made.add(patient_name="Đỗ^Văn Đức", wait_min=100)
    made.add(
        patient_name="Smith^John",
        modality="CT",
        not_eligible="CT is not read by the model: only frontal chest radiographs are",
    )
    return made


@pytest.fixture
def address(archive: Archive) -> Iterator[str]:
    with serving(archive.database, archive.store) as served:
        yield served


def show(page: Browser, address: str, rows: int = 3) -> None:
    page.open(address)
    page.wait_for(f"{ROWS}.length === {rows}")


def test_the_list(page: Browser, address: str) -> None:
    show(page, address)
    assert page.evaluate(NAMES) == ["Nguyễn Thị Hồng Hạnh", "Đỗ Văn Đức", "Smith John"]
    assert page.evaluate("document.documentElement.lang") == "en"
    first, second, third = page.evaluate(f"{ROWS}.map((row) => row.innerText)")
    assert "Flagged 93%" in first
    assert "Suspected pneumothorax." in first
    assert "in 19 min" in first or "in 20 min" in first
    assert "waiting for the model" in second
    assert "CT is not read by the model" in third
    assert "not flagged is not a negative" in page.text().lower()
    assert "not a medical device" in page.text()
    assert page.evaluate("document.querySelector('#banner').hidden") is True
    page.wait_for("document.querySelector('#live').classList.contains('on')")
    assert [url for url in page.requested() if not url.startswith((address, "blob:", "about:", "data:image/"))] == []
    assert page.complaints() == []


def test_vietnamese_by_the_browser_and_by_the_switch(page: Browser, address: str) -> None:
    page.language("vi-VN")
    show(page, address)
    assert page.evaluate("document.documentElement.lang") == "vi"
    text = page.text()
    assert "Nghi tràn khí màng phổi." in text
    assert "Gắn cờ 93%" in text
    assert "Không gắn cờ không có nghĩa là âm tính." in text
    assert "Mô hình không đọc CT: chỉ đọc phim ngực thẳng" in text
    english = "Worklist|Flagged|Patient|Due|Arrived|Language"
    assert page.evaluate(f"!/\\b({english})\\b/.test(document.body.innerText)") is True
    page.evaluate("document.querySelector('[data-language=en]').click()")
    assert "Suspected pneumothorax." in page.text()
    show(page, address)  # the choice is kept against the browser's language
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modality": "CT"}, "mô hình không đọc CT: chỉ đọc phim ngực thẳng"),
        ({"modality": "", "sop_class": "1.2.3"}, "không ghi loại máy"),
        ({"sop_class": "1.2.3"}, "loại đối tượng này"),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "dữ liệu thô"),
        ({"rows": 0}, "không có ảnh"),
        ({"rows": 100}, "quá nhỏ để đọc: 2500 x 100 điểm ảnh"),
        ({"rows": 30_000}, "quá lớn để đọc: 2500 x 30000 điểm ảnh"),
        ({"frames": 2}, "2 khung hình"),
        ({"photometric": "RGB"}, "thang xám: RGB"),
        ({"bits_allocated": 32}, "32 bit"),
        ({"patient_age": "004Y"}, "dưới 16 tuổi"),
        ({"body_part": "KNEE"}, "vùng chụp KNEE"),
        ({"body_part": ""}, "không ghi vùng chụp và mô tả"),
        ({"body_part": "", "study_description": "Knee"}, "mô tả không nói là ngực"),
        ({"view_position": "LL"}, "phim nghiêng hoặc chếch (LL)"),
        ({"view_position": "PA LAT"}, "không rõ phim thẳng hay nghiêng (PA LAT)"),
    ],
)
def test_every_reason_for_which_no_model_reads_a_study_has_vietnamese_words(
    page: Browser, address: str, changes: dict[str, Any], told: str
) -> None:
    show(page, address)
    fields = {
        "sop_uid": "1.2.3", "study_uid": "1.2", "series_uid": "1.2.1", "transfer_syntax": "1.2.840.10008.1.2.1",
        "sop_class": "1.2.840.10008.5.1.4.1.1.1.1", "modality": "DX", "body_part": "CHEST", "view_position": "PA",
        "rows": 3000, "columns": 2500, "photometric": "MONOCHROME2", "bits_allocated": 16,
    }  # fmt: skip
    reason = screen(InstanceHeader(**{**fields, **changes}))
    shown = page.evaluate(f"import('/web/reasons.js').then((table) => table.reasonInVietnamese({json.dumps(reason)}))")
    assert told in shown


def test_no_text_calls_a_study_normal(page: Browser, archive: Archive, address: str) -> None:
    archive.score(archive.add(patient_name="Lê^Mai"), 0.02, Nodule=0.01)
    archive.score(archive.add(patient_name="Lê^Lan"), 0.6)
    show(page, address, rows=5)
    for language, flagged_only in (("en", "Abnormal to the model."), ("vi", "Mô hình thấy bất thường.")):
        page.evaluate(f"document.querySelector('[data-language={language}]').click()")
        assert flagged_only in page.text()
        text = page.text().lower().replace("abnormal", "")
        assert ("not flagged" if language == "en" else "không gắn cờ") in text
        for word in ("normal", "no finding", "healthy", "bình thường", "không có bất thường"):
            assert word not in text


def test_keys_open_read_and_undo(page: Browser, archive: Archive, address: str) -> None:
    show(page, address)
    page.press("j")
    page.press("Enter")
    page.wait_for("(document.querySelector('img.picture')?.naturalWidth ?? 0) === 224")
    detail = page.wait_for("document.querySelector('.scores table') && document.querySelector('#detail').innerText")
    for shown in ("Nguyễn Thị Hồng Hạnh", "chest_xray 0.1.0", "88%", "40%", "42 ms", "Original DICOM file"):
        assert shown in detail
    page.press("Escape")
    assert page.evaluate("document.querySelector('#detail').hidden") is True
    page.press("ArrowDown")
    page.press("k")
    page.press("r")
    page.wait_for(f"{ROWS}.length === 2")
    assert "Marked as read: Nguyễn Thị Hồng Hạnh" in page.evaluate("document.querySelector('#toast').innerText")
    page.press("u")
    page.wait_for(f"{ROWS}.length === 3")
    page.press("?")
    assert "mark as read" in page.evaluate("document.querySelector('dialog[open]').innerText")
    page.press("Escape")
    assert page.complaints() == []


def test_window_and_level_ask_for_a_new_picture(page: Browser, address: str) -> None:
    show(page, address)
    page.press("j")
    page.press("Enter")
    page.wait_for("(document.querySelector('img.picture')?.naturalWidth ?? 0) > 0")
    page.wait_for("document.querySelector('.sliders input').max > 0")
    before = page.evaluate("document.querySelector('img.picture').src")
    page.evaluate("{ const one = document.querySelector('.sliders input'); one.value = 500; one.oninput(); }")
    page.wait_for(f"document.querySelector('img.picture').src !== '{before}'")
    assert any("window_center=500" in url for url in page.requested())


def test_search_without_accents_and_by_id(page: Browser, address: str) -> None:
    show(page, address)
    page.press("/")
    page.type("do van duc")
    page.wait_for(f"{NAMES}.join() === 'Đỗ Văn Đức'")
    page.evaluate("document.querySelector('#filters').reset()")
    page.wait_for(f"{ROWS}.length === 3")
    page.evaluate("document.querySelector('[name=flagged]').click()")
    page.wait_for(f"{NAMES}.join() === 'Nguyễn Thị Hồng Hạnh'")
    page.evaluate("document.querySelector('[name=flagged]').click(); document.querySelector('#who').value = 'BN9'")
    page.evaluate("document.querySelector('#who').dispatchEvent(new Event('input', { bubbles: true }))")
    page.wait_for("!document.querySelector('#empty').hidden")
    assert "No study matches these filters." in page.text()


def test_changes_come_by_themselves(page: Browser, archive: Archive, address: str) -> None:
    show(page, address)
    page.wait_for("document.querySelector('#live').classList.contains('on')")
    page.evaluate("window.notReloaded = true")
    new = archive.add(patient_name="Trần^Thị Mới", wait_min=5)
    with archive.database.autocommit() as connection:
        worklist.announce(connection)
    page.wait_for(f"{NAMES}[0] === 'Trần Thị Mới'")
    archive.score(new, 0.99, Effusion=0.97)
    with archive.database.autocommit() as connection:
        worklist.announce(connection)
    page.wait_for(f"{ROWS}[0].innerText.includes('Suspected effusion.')")
    assert page.evaluate("window.notReloaded") is True


def test_arrival_order_is_said_loudly(page: Browser, archive: Archive, address: str) -> None:
    with archive.database.transaction() as connection:
        connection.execute("DELETE FROM workers")
    show(page, address)
    shown = page.wait_for("document.querySelector('#banner').hidden ? '' : document.querySelector('#banner').innerText")
    assert shown == "Models are not running: the list is in arrival order."


def test_more_is_loaded_on_request(page: Browser, archive: Archive, address: str) -> None:
    for number in range(60):
        archive.add(patient_name=f"Số^Thứ {number}", wait_min=200 + number)
    show(page, address, rows=50)
    page.evaluate("document.querySelector('#more').click()")
    page.wait_for(f"{ROWS}.length === 63")
    assert page.evaluate("document.querySelector('#more').hidden") is True


def test_a_token_is_asked_for_and_kept_for_the_tab(page: Browser, archive: Archive) -> None:
    config = ApiConfig(tokens={"dr.an": "a-secret-of-enough-characters"})
    with serving(archive.database, archive.store, config) as address:
        page.open(address)
        for secret in ("wrong", "a-secret-of-enough-characters"):
            page.wait_for("document.querySelector('#login')?.open")
            page.evaluate("document.querySelector('#token').focus()")
            page.type(secret)
            page.press("Enter")
            if secret == "wrong":
                page.wait_for("!document.querySelector('#login-wrong').hidden")
        page.wait_for(f"{ROWS}.length === 3")
        page.wait_for("document.querySelector('#live').classList.contains('on')")
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        assert page.evaluate("location.href") == f"{address}/"


def test_names_are_text_and_never_markup(page: Browser, archive: Archive, address: str) -> None:
    archive.add(patient_name="<i>Bold</i>", study_description="<img src=x onerror=window.bad=1>", wait_min=1)
    show(page, address, rows=4)
    assert page.evaluate(NAMES)[0] == "<i>Bold</i>"
    assert "<img src=x onerror=window.bad=1>" in page.text()
    assert page.evaluate("window.bad === undefined && document.querySelector('#rows :is(i, img)') === null") is True


@pytest.mark.parametrize("width", [360, 720])
def test_nothing_is_cut_off_on_narrow_screens_or_at_200_percent(page: Browser, address: str, width: int) -> None:
    page.size(width, 640, scale=2)
    show(page, address)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
    page.press("j")
    page.press("Enter")
    page.wait_for("!!document.querySelector('.scores table')")
    assert page.evaluate("document.querySelector('#detail').scrollWidth <= innerWidth") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page: Browser, address: str, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text."""
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    show(page, address)
    values = page.evaluate(
        "Object.fromEntries(['paper','card','ink','soft','accent','on-accent','tint','flag','flag-tint','late','soon','mono']"
        ".map((name) => [name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()]))"
    )

    def luminance(name: str) -> float:
        code = values[name].lstrip("#")
        code = code if len(code) == 6 else "".join(2 * digit for digit in code)
        parts = [int(code[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [
        *((text, ground) for text in ("ink", "soft", "late", "soon") for ground in ("card", "paper", "tint")),
        ("accent", "paper"), ("accent", "tint"), ("on-accent", "accent"), ("flag", "flag-tint"), ("soft", "mono"),
        ("late", "mono"),
    ]  # fmt: skip
    for text, ground in pairs:
        light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
