#!/usr/bin/env python
"""The same as `rmonet prepare-multi-dsprites`: generate or convert it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rmonet_d2.cli.prepare_multi_dsprites import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
