"""Tags of words, the paper's token-level task (sections 4 and 5.3): entities in BIO, or a class for each word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import psutil
from torch import Tensor

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError, WrongTypeError
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs import sequences
from bertwright.inputs.sequences import ModelInput
from bertwright.inputs.words import encode_words, predicted_words, windows
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head, TokenHead
from bertwright.tasks import entities
from bertwright.tasks.answers import Shown
from bertwright.tasks.log_loss import frequency_loss, log_loss
from bertwright.tasks.resampling import Resampled, Units
from bertwright.tasks.tagged_text import TaggedText, spaced_tokens_of, tag_texts, tokens_of
from bertwright.tasks.task import Examples, Progress, Task
from bertwright.text.formats import repaired
from bertwright.text.records import Record
from bertwright.text.tagged import place_of_word, read_tokens, split_words
from bertwright.text.tags import OUTSIDE, has_entities, split_tag
from bertwright.text.wordpiece import Tokenizer


@dataclass(frozen=True)
class TokenClassification(Task):
    """One of K tags for each word; predictions are probabilities, float32 (records, most words, K), NaN beyond a text.

    Labels are an array of objects, (records,), with the numbers of each record's tags, int64 (words,).

    Args:
        names: of the tags, which metrics need.
        primary_metric: the F1 of entities, or the accuracy where tags are classes of words.
        choosing_metrics: what a checkpoint can be chosen by.
    """

    names: tuple[str, ...] = ()
    primary_metric: str = "entity_f1"
    choosing_metrics: tuple[str, ...] = ("entity_f1", "accuracy")
    name = "token-classification"
    columns = ("tokens", "tags")
    answer_class = TaggedText
    bounds = (0.0, 1.0)

    def about(self, positive_label: str | None, names: Sequence[str]) -> Self:
        """The task with the metrics of these tags.

        Raises:
            UserError: if a positive class is named.
        """
        if positive_label is not None:
            raise UserError("finetune.positive_label is for classification; metrics of tags speak of all: leave it out")
        of_these = ("entity_f1", "accuracy") if has_entities(names) else ("accuracy",)
        return type(self)(tuple(names), of_these[0], of_these)

    def check(self, config: FinetuneConfig) -> None:
        """Refuse what is for labels of whole texts alone.

        Raises:
            UserError: if there is such a setting.
        """
        if config.averaging_block:
            raise UserError(
                "finetune.averaging_block averages all tokens for [CLS], and token-classification reads each token's "
                "own vector; leave it out"
            )
        if config.unlabelled is not None:
            raise UserError("finetune.unlabelled is for classification; leave it out with token-classification")

    def check_predictions(self, records: Sequence[Record], names: Sequence[str], copies: int, where: str) -> None:
        """See that memory has enough for the predictions, in which each text has as many words as the longest.

        Raises:
            UserError: if it has not, with the longest text.
        """
        lengths = [len(record.tags or ()) for record in records]
        _require_memory(lengths, len(names), copies, lambda row: f"{where}: {records[row].place or records[row].id}")

    def label_names(self, records: Sequence[Record], given: Sequence[str] | None, where: str) -> list[str]:
        """The tags: O, then B- and I- of each type in order; tags without such a prefix in order.

        Names that are given are the same ones, in the order that is wanted.

        Raises:
            UserError: if no word is in an entity, there is one tag only, or other names are given.
        """
        used = {tag for record in records for tag in record.tags or ()}
        found = sorted(used)
        if has_entities(used):
            kinds = sorted({split_tag(tag)[1] for tag in used} - {""})
            found = [OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")]
        if len(found) < 2:
            only = f"has only the tag {found[0]}" if found else "holds no tagged text"
            raise UserError(f"{where} {only}, so that there is nothing to learn; give texts with entities, or tags")
        if given is not None and set(given) != set(found):
            raise UserError(f"finetune.label_names must be the tags of {where} in any order: {', '.join(found)}")
        return list(given or found)

    def labels(self, records: Sequence[Record], names: Sequence[str], known: Sequence[Record], where: str) -> Ints:
        """The numbers of the tags of each record.

        Raises:
            UserError: if a tag is not among those of train.
        """
        numbers = {name: number for number, name in enumerate(names)}
        found = np.empty(len(records), object)
        for row, record in enumerate(records):
            tags = record.tags or ()
            unknown = next((i for i, tag in enumerate(tags) if tag not in numbers), None)
            if unknown is not None:
                raise UserError(
                    f"{where} has the tag {tags[unknown]!r} ({place_of_word(record.place, unknown)}), which train does "
                    f"not have; it has: {', '.join(names)}"
                )
            found[row] = np.array([numbers[tag] for tag in tags], np.int64)
        return cast(Ints, found)

    def targets(self, labels: Ints, names: Sequence[str]) -> Floats:
        """A row with 1 at its tag for each word of a text, (words, K)."""
        return np.eye(len(names), dtype=np.float32)[labels]

    def head(self, encoder: Encoder, names: Sequence[str], dropout: float) -> Head:
        """A classifier on every token."""
        return TokenHead(encoder.config.hidden_size, len(names), dropout, encoder.transform())

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, max_length: int | None, truncation: str
    ) -> Sequence[ModelInput]:
        """All word pieces of each record's words: no text is cut, since each word has a tag."""
        words = spaced_tokens_of if tokenizer.is_bytes else tokens_of
        return encode_words(tokenizer, [words(record) for record in records])

    def windows(self, model_input: ModelInput, max_length: int) -> list[sequences.Sequence]:
        """Windows of whole words that overlap."""
        assert isinstance(model_input, sequences.Sequence)
        return windows(model_input, max_length)

    def examples(self, inputs: Sequence[ModelInput], labels: Ints, names: Sequence[str], max_length: int) -> Examples:
        """A sequence for each window, with a target at the first piece of each word that it predicts."""
        found, targets = [], []
        for one, tags in zip(inputs, labels, strict=True):
            parts = self.windows(one, max_length)
            for part, (places, numbers) in zip(parts, predicted_words(parts), strict=True):
                target = np.zeros((len(part), len(names)), np.float32)
                target[places] = self.targets(tags[numbers], names)
                found.append(part)
                targets.append(target)
        return Examples(found, targets)

    def predictions(self, logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Floats:
        """The probabilities of each word's tags, at its first piece.

        Raises:
            UserError: if they are more than memory has.
        """
        rows = iter(logits)
        found: list[tuple[Ints, Floats]] = []
        for own in parts:
            predicted = predicted_words(own)
            values = [next(rows)[places].softmax(-1).numpy() for places, _ in predicted]
            found.append((np.concatenate([numbers for _, numbers in predicted]), np.concatenate(values)))
        probabilities = _no_predictions([len(numbers) for numbers, _ in found], found[0][1].shape[1])
        for row, (numbers, values_of_row) in enumerate(found):
            probabilities[row, numbers] = values_of_row
        return probabilities

    def loss(self, predictions: Floats, labels: Ints) -> float:
        """Mean of minus the log-probability, in nats, of each word's tag."""
        return log_loss(*_words_of(predictions, labels))

    def metrics(self, predictions: Floats, labels: Ints) -> dict[str, float]:
        """Precision, recall and F1 of entities as `seqeval` has them, over all types; and the accuracy of words."""
        values, true = _words_of(predictions, labels)
        accuracy = {"accuracy": float((values.argmax(axis=1) == true).mean())}
        if self.primary_metric == "accuracy":
            return accuracy
        precision, recall, f1 = entities.ratios(*self._counts(predictions, labels).sum(axis=(0, 1)))
        found = {"entity_f1": float(f1), "entity_precision": float(precision), "entity_recall": float(recall)}
        return found | accuracy

    def details(self, predictions: Floats, labels: Ints) -> dict[str, Any]:
        """Right, predicted and true entities of each type, or words of each tag."""
        counts = self._counts(predictions, labels).sum(axis=0)
        kinds = entities.scheme_of(self.names).types
        rows = zip(kinds, counts.tolist(), strict=True)
        return {"by_type": {kind: dict(zip(("right", "predicted", "true"), row, strict=True)) for kind, row in rows}}

    def _counts(self, predictions: Floats, labels: Ints) -> Ints:
        """Right, predicted and true entities (records, types, 3); a word without prefix in its tag is one."""
        values, _ = _words_of(predictions, labels)
        return entities.count(values.argmax(axis=1), list(labels), entities.scheme_of(self.names))

    def warnings(self, predictions: Floats, labels: Ints, names: Sequence[str]) -> list[str]:
        """Types that are never predicted."""
        counts = self._counts(predictions, labels).sum(axis=0)
        missing = [
            f"`{kind}`, of which there are {true:,}"
            for kind, (_, predicted, true) in zip(entities.scheme_of(names).types, counts.tolist(), strict=True)
            if true and not predicted
        ]
        return [f"never predicts {'; nor '.join(missing)}"] if missing else []

    def chance_loss(self, known: Ints, labels: Ints) -> float:
        """The loss of a model that predicts how frequent each tag is for every word."""
        return frequency_loss(np.concatenate(list(known)), np.concatenate(list(labels)))

    def row_scores(self, predictions: Floats, labels: Ints) -> npt.NDArray[np.float64]:
        """How much each record raises or lowers F1; of classes of words, how much it does the accuracy."""
        part, whole = self._parts(predictions, labels)
        scores: npt.NDArray[np.float64] = part - whole * (part.sum() / max(whole.sum(), 1.0))
        return scores

    def _parts(self, predictions: Floats, labels: Ints) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Numerator and denominator of the primary metric by record, (records,) each."""
        right, predicted, true = np.moveaxis(self._counts(predictions, labels).sum(axis=1), -1, 0).astype(np.float64)
        return (right, true) if self.primary_metric == "accuracy" else (2 * right, predicted + true)

    def resampled(
        self, predictions: Floats, labels: Ints, units: Units, samples: int, seed: int, only: str | None = None
    ) -> Resampled:
        """All metrics of resamples, from counts of each record; NaN where a resample does not define one."""
        values, true = _words_of(predictions, labels)
        lengths = np.array([len(row) for row in labels])
        records = np.repeat(np.arange(len(labels)), lengths)
        hits = np.bincount(records, values.argmax(axis=1) == true, len(labels))
        counts = self._counts(predictions, labels).sum(axis=1)
        columns = np.column_stack([counts, hits, lengths]).astype(np.float32)
        drawn = np.concatenate([chunk @ columns for chunk in units.resamples(samples, seed)]).astype(np.float64)
        right, predicted, real, right_words, all_words = drawn.T

        def ratio(part: Any, whole: Any) -> Any:
            return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)

        found = {"accuracy": ratio(right_words, all_words)}
        if self.primary_metric != "accuracy":
            found["entity_f1"] = ratio(2 * right, predicted + real)
            found["entity_precision"], found["entity_recall"] = ratio(right, predicted), ratio(right, real)
        return {name: value for name, value in found.items() if only in (None, name)}

    def baselines(
        self, train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
    ) -> Mapping[str, Floats | str]:
        """Each word's most frequent tag; and a conditional random field."""
        from bertwright.tasks.crf import fit_and_predict

        known: dict[str, Counter[int]] = defaultdict(Counter)
        for record, tags in zip(train, labels, strict=True):
            for token, tag in zip(tokens_of(record), tags, strict=True):
                known[token][int(tag)] += 1
        usual = int(np.bincount(np.concatenate(list(labels))).argmax())
        lookup = {token: min(counts, key=lambda tag: (-counts[tag], tag)) for token, counts in known.items()}
        found = [[lookup.get(token, usual) for token in tokens_of(record)] for record in test]
        tags_by_name = [[self.names[tag] for tag in row] for row in labels]
        tokens = [[tokens_of(record) for record in records] for records in (train, test)]
        crf = fit_and_predict(tokens[0], tags_by_name, tokens[1], progress)
        numbers = {name: number for number, name in enumerate(self.names)}
        one_hot = crf if isinstance(crf, str) else self._one_hot([[numbers[tag] for tag in row] for row in crf])
        return {"most_frequent_tag": self._one_hot(found), "crf": one_hot}

    def _one_hot(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Tags that are predicted for certain, as probabilities."""
        found = _no_predictions([len(row) for row in rows], len(self.names))
        for row, tags in zip(found, rows, strict=True):
            row[: len(tags)] = np.eye(len(self.names), dtype=np.float32)[list(tags)]
        return found

    def reads(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Tokens, where a file has them; else a text, which is divided into words."""
        return ("tokens",) if "tokens" in fields else ("text",)

    def record(self, number: int, given: Any) -> Record:
        """A text, which is divided into words as BERT does it, or a dict with `tokens`.

        Raises:
            WrongTypeError: if it is neither.
        """
        if isinstance(given, str):
            text = repaired(given)
            return Record(str(number), text, words=split_words(text))
        if not isinstance(given, dict) or set(given) != {"tokens"}:
            raise WrongTypeError(
                f'text {number + 1} is {type(given).__name__}; it must be a str, or a dict {{"tokens": [...]}}'
            )
        try:
            text, words = read_tokens(given["tokens"], f"text {number + 1}")
        except UserError as error:
            raise WrongTypeError(str(error)) from error
        return Record(str(number), text, words=words)

    def answers(self, predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> list[TaggedText]:
        """The most probable tag of each word, and the entities of these."""
        return tag_texts(predictions, names, records)

    def columns_out(self, names: Sequence[str]) -> list[str]:
        """Tags and entities, both as JSON."""
        return ["tags", "entities"]

    def row_out(self, answer: Any, names: Sequence[str]) -> list[Any]:
        """A text's tags, and its entities with scores of six decimals."""
        return [answer.tags, [{**vars(one), "score": round(one.score, 6)} for one in answer.entities]]

    def line(self, answer: Any, text: str) -> str:
        """The text with each entity in brackets, as `[Ada Lovelace PER] was here`."""
        marked: str = answer.marked()
        return marked

    def shown(self, answer: Any, label: Any, names: Sequence[str], record: Record) -> Shown:
        """True and predicted entities in words, and the lowest score of a word's tag."""
        row = np.eye(len(names), dtype=np.float32)[None, label]
        (true,) = self.answers(row, names, [record])
        return Shown(true.listed(), answer.listed(), min(answer.scores, default=1.0))


def _no_predictions(lengths: Sequence[int], tags: int) -> Floats:
    """Predictions of texts with so many words, all NaN yet, float32 (texts, most words, tags)."""
    _require_memory(lengths, tags, 1, lambda row: f"text {row + 1} of {len(lengths):,}")
    return np.full((len(lengths), max(lengths), tags), np.nan, np.float32)


def _require_memory(lengths: Sequence[int], tags: int, tables: int, place: Callable[[int], str]) -> None:
    """See that memory has enough for so many tables of predictions, in which each text has the words of the longest.

    Raises:
        UserError: if it does not.
    """
    most = max(lengths, default=0)
    size, free = 4 * len(lengths) * most * tags * tables, psutil.virtual_memory().available
    if size > free:
        raise UserError(
            f"{place(lengths.index(most))} has {most:,} words, and predictions of each of {len(lengths):,} texts take "
            f"as much memory: {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free; divide it into shorter ones"
        )


def _words_of(predictions: Floats, labels: Ints) -> tuple[Floats, Ints]:
    """Probabilities (words, K) and tags (words,) of all records' words, in order."""
    lengths = np.array([len(row) for row in labels], np.int64)
    values = predictions[np.arange(predictions.shape[1]) < lengths[:, None]]
    return values, np.concatenate([*labels, np.zeros(0, np.int64)]).astype(np.int64)
