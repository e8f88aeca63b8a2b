#!/usr/bin/env python
"""The same as `rmonet probe`: measure what the latents know about objects."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rmonet_d2.cli.probe import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
