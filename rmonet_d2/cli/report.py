"""Write an HTML report of a training run, with its results, pictures and curves in one file.

The file is OUTPUT_DIR/report.html; all pictures are embedded in it.
"""

import argparse

from rmonet_d2.cli.options import Parser, run_program

EXAMPLE = """\
    rmonet report --output-dir output/demo
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    parser.add_argument(
        "--output-dir", metavar="FOLDER", required=True, help="OUTPUT_DIR of a training run"
    )
    parser.add_argument(
        "--title", default="R-MONet: what the run found", help="heading of the report"
    )
    parser.add_argument(
        "--untrained",
        metavar="PATH",
        help="results of the untrained model: a JSON file, or a folder with eval_results.json "
        "(default: OUTPUT_DIR/untrained)",
    )
    parser.add_argument(
        "--sheets",
        metavar="FILE",
        nargs="*",
        default=[],
        help="PNG files to show (default: OUTPUT_DIR/*.png)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    from rmonet_d2.visualization.report import write_report

    path = write_report(
        args.output_dir, title=args.title, untrained=args.untrained, sheets=args.sheets
    )
    print(f"report: {path}")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
