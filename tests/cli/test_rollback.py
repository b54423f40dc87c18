"""`rollback` and `trace`: the plan, the commit, what was begun, and what makes no sense."""

import io
import json

import pytest

from penstock.pipeline.catalog import leases
from penstock.pipeline.cli import rollback as module
from penstock.pipeline.cli.rollback import RollbackDocument
from penstock.pipeline.config import load_config
from penstock.pipeline.core.errors import Fenced
from penstock.pipeline.core.times import event_time
from penstock.pipeline.environment import open_environment
from penstock.publishers import Delivery
from penstock.rollback.plan import Lost, RollbackPlan, claim_of
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.rollback.trace import TraceEntry

POISON = "2024-11-01T10:20:00Z"
WHY = ("--reason", "bot traffic")


def begun(shell):
    """A rollback whose process died right after its claim."""
    with open_environment(load_config(shell.config), "shop") as env:
        plan = plan_rollback(env, before_event(event_time(POISON)))
        leases.create_claim(env.catalog, claim_of(plan, claim_id="dead", who="ann", at=env.clock(), why="bots"))


def test_a_dry_run_tells_what_will_be_lost_and_changes_nothing(shell):
    found = shell.json("rollback", "--before", POISON, "--dry-run")
    assert set(found) == set(RollbackDocument.__struct_fields__)
    assert set(found["plan"]) == set(RollbackPlan.__struct_fields__)
    assert set(found["lost"]) == set(Lost.__struct_fields__)
    assert found["plan"]["base"] == 2
    assert found["lost"] == found["plan"]["lost"]
    assert found["lost"]["versions"] == [3]
    lost = found["lost"]["rows"][0]
    assert lost.items() >= {"table": "item", "publisher": "trainer-0", "rows": 1, "tombstones": 0, "first": POISON}.items()
    assert found["version"] is None
    assert shell.live() == 3


def test_a_rollback_brings_the_rows_back(shell):
    found = shell.json("rollback", "--before", POISON, *WHY)
    assert found.items() >= {"version": 4, "timeline": 2, "rows_restored": 1, "tombstones": 0, "missing": []}.items()
    assert shell.json("verify")["digest"] == shell.json("verify", 2)["digest"]
    assert shell.json("history")[-1]["why"] == "bot traffic"
    again = shell.json("rollback", "--to-version", 3, "--reason", "it was fine")
    assert (again["version"], again["timeline"]) == (5, 3)
    assert shell.json("verify")["digest"] == shell.json("verify", 3)["digest"]


def test_a_state_that_was_stated_gives_its_digest(shell):
    found = shell.json("rollback", "--to-version", 1, *WHY)
    assert found["digest"] == shell.json("verify", 1)["digest"]


def test_one_table_goes_back_alone(shell):
    found = shell.json("rollback", "--before", POISON, "--table", "customer", "--dry-run")
    assert found["plan"]["tables"] == ["customer"]
    assert found["plan"]["learned_too"] == ["item"]
    assert found["lost"]["rows"] == []


@pytest.mark.parametrize("options", [("--to-checkpoint",), ("--written-before", "2100-01-01T00:00:00Z")])
def test_other_targets(shell, options):
    found = shell.json("rollback", *options, "--dry-run")
    assert found["plan"]["base"] == 3


def test_a_rollback_that_was_begun_is_finished(shell):
    begun(shell)
    blocked = shell("rollback", "--before", POISON, *WHY)
    assert blocked.code == 4
    assert "--resume" in blocked.err
    assert "not decided" in shell("status").out
    found = shell.json("rollback", "--resume")
    assert found.items() >= {"version": 4, "timeline": 2, "plan": None, "lost": {"rows": 1}}.items()
    assert shell("rollback", "--resume").code == 5


def test_a_rollback_that_was_begun_is_given_up(shell):
    begun(shell)
    assert shell.json("rollback", "--abandon", *WHY)["timeline"] == 2
    assert shell("rollback", "--abandon").code == 5
    assert shell.live() == 3
    assert shell.json("rollback", "--before", POISON, *WHY)["timeline"] == 3


def test_a_trainer_that_did_not_notice_is_refused(shell):
    resumed = shell.folder / "step_3.npz"
    with Delivery.open(shell.config, publisher="trainer-0", resume=resumed) as delivery:
        shell.json("rollback", "--before", POISON, *WHY)
        with pytest.raises(Fenced):
            delivery.updates().mark()
        delivery.close()
    assert shell.live() == 4


def test_trace_tells_who_wrote_a_row(shell):
    shell.json("rollback", "--before", POISON, *WHY)
    found = shell.json("trace", "--table", "item", 50)
    assert all(set(each) == set(TraceEntry.__struct_fields__) for each in found)
    assert [(each["origin"], each["op"], each["live"]) for each in found] == [
        ("version 1 changes", "put", True),
        ("log", "put", False),
        ("version 3 changes", "put", False),
        ("version 4 undo", "put", True),
    ]
    assert shell.json("trace", "--table", "item", -50) == []
    assert shell("trace", "--table", "user", 50).code == 5


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ((), 2),
        (("--before", POISON), 2),
        (("--before", "2024-11-01T10:20:00", *WHY), 2),
        (("--before", POISON, "--to-version", "2", *WHY), 2),
        (("--resume", "--before", POISON), 2),
        (("--resume", "--abandon"), 2),
        (("--before", POISON, "--wait", "soon", *WHY), 2),
        (("--before", POISON, "--timeline", "9", *WHY), 2),
        (("--before", POISON, "--table", "user", *WHY), 5),
        (("--to-version", "99", *WHY), 5),
        (("--resume",), 5),
    ],
)
def test_what_makes_no_sense_moves_nothing(shell, wrong, code):
    before = (shell.folder / "store/shop/refs.json").read_bytes()
    said = shell("rollback", *wrong)
    assert said.code == code
    assert said.err.startswith("error: ")
    assert said.err.count("\n") <= 2
    assert (shell.folder / "store/shop/refs.json").read_bytes() == before


@pytest.mark.parametrize(("answer", "code", "live"), [("n\n", 1, 3), ("", 1, 3), ("y\n", 0, 4)])
def test_on_a_terminal_it_asks_first(shell, monkeypatch, answer, code, live):
    monkeypatch.setattr(module.stderr, "_force_terminal", True)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    said = shell("rollback", "--before", POISON, *WHY)
    assert (said.code, shell.live()) == (code, live)
    assert "Go back?" in said.err
    assert ("nothing was changed" in said.err) is (code == 1)


def test_people_can_read_the_plan(shell, columns):
    said = shell("rollback", "--before", POISON, *WHY)
    assert (said.code, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= columns
    assert "takes back versions: 3" in said.out
    assert "Version 4" in said.out
    assert json.loads((shell.folder / "store/shop/refs.json").read_bytes())["timeline"] == 2
