"""The policies that docs/deploy.md gives to readers and writers are enough for their work, on a server that enforces them."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError
from deployment_files import ROOT
from servers.kafka import skip_or_fail
from servers.s3 import ServerMissing, await_answer, free_port, versitygw
from waiting import reached

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.config import parse_config
from penstock.pipeline.core.errors import PenstockError
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.publishers import FRESH, Delivery
from penstock.publishers.verification import verify
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import to_version
from penstock.serving.replica import Replica

pytestmark = pytest.mark.s3
BUCKET = "penstock"
WHO = ("reader", "writer")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """The endpoint of a server that has both users, with their policies."""
    try:
        binary = versitygw()
    except ServerMissing as missing:
        skip_or_fail(missing)
    folder, port, root = tmp_path_factory.mktemp("gateway"), free_port(), secrets.token_hex(8)
    for name in ("data", "users"):
        (folder / name).mkdir()
    command = [binary, "--quiet", "--health", "/health", "--port", f"127.0.0.1:{port}", "--iam-dir", folder / "users"]
    environment = os.environ | {"ROOT_ACCESS_KEY": "root", "ROOT_SECRET_KEY": root}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "posix", folder / "data"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        endpoint = f"http://127.0.0.1:{port}"
        await_answer(server, f"{endpoint}/health", folder / "log")
        for who in WHO:
            admin = [binary, "admin", "-a", "root", "-s", root, "-er", endpoint, "create-user"]
            subprocess.run([*admin, "-a", who, "-s", f"{who}-secret", "-r", "user"], check=True, capture_output=True, timeout=30)
        s3 = boto3.Session().client(
            "s3", endpoint_url=endpoint, aws_access_key_id="root", aws_secret_access_key=root, region_name="us-east-1"
        )
        s3.create_bucket(Bucket=BUCKET)
        s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy()))
        yield endpoint
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def policy():
    """Both policies of the page, as the one of the bucket."""
    page = (ROOT / "docs/deploy.md").read_text()
    given = [json.loads(text)["Statement"] for text in re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    statements = [each | {"Principal": {"AWS": who}} for who, those in zip(WHO, given, strict=True) for each in those]
    return {"Version": "2012-10-17", "Statement": statements}


@pytest.fixture
def config(gateway, tmp_path):
    return parse_config(
        f"""
        [store]
        url = "s3://{BUCKET}/models"
        endpoint = "{gateway}"
        [log]
        url = "{(tmp_path / "log").as_uri()}"
        partitions = 1
        [models.{tmp_path.name}]
        buckets = 4
        [models.{tmp_path.name}.tables.item]
        keys = "item/keys"
        rows = "item/rows"
        """,
        "test",
    )


@pytest.fixture
def acting(monkeypatch):
    def become(who):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", who)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{who}-secret")

    return become


def published(config):
    """What a trainer and an operator do, as whoever acts."""
    (model,) = config.models
    with Delivery.open(config, publisher="trainer", resume=FRESH) as delivery:
        rows = np.ones((3, 2), np.float32)
        delivery.updates().put("item", [1, 2, 3], rows, trained_through=system_clock())
        first = delivery.publish_snapshot({"item": (np.arange(1, 4), rows)})
        delivery.updates().put("item", [1], 2 * rows[:1], trained_through=system_clock())
        delivery.updates().mark()
        delivery.publish_delta_from_log()
    with open_environment(config, model) as env:
        made = execute(env, plan_rollback(env, to_version(first.version)), why="a test")
        assert verify(env, made.version).ok
    return model


def test_writers_and_readers_can_do_their_work(config, acting):
    acting("writer")
    model = published(config)
    acting("reader")
    with open_environment(config, model) as env:
        replica = Replica(env, name="replica-0")
        replica.start()
        try:
            assert replica.lookup("item", np.array([1])).rows.tolist() == [[1.0, 1.0]]
            reached(lambda: leases.presences(env.catalog, now=env.clock()))
        finally:
            replica.close()
        assert not leases.presences(env.catalog, now=env.clock())


def test_readers_change_nothing_but_their_presence(config, acting, gateway):
    acting("writer")
    model = published(config)
    acting("reader")
    with open_environment(config, model) as env:
        before = env.catalog.refs()
        with pytest.raises(PenstockError, match="denied|Denied|may not"):
            execute(env, plan_rollback(env, to_version(before.trunk)), why="a test")
        assert env.catalog.refs() == before
    s3 = boto3.Session().client("s3", endpoint_url=gateway, region_name="us-east-1")
    for key in (keys.refs(model), keys.schema(model)):
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_object(Bucket=BUCKET, Key=f"models/{key}", Body=b"{}")
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.delete_object(Bucket=BUCKET, Key=f"models/{key}")


def test_nobody_writes_beside_the_models(acting, gateway):
    for who in WHO:
        acting(who)
        s3 = boto3.Session().client("s3", endpoint_url=gateway, region_name="us-east-1")
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_object(Bucket=BUCKET, Key="elsewhere", Body=b"")
