"""A rollback in steps, between which a person stands and any run may die."""

from __future__ import annotations

import msgspec
import pytest
from faulty import Faults, Faulty, every_failure
from worlds import TABLES, World, at

from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.times import format_time
from penstock.pipeline.runs.rolling_back import Proposal, Wish, carry_out, confirmed_by_all, propose
from penstock.rollback.execution import abandon, execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event

WISH = Wish(reason="bot traffic", before=format_time(at(10)))


def poisoned():
    world = World()
    trainer = world.writer()
    for table in TABLES:
        trainer.put(table, 5, *range(6))
    world.commit(world.mark(trainer), snapshot=True)
    trainer.put("item", 10, 1, 20)
    world.commit(world.mark(trainer))
    trainer.put("user", 12, 2)
    return world


def acting(world, who="run", **options):
    return world.environment(who=who, **options)


def test_a_proposal_changes_nothing_and_shows_what_will_be_lost():
    world = poisoned()
    before = world.catalog.refs()
    found = propose(acting(world), WISH)
    assert world.catalog.refs() == before
    assert found.plan == plan_rollback(acting(world), before_event(at(10)))
    for line in (
        "Reason: bot traffic",
        "takes back versions: 2",
        "moves refs: live",
        "| item | trainer | 2 |",
        "| user | trainer | 1 |",
    ):
        assert line in found.text
    assert msgspec.convert(msgspec.to_builtins(found), Proposal) == found, "it is passed from task to task"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "where to"),
        ({"before": format_time(at(10)), "version": 1}, "where to"),
        ({"version": 1, "reason": " "}, "reason"),
        ({"before": "2026-11-21T10:00:00"}, "no offset"),
        ({"version": 77}, "version 77"),
        ({"version": 1, "tables": ("nothing",)}, "nothing"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_by_name(given, match):
    with pytest.raises(Exception, match=match):
        propose(acting(poisoned()), Wish(**{"reason": "why"} | given))


@pytest.mark.parametrize("given", [{"version": 1}, {"to_checkpoint": True}, {"written_before": format_time(at(10))}])
def test_every_kind_of_target_is_carried_out(given):
    world = poisoned()
    env = acting(world)
    made = carry_out(env, propose(env, Wish(reason="why", **given)), why="why")
    assert (made.kind, made.timeline) == ("rollback", 2)
    assert env.catalog.refs().ref("live").version == made.version


def test_only_the_tables_that_are_named_go_back():
    world = poisoned()
    env = acting(world)
    made = carry_out(env, propose(env, Wish(reason="why", before=WISH.before, tables=("item",))), why="why")
    assert set(made.rollback.tables) == {"item"}
    assert world.rows(made)["user"][2][0] == 12


def test_a_run_that_dies_at_any_call_ends_with_its_one_version():
    first = poisoned()
    proposal = propose(acting(first), WISH)
    there = first.copy()
    expected = there.rows(carry_out(acting(there), proposal, why="why"))
    worlds = []

    def run(faults: Faults) -> None:
        worlds.append(world := first.copy())
        carry_out(acting(world, store=Faulty(world.store, faults), log=Faulty(world.log, faults)), proposal, why="why")

    count = 0
    for failure in every_failure(run):
        world, count = worlds.pop(), count + 1
        env = acting(world)
        # Cleared as a whole: it proposes anew, which finds what it has begun.
        made = carry_out(env, proposal if count % 2 else propose(env, WISH), why="why")
        assert [m.version for m in world.catalog.history().rollbacks()] == [made.version], failure
        assert world.rows(made) == expected, failure
    assert count > 100


def test_an_approval_is_void_once_somebody_else_has_gone_back():
    world = poisoned()
    proposal = propose(acting(world), WISH)
    mine = execute(acting(world, "another"), plan_rollback(acting(world), before_event(at(12))), why="quicker")
    with pytest.raises(Refused, match="claimed by another: the plan that was approved is void"):
        carry_out(acting(world), proposal, why="why")
    assert world.catalog.history().newest == mine


def test_what_was_abandoned_meanwhile_is_not_finished():
    world = poisoned()
    env = acting(world)
    proposal = propose(env, WISH)
    dying = Faults(at=60, mode="before")
    with pytest.raises(BaseException):  # noqa: B017, PT011
        carry_out(acting(world, store=Faulty(world.store, dying), log=Faulty(world.log, dying)), proposal, why="why")
    assert propose(env, WISH).plan is None, "the run knows its own claim"
    abandon(acting(world, "operator"), why="no need")
    with pytest.raises(Refused, match="abandoned"):
        carry_out(env, proposal, why="why")
    assert propose(env, WISH).timeline == 3


def test_it_waits_for_every_live_replica_and_stops_at_one_that_differs():
    world = poisoned()
    env = acting(world)
    world.presence("slow", world.catalog.history().newest, world.ends())
    made = carry_out(env, propose(env, WISH), why="why")
    assert confirmed_by_all(env, made.version) is None
    world.presence("slow", made, world.ends(), digests=made.digests)
    assert confirmed_by_all(env, made.version) == {"slow": "d"}
    world.presence("wrong", made, world.ends(), digests={})
    with pytest.raises(Refused, match="digests of wrong differ"):
        confirmed_by_all(env, made.version)


def test_nobody_is_waited_for_whose_lease_has_ended():
    world = poisoned()
    env = acting(world)
    world.presence("gone", world.catalog.history().newest, world.ends(), until=world.now - 1)
    made = carry_out(env, propose(env, WISH), why="why")
    assert confirmed_by_all(env, made.version) == {}
