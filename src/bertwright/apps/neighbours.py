"""A graph of near neighbours: texts near a query are found by looking at some thousand vectors, and not at all of them.

Malkov and Yashunin 2018, "Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical Navigable Small
World Graphs". The graph is that of the library usearch, which holds a copy of the vectors in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from bertwright.arrays import Floats, Ints
from bertwright.errors import extra


class NeighbourGraph:
    """The graph of an index's vectors.

    Args:
        inner: the library's index.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def build(cls, parts: Iterable[Floats]) -> Self:
        """A graph of unit vectors, (texts, dimension) in each part, numbered from 0; it stays in memory until `save`.

        Raises:
            UserError: if usearch is missing.
        """
        inner, number = None, 0
        for vectors in parts:
            inner = inner or library().Index(ndim=vectors.shape[1], metric="ip", dtype="bf16")
            inner.add(np.arange(number, number + len(vectors)), vectors)
            number += len(vectors)
        return cls(inner)

    @classmethod
    def load(cls, path: Path) -> Self:
        """A graph from its file, memory-mapped.

        Raises:
            UserError: if usearch is missing.
        """
        return cls(library().Index.restore(str(path), view=True))

    def save(self, path: Path) -> None:
        """Write the graph."""
        self._inner.save(str(path))

    def nearest(self, vector: Floats, count: int) -> Ints:
        """The numbers of `count` texts, or all, that are about the nearest to a unit vector (dimension,), (count,)."""
        return np.asarray(self._inner.search(vector, count).keys).astype(np.int64)


def library() -> Any:
    """The library's module.

    Raises:
        UserError: if it is missing.
    """
    with extra("search", "an approximate search"):
        import usearch.index
    return usearch.index
