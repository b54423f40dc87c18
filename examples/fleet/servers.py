"""The servers of the story: a Kafka broker, an S3 server and an Airflow, as processes of this machine. They are those of the
tests, so they are here only where the repository is, not in an installed package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from penstock.pipeline.core.errors import Unsupported

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"


class Airflow(Protocol):
    """What a person does in its pages, and the scheduler behind them."""

    url: str

    def dags(self) -> list[str]: ...
    def import_errors(self) -> list[dict[str, Any]]: ...
    def unpause(self, dag: str) -> None: ...
    def trigger(self, dag: str, params: Mapping[str, object] | None = None) -> str: ...
    def runs(self, dag: str) -> list[dict[str, Any]]: ...
    def run(self, dag: str, run: str) -> dict[str, Any]: ...
    def result(self, dag: str, run: str, task: str) -> Any: ...
    def questions(self, dag: str, run: str) -> list[dict[str, Any]]: ...
    def answer(self, dag: str, run: str, task: str, option: str) -> None: ...
    def told(self, dag: str, run: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Servers:
    """`kafka`: host:port; `s3`: an endpoint, whose credentials are in the environment; `bucket`: an empty one there."""

    kafka: str
    s3: str
    bucket: str


@contextmanager
def running_servers(folder: Path) -> Iterator[Servers]:
    """A broker and an S3 server with their data in `folder`. `Unsupported` says what is missing here."""
    kafka, s3 = _of_the_tests("kafka"), _of_the_tests("s3")
    for name in ("kafka", "s3"):
        (folder / name).mkdir()
    try:
        with kafka.running_kafka(folder / "kafka") as broker, s3.running_s3(folder / "s3") as endpoint:
            yield Servers(kafka=broker.bootstrap, s3=endpoint, bucket=s3.new_bucket(endpoint))
    except (kafka.KafkaUnavailable, s3.ServerMissing) as missing:
        raise Unsupported(str(missing)) from missing


@contextmanager
def running_airflow(folder: Path, config: Path) -> Iterator[Airflow]:
    """An Airflow with the DAGs of the models in `config`."""
    airflow = _of_the_tests("airflow")
    environment = {"PENSTOCK_CONFIG": str(config), "NUMBA_NUM_THREADS": "1"}
    try:
        with airflow.running_airflow(folder / "airflow", dags=DAGS, environment=environment) as running:
            yield running
    except airflow.AirflowUnavailable as missing:
        raise Unsupported(str(missing)) from missing


def free_port() -> int:
    return int(_of_the_tests("s3").free_port())


def _of_the_tests(name: str) -> Any:
    tests = ROOT / "tests"
    if not (tests / "servers").is_dir():
        raise Unsupported("the servers of the story are in the repository's tests", hint="run it from a clone: make fleet")
    if str(tests) not in sys.path:
        sys.path.append(str(tests))
    return importlib.import_module(f"servers.{name}")
