"""The security options of a Kafka log, checked before any broker is asked: SASL, TLS, a proxy. Imports no client, reads the files
that the options name, and keeps what is secret out of every text."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..core.errors import InvalidInput

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
WITH_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = (*WITH_PASSWORD, "GSSAPI", "AWS_MSK_IAM")
PROXIES = ("socks5", "socks5h", "http")
_TLS = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_crlfile", "ssl_ciphers", "ssl_check_hostname")
_SASL = (
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
)
KNOWN = ("security_protocol", *_TLS, *_SASL, "proxy_url")
_SECRET = {"sasl_plain_password", "proxy_url"}
_SWITCHES = {"true": True, "false": False}


class Secret(str):
    """A text that shows itself to nobody who prints the options it stands in."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def connection_options(options: Mapping[str, str]) -> dict[str, Any]:
    """The options as kafka-python takes them, TLS as one `ssl_context`; `InvalidInput` names the one that is unknown, missing, of
    no use under the protocol, or names a file that cannot be read, and never shows a value that may be secret."""
    for name in options:
        if name not in KNOWN:
            raise InvalidInput(f"Kafka option {name!r} is unknown", hint=f"one of {', '.join(KNOWN)}")
    protocol = _one_of(options.get("security_protocol", "PLAINTEXT"), PROTOCOLS, "security_protocol")
    tls, sasl = protocol.endswith("SSL"), protocol.startswith("SASL")
    for given, group, needed in ((tls, _TLS, "SSL or SASL_SSL"), (sasl, _SASL, "SASL_SSL or SASL_PLAINTEXT")):
        for name in group if not given else ():
            if name in options:
                raise InvalidInput(
                    f"Kafka option {name} is of no use with security_protocol {protocol}", hint=f'security_protocol = "{needed}"'
                )
    found: dict[str, Any] = {"security_protocol": protocol}
    found |= {name: Secret(text) if name in _SECRET else text for name, text in options.items() if name not in _TLS}
    if sasl:
        mechanism = _one_of(options.get("sasl_mechanism", ""), MECHANISMS, "sasl_mechanism")
        for name in ("sasl_plain_username", "sasl_plain_password") if mechanism in WITH_PASSWORD else ():
            if not options.get(name):
                raise InvalidInput(f"Kafka option {name} is missing, which sasl_mechanism {mechanism} needs")
    if tls:
        found["ssl_context"] = _context(options)
    if "proxy_url" in options:
        _check_proxy(options["proxy_url"])
    return found


def _one_of(text: str, choices: tuple[str, ...], name: str) -> str:
    if text not in choices:
        raise InvalidInput(f"Kafka option {name} is {text!r}", hint=f"one of {', '.join(choices)}")
    return text


def _context(options: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    name = "ssl_check_hostname"
    try:
        context.check_hostname = _SWITCHES[options.get(name, "true").lower()]
        if name := "ssl_ciphers" if "ssl_ciphers" in options else "":
            context.set_ciphers(options[name])
        name = "ssl_cafile"
        if name in options:
            context.load_verify_locations(cafile=options[name])
        else:
            context.load_default_certs()
        if "ssl_crlfile" in options:
            name = "ssl_crlfile"
            context.load_verify_locations(cafile=options[name])
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if "ssl_certfile" in options:
            name = "ssl_certfile, ssl_keyfile or ssl_password"
            # Without a password a key that has one would be asked for on the terminal.
            password = options.get("ssl_password", "")
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password=lambda: password)
        elif unused := next((each for each in ("ssl_keyfile", "ssl_password") if each in options), None):
            raise InvalidInput(f"Kafka option {unused} is of no use without ssl_certfile")
    except KeyError:
        raise InvalidInput(f"Kafka option {name} is neither true nor false") from None
    except (OSError, ValueError) as error:  # of both kinds are those of ssl
        why = getattr(error, "strerror", None) or type(error).__name__
        raise InvalidInput(f"Kafka option {name}: {why}", hint="a file in PEM format that this process may read") from None
    return context


def _check_proxy(url: str) -> None:
    try:
        parts = urlsplit(url)
        known = parts.scheme in PROXIES and parts.hostname and parts.port
    except ValueError:
        known = None
    if not known:
        raise InvalidInput("Kafka option proxy_url is no proxy's", hint=f"SCHEME://host:port, with one of {', '.join(PROXIES)}")
