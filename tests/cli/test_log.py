"""`log inspect`, `log tail`, `log skip`: in a shop whose log holds what nobody can read."""

import json

import pytest

from penstock.pipeline.catalog.log_survey import PartitionSurvey
from penstock.pipeline.catalog.log_view import tail
from penstock.pipeline.cli.log import TailLine
from penstock.pipeline.config import load_config
from penstock.pipeline.core.coordination import Skip
from penstock.pipeline.environment import open_environment

POISON = "2024-11-01T10:20:00Z"


@pytest.fixture
def poisoned(shell):
    """The shell, and the offset of noise in partition 1."""
    with open_environment(load_config(shell.config), "shop") as env:
        return shell, env.log.append(1, b"noise" * 40).result(10)


def lines(said):
    assert (said.code, said.err) == (0, "")
    return [json.loads(line) for line in said.out.splitlines()]


def test_inspect_counts_everything_in_every_partition(shell):
    found = shell.json("log", "inspect")
    assert [part["partition"] for part in found] == [0, 1]
    for part in found:
        assert set(part) == set(PartitionSurvey.__struct_fields__)
        assert part["records"] == part["end"] - part["begin"] == sum(part["kinds"].values()) == sum(part["standings"].values())
        assert part["standings"] == {"live": part["records"]}
        assert part["timelines"] == {"1": part["records"]}
        assert [marker["what"] for marker in part["markers"]] == ["1-1", "1-2", "1-3"]
        (term,) = [term for term in part["publishers"] if term["publisher"] == "trainer-0"]
        assert (term["term"], term["first_seq"], term["missing"]) == (1, 0, 0)
        assert (part["unreadable"], part["skipped"], part["damage"]) == ([], [], "")
        assert part["first_appended_at"] <= part["last_appended_at"]
    assert sum(part["rows"] for part in found) == 2
    shown = shell("log", "inspect")
    assert shown.code == 0
    assert "trainer-0" in shown.out


def test_inspect_of_a_stretch(shell):
    (part,) = shell.json("log", "inspect", "--partition", "1", "--from", "1", "--to", "3")
    assert (part["partition"], part["start"], part["stop"], part["records"]) == (1, 1, 3, 2)
    (part,) = shell.json("log", "inspect", "--partition", "1", "--from", "100000")
    assert part["records"] == 0
    said = shell("log", "inspect", "--partition", "7")
    assert said.code == 2
    assert "0 to 1" in said.err


def test_what_cannot_be_read_is_named_then_skipped_then_shown_everywhere(poisoned):
    shell, offset = poisoned
    said = shell("log", "inspect", "--json")
    assert said.code == 3
    assert [(u["offset"], u["standing"]) for u in json.loads(said.out)[1]["unreadable"]] == [(offset, "unreadable")]
    assert f"--partition 1 --offset {offset}" in shell("log", "inspect").out
    assert shell("log", "skip", "--partition", "1", "--offset", offset).code == 2
    decided = shell.json("log", "skip", "--partition", "1", "--offset", offset, "--reason", "a test [wrote] it")
    assert set(decided) == set(Skip.__struct_fields__)
    assert "magic" in decided["rule"]
    shown = shell("log", "skip", "--partition", "1", "--offset", offset, "--reason", "again").out
    assert "What it held is unknown" in shown
    assert [skip["offset"] for skip in shell.json("log", "inspect")[1]["skipped"]] == [offset]
    (skip,) = shell.json("status")["skips"]
    assert (skip["partition"], skip["offset"], skip["why"]) == (1, offset, "a test [wrote] it")
    assert "a test [wrote] it" in shell("status").out
    assert f"skipped partition 1 offset {offset}" in [move["what"] for move in shell.json("history")]
    assert shell("rollback", "--before", POISON, "--dry-run").code == 0


def test_a_good_record_is_not_skipped(shell):
    said = shell("log", "skip", "--partition", "0", "--offset", "0", "--reason", "x")
    assert said.code == 3
    assert "good record" in said.err
    assert shell.json("status")["skips"] == []
    assert shell("log", "skip", "--partition", "0", "--offset", "99999", "--reason", "x").code == 3


def test_tail_prints_the_last_records_or_those_that_are_asked_for(poisoned):
    shell, offset = poisoned
    found = lines(shell("log", "tail", "--json", "-n", "100"))
    assert all(set(line) == set(TailLine.__struct_fields__) for line in found)
    assert len(found) == sum(part["records"] for part in json.loads(shell("log", "inspect", "--json").out))
    assert [line["rule"] != "" for line in found if line["standing"] != "live"] == [True]
    assert [line["offset"] for line in lines(shell("log", "tail", "--json", "-n", "1", "--partition", "1"))] == [offset]
    rows = lines(shell("log", "tail", "--json", "--table", "item"))
    assert [(line["kind"], line["table"], line["rows"]) for line in rows] == [("rows", "item", 1)] * 2
    (line,) = lines(shell("log", "tail", "--json", "--table", "item", "--key", "50", "-n", "100"))
    assert line["trained_through"] == POISON
    assert lines(shell("log", "tail", "--json", "--table", "item", "--key", "77")) == []
    assert lines(shell("log", "tail", "--json", "-n", "0")) == []
    assert "item: 1 rows" in shell("log", "tail").out
    assert shell("log", "tail", "--key", "50").code == 2
    assert shell("log", "tail", "--table", "nowhere").code == 5


def test_what_was_taken_back_is_dead(shell):
    assert shell("rollback", "--before", POISON, "--reason", "bots", "--wait", "0s").code == 0
    standing = {line["offset"]: line for line in lines(shell("log", "tail", "--json", "--table", "item", "-n", "100"))}
    assert sorted(line["standing"] for line in standing.values()) == ["dead", "live"]
    (fences,) = {tuple(f["what"] for f in part["fences"]) for part in shell.json("log", "inspect")}
    assert fences == ("2",)


def test_tail_goes_on_as_records_come_and_learns_what_is_decided(shell):
    with open_environment(load_config(shell.config), "shop") as env:
        ends = {p: env.log.end(p) for p in range(2)}
        seen = tail(env.catalog, env.log, ends, wait_s=0.01)
        assert next(seen) is None
        offset = env.log.append(0, b"noise").result(10)
        assert next(found for found in seen if found is not None).standing == "unreadable"
        assert shell("log", "skip", "--partition", "0", "--offset", offset, "--reason", "x").code == 0
        again = tail(env.catalog, env.log, ends, wait_s=0.01)
        assert next(found for found in again if found is not None).standing == "skipped"
        assert shell("rollback", "--before", POISON, "--reason", "bots", "--wait", "0s").code == 0
        assert next(f for f in seen if f is not None and f.entry.record.partition == 0).standing == "live"
