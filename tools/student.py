#!/usr/bin/env python
"""The same as `rmonet student`: train a stock Detectron2 detector on such labels."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rmonet_d2.cli.student import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
