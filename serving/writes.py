# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call,var-annotated,attr-defined"
"""The loops of the one writer: rows and tombstones into slab, index, digests and before-images. Knows no labels, no threads.

Everything that a loop needs has been reserved before it starts, so it cannot fail half-way. Rows go out of place; a key's new
slot is published last, after its before-image, so a reader that sees the new row sees the image of the old one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from penstock.pipeline.core.hashing import bucket_of, mix, prefetch, put_hash, tombstone_hash

from .index import ABSENT, DELETED, EMPTY, home, place_of, publish, publish_also
from .machine import address_of, copy_bytes
from .slab import address_of_slot, bytes_at, prefetch_row

_BLOCK, _AHEAD, _FAR = 64, 16, 32


@njit(inline="always", cache=True)
def _hash_at(mixed, directory, shift, stride, width, slot):
    return put_hash(mixed, bytes_at(address_of_slot(directory, shift, stride, slot), width), 0, width)


@njit(inline="always", cache=True)
def _keep(images, images_shadow, keeps, key, mixed, old):
    """Remembers a key's first write of a segment. Whether its old slot has become an image, and is not to be retired."""
    if not images.size:
        return False
    place = place_of(images, key, home(images, mixed))
    if images[place + 1] != EMPTY:
        return False
    kept = keeps and old > 0
    value = old if kept else ABSENT
    publish(images, place, key, value)
    publish_also(images_shadow, mixed, key, value)
    return kept


@njit(inline="always", cache=True)
def _look_ahead(entries, images, directory, shift, stride, width, keys, start, stop, mixes, places, olds):
    """Mixes the keys of a block, asks for what they need, and finds their places and what stands there."""
    for i in range(start, stop):
        mixed = mix(keys[i])
        mixes[i - start] = mixed
        places[i - start] = home(entries, mixed)
        prefetch(entries, places[i - start])
        if images.size:
            prefetch(images, home(images, mixed))
    for i in range(start, stop):
        place = place_of(entries, keys[i], places[i - start])
        places[i - start] = place
        olds[i - start] = entries[place + 1]
        if entries[place + 1] > 0:
            prefetch_row(address_of_slot(directory, shift, stride, entries[place + 1]), width)


@njit(nogil=True, cache=True)
def put_rows(
    entries,
    shadow,
    images,
    images_shadow,
    keeps,
    directory,
    shift,
    stride,
    width,
    free,
    free_count,
    top,
    retired,
    digests,
    keys,
    rows,
):
    """Returns the new (free_count, top), and how many keys were born, slots retired, images kept."""
    born, gone, kept = 0, 0, 0
    mixes, changes = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    places, olds, source = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64), address_of(rows)
    for start in range(0, keys.size, _BLOCK):
        stop = min(start + _BLOCK, keys.size)
        for i in range(max(0, free_count - _BLOCK), free_count):
            prefetch_row(address_of_slot(directory, shift, stride, free[i]), width)
        _look_ahead(entries, images, directory, shift, stride, width, keys, start, stop, mixes, places, olds)
        # Hashes in loops of their own: those of many rows overlap.
        for i in range(start, stop):
            changes[i - start] = put_hash(mixes[i - start], rows, i * width, width)
        for i in range(stop - start):
            if olds[i] > 0:
                changes[i] -= _hash_at(mixes[i], directory, shift, stride, width, olds[i])
        for i in range(start, stop):
            key, mixed, change = keys[i], mixes[i - start], changes[i - start]
            if free_count > 0:
                free_count -= 1
                slot = free[free_count]
            else:
                slot = top
                top += 1
            copy_bytes(address_of_slot(directory, shift, stride, slot), source + i * width, width)
            # A key of the same block may have taken the empty place that was found, or the same key come before.
            place = place_of(entries, key, places[i - start])
            old = entries[place + 1]
            if old != olds[i - start]:
                change = put_hash(mixed, rows, i * width, width) - _hash_at(mixed, directory, shift, stride, width, old)
            if old <= 0:
                born += 1
            digests[bucket_of(mixed, digests.size)] += change
            if _keep(images, images_shadow, keeps, key, mixed, old):
                kept += 1
            elif old > 0:
                retired[gone] = old
                gone += 1
            publish(entries, place, key, slot)
            publish_also(shadow, mixed, key, slot)
    return free_count, top, born, gone, kept


@njit(nogil=True, cache=True)
def delete_rows(entries, shadow, images, images_shadow, keeps, directory, shift, stride, width, retired, digests, keys):
    """Returns how many keys died, slots were retired, images kept."""
    died, gone, kept = 0, 0, 0
    mixes, places, olds = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64)
    for start in range(0, keys.size, _BLOCK):
        stop = min(start + _BLOCK, keys.size)
        _look_ahead(entries, images, directory, shift, stride, width, keys, start, stop, mixes, places, olds)
        for i in range(start, stop):
            key, mixed, place = keys[i], mixes[i - start], places[i - start]
            old = entries[place + 1]
            was_kept = _keep(images, images_shadow, keeps, key, mixed, old)
            if old <= 0:
                continue
            digests[bucket_of(mixed, digests.size)] -= _hash_at(mixed, directory, shift, stride, width, old)
            died += 1
            if was_kept:
                kept += 1
            else:
                retired[gone] = old
                gone += 1
            publish(entries, place, key, DELETED)
            publish_also(shadow, mixed, key, DELETED)
    return died, gone, kept


@njit(nogil=True, cache=True)
def place_rows(entries, shadow, directory, shift, stride, width, retired, digests, keys, first):
    """Gives keys the slots from `first` on, whose rows are there, and count in the digests already. Returns how many keys were
    born, and slots retired."""
    born, gone = 0, 0
    for i in range(-_FAR, keys.size):
        if i + _FAR < keys.size:
            prefetch(entries, home(entries, mix(keys[i + _FAR])))
        if i < 0:
            continue
        key, mixed = keys[i], mix(keys[i])
        place = place_of(entries, key, home(entries, mixed))
        old = entries[place + 1]
        if old > 0:
            digests[bucket_of(mixed, digests.size)] -= _hash_at(mixed, directory, shift, stride, width, old)
            retired[gone] = old
            gone += 1
        else:
            born += 1
        publish(entries, place, key, first + i)
        publish_also(shadow, mixed, key, first + i)
    return born, gone


@njit(nogil=True, cache=True)
def bring_in(entries, shadow, directory, shift, stride, width, free, free_count, top, first, stop, keys):
    """Copies the rows of these keys whose slots are in [first, stop) to slots of our own. Returns the new (free_count, top)."""
    for i in range(-_AHEAD, keys.size):
        ahead = i + _AHEAD
        if ahead < keys.size:
            prefetch(entries, home(entries, mix(keys[ahead])))
        if i < 0:
            continue
        key, mixed = keys[i], mix(keys[i])
        place = place_of(entries, key, home(entries, mixed))
        old = entries[place + 1]
        if first <= old < stop:
            if free_count > 0:
                free_count -= 1
                slot = free[free_count]
            else:
                slot = top
                top += 1
            copy_bytes(address_of_slot(directory, shift, stride, slot), address_of_slot(directory, shift, stride, old), width)
            publish(entries, place, key, slot)
            publish_also(shadow, mixed, key, slot)
    return free_count, top


@njit(nogil=True, cache=True)
def absorb(images, images_shadow, keeps, newer_keys, newer_values, retired):
    """Takes the keys of a newer segment into an older one, whose images come first. Returns how many slots were retired, and
    how many images kept."""
    gone, kept = 0, 0
    for i in range(newer_keys.size):
        if i + _AHEAD < newer_keys.size:
            prefetch(images, home(images, mix(newer_keys[i + _AHEAD])))
        key, old = newer_keys[i], newer_values[i]
        if _keep(images, images_shadow, keeps, key, mix(key), old):
            kept += 1
        elif old > 0:
            retired[gone] = old
            gone += 1
    return gone, kept


@njit(nogil=True, cache=True)
def add_hashes(directory, shift, stride, width, slots, keys, digests):
    """Adds each key's row hash, or its tombstone's where the slot is not positive, to its bucket."""
    for i in range(keys.size):
        if i + _AHEAD < keys.size and slots[i + _AHEAD] > 0:
            prefetch_row(address_of_slot(directory, shift, stride, slots[i + _AHEAD]), width)
        mixed = mix(keys[i])
        if slots[i] > 0:
            digests[bucket_of(mixed, digests.size)] += _hash_at(mixed, directory, shift, stride, width, slots[i])
        else:
            digests[bucket_of(mixed, digests.size)] += tombstone_hash(mixed)


@njit(nogil=True, cache=True)
def first_outside(keys, first, last):
    """The position of the first key whose mixed key is not in [first, last]; -1 if there is none."""
    for i in range(keys.size):
        if not first <= mix(keys[i]) <= last:
            return i
    return -1
