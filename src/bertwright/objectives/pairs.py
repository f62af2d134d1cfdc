"""Which stretches of which documents make a training sequence (paper, section 3.1, task 2, and appendix A.2).

A sequence is [CLS] A [SEP] B [SEP]. A and B are runs of whole sentences. Half of the time B is what follows A; half of
the time it comes from another document. The plan of an epoch is a pure function of (corpus, seed, epoch): arrays of
token positions, no text.

It follows google-research/bert (`create_instances_from_document`): sentences are gathered up to the sequence length,
the run is cut at a random sentence into A and B, and where B is replaced, the sentences that B would have had are put
back for the next sequence. It differs where that code is known to fail its users:

- The label is a fair coin. There, a run of one sentence is always called "random", so that short documents tilt the
  labels. Here a lone last sentence is joined to its predecessor, and a document of one sentence is cut in two.
- The other document is another one. There, ten unlucky draws are followed by a "random" B from the same document.
- No token is lost. There, a pair that is too long loses tokens of A. Here a run ends before the sentence that would
  not fit, and only a borrowed B is ever cut. A sentence longer than half a sequence is cut into equal parts first.
- Length tells nothing. A borrowed B is held to the room that the true one had, so that "the pair is short" does not
  give away that a document has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from bertwright.errors import UserError
from bertwright.text.store import PreparedCorpus

Longs = npt.NDArray[np.int64]

_STRIP_UNITS = 256
"""Long documents are scanned in strips of at most this many sentences, all strips side by side: that is what makes the
scan a matter of array operations. A strip's last sequence may be short, once in some 60 sequences."""

_PARTNER_DRAWS = 8
"""Random partners drawn per pair, of which the best is taken, so that a cut is rare and a short one, too."""


@dataclass(frozen=True)
class Plan:
    """The sequences of one epoch, in the order in which they are trained on.

    Args:
        first_start: position in the corpus of A's first token, int64 (sequences,).
        first_length: tokens of A.
        second_start: position of B's first token.
        second_length: tokens of B; 0 where there is no B.
        is_random: whether B comes from another document, bool (sequences,).
    """

    first_start: Longs
    first_length: Longs
    second_start: Longs
    second_length: Longs
    is_random: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first_start)

    def take(self, indices: Longs) -> Plan:
        """The sequences at `indices`."""
        return Plan(*(getattr(self, column.name)[indices] for column in fields(self)))


@dataclass(frozen=True)
class _Units:
    """Sentences, with the too long ones in parts, of the chosen documents; a unit is never cut again.

    `edge` (units + 1,) runs over the chosen documents only, so that a difference of edges is a number of tokens;
    `position` (units,) is where a unit stands in the corpus. `first` and `last` (documents,) bound each document.
    """

    edge: Longs
    position: Longs
    first: Longs
    last: Longs


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
        short_sequence_probability: the part of sequences with a random shorter target length.
        sources: draw from these sources only; None takes all.

    Returns:
        The plan. Every token of every chosen document stands in it at least once.

    Raises:
        UserError: if the sources have no document, or next_sentence is on and there is only one.
    """
    rng = np.random.default_rng((seed, epoch, sequence_length))
    target = sequence_length - (3 if next_sentence else 2)
    units = _cut_into_units(corpus, sources, target, next_sentence)
    if len(units.first) == 0:
        raise UserError(f"there is no document in {sources or 'the corpus'} to train on; check `prepare.corpora`")
    if next_sentence and len(units.first) == 1:
        raise UserError(
            "next-sentence prediction needs at least two documents, for its random pairs, and the corpus has one; "
            "add a document, or switch it off with --pretrain.next_sentence false"
        )
    scan = _scan_pairs if next_sentence else _scan_runs
    planned = scan(units, target, short_sequence_probability, rng)
    return planned.take(rng.permutation(len(planned)))


def _cut_into_units(corpus: PreparedCorpus, sources: tuple[str, ...] | None, target: int, halves: bool) -> _Units:
    lengths = corpus.sentence_lengths.astype(np.int64)
    document = np.repeat(np.arange(corpus.num_documents), np.diff(corpus.document_offsets))
    start = corpus.sentence_starts[:-1]
    if sources is not None:
        chosen = corpus.is_from(sources)[document]
        lengths, document, start = lengths[chosen], document[chosen], start[chosen]
    longest = target // 2 if halves else target
    parts = -(-lengths // longest)
    if halves:
        # A document of one sentence has no next one: its two halves follow each other all the same. The paper allows
        # it: "a sentence can be an arbitrary span of contiguous text".
        alone = np.bincount(document, minlength=corpus.num_documents)[document] == 1
        parts = np.where(alone & (lengths > 1), np.maximum(parts, 2), parts)
    sentence = np.repeat(np.arange(len(lengths)), parts)
    part = np.arange(len(sentence)) - np.repeat(np.cumsum(parts) - parts, parts)
    base, extra = lengths[sentence] // parts[sentence], lengths[sentence] % parts[sentence]
    unit_length = base + (part < extra)
    unit_position = start[sentence] + part * base + np.minimum(part, extra)
    unit_document = document[sentence]
    boundaries = np.flatnonzero(np.diff(unit_document, prepend=-1))
    return _Units(
        edge=np.concatenate([[0], np.cumsum(unit_length)]),
        position=unit_position,
        first=boundaries,
        last=np.append(boundaries[1:], len(unit_document)) if len(boundaries) else boundaries,
    )


def _strips(units: _Units) -> tuple[Longs, Longs, Longs]:
    """Each document in near-equal strips: first unit, end, and document of every strip."""
    size = units.last - units.first
    count = -(-size // _STRIP_UNITS)
    document = np.repeat(np.arange(len(size)), count)
    index = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    start = units.first[document] + size[document] * index // count[document]
    end = units.first[document] + size[document] * (index + 1) // count[document]
    return start, end, document


def _targets(count: int, target: int, short_probability: float, rng: np.random.Generator) -> Longs:
    short = rng.integers(2, target + 1, count)
    return np.where(rng.random(count) < short_probability, short, target)


def _fill(units: _Units, start: Longs, room: Longs, end: Longs) -> Longs:
    """The end of the longest run of whole units from `start` that has at most `room` tokens and ends by `end`."""
    return np.minimum(np.searchsorted(units.edge, units.edge[start] + room, side="right") - 1, end)


def _scan_runs(units: _Units, target: int, short_probability: float, rng: np.random.Generator) -> Plan:
    """Sequences with one segment: walk all strips side by side, one sequence a turn."""
    at, end, _ = _strips(units)
    turns = []
    while len(at):
        stop = np.maximum(_fill(units, at, _targets(len(at), target, short_probability, rng), end), at + 1)
        turns.append((units.position[at], units.edge[stop] - units.edge[at]))
        at, end = stop[stop < end], end[stop < end]
    start, length = (np.concatenate(column) for column in zip(*turns, strict=True))
    nothing = np.zeros_like(start)
    return Plan(start, length, nothing, nothing, np.zeros(len(start), np.bool_))


def _scan_pairs(units: _Units, target: int, short_probability: float, rng: np.random.Generator) -> Plan:
    """Sequences with two segments: walk all strips side by side, one pair a turn.

    Names are those of the account above: a run [at, stop) is cut at `cut`; A is [a, cut) and B is what follows, or a
    borrowed run. Where the last unit stands alone, it is B to its predecessor when B is true, else it is A.
    """
    begin, end, document = _strips(units)
    at = begin.copy()
    turns = []
    while len(at):
        goal = _targets(len(at), target, short_probability, rng)
        random = rng.random(len(at)) < 0.5
        alone = at + 1 == end
        orphan = alone & (at == begin)  # a document of one token: nothing can follow it
        random |= orphan

        stop = np.maximum(_fill(units, at, goal, end), np.minimum(at + 2, end))
        a = np.where(alone & ~random, at - 1, at)
        cut = np.where(
            alone, np.where(random, at + 1, at), at + 1 + (rng.random(len(at)) * (stop - at - 1)).astype(int)
        )
        a_length = units.edge[cut] - units.edge[a]
        true_length = units.edge[stop] - units.edge[cut]
        # The room of a borrowed B: what the true B had if its document ended there, else all that is left.
        spare = np.maximum(goal - a_length, true_length)
        room = np.where(alone, units.edge[at] - units.edge[np.maximum(at - 1, 0)], true_length)
        room = np.where(orphan | (stop < end), np.maximum(spare, 1), room)

        partner = _draw_partners(units, document, room, rng)
        partner_end = _fill(units, partner, room, units.last[np.searchsorted(units.first, partner, side="right") - 1])
        borrowed = units.edge[np.maximum(partner_end, partner + 1)] - units.edge[partner]
        b = np.where(random, partner, cut)
        b_length = np.where(random, np.minimum(borrowed, room), true_length)
        turns.append(
            (units.position[a], a_length, units.position[np.minimum(b, len(units.position) - 1)], b_length, random)
        )

        # Where B was borrowed, the units that it would have had are put back.
        at = np.where(random, cut, stop)
        going = at < end
        at, begin, end, document = at[going], begin[going], end[going], document[going]
    return Plan(*(np.concatenate(column) for column in zip(*turns, strict=True)))


def _draw_partners(units: _Units, document: Longs, room: Longs, rng: np.random.Generator) -> Longs:
    """For each pair a unit of another document, uniform over those from which the room can be filled if luck allows.

    Near the end of its document a borrowed B would be shorter than the true one, and give itself away by that.
    """
    own_first, own_last = units.first[document][:, None], units.last[document][:, None]
    others = len(units.position) - (own_last - own_first)
    draw = (rng.random((len(document), _PARTNER_DRAWS)) * others).astype(np.int64)
    draw += np.where(draw >= own_first, own_last - own_first, 0)
    end = units.last[np.searchsorted(units.first, draw, side="right") - 1]
    fits = units.edge[draw + 1] - units.edge[draw] <= room[:, None]
    fills = units.edge[end] - units.edge[draw] >= room[:, None]
    best = (2 * fits + fills).argmax(1)  # the first of the best
    chosen: Longs = draw[np.arange(len(draw)), best]
    return chosen
