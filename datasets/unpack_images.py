#!/usr/bin/env python
"""Write packed data sets as PNG files with COCO annotations, see datasets/README.md."""

import argparse
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# As in the other programs here: the package's __init__ would load torch and Detectron2.
for _name in ("rmonet_d2", "rmonet_d2.data"):
    if _name not in sys.modules:
        _package = types.ModuleType(_name)
        _package.__path__ = [str(ROOT.joinpath(*_name.split(".")))]
        sys.modules[_name] = _package

from rmonet_d2.data.packed import PackedImageError  # noqa: E402
from rmonet_d2.data.unpack import unpack_split  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with SPLIT.json and SPLIT_images.npy")
    parser.add_argument("target", type=Path, help="folder that gets SPLIT/*.png and SPLIT.json")
    parser.add_argument("--splits", nargs="+", default=["train", "test"])
    args = parser.parse_args(arguments)
    try:
        for split in args.splits:
            count = unpack_split(args.source, split, args.target)
            print(f"{args.target / split}: {count:,} images")
    except (OSError, ValueError, PackedImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
