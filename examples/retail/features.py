"""The features of the retail model, from what a shop knows of a visit: a feature transform (entry point `retail` of
`penstock.transforms`). Knows no rows, no replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from penstock.pipeline.core.errors import InvalidInput

from .keys import Keys, key_of
from .stream import HOUR_US, UNKNOWN_CUSTOMER

RAW = ("customer", "product", "country", "at")


def transform(raw: Mapping[str, object]) -> dict[str, Keys]:
    """n examples: `customer` numbers (None: nobody that is known), `product` codes, `country` names, `at` int64[n] in
    microseconds. Keys of the model's tables, int64[n] each. `InvalidInput` names the feature that is missing, or of another
    length."""
    for name in RAW:
        if name not in raw:
            raise InvalidInput(f"the retail model needs the feature {name!r}")
    customers, products, countries = (cast("Sequence[object]", raw[name]) for name in RAW[:3])
    at = np.asarray(raw["at"], np.int64)
    sizes = {name: len(some) for name, some in zip(RAW, (customers, products, countries, at), strict=True)}
    if len(set(sizes.values())) > 1:
        raise InvalidInput(f"features of different lengths: {sizes}")
    return {
        "customer": np.array([UNKNOWN_CUSTOMER if each is None else each for each in customers], np.int64),
        "product": np.array([key_of(str(each).strip().upper()) for each in products], np.int64),
        "country": np.array([key_of(str(each)) for each in countries], np.int64),
        "hour": at // HOUR_US % 24,
    }
