#!/usr/bin/env python
"""The same as `rmonet fuzz`: feed damaged files to the code that reads them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rmonet_d2.cli.fuzz import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
