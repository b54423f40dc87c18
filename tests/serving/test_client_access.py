"""How a client is let in: TLS, certificates and tokens; and where it finds replicas by a config or a name."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exchanges import serve

from penstock.pipeline.config import parse_config
from penstock.pipeline.core.errors import Refused, Unreachable
from penstock.serving import AsyncClient, Client
from penstock.serving.sources import Named

__all__ = ["serve"]
KEYS = np.arange(12)
TOKEN, OTHER = "one-" + "x" * 20, "two-" + "y" * 20


def is_answered(client):
    with client:
        return client.lookup("item", KEYS)[1].all() and client.status().replica == "r" and not client.counters.failures


def test_a_server_with_a_certificate(serve, authority, certified):
    url = serve(**certified).address
    assert url.startswith("grpc+tls://")
    assert is_answered(Client(url, tls_root=authority.root))
    assert is_answered(Client.from_dns(url.replace("127.0.0.1", "localhost"), tls_root=str(authority.root)))
    with Client(url, timeout_s=1) as client, pytest.raises(Unreachable):
        client.lookup("item", KEYS)


def test_an_address_is_dialled_and_the_name_is_checked(serve, authority, certified):
    port = serve(**certified).port
    for name, is_right in (("replica", True), ("localhost", True), ("other", False)):
        source = Named(f"grpc+tls://{name}:{port}", resolve=lambda host, port: ["127.0.0.1"])
        with Client(source, tls_root=authority.root, server_name=name, timeout_s=60 if is_right else 1) as client:
            if is_right:
                assert client.lookup("item", KEYS)[1].all()
            else:
                with pytest.raises(Unreachable):
                    client.lookup("item", KEYS)


def test_a_server_that_asks_for_a_certificate(serve, authority, certified):
    url = serve(**certified, tls_client_ca=str(authority.root)).address
    certificate, key = authority.certificate("client")
    assert is_answered(Client(url, tls_root=authority.root, tls_cert=certificate, tls_key=key))
    with Client(url, tls_root=authority.root, timeout_s=1) as client, pytest.raises(Unreachable):
        client.lookup("item", KEYS)


def test_a_token_is_sent_along_and_who_has_none_is_told_at_once(serve, tmp_path):
    taken, sent = tmp_path / "taken", tmp_path / "sent"
    taken.write_text(TOKEN)
    sent.write_text(TOKEN)
    url = serve(token_file=str(taken)).address
    assert is_answered(Client(url, token=TOKEN))
    assert is_answered(Client(url, token_file=sent))
    for token in (None, OTHER):
        with Client(url, token=token, timeout_s=600) as client:
            with pytest.raises(Refused, match="token"):
                client.lookup("item", KEYS)
            with pytest.raises(Refused, match="token"):
                client.status()


def test_a_token_is_replaced_while_the_client_goes_on(serve, tmp_path):
    taken, sent = tmp_path / "taken", tmp_path / "sent"
    taken.write_text(f"{TOKEN}\n{OTHER}")
    sent.write_text(TOKEN)
    with Client(serve(token_file=str(taken)).address, token_file=sent) as client:
        assert client.lookup("item", KEYS)[1].all()
        sent.write_text(OTHER)
        client._means.fleet.access.renew()
        assert client.lookup("item", KEYS)[1].all()
        assert client._means.fleet.access.headers() == [(b"authorization", f"Bearer {OTHER}".encode())]


def test_a_config_that_names_the_replicas(serve, tmp_path):
    url = serve().address
    text = f'[store]\nurl = "file:///nowhere"\n[log]\nurl = "file:///nowhere"\n[models.retail]\n[client]\nurls = ["{url}"]\n'
    path = tmp_path / "penstock.toml"
    path.write_text(text)
    assert is_answered(Client.from_config(path))
    assert is_answered(Client.from_config(str(path), "retail", timeout_s=5))
    assert is_answered(AsyncClient.from_config(path).client)
    dns = text.replace(f'urls = ["{url}"]', f'dns = "{url}"')
    assert is_answered(Client.from_config(parse_config(dns, "a test")))


def test_the_page_about_clients_shows_a_config_that_is_one():
    page = (Path(__file__).parents[2] / "docs/clients.md").read_text()
    (shown,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    config = parse_config('[store]\nurl = "file:///nowhere"\n[log]\nurl = "file:///nowhere"\n' + shown, "docs/clients.md")
    assert (config.client.timeout, config.client.hedge_percent) == ("50ms", 5)


def test_a_client_loads_no_compiler_and_no_replica():
    code = "import sys; from penstock.serving import AsyncClient, Client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numba", "boto3", "kafka", "penstock.serving.replica"} & set(loaded)
