"""What a table is called, and which names speak of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipeline.core.ids import checked_name
from penstock.slicer.table_names import TableNames, says_keys, speaks_of, table_name


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        ("model.embeddings.customer.weight", "customer"),
        ("sparse.embedding_bags.t_user.weight", "t_user"),
        ("item/embeddings:0", "item"),
        ("emb/part_*", "emb"),
        ("user/weights/part_*-of-00004", "user"),
        ("layer_with_weights-1/userId_embedding.Sembedding_weights/.ATTRIBUTES/VARIABLE_VALUE", "userId_embedding"),
        ("ta ble.emb.0", "ta_ble"),
        ("товар.weight", "weight"),
        ("layers/user/vars/0", "user"),
        ("layers/embedding/vars/0", "embedding"),
        ("0.weight", "weight"),
        ("0", "table"),
        ("", "table"),
        ("…", "table"),
    ],
)
def test_the_last_telling_part_is_the_name(tensor, name):
    assert table_name(tensor) == name


def test_a_name_that_is_taken_gets_a_number():
    names = TableNames()
    tensors = ["user.weight", "user_2.weight", "user.emb", "bags.user", "user_2"]
    assert [names.new(tensor) for tensor in tensors] == ["user", "user_2", "user_3", "user_4", "user_2_2"]


@given(st.lists(st.one_of(st.text(), st.sampled_from(["a", "a_2", "a_3", "a_2_2", "table"]))))
def test_any_tensors_give_names_that_the_config_takes_and_none_twice(tensors):
    names = TableNames()
    found = [checked_name(names.new(tensor), "table") for tensor in tensors]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("candidate", "tensor", "does"),
    [
        ("customer", "model.embeddings.customer.weight", True),
        ("customer_vocab", "model.embeddings.customer.weight", True),
        ("t_user_ids", "sparse.embedding_bags.t_user.weight", True),
        ("user_ids", "sparse.embedding_bags.t_user.weight", True),
        ("vocab", "model.embeddings.customer.weight", False),
        ("customer_country", "model.embeddings.customer.weight", False),
        ("country", "model.embeddings.customer.weight", False),
        ("model", "model.embeddings.customer.weight", False),
        ("t", "sparse.embedding_bags.t_user.weight", False),
        ("ids", "weight", False),
    ],
)
def test_names_that_speak_of_one_table(candidate, tensor, does):
    assert speaks_of(candidate, tensor) is does


def test_words_of_keys():
    assert says_keys("customer_Vocab.txt")
    assert not says_keys("customer_width")
