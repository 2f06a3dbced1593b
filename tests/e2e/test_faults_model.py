"""A broken model: the system works on, in arrival order, and says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import dicom_client
import pytest
from running import until

from models.bundle import DEFAULT_BUNDLE


def without_weights(bundle: Path) -> None:
    (weights,) = (bundle / "models").glob("*.pt")
    weights.unlink()


def with_other_weights(bundle: Path) -> None:
    """One byte in the middle is another: the digest no longer holds."""
    (weights,) = (bundle / "models").glob("*.pt")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", [without_weights, with_other_weights])
def test_a_broken_bundle_means_arrival_order_with_a_banner(system, tmp_path, damage):
    """ARCHITECTURE promise 3: nothing disappears from the list while the models are down."""
    bundle = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    damage(bundle)
    running = system("--receivers", "1", "--workers", "1", environment={"SANGLOC_WORKER_BUNDLE": str(bundle)})
    films = [dicom_client.make(sop_class=dicom_client.DX, pixels=2 * 600 * 600) for _ in range(3)]
    with running.client() as client:
        assert [client.store(film.sop_class, film.sop_uid, film.data) for film in films] == [0, 0, 0]
    until(lambda: len(running.get("/api/worklist")["items"]) == 3, 20, "the studies are on the list")
    page = until(lambda: (found := running.get("/api/worklist"))["banner"] and found, 20, "the banner says why")
    assert page["mode"] == "arrival"
    assert [item["study_uid"] for item in page["items"]] == [film.study_uid for film in films]
    assert {item["status"] for item in page["items"]} == {"waiting"}
    assert not any(item["flagged"] for item in page["items"])
