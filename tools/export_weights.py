#!/usr/bin/env python
"""Keep only the weights of a checkpoint, in half precision by default: a file to hand on.

    tools/export_weights.py output/.../model_final.pth weights/my_model.pth

The file loads with torch.load(..., weights_only=True), and as MODEL.WEIGHTS.
"""

import argparse
import os
import sys

from rmonet_d2.checkpoint import CheckpointError, export_weights


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("output")
    parser.add_argument("--full-precision", action="store_true", help="keep float32")
    args = parser.parse_args(argv)
    export_weights(args.checkpoint, args.output, half=not args.full_precision)
    print(f"{args.output}: {os.path.getsize(args.output) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CheckpointError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
