"""Errors that a user can mend. Programs print their message in one line and exit with status 1.

Each message names the file, config key or option that is at fault and says what to do about it. Any
other exception is a fault of the software, and its traceback is shown.
"""


class UserError(Exception):
    """Base class of all errors that a user can mend."""


class ConfigError(UserError, ValueError):
    """A config file, config key or command-line option has a value that cannot be used."""


class InputError(UserError, ValueError):
    """Files or options that are given to a program cannot be used."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is needed does not exist."""


class NonFiniteLossError(UserError, FloatingPointError):
    """A loss or gradient is not finite; training has stopped before the weights changed."""
