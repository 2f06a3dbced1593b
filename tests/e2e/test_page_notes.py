"""What the input gate put right in an image stands beside its score, in both languages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from browser import Browser
from http_server import serving

from inference.gate import SENTENCES
from storage.database import Database


def test_what_was_put_right_is_shown_in_both_languages(chromium: Browser, database: Database, store: Any) -> None:
    archive = Archive(database, store)
    archive.worker()
    archive.score(archive.add(patient_name="Lê^Mai"), 0.9)
    told = ("upside down and was turned", "changed back")
    notes = [sentence for sentence in SENTENCES if any(part in sentence for part in told)]
    with database.transaction() as connection:
        connection.execute("UPDATE scores SET notes = %s", (notes,))
    with serving(database, archive.store) as address:
        chromium.language("en-GB")
        chromium.size(1440, 900)
        chromium.open(address)
        chromium.wait_for("document.querySelectorAll('#rows tr').length === 1")
        chromium.press("j")
        chromium.press("Enter")
        shown = "[...document.querySelectorAll('.scores .note')].map((note) => note.textContent)"
        chromium.wait_for(f"{shown}.length === 2")
        assert chromium.evaluate(shown) == notes
        chromium.evaluate("document.querySelector('[data-language=vi]').click()")
        chromium.wait_for(f"{shown}.some((text) => text.includes('lộn ngược'))")
        assert any("đảo đen trắng" in text for text in chromium.evaluate(shown))
