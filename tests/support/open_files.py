"""What this process has open."""

import os
from collections import Counter
from contextlib import contextmanager

NO_FILES = ("/dev/", "/proc/", "/memfd:")


@contextmanager
def nothing_left_open():
    """Every file and folder that is opened within is closed within.

    Sockets are not looked at, nor what was open before: threads and the garbage collector close those when they like.
    """
    before = open_files()
    yield
    left = open_files() - before
    assert not left, left


def open_files():
    """Counter of the paths of the open files and folders; of a deleted file the path says so."""
    found = open_descriptors()
    return Counter({path: found[path] for path in found if path.startswith("/") and not path.startswith(NO_FILES)})


def open_descriptors():
    """Counter of what the descriptors lead to: files, memory, sockets."""
    found = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{number}")] += 1
        except FileNotFoundError:  # the one of this listing, or closed meanwhile
            continue
    return found
