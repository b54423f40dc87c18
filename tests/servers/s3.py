"""A real S3 server for tests and benches: the one that PENSTOCK_TEST_S3 names (an endpoint; credentials by boto3's own
chain), else a versitygw of our own, built once by `go install` into the cache folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

VERSION = "v1.8.0"
CACHE = Path(__file__).parents[2] / ".cache" / "servers"
START_S = 120.0


class ServerMissing(Exception):
    """The server can be neither found nor built here; says what is missing."""


def versitygw() -> Path:
    """The server's executable, built on first use."""
    if found := shutil.which("versitygw"):
        return Path(found)
    folder = CACHE / f"versitygw-{VERSION}"
    binary = folder / "versitygw"
    if binary.exists():
        return binary
    go = shutil.which("go")
    if not go:
        raise ServerMissing("no S3 server: neither versitygw nor go is installed, and PENSTOCK_TEST_S3 is not set")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as built:
        command = [go, "install", f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"]
        done = subprocess.run(
            command, env={**os.environ, "GOBIN": built}, capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode:
            raise ServerMissing(f"no S3 server: go install of versitygw {VERSION} failed: {done.stderr.strip()[-200:]}")
        folder.mkdir(exist_ok=True)
        os.replace(Path(built) / "versitygw", binary)
    return binary


@contextmanager
def running_s3(folder: Path) -> Iterator[str]:
    """An S3 server over `folder`; yields its endpoint. AWS_ACCESS_KEY_ID and _SECRET_ACCESS_KEY are set to its own meanwhile."""
    binary = versitygw()
    data = folder / "buckets"
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "penstock", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
    environment = {**os.environ, "ROOT_ACCESS_KEY": keys["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": keys["AWS_SECRET_ACCESS_KEY"]}
    command = [str(binary), "--quiet", "--keep-alive", "--health", "/health", "--port", f"127.0.0.1:{port}", "posix"]
    with open(folder / "versitygw.log", "wb") as log:
        server = subprocess.Popen([*command, str(data)], env=environment, stdout=log, stderr=log, start_new_session=True)
    endpoint = f"http://127.0.0.1:{port}"
    before = {name: os.environ.get(name) for name in keys}
    try:
        await_answer(server, endpoint + "/health", folder / "versitygw.log")
        os.environ.update(keys)
        yield endpoint
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def new_bucket(endpoint: str) -> str:
    """The name of a bucket made for the caller."""
    name = f"test-{secrets.token_hex(6)}"
    session = boto3.Session()  # the default one keeps the credentials of the first server
    client = session.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a running S3 server."""
    if endpoint := os.environ.get("PENSTOCK_TEST_S3"):
        yield endpoint
        return
    try:
        versitygw()
    except ServerMissing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with running_s3(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def s3_bucket(s3_server: str) -> str:
    """The name of an empty bucket on `s3_server`."""
    return new_bucket(s3_server)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_answer(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Returns once `url` answers; `RuntimeError` where the server has ended, or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"versitygw does not answer: {log.read_text()[-500:]}")
