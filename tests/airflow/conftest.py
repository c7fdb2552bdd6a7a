"""The Airflows of tests/airflows.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from airflows import deploy, firsts, server  # noqa: F401

if "AIF_TEST_AIRFLOW_MYSQL" not in os.environ:  # `make test-mysql` has these
    collect_ignore_glob = ["*/test_*mysql.py"]
