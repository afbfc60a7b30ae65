"""Makes the helper modules of this folder importable, also in the children of a pool."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
