"""What a model is trained on, as a task makes it of records."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bertwright.arrays import Floats, Ints
from bertwright.inputs import sequences


@dataclass(frozen=True)
class Examples:
    """What a model is trained on: sequences with their targets.

    Args:
        sequences: as they are computed, none longer than the model reads.
        targets: as the task's head takes them, float32 (sequences, ...); or one array a sequence, (tokens, ...), which
            is padded with zeros as the sequence is with [PAD].
        together: sequences in a row that are always computed together, as the choices of one question are.
    """

    sequences: list[sequences.Sequence]
    targets: Floats | list[Floats]
    together: int = 1

    def __len__(self) -> int:
        return len(self.sequences) // self.together

    def take(self, indices: Ints) -> Examples:
        """The examples at `indices`."""
        rows = (np.asarray(indices)[:, None] * self.together + np.arange(self.together)).ravel()
        targets = [self.targets[i] for i in rows] if isinstance(self.targets, list) else self.targets[rows]
        return replace(self, sequences=[self.sequences[i] for i in rows], targets=targets)

    def drawn(self, rng: np.random.Generator) -> Examples:
        """The examples of a global batch as they are trained on, where something of them is drawn anew each time.

        Args:
            rng: a function of the batch.
        """
        return self

    def lengths(self) -> Ints:
        """Tokens of each example, those of its longest sequence counted for all of its sequences, int64 (examples,)."""
        found = np.array([len(sequence) for sequence in self.sequences], np.int64).reshape(-1, self.together)
        longest: Ints = found.max(axis=1) * self.together
        return longest
