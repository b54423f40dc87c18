"""A real Kafka broker (KRaft, one node) for tests, benches and the demo; it can be killed and started again on its data.

    with running_kafka(directory) as broker:      # broker.bootstrap is "127.0.0.1:PORT"
    python -m servers.kafka DIRECTORY             # the same from a shell (in tests/), until it is interrupted

The fixture `kafka_server` gives the broker that PENSTOCK_TEST_KAFKA names, else starts one. With `kafka_security.Security` a
broker speaks TLS only, and asks for a password.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

from .kafka_security import Security, SecurityUnavailable

ROOT = Path(__file__).resolve().parents[2]
POM = Path(__file__).with_name("kafka-pom.xml")
JARS = ROOT / ".cache" / "servers" / "kafka"
START_TIMEOUT_S = 120.0
CLUSTER_ID = "cGVuc3RvY2stdGVzdHMtMQ"


class KafkaUnavailable(Exception):
    """What is missing, in one line."""


def installed_jars() -> Path:
    """The folder of the broker's jars, fetched with Maven on first use and again when the pom changes."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if _is_installed() and "java" not in missing:
        return JARS
    if missing:
        raise KafkaUnavailable(f"a Kafka broker needs {' and '.join(missing)}, or PENSTOCK_TEST_KAFKA=host:port")
    JARS.parent.mkdir(parents=True, exist_ok=True)
    with (JARS.parent / "kafka.lock").open("w") as lock:
        # Test processes come here at the same time: one fetches, and none takes away what another has begun to use.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_installed():
            _fetch()
    return JARS


def _is_installed() -> bool:
    stamp = JARS / "stamp"
    return stamp.exists() and stamp.read_bytes() == POM.read_bytes()


def _fetch() -> None:
    with tempfile.TemporaryDirectory(dir=JARS.parent) as work:
        shutil.copy(POM, Path(work) / "pom.xml")
        jars = Path(work) / "jars"
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        ended = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600, check=False)
        if ended.returncode:
            raise KafkaUnavailable(f"mvn could not fetch Kafka: {(ended.stdout + ended.stderr).strip()[-300:]}")
        (jars / "stamp").write_bytes(POM.read_bytes())
        shutil.rmtree(JARS, ignore_errors=True)
        jars.rename(JARS)


class KafkaBroker:
    """One broker in its own process group; its ports and data stay the same over restarts."""

    def __init__(self, directory: Path, *, security: Security | None = None) -> None:
        self._classpath = f"{installed_jars()}/*"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.data = directory / "data"
        self.port, controller = _free_ports(2)
        self._config = directory / "server.properties"
        secured = {} if security is None else security.broker_properties()
        self._config.write_text(_properties(self.data, self.port, controller, secured))
        users = [] if security is None else ["--add-scram", security.scram_user()]
        self._run_tool("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._config), *users)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it listens."""
        log = (self._directory / "broker.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", self._classpath, "kafka.Kafka", str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self._directory / "broker.log").read_text(errors="replace")[-2000:]
                self.kill()
                raise KafkaUnavailable(f"the Kafka broker did not come up:\n{tail}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as a power cut of the broker would be; its data stays."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """It holds its connections and answers nothing until `resume`."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)
            os.killpg(self._process.pid, signal.SIGCONT)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _run_tool(self, *command: str) -> None:
        full = ["java", "-XX:TieredStopAtLevel=1", "-cp", self._classpath, *command]
        ended = subprocess.run(full, capture_output=True, text=True, timeout=120, check=False)
        if ended.returncode:
            raise KafkaUnavailable(f"{command[0]} failed: {(ended.stdout + ended.stderr).strip()[-300:]}")


@contextmanager
def running_kafka(directory: Path) -> Iterator[KafkaBroker]:
    """A broker with its data in `directory`, killed at the end."""
    broker = KafkaBroker(directory)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a broker; in CI one that cannot be had is a failure."""
    if named := os.environ.get("PENSTOCK_TEST_KAFKA"):
        yield named
        return
    with started_or_skipped(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker of the test's own, to kill and start again."""
    with started_or_skipped(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_security(tmp_path_factory: pytest.TempPathFactory) -> Security:
    """Certificates and a user; `secured_kafka` is a broker that wants both."""
    try:
        return Security(tmp_path_factory.mktemp("security"))
    except SecurityUnavailable as error:
        skip_or_fail(error)


@pytest.fixture(scope="module")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory, kafka_security: Security) -> Iterator[KafkaBroker]:
    with started_or_skipped(tmp_path_factory.mktemp("secured-kafka"), security=kafka_security) as broker:
        yield broker


def skip_or_fail(error: Exception) -> NoReturn:
    """In CI what is missing is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(error))
    pytest.skip(str(error))


@contextmanager
def started_or_skipped(directory: Path, *, security: Security | None = None) -> Iterator[KafkaBroker]:
    try:
        broker = KafkaBroker(directory, security=security)
        broker.start()
    except KafkaUnavailable as error:
        skip_or_fail(error)
    try:
        yield broker
    finally:
        broker.kill()


def _properties(data: Path, port: int, controller: int, secured: Mapping[str, object]) -> str:
    protocol = "SASL_SSL" if secured else "PLAINTEXT"
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{protocol}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"{protocol}://127.0.0.1:{port}",
        "inter.broker.listener.name": protocol,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": f"{protocol}:{protocol},CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "broker.heartbeat.interval.ms": 500,
        "broker.session.timeout.ms": 3000,
        "log.initial.task.delay.ms": 500,
        "log.retention.check.interval.ms": 1000,
        "file.delete.delay.ms": 1000,
        **secured,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running_kafka(Path(sys.argv[1])) as broker:
        print(broker.bootstrap, flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
