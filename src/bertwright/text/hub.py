"""Data sets of the Hugging Face hub, streamed: nothing is stored on disk, and no code of theirs is ever run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi

# Taken from there since the HTTP library beneath has changed its name more than once.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bertwright.errors import UserError
from bertwright.files import means_disk_full
from bertwright.text.formats import missing_column
from bertwright.text.sources import meant

# The longest wait for the hub's first answer, in seconds.
_PATIENCE = 20.0


@contextmanager
def _clear_errors(repository: str, subset: str | None) -> Iterator[None]:
    local = "or give local files instead: --data.NAME PATH"
    absent = f"{repository} is no file or folder here{meant(Path(repository))}"
    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError, DatasetNotFoundError) as error:
        raise UserError(f"{absent}, and no public data set on the hub; check the name, {local}") from error
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        if means_disk_full(error):  # of the cache
            raise
        raise UserError(
            f"{absent}, and the hub did not answer for a data set of this name ({type(error).__name__}); check the "
            f"path or the network, {local}"
        ) from error
    except ValueError as error:
        # `datasets` says in a ValueError that a subset must be chosen or does not exist, and which there are.
        reason = " ".join(str(error).split())
        chosen = f" (subset {subset})" if subset else ""
        raise UserError(f"{repository}{chosen} cannot be read: {reason}; check the subset, {local}") from error


@cache
def commit_of(repository: str, revision: str | None) -> str:
    """The commit that a data set's revision stands at; asked once, so that all that a process reads is of one commit.

    Args:
        repository: the hub id, such as stanfordnlp/imdb.
        revision: a branch, tag or reference; None is the main branch.

    Returns:
        The hash of the commit, 40 hexadecimal digits.

    Raises:
        UserError: if the hub cannot be reached or has no such data set.
    """
    with _clear_errors(repository, None):
        return str(HfApi().dataset_info(repository, revision=revision, timeout=_PATIENCE).sha)


def open_splits(repository: str, revision: str | None, subset: str | None) -> dict[str, Any]:
    """A data set's splits as streams for `read_rows`, in the hub's order.

    Args:
        repository: the hub id.
        revision: a branch, tag or reference; None is the main branch.
        subset: the configuration, where the data set has several.

    Raises:
        UserError: as `commit_of`, or if the subset is unknown.
    """
    # It fails at once without a network, where `load_dataset` tries again for half a minute. And what is read is what
    # was fingerprinted, whatever has been pushed to the branch since.
    commit = commit_of(repository, revision)
    with _clear_errors(repository, subset):
        datasets.disable_progress_bars()
        return dict(datasets.load_dataset(repository, name=subset, revision=commit, streaming=True))


def class_names(stream: Any, column: str) -> list[str] | None:
    """The names of a column's classes in the data set's schema, in order; None where it names none.

    Args:
        stream: a value of `open_splits`.
        column: the column.
    """
    feature = (stream.features or {}).get(column)
    feature = getattr(feature, "feature", feature)  # of a list's values
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def read_rows(name: str, stream: Any, columns: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[Any]]]:
    """The rows of one split of a data set on the hub.

    Args:
        name: the data set in messages.
        stream: a value of `open_splits`.
        columns: for each column to read, its name and the option that sets that name.

    Yields:
        For each row: its number, counted from 1, and the values of the columns.

    Raises:
        UserError: if a column is missing, or the connection breaks.
    """
    with _clear_errors(name, None):
        for column, option in columns:
            if stream.column_names is not None and column not in stream.column_names:
                raise missing_column(name, column, stream.column_names, option)
        # Arrow batches: row by row, `datasets` is too slow for the 74 million rows of BookCorpus.
        wanted = [column for column, _ in columns]
        start = 1
        for batch in stream.select_columns(wanted).with_format("arrow").iter(batch_size=512):
            values = [batch.column(column).to_pylist() for column in wanted]
            yield from enumerate(map(list, zip(*values, strict=True)), start)
            start += batch.num_rows
