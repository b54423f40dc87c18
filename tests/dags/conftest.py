"""Models, their trainers, and an Airflow that runs the DAGs for them, over a real store and a real broker."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from alarm_address import alarm_address
from servers.airflow import Airflow, AirflowUnavailable, running_airflow, until
from servers.kafka import skip_or_fail
from servers.s3 import new_bucket

from penstock.pipeline.config import load_config
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.publishers import FRESH, Delivery
from penstock.publishers.verification import verify

DAGS = Path(__file__).parents[2] / "dags"
DIM = 32
CONFIG = """
[store]
url = "s3://{bucket}/penstock"
endpoint = "{endpoint}"
[log]
url = "kafka://{kafka}"
partitions = 2
[replica]
refresh = "50ms"
"""
MODEL = """
[models.{model}]
buckets = 16
[models.{model}.tables.item]
keys = "item/keys"
rows = "item/rows"
[models.{model}.schedule]
checkpoints = "{folder}/{model}/*.npz"
retry_delay = "1s"
alarm_url = "{alarms}"
"""
SETTINGS = {
    "shop": 'delta = "* * * * * */5"\nmax_freshness = "1s"',
    "cut": 'parts = 2\ncatchup_from = "{now}"',
    "quiet": 'slicing_pool = "closed"\ncare_deadline = "5s"\ncatchup_from = "{now}"',
}
"""The models, and what is particular in their schedules. Those that catch up from now on have no run that nobody asked for."""


@dataclass
class Trainer:
    """Of one model; its tables hold what it has put."""

    config: Path
    model: str
    folder: Path
    delivery: Delivery
    rows: np.ndarray
    step: int = 0

    @property
    def keys(self):
        return np.arange(len(self.rows))

    def learn(self, key, value):
        """Puts a row over the log."""
        self.rows[key] = value
        self.delivery.updates().put("item", [key], self.rows[key][None], trained_through=system_clock())

    def save(self):
        """A checkpoint; its sidecar comes last."""
        self.step += 1
        path = self.folder / f"step_{self.step}.npz"
        np.savez(path, **{"item/keys": self.keys, "item/rows": self.rows, "top.weight": np.ones((3, 2), np.float32)})
        sidecar = self.delivery.updates().mark(step=self.step)
        path.with_name(f"{path.name}.penstock.json").write_bytes(sidecar.encode())
        return path

    def open(self):
        return open_environment(load_config(self.config), self.model)

    def live(self):
        with self.open() as env:
            return env.catalog.refs().ref("live").version

    def digest(self, version):
        with self.open() as env:
            found = verify(env, version)
        assert found.ok, found.findings
        return found.digest

    def moves(self):
        """Who has moved the refs, what, and why, newest last."""
        with self.open() as env:
            return [(refs.move.who, refs.move.what, refs.move.why) for refs in env.catalog.moves()]


@dataclass
class Plant:
    airflow: Airflow
    config: Path
    folder: Path
    alarms: list[str] = field(default_factory=list)
    _trainers: dict[str, Trainer] = field(default_factory=dict)

    def trainer(self, model, *, rows=64):
        """The trainer of a model of `rows` rows that has no version yet."""
        if model not in self._trainers:
            delivery = Delivery.open(self.config, model=model, publisher="trainer-0", resume=FRESH)
            (self.folder / model).mkdir()
            values = np.random.default_rng(7).random((rows, DIM), np.float32)
            made = Trainer(self.config, model, self.folder / model, delivery, values)
            self._trainers[model] = made
        return self._trainers[model]

    def alarm(self, text):
        """Waits for an alarm that holds `text`."""
        return until(lambda: [each for each in self.alarms if text in each], 60, lambda: str(self.alarms))

    def close(self):
        for trainer in self._trainers.values():
            trainer.delivery.close()


@pytest.fixture(scope="module")
def plant(tmp_path_factory, s3_server, kafka_server):
    folder = tmp_path_factory.mktemp("plant")
    alarms = []
    with alarm_address(alarms) as url:
        config = folder / "penstock.toml"
        text = CONFIG.format(bucket=new_bucket(s3_server), endpoint=s3_server, kafka=kafka_server)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for model, particular in SETTINGS.items():
            text += MODEL.format(model=model, folder=folder, alarms=url) + particular.format(now=now) + "\n"
        config.write_text(text)
        environment = {"PENSTOCK_CONFIG": str(config), "NUMBA_NUM_THREADS": "1"}
        try:
            with running_airflow(folder / "airflow", dags=DAGS, environment=environment) as airflow:
                found = Plant(airflow, config, folder, alarms)
                try:
                    yield found
                finally:
                    found.close()
        except AirflowUnavailable as error:
            skip_or_fail(error)
