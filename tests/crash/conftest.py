"""The Airflows of tests/airflows.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from airflows import deploy, firsts, server  # noqa: F401
