"""deploy/kubernetes is what the API takes, and says of ports, probes, shards and arguments what is so."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from deployment_files import ROOT, objects, parsed, port_of

from penstock.examples.retail.model import TABLES
from penstock.pipeline.config import microseconds, parse_config
from penstock.pipeline.exposition import METRICS_PATH
from penstock.serving.probes import Probes
from penstock.serving.server import DRAIN_S

FOLDER = ROOT / "deploy/kubernetes"
SHARDS = ("penstock-retail-0", "penstock-retail-1")


@pytest.fixture(scope="module")
def found(checker):
    return objects(checker, *sorted(FOLDER.glob("*.yaml")))


@pytest.fixture(scope="module")
def config(found):
    return parse_config(found["ConfigMap", "penstock"]["data"]["penstock.toml"], "config.yaml")


@pytest.fixture(scope="module")
def templates(found):
    return {name: each["spec"]["template"] for (_, name), each in found.items() if "template" in each.get("spec", {})}


def container(template):
    (only,) = template["spec"]["containers"]
    return only


def test_what_the_api_does_not_know_is_seen(checker, tmp_path):
    """The checker is strict: a field that is misspelt is an error."""
    text = (FOLDER / "exporter.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(text.replace("readinessProbe", "readynessProbe"))
    said, wrong = checker("kubernetes", str(tmp_path / "wrong.yaml"))
    assert said is None
    assert "readynessProbe" in wrong


def test_every_command_is_one(templates):
    found = {name: parsed(container(template)["command"])[0] for name, template in templates.items()}
    assert found == dict.fromkeys(SHARDS, "replica") | {"penstock-exporter": "exporter", "penstock-trainer": "trainer"}


def test_ports_are_those_that_the_commands_open(found, templates, config):
    for name, template in templates.items():
        command, options = parsed(container(template)["command"])
        ports = {each["name"]: each["containerPort"] for each in container(template)["ports"]}
        if command == "replica":
            expected = {"lookups": port_of(options), "health": options["health_port"]}
        elif command == "exporter":
            expected = {"metrics": port_of(options)}
        else:
            expected = {"metrics": int(config.metrics.listen.rpartition(":")[2])}
        assert ports == expected, name
        told = template["metadata"]["annotations"]
        assert told["prometheus.io/path"] == METRICS_PATH
        assert int(told["prometheus.io/port"]) == ports.get("health", ports.get("metrics")), name
    open_to = {
        port["port"]
        for (kind, _), each in found.items() if kind == "NetworkPolicy"
        for rule in each["spec"]["ingress"] for port in rule["ports"]
    }  # fmt: skip
    assert open_to == {each["containerPort"] for t in templates.values() for each in container(t)["ports"]}


def test_probes_ask_what_answers(templates):
    for name, template in templates.items():
        ports = {each["name"] for each in container(template)["ports"]}
        for kind, probe in container(template).items():
            if kind.endswith("Probe"):
                assert probe["httpGet"]["path"] in Probes.paths, f"{name}: {kind}"
                assert probe["httpGet"]["port"] in ports, f"{name}: {kind}"
    for shard in SHARDS:
        only = container(templates[shard])
        paths = {kind: only[kind]["httpGet"]["path"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
        assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}


def test_every_bucket_is_in_one_shard(templates, config):
    held = []
    for shard in SHARDS:
        first, last = parsed(container(templates[shard])["command"])[1]["buckets"].split("-")
        held += range(int(first), int(last) + 1)
    assert held == list(range(config.models["retail"].buckets))


def test_a_shard_keeps_a_replica_while_another_goes(found, templates):
    for shard in SHARDS:
        budget, replicas = found["PodDisruptionBudget", shard]["spec"], found["StatefulSet", shard]["spec"]
        assert budget["selector"] == replicas["selector"]
        assert budget["selector"]["matchLabels"] == templates[shard]["metadata"]["labels"]
        assert budget["maxUnavailable"] < replicas["replicas"]


def test_clients_find_all_shards_by_the_name_in_the_config(found, templates, config):
    service = found["Service", urlsplit(config.client.dns).hostname]["spec"]
    assert service["clusterIP"] == "None"
    assert service["ports"][0]["port"] == urlsplit(config.client.dns).port
    for shard in SHARDS:
        assert service["selector"].items() <= templates[shard]["metadata"]["labels"].items()
        assert found["StatefulSet", shard]["spec"]["serviceName"] == urlsplit(config.client.dns).hostname
        assert templates[shard]["spec"]["setHostnameAsFQDN"]


def test_who_is_ended_has_the_time_for_it(templates, config):
    for shard in SHARDS:
        assert (
            templates[shard]["spec"]["terminationGracePeriodSeconds"] > microseconds(config.replica.drain_grace) / 1e6 + DRAIN_S
        )


def test_nothing_runs_as_root_or_writes_beside_its_volumes(templates):
    for name, template in templates.items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert not spec["automountServiceAccountToken"], name
        assert container(template)["securityContext"]["readOnlyRootFilesystem"], name
        assert "limits" in container(template)["resources"], name
        mounted = {each["name"] for each in container(template)["volumeMounts"]}
        assert mounted == {each["name"] for each in spec["volumes"]}, name


def test_images_and_secrets_are_those_of_the_page(templates):
    page, compose = (ROOT / "docs/deploy.md").read_text(), (ROOT / "docker-compose.yml").read_text()
    made = re.search(r"for who in ([a-z ]+); do", page)[1].split()
    for template in templates.values():
        assert f"image: {container(template)['image']}\n" in compose
        (secret,) = container(template)["envFrom"]
        assert secret["secretRef"]["name"].removeprefix("penstock-") in made


def test_the_config_is_that_of_the_example(config, templates):
    assert set(config.models["retail"].tables) == set(TABLES)
    assert config.log.min_insync_replicas < config.log.replicas
    left = parsed(container(templates["penstock-trainer"])["command"])[1]["checkpoints"]
    assert config.models["retail"].schedule.checkpoints == f"{left}/step_*.safetensors"
    for template in templates.values():
        (path,) = [each["value"] for each in container(template)["env"] if each["name"] == "PENSTOCK_CONFIG"]
        (mount,) = [each["mountPath"] for each in container(template)["volumeMounts"] if each["name"] == "config"]
        assert path == f"{mount}/penstock.toml"


def test_prometheus_keeps_the_pods_that_there_are(templates):
    text = (ROOT / "deploy/prometheus-kubernetes.yml").read_text()
    kept = re.search(r"__meta_kubernetes_pod_label_app\]\n\s+regex: (\S+)", text)[1]
    for template in templates.values():
        assert re.fullmatch(kept, template["metadata"]["labels"]["app"])
    assert "job_name: penstock\n" in text  # alerts go by jobs of this name
