"""``python -m aiflow_ext.cli`` is ``aiflow``."""

import sys

from . import main

sys.exit(main())
