"""What a replica's server shows, and what it asks of those who call: certificates and bearer tokens. Tokens are never logged,
shown or compared in a time that tells how much of one was right."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyarrow import flight

from penstock.pipeline.config import ReplicaConfig
from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused

from .wire import extra_of

log = logging.getLogger(__name__)
TOKENS = "PENSTOCK_TOKENS"
"""The variable with the tokens that are taken, a blank between them."""
SHORTEST, LONGEST = 16, 1024
MOST_TOKENS = 64
MOST_BYTES = 1 << 20
REREAD_S = 5.0
SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM. With `client_ca`, only clients with a certificate of that authority are let in."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


class Tokens:
    """Those that are taken: of a file, one a line, read again every few seconds so that a new one can be added before an old one
    goes; and of the environment. `clock`: monotonic seconds."""

    def __init__(self, path: Path | None, environment: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._fixed = _hashed(environment.split(), f"${TOKENS}")
        self._read = () if path is None else _of_file(path)
        self._read_at = clock()
        self._changing = threading.Lock()
        if not self._fixed and not self._read:
            raise InvalidInput(f"{path}: no token, so nobody could call", hint="one a line; `openssl rand -hex 32` makes one")

    def admits(self, token: str) -> bool:
        shown = _hash(token)
        found = False
        for taken in (*self._fixed, *self._current()):
            found |= hmac.compare_digest(shown, taken)
        return found

    def _current(self) -> tuple[bytes, ...]:
        if self._path is None:
            return self._read
        with self._changing:
            if self._clock() - self._read_at >= REREAD_S:
                self._read_at = self._clock()
                try:
                    self._read = _of_file(self._path)
                except (InvalidInput, NotFound) as error:
                    log.warning("the tokens stay as they were: %s", error)
            return self._read


class Gate(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Lets in who sends `authorization: Bearer TOKEN`."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = tokens

    def start_call(self, info: Any, headers: Any) -> None:
        sent = headers.get("authorization", [])
        if len(sent) == 1 and isinstance(sent[0], str) and sent[0][: len(SCHEME)].lower() == SCHEME:
            if self._tokens.admits(sent[0][len(SCHEME) :].strip()):
                return
            why = "the token is not one of those that this replica takes"
        else:
            why = "this replica asks for a token, and none was sent"
        error = Refused(why, hint="Client(..., token=...), with a token of the replica's token_file")
        raise flight.FlightUnauthenticatedError(str(error), extra_of(error))


def read_certificates(settings: ReplicaConfig) -> Certificates | None:
    """As the config says; None: no TLS. `NotFound`, `InvalidInput`: a file that is missing, or no PEM."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    client_ca = None if settings.tls_client_ca is None else _pem(settings.tls_client_ca, "tls_client_ca", b"CERTIFICATE")
    return Certificates(
        _pem(settings.tls_cert, "tls_cert", b"CERTIFICATE"), _pem(settings.tls_key, "tls_key", b"PRIVATE KEY"), client_ca
    )


def read_tokens(settings: ReplicaConfig) -> Tokens | None:
    """As the config and the environment say; None: nobody needs one."""
    environment = os.environ.get(TOKENS, "")
    if settings.token_file is None and not environment.strip():
        return None
    return Tokens(None if settings.token_file is None else Path(settings.token_file), environment)


def check_credentials(settings: ReplicaConfig) -> None:
    """Raises what is wrong with the files, for those who want to know before a long load."""
    read_certificates(settings)
    read_tokens(settings)


def _pem(path: str, setting: str, kind: bytes) -> bytes:
    data = _bytes_of(Path(path), setting)
    if b"-----BEGIN " not in data or kind + b"-----" not in data:
        raise InvalidInput(f"{path}: no PEM file with a {kind.decode().lower()} (at replica.{setting})")
    return data


def _of_file(path: Path) -> tuple[bytes, ...]:
    try:
        lines = _bytes_of(path, "token_file").decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: a token is ASCII (at replica.token_file)") from None
    return _hashed((line.strip() for line in lines if line.strip() and not line.startswith("#")), str(path))


def _bytes_of(path: Path, setting: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"no file {path} (at replica.{setting})") from None
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror} (at replica.{setting})") from None
    if len(data) > MOST_BYTES:
        raise InvalidInput(f"{path}: more than {MOST_BYTES} bytes (at replica.{setting})")
    return data


def _hashed(tokens: Iterable[str], where: str) -> tuple[bytes, ...]:
    found = []
    for number, token in enumerate(tokens, 1):
        if not (SHORTEST <= len(token) <= LONGEST and token.isascii() and token.isprintable() and " " not in token):
            raise InvalidInput(f"{where}: token {number} has not {SHORTEST} to {LONGEST} printable characters without a blank")
        found.append(_hash(token))
    if len(found) > MOST_TOKENS:
        raise InvalidInput(f"{where}: {len(found)} tokens, at most {MOST_TOKENS}")
    return tuple(found)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
