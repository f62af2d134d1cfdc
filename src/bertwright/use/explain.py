"""Why a classifier says what it says: the words that moved its verdict, by integrated gradients.

The text is brought in step by step, from one whose every token is [MASK] to the text as it is, and each token is
credited with what the log-odds of the verdict gained along its way (Sundararajan, Taly and Yan 2017, "Axiomatic
Attribution for Deep Networks", section 3). The credits add up to the whole gain: nothing is left unexplained, and a
word that is not read gets none.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jinja2
import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bertwright.model.heads import BertForSequenceClassification
from bertwright.tasks.classify import cleaned, truncate, windows
from bertwright.use.predict import Model, Verdict

_STEPS = 24
"""Points at which the gradient is taken, placed as Gauss and Legendre would have them."""

_STEPS_AT_ONCE = 6
"""Points that are computed together: what a long text's activations take in memory stays small."""


@dataclass(frozen=True)
class Word:
    """A word of a text with its part in the verdict.

    Args:
        text: the word as it stands there.
        start: its first character's place in the explained text.
        end: the place after its last character.
        weight: how much it raised the log-odds of the verdict, in nats; negative where it spoke against it.
    """

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Explanation:
    """A verdict with its reasons.

    Args:
        text: what was read, line-break tags replaced by spaces.
        verdict: on it.
        words: that were read, in order; those cut out of a long text are missing.
        base: log-odds of the verdict when every word is hidden; with all weights, those of the text.
    """

    text: str
    verdict: Verdict
    words: list[Word]
    base: float


def explain(model: Model, text: str) -> Explanation:
    """The verdict on a text, and what each of its words did for it.

    Raises:
        UserError: if the text has no word, or the model is not a classifier.
    """
    encoded = model.encode([text])
    verdict = model.judge(encoded)[0]
    classifier, tokenizer = model.classifier, model.classifier_tokenizer
    target = classifier.label_names.index(verdict.label)
    max_length, truncation = model.reading
    device = next(classifier.parameters()).device
    ids = [torch.from_numpy(part.astype(np.int64)).to(device) for part in windows(encoded[0], max_length)]
    credits, base = _integrated_gradients(classifier, ids, target, tokenizer.mask_id)

    read = cleaned(text)
    encoding = tokenizer.inner.encode(read, add_special_tokens=False)
    kept = truncate(np.arange(len(encoding.ids), dtype=np.int32), max_length - 2, truncation)
    weights: dict[int, float] = {}
    borders: dict[int, tuple[int, int]] = {}
    for index, credit in zip(kept.tolist(), credits.tolist(), strict=True):
        word, (start, end) = encoding.word_ids[index], encoding.offsets[index]
        word = -1 - index if word is None else word  # a [MASK] in the text belongs to no word
        weights[word] = weights.get(word, 0.0) + credit
        borders[word] = (min(start, borders.get(word, (start, end))[0]), max(end, borders.get(word, (0, end))[1]))
    words = [Word(read[start:end], start, end, weights[word]) for word, (start, end) in borders.items()]
    return Explanation(read, verdict, words, base)


def _integrated_gradients(
    classifier: BertForSequenceClassification, ids: list[Tensor], target: int, mask_id: int
) -> tuple[Tensor, float]:
    """Credit of each token between [CLS] and [SEP], float32 (tokens,), and the log-odds of a text of masks.

    Args:
        classifier: in evaluation mode.
        ids: the text's windows, each [CLS] text [SEP], int64 (S,).
        target: the class.
        mask_id: id of [MASK].
    """
    table = classifier.bert.embeddings.token
    with torch.no_grad():
        end = [table(part) for part in ids]  # of each window (S, H)
        start = []
        for part in ids:
            hidden = part.clone()
            hidden[1:-1] = mask_id
            start.append(table(hidden))
        base = float(_log_odds(classifier, ids, [vectors[None] for vectors in start], target)[0])
    points, shares = np.polynomial.legendre.leggauss(_STEPS)
    gradients = [torch.zeros_like(vectors) for vectors in end]
    at_once = max(1, _STEPS_AT_ONCE // len(ids))
    for begin in range(0, _STEPS, at_once):
        along = torch.tensor(points[begin : begin + at_once] / 2 + 0.5, dtype=end[0].dtype, device=end[0].device)
        share = torch.tensor(shares[begin : begin + at_once] / 2, dtype=end[0].dtype, device=end[0].device)
        vectors = [
            (a + along[:, None, None] * (b - a)).requires_grad_()  # (steps, S, H)
            for a, b in zip(start, end, strict=True)
        ]
        odds = _log_odds(classifier, ids, vectors, target)
        for gradient, found in zip(gradients, torch.autograd.grad((odds * share).sum(), vectors), strict=True):
            gradient += found.sum(0)
    credits = [((b - a) * g).sum(-1)[1:-1] for a, b, g in zip(start, end, gradients, strict=True)]
    return torch.cat(credits).detach(), base


def _log_odds(
    classifier: BertForSequenceClassification, ids: list[Tensor], vectors: list[Tensor], target: int
) -> Tensor:
    """Log-odds of a class, (B,), with `vectors`, for each window (B, S, H), in place of the token embeddings."""
    # Where there are several windows the backward pass computes each anew, so that memory does not grow with the text.
    compute = partial(checkpoint, _logits, use_reentrant=False) if len(ids) > 1 else _logits
    found = [compute(classifier, part.expand(len(own), -1), own) for part, own in zip(ids, vectors, strict=True)]
    logits = torch.stack(found).mean(0)
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=-1)
    odds: Tensor = logits[:, target] - others.logsumexp(-1)
    return odds


def _logits(classifier: BertForSequenceClassification, ids: Tensor, vectors: Tensor) -> Tensor:
    """Logits (B, K) with `vectors` (B, S, H) in place of the token embeddings of `ids` (B, S)."""
    replaced = classifier.bert.embeddings.token.register_forward_hook(lambda *_: vectors)
    try:
        logits: Tensor = classifier(ids, torch.zeros_like(ids))
    finally:
        replaced.remove()
    return logits


def strengths(explanation: Explanation) -> list[float]:
    """Each word's weight as a share of the heaviest, in [-1, 1]: how strongly to colour it."""
    heaviest = max(abs(word.weight) for word in explanation.words)
    return [word.weight / heaviest if heaviest else 0.0 for word in explanation.words]


def pieces(explanation: Explanation) -> list[tuple[str, float]]:
    """The text cut into words with their strength, and what stands between them with 0.0; joined, it is the text."""
    found, place = [], 0
    for word, strength in zip(explanation.words, strengths(explanation), strict=True):
        found += [(explanation.text[place : word.start], 0.0), (explanation.text[word.start : word.end], strength)]
        place = word.end
    found.append((explanation.text[place:], 0.0))
    return [piece for piece in found if piece[0]]


def as_terminal(explanation: Explanation, colours: bool) -> str:
    """A text for the terminal: words for the verdict green, against it red; without colours, marked +so+ and -so-."""
    shown = []
    for text, strength in pieces(explanation):
        if abs(strength) < 0.15:
            shown.append(text)
        elif colours:
            # Of the 256 colours, two rows of three: the stronger, the brighter.
            level = min(2, int(abs(strength) * 3))
            shown.append(f"\x1b[48;5;{((22, 28, 34) if strength > 0 else (52, 88, 124))[level]};97m{text}\x1b[0m")
        else:
            sign = "+" if strength > 0 else "-"
            shown.append(f"{sign}{text}{sign}")
    return "".join(shown)


def as_html(explanations: Sequence[Explanation]) -> str:
    """A page that stands alone, light and dark, with every text and its coloured words."""
    template = importlib.resources.files("bertwright.use").joinpath("explain.html.j2").read_text(encoding="utf-8")
    return (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(explanations=[(explanation, pieces(explanation)) for explanation in explanations])
    )
