"""Object store or database away, and back: the modality hears 0xA700 soon, and work goes on by itself afterwards."""

from __future__ import annotations

import time
from pathlib import Path

import dicom_client
import psycopg
import pytest
from rclone_server import ACCESS, SECRET, S3Server
from running import acknowledged, check_archive, until

from storage.embedded import EmbeddedPostgres
from storage.objects.minio import MinioStore

OUT_OF_RESOURCES = 0xA700
SOON_S = 5.0


@pytest.fixture
def s3(tmp_path: Path):
    server = S3Server(tmp_path / "s3")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres_of_its_own(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    yield server
    server.stop()


def store(running) -> tuple[int, float, dicom_client.Made]:
    """Status of one C-STORE on an association of its own, the seconds it took, and what was sent."""
    made = dicom_client.make()
    start = time.monotonic()
    with running.client() as client:
        status = client.store(made.sop_class, made.sop_uid, made.data)
    return status, time.monotonic() - start, made


@pytest.mark.timeout(150)
def test_s3_and_external_database_away_and_back(system, s3: S3Server, postgres_of_its_own: EmbeddedPostgres):
    settings = {
        "SANGLOC_DATABASE_URL": postgres_of_its_own.conninfo,
        "SANGLOC_OBJECTS_ENDPOINT": s3.endpoint,
        "SANGLOC_OBJECTS_ACCESS_KEY": ACCESS,
        "SANGLOC_OBJECTS_SECRET_KEY": SECRET,
        "SANGLOC_OBJECTS_SECURE": "false",
        "SANGLOC_OBJECTS_BUCKET": "images",
    }
    running = system("--receivers", "1", "--no-worker", environment=settings)
    kept = []

    def works() -> bool:
        status, _, made = store(running)
        kept.extend([made] if status == 0 else [])
        return status == 0

    def refuses_soon() -> None:
        for _ in range(2):
            status, seconds, _ = store(running)
            assert status == OUT_OF_RESOURCES
            assert seconds < SOON_S
        with running.client() as client:
            assert client.echo() == 0

    assert works()
    s3.stop()
    refuses_soon()
    s3.start()
    until(works, 15, "stores again after the object store came back")

    s3.freeze()  # accepts connections and says nothing
    status, seconds, _ = store(running)
    assert (status, seconds < SOON_S + 3) == (OUT_OF_RESOURCES, True)
    s3.stop()
    s3.start()
    until(works, 15, "stores again after the object store was silent")

    postgres_of_its_own.stop()
    refuses_soon()
    postgres_of_its_own.start()
    until(works, 15, "stores again after the database came back")

    with psycopg.connect(postgres_of_its_own.conninfo) as connection:
        rows = dict(connection.execute("SELECT sop_uid, object_key FROM instances").fetchall())
    objects = MinioStore(s3.endpoint, ACCESS, SECRET, "images", secure=False)
    assert {made.sop_uid for made in kept} == set(rows), "what was refused is not visible, what was taken is"
    for made in kept:
        assert objects.read(rows[made.sop_uid]).endswith(made.data)


@pytest.mark.timeout(150)
def test_disk_full_and_free_again(system, modalities, disk):
    """Objects and database on one disk that fills up: refused, nothing half-written visible, goes on when freed."""
    running = system("--receivers", "1", "--no-worker", data=disk.mount / "data")
    senders = modalities(running.port, 3, pixels=200_000)
    until(lambda: len(acknowledged(senders)) > 20, 30, "files are stored")
    filler = disk.fill(leave_bytes=4_000_000)
    until(lambda: all(OUT_OF_RESOURCES in s.refused for s in senders), 40, "every sender is refused")
    assert set().union(*(s.refused for s in senders)) == {OUT_OF_RESOURCES}
    filler.unlink()
    counts = [len(s.acknowledged) for s in senders]
    until(
        lambda: all(len(s.acknowledged) > n + 3 for s, n in zip(senders, counts, strict=True)),
        40,
        "every sender goes on when there is room again",
    )
    for sender in senders:
        sender.stopping.set()
    for sender in senders:
        sender.join(20)
    check_archive(running, acknowledged(senders))
    sizes = running.query("SELECT object_key, object_size FROM instances")
    for key, size in sizes:
        assert (running.data / "objects" / key).stat().st_size == size
