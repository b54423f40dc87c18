"""The security options of a Kafka log: refused by name before any broker is asked, and never shown."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import pytest
from servers.kafka_security import Security

from penstock.pipeline.config import parse_config
from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.ports.kafka_options import connection_options
from penstock.pipeline.ports.open_log import open_log

SASL = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
USER = {"sasl_plain_username": "u", "sasl_plain_password": "top-secret"}


def test_what_is_given_is_passed_on_and_a_password_shows_itself_to_nobody() -> None:
    found = connection_options(SASL | USER | {"proxy_url": "http://me:top-secret@proxy:3128"})
    assert found == SASL | USER | {"proxy_url": "http://me:top-secret@proxy:3128"}
    assert "top-secret" not in repr(found) + f"{found}"
    assert connection_options({}) == {"security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"acks": "0"}, "acks"),
        ({"security_protocol": "TLS"}, "security_protocol"),
        (USER, "sasl_plain_username"),
        ({"security_protocol": "SSL", **USER}, "sasl_plain_username"),
        ({"ssl_cafile": "/ca.pem"}, "ssl_cafile"),
        ({**SASL, **USER, "ssl_check_hostname": "false"}, "ssl_check_hostname"),
        ({"security_protocol": "SASL_PLAINTEXT", **USER}, "sasl_mechanism"),
        ({**SASL, **USER, "sasl_mechanism": "OAUTHBEARER"}, "sasl_mechanism"),
        ({**SASL, "sasl_plain_password": "top-secret"}, "sasl_plain_username"),
        ({**SASL, "sasl_plain_username": "u", "sasl_plain_password": ""}, "sasl_plain_password"),
        ({"security_protocol": "SSL", "ssl_cafile": "/nowhere"}, "ssl_cafile: No such file"),
        ({"security_protocol": "SSL", "ssl_cafile": __file__}, "ssl_cafile"),
        ({"security_protocol": "SSL", "ssl_certfile": "/nowhere"}, "ssl_certfile"),
        ({"security_protocol": "SSL", "ssl_crlfile": "/nowhere"}, "ssl_crlfile"),
        ({"security_protocol": "SSL", "ssl_keyfile": "/nowhere"}, "ssl_keyfile"),
        ({"security_protocol": "SSL", "ssl_password": "top-secret"}, "ssl_password"),
        ({"security_protocol": "SSL", "ssl_ciphers": "top-secret"}, "ssl_ciphers"),
        ({"security_protocol": "SSL", "ssl_check_hostname": "perhaps"}, "ssl_check_hostname"),
        ({"proxy_url": "top-secret"}, "proxy_url"),
        ({"proxy_url": "ftp://me:top-secret@proxy:1"}, "proxy_url"),
        ({"proxy_url": "http://me:top-secret@proxy:port"}, "proxy_url"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_its_name(options: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as refused:
        connection_options(options)
    assert "top-secret" not in f"{refused.value} {refused.value.hint}"


def test_tls_is_checked_and_a_key_with_another_password_is_refused(tmp_path: Path) -> None:
    security = Security(tmp_path)
    security.lock_client_key("top-secret")
    given = {"security_protocol": "SSL", "ssl_cafile": str(tmp_path / "ca.crt"), **security.client_certificate()}
    context = connection_options(given | {"ssl_password": "top-secret"})["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    for wrong in ({}, {"ssl_password": "another-secret"}):
        with pytest.raises(InvalidInput, match="ssl_password") as refused:
            connection_options(given | wrong)
        assert "secret" not in str(refused.value)
    assert connection_options(given | {"ssl_password": "top-secret", "ssl_check_hostname": "False"})


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidInput, match="no password") as refused:
        open_log("kafka://me:top-secret@127.0.0.1:1/?x", name="retail")
    assert "secret" not in f"{refused.value}"


def test_a_config_that_is_printed_shows_the_names_of_its_options_alone() -> None:
    text = '[store]\nurl = "file:///x"\n[log]\nurl = "kafka://h:1"\n[log.options]\nsasl_plain_password = "top-secret"\n'
    shown = repr(parse_config(text, "c"))
    assert "top-secret" not in shown
    assert "options=['sasl_plain_password']" in shown
    with pytest.raises(InvalidInput) as refused:
        parse_config(text.replace('"top-secret"', "20031999"), "c")
    assert "20031999" not in str(refused.value)


def test_requests_that_hold_a_password_are_kept_out_of_the_clients_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    from kafka.protocol.sasl import SaslAuthenticateRequest

    import penstock.pipeline.ports.kafka_wire  # noqa: F401  it sets the client's log up

    with caplog.at_level(logging.DEBUG):
        logging.getLogger("kafka.net.connection").debug("Request %d: %s", 3, SaslAuthenticateRequest(b"top-secret"))
        logging.getLogger("kafka.protocol.parser").debug("Send: %r", b"top-secret")
        logging.getLogger("kafka.net.connection").debug("Response %d", 3)
        logging.getLogger("kafka.protocol.parser").error("too long")
    assert [record.getMessage() for record in caplog.records] == ["Response 3", "too long"]
