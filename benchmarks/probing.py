"""The measurements of the study of bidirectional context (benchmarks/bidirectional.py).

Probes are sentences with a [MASK] and two words for it, of which one is right. They come in sets that share their two
words: changing the decisive word of a sentence makes the other word right, so that a model that prefers one word is
right in half of a set. A set is a pair of twins; where words on both sides are needed it is two left sides crossed with
two right sides, in which either side alone says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bertwright.inputs.pretraining import IS_NEXT
from bertwright.inputs.sequences import frame
from bertwright.models.heads import PretrainingModel
from bertwright.tasks.prediction import collate
from bertwright.text.bert_tokenizer import MASK
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from common import Json

PROBES = Path(__file__).with_name("probes.jsonl")

KINDS = ("next", "swapped", "far", "other document")
"""Second halves of a pair: what follows; the two in the wrong order; from far away in the same document; from another
document of the same corpus. In pre-training only the first and the last occur."""

FAR = 12
"""Sentences that lie at least between a passage and one from far away."""

REACH = 8
"""Relative positions, in tokens, that `attention_profile` distinguishes."""

PLACES = ["[CLS]", f"< -{REACH}", *(f"{d:+d}" if d else "0" for d in range(-REACH, REACH + 1)), f"> {REACH}", "[SEP]"]
"""Positions that a token attends to: the names of the columns of `attention_profile`."""

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """A sentence with a masked word.

    Args:
        id: names it.
        pair: the set that it belongs to.
        side: side of the mask with the decisive word: left, right or both; agreement is a subject to the left, the
            masked word its verb.
        text: the sentence, with one [MASK].
        good: the right word.
        bad: the wrong one, right in the probe's twin.
        distance: of agreement, words from the subject to the mask.
    """

    id: str
    pair: str
    side: str
    text: str
    good: str
    bad: str
    distance: int | None = None


def read_probes(path: Path = PROBES) -> list[Probe]:
    """All probes."""
    return [Probe(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def fits(probe: Probe, tokenizer: Tokenizer) -> bool:
    """Whether both words are entries of the vocabulary: a word of two tokens does not fit one mask."""
    return all(len(ids) == 1 and ids[0] != tokenizer.unk_id for ids in tokenizer.encode([probe.good, probe.bad]))


@torch.inference_mode()
def log_odds(model: PretrainingModel, tokenizer: Tokenizer, probe: Probe) -> list[float]:
    """Log-odds of the good word over the bad one, as the context right of the mask is revealed token by token.

    A masked model predicts the masked word, with [MASK] in place of every token that is not revealed yet. A causal
    model has the left side alone when it predicts the word: that is the first number, and the comparison of section
    5.1. The others are log-odds of the sentence up to the revealed token, with the good word and with the bad one.

    Returns:
        One number with nothing revealed, and one more per token right of the mask; the last is of the whole sentence.
    """
    left, right = (tokenizer.encode([part])[0].tolist() for part in probe.text.split(MASK))
    good, bad = (int(ids[0]) for ids in tokenizer.encode([probe.good, probe.bad]))
    if model.encoder.causal:
        rows = torch.tensor([[tokenizer.cls_id, *left, word, *right] for word in (good, bad)])  # (2, S)
        logs = model(rows, torch.zeros_like(rows))[0].log_softmax(-1)  # (2, S, V)
        steps = logs[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]  # (2, S - 1): each token after those before it
        sums = steps[:, len(left) :].cumsum(1)
        return (sums[0] - sums[1]).tolist()
    rows = torch.tensor(
        [
            [tokenizer.cls_id, *left, tokenizer.mask_id, *right[:shown]]
            + [tokenizer.mask_id] * (len(right) - shown)
            + [tokenizer.sep_id]
            for shown in range(len(right) + 1)
        ]
    )
    masks = torch.arange(len(rows)) * rows.shape[1] + len(left) + 1
    logits = model(rows, torch.zeros_like(rows), None, masks)[0]
    return (logits[:, good] - logits[:, bad]).tolist()


def interval(groups: Sequence[Sequence[float]] | npt.NDArray[np.bool_], samples: int = 2000) -> Json:
    """The mean of all values, with a 95 % percentile bootstrap over groups: values of a group are not independent."""
    sums, counts = np.array([sum(group) for group in groups]), np.array([len(group) for group in groups])
    drawn = np.random.default_rng(0).integers(0, len(groups), (samples, len(groups)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    return {"mean": sums.sum() / counts.sum(), "low": low, "high": high, "count": int(counts.sum())}


def accuracy(probes: Sequence[Probe], odds: Sequence[dict[str, list[float]]], step: int) -> Json:
    """The fraction of probes in which the good word wins, with its interval over sets.

    Args:
        probes: which to count.
        odds: of each seed, by the probe's id, from `log_odds`.
        step: which of its numbers; 0 is of the left side alone, -1 of the whole sentence.
    """
    sets: dict[str, list[float]] = {}
    for probe in probes:
        sets.setdefault(probe.pair, []).extend(float(seed[probe.id][step] > 0) for seed in odds if probe.id in seed)
    return interval([values for values in sets.values() if values])


def draw_pairs(corpus: PreparedCorpus, number: int, capacity: int, seed: int = 0) -> list[dict[str, tuple[Ids, Ids]]]:
    """Pairs of passages around the same places of held-out documents, one of each kind per place.

    Args:
        corpus: held-out text.
        number: of places.
        capacity: the most tokens of a passage.
        seed: decides the places.

    Returns:
        For each place the two passages of each of `KINDS`. Second passages are no longer than the true one, so that
        length tells nothing.
    """
    rng = np.random.default_rng(seed)
    starts, first, last = corpus.sentence_starts, corpus.document_offsets[:-1], corpus.document_offsets[1:]
    long = np.flatnonzero(last - first >= 3 * FAR)

    def passage(sentence: int, end: int, most: int) -> tuple[Ids, int]:
        """Whole sentences of up to `most` tokens, at least one, which is cut if need be; and the sentence after."""
        after = int(np.searchsorted(starts, starts[sentence] + most, side="right")) - 1
        after = min(max(after, sentence + 1), end)
        length = min(starts[after] - starts[sentence], most)
        return corpus.spans(starts[[sentence]], np.array([length]))[0].astype(np.int64), after

    places: list[dict[str, tuple[Ids, Ids]]] = []
    for _ in range(number):
        document = int(rng.choice(long))
        begin, end = int(first[document]), int(last[document])
        at = int(rng.integers(begin, end - FAR))
        a, middle = passage(at, end, capacity)
        if middle >= end:
            continue
        b, after = passage(middle, end, capacity)
        away = [s for s in range(begin, end - FAR) if s < at - FAR or s >= after + FAR]
        same = long[(corpus.document_sources[long] == corpus.document_sources[document]) & (long != document)]
        if not away or len(same) == 0:
            continue
        other = int(rng.choice(same))
        far, _ = passage(int(rng.choice(away)), end, len(b))
        foreign, _ = passage(int(rng.integers(first[other], last[other] - FAR)), int(last[other]), len(b))
        places.append({"next": (a, b), "swapped": (b, a), "far": (a, far), "other document": (a, foreign)})
    return places


@torch.inference_mode()
def next_probability(model: PretrainingModel, tokenizer: Tokenizer, pairs: Sequence[tuple[Ids, Ids]]) -> Floats:
    """The probability that the second passage follows the first, for each pair, float64 (pairs,)."""
    found = []
    for begin in range(0, len(pairs), 32):
        part = pairs[begin : begin + 32]
        batch = collate([frame(tokenizer, a, b) for a, b in part], model.encoder)
        _, logits = model(**batch, masked_positions=torch.zeros(1, dtype=torch.long))
        found.append(logits.softmax(-1)[:, IS_NEXT].double().numpy())
    return np.concatenate(found)


@torch.inference_mode()
def attention_profile(
    model: PretrainingModel, tokenizer: Tokenizer, corpus: PreparedCorpus, sequences: int, length: int
) -> Floats:
    """Mean attention weights by relative position, float64 (layers, heads, `PLACES`); those of a head sum to 1.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        corpus: held-out text.
        sequences: beginnings of documents, spread evenly, of which the average is taken.
        length: of a sequence, [CLS] and [SEP] included.
    """
    begins = corpus.sentence_starts[corpus.document_offsets]
    long = np.flatnonzero(np.diff(begins) >= length - 2)
    chosen = long[np.linspace(0, len(long) - 1, min(sequences, len(long))).astype(int)]
    distance = torch.arange(length)[None, :] - torch.arange(1, length - 1)[:, None]  # (queries, S)
    place = distance.clamp(-REACH - 1, REACH + 1) + REACH + 2
    place[:, 0], place[:, -1] = 0, len(PLACES) - 1
    shape = model.encoder.config
    weights = torch.zeros(shape.num_hidden_layers, shape.num_attention_heads, len(PLACES))
    for tokens in corpus.spans(begins[chosen], np.full(len(chosen), length - 2)):
        ids = torch.from_numpy(frame(tokenizer, tokens).input_ids.astype(np.int64))[None]
        maps = model.encoder.attention_maps(ids)[0, :, :, 1:-1]  # (L, A, queries, S)
        weights.index_add_(2, place.flatten(), maps.flatten(2))
    return (weights / (len(chosen) * (length - 2))).double().numpy()
