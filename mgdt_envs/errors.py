"""Errors that a user can mend. Each message says what was expected, what came, and what to do.

The commands print the message of an `MGDTError` and nothing else; every other error keeps its
traceback, because it is a fault of the code. Each class is also the built-in error that it
specializes, so `except ValueError` catches what it always caught.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class MGDTError(Exception):
    """What all errors of the package are."""


class InvalidArgument(MGDTError, ValueError):
    """A value that an argument, a field or a file cannot have."""


class OutputExists(MGDTError, FileExistsError):
    """A place to write to that holds something already."""


class MissingExtra(MGDTError, ImportError):
    """A library that only some commands need, and that is not installed."""


@contextmanager
def importing(need: str, extra: str) -> Iterator[None]:
    """Turn a failed import into a `MissingExtra` that says what to install.

    Args:
        need: a sentence such as "Cards need matplotlib".
        extra: the extra of this package that has it.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra(f"{need}: pip install 'mgdt[{extra}]' ({error}).") from error
