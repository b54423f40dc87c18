"""What several modules of replicas and clients start from; a module that needs another world makes its own."""

import pytest
from certificates import Authority
from served import world_with


@pytest.fixture
def world():
    """With a first snapshot."""
    return world_with()


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certified(authority):
    """Settings of a server with a certificate."""
    certificate, key = authority.certificate("replica")
    return {"tls_cert": str(certificate), "tls_key": str(key)}
