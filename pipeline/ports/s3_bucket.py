"""The requests that are sent to one bucket: each method is one of them, sent once, its error translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..core.errors import CommitConflict, Corrupt, InvalidInput, NotFound
from .s3_client import translated
from .s3_settlement import Stamped, parts
from .store import Create, Entry, Swap

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        GetObjectRequestTypeDef,
        ListObjectsV2RequestTypeDef,
        PutObjectRequestTypeDef,
    )

MAX_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An object, or a range of it, as one GET gave it."""

    data: bytes
    etag: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; `next_page` is "" at its end."""

    entries: Sequence[Entry]
    next_page: str


class S3Bucket:
    """Keys are relative to `prefix`, which is "" or ends in '/'. `url` names all of it."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Reply:
        """The object, or `length` bytes of it; `Corrupt` when it is shorter."""
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._full(key)}
        if length is not None:
            request["Range"] = f"bytes={start}-{start + length - 1}"
        with translated(self.subject(key)):
            reply = self._client.get_object(**request)
            data = reply["Body"].read()
        if length is not None and len(data) != length:
            raise Corrupt(f"{key}: {length} bytes from {start} were asked for, the object has {start + len(data)}")
        return Reply(data, reply["ETag"], reply["Metadata"])

    def size(self, key: str) -> int:
        with translated(self.subject(key)):
            return self._client.head_object(Bucket=self._bucket, Key=self._full(key))["ContentLength"]

    def metadata(self, key: str) -> Mapping[str, str]:
        with translated(self.subject(key)):
            return self._client.head_object(Bucket=self._bucket, Key=self._full(key))["Metadata"]

    def put(self, key: str, data: bytes, put: Stamped) -> str:
        """The ETag."""
        request: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._full(key), "Body": data}
        request["Metadata"] = put.metadata
        if isinstance(put.condition, Create):
            request["IfNoneMatch"] = "*"
        elif isinstance(put.condition, Swap):
            request["IfMatch"] = parts(put.condition.token)[0]
        try:
            with translated(self.subject(key)):
                return self._client.put_object(**request)["ETag"]
        except NotFound:
            if not isinstance(put.condition, Swap):
                raise
            raise CommitConflict(f"{self.subject(key)}: it is gone since it was read") from None

    def page(self, prefix: str, page: str) -> Page:
        request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        if page:
            request["ContinuationToken"] = page
        with translated(self.subject(prefix)):
            reply = self._client.list_objects_v2(**request)
        # Some servers list a folder as an empty object whose name ends in '/'.
        found = [item for item in reply.get("Contents", []) if not item["Key"].endswith("/")]
        entries = [Entry(item["Key"].removeprefix(self._prefix), item["Size"]) for item in found]
        return Page(entries, reply.get("NextContinuationToken", "") if reply["IsTruncated"] else "")

    def delete(self, key: str) -> None:
        with translated(self.subject(key)):
            self._client.delete_object(Bucket=self._bucket, Key=self._full(key))

    def begin_parts(self, key: str, put: Stamped) -> str:
        """The id of a new multipart upload."""
        with translated(self.subject(key)):
            reply = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._full(key), Metadata=put.metadata)
        return reply["UploadId"]

    def put_part(self, key: str, upload: str, number: int, body: bytearray) -> CompletedPartTypeDef:
        # The type stubs do not know that a bytearray will do.
        data = cast("bytes", body)
        with translated(self.subject(key)):
            reply = self._client.upload_part(
                Bucket=self._bucket, Key=self._full(key), UploadId=upload, PartNumber=number, Body=data
            )
        # Its checksum was compared on arrival; only an upload begun with an algorithm may repeat it at the end.
        return {"ETag": reply["ETag"], "PartNumber": number}

    def complete_parts(self, key: str, upload: str, sent: Sequence[CompletedPartTypeDef]) -> None:
        """`NotFound` when the server does not know the upload (any more)."""
        with translated(self.subject(key)):
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=self._full(key), UploadId=upload, MultipartUpload={"Parts": sent}
            )

    def abort_parts(self, key: str, upload: str) -> None:
        with translated(self.subject(key)):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._full(key), UploadId=upload)

    def subject(self, key: str) -> str:
        return f"{self.url}/{key}"

    def _full(self, key: str) -> str:
        full = self._prefix + key
        if len(full.encode()) > MAX_KEY_BYTES:
            raise InvalidInput(f"key {full[:40]!r}…: more than {MAX_KEY_BYTES} bytes with the store's prefix")
        return full
