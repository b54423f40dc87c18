# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Instructions that numba has no name for: atomics, prefetch and copies by address. Knows no table, no row.

Addresses are int64. Nothing here is checked: whoever makes an address answers for it.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE = ir.IntType(8).as_pointer()
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _element(context, builder, array_type, array, at):
    from numba.np.arrayobj import make_array

    return builder.gep(make_array(array_type)(context, builder, array).data, [at])


@intrinsic
def load_acquire(typingctx, words, at):
    """Element `at` of an int64 array; what its writer did before the `store_release` is seen after this."""

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature.args[0], *args)
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(words, types.intp), codegen


@intrinsic
def store_release(typingctx, words, at, value):
    """Sets element `at` of an int64 array, after everything that was done before."""

    def codegen(context, builder, signature, args):
        array, place, word = args
        pointer = _element(context, builder, signature.args[0], array, place)
        builder.store_atomic(word, pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


@intrinsic
def claim_at(typingctx, address):
    """Writes a 0 where one stands: the page is there after this, and nothing that others write meanwhile is lost. (What adds 0 is
    compiled to a load, which is given a page of zeros that others share.)"""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        builder.cmpxchg(pointer, _I64(0), _I64(0), "monotonic", "monotonic")
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def address_of(typingctx, array):
    """The address of the first element."""

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature.args[0], args[0], _I64(0))
        return builder.ptrtoint(pointer, _I64)

    return types.int64(array), codegen


@intrinsic
def pointer_to(typingctx, address):
    """The address as numba's `carray` wants it."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], _BYTE)

    return types.voidptr(types.int64), codegen


@intrinsic
def float_of(typingctx, bits):
    """The float32 that has these uint32 bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def prefetch_at(typingctx, address):
    """Asks for the cache line at an address; a hint without effect on results."""

    def codegen(context, builder, signature, args):
        shape = ir.FunctionType(ir.VoidType(), [_BYTE, _I32, _I32, _I32])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE], shape)
        builder.call(hint, [builder.inttoptr(args[0], _BYTE), _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _copying(count):
    @intrinsic
    def copy(typingctx, to, source):
        def codegen(context, builder, signature, args):
            target, source = (builder.inttoptr(address, _BYTE) for address in args)
            cgutils.raw_memcpy(builder, target, source, _I64(count), 1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return copy


_copy_line, _copy_word, _copy_byte = _copying(64), _copying(4), _copying(1)


@njit(inline="always", cache=True)
def copy_bytes(to, source, count):
    """Copies `count` bytes between two addresses that do not overlap. For rows: a call of memcpy takes longer than they do."""
    done = 0
    while done + 64 <= count:
        _copy_line(to + done, source + done)
        done += 64
    while done + 4 <= count:
        _copy_word(to + done, source + done)
        done += 4
    while done < count:
        _copy_byte(to + done, source + done)
        done += 1
