"""Makes the oracle importable; it is a package of its own, beside these tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
