"""Which version a whole replica has, and its digests there: partitions adopt one by one. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.pipeline.core.digests import digest_text
from penstock.pipeline.core.ids import Partition, Version
from penstock.pipeline.core.manifest import Manifest

from .holding import Digests

MOST_VERSIONS = 64
"""Of which digests are kept for partitions that are behind; one that is further behind confirms later."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The last version that every partition has adopted, with the digests at its marker or fence. They are not known, and there
    are none, where a delta corrected rows that had been written again behind its marker, and what they had been is not
    remembered."""

    manifest: Manifest
    digests: Digests
    is_known: bool = True

    @property
    def digest(self) -> str | None:
        if not self.is_known:
            return None
        dense = () if self.manifest.dense is None else (self.manifest.dense.digest,)
        return digest_text(self.digests, dense)


@dataclass(slots=True)
class Confirming:
    """Of `partitions` partitions."""

    partitions: int
    _parts: dict[Version, dict[Partition, Digests | None]] = field(default_factory=dict)

    def adopted(self, manifest: Manifest, partition: Partition, digests: Digests | None) -> Confirmed | None:
        """A partition has these digests at a version, if it knows them; what is confirmed if it was the last to adopt it."""
        found = self._parts.setdefault(manifest.version, {})
        found[partition] = None if digests is None else {name: some.copy() for name, some in digests.items()}
        if len(found) < self.partitions:
            for oldest in sorted(self._parts)[:-MOST_VERSIONS]:
                del self._parts[oldest]
            return None
        self._parts = {version: parts for version, parts in self._parts.items() if version > manifest.version}
        summed: Digests = {}
        for part in found.values():
            if part is None:
                return Confirmed(manifest, {}, is_known=False)
            for name, some in part.items():
                summed[name] = summed[name] + some if name in summed else some
        return Confirmed(manifest, summed)
