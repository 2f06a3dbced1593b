"""What every object store must do, over both adapters: a folder, and a bucket of a real S3 server."""

from __future__ import annotations

import io
import secrets
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclone_server import ACCESS, SECRET, S3Server

from storage.errors import NotFound, ObjectStoreFull, ObjectStoreUnavailable, SettingsError
from storage.objects import ObjectStore
from storage.objects.directory import DirectoryStore
from storage.objects.keys import is_key, new_key, validate
from storage.objects.minio import MinioStore

MIB = 1 << 20
LEAST_PART = 5 * MIB


@pytest.fixture(scope="module")
def shared_s3(tmp_path_factory: pytest.TempPathFactory):
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


def minio_store(server: S3Server, **options) -> MinioStore:
    options = {"part_size_bytes": LEAST_PART, **options}
    return MinioStore(server.endpoint, ACCESS, SECRET, "objects", secure=False, **options)


@pytest.fixture(params=["directory", "minio"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "directory":
        found: ObjectStore = DirectoryStore(tmp_path / "objects")
        found.check()
        yield found
    else:
        found = minio_store(request.getfixturevalue("shared_s3"))
        found.check()
        yield found
        found.close()


def put(store: ObjectStore, *chunks: bytes, key: str = "") -> str:
    key = key or new_key("1.2.3")
    with store.writer(key) as writer:
        writer.write(chunks)
        writer.commit()
    return key


def test_bytes_come_back_as_they_went_in(store: ObjectStore):
    key = new_key("1.2.840.1")
    reused = bytearray(b"first ")
    with store.writer(key) as writer:
        writer.write([reused])
        reused[:] = b"XXXXXX"  # the caller may reuse its memory as soon as write has returned
        writer.write([b"second ", memoryview(b"-third")[1:], b""])
        writer.write([])
        writer.commit()
    assert store.read(key) == b"first second third"
    assert store.size(key) == 18
    store.check()


def test_ranges_end_where_the_object_ends(store: ObjectStore):
    key = put(store, b"0123456789")
    assert store.read(key, 3) == b"3456789"
    assert store.read(key, 3, 4) == b"3456"
    assert store.read(key, 8, 100) == b"89"
    assert store.read(key, 10) == b""
    assert store.read(key, 99, 3) == b""
    assert store.read(key, 2, 0) == b""


def test_an_empty_object_is_an_object(store: ObjectStore):
    key = put(store)
    assert store.size(key) == 0
    assert store.read(key) == b""


def test_a_large_object_in_many_chunks(store: ObjectStore):
    """More buffers than one writev takes, and more bytes than one part of a multipart upload."""
    data = secrets.token_bytes(2 * LEAST_PART + 12345)
    pieces = [data[i : i + 4099] for i in range(0, len(data), 4099)]
    assert len(pieces) > 2048
    key = put(store, *pieces)
    assert store.size(key) == len(data)
    assert store.read(key) == data
    assert store.read(key, LEAST_PART - 5, 10) == data[LEAST_PART - 5 : LEAST_PART + 5]


def test_open_gives_a_seekable_file(store: ObjectStore):
    data = secrets.token_bytes(3 * MIB)
    key = put(store, data)
    with store.open(key) as file:
        assert file.seekable()
        assert file.read(10) == data[:10]
        assert file.seek(-5, io.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        file.seek(2 * MIB)
        assert file.read(7) == data[2 * MIB : 2 * MIB + 7]
        file.seek(100)
        assert file.read() == data[100:]
        assert file.read() == b""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(0, 400), st.none() | st.integers(0, 400))
def test_any_chunks_and_any_range_behave_like_bytes(store: ObjectStore, chunks, offset, length):
    data = b"".join(chunks)
    key = put(store, *chunks)
    assert store.read(key, offset, length) == data[offset:][:length]


def test_nothing_is_visible_without_commit(store: ObjectStore):
    key = new_key("1.2.4")
    with store.writer(key) as writer:
        writer.write([b"half"])
    with pytest.raises(NotFound):
        store.size(key)
    assert key not in set(store.keys())


def test_an_error_while_writing_removes_what_was_written(store: ObjectStore):
    key = new_key("1.2.5")
    with pytest.raises(TypeError), store.writer(key) as writer:
        writer.write([b"x" * MIB, "not bytes"])  # type: ignore[list-item]
    assert key not in set(store.keys())


def test_missing_objects(store: ObjectStore):
    key = new_key("1.2.6")
    for look in (store.size, store.read, store.open, lambda k: store.read(k, 5, 5), lambda k: store.read(k, 0, 0)):
        with pytest.raises(NotFound):
            look(key)
    store.delete(key)


def test_delete(store: ObjectStore):
    key = put(store, b"abc")
    store.delete(key)
    with pytest.raises(NotFound):
        store.read(key)
    store.delete(key)


def test_keys_by_prefix(store: ObjectStore):
    mine = {put(store, b"x", key=new_key(f"1.2.{i}")) for i in range(6)}
    assert mine <= set(store.keys())
    for key in mine:
        for cut in (0, 1, 2, 3, 4, 5, 6, 9, len(key)):
            found = list(store.keys(key[:cut]))
            assert key in found
            assert all(k.startswith(key[:cut]) and is_key(k) for k in found)
        assert list(store.keys(f"{key}x")) == []


@pytest.mark.parametrize(
    "key",
    [
        "../../../etc/passwd",
        "ab/cd/../../../../etc/passwd",
        "/etc/passwd",
        "",
        "ab/cd/x.dcm",
        "AB/CD/" + "0" * 32 + ".dcm",
        "ab/cd/" + "0" * 32 + ".dcm\n",
        "ab/cd/" + "0" * 32 + ".dcm/..",
        "ab/cd/" + "0" * 31 + "\0.dcm",
    ],
)
def test_a_key_that_was_not_made_here_is_refused(store: ObjectStore, key: str, tmp_path: Path):
    with pytest.raises(NotFound):
        validate(key)
    for use in (store.size, store.read, store.open, store.writer, store.delete, store.path, lambda k: store.url(k, 60)):
        if store.url(new_key("1"), 60) is None and use.__name__ == "<lambda>":
            continue  # a folder has no addresses, so nothing to refuse
        with pytest.raises(NotFound):
            use(key)
    assert not (tmp_path / "etc").exists()


def test_keys_are_new_and_a_study_lies_in_one_folder():
    keys = [new_key("1.2.3") for _ in range(1000)]
    assert len(set(keys)) == 1000
    assert len({k.rsplit("/", 1)[0] for k in keys}) == 1
    assert len({new_key(f"1.2.{i}")[:5] for i in range(200)}) > 150
    assert all(is_key(k) for k in keys)


def test_many_writers_at_once(store: ObjectStore):
    bodies = {new_key(f"1.2.{i % 3}"): secrets.token_bytes(50_000 + i) for i in range(24)}
    todo, failures = list(bodies.items()), []

    def work() -> None:
        try:
            while True:
                key, body = todo.pop()
                put(store, body[:100], body[100:], key=key)
        except IndexError:
            pass
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(store.read(key) == body for key, body in bodies.items())


# What only one of them has


def test_folder_a_key_is_written_once(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    key = put(store, b"first")
    with pytest.raises(ObjectStoreUnavailable), store.writer(key):
        pass
    assert store.read(key) == b"first"


def test_folder_has_paths_and_no_addresses(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    key = put(store, b"abc")
    path = store.path(key)
    assert path is not None
    assert Path(path).read_bytes() == b"abc"
    assert Path(path).stat().st_mode & 0o007 == 0  # not for everybody's eyes
    assert store.url(key, 60) is None


def test_folder_heals_when_a_shard_was_removed(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    key = put(store, b"abc")
    Path(store.path(key) or "").unlink()
    (tmp_path / key[:5]).rmdir()
    assert store.read(put(store, b"again")) == b"again"


def test_folder_passes_over_files_that_are_no_objects(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    key = put(store, b"abc")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / key[:5] / "notes.txt").write_text("x")
    assert list(store.keys()) == [key]


def test_folder_cannot_be_used(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    store = DirectoryStore(tmp_path / "file" / "objects")
    with pytest.raises(ObjectStoreUnavailable):
        store.check()
    with pytest.raises(ObjectStoreUnavailable):
        store.writer(new_key("1.2.3"))


def test_folder_keeps_few_descriptors(tmp_path: Path):
    store, before = DirectoryStore(tmp_path), len(list(Path("/proc/self/fd").iterdir()))
    for i in range(300):
        with store.writer(new_key(f"1.2.{i}")):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 290


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 2 MB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_folder_on_a_full_disk(small_disk: Path):
    store = DirectoryStore(small_disk / "objects")
    first = put(store, b"x" * MIB)
    with pytest.raises(ObjectStoreFull):
        put(store, *[b"y" * 65536] * 40)
    assert list(store.keys()) == [first]
    store.delete(first)
    assert store.size(put(store, *[b"y" * 65536] * 20)) == 20 * 65536


def test_s3_presigned_address_reads_without_credentials(shared_s3: S3Server):
    store = minio_store(shared_s3)
    store.check()
    key = put(store, b"presigned")
    address = store.url(key, 60)
    assert address is not None
    with urllib.request.urlopen(address, timeout=5) as answer:
        assert answer.read() == b"presigned"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address.replace("Signature=", "Signature=0"), timeout=5)
    refused.value.close()
    assert store.path(key) is None


def test_s3_wrong_secret_is_unavailable(shared_s3: S3Server):
    store = MinioStore(shared_s3.endpoint, ACCESS, "wrong", "objects", secure=False)
    with pytest.raises(ObjectStoreUnavailable):
        store.check()


def test_s3_part_size_below_the_standard_is_refused(shared_s3: S3Server):
    with pytest.raises(SettingsError):
        minio_store(shared_s3, part_size_bytes=MIB)


def within(seconds: float, action) -> None:
    start = time.monotonic()
    with pytest.raises(ObjectStoreUnavailable):
        action()
    assert time.monotonic() - start < seconds


def test_s3_server_away_and_back(s3_server: S3Server):
    store = minio_store(s3_server)
    store.check()
    key = put(store, b"kept")
    s3_server.stop()
    within(3, store.check)
    within(3, lambda: store.read(key))
    within(3, lambda: store.size(key))
    within(3, lambda: list(store.keys()))
    within(3, lambda: put(store, b"lost"))
    s3_server.start()
    assert store.read(key) == b"kept"
    assert list(store.keys()) == [key]
    assert store.read(put(store, b"new")) == b"new"


def test_s3_silent_server_costs_the_timeout_once(s3_server: S3Server):
    store = minio_store(s3_server, timeout_s=0.5)
    store.check()
    s3_server.freeze()
    within(2, lambda: put(store, b"x" * 1000))
    within(2, lambda: store.read(new_key("1")))


def test_s3_server_killed_while_it_receives(s3_server: S3Server):
    """Frozen with half a request in its socket, then killed: an error, and nothing visible afterwards."""
    store = minio_store(s3_server, timeout_s=2.0)
    store.check()
    s3_server.freeze()
    key, raised = new_key("1.2.3"), []

    def send() -> None:
        try:
            put(store, b"z" * (4 * MIB), key=key)
        except ObjectStoreUnavailable as error:
            raised.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    deadline = time.monotonic() + 5
    while not s3_server.receiving() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert s3_server.receiving()
    s3_server.stop()
    sender.join(10)
    assert len(raised) == 1
    s3_server.start()
    assert key not in set(store.keys())
    assert store.read(put(store, b"z" * MIB, key=key)) == b"z" * MIB


def test_s3_server_with_a_full_disk(small_disk: Path):
    server = S3Server(small_disk / "s3")
    server.start()
    try:
        store = minio_store(server)
        store.check()
        first = put(store, b"x" * MIB)
        within(3, lambda: put(store, b"y" * (3 * MIB)))
        assert list(store.keys()) == [first]
        assert store.read(first) == b"x" * MIB
        store.delete(first)
        assert store.size(put(store, b"y" * MIB)) == MIB
    finally:
        server.stop()
