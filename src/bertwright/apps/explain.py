"""The words that moved a prediction for a text or a pair of texts, by integrated gradients.

A token's attribution is what the explained quantity gains on its way from [MASK] to the token: the log-odds of a class,
those of one of several labels, or a number. The attributions add up to the whole gain, and a word that the model does
not read has none.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Generator
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import jinja2
from torch import Tensor

from bertwright.apps.integrated_gradients import Score, integrated_gradients, log_odds, output
from bertwright.errors import NOTHING_TO_READ, UnreadableText, UserError
from bertwright.inference import Model
from bertwright.inputs.sequences import Sequence, build
from bertwright.tasks.answers import Prediction
from bertwright.tasks.multi_label import LabelsPrediction
from bertwright.tasks.regression import NumberPrediction
from bertwright.tasks.text_task import pair_truncation
from bertwright.text.records import Record


@dataclass(frozen=True)
class Word:
    """A word of a text with its attribution.

    Args:
        text: the word as the text writes it.
        start: its first character's place in the explained text.
        end: the place after its last character.
        attribution: how much it raised the explained quantity, in nats of log-odds or in the unit of the numbers;
            negative where it lowered it.
    """

    text: str
    start: int
    end: int
    attribution: float


@dataclass(frozen=True)
class Explanation:
    """A prediction with the attributions of the words.

    Args:
        text: the text as the model reads it (`Tokenizer.clean`).
        prediction: the model's answer.
        label: the class or label whose log-odds are explained; of a model for numbers, the number's name.
        words: those that were read, in order; those cut out of a long text are missing.
        baseline: the explained quantity where every token is [MASK]; with the sum of all attributions, that of the
            text or pair.
        text_pair: the second text as the model reads it, if there is one.
        words_pair: its words.
    """

    text: str
    prediction: Prediction | LabelsPrediction | NumberPrediction
    label: str
    words: list[Word]
    baseline: float
    text_pair: str | None = None
    words_pair: list[Word] = field(default_factory=list)

    @property
    def is_number(self) -> bool:
        """Whether a number is explained, and not log-odds."""
        return isinstance(self.prediction, NumberPrediction)

    @property
    def score(self) -> float:
        """The probability of the explained label, or the number."""
        if isinstance(self.prediction, NumberPrediction):
            return self.prediction.score
        return self.prediction.probabilities[self.label]

    @property
    def heading(self) -> str:
        """The explained label with its probability, or the number with its name."""
        return f"{self.label}, {self.score:.4g}" if self.is_number else f"{self.label}, {self.score:.3f}"


def explain(model: Model, given: Any, label: str | None = None) -> Explanation:
    """The prediction for a text or a pair, and the attribution of each word.

    Args:
        model: one for classes, labels or numbers.
        given: a text, or a pair as `Model.predict` takes it.
        label: whose log-odds are explained; the default is the most probable.

    Raises:
        UserError: if there is no word, no such label, or the model is for another task.
    """
    check(model, label)
    (record,) = model.records([given])
    work = explaining(model, record, read(model, record), label)
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: Explanation = done.value
            return found


def read(model: Model, record: Record, number: int = 0, texts: int = 1) -> Sequence:
    """A text or a pair as the model reads it, with the places of its words.

    Args:
        model: one for classes, labels or numbers.
        record: from `Model.records`.
        number: its place among several, from 0, for a message.
        texts: how many those are.

    Raises:
        UserError: if there is no word.
    """
    max_length, truncation = model.reading
    cut = truncation if record.text_pair is None else pair_truncation(truncation)
    tokenizer = model.classifier_tokenizer
    sequence = build(tokenizer, record.text, record.text_pair, max_length=max_length, truncation=cut)
    if sequence.offsets is None or not (sequence.offsets[:, 0] < sequence.offsets[:, 1]).any():
        raise UnreadableText(number, texts, NOTHING_TO_READ)
    return sequence


def explains(model: Model) -> bool:
    """Whether a model is for classes, labels or numbers of whole texts, which can be explained."""
    return model.task.name in ("classification", "multi-label", "regression")


def check(model: Model, label: str | None = None) -> None:
    """See that a model's predictions can be explained.

    Args:
        model: any.
        label: to be explained.

    Raises:
        UserError: if the model is for another task, or has no such label.
    """
    if not explains(model):
        raise UserError(
            f"{model.classifier_folder} is a model for {model.task.name}; words are explained of classes, labels and "
            "numbers of whole texts: ask this model for predictions alone"
        )
    if label is not None and label not in model.classifier.label_names:
        raise UserError(
            f"the model has no label {label!r} to explain; it has: {', '.join(model.classifier.label_names)}"
        )


def explaining(
    model: Model, record: Record, sequence: Sequence, label: str | None = None
) -> Generator[None, None, Explanation]:
    """`explain` in short pieces, between which the server can do something else, or stop.

    Args:
        model: one for classes, labels or numbers.
        record: the text or the pair.
        sequence: these as `read` gives them.
        label: as in `explain`.
    """
    prediction = model.predict_encoded([sequence], [record])[0]
    yield
    names = model.classifier.label_names
    if label is None:
        label = names[0]
        if not isinstance(prediction, NumberPrediction):
            label = max(prediction.probabilities, key=prediction.probabilities.__getitem__)
    target = names.index(label)
    # Classes exclude each other; a label and a number have an output of their own.
    score: Score = partial(log_odds if isinstance(prediction, Prediction) else output, target=target)
    parts = model.windows(sequence)
    mask_id = model.classifier_tokenizer.mask_id
    attributions, baseline = yield from integrated_gradients(model.classifier, parts, score, mask_id)
    clean = model.classifier_tokenizer.clean
    texts = [clean(text) for text in (record.text, record.text_pair) if text is not None]
    words = _words(texts, parts, attributions)
    if len(texts) == 1:
        return Explanation(texts[0], prediction, label, words[0], baseline)
    return Explanation(texts[0], prediction, label, words[0], baseline, texts[1], words[1])


def _words(texts: Many[str], parts: Many[Sequence], attributions: Tensor) -> list[list[Word]]:
    """The words of each text, each with the sum of its tokens' attributions.

    Args:
        texts: one or two, as the tokenizer cleans them.
        parts: the windows that were read, with offsets and word numbers.
        attributions: of each token that is not of the frame, float32 (tokens,).
    """
    sums: dict[tuple[int, int], float] = {}
    borders: dict[tuple[int, int], tuple[int, int]] = {}
    places: list[tuple[int, int, int, int]] = []
    for part in parts:
        assert part.offsets is not None
        assert part.word_ids is not None
        own = ~part.special_tokens_mask
        columns = (part.token_type_ids, part.word_ids, *part.offsets.T)
        places += zip(*(column[own].tolist() for column in columns), strict=True)
    for (segment, word, start, end), attribution in zip(places, attributions.tolist(), strict=True):
        sums[segment, word] = sums.get((segment, word), 0.0) + attribution
        if start < end:
            low, high = borders.get((segment, word), (start, end))
            borders[segment, word] = min(start, low), max(end, high)
    found: list[list[Word]] = [[] for _ in texts]
    for (segment, word), (start, end) in borders.items():
        found[segment].append(Word(texts[segment][start:end], start, end, sums[segment, word]))
    return found


def relative_attributions(explanation: Explanation) -> list[float]:
    """The attribution of each word, those of a second text behind the first's, divided by the largest magnitude.

    In [-1, 1]: how strongly to colour it.
    """
    attributions = [word.attribution for word in (*explanation.words, *explanation.words_pair)]
    largest = max(map(abs, attributions))
    return [attribution / largest if largest else 0.0 for attribution in attributions]


def pieces(explanation: Explanation) -> list[tuple[str, float]]:
    """The text cut into words with their relative attribution, and the text between them with 0.0; joined, the text."""
    relative = relative_attributions(explanation)[: len(explanation.words)]
    return _cut(explanation.text, explanation.words, relative)


def pieces_pair(explanation: Explanation) -> list[tuple[str, float]]:
    """The same of the second text; empty without one."""
    relative = relative_attributions(explanation)[len(explanation.words) :]
    return _cut(explanation.text_pair or "", explanation.words_pair, relative)


def _cut(text: str, words: Many[Word], relative: Many[float]) -> list[tuple[str, float]]:
    found, place = [], 0
    for word, attribution in zip(words, relative, strict=True):
        found += [(text[place : word.start], 0.0), (text[word.start : word.end], attribution)]
        place = word.end
    found.append((text[place:], 0.0))
    return [piece for piece in found if piece[0]]


def as_json(explanation: Explanation) -> dict[str, Any]:
    """An explanation as the server and the command line give it: that of a pair also has `text_pair`, `words_pair`."""
    relative = relative_attributions(explanation)
    words = [
        {**asdict(word), "relative_attribution": one}
        for word, one in zip((*explanation.words, *explanation.words_pair), relative, strict=True)
    ]
    pair, first = explanation.text_pair, len(explanation.words)
    return {
        "text": explanation.text,
        **({} if pair is None else {"text_pair": pair}),
        **asdict(explanation.prediction),
        "explained_label": explanation.label,
        "baseline_score" if explanation.is_number else "baseline_log_odds": explanation.baseline,
        "words": words[:first],
        **({} if pair is None else {"words_pair": words[first:]}),
    }


def as_terminal(explanation: Explanation, colours: bool) -> str:
    """A text for the terminal: words for the prediction green, against it red; without colours, +so+ and -so-.

    A second text stands on a line of its own.
    """
    texts = [pieces(explanation), *([] if explanation.text_pair is None else [pieces_pair(explanation)])]
    return "\n  ".join("".join(_marked(*piece, colours) for piece in text) for text in texts)


def _marked(text: str, relative: float, colours: bool) -> str:
    if abs(relative) < 0.15:
        return text
    if colours:
        # Of the 256 colours, two rows of three: the larger the attribution, the brighter.
        level = min(2, int(abs(relative) * 3))
        return f"\x1b[48;5;{((22, 28, 34) if relative > 0 else (52, 88, 124))[level]};97m{text}\x1b[0m"
    sign = "+" if relative > 0 else "-"
    return f"{sign}{text}{sign}"


def as_html(explanations: Many[Explanation]) -> str:
    """A page that stands alone, light and dark, with every text or pair and its coloured words."""
    template = importlib.resources.files("bertwright.apps").joinpath("explain.html.j2").read_text(encoding="utf-8")
    return (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(explanations=[(one, (pieces(one), pieces_pair(one))) for one in explanations])
    )
