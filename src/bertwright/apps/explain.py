"""The words that moved a classifier's prediction, by integrated gradients.

The input goes in small steps from a baseline, in which every token is [MASK], to the text's own token embeddings. A
token's attribution is what the log-odds of the predicted class gain along its way (Sundararajan, Taly and Yan 2017,
"Axiomatic Attribution for Deep Networks", section 3). The attributions add up to the whole gain, and a word that the
model does not read has none.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Generator
from collections.abc import Sequence as Many
from dataclasses import dataclass

import jinja2
import numpy as np
import torch
from torch import Tensor

from bertwright.errors import NOTHING_TO_READ, UnreadableText, UserError
from bertwright.inference import Model
from bertwright.inputs.sequences import Sequence, build
from bertwright.models.heads import TaskModel
from bertwright.tasks.answers import Prediction

PASSES = 24
"""Points at which the gradient is taken: those of Gauss-Legendre quadrature."""

_TOKENS_AT_ONCE = 1_024
"""Tokens that are computed together, of one window at some points: memory stays small, and the pieces short."""


@dataclass(frozen=True)
class Word:
    """A word of a text with its attribution.

    Args:
        text: the word as the text writes it.
        start: its first character's place in the explained text.
        end: the place after its last character.
        attribution: how much it raised the log-odds of the predicted class, in nats; negative where it lowered them.
    """

    text: str
    start: int
    end: int
    attribution: float


@dataclass(frozen=True)
class Explanation:
    """A prediction with the attributions of the text's words.

    Args:
        text: the text as the model reads it (`Tokenizer.clean`).
        prediction: its class.
        words: those that were read, in order; those cut out of a long text are missing.
        baseline_log_odds: log-odds of the predicted class where every token is [MASK]; with the sum of all
            attributions, those of the text.
    """

    text: str
    prediction: Prediction
    words: list[Word]
    baseline_log_odds: float


@dataclass(frozen=True)
class _Window:
    """A part of the text that the model reads at once, S tokens.

    Args:
        input_ids: `[CLS] text [SEP]`, int64 (S,).
        token_type_ids: int64 (S,).
        special: True at the tokens of the frame, bool (S,).
    """

    input_ids: Tensor
    token_type_ids: Tensor
    special: Tensor


def explain(model: Model, text: str) -> Explanation:
    """The class of a text, and the attribution of each word.

    Raises:
        UserError: if the text has no word, or the model is not a classifier.
    """
    work = explaining(model, text, read(model, text))
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: Explanation = done.value
            return found


def read(model: Model, text: str, number: int = 0, texts: int = 1) -> Sequence:
    """A text as the classifier reads it, with the places of its words.

    Args:
        model: a classifier.
        text: any text.
        number: its place among several, from 0, for a message.
        texts: how many those are.

    Raises:
        UserError: if the text has no word, or the model is not a classifier.
    """
    if model.task.name != "classification" or model.classifier.notes.get("text_pair"):
        what = "pairs of texts" if model.task.name == "classification" else model.task.name
        raise UserError(
            f"{model.classifier_folder} is a model for {what}; words are explained of the class of a single text: ask "
            "this model for predictions alone"
        )
    max_length, truncation = model.reading
    sequence = build(model.classifier_tokenizer, text, max_length=max_length, truncation=truncation)
    if sequence.is_empty:
        raise UnreadableText(number, texts, NOTHING_TO_READ)
    return sequence


def explaining(model: Model, text: str, sequence: Sequence) -> Generator[None, None, Explanation]:
    """`explain` in short pieces, between which the server can do something else, or stop.

    Args:
        model: a classifier.
        text: the text.
        sequence: the text as `read` gives it.
    """
    prediction = model.predict_encoded([sequence], model.records(text))[0]
    yield
    target = model.classifier.label_names.index(prediction.label)
    parts = model.windows(sequence)
    mask_id = model.classifier_tokenizer.mask_id
    attributions, baseline = yield from _integrated_gradients(model.classifier, parts, target, mask_id)
    cleaned = model.classifier_tokenizer.clean(text)
    return Explanation(cleaned, prediction, _words(cleaned, parts, attributions), baseline)


def _words(text: str, parts: Many[Sequence], attributions: Tensor) -> list[Word]:
    """The words of a text, each with the sum of its tokens' attributions.

    Args:
        text: as the tokenizer cleans it.
        parts: the windows that were read, with offsets and word numbers.
        attributions: of each token that is not of the frame, float32 (tokens,).
    """
    sums: dict[int, float] = {}
    borders: dict[int, tuple[int, int]] = {}
    places: list[tuple[int, int, int]] = []
    for part in parts:
        assert part.offsets is not None
        assert part.word_ids is not None
        own = ~part.special_tokens_mask
        places += [
            (word, start, end)
            for word, (start, end) in zip(part.word_ids[own].tolist(), part.offsets[own].tolist(), strict=True)
        ]
    for (word, start, end), attribution in zip(places, attributions.tolist(), strict=True):
        sums[word] = sums.get(word, 0.0) + attribution
        low, high = borders.get(word, (start, end))
        borders[word] = min(start, low), max(end, high)
    return [Word(text[start:end], start, end, sums[word]) for word, (start, end) in borders.items()]


def _integrated_gradients(
    classifier: TaskModel, parts: Many[Sequence], target: int, mask_id: int
) -> Generator[None, None, tuple[Tensor, float]]:
    """Attributions of all tokens but those of the frame, float32 (tokens,), and the log-odds of the baseline.

    A window is computed at a time, forward and back, so that memory does not grow with the text.

    Args:
        classifier: in evaluation mode. Its weights are only read, so that other threads can predict meanwhile.
        parts: the text's windows.
        target: the predicted class.
        mask_id: id of [MASK].
    """
    table = classifier.encoder.token_embeddings
    inputs = [_window(part, table.weight.device) for part in parts]
    with torch.no_grad():
        end = [table(window.input_ids) for window in inputs]  # of each window (S, H)
        start = [table(torch.where(window.special, window.input_ids, mask_id)) for window in inputs]
    masked = yield from _mean_logits(classifier, inputs, [vectors[None] for vectors in start])
    points, weights = np.polynomial.legendre.leggauss(PASSES)
    gradients = [torch.zeros_like(vectors) for vectors in end]
    at_once = max(1, _TOKENS_AT_ONCE // max(map(len, parts)))
    for begin in range(0, PASSES, at_once):
        along, weight = (
            torch.tensor(values[begin : begin + at_once] / 2, dtype=end[0].dtype, device=end[0].device)
            for values in (points + 1, weights)
        )
        vectors = [a + along[:, None, None] * (b - a) for a, b in zip(start, end, strict=True)]  # (points, S, H)
        # The mean over windows is needed before the first of them can be differentiated.
        mean = (yield from _mean_logits(classifier, inputs, vectors)) if len(inputs) > 1 else None
        for window, own, gradient in zip(inputs, vectors, gradients, strict=True):
            logits = _logits(classifier, window, own.requires_grad_())
            slope = _slope(logits.detach() if mean is None else mean, target) * weight[:, None] / len(inputs)
            gradient += torch.autograd.grad(logits, own, slope)[0].sum(0)
            yield
    attributions = [
        ((b - a) * gradient).sum(-1)[~window.special]
        for window, a, b, gradient in zip(inputs, start, end, gradients, strict=True)
    ]
    return torch.cat(attributions).detach(), float(_log_odds(masked, target)[0])


def _mean_logits(classifier: TaskModel, inputs: Many[_Window], vectors: Many[Tensor]) -> Generator[None, None, Tensor]:
    """The mean over windows of the logits (B, K), with `vectors`, for each window (B, S, H), as its embeddings."""
    total = torch.zeros(())
    for window, own in zip(inputs, vectors, strict=True):
        with torch.no_grad():  # of this thread; it must not last over a yield
            total = total.to(own.device) + _logits(classifier, window, own)
        yield
    return total / len(inputs)


def _window(part: Sequence, device: torch.device) -> _Window:
    ids, segments = (torch.from_numpy(values.astype(np.int64)) for values in (part.input_ids, part.token_type_ids))
    return _Window(ids.to(device), segments.to(device), torch.from_numpy(part.special_tokens_mask).to(device))


def _log_odds(logits: Tensor, target: int) -> Tensor:
    """Log-odds of a class, (B,), from logits (B, K)."""
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=-1)
    odds: Tensor = logits[:, target] - others.logsumexp(-1)
    return odds


def _slope(logits: Tensor, target: int) -> Tensor:
    """The derivative of a class's log-odds by the logits, (B, K)."""
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(_log_odds(leaf, target).sum(), leaf)[0]


def _logits(classifier: TaskModel, window: _Window, vectors: Tensor) -> Tensor:
    """Logits (B, K) of a window with `vectors` (B, S, H) in place of its token embeddings."""
    ids, segments = (values.expand(len(vectors), -1) for values in (window.input_ids, window.token_type_ids))
    logits: Tensor = classifier(ids, segments, inputs_embeds=vectors)
    return logits


def relative_attributions(explanation: Explanation) -> list[float]:
    """Each word's attribution divided by the largest magnitude, in [-1, 1]: how strongly to colour it."""
    largest = max(abs(word.attribution) for word in explanation.words)
    return [word.attribution / largest if largest else 0.0 for word in explanation.words]


def pieces(explanation: Explanation) -> list[tuple[str, float]]:
    """The text cut into words with their relative attribution, and the text between them with 0.0; joined, the text."""
    found, place = [], 0
    for word, relative in zip(explanation.words, relative_attributions(explanation), strict=True):
        found += [(explanation.text[place : word.start], 0.0), (explanation.text[word.start : word.end], relative)]
        place = word.end
    found.append((explanation.text[place:], 0.0))
    return [piece for piece in found if piece[0]]


def as_terminal(explanation: Explanation, colours: bool) -> str:
    """A text for the terminal: words for the prediction green, against it red; without colours, +so+ and -so-."""
    shown = []
    for text, relative in pieces(explanation):
        if abs(relative) < 0.15:
            shown.append(text)
        elif colours:
            # Of the 256 colours, two rows of three: the larger the attribution, the brighter.
            level = min(2, int(abs(relative) * 3))
            shown.append(f"\x1b[48;5;{((22, 28, 34) if relative > 0 else (52, 88, 124))[level]};97m{text}\x1b[0m")
        else:
            sign = "+" if relative > 0 else "-"
            shown.append(f"{sign}{text}{sign}")
    return "".join(shown)


def as_html(explanations: Many[Explanation]) -> str:
    """A page that stands alone, light and dark, with every text and its coloured words."""
    template = importlib.resources.files("bertwright.apps").joinpath("explain.html.j2").read_text(encoding="utf-8")
    return (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(explanations=[(explanation, pieces(explanation)) for explanation in explanations])
    )
