"""The shop's orders as a stream of training examples, in the order of their events.

It knows the data set and nothing of models or delivery. Any batch can be drawn by its number alone, so that a trainer which
restarts from a checkpoint sees again, bit by bit, what it saw before.

What counts as a purchase: a line with a quantity and a price above zero, of goods (codes that start with five digits; POST,
BANK CHARGES and the like are bookkeeping). A return (a negative quantity) is no purchase, and takes none back: the
customer did want the product when it was shown. Times in the file have no offset; the shop's till is taken to run on UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound
from penstock.pipeline.core.times import EventTime

from .keys import Keys, key_of

ONLINE_RETAIL = Path(__file__).parent / "data" / "online_retail_240k.parquet"
UNKNOWN_CUSTOMER = 0
"""The key that all who buy without an account share."""
HOUR_US = 3_600_000_000
_COLUMNS = ("StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")


@dataclass(frozen=True, slots=True)
class Purchases:
    """Columns of n purchases, oldest first: `at` int64 in microseconds of event time, `quantity` int64 in pieces, the others
    int64 keys. `rank` numbers the products densely in the order of their first sale."""

    at: Keys
    customer: Keys
    product: Keys
    country: Keys
    quantity: Keys
    rank: Keys

    def __len__(self) -> int:
        return self.at.size


@dataclass(frozen=True, slots=True)
class Batch:
    """n examples: purchases, then products that were shown and not bought. `at` int64[n] in microseconds; `keys` int64[n] by
    table; `billed` float32[n], 1 where a purchase was billed; `reported` float32[n], what the shop's client told the
    trainer, which is the same unless the client is broken."""

    number: int
    at: Keys
    keys: Mapping[str, Keys]
    billed: NDArray[np.float32]
    reported: NDArray[np.float32]

    @property
    def trained_through(self) -> EventTime:
        """The newest event time in the batch."""
        return EventTime(int(self.at.max()))


def read_purchases(path: Path = ONLINE_RETAIL) -> Purchases:
    """Errors: `NotFound`; `Corrupt` for a file with other columns, an unreadable time, or rows out of order."""
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    try:
        table = pq.read_table(path, columns=list(_COLUMNS))
        moment = pc.strptime(table["InvoiceDate"], format="%m/%d/%y %H:%M", unit="us")
        code = pc.utf8_upper(pc.utf8_trim_whitespace(table["StockCode"]))
        goods = pc.match_substring_regex(code, r"^\d{5}")
        sold = pc.and_(pc.greater(table["Quantity"], 0), pc.greater(table["UnitPrice"], 0))
        kept = pc.and_(goods, sold)
        customer = pc.fill_null(table["CustomerID"], UNKNOWN_CUSTOMER).cast(pa.int64())
    except (pa.ArrowException, KeyError) as error:
        raise Corrupt(f"{path.name}: not the Online Retail table: {error}") from None
    at = moment.cast(pa.int64()).filter(kept).to_numpy()
    if np.any(at[1:] < at[:-1]):
        row = int(np.flatnonzero(at[1:] < at[:-1])[0]) + 1
        raise Corrupt(f"{path.name}: purchase {row} is older than the one before it; purchases must be in time order")
    product, rank = _hashed(code.filter(kept))
    country, _ = _hashed(table["Country"].filter(kept))
    return Purchases(
        at=at, customer=customer.filter(kept).to_numpy(), product=product, country=country,
        quantity=table["Quantity"].filter(kept).to_numpy(), rank=rank,
    )  # fmt: skip


def _hashed(codes: pa.ChunkedArray) -> tuple[Keys, Keys]:
    """Keys, and dense numbers in the order of first sight."""
    encoded = codes.combine_chunks().dictionary_encode()
    rank = encoded.indices.to_numpy().astype(np.int64)
    return np.array([key_of(text) for text in encoded.dictionary.to_pylist()], np.int64)[rank], rank


class PurchaseStream:
    """Batches of `size` purchases, each with `negatives` products that the same customer was shown and left: drawn uniformly,
    by a generator seeded with (`seed`, batch number), from the products on sale by then."""

    def __init__(self, purchases: Purchases, *, size: int, negatives: int, seed: int) -> None:
        if size < 1 or negatives < 1:
            raise InvalidInput(f"a batch of {size} purchases with {negatives} negatives each: both must be at least 1")
        if not len(purchases):
            raise InvalidInput("a stream needs at least one purchase")
        self._purchases = purchases
        self._size, self._negatives, self._seed = size, negatives, seed
        self._on_sale = np.maximum.accumulate(purchases.rank) + 1
        first = np.unique(purchases.rank, return_index=True)[1]
        self._catalogue = purchases.product[first]

    def __len__(self) -> int:
        return (len(self._purchases) + self._size - 1) // self._size

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, range(len(self)))

    def first_at(self, moment: EventTime) -> int:
        """The number of the first batch that holds an event at or after `moment`; `len(self)` if none does."""
        return int(np.searchsorted(self._purchases.at, moment)) // self._size if moment <= self._purchases.at[-1] else len(self)

    def batch(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise InvalidInput(f"batch {number} of a stream of {len(self)}")
        sold = self._purchases
        span = slice(number * self._size, min((number + 1) * self._size, len(sold)))
        bought = sold.product[span]
        generator = np.random.default_rng((self._seed, number))
        shown = self._catalogue[generator.integers(self._on_sale[span.stop - 1], size=bought.size * self._negatives)]
        copies = 1 + self._negatives
        at = np.tile(sold.at[span], copies)
        billed = np.zeros(at.size, np.float32)
        billed[: bought.size] = 1
        keys = {
            "customer": np.tile(sold.customer[span], copies),
            "product": np.concatenate([bought, shown]),
            "country": np.tile(sold.country[span], copies),
            "hour": at // HOUR_US % 24,
        }
        return Batch(number=number, at=at, keys=keys, billed=billed, reported=billed)
