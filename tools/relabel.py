#!/usr/bin/env python
"""The same as `rmonet relabel`: make labels for a detector out of a discovery."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rmonet_d2.cli.relabel import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
