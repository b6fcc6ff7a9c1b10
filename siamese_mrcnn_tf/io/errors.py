"""Errors that a user can correct. The command line prints them in one line; any other error is a bug."""


class InputError(ValueError):
    """A file, an option, a setting or a value that cannot be used; the message names it, the place and the value."""


class StateError(InputError, RuntimeError):
    """A run, a worker or an object that cannot do what is asked in its present state."""


class TransferError(InputError, ConnectionError):
    """A download or a request that failed; the message names the address."""


class MissingPackageError(ImportError, InputError):
    """A package that is not installed; the message names it and the command that installs it."""
