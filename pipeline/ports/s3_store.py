"""The object store in a bucket of S3, or of a server that speaks its protocol with conditional writes: `s3://bucket/prefix`.

A token is an ETag and the stamp of the put (see `s3_settlement`); the server compares the ETag.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ..core.errors import (
    CommitConflict,
    Corrupt,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PenstockError,
    StorageFull,
    Unreachable,
)
from .object_keys import checked_key, checked_prefix
from .s3_bucket import Reply, S3Bucket
from .s3_client import Contended, Patience, connected, repeated
from .s3_settlement import AFTER, STAMP, Sighting, Stamped, Verdict, token_of
from .s3_upload import PARALLEL, S3Upload
from .store import Condition, Entry, Found, Overwrite, Token, Upload

RANGE_BYTES = 8 << 20
READS = 4


class S3Store:
    """Implements `ObjectStore`; safe to share among threads. Credentials by boto3's own chain."""

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._patience = patience or Patience()
        client = connected(endpoint=endpoint, region=region, patience=self._patience)
        self._bucket = S3Bucket(client, bucket, f"{prefix}/" if prefix else "")
        self._executor = ThreadPoolExecutor(2 * PARALLEL, thread_name_prefix="s3")

    @property
    def url(self) -> str:
        return self._bucket.url

    def get(self, key: str) -> Found:
        reply = self._read(checked_key(key))
        return Found(reply.data, token_of(reply.etag, reply.metadata.get(STAMP, "")))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        checked_key(key)
        if start < 0 or length < 0:
            raise InvalidInput(f"{key}: a range of {length} bytes from {start}")
        if length == 0:
            if start > (size := self.size(key)):
                raise Corrupt(f"{key}: 0 bytes from {start} were asked for, the object has {size}")
            return b""
        end = start + length
        ranges = [(at, min(RANGE_BYTES, end - at)) for at in range(start, end, RANGE_BYTES)]
        for _ in range(READS):
            replies = self._read_ranges(key, ranges)
            if len({reply.etag for reply in replies}) == 1:
                return replies[0].data if len(replies) == 1 else b"".join(reply.data for reply in replies)
        raise Unreachable(f"{key}: it was replaced {READS} times while it was read")

    def size(self, key: str) -> int:
        checked_key(key)
        try:
            return repeated(lambda: self._bucket.size(key), self._patience)
        except NotFound:
            # The reply to a HEAD does not say whether it is the bucket that does not exist; that to a listing does.
            repeated(lambda: self._bucket.page(key, ""), self._patience)
            raise

    def put(self, key: str, data: bytes, condition: Condition) -> Token:
        checked_key(key)
        put = Stamped.drawn(condition)
        if isinstance(condition, Overwrite):
            return token_of(repeated(lambda: self._bucket.put(key, data, put), self._patience), put.stamp)
        return self._put_once(key, data, put)

    @contextmanager
    def upload(self, key: str, *, size_hint: int = 0) -> Iterator[Upload]:
        upload = S3Upload(self._bucket, checked_key(key), size_hint=size_hint, executor=self._executor, patience=self._patience)
        try:
            yield upload
            upload.finish()
        except BaseException as error:
            try:
                upload.abort()
            except PenstockError as second:
                error.add_note(f"its parts could not be removed from the server: {second}")
            raise

    def list(self, prefix: str) -> Iterator[Entry]:
        checked_prefix(prefix)
        page = repeated(partial(self._bucket.page, prefix, ""), self._patience)
        yield from page.entries
        while page.next_page:
            page = repeated(partial(self._bucket.page, prefix, page.next_page), self._patience)
            yield from page.entries

    def delete(self, key: str) -> None:
        checked_key(key)
        with suppress(NotFound):
            repeated(lambda: self._bucket.delete(key), self._patience)

    def local_path(self, key: str) -> Path | None:
        checked_key(key)
        return None

    def _put_once(self, key: str, data: bytes, put: Stamped) -> Token:
        """Sends the put until it is known what became of it; however often it is sent, it takes effect at most once."""
        doubt: OutcomeUnknown | None = None
        failure: PenstockError = Unreachable("no attempt was made")
        for pause_s in self._patience.pauses():
            try:
                return token_of(self._bucket.put(key, data, put), put.stamp)
            except OutcomeUnknown as error:
                doubt = error
            except (CommitConflict, StorageFull):
                if doubt is None:
                    raise
            except Contended as error:
                failure = CommitConflict(str(error))
            except Unreachable as error:
                failure = error
            if doubt and (landed := self._settled(key, data, put, doubt)):
                return landed
            time.sleep(pause_s)
        raise doubt or failure

    def _settled(self, key: str, data: bytes, put: Stamped, doubt: OutcomeUnknown) -> Token | None:
        """The put's token if it has landed, None if sending it once more is safe and can help."""
        try:
            found = self._read(key)
            stamp, after = found.metadata.get(STAMP, ""), found.metadata.get(AFTER, "")
            seen: Sighting | None = Sighting(found.etag, stamp, after, found.data == data)
        except NotFound:
            seen = None
        except Unreachable:
            raise doubt from None
        match put.verdict(seen):
            case Verdict.LANDED if seen:
                return token_of(seen.etag, put.stamp)
            case Verdict.REPLACED:
                return token_of('"replaced"', put.stamp)
            case Verdict.LOST:
                raise CommitConflict(f"{self._bucket.subject(key)}: another put came first")
            case Verdict.OPEN:
                return None
        raise doubt

    def _read(self, key: str) -> Reply:
        return repeated(lambda: self._bucket.get(key), self._patience)

    def _read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Reply]:
        def read(start: int, length: int) -> Reply:
            return repeated(lambda: self._bucket.get(key, start=start, length=length), self._patience)

        if len(ranges) == 1:
            return [read(*ranges[0])]
        futures = [self._executor.submit(read, *wanted) for wanted in ranges]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
