"""Who is let in: TLS, certificates of clients, bearer tokens; and what a config may not say."""

import numpy as np
import pytest
from certificates import Authority
from exchanges import connect, serve
from pyarrow import flight

from penstock.pipeline.config import ReplicaConfig, parse_config
from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, Unreachable
from penstock.serving.credentials import LONGEST, REREAD_S, TOKENS, Tokens, read_certificates, read_tokens

__all__ = ["connect", "serve"]
KEYS_OF = np.arange(12)
OLD, NEW = "old-" + "x" * 20, "new-" + "y" * 20


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# made by hand\n\n{OLD}\n  {NEW}  \n")
    return path


def bearer(token, scheme="Bearer"):
    return [(b"authorization", f"{scheme} {token}".encode())]


def is_answered(raw):
    return raw.ask(["item"], [KEYS_OF])[1][0][1].all() and raw.act("health")["replica"] == "r"


@pytest.mark.parametrize(("token", "scheme"), [(OLD, "Bearer"), (NEW, "bearer")])
def test_who_shows_one_of_the_tokens_is_answered(serve, connect, token_file, token, scheme):
    assert is_answered(connect(serve(token_file=str(token_file)), headers=bearer(token, scheme)))


@pytest.mark.parametrize(
    ("headers", "match"),
    [
        ([], "asks for a token, and none was sent"),
        (bearer("wrong-" + "x" * 20), "not one of those"),
        (bearer(OLD[:-1]), "not one of those"),
        (bearer(OLD + "x"), "not one of those"),
        (bearer("# made by hand"), "not one of those"),
        (bearer(""), "sent|not one of those"),
        (bearer(OLD, "Basic"), "none was sent"),
        ([*bearer(OLD), *bearer(OLD)], "none was sent"),
    ],
)
def test_who_shows_none_is_told_and_learns_nothing(serve, connect, token_file, caplog, headers, match):
    server = serve(token_file=str(token_file))
    raw = connect(server, headers=headers)
    for call in (lambda: raw.ask(["item"], [KEYS_OF]), lambda: raw.act("status"), lambda: raw.act("dense")):
        with pytest.raises(Refused, match=match) as caught:
            call()
        assert "token" in caught.value.hint
        assert OLD not in str(caught.value)
    with pytest.raises(flight.FlightUnauthenticatedError):
        list(raw.flight.list_actions(raw.options))
    assert server.admission.calls == 0
    assert server.load().lookups == 0
    assert OLD not in caplog.text


def test_tokens_change_without_a_restart_and_a_bad_file_changes_nothing(token_file, caplog):
    now = [0.0]
    tokens = Tokens(token_file, clock=lambda: now[0])
    token_file.write_text(NEW)
    assert tokens.admits(OLD)
    now[0] += REREAD_S
    assert not tokens.admits(OLD)
    assert tokens.admits(NEW)
    for bad in ("short", "é" * 20):
        token_file.write_text(bad)
        now[0] += REREAD_S
        assert tokens.admits(NEW)
        assert "the tokens stay as they were" in caplog.text
        assert bad not in caplog.text
    token_file.unlink()
    now[0] += REREAD_S
    assert tokens.admits(NEW)
    token_file.write_text("")
    now[0] += REREAD_S
    assert not tokens.admits(NEW)


def test_tokens_of_the_environment(monkeypatch, token_file):
    assert read_tokens(ReplicaConfig()) is None
    monkeypatch.setenv(TOKENS, f"{OLD}  {NEW}")
    for settings in (ReplicaConfig(), ReplicaConfig(token_file=str(token_file))):
        tokens = read_tokens(settings)
        assert tokens.admits(OLD)
        assert tokens.admits(NEW)
        assert not tokens.admits(f"{OLD}  {NEW}")
    monkeypatch.setenv(TOKENS, "short")
    with pytest.raises(InvalidInput, match="PENSTOCK_TOKENS: token 1 has not 16"):
        read_tokens(ReplicaConfig())


@pytest.mark.parametrize(
    "text", ["", "# nothing but words\n", "short\n", "has a blank in it, so it is none\n", "x" * (LONGEST + 1), "é" * 20,
             "\n".join(f"{n:020}" for n in range(100))]
)  # fmt: skip
def test_a_file_that_holds_no_good_tokens(tmp_path, text):
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="tokens"):
        read_tokens(ReplicaConfig(token_file=str(path)))


def test_tls(serve, connect, authority, certified):
    server = serve(**certified)
    assert server.address.startswith("grpc+tls://127.0.0.1:")
    assert is_answered(connect(server, tls_root_certs=authority.root.read_bytes()))
    for plain in (connect(f"grpc://127.0.0.1:{server.port}", timeout_s=5), connect(server, timeout_s=5)):
        with pytest.raises(Unreachable):
            plain.act("health")
    assert is_answered(connect(server, tls_root_certs=authority.root.read_bytes()))


def test_mutual_tls_and_a_token(serve, connect, authority, certified, token_file, tmp_path):
    server = serve(**certified, tls_client_ca=str(authority.root), token_file=str(token_file))
    certificate, key = (path.read_bytes() for path in authority.certificate("client"))
    foreign_certificate, foreign_key = (path.read_bytes() for path in Authority(tmp_path / "other").certificate("client"))
    trust = {"tls_root_certs": authority.root.read_bytes()}
    shown = {**trust, "cert_chain": certificate, "private_key": key}
    assert is_answered(connect(server, headers=bearer(OLD), **shown))
    with pytest.raises(Refused, match="none was sent"):
        connect(server, **shown).act("health")
    for options in (trust, {**trust, "cert_chain": foreign_certificate, "private_key": foreign_key}):
        with pytest.raises(Unreachable):
            connect(server, headers=bearer(OLD), timeout_s=5, **options).act("health")


def test_files_that_are_no_certificates(serve, authority, certified, tmp_path):
    other = authority.certificate("other")[1]
    (tmp_path / "empty").write_bytes(b"")
    broken = tmp_path / "broken"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for error, settings in (
        (NotFound, {**certified, "tls_key": str(tmp_path / "missing")}),
        (InvalidInput, {**certified, "tls_cert": str(tmp_path / "empty")}),
        (InvalidInput, {**certified, "tls_key": certified["tls_cert"]}),
        (InvalidInput, {**certified, "tls_client_ca": str(tmp_path)}),
        (Unreachable, {**certified, "tls_cert": str(broken)}),
        (Unreachable, {**certified, "tls_key": str(other)}),
    ):
        with pytest.raises(error):
            serve(**settings)


def test_a_key_is_not_shown(certified):
    found = read_certificates(ReplicaConfig(**certified))
    assert b"PRIVATE KEY" in found.key
    assert "PRIVATE KEY" not in repr(found)
    assert read_certificates(ReplicaConfig()) is None


@pytest.mark.parametrize("settings", ['tls_cert = "a"', 'tls_key = "a"', 'tls_client_ca = "a"', 'max_wait = "soon"'])
def test_a_config_that_makes_no_sense(settings):
    text = f'[store]\nurl = "file:///x"\n[log]\nurl = "file:///y"\n[replica]\n{settings}\n'
    with pytest.raises(InvalidInput, match="replica"):
        parse_config(text, "penstock.toml")
