"""What a trainer needs: `Delivery`, opened from a sidecar or FRESH."""

from penstock.pipeline.core.checkpoint import Sidecar

from .delivery import FRESH, Delivery
from .marking import Receipt
from .updates import Updates

__all__ = ["FRESH", "Delivery", "Receipt", "Sidecar", "Updates"]
