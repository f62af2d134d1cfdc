"""Which segments of which documents make a training sequence (paper, section 3.1, task 2, and appendix A.2).

A sequence is [CLS] A [SEP] B [SEP]. A and B are segments of whole sentences. In half of the sequences B is the text
that follows A; in the other half it comes from another document. The plan of an epoch is a pure function of (corpus,
seed, epoch): arrays of token positions, without text.

The plan follows google-research/bert (`create_instances_from_document`): sentences are gathered up to the sequence
length, the run is cut at a random sentence into A and B, and where B is replaced, the sentences of the true B are put
back for the next sequence. Known faults of that code are corrected:

- The label is a fair coin. There, a run of one sentence always gets a random B, which skews the labels of short
  documents. Here a single last sentence is joined to its predecessor, and a document of one sentence is cut in two.
- A random B comes from another document. There, ten failed draws are followed by a "random" B of the same document.
- No token is lost. There, a pair that is too long loses tokens of A. Here a run ends before the sentence that would
  not fit, and only a random B is ever cut. A sentence longer than half a sequence is cut into equal parts first.
- Length does not reveal the label. A random B has the token budget of the true one, so that a short pair is no sign
  that a document has ended.

Memory. A corpus of up to `BLOCK_SENTENCES` sentences is planned at once. A larger one is divided into blocks, each with
documents from the whole corpus. Blocks are planned one after another, each with random numbers of its own, and their
sequences are then shuffled together. A random B comes from a document of the same block, which has thousands of them.
(google-research/bert draws it from the input files of one call, and advises to split a large corpus into many.)
Working memory is that of one block. The plan takes 25 bytes a sequence, and 37 while it is shuffled: 6 bytes a sentence
where documents have 512 sentences, 9 where they have 8, 56 where each has one (sequences of 128 tokens). Measurements
are in `results/scale/plan.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from bertwright.arrays import Bools, Ints
from bertwright.errors import UserError
from bertwright.text.store import PreparedCorpus, Sentences, ranges

Int32s = npt.NDArray[np.int32]

BLOCK_SENTENCES = 6_000_000
"""A corpus of more sentences is planned in several blocks, of at most this many sentences on average. Changing it
changes the plans of larger corpora."""

_STRIP_UNITS = 256
"""Long documents are scanned in strips of at most this many sentences, all strips at once: this makes the scan a
sequence of array operations. The last sequence of a strip may be short, about one in 60."""

_PARTNER_DRAWS = 8
"""Random segments drawn per pair, of which the best is taken: few are then cut, and few are too short."""

_PARTNER_ROWS = 2**16
"""Pairs for which random segments are drawn at a time: a few megabytes for each array."""


@dataclass(frozen=True)
class Plan:
    """The sequences of one epoch, in training order.

    Args:
        first_start: position in the corpus of A's first token, int64 (sequences,).
        first_length: tokens of A, int32 (sequences,).
        second_start: position of B's first token, int64 (sequences,).
        second_length: tokens of B, int32 (sequences,); 0 where there is no B.
        is_random: whether B comes from another document, bool (sequences,).
    """

    first_start: Ints
    first_length: Int32s
    second_start: Ints
    second_length: Int32s
    is_random: Bools

    def __len__(self) -> int:
        return len(self.first_start)

    def take(self, indices: npt.NDArray[np.signedinteger]) -> Plan:
        """The sequences at `indices`."""
        return Plan(*(getattr(self, column.name)[indices] for column in fields(self)))

    def reorder(self, order: npt.NDArray[np.signedinteger]) -> None:
        """Put the sequences into another order, in place: unlike `take`, this needs memory for one column only.

        Args:
            order: a permutation of all indices, (sequences,).
        """
        for column in fields(self):
            values = getattr(self, column.name)
            values[:] = values[order]


@dataclass(frozen=True)
class _Units:
    """Sentences of a block's documents, with the too long ones in parts. A unit is never cut again.

    Args:
        edge: running number of tokens, int64 (units + 1,): a difference of edges is a number of tokens.
        document: number of each unit's document within the block, int32 (units,).
        first: each document's first unit, int64 (documents,).
        last: one past each document's last unit, int64 (documents,).
        shift: what to add to an edge to get the position in the corpus, int64 (documents,).
    """

    edge: Ints
    document: Int32s
    first: Ints
    last: Ints
    shift: Ints


_Columns = tuple[Ints, Int32s, Ints, Int32s, Bools]
"""Some sequences, as the columns of a `Plan`."""


def plan_epoch(
    corpus: PreparedCorpus,
    *,
    sequence_length: int,
    seed: int,
    epoch: int,
    next_sentence: bool = True,
    short_sequence_probability: float = 0.1,
    sources: tuple[str, ...] | None = None,
) -> Plan:
    """Plan one pass over the corpus.

    Args:
        corpus: the prepared corpus.
        sequence_length: the most tokens in a sequence, special tokens included.
        seed: of the recipe.
        epoch: counts from 0; another epoch gives other pairs.
        next_sentence: whether there is a B; without it a sequence is [CLS] A [SEP].
        short_sequence_probability: the fraction of sequences with a random shorter target length.
        sources: draw from these sources only; None takes all.

    Returns:
        The plan. Every token of every chosen document is in at least one sequence.

    Raises:
        UserError: if the sources have no document, or next_sentence is on and there is only one.
    """
    documents, sentences = _choose_documents(corpus, sources)
    if len(documents) == 0:
        raise UserError(f"there is no document in {sources or 'the corpus'} to train on; check `prepare.corpora`")
    if next_sentence and len(documents) == 1:
        raise UserError(
            "next-sentence prediction needs at least two documents, for its random pairs, and the corpus has one; "
            "add a document, or switch it off with --pretrain.next_sentence false"
        )
    # Each block needs a document, or two for random pairs.
    blocks = min(-(-sentences // BLOCK_SENTENCES), len(documents) // (2 if next_sentence else 1))
    target = sequence_length - (3 if next_sentence else 2)
    rng = np.random.default_rng((seed, epoch, sequence_length))
    scan = _scan_pairs if next_sentence else _scan_runs
    longs, ints, bools = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.bool_)
    columns: _Columns = (longs, ints, longs.copy(), ints.copy(), bools)
    for block in range(blocks):
        # A corpus of one block has one stream of random numbers for everything.
        own = rng if blocks == 1 else np.random.default_rng((seed, epoch, sequence_length, 3, block))
        units = _cut_into_units(corpus.sentences(documents[block::blocks]), target, next_sentence)
        _append(columns, scan(units, target, short_sequence_probability, own))
        del units  # before those of the next block are made
    del documents
    plan = Plan(*columns)
    order = np.arange(len(plan), dtype=index_type(len(plan)))
    rng.shuffle(order)
    plan.reorder(order)
    return plan


def _append(columns: tuple[np.ndarray, ...], turns: Iterator[tuple[np.ndarray, ...]]) -> None:
    """Put sequences at the end of columns, which are extended in place: without a copy, where the system can."""
    for column, parts in zip(columns, zip(*turns, strict=True), strict=True):
        size = len(column)
        column.resize(size + sum(map(len, parts)), refcheck=False)
        np.concatenate(parts, out=column[size:])


def index_type(size: int) -> type[np.signedinteger]:
    """The narrower type that numbers `size` things."""
    return np.int32 if size < 2**31 else np.int64


def _choose_documents(
    corpus: PreparedCorpus, sources: tuple[str, ...] | None
) -> tuple[npt.NDArray[np.signedinteger], int]:
    """Numbers of the documents of these sources that have a sentence, ascending, and the number of their sentences."""
    counts = corpus.sentence_counts
    chosen = corpus.is_from(sources) & (counts > 0)
    return np.flatnonzero(chosen).astype(index_type(len(chosen))), int(counts[chosen].sum())


def _cut_into_units(sentences: Sentences, target: int, halves: bool) -> _Units:
    lengths = sentences.lengths
    longest = target // 2 if halves else target
    parts = -(-lengths // longest)  # (sentences,)
    begin = np.cumsum(sentences.counts) - sentences.counts  # each document's first sentence, (documents,)
    if halves:
        # A document of one sentence has no next one: its two halves follow each other instead. The paper allows it:
        # "a sentence can be an arbitrary span of contiguous text".
        alone = begin[sentences.counts == 1]
        parts[alone] = np.maximum(parts[alone], np.minimum(lengths[alone], 2))
    last = np.cumsum(np.add.reduceat(parts, begin, dtype=np.int64))
    first = np.concatenate([[0], last[:-1]])
    # Equal parts; the remainder goes to the first ones, a token each.
    divided = np.flatnonzero(parts > 1)
    number = parts[divided]
    first_part = divided + np.cumsum(number - 1) - (number - 1)
    unit_lengths = np.repeat(lengths // parts, parts)  # (units,)
    unit_lengths[ranges(first_part, lengths[divided] % number)] += 1
    del parts
    edge = np.zeros(len(unit_lengths) + 1, np.int64)
    np.cumsum(unit_lengths, out=edge[1:])
    return _Units(
        edge=edge,
        document=np.repeat(np.arange(len(first), dtype=np.int32), last - first),
        first=first,
        last=last,
        shift=sentences.starts - edge[first],
    )


def _strips(units: _Units) -> tuple[Ints, Ints, Ints]:
    """Each document in strips of about equal size: first unit, end, and document of every strip."""
    size = units.last - units.first
    count = -(-size // _STRIP_UNITS)
    document = np.repeat(np.arange(len(size)), count)
    index = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    start = units.first[document] + size[document] * index // count[document]
    end = units.first[document] + size[document] * (index + 1) // count[document]
    return start, end, document


def _targets(count: int, target: int, short_probability: float, rng: np.random.Generator) -> Ints:
    short = rng.integers(2, target + 1, count)
    return np.where(rng.random(count) < short_probability, short, target)


def _fill(units: _Units, start: Ints, budget: Ints, end: Ints) -> Ints:
    """The end of the longest run of whole units from `start` that has at most `budget` tokens and ends by `end`."""
    return np.minimum(np.searchsorted(units.edge, units.edge[start] + budget, side="right") - 1, end)


def _scan_runs(units: _Units, target: int, short_probability: float, rng: np.random.Generator) -> Iterator[_Columns]:
    """Sequences with one segment: walk all strips at once, one sequence a turn."""
    at, end, document = _strips(units)
    while len(at):
        stop = np.maximum(_fill(units, at, _targets(len(at), target, short_probability, rng), end), at + 1)
        start, length = units.edge[at] + units.shift[document], (units.edge[stop] - units.edge[at]).astype(np.int32)
        yield start, length, np.zeros_like(start), np.zeros_like(length), np.zeros(len(start), np.bool_)
        left = stop < end
        at, end, document = stop[left], end[left], document[left]


def _scan_pairs(units: _Units, target: int, short_probability: float, rng: np.random.Generator) -> Iterator[_Columns]:
    """Sequences with two segments: walk all strips at once, one pair a turn.

    A run of units [at, stop) is cut at `cut`; A is [a, cut) and B is the rest of the run, or a random segment. If only
    one unit of the strip is left, it is B to its predecessor where B is true, and A where B is random.
    """
    begin, end, document = _strips(units)
    at = begin.copy()
    while len(at):
        goal = _targets(len(at), target, short_probability, rng)
        random = rng.random(len(at)) < 0.5
        alone = at + 1 == end
        single = alone & (at == begin)  # a document of one token: nothing can follow it
        random |= single

        stop = np.maximum(_fill(units, at, goal, end), np.minimum(at + 2, end))
        a = np.where(alone & ~random, at - 1, at)
        cut = np.where(
            alone, np.where(random, at + 1, at), at + 1 + (rng.random(len(at)) * (stop - at - 1)).astype(int)
        )
        a_length = units.edge[cut] - units.edge[a]
        true_length = units.edge[stop] - units.edge[cut]
        # The budget of a random B: what the true B had if its document ended there, else all that is left.
        spare = np.maximum(goal - a_length, true_length)
        budget = np.where(alone, units.edge[at] - units.edge[np.maximum(at - 1, 0)], true_length)
        budget = np.where(single | (stop < end), np.maximum(spare, 1), budget)

        partner = _draw_partners(units, document, budget, random, rng)
        partner_document = units.document[partner]
        partner_end = _fill(units, partner, budget[random], units.last[partner_document])
        partner_length = units.edge[np.maximum(partner_end, partner + 1)] - units.edge[partner]
        b, b_document, b_length = cut.copy(), document.copy(), true_length
        b[random], b_document[random] = partner, partner_document
        b_length[random] = np.minimum(partner_length, budget[random])
        yield (
            units.edge[a] + units.shift[document],
            a_length.astype(np.int32),
            units.edge[b] + units.shift[b_document],
            b_length.astype(np.int32),
            random,
        )

        # Where B is random, the units of the true B are put back.
        at = np.where(random, cut, stop)
        left = at < end
        at, begin, end, document = at[left], begin[left], end[left], document[left]


def _draw_partners(units: _Units, document: Ints, budget: Ints, wanted: Bools, rng: np.random.Generator) -> Ints:
    """For each wanted pair the first unit of a random B, from another document.

    Units from which the budget can be filled are preferred: near the end of its document a random B would be shorter
    than the true one, and its length would reveal the label.

    Args:
        units: of the block.
        document: of each pair, (pairs,).
        budget: the most tokens of each B, (pairs,).
        wanted: pairs whose B is random, (pairs,). Random numbers are drawn for all pairs.
        rng: random numbers.

    Returns:
        Units, int64 (wanted pairs,).
    """
    chosen = []
    for begin in range(0, len(document), _PARTNER_ROWS):
        rows = slice(begin, begin + _PARTNER_ROWS)
        uniform = rng.random((len(document[rows]), _PARTNER_DRAWS))[wanted[rows]]  # (pairs, draws)
        own, most = document[rows][wanted[rows], None], budget[rows][wanted[rows], None]  # (pairs, 1)
        own_first, own_size = units.first[own], units.last[own] - units.first[own]
        draw = (uniform * (len(units.document) - own_size)).astype(np.int64)
        draw += np.where(draw >= own_first, own_size, 0)
        edge = units.edge[draw]
        fits = units.edge[draw + 1] - edge <= most
        fills = units.edge[units.last[units.document[draw]]] - edge >= most
        best = (2 * fits + fills).argmax(1)  # the first of the best
        chosen.append(draw[np.arange(len(draw)), best])
    return np.concatenate(chosen)
