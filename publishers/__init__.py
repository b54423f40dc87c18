"""What a trainer needs: `Delivery`, opened from a sidecar or FRESH; `hash_texts`, which keys that are strings go through."""

from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.text_keys import hash_texts

from .delivery import FRESH, Delivery
from .marking import Receipt
from .updates import Updates

__all__ = ["FRESH", "Delivery", "Receipt", "Sidecar", "Updates", "hash_texts"]
