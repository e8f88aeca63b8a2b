"""What all programs share: how options are described, common options, and how a program ends."""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence

from rmonet_d2.utils.errors import UserError

INTERRUPTED = 130
_EXIT_STATUS = """\
exit status:
  0    success
  1    an error that one line on the error output describes
  2    an option or argument that cannot be used
  130  interrupted (Ctrl-C): {interrupted}
"""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of the description, and appends defaults that say something."""

    def _get_help_string(self, action):
        if action.default in (None, "", [], False, ()):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose help ends with an example and the exit statuses.

    Args:
        doc: the docstring of the program's module.
        example: one or more commands that run as they are written.
        interrupted: what an interrupted user can do.
        prog: the command's name in messages; None: the name of the script that runs.
    """

    def __init__(
        self,
        doc: str,
        example: str,
        interrupted: str = "the same command starts again",
        prog: str | None = None,
    ):
        example = "\n".join(f"  {line}" for line in inspect.cleandoc(example).splitlines())
        super().__init__(
            prog=prog,
            description=inspect.cleandoc(doc),
            epilog=f"example:\n{example}\n\n{_EXIT_STATUS.format(interrupted=interrupted)}",
            formatter_class=_HelpFormatter,
        )


def add_config_file(parser: argparse.ArgumentParser, default: str = "", **options) -> None:
    """Add ``--config-file``: a path, or the name of one of this project's configs."""
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        default=default,
        help=options.pop("help", "YAML config: a file, or the name of one of this project's"),
        **options,
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the ``KEY VALUE`` config overrides, which come last on the command line."""
    parser.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs=argparse.REMAINDER,
        default=[],
        help='config overrides, such as "SOLVER.MAX_ITER 1000"; they come last',
    )


def add_overrides_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--opts KEY VALUE``, for programs with other positional arguments."""
    parser.add_argument(
        "--opts",
        metavar="KEY VALUE",
        nargs=argparse.REMAINDER,
        default=[],
        help='config overrides, such as "SOLVER.MAX_ITER 1000"; this option comes last',
    )


def positive_int(text: str) -> int:
    """An integer of at least 1, as an argument's type."""
    return _integer(text, 1)


def natural_int(text: str) -> int:
    """An integer of at least 0, as an argument's type."""
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} must be at least {least}")
    return value


def run_program(
    work: Callable[[argparse.Namespace], int | None],
    args: argparse.Namespace,
    go_on: str = "",
    errors: Sequence[type[Exception]] = (),
) -> int:
    """Run a program's work and return its exit status.

    Args:
        work: called with ``args``; returns an exit status, or None for success.
        args: parsed arguments.
        go_on: printed after an interrupt: what an interrupted user can do.
        errors: exceptions besides :class:`UserError` whose message is enough.
    """
    expected: tuple[type[Exception], ...] = (UserError, *errors)
    try:
        return work(args) or 0
    except expected as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted{f': {go_on}' if go_on else ''}", file=sys.stderr)
        return INTERRUPTED
