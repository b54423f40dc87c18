"""Counts the calls of a trainer that raise, by call and error, on their way to the trainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from penstock.pipeline.core.errors import PenstockError

ErrorCounts = Counter[tuple[str, str]]


class Counting(Protocol):
    @property
    def errors(self) -> ErrorCounts:
        """How often a call raised an error, by the names of both."""


S = TypeVar("S", bound=Counting)
P = ParamSpec("P")
R = TypeVar("R")


def counted(call: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """The method `call`, whose errors are counted in its object."""

    @wraps(call)
    def counting(self: S, /, *arguments: P.args, **options: P.kwargs) -> R:
        try:
            return call(self, *arguments, **options)
        except PenstockError as error:
            self.errors[call.__name__, type(error).__name__] += 1
            raise

    return counting
