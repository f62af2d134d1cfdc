"""Question answering: the part of a context that answers a question, or none (paper, sections 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError, WrongTypeError
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs import questions, sequences
from bertwright.inputs.questions import Question
from bertwright.inputs.sequences import ModelInput
from bertwright.models.answer_heads import SpanHead, require_segments
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head
from bertwright.ranges import require
from bertwright.tasks.answer_metrics import answer_scores, best_threshold
from bertwright.tasks.answers import Shown
from bertwright.tasks.best_spans import best_span
from bertwright.tasks.resampling import Resampled, Units, resample_means
from bertwright.tasks.task import Examples, Progress, Task
from bertwright.text.formats import repaired
from bertwright.text.records import Record
from bertwright.text.wordpiece import Tokenizer

_NOTE = "no_answer_threshold"
"""The threshold's name in a config.json."""

_START, _END, _MARGIN, _PROBABILITY, _NONE, _RAW = range(6)
"""The columns of predictions."""


@dataclass(frozen=True)
class Answer:
    """The part of a context that answers a question.

    Args:
        text: the characters of the context from `start` to `end`; empty where the context has no answer.
        start: the place of its first character, from 0.
        end: the place after its last character.
        score: the probability of its first token times that of its last one, in the window that it was found in; of no
            answer the same product at [CLS], the lowest over all windows.
    """

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """The best span of a context for each question; predictions are float32 (records, 6).

    Their columns are the span's first character and the place after its last; a margin, which is above 0 where there is
    no answer; the scores of span and of no answer; and how far the logits of no answer lie above those of the span,
    from which the margin is made. Labels are an array of objects, (records,): dicts with the context and its answers,
    [text, start] each.

    Args:
        threshold: how far no answer must lie above the best span to be given, chosen on the validation set as what
            makes F1 highest; None gives an answer to every question.
    """

    threshold: float | None = None

    name = "question-answering"
    columns = ("context", "question", "answers")
    primary_metric = "f1"
    choosing_metrics = ("f1", "exact_match")
    bounds = (0.0, 1.0)
    answer_class = Answer

    def about(self, positive_label: str | None, names: Sequence[str]) -> Self:
        """The task itself.

        Raises:
            UserError: if a positive class is named.
        """
        require(
            positive_label is None,
            "finetune.positive_label is for classification; answers have no classes: leave it out",
        )
        return self

    def check(self, config: FinetuneConfig) -> None:
        """Refuse what is for a label of the whole text.

        Raises:
            UserError: if there is such a setting.
        """
        for name in ("averaging_block", "unlabelled", "label_names"):
            require(
                not getattr(config, name),
                f"finetune.{name} is for labels of whole texts, and answers are spans; leave it out",
            )

    def label_names(self, records: Sequence[Record], given: Sequence[str] | None, where: str) -> list[str]:
        """The head's outputs: start and end.

        Raises:
            UserError: if no question has an answer.
        """
        if not any(record.answers for record in records):
            raise UserError(f"{where} has no question with an answer; add some")
        return ["start", "end"]

    def labels(self, records: Sequence[Record], names: Sequence[str], known: Sequence[Record], where: str) -> Ints:
        """Contexts and answers."""
        found = np.empty(len(records), object)
        for row, record in enumerate(records):
            answers = [[text, start] for text, start in record.answers or ()]
            found[row] = {"context": record.text, "answers": answers}
        return cast(Ints, found)

    def targets(self, labels: Ints, names: Sequence[str]) -> Floats:
        """Targets depend on windows: `examples` makes them.

        Raises:
            ValueError: always.
        """
        raise ValueError("targets of spans are made with their windows")

    def head(self, encoder: Encoder, names: Sequence[str], dropout: float) -> Head:
        """Start and end logits of every token."""
        require_segments(encoder, "a question and its context")
        return SpanHead(encoder.config.hidden_size, encoder.transform())

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, max_length: int | None, truncation: str
    ) -> Sequence[ModelInput]:
        """Questions with their whole contexts: nothing of a context is cut."""
        asked = [record.text_pair or "" for record in records]
        return questions.encode_questions(tokenizer, asked, [record.text for record in records], max_length)

    def notices(self, inputs: Sequence[ModelInput]) -> list[str]:
        """How many questions are cut."""
        cut = [one.left_out for one in inputs if isinstance(one, Question) and one.left_out]
        if not cut:
            return []
        return [
            f"{len(cut):,} of {len(inputs):,} questions are longer than is read of one; of the longest, the last "
            f"{max(cut):,} tokens are left out"
        ]

    def windows(self, model_input: ModelInput, max_length: int) -> list[sequences.Sequence]:
        """The question with each part of the context; the parts overlap."""
        assert isinstance(model_input, Question)
        return questions.windows(model_input, max_length)

    def examples(self, inputs: Sequence[ModelInput], labels: Ints, names: Sequence[str], max_length: int) -> Examples:
        """A sequence for each window: 1 at the first and the last token of the first answer.

        A window without the whole answer, as that of a question without one, has both at [CLS]. A question is left out
        if its answer is not in any token, as a lone variation selector.
        """
        found: list[sequences.Sequence] = []
        targets: list[Floats] = []
        for one, label in zip(inputs, labels, strict=True):
            assert isinstance(one, Question)
            parts = self.windows(one, max_length)
            places: list[tuple[int, int] | None] | None = [None] * len(parts)
            if label["answers"]:
                text, start = label["answers"][0]
                places = questions.answer_in_windows(one, max_length, start, start + len(text))
            for part, place in zip(parts, places or [], strict=places is not None):
                target = np.zeros((len(part), 2), np.float32)
                first, last = place or (0, 0)
                target[first, 0] = target[last, 1] = 1.0
                found.append(part)
                targets.append(target)
        return Examples(found, targets)

    def predictions(self, logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Floats:
        """The span with the highest sum of start and end logit over all windows, against [CLS] at its lowest."""
        rows = iter(logits)
        found = np.zeros((len(parts), 6), np.float32)
        for row, own in enumerate(parts):
            spans = [best_span(next(rows)[: len(part)].double().numpy(), part) for part in own]
            best = max(spans, key=lambda span: span.logit)
            none = min(span.none_logit for span in spans)
            found[row, [_START, _END, _PROBABILITY]] = best.start, best.end, best.score
            found[row, [_NONE, _RAW]] = min(span.none_score for span in spans), none - best.logit
        return self._decided(found)

    def notes(self) -> dict[str, Any]:
        """The threshold, if there is one."""
        return {} if self.threshold is None else {_NOTE: self.threshold}

    def restored(self, config: Mapping[str, Any]) -> Self:
        """The task with a model's threshold; the models of other tools have none.

        Raises:
            UserError: if it is no number.
        """
        found = config.get(_NOTE)
        if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
            raise UserError(f"the model's config.json has {_NOTE} {found!r}; it must be a number")
        return type(self)(found)

    def tuned(self, predictions: Floats, labels: Ints) -> tuple[Self, Floats]:
        """With the threshold that makes F1 highest; without one where all questions have an answer."""
        empty = np.array([not label["answers"] for label in labels], np.float64)
        found = type(self)()
        if empty.any():
            answered = answer_scores(_texts(predictions, labels, forced=True), _gold(labels))[:, 1]
            found = type(self)(best_threshold(predictions[:, _RAW].astype(np.float64), answered, empty))
        return found, found._decided(predictions)

    def _decided(self, predictions: Floats) -> Floats:
        """Predictions with the margin that the threshold makes."""
        found = predictions.copy()
        found[:, _MARGIN] = -np.inf if self.threshold is None else predictions[:, _RAW] - self.threshold
        return found

    def loss(self, predictions: Floats, labels: Ints) -> float:
        """1 less the mean F1: the spans of several windows have no likelihood in common."""
        return 1.0 - self.metrics(predictions, labels)["f1"]

    def metrics(self, predictions: Floats, labels: Ints) -> dict[str, float]:
        """Exact match and F1 as SQuAD has them; with questions of both kinds, also for each kind."""
        return {name: float(np.nanmean(values)) for name, values in _columns(predictions, labels).items()}

    def resampled(
        self, predictions: Floats, labels: Ints, units: Units, samples: int, seed: int, only: str | None = None
    ) -> Resampled:
        """All metrics of resamples; each question's answer is compared once."""
        columns = _columns(predictions, labels)
        return resample_means({k: v for k, v in columns.items() if only in (None, k)}, units, samples, seed)

    def warnings(self, predictions: Floats, labels: Ints, names: Sequence[str]) -> list[str]:
        """A model that never gives an answer, or always does where there are questions without one."""
        given = predictions[:, _MARGIN] <= 0
        empty = np.array([not label["answers"] for label in labels])
        if not given.any():
            return [f"gives no answer to any of {len(labels):,} questions, and {(~empty).sum():,} have one"]
        if given.all() and empty.any():
            return [f"answers all of {len(labels):,} questions, and {empty.sum():,} have no answer"]
        return []

    def baselines(
        self, train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
    ) -> Mapping[str, Floats | str]:
        """The words around which the question's words stand; and no answer at all, where train has such questions."""
        from bertwright.tasks.overlap import sliding_window

        own, found = (np.zeros((len(records), 6), np.float32) for records in (train, test))
        own[:, [_START, _END, _RAW]], found[:, [_START, _END, _RAW]] = sliding_window(train, test)
        fitted, _ = self.tuned(own, labels)
        progress("sliding window, TF-IDF")
        systems: dict[str, Floats | str] = {"sliding_window": fitted._decided(found)}
        if any(not label["answers"] for label in labels):
            never = np.zeros((len(test), 6), np.float32)
            never[:, _MARGIN] = np.inf
            systems["no_answer"] = never
        return systems

    def reads(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Question and context."""
        return ("question", "context")

    def warm(self) -> Any:
        """A question."""
        return {"question": "Who?", "context": "Nobody."}

    def record(self, number: int, given: Any) -> Record:
        """A dict with `question` and `context`.

        Raises:
            WrongTypeError: if it is something else.
        """
        if not isinstance(given, dict) or set(given) != {"question", "context"}:
            kind = f"has {', '.join(map(str, given)) or 'nothing'}" if isinstance(given, dict) else type(given).__name__
            raise WrongTypeError(
                f"text {number + 1} {kind if isinstance(given, dict) else f'is {kind}'}; this model answers questions: "
                'give {"question": "...", "context": "..."}, on the command line --question and --context'
            )
        for name, value in given.items():
            if not isinstance(value, str):
                raise WrongTypeError(f"text {number + 1} has {type(value).__name__} as {name}; it must be a str")
        return Record(str(number), repaired(given["context"]), repaired(given["question"]))

    def answers(self, predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> list[Answer]:
        """Answers with their places in the contexts as they were given."""
        found = []
        for row, record in zip(predictions, records, strict=True):
            if row[_MARGIN] > 0:
                found.append(Answer("", 0, 0, float(row[_NONE])))
            else:
                start, end = int(row[_START]), int(row[_END])
                found.append(Answer(record.text[start:end], start, end, float(row[_PROBABILITY])))
        return found

    def columns_out(self, names: Sequence[str]) -> list[str]:
        """Answer, its place and its score."""
        return ["answer", "start", "end", "score"]

    def row_out(self, answer: Any, names: Sequence[str]) -> list[Any]:
        """The same of an answer."""
        return [answer.text, answer.start, answer.end, round(answer.score, 6)]

    def line(self, answer: Any, text: str) -> str:
        """The answer with its score and places."""
        where = f"  ({answer.start}-{answer.end})" if answer.text else ""
        return f"{answer.score:.3f}  {' '.join(answer.text.split()) or '(no answer)'}{where}"

    def shown_text(self, record: Record) -> str:
        """The question, and the context."""
        return f"{record.text_pair} / {record.text}"

    def shown(self, answer: Any, label: Any, names: Sequence[str], record: Record) -> Shown:
        """The answer, and a true one, which is the same where they match as SQuAD compares them."""
        gold = [text for text, _ in label["answers"]]
        right = bool(answer_scores([answer.text], [gold])[0, 0])
        predicted = answer.text or "no answer"
        return Shown(predicted if right else (gold or ["no answer"])[0], predicted, answer.score)


def _texts(predictions: Floats, labels: Ints, forced: bool = False) -> list[str]:
    """Predicted answers; with `forced` the best span whatever its margin."""
    given = (predictions[:, _MARGIN] <= 0) | forced
    spans = predictions[:, [_START, _END]].astype(np.int64)
    return [
        label["context"][start:end] if answer else ""
        for label, (start, end), answer in zip(labels, spans, given, strict=True)
    ]


def _gold(labels: Ints) -> list[list[str]]:
    return [[text for text, _ in label["answers"]] for label in labels]


def _columns(predictions: Floats, labels: Ints) -> dict[str, npt.NDArray[np.float64]]:
    """The metrics of each question, (questions,) each; NaN where one does not speak of it."""
    exact, f1 = answer_scores(_texts(predictions, labels), _gold(labels)).T
    found = {"exact_match": exact, "f1": f1}
    empty = np.array([not label["answers"] for label in labels])
    if empty.any() and not empty.all():
        found["answerable_exact_match"] = np.where(empty, np.nan, exact)
        found["answerable_f1"] = np.where(empty, np.nan, f1)
        found["unanswerable_exact_match"] = np.where(empty, exact, np.nan)
    return found
