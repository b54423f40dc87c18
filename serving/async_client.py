"""The client for asyncio: the same, in threads of its own, so that the event loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.schema import KeyType

from .answers import Answer
from .asked_keys import Asked
from .bags import Bags, Pooling
from .client import MOST_CALLS, Client, How, Options
from .rounds import GivingUp
from .sources import Source
from .status import ReplicaStatus

if TYPE_CHECKING:
    from typing import Self, Unpack

    from penstock.pipeline.config import Config

T = TypeVar("T")


class AsyncClient:
    """As `Client`, with the same options, and every method that asks to be awaited. A task that is cancelled gives up its calls.
    `most_calls` bounds the lookups at once; those beyond wait."""

    def __init__(
        self, urls: str | Sequence[str] | Source | Client, *, model: str | None = None, **options: Unpack[Options]
    ) -> None:
        self.client = urls if isinstance(urls, Client) else Client(urls, model=model, **options)
        self._pool = ThreadPoolExecutor(options.get("most_calls", MOST_CALLS), "penstock-async")

    @classmethod
    def from_dns(cls, url: str, *, model: str | None = None, **options: Unpack[Options]) -> Self:
        """As `Client.from_dns`."""
        return cls(Client.from_dns(url, model=model, **options))

    @classmethod
    def from_config(
        cls, config: Config | str | Path, model: str | None = None, *, ref: str = "live", **options: Unpack[Options]
    ) -> Self:
        """As `Client.from_config`."""
        return cls(Client.from_config(config, model, ref=ref, **options))

    async def warm(self) -> None:
        await self._run(self.client.warm)

    async def lookup(self, table: str, keys: Asked, **how: Unpack[How]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        answer = await self.answer(table, keys, **how)
        return answer.rows, answer.found

    async def lookup_many(
        self, keys: Mapping[str, Asked], **how: Unpack[How]
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        return {table: (answer.rows, answer.found) for table, answer in (await self.answers(keys, **how)).items()}

    async def answer(self, table: str, keys: Asked, **how: Unpack[How]) -> Answer:
        return (await self.answers({table: keys}, **how))[table]

    async def answers(self, keys: Mapping[str, Asked], **how: Unpack[How]) -> dict[str, Answer]:
        giving_up = GivingUp()
        try:
            return await self._run(lambda: self.client.answers_until(keys, giving_up, **how))
        except asyncio.CancelledError:
            giving_up.give_up()
            raise

    async def lookup_pooled(
        self,
        table: str,
        keys: Asked,
        offsets: Sequence[int] | NDArray[np.integer[Any]],
        *,
        pooling: Pooling = "sum",
        **how: Unpack[How],
    ) -> NDArray[np.float32]:
        how["bags"] = {table: Bags(np.asarray(offsets, np.int64), pooling)}
        return (await self.answers({table: keys}, **how))[table].rows

    async def status(self) -> ReplicaStatus:
        return await self._run(self.client.status)

    async def key_type(self, table: str) -> KeyType:
        return await self._run(lambda: self.client.key_type(table))

    async def ready(self) -> bool:
        return await self._run(self.client.ready)

    async def dense(self) -> tuple[str, dict[str, NDArray[Any]]]:
        return await self._run(self.client.dense)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.client.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._pool.submit(work))
