"""Where the words and vectors of a block of records lie: compiled loops over bytes. Knows no file.

    line      <word><mark><value> <value> … <value>[ ][\\r]\\n     mark: a space, or a colon
    binary    [\\n]<word> <float32 …>

A span is int64[4]: the first byte of the word, the one behind its last, the first of the values, the one behind their last.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from numba import njit

COMPLETE, NO_WORD, NO_VALUE, FEWER, MORE, LONG_WORD = range(6)
FAULTS = {
    NO_WORD: "no word",
    NO_VALUE: "an empty value, or more than one space between values",
    FEWER: "fewer values than the others",
    MORE: "more values than the others",
    LONG_WORD: "no end of its word",
}
MAX_WORD_BYTES = 1 << 16
_NEWLINE, _RETURN, _SPACE = 10, 13, 32


@njit(nogil=True, cache=True)
def skip_lines(block, last, count):
    """The number of lines passed, at most `count`, and of their bytes. `last`: the file ends with the block."""
    passed = at = 0
    for i in range(len(block)):
        if block[i] == _NEWLINE:
            passed += 1
            at = i + 1
            if passed == count:
                return passed, at
    if last and at < len(block) and passed < count:
        return passed + 1, len(block)
    return passed, at


@njit(nogil=True, cache=True)
def split_lines(block, last, width, mark, spans):
    """Fills `spans` with those of complete lines: how many, the bytes they take, and what is wrong with the next one."""
    count = at = 0
    while count < len(spans) and at < len(block):
        end = at
        while end < len(block) and block[end] != _NEWLINE:
            end += 1
        if end == len(block) and not last:
            break
        following = min(end + 1, len(block))
        if end > at and block[end - 1] == _RETURN:
            end -= 1
        if end > at and block[end - 1] == _SPACE:
            end -= 1
        begin = end
        for value in range(width):
            behind = begin
            first = value == width - 1
            while begin > at and block[begin - 1] != _SPACE and not (first and block[begin - 1] == mark):
                begin -= 1
            if begin == at:
                return count, at, FEWER
            if begin == behind:
                return count, at, NO_VALUE
            if first and block[begin - 1] != mark:
                return count, at, MORE
            begin -= 1
        if begin == at:
            return count, at, NO_WORD
        if mark == _SPACE and _ends_in_number(block, at, begin):
            return count, at, MORE
        spans[count, 0] = at
        spans[count, 1] = begin
        spans[count, 2] = begin + 1
        spans[count, 3] = end
        count += 1
        at = following
    return count, at, COMPLETE


@njit(nogil=True, cache=True)
def _ends_in_number(block, begin, end):
    """Whether a word of several pieces ends in one that reads as a number: then that was a value, and there is one too many."""
    digit = False
    for i in range(end - 1, begin - 1, -1):
        byte = block[i]
        if byte == _SPACE:
            return digit
        if 48 <= byte <= 57:
            digit = True
        elif byte not in (43, 45, 46, 69, 101):
            return False
    return False


@njit(nogil=True, cache=True)
def split_binary(block, width, spans):
    """As `split_lines`, of binary records with `width` values of 4 bytes."""
    count = at = 0
    while count < len(spans) and at < len(block):
        begin = at + (block[at] == _NEWLINE)
        end = begin
        while end < len(block) and block[end] != _SPACE and end - begin <= MAX_WORD_BYTES:
            end += 1
        if end - begin > MAX_WORD_BYTES:
            return count, at, LONG_WORD
        if end == len(block):
            break
        if end == begin:
            return count, at, NO_WORD
        if end + 1 + 4 * width > len(block):
            break
        spans[count, 0] = begin
        spans[count, 1] = end
        spans[count, 2] = end + 1
        spans[count, 3] = end + 1 + 4 * width
        at = end + 1 + 4 * width
        count += 1
    return count, at, COMPLETE


@njit(nogil=True, cache=True)
def copy_spans(block, begins, ends, out, offsets):
    """The bytes of spans one behind the other into `out`, and where each begins (and the last ends) into `offsets`."""
    at = 0
    for i in range(len(begins)):
        offsets[i] = at
        length = ends[i] - begins[i]
        out[at : at + length] = block[begins[i] : ends[i]]
        at += length
    offsets[len(begins)] = at


@njit(nogil=True, cache=True)
def copy_values(block, spans, out, offsets):
    """As `copy_spans`, of each value of each span, without the spaces between them."""
    at = value = 0
    offsets[0] = 0
    for i in range(len(spans)):
        for byte in range(spans[i, 2], spans[i, 3]):
            if block[byte] == _SPACE:
                value += 1
                offsets[value] = at
            else:
                out[at] = block[byte]
                at += 1
        value += 1
        offsets[value] = at
