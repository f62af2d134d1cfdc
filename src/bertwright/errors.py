"""The one error for mistakes a user can fix; everything else that raises is a bug of ours.

The command line prints the message of a `UserError` as a single sentence and exits with status 2, without a
traceback. The message says what is wrong, where, and what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata


class UserError(Exception):
    """A mistake in what the user gave us: a file, a column, a setting, a folder in use.

    Args:
        message: one sentence, without a trailing line break: what is wrong, where, and what to do.
    """


class WrongTypeError(UserError, TypeError):
    """A value of another type than the one that is asked for, as number 5 where a text is."""


class NotFiniteError(UserError):
    """A loss or its gradients became infinite or NaN: the settings of the optimizer do not fit."""


def installing(extra: str) -> str:
    """How to install what an extra of the package adds, by its names on the index, where the package itself is not.

    Args:
        extra: its name.
    """
    try:
        requirements = metadata.requires("bertwright") or []
    except metadata.PackageNotFoundError:  # run from its sources
        requirements = []
    parts = (one.replace('"', "'").split("; extra == ") for one in requirements)
    names = [f"'{part[0]}'" for part in parts if part[1:] == [f"'{extra}'"]]
    return f"pip install {' '.join(names)}" if names else f"install what pyproject.toml lists under `{extra}`"


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """A block that imports what only an extra of the package installs.

    Args:
        name: of the extra.
        what: needs it, in words.

    Raises:
        UserError: if it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(f"{what} needs a package that is not installed ({error.name}); {installing(name)}") from error


NOTHING_TO_READ = "has nothing to read; leave it out, or write a word"


class UnreadableText(UserError):
    """One text among several cannot be answered.

    Args:
        number: its place among the texts that the model was asked about, from 0.
        texts: how many those are.
        problem: what is wrong, and what to do.
    """

    def __init__(self, number: int, texts: int, problem: str) -> None:
        super().__init__(f"text {number + 1} of {texts} {problem}" if texts > 1 else f"the text {problem}")
        self.number = number
        self.problem = problem
