"""`penstock bench realtime`: the figures are of what was put, whatever the log; nothing is left behind. And the parts it counts
with."""

import json
import uuid

import numpy as np
import pytest
from kafka.admin import KafkaAdminClient

from penstock.pipeline.cli.bench_pacing import Plan
from penstock.pipeline.cli.bench_probes import MOST_PUTS, Load, Noted, latency_of
from penstock.pipeline.cli.main import run
from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.ports.log_checks import LogSettings
from penstock.pipeline.ports.open_log import open_log

LOAD = Load(rate=4000, dim=4, batch=40, rows=2000, buckets=16, partitions=3)
SHORT = ("--rate", "4000", "--batch", "40", "--dim", "4", "--rows", "2000", "--seconds", "0.5", "--warmup", "0.2")
PUTS = 50


def config_of(folder, log):
    path = folder / "penstock.toml"
    path.write_text(f'[store]\nurl = "file://{folder}/store"\n[log]\nurl = "{log}"\npartitions = 3\n')
    return path


def measured(config, capsys, *options):
    assert run(["bench", "realtime", "--config", str(config), *SHORT, *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def check(found):
    latency = found["readable"]
    assert latency["count"] + found["lost"] == PUTS * 3
    assert found["lost"] == 0
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p999"] <= latency["max"]
    assert (found["dim"], found["batch"], found["partitions"]) == (4, 40, 3)


def files(folder):
    """What is there; the locks of a folder store belong to no model."""
    return [path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts]


def test_on_files_with_lookups_and_a_burst(tmp_path, capsys):
    config = config_of(tmp_path, f"file://{tmp_path}/log")
    found = measured(config, capsys, "--lookups", "--burst", "8000")
    check(found)
    assert (found["raw"], found["ratio"]) == (None, {})
    assert found["lookup_keys"] == 150_000
    assert found["lookups"]["count"] > 0
    burst = found["burst"]
    assert (burst["rows"], burst["batch"], burst["rows_shed"]) == (8000, 2000, 0)
    assert min(burst["put_us"], burst["published_rows_per_s"]) > 0
    assert {"caught_up_rows_per_s", "caught_up_small_rows_per_s"} <= burst.keys()  # so few are taken at one go
    assert files(tmp_path) == [config], "the model and its log are gone"


def test_it_is_shown_as_tables_and_says_what_it_does(tmp_path, capsys):
    config = config_of(tmp_path, f"file://{tmp_path}/log")
    assert run(["bench", "realtime", "--config", str(config), *SHORT]) == 0
    said = capsys.readouterr()
    assert "put → readable in another process" in said.out
    assert "4,000 rows/s" in said.err


def test_a_model_that_is_there_is_left_alone(tmp_path, capsys):
    config = config_of(tmp_path, f"file://{tmp_path}/log")
    kept = tmp_path / "store" / "mine" / "refs.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert run(["bench", "realtime", "--config", str(config), *SHORT, "--name", "mine"]) == 3
    assert "has a model mine already" in capsys.readouterr().err
    assert kept.read_text() == "{}"


def test_a_log_that_is_there_is_used_and_stays(tmp_path, capsys):
    url = f"file://{tmp_path}/log"
    open_log(url, name="mine", partitions=3, create=LogSettings(retention_ms=-1)).close()
    check(measured(config_of(tmp_path, url), capsys, "--name", "mine"))
    log = open_log(url, name="mine")
    assert sum(log.end(p) for p in range(3)) > PUTS
    log.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rate", "1", "--batch", "500"), "not one put in"),
        (("--batch", "2"), "each of the 3 partitions needs one"),
        (("--rate", "1000000000", "--batch", "3"), "at most"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, capsys, options, says):
    config = config_of(tmp_path, f"file://{tmp_path}/log")
    assert run(["bench", "realtime", "--config", str(config), "--warmup", "0", *options]) == 2
    assert says in capsys.readouterr().err
    assert files(tmp_path) == [config]


@pytest.mark.kafka
def test_on_kafka_a_plain_client_is_measured_beside(tmp_path, capsys, kafka_server):
    name = f"bench-{uuid.uuid4().hex[:8]}"
    found = measured(config_of(tmp_path, f"kafka://{kafka_server}"), capsys, "--name", name, "--burst", "4000")
    check(found)
    assert found["raw"]["count"] > 0
    assert set(found["ratio"]) == {"p50", "p90", "p99", "p999"}
    admin = KafkaAdminClient(bootstrap_servers=kafka_server)
    assert not [topic for topic in admin.list_topics() if name in topic]
    admin.close()


# ---- what it counts with ---------------------------------------------------------------------------------------------------


def test_there_is_one_probe_in_each_partition_and_in_every_put():
    probes = LOAD.probes()
    assert LOAD.partitions_of(probes).tolist() == [0, 1, 2]
    keys = LOAD.keys(np.random.default_rng(0))
    assert len(keys) == 40
    assert keys[:3].tolist() == probes.tolist()
    assert (keys[3:] >= 0).all()


def test_a_put_can_be_read_once_it_or_a_later_one_was_seen():
    noted = Noted(2)
    for numbers, at_ms in (([-1, -1], (1, 1)), ([0, -1], (3, 4)), ([2, 0], (7, 8)), ([2, 0], (9, 9))):
        noted.look(np.array(numbers), np.array(at_ms) * 1_000_000)
    put_at = np.array([1, 2, 5, 6]) * 1_000_000
    found = noted.seen().latencies_ms(put_at, first=0, partitions=2)
    assert found.tolist() == [2, 5, 2, float("inf"), 7, *[float("inf")] * 3]
    assert noted.seen().latencies_ms(put_at, first=2, partitions=2).tolist() == [2, *[float("inf")] * 3]
    assert Noted(2).seen().latencies_ms(put_at, first=3, partitions=2).tolist() == [float("inf")] * 2


def test_percentiles_are_samples():
    found = latency_of(np.arange(1.0, 1001.0))
    assert (found.p50, found.p90, found.p99, found.p999, found.max, found.count) == (501, 901, 991, 1000, 1000, 1000)


def test_more_puts_than_a_float_can_number_are_refused():
    with pytest.raises(InvalidInput, match=str(MOST_PUTS)):
        Plan(load=LOAD, seconds=1e9, warmup_s=0, lookup_keys=0, burst_rows=0)
