"""What becomes of tables is decided from what was, what is there and what the config says, and from nothing else."""

from __future__ import annotations

import pytest

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.ids import Positions, State
from penstock.pipeline.core.manifest import Manifest, Rollback, Target
from penstock.pipeline.core.schema import ModelSchema, TableSchema, check_birth
from penstock.pipeline.core.schema_change import (
    Appears,
    Reshaped,
    Retired,
    Same,
    Vanished,
    decide,
    plan_tables,
    shapes_after,
    was_cleared,
)


def table(dim=2, codec="float32", keys="int64", of=None):
    return TableSchema(dim=dim, codec=codec, width=4 * dim, keys=keys, generation_of=of)


A, WIDE, SMALL, TEXTS = table(), table(3), table(codec="float16"), table(keys="string")


def version(number, base=None, *, shapes=None, retired=(), rollback=None):
    return Manifest(
        model="m", version=number, kind="delta" if rollback is None else "rollback", state=State(1, number), previous=None,
        base=base, positions=Positions("log", ()), trained_through=0, created_at=0, publisher="", term=0, upload="", changes={},
        shapes=shapes or {}, retired=retired, rollback=rollback,
    )  # fmt: skip


def schema(**tables):
    named = {name.replace("_at_", "@"): found for name, found in tables.items()}
    return ModelSchema(model="m", id="0" * 32, buckets=8, partitions=2, log="log", tables=named, created_at=0)


TWO = schema(item=A, item_at_2=table(3, of="item"), user=A)


@pytest.mark.parametrize(
    ("known", "found", "retired", "decided"),
    [
        ({}, {"item": A}, (), (Appears("item"),)),
        ({"item": A}, {"item": A}, (), (Same("item"),)),
        ({"item": A}, {"item": WIDE}, (), (Reshaped("item", A, WIDE),)),
        ({"item": A}, {"item": SMALL}, (), (Reshaped("item", A, SMALL),)),
        ({"item": A}, {"item": TEXTS}, (), (Reshaped("item", A, TEXTS),)),
        ({"item": A}, {}, (), (Vanished("item"),)),
        ({"item": A}, {}, ("item",), (Retired("item"),)),
        ({"item": A}, {"user": A}, ("item", "cart"), (Retired("item"), Appears("user"))),
        ({"b": A, "a": A}, {"a": A, "b": A}, (), (Same("a"), Same("b"))),
    ],
)
def test_every_decision(known, found, retired, decided):
    assert decide(known, found, retired) == decided


def test_a_decision_says_what_it_is():
    changes = (Same("a"), Appears("b"), Reshaped("c", A, table(3, "float16")), Vanished("d"), Retired("e"))
    assert [str(change) for change in changes] == [
        "table a goes on", "table b appears", "table c: dim 2 becomes 3, codec float32 becomes float16", "table d has vanished",
        "table e is retired",
    ]  # fmt: skip


def test_a_new_shape_is_a_new_generation_and_the_one_before_is_kept():
    plan = plan_tables(schema(item=A, user=A), version(1), {"item": WIDE, "user": A}, retired=())
    assert plan.names == {"item": "item@2", "user": "user"}
    assert plan.found == {"item@2": table(3, of="item"), "user": A}
    assert (plan.shapes, plan.retired, plan.kept, plan.cleared) == ({"item": "item@2"}, (), ("item",), ())
    assert plan.reason("why") == "why; table item: dim 2 becomes 3"


def test_the_version_after_clears_it():
    plan = plan_tables(TWO, version(2, shapes={"item": "item@2"}), {"item": WIDE, "user": A}, retired=())
    assert (plan.names["item"], plan.kept, plan.cleared, plan.news) == ("item@2", (), ("item",), ())
    assert plan.reason("why") == "why"


@pytest.mark.parametrize(
    ("wants", "base", "generation"),
    [
        (WIDE, version(3), "item@2"),  # rolled back, and published again
        (A, version(3, shapes={"item": "item@2"}), "item"),  # back to the first shape, without a rollback
        (table(5), version(3, shapes={"item": "item@2"}), "item@3"),
        (table(5), version(3), "item@3"),
        (SMALL, version(3), "item@3"),
    ],
)
def test_a_generation_of_the_same_shape_is_used_again(wants, base, generation):
    plan = plan_tables(TWO, base, {"item": wants, "user": A}, retired=())
    assert plan.names["item"] == generation
    assert plan.shapes == ({} if generation == "item" else {"item": generation})
    assert plan.kept == (base.generation("item"),)
    assert set(plan.kept + plan.cleared) == {"item", "item@2"} - {generation}


def test_a_retired_table_is_cleared_and_stays_away_without_its_line_in_the_config():
    plan = plan_tables(TWO, version(2, shapes={"item": "item@2"}), {"user": A}, retired={"item"})
    assert plan.changes == (Retired("item"), Same("user"))
    assert (plan.shapes, plan.retired, plan.kept) == ({"item": "item@2"}, ("item",), ())
    assert plan.cleared == ("item", "item@2")
    later = plan_tables(TWO, version(3, shapes={"item": "item@2"}, retired=("item",)), {"user": A}, retired=())
    assert (later.changes, later.retired, later.cleared) == ((Same("user"),), ("item",), ("item", "item@2"))


@pytest.mark.parametrize(("wants", "generation"), [(A, "item"), (WIDE, "item@2"), (table(5), "item@3")])
def test_a_retired_table_comes_back_in_any_shape(wants, generation):
    gone = version(3, shapes={"item": "item@2"}, retired=("item",))
    plan = plan_tables(TWO, gone, {"item": wants, "user": A}, retired=())
    assert plan.changes[0] == Appears("item")
    assert (plan.names["item"], plan.retired, plan.kept, plan.appears) == (generation, (), (), True)


def test_a_source_that_says_nothing_of_a_table_changes_nothing_of_it():
    plan = plan_tables(TWO, version(2, shapes={"item": "item@2"}), {"user": A}, retired=(), unnamed=["item", "user"])
    assert (plan.changes, plan.shapes, plan.cleared) == ((Same("user"),), {"item": "item@2"}, ("item",))


WHOLE, PART = (
    Rollback(target=Target(kind="version"), tables=tables, cut=(), fence=(), undo={}, lost_rows=0) for tables in (None, ("user",))
)
NEW = {"item": "item@2"}


@pytest.mark.parametrize(
    ("lineage", "generation", "cleared"),
    [
        ([version(1)], "item", False),
        ([version(1), version(2, 1, shapes=NEW)], "item", False),  # kept by the version that left it
        ([version(1), version(2, 1, shapes=NEW), version(3, 2, shapes=NEW)], "item", True),
        ([version(3, 2, shapes=NEW)], "item", False),  # what came before is not retained
        ([version(1), version(2, 1, retired=("item",))], "item", True),
        ([version(1), version(2, 1, shapes=NEW), version(5, 2, shapes=NEW, rollback=WHOLE)], "item", False),
        ([version(0), version(1, 0), version(5, 1, rollback=WHOLE)], "item@2", False),  # the log may have brought some
        ([version(0), version(1, 0), version(5, 1, rollback=PART)], "item@2", False),
    ],
)
def test_whether_a_generation_was_cleared(lineage, generation, cleared):
    assert was_cleared(lineage, generation, "item") is cleared


def test_a_rollback_takes_shapes_back_of_the_tables_that_go_back():
    base, newest = version(1, retired=("old",)), version(4, shapes={"item": "item@2", "user": "user@2"}, retired=("user",))
    both = schema(item=A, item_at_2=table(3, of="item"), user=A, user_at_2=table(3, of="user"), old=A)
    assert shapes_after(both, base, newest, None) == ({}, ("old",))
    assert shapes_after(both, base, newest, ("item", "item@2")) == ({"user": "user@2"}, ("user",))
    assert shapes_after(both, base, newest, ("user", "user@2", "old")) == ({"item": "item@2"}, ("old",))


def test_generations_are_counted_not_spelled():
    tables = {name: table(number + 2, of="item") for number, name in enumerate(["item@10", "item@2", "item@9"])}
    found = schema(item=A).tables | tables
    assert schema(**found).generations("item") == ["item", "item@2", "item@9", "item@10"]
    assert schema(**found).names() == ["item"]
    assert schema(**found).table_of("item@9") == schema(**found).table_of("item") == "item"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("item@2", A),
        ("item", table(of="item")),
        ("item@1", table(of="item")),
        ("user@2", table(of="item")),
        ("a@b", table(of="a")),
    ],
)
def test_no_other_name_is_one_of_a_generation(name, found):
    with pytest.raises(InvalidInput, match=f"table '?{name}"):
        check_birth(name, found)
    check_birth("item@2", table(of="item"))
