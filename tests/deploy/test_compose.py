"""docker-compose.yml is valid, closed, and runs what the tests run, with the settings that they run it with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from deployment_files import ROOT, parsed, port_of
from servers import airflow, kafka, s3

from penstock.examples.retail.model import TABLES
from penstock.pipeline.config import load_config

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PAGE = (ROOT / "docs/deploy.md").read_text()
VARIABLES = {"PENSTOCK_S3_SECRET", "POSTGRES_PASSWORD", "AIRFLOW_SECRET", "AIRFLOW_PASSWORD", "GRAFANA_PASSWORD"}
ONCE = {"bucket", "airflow-init"}
"""Services that do their work and end."""


@pytest.fixture(scope="module")
def services(checker):
    said, wrong = checker("compose", str(COMPOSE), environment=dict.fromkeys(VARIABLES, "made-up"))
    assert said is not None, wrong
    return json.loads(said)["services"]


@pytest.fixture(scope="module")
def config():
    return load_config(ROOT / "examples/compose/penstock.toml")


def composed(folder, **variables):
    """What Compose itself makes of the file; it needs no engine for that."""
    if (found := shutil.which("docker-compose")) is None:
        kafka.skip_or_fail(FileNotFoundError("docker-compose is not installed"))
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    (folder / "none.env").touch()  # whoever runs this may have a real one
    command = [found, "--env-file", folder / "none.env", "--file", COMPOSE, "config"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_compose_takes_it_as_it_is(services, tmp_path):
    made = composed(tmp_path, **dict.fromkeys(VARIABLES, "made-up"))
    assert made.returncode == 0, made.stderr
    assert set(yaml.safe_load(made.stdout)["services"]) == set(services)
    refused = composed(tmp_path)
    assert refused.returncode
    assert "is in the .env" in refused.stderr


def test_it_has_all_that_a_fleet_has(services):
    assert set(services) == {
        "kafka", "s3", "bucket", "trainer", "replica-0", "replica-1", "exporter", "prometheus", "grafana", "postgres",
        "airflow-init", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
    }  # fmt: skip


@pytest.mark.parametrize("missing", sorted(VARIABLES))
def test_it_does_not_start_without_a_secret(checker, missing):
    said, wrong = checker("compose", str(COMPOSE), environment=dict.fromkeys(VARIABLES - {missing}, "made-up"))
    assert said is None
    assert f"required variable {missing} is missing" in wrong


def test_every_password_is_one_of_these_secrets(services):
    for name, service in services.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD$|SECRET|SQL_ALCHEMY", variable):
                assert "made-up" in value, f"{name}: {variable} has a value of its own"
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text())) == VARIABLES


def test_the_page_makes_every_variable_and_says_what_it_is():
    for text in (PAGE, COMPOSE.read_text()):
        assert set(re.search(r"for name in ([A-Z0-9_ ]+); do", text)[1].split()) == VARIABLES
    assert set(re.findall(r"^\| `([A-Z0-9_]+)` \|", PAGE, re.MULTILINE)) == VARIABLES


def test_no_port_is_open_beyond_this_machine(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert len({port["published"] for port in published}) == len(published) == 5


def test_what_runs_is_watched_and_started_again(services):
    for name, service in services.items():
        once = name in ONCE
        assert service["restart"] == ("on-failure" if once else "unless-stopped"), name
        assert once == ("healthcheck" not in service), name


def test_every_image_is_one_version(services):
    images = {service["image"] for service in services.values()} | set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    for image in images:
        assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+[\w.-]*", image), image


def test_what_is_kept_is_in_volumes(services):
    kept = {name: {v["target"] for v in s.get("volumes", []) if v["type"] == "volume"} for name, s in services.items()}
    assert kept["kafka"] == {services["kafka"]["environment"]["KAFKA_LOG_DIRS"]}
    assert kept["s3"] == {services["s3"]["command"][-1]}
    for name in ("postgres", "prometheus", "grafana", "trainer"):
        assert kept[name], name


# ---- the servers are those of the tests ----------------------------------------------------------------------------------


def test_servers_have_the_versions_of_the_tests(services):
    pom = Path(kafka.POM).read_text()
    assert services["kafka"]["image"].endswith(":" + re.search("<version>(4.*?)</version>", pom)[1])
    assert services["s3"]["image"].endswith(":" + s3.VERSION)
    built_on = re.search(r"FROM apache/airflow:([\d.]+)-python", DOCKERFILE)[1]
    assert f"AIRFLOW_VERSION={built_on}" in DOCKERFILE
    assert built_on == importlib.metadata.version("apache-airflow")


def test_the_broker_has_the_settings_of_the_tests(services):
    """Those that tests add only make them faster; addresses differ."""
    faster = {"broker.heartbeat.interval.ms", "broker.session.timeout.ms", "log.initial.task.delay.ms"}
    faster |= {"log.retention.check.interval.ms", "file.delete.delay.ms"}
    places = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}
    tested = dict(line.split("=", 1) for line in kafka._properties(Path("data"), 1, 2, {}).splitlines())
    given = services["kafka"]["environment"]
    ours = {name.removeprefix("KAFKA_").replace("_", ".").lower(): value for name, value in given.items()}
    assert ours.pop("heap.opts") in Path(kafka.__file__).read_text()
    assert set(ours) == set(tested) - faster
    # A listener's protocol may be told in any order.
    ours["listener.security.protocol.map"] = ",".join(sorted(ours["listener.security.protocol.map"].split(",")))
    tested["listener.security.protocol.map"] = ",".join(sorted(tested["listener.security.protocol.map"].split(",")))
    assert {name: ours[name] for name in set(ours) - places} == {name: tested[name] for name in set(ours) - places}


def test_the_object_store_has_the_settings_of_the_tests(services):
    source = Path(s3.__file__).read_text()
    *options, _ = services["s3"]["command"]
    assert all(f'"{option}"' in source for option in options if option != ":7070"), options
    assert services["s3"]["healthcheck"]["test"][-1].endswith("/health")


def test_airflow_has_the_settings_of_the_tests(services):
    places = {"CORE__DAGS_FOLDER", "CORE__EXECUTION_API_SERVER_URL", "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"}
    places |= {"DATABASE__SQL_ALCHEMY_CONN", "API__HOST", "API__PORT", "API__BASE_URL", "API__SECRET_KEY", "API_AUTH__JWT_SECRET"}
    places |= {"LOGGING__WORKER_LOG_SERVER_PORT", "LOGGING__TRIGGER_LOG_SERVER_PORT"}
    faster = {"SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME", "SCHEDULER__SCHEDULER_HEARTBEAT_SEC"}
    faster |= {f"DAG_PROCESSOR__{name}" for name in ("REFRESH_INTERVAL", "MIN_FILE_PROCESS_INTERVAL", "PARSING_PROCESSES")}
    # Containers are asked for their health; nothing that has to be encrypted is stored.
    only_here = {"SCHEDULER__ENABLE_HEALTH_CHECK", "CORE__FERNET_KEY"}
    made = airflow._settings(Path("/home"), Path("/dags"), "http://x", 1, [2, 3], Path("/passwords"))
    tested = {name.removeprefix("AIRFLOW__"): value for name, value in made.items() if name.startswith("AIRFLOW__")}
    for service in ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-init"):
        given = services[service]["environment"]
        ours = {name.removeprefix("AIRFLOW__"): value for name, value in given.items() if name.startswith("AIRFLOW__")}
        differing = {name for name in set(ours) | set(tested) if ours.get(name) != tested.get(name)}
        assert differing <= places | faster | only_here, service
    assert {name.removeprefix("airflow-") for name in services if name.startswith("airflow-")} - {"init"} == set(
        airflow.COMPONENTS
    )
    assert services["airflow-api-server"]["environment"]["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"].startswith(airflow.USER)


# ---- what runs in them -----------------------------------------------------------------------------------------------------


def test_every_command_is_one(services):
    found = {
        name: parsed(s["command"]) for name, s in services.items() if s["image"].startswith("penstock:") and name != "bucket"
    }
    assert {name: command for name, (command, _) in found.items()} == {
        "trainer": "trainer", "replica-0": "replica", "replica-1": "replica", "exporter": "exporter",
    }  # fmt: skip
    for name in ("replica-0", "replica-1"):
        options = found[name][1]
        assert options["name"] == name == services[name]["hostname"]
        assert port_of(options) == services[name]["ports"][0]["target"]


def test_what_they_run_is_in_the_package_that_is_installed(services):
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    modules = [s["command"][2] for s in services.values() if (s.get("command") or [])[:2] == ["python", "-m"]]
    assert modules
    assert {module.rpartition(".")[0] for module in modules} <= set(shipped)


def test_the_config_is_that_of_its_places(services, config):
    assert urlsplit(config.store.endpoint).hostname == "s3"
    assert f":{urlsplit(config.store.endpoint).port}" in services["s3"]["command"]
    assert config.log.url.removeprefix("kafka://") in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    bucket = urlsplit(config.store.url).netloc
    assert f'create_bucket(Bucket="{bucket}")' in services["bucket"]["command"][-1]
    assert config.store.endpoint in services["bucket"]["command"][-1]
    assert set(config.models["retail"].tables) == set(TABLES)
    for name, service in services.items():
        if service["image"].startswith("penstock"):
            (mounted,) = [v for v in service["volumes"] if v["source"].endswith("examples/compose/penstock.toml")]
            assert mounted["target"] == service["environment"]["PENSTOCK_CONFIG"], name


def test_checkpoints_are_read_where_they_are_left(services, config):
    _, options = parsed(services["trainer"]["command"])
    left = str(options["checkpoints"])
    assert config.models["retail"].schedule.checkpoints == f"{left}/step_*.safetensors"
    sources = {v["target"]: v["source"] for v in services["airflow-scheduler"]["volumes"]}
    assert sources[left] == {v["target"]: v["source"] for v in services["trainer"]["volumes"]}[left] == "checkpoints"
    assert DOCKERFILE.count(f"install -d -o 10001 {left}") == 2


def test_prometheus_finds_who_tells_metrics(services, config):
    targets = re.findall(r"targets: \[(.*)\]", (ROOT / "monitoring/prometheus.yml").read_text())
    found = {tuple(target.strip(' "').split(":")) for line in targets for target in line.split(",")}
    replicas = {(name, str(parsed(services[name]["command"])[1]["health_port"])) for name in ("replica-0", "replica-1")}
    exporter = ("exporter", str(port_of(parsed(services["exporter"]["command"])[1])))
    assert found == {*replicas, exporter, ("trainer", config.metrics.listen.rpartition(":")[2])}
    for name, port in found:
        assert f"http://127.0.0.1:{port}/" in services[name]["healthcheck"]["test"][-1], name


def test_prometheus_and_grafana_find_their_files(services):
    mounts = {name: {v["target"]: v["source"] for v in services[name]["volumes"]} for name in ("prometheus", "grafana")}
    assert Path(mounts["prometheus"]["/etc/prometheus"]) == ROOT / "monitoring"
    provisioned = (ROOT / "monitoring/grafana/provisioning/dashboards/penstock.yml").read_text()
    dashboards = re.search(r"path: (\S+)", provisioned)[1]
    assert Path(mounts["grafana"][dashboards]) == ROOT / "monitoring/grafana/dashboards"
    datasource = (ROOT / "monitoring/grafana/provisioning/datasources/prometheus.yml").read_text()
    assert urlsplit(re.search(r"url: (\S+)", datasource)[1]).hostname == "prometheus"


def test_a_service_waits_only_for_what_there_is(services):
    for name, service in services.items():
        for other, how in (service.get("depends_on") or {}).items():
            wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how["condition"] == wanted, f"{name} waits for {other}"


def test_a_drained_replica_has_the_time_for_it(services, config):
    from penstock.pipeline.config import microseconds
    from penstock.serving.server import DRAIN_S

    for name in ("replica-0", "replica-1"):
        grace = float(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace > microseconds(config.replica.drain_grace) / 1e6 + DRAIN_S


def test_images_leave_out_what_is_secret():
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()
    assert {"USER 10001", "USER airflow"} <= set(DOCKERFILE.splitlines())
