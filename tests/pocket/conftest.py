"""Puts the pocket model's tools on the path: its world, its captions and the evaluator."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tools" / "pocket"))
