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

import jinja2
import numpy as np
import torch
from torch import Tensor

from bertwright.model.heads import BertForSequenceClassification
from bertwright.tasks.classify import cleaned, truncate
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
    ids = torch.from_numpy(encoded[0].astype(np.int64)).to(next(classifier.parameters()).device)
    credits, base = _integrated_gradients(classifier, ids, target, tokenizer.mask_id)

    read = cleaned(text)
    encoding = tokenizer.inner.encode(read, add_special_tokens=False)
    max_length, truncation = model.reading
    kept = truncate(np.arange(len(encoding.ids), dtype=np.int32), max_length - 2, truncation)
    weights: dict[int, float] = {}
    borders: dict[int, tuple[int, int]] = {}
    for index, credit in zip(kept.tolist(), credits[1:-1].tolist(), strict=True):
        word, (start, end) = encoding.word_ids[index], encoding.offsets[index]
        word = -1 - index if word is None else word  # a [MASK] in the text belongs to no word
        weights[word] = weights.get(word, 0.0) + credit
        borders[word] = (min(start, borders.get(word, (start, end))[0]), max(end, borders.get(word, (0, end))[1]))
    words = [Word(read[start:end], start, end, weights[word]) for word, (start, end) in borders.items()]
    return Explanation(read, verdict, words, base)


def _integrated_gradients(
    classifier: BertForSequenceClassification, ids: Tensor, target: int, mask_id: int
) -> tuple[Tensor, float]:
    """Credit of each token, float32 (S,), and the log-odds of class `target` of a text of masks.

    Args:
        classifier: in evaluation mode.
        ids: [CLS] text [SEP], int64 (S,).
        target: the class.
        mask_id: id of [MASK].
    """
    table = classifier.bert.embeddings.token
    hidden = ids.clone()
    hidden[1:-1] = mask_id
    with torch.no_grad():
        start, end = table(hidden), table(ids)  # (S, H)
    points, shares = np.polynomial.legendre.leggauss(_STEPS)
    gradient = torch.zeros_like(end)
    for begin in range(0, _STEPS, _STEPS_AT_ONCE):
        along = torch.tensor(points[begin : begin + _STEPS_AT_ONCE] / 2 + 0.5, dtype=end.dtype, device=end.device)
        share = torch.tensor(shares[begin : begin + _STEPS_AT_ONCE] / 2, dtype=end.dtype, device=end.device)
        vectors = (start + along[:, None, None] * (end - start)).requires_grad_()  # (steps, S, H)
        odds = _log_odds(classifier, ids.expand(len(along), -1), vectors, target)
        (found,) = torch.autograd.grad((odds * share).sum(), vectors)
        gradient += found.sum(0)
    with torch.no_grad():
        base = float(_log_odds(classifier, ids[None], start[None], target)[0])
    return ((end - start) * gradient).sum(-1).detach(), base


def _log_odds(classifier: BertForSequenceClassification, ids: Tensor, vectors: Tensor, target: int) -> Tensor:
    """Log-odds of a class, (B,), with `vectors` (B, S, H) in place of the token embeddings of `ids` (B, S)."""
    replaced = classifier.bert.embeddings.token.register_forward_hook(lambda *_: vectors)
    try:
        logits = classifier(ids, torch.zeros_like(ids))
    finally:
        replaced.remove()
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=-1)
    odds: Tensor = logits[:, target] - others.logsumexp(-1)
    return odds


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
