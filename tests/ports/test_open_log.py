from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from penstock.pipeline.core.errors import InvalidInput, NotFound, Unreachable
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.ports.log_checks import LogSettings
from penstock.pipeline.ports.open_log import open_log, remove_log


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/log",
        "file:srv/log",
        "file://host/srv",
        "http://host:1",
        "kafka://",
        "kafka://host:1/topic",
        "file:///a?b",
        "s3://a",
    ],
)
def test_urls_that_name_no_log_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="log url"):
        open_log(url, name="retail", partitions=1)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-a", "a" * 101])
def test_names_that_are_no_key_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="log"):
        open_log(tmp_path.as_uri(), name=name, partitions=1, create=LogSettings())


@pytest.mark.parametrize("options", [{"fsync": "sometimes"}, {"sync": "batch"}, {"fsync": "batch", "acks": "1"}])
def test_unknown_file_options_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        open_log(tmp_path.as_uri(), name="retail", partitions=1, create=LogSettings(), options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"acks": "0"}, {"ssl_check_hostname": "perhaps"}])
def test_unknown_kafka_options_are_refused_before_anything_is_asked(options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        open_log("kafka://127.0.0.1:1", name="retail", partitions=1, options=options)


def test_a_file_log_stands_in_a_folder_of_its_name(tmp_path: Path) -> None:
    made = open_log(
        (tmp_path / "my logs").as_uri(), name="retail", partitions=2, create=LogSettings(), options={"fsync": "never"}
    )
    assert made.url == (tmp_path / "my logs" / "retail").as_uri()
    assert (tmp_path / "my logs" / "retail" / "1").is_dir()
    made.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_record_bytes": 0},
        {"segment_bytes": 0},
        {"retention_ms": 0},
        {"retention_ms": -2},
        {"replication_factor": 0},
        {"replication_factor": 2, "min_insync_replicas": 3},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match=next(reversed(wrong))):
        LogSettings(**wrong)


def test_a_server_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.pipeline.ports.kafka_wire.REQUEST_TIMEOUT_MS", 300)
    with pytest.raises(Unreachable, match="kafka://127.0.0.1:1"):
        open_log("kafka://127.0.0.1:1", name="retail", partitions=1)


def test_a_log_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    for name in ("retail", "other"):
        made = open_log(url, name=name, partitions=1, create=LogSettings())
        made.append(Partition(0), b"x").result(30)
        made.close()
    for _ in range(2):
        remove_log(url, name="retail")
        with pytest.raises(NotFound):
            open_log(url, name="retail")
    kept = open_log(url, name="other")
    assert kept.end(Partition(0)) == 1
    kept.close()
    with pytest.raises(InvalidInput, match="log url"):
        remove_log("s3://a", name="retail")


@pytest.mark.kafka
def test_a_topic_is_removed(kafka_server: str) -> None:
    url, name = f"kafka://{kafka_server}", f"gone-{uuid.uuid4().hex}"
    open_log(url, name=name, partitions=1, create=LogSettings()).close()
    for _ in range(2):
        remove_log(url, name=name)
        with pytest.raises(NotFound):
            open_log(url, name=name)
