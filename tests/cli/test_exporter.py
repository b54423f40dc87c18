"""`penstock exporter`: what it tells is what the status says, of every model, and it waits for those that are not there."""

import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request

import pytest
from command_shell import COMMAND, at
from told_metrics import told, total

from penstock.pipeline.cli.exporting import Exporter, Watched
from penstock.pipeline.config import load_config
from penstock.pipeline.metrics import EXPORTER
from penstock.publishers import FRESH, Delivery


def looked(config, *models):
    """The exporter after one look at each model, without its thread."""
    exporter = Exporter.__new__(Exporter)
    exporter._models = [Watched(config, model) for model in models]
    for model in exporter._models:
        model.look()
    return exporter


def test_it_tells_what_the_status_says(shell):
    shell("freeze", "--reason", "a test")
    assert shell("verify").code == 0
    found = told(looked(load_config(shell.config), "shop"))
    status = shell.json("status")
    assert total(found, "penstock_up") == 1
    assert total(found, "penstock_trunk_version") == total(found, "penstock_ref_version", ref="live") == 3
    assert total(found, "penstock_ref_frozen", ref="live") == 1
    assert total(found, "penstock_chain_length") == status["chain"] == 3
    assert total(found, "penstock_published_versions_total", tier="delta") == 2
    assert total(found, "penstock_published_rows_total", tier="snapshot") == 32
    assert total(found, "penstock_log_end_offset") == sum(each["end"] for each in status["log"])
    assert total(found, "penstock_publishers") == 1
    assert total(found, "penstock_care_ok", work="verify") == 1
    assert total(found, "penstock_rollback_open_seconds") == 0
    names = {metric.name for metric in EXPORTER.metrics if metric.series[0] not in {name for name, _ in found}}
    replicas = {"penstock_freshness_seconds", "penstock_digests_agree", "penstock_recovery_reach_seconds"}
    assert names == replicas | {name for name in names if name.startswith("penstock_presence")}


def test_a_version_is_counted_once(shell):
    watched = Watched(load_config(shell.config), "shop")
    watched.look()
    watched.look()
    assert [s.value for f in watched.families() if f.name == "penstock_published_versions" for s in f.samples] == [1, 2]
    watched.close()


def test_a_model_that_is_not_there_is_waited_for(empty):
    config = load_config(empty.config)
    watched = Watched(config, "shop")
    watched.look()
    assert [(f.name, s.value) for f in watched.families() for s in f.samples] == [("penstock_up", 0.0)]
    with Delivery.open(config, publisher="trainer", resume=FRESH) as delivery:
        delivery.publish_snapshot(empty.save("step.npz"), trained_through=at(0))
    watched.look()
    assert ("penstock_up", 1.0) in [(f.name, s.value) for f in watched.families() for s in f.samples]
    shutil.rmtree(empty.folder / "store")
    watched.look()
    assert [(f.name, s.value) for f in watched.families() for s in f.samples] == [("penstock_up", 0.0)]
    watched.close()


def test_models_share_their_metrics(shell):
    found = told(looked(load_config(shell.config), "shop", "unborn"))
    assert total(found, "penstock_up", model="shop") == 1
    assert total(found, "penstock_up", model="unborn") == 0


@pytest.mark.parametrize(("options", "code"), [(("--listen", "nowhere"), 2), (("--model", "unknown"), 2), (("--every", "0"), 2)])
def test_what_it_cannot_do(shell, options, code):
    assert shell("exporter", *options).code == code


def test_it_serves_until_it_is_told_to_end(shell):
    command = [*COMMAND, "exporter", "--listen", "127.0.0.1:0", "--config", str(shell.config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        line = process.stderr.readline()
        assert line.startswith("metrics on 127.0.0.1:")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        until = time.monotonic() + 60
        while True:
            with urllib.request.urlopen(f"http://{line.split()[2]}", timeout=30) as answer:
                text = answer.read().decode()
            if 'penstock_trunk_version{model="shop"} 3.0' in text:
                break
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) == 0
