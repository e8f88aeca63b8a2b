"""Errors that a user can fix. Programs print only their message and exit with status 1.

Each message names the offending file, config key or option, and says what to do about it. Any other
exception is a bug in the software, and its traceback is shown.
"""


class UserError(Exception):
    """Base class of all errors that a user can fix."""


class ConfigError(UserError, ValueError):
    """A config file, config key or command-line option has an invalid value."""


class InputError(UserError, ValueError):
    """A file or option given to a program cannot be used."""


class MissingFileError(UserError, FileNotFoundError):
    """A required file or folder does not exist."""


class NonFiniteLossError(UserError, FloatingPointError):
    """A loss or gradient is not finite; training stopped before it changed the weights."""
