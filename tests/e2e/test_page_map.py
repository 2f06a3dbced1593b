"""The model's map over a film on the worklist page, by a key, in both languages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import Browser
from http_server import serving
from reported import Reported, film

from storage.database import Database
from storage.objects import ObjectStore

SHOWN = "(() => { const map = document.querySelector('.map'); return map && !map.hidden && map.naturalWidth > 0; })()"
SAME_PLACE = """(() => {
  const [film, map] = ['.picture', '.map'].map((name) => document.querySelector(name).getBoundingClientRect());
  return ['left', 'top', 'width', 'height'].every((side) => Math.abs(film[side] - map[side]) < 1);
})()"""


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile", language="vi")
    yield opened
    opened.close()


def test_a_key_shows_the_map_and_hides_it(
    chromium: Browser, database: Database, store: ObjectStore, tmp_path: Path
) -> None:
    archive = Reported(database, store)
    taken = film()
    archive.score(archive.take(taken))
    archive.write()
    with serving(database, store) as address:
        chromium.open(address)
        chromium.wait_for("document.querySelector('#rows tr') !== null", 30)
        chromium.evaluate("document.querySelector('#rows tr').click()")
        chromium.wait_for("document.querySelector('.picture')?.naturalWidth > 0", 30)
        assert "Bản đồ" in chromium.text()
        assert not chromium.evaluate(SHOWN), "nothing lies over the film until it is asked for"
        chromium.press("m")
        chromium.wait_for(SHOWN, 30)
        assert chromium.evaluate(SAME_PLACE)
        assert "Không dùng để chẩn đoán" in chromium.text()
        chromium.screenshot(Path(os.environ.get("SANGLOC_SCREENSHOTS", tmp_path)) / "page-map.png")
        chromium.press("m")
        chromium.wait_for("document.querySelector('.map').hidden", 30)
        chromium.evaluate("document.querySelectorAll('.tabs button')[1].click()")  # the capture has no map of its own
        button = "[...document.querySelectorAll('.viewer button')].find((one) => one.textContent.includes('Bản đồ'))"
        chromium.wait_for(f"{button}.hidden", 30)
        chromium.press("m")
        assert chromium.evaluate("document.querySelector('.map').hidden")
        assert chromium.complaints() == []
