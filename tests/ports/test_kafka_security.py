"""A broker that speaks TLS alone and asks for a password: those who have both publish, serve and administer; the others are told
what is wrong in one line, and nobody is told the password."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from command_shell import Shell
from servers.kafka import KafkaBroker
from servers.kafka_security import PLAIN, SCRAM, Security

from penstock.pipeline.config import load_config
from penstock.pipeline.core.errors import PenstockError, Refused, Unreachable
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.kafka_log import open_kafka_log
from penstock.pipeline.ports.log_checks import LogSettings
from penstock.publishers import FRESH, Delivery
from penstock.serving.replica import Replica

pytestmark = pytest.mark.kafka
P0 = Partition(0)
WAIT_S = 60.0
WRONG = "Wr0ng-password"
TOML = """
[store]
url = "{store}"
[log]
url = "kafka://{servers}"
partitions = 2
[models.shop]
buckets = 4
[log.options]
"""


def written(folder: Path, servers: str, options: dict[str, str]) -> Path:
    path = folder / "penstock.toml"
    lines = [f'{name} = "{value}"\n' for name, value in options.items()]
    path.write_text(TOML.format(store=(folder / "store").as_uri(), servers=servers) + "".join(lines))
    return path


def causes(error: BaseException | None) -> str:
    """All that is said by an error and by those behind it."""
    said = ""
    while error is not None:
        said += f"{error!r} {error} {getattr(error, 'hint', '')} "
        error = error.__cause__ or error.__context__
    return said


def test_a_publisher_a_replica_and_an_operator_are_let_in(
    secured_kafka: KafkaBroker, kafka_security: Security, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    options = kafka_security.options(SCRAM) | kafka_security.client_certificate()
    config, keys = written(tmp_path, secured_kafka.bootstrap, options), np.arange(9)
    caplog.set_level(logging.DEBUG)
    with Delivery.open(config, publisher="trainer", resume=FRESH) as delivery:
        delivery.updates().put("item", keys, np.ones((9, 4), np.float32), trained_through="2026-11-01T10:00:00Z")
        delivery.publish_snapshot({"item": (keys, np.ones((9, 4), np.float32))})
        delivery.updates().put("item", keys[:3], np.full((3, 4), 2, np.float32), trained_through="2026-11-01T10:01:00Z")
    with open_environment(load_config(written(tmp_path, secured_kafka.bootstrap, kafka_security.options(PLAIN))), "shop") as env:
        replica = Replica(env, name="r")
        until = time.monotonic() + WAIT_S
        while replica.lookup("item", keys).rows[:, 0].tolist() != [2.0] * 3 + [1.0] * 6:
            assert time.monotonic() < until
            replica.step(0.1)
        replica.report()
        assert replica.ready(env.clock())
        status = Shell(tmp_path, capsys).json("status")
        assert [entry["end"] for entry in status["log"]] == [env.log.end(Partition(p)) for p in range(2)]
        env.log.truncate(P0, Offset(1))
        assert env.log.begin(P0) == 1
        replica.close()
    assert "DEBUG" in caplog.text
    assert kafka_security.password not in caplog.text + str(status)


@pytest.mark.slow
def test_who_is_not_let_in_is_told_why_in_one_line(
    secured_kafka: KafkaBroker, kafka_security: Security, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    good = kafka_security.options()
    Delivery.open(written(tmp_path, secured_kafka.bootstrap, good), publisher="trainer", resume=FRESH).close()
    wrong = {"sasl_plain_password": WRONG}
    stranger = {"ssl_cafile": str(kafka_security.make_authority("stranger"))}
    cases: list[tuple[dict[str, str], type[PenstockError], str, str]] = [
        (good | wrong, Refused, "does not let this client in", "sasl_plain_password"),
        (kafka_security.options(PLAIN) | wrong, Refused, "does not let this client in", "sasl_plain_password"),
        (good | stranger, Refused, "certificate verify failed", "ssl_cafile"),
        (good | {"sasl_mechanism": "SCRAM-SHA-256"}, Refused, "does not let this client in", "sasl_mechanism"),
        ({"security_protocol": "SSL", "ssl_cafile": good["ssl_cafile"]}, Unreachable, "does not answer", "security_protocol"),
        ({}, Unreachable, "does not answer", "security_protocol"),
    ]
    caplog.set_level(logging.DEBUG)
    for options, kind, why, hint in cases:
        threads = set(threading.enumerate())
        with pytest.raises(kind, match=why) as told:
            open_kafka_log(secured_kafka.bootstrap, "penstock-shop", partitions=None, create=None, options=options)
        assert hint in told.value.hint
        assert WRONG not in causes(told.value)
        assert set(threading.enumerate()) <= threads
    shell = Shell(tmp_path, capsys)
    for options, code in ((good | wrong, Refused.exit_code), (good | {"ssl_cafile": "/nowhere"}, 2)):
        written(tmp_path, secured_kafka.bootstrap, options)
        said = shell("status", "--json")
        assert (said.code, said.out) == (code, "")
        assert [line.split(":")[0] for line in said.err.splitlines()] == ["error", "hint"]
        assert WRONG not in said.err
    assert WRONG not in caplog.text


@pytest.mark.slow
def test_a_broker_that_is_killed_lets_its_users_in_again(
    secured_kafka: KafkaBroker, kafka_security: Security, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.pipeline.ports.kafka_producing.DELIVERY_TIMEOUT_MS", 120_000)  # a busy machine starts it slowly
    options, name = kafka_security.options(SCRAM), f"penstock-{uuid.uuid4().hex}"
    log = open_kafka_log(secured_kafka.bootstrap, name, partitions=1, create=LogSettings(), options=options)
    assert log.append(P0, b"before").result(WAIT_S) == 0
    log.poll({P0: Offset(0)}, timeout_s=WAIT_S)
    secured_kafka.kill()
    meanwhile = log.append(P0, b"meanwhile")
    secured_kafka.start()
    until, found = time.monotonic() + WAIT_S, list[bytes]()
    while len(found) < 2:
        assert time.monotonic() < until
        try:
            found += [entry.payload for entry in log.poll({P0: Offset(len(found))}, timeout_s=1.0).get(P0, ())]
        except Unreachable:
            continue
    assert meanwhile.result(WAIT_S) == 1
    assert found == [b"before", b"meanwhile"]
    log.close()
