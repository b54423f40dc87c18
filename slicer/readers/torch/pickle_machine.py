"""Reads a pickle without Python's unpickler: an interpreter of the opcodes that build plain values, and of nothing else.

    a global    is looked up, by its name, in an allow-list; it is never imported, and any other is refused by name
    a call      applies a function of the allow-list, which must itself be harmless; a result is never called
    an object   (NEWOBJ) of a class of the allow-list is a `Record`: the class's name, and what its state says
    a state     (BUILD) is given to values that take one; that of a dict, its attributes, is passed over
    the rest    makes None, numbers, text, bytes, lists, tuples, sets and dicts; INST, OBJ, EXT and buffers are refused

Opcodes are split off by the standard library's `pickletools`, which executes nothing either. Knows no torch and no numpy.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeVar, cast

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported

from ..files.mapped_file import MAX_HEADER_BYTES
from .pickle_stream import PickleStream

Value = object
Constructor = Callable[..., Value]
T = TypeVar("T")
MAX_OPCODES = 10_000_000
MAX_MADE_BYTES = 4 * MAX_HEADER_BYTES
"""Of what calls and states make. A call in a pickle takes five bytes, whatever the size of the value that it copies."""
_ITEM_BYTES = 100
_FRAME_HEADER_BYTES = 9
_MAX_SHOWN = 200
_MAX_INT_BITS = 1024
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
})  # fmt: skip
_CONSTANTS: Mapping[str, Value] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_FRESH: Mapping[str, Callable[[], Value]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
_HINT = "save plain tensors, as in torch.save(model.state_dict(), path), which needs no classes"


@dataclass(frozen=True, slots=True)
class Global:
    """A name, and what a call of it does: None for a type that is only ever named."""

    name: str
    constructor: Constructor | None


class Buildable:
    """A value that takes a state after it was made. `nbytes`: how much it copied in doing so."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return 0

    def build(self, state: Value) -> None:
        raise NotImplementedError


class Record(Buildable):
    """An instance of a class, described and never made: what the class would do with its state, nobody asks."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: Value = None

    def build(self, state: Value) -> None:
        self.state = state


def records(module: str, *names: str) -> Mapping[str, Constructor]:
    """For an allow-list: classes of `module` whose instances become a `Record`, its kind being the class's bare name."""
    return {f"{module}.{name}": partial(Record, name) for name in names}


class PickleMachine:
    """`allowed`: what each global may do. `persistent` gives the value of a persistent id. `name` is the file's, for errors.

    Constructors raise `ValueError` or `TypeError` for arguments that make no sense: that is `Corrupt`."""

    __slots__ = ("_allowed", "_made_bytes", "_marks", "_memo", "_name", "_persistent", "_stack")

    def __init__(self, name: str, allowed: Mapping[str, Constructor | None], persistent: Callable[[Value], Value]) -> None:
        self._name, self._allowed, self._persistent = name, allowed, persistent
        self._stack: list[Value] = []
        self._marks: list[list[Value]] = []
        self._memo: dict[int, Value] = {}
        self._made_bytes = 0

    def run(self, data: bytes | PickleStream) -> Value:
        """The pickled value; a stream is left behind its end. `Refused` names the global or opcode that is not harmless;
        `Corrupt` says where it breaks."""
        at, size = 0, len(data) if isinstance(data, bytes) else data.size
        try:
            for count, (opcode, argument, position) in enumerate(pickletools.genops(cast(IO[bytes], data))):
                at = position or 0
                if count >= MAX_OPCODES:
                    raise Corrupt(f"{self._name}: a pickle of more than {MAX_OPCODES} opcodes")
                if opcode.name == "STOP":
                    return self._last()
                if opcode.name == "FRAME" and _int(argument) > size - at - _FRAME_HEADER_BYTES:
                    raise ValueError(f"a frame of {argument} bytes, which leaves the file")
                self._step(opcode.name, argument)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            why = str(error)[:_MAX_SHOWN]
            raise Corrupt(f"{self._name}: the pickle breaks at byte {at}: {type(error).__name__}: {why}") from None
        raise Corrupt(f"{self._name}: the pickle has no end")

    def _last(self) -> Value:
        if len(self._stack) != 1 or self._marks:
            raise ValueError("STOP with more or less than one value")
        return self._stack[0]

    def _step(self, name: str, argument: Value) -> None:
        stack = self._stack
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > _MAX_INT_BITS:
                raise ValueError(f"an integer of more than {_MAX_INT_BITS} bits")
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _FRESH:
            stack.append(_FRESH[name]())
        else:
            self._combine(name, argument)

    def _combine(self, name: str, argument: Value) -> None:
        stack = self._stack
        match name:
            case "PROTO":
                if not isinstance(argument, int) or argument > 5:
                    raise Unsupported(f"{self._name}: pickle protocol {argument}; 0 to 5 can be read")
            case "FRAME":
                return
            case "MARK":
                self._marks.append(stack)
                self._stack = []
            case "POP_MARK":
                self._since_mark()
            case "POP":
                stack.pop()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[_int(argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[_int(argument)])
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
                self._make(name, self._since_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._make("TUPLE", [stack.pop() for _ in range(int(name[-1]))][::-1])
            case "APPEND" | "APPENDS":
                values = [stack.pop()] if name == "APPEND" else self._since_mark()
                _exactly(list, self._stack[-1]).extend(values)
            case "SETITEM" | "SETITEMS":
                values = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self._since_mark()
                _put_items(_exactly(dict, self._stack[-1]), values)
            case "ADDITEMS":
                values = self._since_mark()
                _exactly(set, self._stack[-1]).update(map(_key, values))
            case "GLOBAL":
                module, _, attribute = str(argument).partition(" ")
                stack.append(self._global(f"{module}.{attribute}"))
            case "STACK_GLOBAL":
                attribute, module = _exactly(str, stack.pop()), _exactly(str, stack.pop())
                stack.append(self._global(f"{module}.{attribute}"))
            case "REDUCE" | "NEWOBJ":
                arguments = _exactly(tuple, stack.pop())
                stack.append(self.call(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                self._build(stack[-1], state)
            case "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            case _:
                raise Refused(f"{self._name}: the pickle has opcode {name}, which is not among the harmless ones", hint=_HINT)

    def call(self, function: Value, arguments: tuple[Value, ...]) -> Value:
        """What a function of the allow-list gives; anything else is refused."""
        if not isinstance(function, Global) or function.constructor is None:
            what = function.name if isinstance(function, Global) else f"a {type(function).__name__}"
            raise Refused(f"{self._name}: the pickle calls {what}", hint=_HINT)
        try:
            made = function.constructor(*arguments)
        except (ValueError, TypeError) as error:
            raise Corrupt(f"{self._name}: the pickle calls {function.name} wrongly: {error}") from None
        except Refused as error:
            raise self._named(error) from None
        self._weigh(made)
        return made

    def _named(self, error: Refused) -> Refused:
        return type(error)(f"{self._name}: {error}", hint=error.hint)

    def _weigh(self, made: Value) -> None:
        if isinstance(made, str | bytes):
            self._made_bytes += len(made)
        elif isinstance(made, dict | list | tuple | set):
            self._made_bytes += _ITEM_BYTES * len(made)
        elif isinstance(made, Buildable):
            self._made_bytes += made.nbytes
        if self._made_bytes > MAX_MADE_BYTES:
            raise Corrupt(f"{self._name}: what the pickle makes has more than {MAX_MADE_BYTES} bytes")

    def _global(self, name: str) -> Global:
        # Protocols up to 2 write the names that Python 2 had.
        name = f"builtins.{name[12:]}" if name.startswith("__builtin__.") else name
        if name not in self._allowed:
            shown = name if name.isprintable() else ascii(name)
            shown = shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + "…"
            raise Refused(f"{self._name}: the pickle names the global {shown}, which is not among the harmless ones", hint=_HINT)
        return Global(name, self._allowed[name])

    def _build(self, value: Value, state: Value) -> None:
        if isinstance(value, Buildable):
            try:
                value.build(state)
            except Refused as error:
                raise self._named(error) from None
            self._weigh(value)
        elif not isinstance(value, dict):
            raise Refused(f"{self._name}: the pickle sets the state of a {type(value).__name__}", hint=_HINT)

    def _since_mark(self) -> list[Value]:
        values, self._stack = self._stack, self._marks.pop()
        return values

    def _make(self, name: str, values: list[Value]) -> None:
        made: Value
        match name:
            case "TUPLE":
                made = tuple(values)
            case "LIST":
                made = values
            case "FROZENSET":
                made = frozenset(map(_key, values))
            case _:
                made = {}
                _put_items(made, values)
        self._stack.append(made)


def _int(value: Value) -> int:
    return _exactly(int, value)


def _exactly(kind: type[T], value: Value) -> T:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _key(value: Value) -> Value:
    # A nested key would be hashed by recursion, as deep as the pickle likes.
    if value is not None and not isinstance(value, str | int | float | bytes | Global | Record):
        raise TypeError(f"a {type(value).__name__} as a key")
    return value


def _put_items(target: dict[Value, Value], values: list[Value]) -> None:
    if len(values) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[_key(key)] = value
