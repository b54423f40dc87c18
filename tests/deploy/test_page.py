"""What docs/deploy.md says of Kafka is what the adapter asks for, and what it names is there."""

from __future__ import annotations

import re
import shlex

from deployment_files import ROOT, parsed

from penstock.pipeline.ports import kafka_topic
from penstock.pipeline.ports.log_checks import DEFAULT_RECORD_BYTES

PAGE = (ROOT / "docs/deploy.md").read_text()


def test_topic_settings():
    told = dict(re.findall(r"^\| `([a-z.]+)` \| (.*?) \|", PAGE, re.MULTILINE))
    exact = {name: value.strip("`") for name, value in told.items() if value.startswith("`")}
    assert exact == kafka_topic._REQUIRED
    assert set(told) - set(exact) == {"max.message.bytes", "min.insync.replicas", "retention.ms"}
    assert f"{DEFAULT_RECORD_BYTES >> 20} MiB" in told["max.message.bytes"]
    assert str(kafka_topic.RECORD_OVERHEAD) in told["max.message.bytes"]


def test_what_is_run_in_a_container_is_a_command_and_the_container_is_there():
    compose = (ROOT / "docker-compose.yml").read_text()
    said = [shlex.split(line) for line in re.findall(r"^docker compose exec (.*)$", PAGE, re.MULTILINE)]
    assert said
    for service, *words in said:
        assert f"\n  {service}:" in compose, service
        if words[0] == "penstock":
            parsed(words)
        elif words[0] in ("touch", "rm"):
            assert f'"--poison", "{words[1]}"' in compose


def test_every_path_that_is_mentioned_exists():
    for path in re.findall(r"`((?:docs|deploy|examples)/[^`\s]+|docker-compose.yml)`", PAGE):
        assert (ROOT / path).exists(), path
