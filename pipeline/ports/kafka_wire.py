"""Connections to Kafka brokers: how one is opened, why it could not be, and what the client's errors mean.

The client tries again until it runs out of time and then says that it did; what the brokers said meanwhile is kept here. It
writes whole requests into its debug log, the one with the password too; those are held back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import kafka.errors as kafka_errors
from kafka.admin import KafkaAdminClient
from kafka.net.compat import KafkaNetClient

from ..core.errors import Corrupt, InvalidInput, Refused, Unreachable, Unsupported
from .kafka_options import connection_options

T = TypeVar("T")
REQUEST_TIMEOUT_MS = 5_000
"""How long one request may take; what a hanging broker can add to any call."""
RECONNECT_MS = 500
"""The longest pause between attempts to connect, so that a broker that is back is found at once."""
HANG_UPS = 2
"""So often in a row is no accident."""
UNANSWERED = "is the server up, and is what [log] url and [log.options] (security_protocol, sasl_mechanism) say of it right?"
NOT_LET_IN = "do [log.options] sasl_mechanism, sasl_plain_username and sasl_plain_password name a user that the brokers know?"
NOT_TRUSTED = "[log.options] ssl_cafile names who signed the brokers' certificates, ssl_certfile the one that they ask for"
_REFUSALS = (
    kafka_errors.AuthorizationError,
    kafka_errors.PolicyViolationError,
    kafka_errors.InvalidReplicationFactorError,
    kafka_errors.InvalidConfigurationError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidPartitionsError,
    kafka_errors.InvalidRequestError,
)
_SASL_ERRORS = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)
_TIMEOUTS = (kafka_errors.KafkaTimeoutError, kafka_errors.RequestTimedOutError)
_TLS_REFUSAL = re.compile(r"certificate|WRONG_VERSION_NUMBER|_ALERT_|HANDSHAKE_FAILURE", re.IGNORECASE)
"""In the text of a failed handshake: it failed for good, not because a broker went away."""


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Turns a client error inside into the error of the tree that it means; `subject` says what was asked of whom.

    Not to be let in any more is `Unreachable`: a broker that has just begun does not know its users yet."""
    try:
        yield
    except _REFUSALS as error:
        raise Refused(f"{subject}: {error}") from error
    except _SASL_ERRORS as error:
        raise Unreachable(f"{subject} does not let this client in: {error}", hint=NOT_LET_IN) from error
    except kafka_errors.UnsupportedVersionError as error:
        raise Unsupported(f"{subject}: {error}") from error
    except kafka_errors.CorruptRecordError as error:
        raise Corrupt(f"{subject}: {error}") from error
    except kafka_errors.KafkaConfigurationError as error:
        raise InvalidInput(f"{subject}: {error}") from error
    except (kafka_errors.KafkaError, OSError) as error:
        raise Unreachable(f"{subject} does not answer: {error}", hint=UNANSWERED) from error


def open_admin(servers: str, options: Mapping[str, str]) -> KafkaAdminClient:
    """A client for `host:port,…`; `Unreachable` when none of them answers, `Refused` when they do not let it in, or are not those
    that it trusts."""
    url = f"kafka://{servers}"
    given = {"bootstrap_servers": servers.split(","), **connection_options(options)}
    with translated(url):
        try:
            return connected(KafkaAdminClient, given)
        except _SASL_ERRORS as error:
            raise Refused(f"{url} does not let this client in: {error}", hint=NOT_LET_IN) from error
        except kafka_errors.KafkaConnectionError as error:
            if _is_telling(error):
                raise Refused(f"{url}: {error}", hint=NOT_TRUSTED) from error
            raise


def connected(kind: Callable[..., T], options: Mapping[str, Any], **settings: object) -> T:
    """A client of this kind that has met a broker. Fails with what the brokers said, rather than with how long that took, and
    leaves no thread behind."""
    made: list[Any] = []
    failures: list[Exception] = []

    def client(**configs: object) -> Any:
        found = KafkaNetClient(**configs)
        made.append(found)
        get = found._manager.get_connection

        def get_connection(*args: object, **options: object) -> Any:
            connection = get(*args, **options)
            connection.init_future.add_errback(failures.append)
            return connection

        found._manager.get_connection = get_connection
        return found

    try:
        found = kind(
            **{
                "bootstrap_timeout_ms": REQUEST_TIMEOUT_MS,
                "request_timeout_ms": REQUEST_TIMEOUT_MS,
                "reconnect_backoff_max_ms": RECONNECT_MS,
                **options,
                **settings,
            },
            kafka_client=client,
        )
    except BaseException as error:
        for each in made:
            each.close()
            each._net.stop()
        if isinstance(error, kafka_errors.KafkaTimeoutError) and failures:
            raise _reason(failures, str(options["security_protocol"])) from None
        raise
    for each in made:
        del each._manager.get_connection
    return found


def _reason(failures: Sequence[Exception], protocol: str) -> Exception:
    """What the brokers said that is for good, else what happened last. The client may lose the answer to a wrong password, as the
    broker hangs up behind it; but one that is away would not take the connection each time."""
    for error in failures:
        if _is_telling(error):
            return error
    # The last attempt ends as its time does.
    told = [error for error in failures if not isinstance(error, _TIMEOUTS)]
    if protocol.startswith("SASL") and len(told) >= HANG_UPS and all("disconnected" in str(error) for error in told):
        hung_up: Exception = kafka_errors.SaslAuthenticationFailedError("the broker hangs up while this client says who it is")
        return hung_up
    return (told or failures)[-1]


def _is_telling(error: Exception) -> bool:
    """Whether this is for good, and not of a broker that is away."""
    return isinstance(error, _SASL_ERRORS) or _TLS_REFUSAL.search(str(error)) is not None


def _is_fit_to_log(record: logging.LogRecord) -> bool:
    """Not the requests that hold a password, nor the bytes of any."""
    if record.levelno > logging.DEBUG:
        return True
    arguments = record.args if isinstance(record.args, tuple) else ()
    return record.name != "kafka.protocol.parser" and not any("Sasl" in type(each).__name__ for each in arguments)


# Where no log is set up, what the client says is said by the error that is raised.
logging.getLogger("kafka").addHandler(logging.NullHandler())
for _name in ("kafka.protocol.parser", "kafka.net.connection"):
    logging.getLogger(_name).addFilter(_is_fit_to_log)
