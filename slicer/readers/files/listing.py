"""What lies in a folder, for recognising formats that are folders: never an error for a folder that is not ours to read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def files_in(folder: Path) -> list[str]:
    """Names of the regular files, sorted; none where there is no folder or it may not be listed."""
    return _names(folder, os.path.isfile)


def folders_in(folder: Path) -> list[str]:
    """Names of the folders, sorted; none where there is no folder or it may not be listed."""
    return _names(folder, os.path.isdir)


def _names(folder: Path, is_kind: Callable[[str], bool]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(each.name for each in entries if is_kind(each.path))
    except OSError:
        return []
