"""What all programs share: the format of ``--help``, common options, and exit statuses."""

import argparse
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence

from rmonet_d2.utils.errors import UserError
from rmonet_d2.utils.temporary_files import use_own_temporary_folder
from rmonet_d2.utils.threads import set_up_threads

INTERRUPTED = 130
_EXIT_STATUS = """\
exit status:
  0    success
  1    error; a message on standard error says what to do
  2    invalid option or argument
  130  interrupted (Ctrl-C); {interrupted}
"""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description, and appends defaults that are informative.

    An option whose help states its default in words, as "(default: ...)", is left as it is.
    """

    def _get_help_string(self, action):
        silent = action.default is None or action.default is False or action.default in ("", [], ())
        if silent or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose help ends with an example and the exit statuses.

    Args:
        doc: docstring of the program's module.
        example: one or more commands that run as written.
        interrupted: how to continue after an interrupt.
        prog: name of the command in messages; None uses the name of the running script.
    """

    def __init__(
        self,
        doc: str,
        example: str,
        interrupted: str = "the same command starts over",
        prog: str | None = None,
    ):
        example = textwrap.indent(textwrap.dedent(example).strip(), "  ")
        super().__init__(
            prog=prog,
            description=inspect.cleandoc(doc),
            epilog=f"example:\n{example}\n\n{_EXIT_STATUS.format(interrupted=interrupted)}",
            formatter_class=_HelpFormatter,
        )


def add_config_file(parser: argparse._ActionsContainer, default: str = "", **options) -> None:
    """Add ``--config-file``: a path, or the name of one of this project's configs."""
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        default=default,
        help=options.pop("help", "YAML config: a file, or the name of a config of this project"),
        **options,
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the ``KEY VALUE`` config overrides, which must come last on the command line."""
    parser.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs=argparse.REMAINDER,
        default=[],
        help="config overrides, such as SOLVER.MAX_ITER 1000; they must come last",
    )


def add_overrides_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--opts KEY VALUE``, for programs that have other positional arguments."""
    parser.add_argument(
        "--opts",
        metavar="KEY VALUE",
        nargs=argparse.REMAINDER,
        default=[],
        help="config overrides, such as SOLVER.MAX_ITER 1000; this option must come last",
    )


def positive_int(text: str) -> int:
    """Parse an integer of at least 1; for use as the type of an argument."""
    return _integer(text, 1)


def natural_int(text: str) -> int:
    """Parse an integer of at least 0; for use as the type of an argument."""
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
        work: function of ``args`` that returns an exit status, or None for success.
        args: parsed arguments.
        go_on: how to continue, printed after an interrupt.
        errors: exceptions other than :class:`UserError` that are reported by their message alone.
    """
    expected: tuple[type[Exception], ...] = (UserError, *errors)
    set_up_threads()
    use_own_temporary_folder()
    try:
        return work(args) or 0
    except expected as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted{f': {go_on}' if go_on else ''}", file=sys.stderr)
        return INTERRUPTED
