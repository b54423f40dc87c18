"""The one place that knows boto3: a client without retries of its own, and what each of its errors means.

boto3 would repeat a conditional put whose reply was lost, and report the 412 that its own first try caused. So it is told
not to retry; `repeated` retries what is safe to repeat, and `s3_settlement` what is not.

    OutcomeUnknown    sent, but the reply was lost or was a 5xx: it may have taken effect
    Unreachable       not sent, or not taken (throttled): it has no effect
    Contended         a competing request was under way: it has no effect, and neither of the two need have won
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore import exceptions as sdk
from botocore.config import Config

from ..core.errors import CommitConflict, Corrupt, InvalidInput, NotFound, OutcomeUnknown, PenstockError, StorageFull, Unreachable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
CONNECTIONS = 16
_NOT_SENT = (sdk.EndpointConnectionError, sdk.ConnectTimeoutError, sdk.ProxyConnectionError, sdk.CredentialRetrievalError)
_REPLY_LOST = (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError, sdk.FlexibleChecksumError)
_FULL = {"QuotaExceeded", "InsufficientStorage", "StorageFull", "XMinioStorageFull", "XMinioStorageQuotaExceeded"}
_NOT_TAKEN = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"}
_CONTENDED = {"ConditionalRequestConflict", "OperationAborted"}
_MISPLACED = {"ExistingObjectIsDirectory", "ObjectParentIsFile"}


class Contended(Unreachable):
    """Repeat the same request; does not leave the adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to try: `attempts` requests, pauses that double from `first_s` up to `most_s`, and timeouts in seconds."""

    attempts: int = 5
    first_s: float = 0.1
    most_s: float = 2.0
    connect_s: float = 5.0
    answer_s: float = 30.0

    def pauses(self) -> Iterator[float]:
        """Seconds to wait after each attempt, half of them random; 0 after the last."""
        for attempt in range(self.attempts - 1):
            yield min(self.most_s, self.first_s * 2**attempt) * random.uniform(0.5, 1.0)
        yield 0.0


def connected(*, endpoint: str | None, region: str | None, patience: Patience) -> S3Client:
    """A client by boto3's own chain of credentials; path-style addresses where there is an endpoint."""
    config = Config(
        connect_timeout=patience.connect_s,
        read_timeout=patience.answer_s,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    session = boto3.Session()
    chosen = region or session.region_name or ("us-east-1" if endpoint else None)
    with translated(endpoint or "s3"):
        try:
            return session.client("s3", endpoint_url=endpoint, region_name=chosen, config=config)
        except ValueError as error:
            raise InvalidInput(f"S3 endpoint {endpoint!r}: {error}") from None


def repeated(request: Callable[[], T], patience: Patience) -> T:
    """The request's result, tried again while the server cannot be reached. Only for requests that may take effect twice."""
    failure = Unreachable("no attempt was made")
    for pause_s in patience.pauses():
        try:
            return request()
        except StorageFull:
            raise
        except Unreachable as error:
            failure = error
        time.sleep(pause_s)
    raise Unreachable(f"{failure} ({patience.attempts} attempts)") from failure


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Turns an error of boto3 inside into the one of the tree that it means."""
    try:
        yield
    except sdk.ClientError as error:
        raise _of_reply(error, subject) from error
    except _NOT_SENT as error:
        raise Unreachable(f"{subject}: {error}") from error
    except _REPLY_LOST as error:
        raise OutcomeUnknown(f"{subject}: {error}") from error
    except (sdk.NoCredentialsError, sdk.PartialCredentialsError) as error:
        raise InvalidInput(f"{subject}: {error}", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile") from error
    except sdk.BotoCoreError as error:
        raise InvalidInput(f"{subject}: {error}") from error


def _of_reply(error: sdk.ClientError, subject: str) -> PenstockError:
    details = error.response.get("Error", {})
    code = str(details.get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = f"{subject}: {details.get('Message') or 'no reason given'} ({code or status})"
    if code == "NoSuchBucket":
        return InvalidInput(message, hint="create the bucket, or check [store] url")
    if code in _FULL or status == 507:
        return StorageFull(message)
    if code in _NOT_TAKEN or status == 429:
        return Unreachable(message)
    if code in _CONTENDED:
        return Contended(message)
    if code in _MISPLACED:
        return InvalidInput(message)
    if status in {409, 412}:
        return CommitConflict(f"{subject}: exists already, or changed since it was read ({code})")
    if code == "InvalidRange":
        return Corrupt(f"{subject}: shorter than the range that was asked for")
    if status == 404:
        return NotFound(f"{subject}: no such object")
    if status >= 500 or status < 400:
        return OutcomeUnknown(message)
    if status in {401, 403}:
        return InvalidInput(message, hint="do these credentials allow it?")
    return InvalidInput(message)
