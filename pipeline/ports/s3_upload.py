"""One large object in parts, sent in parallel as they fill up; one that fits a part is put at once.

Memory is `PARALLEL` + 1 parts. Parts that a dead process has left cost money until the bucket's own lifecycle rule
(AbortIncompleteMultipartUpload) removes them; they are never visible as an object.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.errors import InvalidInput, NotFound, Unreachable
from .s3_bucket import S3Bucket
from .s3_client import Patience, repeated
from .s3_settlement import STAMP, Stamped
from .store import Overwrite

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MIB = 1 << 20
SMALLEST_PART, LARGEST_PART = 8 * MIB, 64 * MIB
MAX_PARTS = 10_000
PARALLEL = 4


def part_bytes(size_hint: int) -> int:
    """The smallest part, in whole MiB, with which an object of `size_hint` bytes has no more than half of `MAX_PARTS`."""
    return max(SMALLEST_PART, min(LARGEST_PART, -(-size_hint // (MAX_PARTS // 2) // MIB) * MIB))


@dataclass(slots=True)
class _Part:
    buffer: bytearray
    filled: int = 0


class S3Upload:
    """Implements `Upload`; `finish` or `abort` ends it."""

    def __init__(self, bucket: S3Bucket, key: str, *, size_hint: int, executor: Executor, patience: Patience) -> None:
        self._bucket, self._key = bucket, key
        self._executor = executor
        self._patience = patience
        self._stamped = Stamped.drawn(Overwrite())
        self._part_bytes = part_bytes(size_hint)
        self._id = ""
        self._current = _Part(bytearray(self._part_bytes))
        self._spare: list[bytearray] = []
        self._under_way: deque[tuple[_Part, Future[CompletedPartTypeDef]]] = deque()
        self._sent: list[CompletedPartTypeDef] = []

    def write(self, block: bytes | bytearray | memoryview) -> None:
        rest = memoryview(block).cast("B")
        while rest:
            if self._current.filled == self._part_bytes:
                self._send_current()
            part = self._current
            taken = rest[: self._part_bytes - part.filled]
            part.buffer[part.filled : part.filled + len(taken)] = taken
            part.filled += len(taken)
            rest = rest[len(taken) :]

    def finish(self) -> None:
        """Makes the object visible."""
        if not self._id:
            whole = bytes(memoryview(self._current.buffer)[: self._current.filled])
            repeated(lambda: self._bucket.put(self._key, whole, self._stamped), self._patience)
            return
        self._send_current()
        while self._under_way:
            self._collect()
        repeated(self._complete, self._patience)

    def abort(self) -> None:
        """Gives the parts up; waits for those under way, as the server keeps a part that arrives after the abort."""
        for _, future in self._under_way:
            if not future.cancel():
                future.exception()
        if self._id:
            with suppress(NotFound):
                repeated(lambda: self._bucket.abort_parts(self._key, self._id), self._patience)

    def _send_current(self) -> None:
        if not self._id:
            self._id = repeated(lambda: self._bucket.begin_parts(self._key, self._stamped), self._patience)
        number = len(self._sent) + len(self._under_way) + 1
        if number > MAX_PARTS:
            raise InvalidInput(
                f"{self._bucket.subject(self._key)}: more than {MAX_PARTS} parts of {self._part_bytes // MIB} MiB",
                hint="an upload of this size needs its size_hint",
            )
        if len(self._under_way) == PARALLEL:
            self._collect()
        part = self._current
        self._under_way.append((part, self._executor.submit(self._send_part, number, part)))
        self._current = _Part(self._spare.pop() if self._spare else bytearray(self._part_bytes))

    def _collect(self) -> None:
        part, future = self._under_way[0]
        self._sent.append(future.result())
        self._under_way.popleft()
        self._spare.append(part.buffer)

    def _send_part(self, number: int, part: _Part) -> CompletedPartTypeDef:
        body = part.buffer if part.filled == len(part.buffer) else part.buffer[: part.filled]
        return repeated(lambda: self._bucket.put_part(self._key, self._id, number, body), self._patience)

    def _complete(self) -> None:
        try:
            self._bucket.complete_parts(self._key, self._id, self._sent)
        except NotFound:
            # Completed by a request whose reply was lost, or aborted by somebody else.
            if not self._landed():
                raise Unreachable(f"{self._bucket.subject(self._key)}: somebody else aborted this upload") from None

    def _landed(self) -> bool:
        try:
            return self._bucket.metadata(self._key).get(STAMP) == self._stamped.stamp
        except NotFound:
            return False
