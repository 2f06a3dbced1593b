"""Objects in a bucket of any S3 server, through the `minio` client.

Nothing but bytes lives there: digests and identity are in PostgreSQL, and no tags, metadata, versions or locks are
used, which some servers get wrong.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Self, cast

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from storage.errors import NotFound, ObjectStoreFull, ObjectStoreUnavailable, SettingsError
from storage.objects import Buffer
from storage.objects.keys import is_key, validate

__all__ = ["MinioStore"]

_FULL = frozenset({"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"})
_MISSING = frozenset({"NoSuchKey", "NoSuchObject"})
_OWN_ALREADY = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PROBE = "sangloc-check"  # not a key, so `keys` passes over it
_CONNECT_S = 1.0
_LEAST_PART = 5 << 20
_READ_BYTES = 1 << 20


class MinioStore:
    """An `ObjectStore` in `bucket`, which `check` makes when it does not exist. Safe in threads; not across a fork.

    A server that refuses or is silent raises `ObjectStoreUnavailable`: after about 2 s for a connection, after
    `timeout_s` for an answer. Refused connections and answers 5xx are tried `retries` times more: every request here
    may be repeated, since a key is written once with one content.
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        *,
        secure: bool = True,
        region: str = "us-east-1",
        part_size_bytes: int = 16 << 20,  # also what a writer keeps in memory
        timeout_s: float = 3.0,
        retries: int = 1,
    ) -> None:
        if part_size_bytes < _LEAST_PART:
            raise SettingsError(f"The part size of S3 is at least {_LEAST_PART} bytes, not {part_size_bytes}.")
        retry = urllib3.Retry(
            total=retries,
            read=0,  # a silent server has had its time
            backoff_factor=0.2,
            status_forcelist=(500, 502, 503, 504),
            allowed_methods=None,
            raise_on_status=False,
        )
        timeout = urllib3.Timeout(connect=min(_CONNECT_S, timeout_s), read=timeout_s)
        self._pool = urllib3.PoolManager(timeout=timeout, retries=retry, maxsize=32)
        self._client = Minio(
            endpoint,
            access_key=access_key,
            secret_key=secret_key,
            secure=secure,
            region=region,
            http_client=self._pool,
        )
        self._bucket = bucket
        self._part_size = part_size_bytes

    def writer(self, key: str) -> MinioWriter:
        """A writer that sends everything in `commit`; asks nothing of the server before."""
        return MinioWriter(self._client, self._bucket, validate(key), self._part_size)

    def open(self, key: str) -> BinaryIO:
        """The object as a seekable binary file that is fetched as it is read; raises `NotFound`."""
        raw = _RemoteFile(self._client, self._bucket, key, self.size(key))
        return cast(BinaryIO, io.BufferedReader(raw, _READ_BYTES))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes `offset` to `offset + length` of the object; raises `NotFound`."""
        if length == 0:
            return b""[: self.size(key)]
        with _translated():
            try:
                response = self._client.get_object(self._bucket, validate(key), offset=offset, length=length or 0)
            except MinioException:  # each server has its own way to refuse a range beyond the end
                if offset and offset >= self.size(key):
                    return b""  # as a file would
                raise
            try:
                return bytes(response.data)
            finally:
                response.release_conn()

    def size(self, key: str) -> int:
        """Size in bytes; raises `NotFound`."""
        with _translated():
            return int(self._client.stat_object(self._bucket, validate(key)).size or 0)

    def delete(self, key: str) -> None:
        """Remove the object; a missing object is no error."""
        with _translated():
            self._client.remove_object(self._bucket, validate(key))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that start with `prefix`; other objects in the bucket are passed over."""
        with _translated():
            # Servers on a file system list whole folders only: ask for the folder and pick by ourselves.
            folder = prefix[: prefix.rfind("/") + 1]
            for found in self._client.list_objects(self._bucket, prefix=folder, recursive=True):
                name = found.object_name or ""
                if name.startswith(prefix) and is_key(name):
                    yield name

    def url(self, key: str, expires_s: int) -> str | None:
        """A presigned GET address, signed here without asking the server; 1 s to 7 days."""
        with _translated():
            expires = dt.timedelta(seconds=expires_s)
            said = {"response-content-type": "application/dicom"}
            return str(self._client.presigned_get_object(self._bucket, validate(key), expires, response_headers=said))

    def path(self, key: str) -> str | None:
        """None: the object is elsewhere."""
        validate(key)
        return None

    def check(self) -> None:
        """Write and read a small object; makes the bucket. Raises `ObjectStoreUnavailable`."""
        with _translated():
            if not self._client.bucket_exists(self._bucket):
                self._make_bucket()
            self._client.put_object(self._bucket, _PROBE, io.BytesIO(b"sangloc"), 7)
            response = self._client.get_object(self._bucket, _PROBE)
            try:
                if response.data != b"sangloc":
                    raise ObjectStoreUnavailable("The object store gives back other bytes than it was given.")
            finally:
                response.release_conn()

    def close(self) -> None:
        """Close the connections that are kept."""
        self._pool.clear()

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except MinioException as error:
            if _code(error) not in _OWN_ALREADY:  # another process was faster
                raise


class MinioWriter:
    """One object on its way in; see `ObjectWriter`. In memory up to the part size, then in an unlinked file."""

    def __init__(self, client: Minio, bucket: str, key: str, part_size: int) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._part_size = part_size
        self._spool = tempfile.SpooledTemporaryFile(max_size=part_size)  # noqa: SIM115 - closed in __exit__
        self._size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, chunks: Sequence[Buffer]) -> None:
        """Append byte buffers in order."""
        with _translated():
            for chunk in chunks:
                self._spool.write(chunk)
                self._md5.update(chunk)
                self._size += len(chunk)

    def commit(self) -> None:
        """Send the object: one PUT, or one multipart upload above the part size, and check what the server says it got.

        The client adds a SHA-256 (plain) or MD5 (TLS) of each part, which the server checks; not every server does.
        """
        with _translated():
            self._spool.seek(0)
            result = self._client.put_object(
                self._bucket,
                self._key,
                cast(BinaryIO, self._spool),
                self._size,
                part_size=self._part_size,
                num_parallel_uploads=1,
            )
            headers = result.http_headers if result.http_headers is not None else {}
            encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
            etag = (result.etag or "").strip('"')
            if _MD5.fullmatch(etag) and not encrypted and self._size <= self._part_size:
                whole = etag == self._md5.hexdigest()
            else:  # the tag of a multipart upload is not a digest of the bytes
                whole = self._client.stat_object(self._bucket, self._key).size == self._size
            if not whole:
                self._client.remove_object(self._bucket, self._key)
                raise ObjectStoreUnavailable("The object store received other bytes than were sent.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._spool.close()


class _RemoteFile(io.RawIOBase):
    """One GET from the current position for as long as reading goes on; a seek elsewhere ends it."""

    def __init__(self, client: Minio, bucket: str, key: str, size: int) -> None:
        super().__init__()
        self._client = client
        self._bucket = bucket
        self._key = key
        self._size = size
        self._position = 0
        self._response: urllib3.BaseHTTPResponse | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset != self._position:
            self._drop()
            self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._position >= self._size or not len(buffer):
            return 0
        with _translated():
            if self._response is None:
                self._response = self._client.get_object(self._bucket, self._key, offset=self._position)
            data = self._response.read(len(buffer))
        if not data:
            raise ObjectStoreUnavailable(f"The object store ended {self._key} early.")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()  # what was not read is not worth reading
            response.release_conn()


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the client, of HTTP and of the spool file in the words of `storage.errors`."""
    try:
        yield
    except MinioException as error:
        code = _code(error)
        if code in _MISSING:
            raise NotFound("There is no such object.") from error
        if code in _FULL:
            raise ObjectStoreFull from error
        raise ObjectStoreUnavailable(f"The object store answers {code or error}.") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ObjectStoreFull("There is no room for the temporary file of an upload.") from error
        raise ObjectStoreUnavailable(f"The object store cannot be reached: {type(error).__name__}") from error


def _code(error: MinioException) -> str:
    """The S3 error code; the client gives up on answers that are not `application/xml`, so look into their text."""
    if isinstance(error, S3Error):
        return error.code or ""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""
