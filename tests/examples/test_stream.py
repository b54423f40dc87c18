import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.examples.retail.keys import fraction, key_of, scattered
from penstock.examples.retail.stream import HOUR_US, UNKNOWN_CUSTOMER, Purchases, PurchaseStream, read_purchases
from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound
from penstock.pipeline.core.times import format_time


@pytest.fixture(scope="module")
def purchases():
    return read_purchases()


def table(**changes):
    columns = {
        "StockCode": ["85123A", " 85123a", "POST", "22423", "22423", "71053"],
        "Quantity": [6, 1, 1, -2, 3, 1],
        "InvoiceDate": ["12/1/10 8:26", "12/1/10 8:26", "12/1/10 9:00", "12/1/10 9:00", "12/31/10 23:59", "1/1/11 0:00"],
        "UnitPrice": [2.5, 2.5, 18.0, 1.0, 1.0, 0.0],
        "CustomerID": [17850, None, 17850, 17850, 13047, 13047],
        "Country": ["United Kingdom"] * 4 + ["France"] * 2,
    }
    return pa.table(columns | changes)


def read(tmp_path, content):
    pq.write_table(content, tmp_path / "orders.parquet")
    return read_purchases(tmp_path / "orders.parquet")


def test_purchases_are_goods_with_a_quantity_and_a_price(tmp_path):
    found = read(tmp_path, table())
    assert found.product.tolist() == [key_of("85123A"), key_of("85123A"), key_of("22423")]
    assert found.customer.tolist() == [17850, UNKNOWN_CUSTOMER, 13047]
    assert found.country.tolist() == [key_of("United Kingdom")] * 2 + [key_of("France")]
    assert found.quantity.tolist() == [6, 1, 3]
    assert found.rank.tolist() == [0, 0, 1]


def test_invariant_11_times_without_an_offset_are_taken_as_utc(tmp_path):
    found = read(tmp_path, table())
    expected = ["2010-12-01T08:26:00Z", "2010-12-01T08:26:00Z", "2010-12-31T23:59:00Z"]
    assert [format_time(at) for at in found.at.tolist()] == expected


def test_the_whole_file(purchases):
    assert len(purchases) == 233_056
    assert format_time(int(purchases.at[0])) == "2010-12-01T08:26:00Z"
    assert format_time(int(purchases.at[-1])) == "2011-06-26T10:59:00Z"
    assert np.unique(purchases.customer).size == 2930
    assert purchases.rank.max() + 1 == np.unique(purchases.product).size == 3401
    assert purchases.quantity.min() > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(InvoiceDate=["12/1/10 8:26", "noon"] + ["12/1/10 9:00"] * 4), "not the Online Retail table"),
        (table().drop_columns(["Country"]), "not the Online Retail table"),
        (table(InvoiceDate=["12/2/10 8:26"] + ["12/1/10 9:00"] * 5), "purchase 1 is older"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    with pytest.raises(Corrupt, match=message):
        read(tmp_path, content)


def test_a_file_that_is_not_there_or_not_parquet(tmp_path):
    with pytest.raises(NotFound, match="no such file"):
        read_purchases(tmp_path / "none")
    (tmp_path / "text").write_text("orders")
    with pytest.raises(Corrupt, match="not the Online Retail table"):
        read_purchases(tmp_path / "text")


def test_batches_hold_every_purchase_once_and_in_time_order(purchases):
    stream = PurchaseStream(purchases, size=1000, negatives=2, seed=1)
    bought = [batch.keys["product"][batch.billed == 1] for batch in stream]
    assert np.array_equal(np.concatenate(bought), purchases.product)
    newest = [batch.trained_through for batch in stream]
    assert newest == sorted(newest)
    last = stream.batch(len(stream) - 1)
    assert last.at.size == 56 * 3
    assert last.billed.sum() == 56
    assert np.array_equal(last.keys["hour"], last.at // HOUR_US % 24)


def test_negatives_come_from_what_was_on_sale_by_then(purchases):
    stream = PurchaseStream(purchases, size=500, negatives=4, seed=1)
    for number in (0, 1, 40):
        batch = stream.batch(number)
        by_then = purchases.product[: (number + 1) * 500]
        assert np.isin(batch.keys["product"], by_then).all()
        assert np.array_equal(batch.keys["customer"][batch.billed == 0], np.tile(purchases.customer[number * 500 :][:500], 4))


def test_a_batch_is_drawn_by_its_number_alone(purchases):
    one, other = (PurchaseStream(purchases, size=300, negatives=3, seed=5) for _ in range(2))
    for _ in zip(range(7), one, strict=False):
        pass
    assert np.array_equal(one.batch(7).keys["product"], other.batch(7).keys["product"])
    reseeded = PurchaseStream(purchases, size=300, negatives=3, seed=6).batch(7)
    assert not np.array_equal(one.batch(7).keys["product"], reseeded.keys["product"])


@given(size=st.integers(1, 7), moment=st.integers(0, 60))
def test_first_at_is_the_first_batch_with_an_event_not_before(size, moment):
    at = np.array([5, 5, 5, 9, 20, 20, 31, 40, 40, 50])
    zero = np.zeros(10, np.int64)
    stream = PurchaseStream(Purchases(at, zero, zero, zero, zero, zero), size=size, negatives=1, seed=1)
    expected = next((batch.number for batch in stream if batch.at.max() >= moment), len(stream))
    assert stream.first_at(moment) == expected


def test_a_stream_of_nothing_is_refused(purchases):
    with pytest.raises(InvalidInput, match="at least 1"):
        PurchaseStream(purchases, size=0, negatives=1, seed=1)
    with pytest.raises(InvalidInput, match="at least 1"):
        PurchaseStream(purchases, size=1, negatives=0, seed=1)
    nothing = np.empty(0, np.int64)
    with pytest.raises(InvalidInput, match="at least one purchase"):
        PurchaseStream(Purchases(nothing, nothing, nothing, nothing, nothing, nothing), size=1, negatives=1, seed=1)
    with pytest.raises(InvalidInput, match="batch 234 of a stream of 234"):
        PurchaseStream(purchases, size=1000, negatives=1, seed=1).batch(234)


def test_hashes_are_frozen():
    assert key_of("85123A") == 3141760557156334012
    assert [hex(word) for word in scattered(np.arange(2, dtype=np.uint64)).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
    ]
    top = fraction(np.array([2**64 - 1], np.uint64))
    assert top.dtype == np.float32
    assert top[0] < 1
