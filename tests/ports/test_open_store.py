import subprocess
import sys
from pathlib import Path

import pytest

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.ports.open_store import open_store
from penstock.pipeline.ports.store import Create


def test_a_folder_by_its_url(tmp_path):
    folder = tmp_path / "with space"
    store = open_store(folder.as_uri())
    store.put("k", b"x", Create())
    assert store.url == folder.as_uri()
    assert (folder / "k").read_bytes() == b"x"


def test_a_bucket_by_its_url(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    for url, kept in [("s3://bucket/some/prefix/", "s3://bucket/some/prefix"), ("s3://bucket", "s3://bucket")]:
        assert open_store(url, endpoint="http://127.0.0.1:1").url == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/x",
        "srv",
        "file:/srv",
        "file://srv/x",
        "file://",
        "file:///a\0b",
        "s3://",
        "s3:///x",
        "s3://b/../x",
        "http://x/y",
    ],
)
def test_another_url_is_refused(url):
    with pytest.raises(InvalidInput):
        open_store(url)


def test_an_endpoint_is_for_servers_only(tmp_path):
    with pytest.raises(InvalidInput, match="endpoint"):
        open_store(tmp_path.as_uri(), endpoint="http://127.0.0.1:1")
    with pytest.raises(InvalidInput, match="nonsense"):
        open_store("s3://bucket", endpoint="nonsense")


def test_a_folder_needs_no_boto3():
    text = (
        "import sys; from penstock.pipeline.ports.open_store import open_store; "
        f"open_store({Path.cwd().as_uri()!r}); assert not {{'boto3', 'botocore'}} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0
