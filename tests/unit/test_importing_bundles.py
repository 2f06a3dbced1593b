"""MONAI bundles from folders, zip files and URLs: what is taken over, and what is refused."""

from __future__ import annotations

import hashlib
import http.server
import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tiny_bundle import write_tiny_bundle
from tiny_models import change_json, write_foreign_bundle

from models.bundle import load_bundle
from models.importers import archive, sources
from models.importers.adopting import Wanted, adopt
from models.importers.labels import ours
from models.phantom import chest
from storage.errors import InvalidBundle, InvalidInput, Unavailable

LABELS = ["Pleural Effusion", "Pleural Thickening", "Something Else"]


def zipped(folder: Path, file: Path, *, root: str = "", **extra: bytes) -> Path:
    """A zip of a folder as others make it: below a root, compressed, with scripts beside."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                made.write(path, root + str(path.relative_to(folder)))
        for name, content in extra.items():
            made.writestr(name.replace("__", "/"), content)
    return file


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    folder = write_foreign_bundle(tmp_path / "foreign", LABELS)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "run.py").write_text("raise SystemExit('code was run')")
    return folder


@pytest.mark.parametrize("way", ["folder", "zip", "zip below a folder"])
def test_a_foreign_bundle_keeps_its_numbers_and_gets_our_names(way: str, foreign: Path, tmp_path: Path) -> None:
    source = foreign
    if way != "folder":
        source = zipped(foreign, tmp_path / "b.zip", root="their_name_v1/" if "below" in way else "")
    taken = adopt(str(source), tmp_path / "ours", Wanted(name="theirs"))
    bundle = load_bundle(tmp_path / "ours")
    assert (taken.origin, bundle.name, bundle.version) == ("monai", "theirs", "1.2.3")
    assert bundle.outputs == ("Effusion", "Pleural_Thickening", "Something_Else")
    assert not (tmp_path / "ours" / "scripts").exists()
    assert json.loads((tmp_path / "ours" / "configs" / "inference.json").read_text()).keys() == {"network_def"}
    film = chest(3, rows=200, columns=180)
    image = torch.from_numpy(bundle.prepare(film)[None])
    np.testing.assert_array_equal(bundle.prepare(film), load_bundle(foreign).prepare(film))
    with torch.inference_mode():
        np.testing.assert_array_equal(bundle.network()(image), load_bundle(foreign).network()(image))
    card = (tmp_path / "ours" / "docs" / "README.md").read_text()
    assert "| 0 | Pleural Effusion | Effusion |" in card
    assert str(source) in card


def test_a_bundle_of_ours_is_taken_over_as_it_is(tmp_path: Path) -> None:
    source = write_tiny_bundle(tmp_path / "mine")
    adopt(str(source), tmp_path / "taken", Wanted())
    taken, mine = load_bundle(tmp_path / "taken"), load_bundle(source)
    assert (taken.weights_sha256, taken.calibration, taken.operating_points, taken.value_range) == (
        mine.weights_sha256, mine.calibration, mine.operating_points, None
    )  # fmt: skip


def test_packing_gives_the_same_bytes_and_unpacking_the_same_files(tmp_path: Path) -> None:
    source = write_tiny_bundle(tmp_path / "mine")
    archive.pack(source, tmp_path / "a.zip")
    archive.pack(source, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    back = archive.unpack(tmp_path / "a.zip", tmp_path / "back")
    assert (back / "models" / "model.pt").read_bytes() == (source / "models" / "model.pt").read_bytes()
    assert archive.holds_bundle(tmp_path / "a.zip")
    torch.save({"x": torch.ones(1)}, tmp_path / "weights.pt")  # a zip file, too
    assert not archive.holds_bundle(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_a_zip_that_leads_out_of_itself_is_refused(name: str, foreign: Path, tmp_path: Path) -> None:
    source = zipped(foreign, tmp_path / "slip.zip")
    with zipfile.ZipFile(source, "a") as made:
        made.writestr(name, b"x")
    with pytest.raises(InvalidBundle, match="leads out of it"):
        adopt(str(source), tmp_path / "ours", Wanted())
    assert not list(tmp_path.rglob("*evil*"))


def test_a_zip_bomb_is_stopped_while_it_unpacks(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 5 << 20)
    (foreign / "models" / "model.pt").write_bytes(bytes(64 << 20))
    source = zipped(foreign, tmp_path / "bomb.zip")
    assert source.stat().st_size < 1 << 20
    with pytest.raises(InvalidBundle, match="unpacks to more than 5 MiB"):
        adopt(str(source), tmp_path / "ours", Wanted())
    assert sum(file.stat().st_size for file in (tmp_path / "ours").rglob("*") if file.is_file()) < 8 << 20


def damaged(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 200] = bytes(200)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damaged, "no sound zip file|is not valid|not a state dict"),
        (lambda file: file.write_bytes(file.read_bytes()[:-400]), "neither a folder nor a zip file"),
        (lambda file: file.write_bytes(b"PK\x03\x04 nothing"), "neither a folder nor a zip file"),
        (lambda file: zipfile.ZipFile(file, "w").close(), "neither a folder nor a zip file"),
    ],
)
def test_a_corrupt_zip_is_refused(spoil: Any, reason: str, foreign: Path, tmp_path: Path) -> None:
    source = zipped(foreign, tmp_path / "b.zip")
    spoil(source)
    with pytest.raises(InvalidBundle, match=reason):
        adopt(str(source), tmp_path / "ours", Wanted(kind="monai"))


def test_two_bundles_in_one_zip_are_refused(foreign: Path, tmp_path: Path) -> None:
    extra = {"other__configs__metadata.json": b"{}"}
    with pytest.raises(InvalidBundle, match="holds 2 folders"):
        adopt(str(zipped(foreign, tmp_path / "b.zip", **extra)), tmp_path / "ours", Wanted())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"_target_": "subprocess.run", "args": "touch pwned"}, "is not one of"),
        ({"_target_": "monai.networks.nets.UNet", "out_channels": 3}, "is not one of"),
        ({"norm": "$__import__('os').system('touch pwned')"}, "the expression"),
        ({"norm": {"_target_": "os.system"}}, "nested object"),
        ({"_requires_": "$import os"}, "'_requires_'"),
        ({"num_classes": 4}, "names 3 labels, the network has 4 outputs"),
    ],
)
def test_a_bundle_that_wants_to_run_code_is_refused(
    changes: dict[str, Any], reason: str, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inference = foreign / "configs" / "inference.json"
    definition = json.loads(inference.read_text())["network_def"]
    change_json(inference, network_def=definition | changes)
    with pytest.raises(InvalidBundle, match=reason):
        adopt(str(foreign), tmp_path / "ours", Wanted())
    assert not (tmp_path / "pwned").exists()


def test_weights_that_are_no_numbers_are_refused(foreign: Path, tmp_path: Path) -> None:
    weights = foreign / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    next(value for value in state.values() if value.is_floating_point()).fill_(torch.nan)
    torch.save(state, weights)
    with pytest.raises(InvalidBundle, match="not finite numbers"):
        adopt(str(foreign), tmp_path / "ours", Wanted())


def test_labels_that_would_name_one_finding_twice_are_refused(tmp_path: Path) -> None:
    source = write_foreign_bundle(tmp_path / "twice", ["Effusion", "Pleural Effusion"])
    with pytest.raises(InvalidBundle, match="one finding twice"):
        adopt(str(source), tmp_path / "ours", Wanted())


def test_names_of_findings() -> None:
    assert ours(["no finding", "Pleural_Effusion", "LUNG OPACITY", "Support Devices", ""]) == (
        "No Finding", "Effusion", "Lung_Opacity", "Support_Devices", ""
    )  # fmt: skip


# URLs


class _Files(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes]

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/b.zip")
            self.end_headers()
        elif self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif self.path.partition("?")[0] in self.files:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.files[self.path.partition("?")[0]])
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(foreign: Path, tmp_path: Path) -> Iterator[str]:
    handler = type("Handler", (_Files,), {"files": {"/b.zip": zipped(foreign, tmp_path / "b.zip").read_bytes()}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_bundle_is_fetched_and_its_digest_checked(address: str, tmp_path: Path) -> None:
    digest = hashlib.sha256((tmp_path / "b.zip").read_bytes()).hexdigest()
    url = address.replace("http://", "http://me:secret@") + "/b.zip?token=secret"
    taken = adopt(url, tmp_path / "ours", Wanted(sha256=digest.upper()))
    assert taken.source == f"{address}/b.zip"
    assert "secret" not in (tmp_path / "ours" / "docs" / "README.md").read_text()
    adopt(f"{address}/moved", tmp_path / "again", Wanted(name="x"))
    with pytest.raises(InvalidBundle, match="nothing was imported"):
        adopt(url, tmp_path / "third", Wanted(sha256="0" * 64))
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(("path", "reason"), [("/none.zip", "HTTP status 404"), ("/away", "cannot be fetched")])
def test_what_cannot_be_fetched_is_said(address: str, path: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=reason):
        adopt(address + path, tmp_path / "ours", Wanted())


def test_a_file_that_is_too_large_is_not_fetched_whole(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    with pytest.raises(InvalidInput, match="is larger than"):
        adopt(f"{address}/b.zip", tmp_path / "ours", Wanted())


def test_other_schemes_missing_files_and_silent_servers(tmp_path: Path) -> None:
    for source in ("file:///etc/passwd", "ftp://example.org/b.zip", "s3://bucket/b.zip"):
        with pytest.raises(InvalidInput, match="http or https"):
            adopt(source, tmp_path / "ours", Wanted())
    with pytest.raises(InvalidInput, match="no file or folder"):
        adopt(str(tmp_path / "nothing"), tmp_path / "ours", Wanted())
    with pytest.raises(InvalidInput, match="of a file, not of a folder"):
        adopt(str(tmp_path), tmp_path / "ours", Wanted(sha256="0" * 64))
    with pytest.raises(Unavailable):
        adopt("http://127.0.0.1:9/b.zip", tmp_path / "ours", Wanted())


def test_names_are_taken_from_the_last_part_of_a_source() -> None:
    assert sources.stem("https://x.example/a/My%20Model.pth.tar?x=1") == "My-Model"
    assert sources.stem("/data/chexnet.pt") == "chexnet"
    assert sources.shown("https://u:p@x.example:8/a.zip?t=1#f") == "https://x.example:8/a.zip"
