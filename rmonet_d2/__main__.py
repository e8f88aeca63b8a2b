"""``python -m rmonet_d2 COMMAND``: the same as ``rmonet COMMAND``."""

import sys

from rmonet_d2.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
