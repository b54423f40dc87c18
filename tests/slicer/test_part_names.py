"""Which tensors are parts of one, by their names and shapes."""

import pytest

from penstock.slicer.part_names import pieces_of
from penstock.slicer.readers import TensorInfo


def tensor(name, *shape, dtype="float32", role="embedding"):
    return TensorInfo(name=name, shape=shape, dtype=dtype, role=role, nbytes=8)


def joined(*tensors):
    return [(piece.in_config, piece.shape, len(piece.parts)) for piece in pieces_of(tensors)]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["emb/part_0", "emb/part_1"], "emb/part_*"),
        (["emb/part_1", "emb/part_2"], "emb/part_*"),
        (["emb/part_1", "emb/part_10", *(f"emb/part_{n}" for n in (0, 2, 3, 4, 5, 6, 7, 8, 9))], "emb/part_*"),
        (["e.part_00000-of-00002", "e.part_00001-of-00002"], "e.part_*-of-00002"),
        (["ev/part_0-keys", "ev/part_1-keys"], "ev/part_*-keys"),
        (["t_mht_1of2-values", "t_mht_2of2-values"], "t_mht_*of2-values"),
        (["shard0.w", "shard1.w"], "shard*.w"),
        (["w_0-of-2", "w_1-of-2"], "w_*-of-2"),
    ],
)
def test_parts_are_joined(names, pattern):
    assert joined(*(tensor(name, 3, 4) for name in names)) == [(pattern, (3 * len(names), 4), len(names))]


@pytest.mark.parametrize(
    "names",
    [
        ["emb_0", "emb_1"],
        ["emb.0.weight", "emb.1.weight"],
        ["apartment_0", "apartment_1"],
        ["emb/part_0", "emb/part_2"],
        ["emb/part_2", "emb/part_3"],
        ["emb/part_0", "emb/part_00"],
        ["emb/part_0"],
        ["e.part_0-of-3", "e.part_1-of-3"],
        ["emb/part_0", "emb/part_1", "emb/part_*"],
    ],
)
def test_what_is_no_complete_set_stays_apart(names):
    assert sorted(joined(*(tensor(name, 3, 4) for name in names))) == sorted((name, (3, 4), 1) for name in names)


@pytest.mark.parametrize(
    "other", [tensor("p/part_1", 3, 5), tensor("p/part_1", 3), tensor("p/part_1", 3, 4, dtype="float16"),
              tensor("p/part_1"), tensor("p/part_1", 3, 4, role="optimizer")],
)  # fmt: skip
def test_parts_of_other_rows_stay_apart(other):
    assert len(joined(tensor("p/part_0", 3, 4), other)) == 2


def test_scalars_are_no_parts():
    assert len(joined(tensor("p/part_0"), tensor("p/part_1"))) == 2


def test_parts_that_one_star_cannot_name_are_listed():
    names = ["a*/part_0", "a*/part_1"]
    assert joined(*(tensor(name, 3, 4) for name in names)) == [(names, (6, 4), 2)]


def test_parts_come_in_the_order_of_their_numbers_where_the_first_one_stood():
    pieces = pieces_of([tensor("b/part_10", 1, 2), tensor("a", 1)] + [tensor(f"b/part_{n}", 1, 2) for n in range(10)])
    assert [part.name for part in pieces[0].parts] == [f"b/part_{n}" for n in range(11)]
    assert pieces[1].name == "a"
    assert (pieces[0].nbytes, pieces[0].dtype, pieces[0].role) == (88, "float32", "embedding")
