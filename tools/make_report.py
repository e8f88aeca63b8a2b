#!/usr/bin/env python
"""Write OUTPUT_DIR/report.html: results, pictures and curves of a run in one file.

tools/make_report.py --output-dir output/demo
"""

import argparse
import sys

from rmonet_d2.visualization.report import write_report


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", required=True, help="OUTPUT_DIR of a training")
    parser.add_argument("--title", default="R-MONet: what the run found")
    parser.add_argument(
        "--untrained",
        help="results of the untrained model: JSON file, or folder with eval_results.json; "
        "default: OUTPUT_DIR/untrained",
    )
    parser.add_argument("--sheets", nargs="*", default=[], help="default: OUTPUT_DIR/*.png")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    path = write_report(
        args.output_dir, title=args.title, untrained=args.untrained, sheets=args.sheets
    )
    print(f"report: {path}")


if __name__ == "__main__":
    try:
        main()
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
