"""What would be sliced, and how, from names, shapes and roles."""

import pytest

from penstock.slicer.proposals import Headers, Vocabulary, propose
from penstock.slicer.readers import TensorInfo
from penstock.slicer.readers.roles import role_of


def tensor(name, *shape, dtype="float32", role=None):
    return TensorInfo(name=name, shape=shape, dtype=dtype, role=role or role_of(name, shape, "float32"), nbytes=4)


def keys(name, count, dtype="int64"):
    return tensor(name, count, dtype=dtype, role="other")


class Around(Headers):
    """Every tensor has these texts, and these files lie beside: name and how many keys."""

    def __init__(self, *texts, **files):
        self.texts, self.files = texts, files

    def first_texts(self, tensor):
        return self.texts

    def vocabulary(self, fits, rows):
        return next((Vocabulary(name=f"{n}.txt", first=self.texts) for n, c in self.files.items() if c == rows and fits(n)), None)


def proposed(*tensors, around=None):
    proposal = propose(tensors, around or Headers())
    assert set(proposal.uses) == {each.name for each in tensors}
    return {table.name: table for table in proposal.tables}, proposal.uses


@pytest.mark.parametrize(
    ("key_name", "row_name", "table"),
    [
        ("item/keys", "item/rows", "item"),
        ("item-keys", "item-values", "item"),
        ("item.keys", "item.rows", "item"),
        ("item_keys", "item_values", "item"),
        ("item/ids", "item/embeddings", "item"),
        ("keys", "rows", "table"),
        ("layer/item_mht_1of1-keys", "layer/item_mht_1of1-values", "item_mht_1of1"),
    ],
)
def test_keys_and_rows_of_one_name_are_a_table(key_name, row_name, table):
    tables, uses = proposed(keys(key_name, 5), tensor(row_name, 5, 3))
    assert tables[table].config.keys == key_name
    assert tables[table].config.rows == row_name
    assert (tables[table].rows, tables[table].dim, tables[table].nbytes) == (5, 3, 4)
    assert uses == {key_name: f"keys of {table}", row_name: f"table {table}, keys in {key_name}"}


@pytest.mark.parametrize(
    "others",
    [
        [keys("item/keys", 4)],
        [keys("item_keys", 5)],
        [tensor("item/keys", 5, role="dense")],
        [keys("item/keys", 5, dtype="bool")],
        [tensor("item/keys", 5, 1, dtype="int64", role="other")],
        [],
    ],
)
def test_keys_that_do_not_fit_are_none(others):
    tables, uses = proposed(tensor("item/rows", 5, 3, role="dense"), *others)
    assert tables == {}
    assert uses["item/rows"] == "dense slice"


def test_deletions_go_with_their_table():
    tables, uses = proposed(keys("item/keys", 5), tensor("item/rows", 5, 3), keys("item/deleted", 2))
    assert uses["item/deleted"] == "deletions of item"
    assert tables["item"].config.delta is None, "publish finds them by itself"
    tables, _ = proposed(keys("item/ids", 5), tensor("item/rows", 5, 3), keys("item/deleted", 2))
    delta = tables["item"].config.delta
    assert (delta.keys, delta.rows, delta.deleted) == ("item/ids", "item/rows", "item/deleted")


def test_embeddings_are_tables_by_their_row_number_and_the_rest_is_told():
    tables, uses = proposed(
        tensor("emb.user.weight", 9, 3), tensor("top.0.weight", 4, 4), tensor("optimizer.state.0.sum", 9, 3),
        tensor("step", dtype="int64", role="other"), tensor("emb.x.weight", 9, 3, dtype="float8_e4m3fn", role="embedding"),
        tensor("top.1.weight", 4, 4, dtype="float8_e4m3fn", role="dense"), tensor("graph", dtype="variant", role="other"),
    )  # fmt: skip
    assert [table.config.tensor for table in tables.values()] == ["emb.user.weight"]
    assert uses == {
        "emb.user.weight": "table user, row number is the key", "top.0.weight": "dense slice", "step": "left out: buffer",
        "optimizer.state.0.sum": "left out: optimizer", "emb.x.weight": "left out: no rows of floats",
        "top.1.weight": "dense slice, which refuses float8_e4m3fn", "graph": "left out: buffer",
    }  # fmt: skip


def test_parts_are_one_table():
    tables, uses = proposed(*(tensor(f"user/part_{n}", 100 + n, 3, role="embedding") for n in range(3)))
    assert (tables["user"].config.tensor, tables["user"].rows, tables["user"].parts) == ("user/part_*", 303, 3)
    assert uses["user/part_1"] == "table user, row number is the key (part 2 of 3)"
    tables, uses = proposed(
        *(keys(f"user/part_{n}-keys", 100 + n) for n in range(2)),
        *(tensor(f"user/part_{n}-values", 100 + n, 3) for n in range(2)),
    )
    assert (tables["user"].config.keys, tables["user"].config.rows) == ("user/part_*-keys", "user/part_*-values")
    assert uses["user/part_1-keys"] == "keys of user (part 2 of 2)"


def test_parts_whose_keys_lie_otherwise_are_no_table_by_key():
    tables, _ = proposed(
        keys("u/part_0-keys", 1), keys("u/part_1-keys", 2), tensor("u/part_0-values", 2, 3), tensor("u/part_1-values", 1, 3)
    )
    assert not any(table.config.keys for table in tables.values())


@pytest.mark.parametrize(
    ("vocabulary", "found"),
    [
        (keys("user_vocab", 9), True),
        (keys("user_vocab", 9, dtype="string"), True),
        (keys("user_names", 9, dtype="<U7"), False),
        (keys("user", 9, dtype="string"), True),
        (keys("user", 9), False),
        (keys("user_vocab", 8), False),
        (keys("item_vocab", 9), False),
    ],
)
def test_a_tensor_of_as_many_keys_is_a_vocabulary(vocabulary, found):
    tables, uses = proposed(tensor("emb.user.weight", 9, 3), vocabulary)
    assert tables["user"].config.vocabulary == (vocabulary.name if found else None)
    assert uses[vocabulary.name] == ("vocabulary of user" if found else "left out: buffer")


def test_one_vocabulary_is_not_given_twice():
    tables, _ = proposed(tensor("a.user.weight", 2000, 3), tensor("b.user.weight", 2000, 3), keys("user_ids", 2000))
    assert [table.config.vocabulary for table in tables.values()] == ["user_ids", None]
    assert list(tables) == ["user", "user_2"]


def test_a_file_beside_is_a_vocabulary():
    tables, uses = proposed(tensor("emb.user.weight", 9, 3), around=Around(b"7", user=8, item=9, user_ids=9))
    assert tables["user"].config.vocabulary == "user_ids.txt"
    assert tables["user"].config.key_type == "int64"
    assert uses["emb.user.weight"] == "table user, keys in user_ids.txt"


@pytest.mark.parametrize(
    ("texts", "key_type"),
    [((b"0", b"-7", b"17850"), "int64"), ((b"1", b"01"), None), ((b"85123A",), None), ((b"1", b""), None), ((b"-0",), None),
     ((b"1" * 19,), "int64"), ((b"9" * 19,), None), ((), None)],
)  # fmt: skip
def test_texts_that_are_numbers_are_taken_as_numbers(texts, key_type):
    pair = keys("item/keys", 5, dtype="string"), tensor("item/rows", 5, 3)
    assert proposed(*pair, around=Around(*texts))[0]["item"].config.key_type == key_type


def test_a_format_that_names_nothing_has_one_name_in_every_checkpoint():
    tables, uses = proposed(keys("keys", 5, dtype="string"), tensor("rows", 5, 3), keys("slots", 5), keys("deleted", 1))
    assert (tables["table"].config.keys, tables["table"].config.rows) == ("keys", "rows")
    assert (uses["deleted"], uses["slots"]) == ("deletions of table", "left out: buffer")


def test_slots_are_no_tables():
    pair = keys("adam/item-keys", 5), tensor("adam/item-values", 5, 3, role="optimizer")
    assert proposed(*pair)[0] == {}
