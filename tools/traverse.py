#!/usr/bin/env python
"""The same as `rmonet traverse`: move the latents of one object through their range."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rmonet_d2.cli.traverse import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
