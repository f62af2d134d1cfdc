"""Embedding: a vector for each text, near those of texts that mean the same.

Trained without labels, on pairs, or on pairs with scores; the loss is over the whole global batch (`in_batch.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError, WrongTypeError
from bertwright.finetune_settings import EmbeddingConfig, FinetuneConfig
from bertwright.inputs import sequences
from bertwright.inputs.sequences import ModelInput, beginning
from bertwright.models.embedding_head import EmbeddingHead, cut_and_normalized, ranking_loss
from bertwright.models.encoder import Encoder
from bertwright.models.heads import Head
from bertwright.models.sentence_folder import Pooling, read_pooling
from bertwright.ranges import require
from bertwright.recipe import Source
from bertwright.tasks.answers import Shown
from bertwright.tasks.crops import Crops, Known, TextsOfRecord, halves, known_texts, numbered
from bertwright.tasks.ranks import compared
from bertwright.tasks.regression import moments
from bertwright.tasks.resampling import Resampled, Units, resample_means
from bertwright.tasks.task import Examples, Progress, Task
from bertwright.text.formats import repaired
from bertwright.text.records import Record
from bertwright.text.wordpiece import Tokenizer


@dataclass(frozen=True)
class Similarity:
    """How alike two texts are.

    Args:
        score: the cosine of their vectors, -1 to 1.
    """

    score: float


@dataclass(frozen=True)
class Embedding(Task):
    """Vectors of texts, compared by their cosine.

    Three kinds of records: single texts, of which two random crops are a pair (Izacard et al. 2022, "Unsupervised Dense
    Information Retrieval with Contrastive Learning", section 3.1), while the two halves are one in evaluation; pairs,
    perhaps with a hard negative; and pairs with scores.

    Predictions are float32 (records, 3): the cosine of the pair, how many texts of other pairs are at least as near to
    the first text as its own second one, and the cross-entropy of the second among all. Of pairs with scores they are
    the cosines, float32 (records,). Where finetune.embedding.dimensions names smaller sizes of vectors, the columns of
    each follow, from the smallest; cosines are then (records, sizes, 1). Labels are the scores, or 0, float64
    (records,).

    Args:
        columns: the fields of a record that it needs.
        settings: finetune.embedding.
        batch_size: of training.
        primary_metric: spearman for scores, else recall_at_1.
        choosing_metrics: what a checkpoint can be chosen by.
    """

    columns: tuple[str, ...] = ("text",)
    settings: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    batch_size: int = 2
    primary_metric: str = "recall_at_1"
    choosing_metrics: tuple[str, ...] = ("recall_at_1", "recall_at_10", "mrr")
    name = "embedding"
    bounds = (0.0, 1.0)
    other_bounds = MappingProxyType({"spearman": (-1.0, 1.0), "pearson": (-1.0, 1.0)})
    answer_class = Similarity

    @property
    def pairs(self) -> bool:
        """Whether records are pairs, not single texts."""
        return "text_pair" in self.columns

    def on(self, source: Source) -> Self:
        """The task on single texts; on pairs where the source names a column of second texts, or also of negatives.

        Raises:
            UserError: if it names negatives alone.
        """
        if source.text_pair_column is None:
            require(
                source.negative_column is None,
                "data: negative_column is the negative of a pair; name the second texts, too: text_pair_column",
            )
            return replace(self, columns=("text",))
        return replace(self, columns=("text", "text_pair", *(["negative"] if source.negative_column else [])))

    def with_settings(self, config: FinetuneConfig) -> Self:
        """The task with finetune.embedding.

        Raises:
            UserError: if scores are asked of single texts, or beside negatives.
        """
        task = replace(self, settings=config.embedding, batch_size=config.batch_size)
        if not config.embedding.scores:
            return task
        require(
            self.columns == ("text", "text_pair"),
            "finetune.embedding.scores is for pairs with a score: name text_pair_column and label_column in `data`, "
            "without negative_column",
        )
        chosen = ("spearman", "pearson")
        return replace(task, columns=(*self.columns, "number"), primary_metric="spearman", choosing_metrics=chosen)

    def check(self, config: FinetuneConfig) -> None:
        """Refuse settings that vectors have no use for.

        Raises:
            UserError: if there is one.
        """
        require(
            config.truncation in ("head", "head-tail"),
            f"finetune.truncation is {config.truncation}, and of a text the vector is that of its head; leave it out",
        )
        require(config.batch_size > 1, "finetune.batch_size is 1, and a text is compared with those of its batch")
        require(not config.freeze_encoder, "finetune.freeze_encoder would leave nothing to train; leave it out")
        for name in ("unlabelled", "label_names", "positive_label", "class_weights"):
            require(not getattr(config, name), f"finetune.{name} is for classes, and vectors have none; leave it out")

    def starting_from(self, encoder: Path) -> Self:
        """The task with the folder's pooling where finetune.embedding names none, and the mean where neither does.

        Raises:
            UserError: if the folder does what we do not compute: its vectors would be lost without a word.
        """
        found = read_pooling(encoder) or Pooling()
        return replace(self, settings=replace(self.settings, pooling=self.settings.pooling or found.mode))

    def check_training_set(self, rows: int) -> None:
        """Refuse fewer texts than a batch has.

        Raises:
            UserError: if there are.
        """
        require(
            rows >= self.batch_size,
            f"the training set has {rows:,} texts, and a text is compared with all others of its batch, "
            f"{self.batch_size} (finetune.batch_size); give more texts, or lower it",
        )

    def notes(self) -> dict[str, Any]:
        """The pooling, whether predictions are those of pairs with scores, and the smaller sizes of vectors."""
        sizes = {"dimensions": list(self.settings.dimensions)} if self.settings.dimensions else {}
        return {"embedding": {"pooling": self.settings.pooling, "scores": self.settings.scores, **sizes}}

    def restored(self, config: Mapping[str, Any]) -> Self:
        """The task with a model's settings."""
        found = dict(config.get("embedding", {}))
        found["dimensions"] = tuple(found.get("dimensions", ()))
        return replace(self, settings=replace(self.settings, **found))

    def label_names(self, records: Sequence[Record], given: Sequence[str] | None, where: str) -> list[str]:
        """One name, `similarity`.

        Raises:
            UserError: if all texts are the same, all first ones, or all scores.
        """
        if self.settings.scores and len({record.number for record in records}) < 2:
            raise UserError(f"{where} has one score alone, so that no pair is more alike than another; give several")
        first, second = {record.text for record in records}, {record.text_pair or record.text for record in records}
        if len(second) < 2 or (len(first) < 2 and not self.settings.scores):
            which = "text" if len(second) < 2 else "first text"
            raise UserError(f"{where} has one {which} alone, and a text is compared with others; give more texts")
        return ["similarity"]

    def labels(self, records: Sequence[Record], names: Sequence[str], known: Sequence[Record], where: str) -> Any:
        """The scores; 0 where there are none."""
        return np.array([record.number or 0.0 for record in records], np.float64)

    def targets(self, labels: Ints, names: Sequence[str]) -> Floats:
        """Rows of 1, the number of the text, and the score, float32 (records, 3)."""
        number = np.arange(len(labels))
        return np.stack([np.ones(len(labels)), number, labels], axis=1).astype(np.float32)

    def head(self, encoder: Encoder, names: Sequence[str], dropout: float) -> Head:
        """The pooling.

        Raises:
            UserError: if finetune.embedding.dimensions asks for more numbers than a vector has.
        """
        width, settings = encoder.config.hidden_size, self.settings
        largest = max(settings.dimensions, default=0)
        require(largest <= width, f"finetune.embedding.dimensions has {largest}, and the vectors {width}; lower it")
        sizes = tuple(sorted({*settings.dimensions, width}))
        pooling = Pooling(settings.pooling or Pooling().mode, normalize=True)
        return EmbeddingHead(pooling, encoder.causal, settings.temperature, sizes, settings.scores)

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, max_length: int | None, truncation: str
    ) -> Sequence[ModelInput]:
        """Each text by itself, its head where it is too long; of a single text its halves, and the whole of it."""
        wholes: Sequence[sequences.Sequence | None] = [None] * len(records)
        if records and records[0].text_pair is None:
            texts = [list(side) for side in zip(*(halves(record.text) for record in records), strict=True)]
            wholes = sequences.build_many(tokenizer, [record.text for record in records], max_length=None)
        else:
            texts = [[record.text for record in records], [record.text_pair or "" for record in records]]
        if "negative" in self.columns:
            texts.append([record.negative or "" for record in records])
        parts = zip(*(known_texts(column, tokenizer, max_length) for column in texts), strict=True)
        return [TextsOfRecord(list(own), whole) for own, whole in zip(parts, wholes, strict=True)]

    def windows(self, model_input: ModelInput, max_length: int) -> list[sequences.Sequence]:
        """The two texts."""
        assert isinstance(model_input, TextsOfRecord)
        return [Known.of(beginning(part, max_length), part.text) for part in model_input.parts[:2]]

    def examples(self, inputs: Sequence[ModelInput], labels: Ints, names: Sequence[str], max_length: int) -> Examples:
        """Pairs, with their negatives; of single texts whole ones, of which crops are drawn for each batch.

        Raises:
            UserError: if they do not fill one batch.
        """
        self.check_training_set(len(inputs))
        given = cast(Sequence[TextsOfRecord], inputs)
        parts = [[one.whole] if one.whole is not None else one.parts for one in given]
        flat, rows = [part for own in parts for part in own], numbered(parts, labels)
        return Examples(flat, rows, len(parts[0])) if self.pairs else Crops(flat, rows, max_length=max_length)

    def predictions(self, logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Floats:
        """Cosines of the pairs, and how near the other texts are, by all of a vector and by each smaller size."""
        vectors = torch.stack(list(logits)).view(len(parts), 2, -1)
        width = vectors.shape[-1]
        sizes = sorted(size for size in set(self.settings.dimensions) if size < width)
        each = [vectors, *(cut_and_normalized(vectors, size) for size in sizes)]
        if self.settings.scores:
            cosines: Floats = torch.stack([(one[:, 0] * one[:, 1]).sum(-1) for one in each], 1).numpy()
            return cosines[:, :, None] if sizes else cosines[:, 0]
        keys = [[part.text for part in cast(Sequence[Known], own)] for own in parts]
        temperature = self.settings.temperature
        return np.concatenate(
            [compared(one[:, 0].numpy(), one[:, 1].numpy(), keys, temperature) for one in each], axis=1
        )

    def _by_size(self, predictions: Floats) -> list[Floats]:
        """The predictions by all of a vector, and by each smaller size, (records,) of scores, else (records, 3)."""
        if predictions.ndim != 2:
            return list(predictions.reshape(len(predictions), -1).T)
        return np.split(predictions, predictions.shape[1] // 3, axis=1)

    def loss(self, predictions: Floats, labels: Ints) -> float:
        """The mean cross-entropy of the second texts among all; of scores how far the orders differ."""
        if predictions.ndim == 2:
            return float(predictions[:, 2].mean())
        cosines, scores = torch.from_numpy(self._by_size(predictions)[0]), torch.from_numpy(labels)
        return float(ranking_loss(cosines, scores, self.settings.temperature))

    def _columns(self, predictions: Floats) -> dict[str, Any]:
        """The value of each metric in each record, where metrics are means."""
        rank = predictions[:, 1]
        return {"recall_at_1": rank < 1, "recall_at_10": rank < 10, "mrr": 1 / (1 + rank)}

    def metrics(self, predictions: Floats, labels: Ints) -> dict[str, float]:
        """How often the second text is the nearest of all, is among the ten nearest, and the mean reciprocal rank.

        Of scores Spearman's and Pearson's correlation with the cosines.
        """
        if predictions.ndim == 2:
            return {name: float(np.mean(values)) for name, values in self._columns(predictions).items()}
        found = moments(self._by_size(predictions)[0], labels, np.ones((1, len(labels)), np.float32))
        return {name: float(found[name][0]) for name in ("spearman", "pearson")}

    def details(self, predictions: Floats, labels: Ints) -> dict[str, Any]:
        """The metrics by each smaller size of vectors, if there are any: the first numbers of each, of length 1."""
        smaller = self._by_size(predictions)[1:]
        sizes = sorted(set(self.settings.dimensions))[: len(smaller)]
        found = {str(size): self.metrics(own, labels) for size, own in zip(sizes, smaller, strict=True)}
        return {"by_size": found} if found else {}

    def row_scores(self, predictions: Floats, labels: Ints) -> Any:
        """The reciprocal rank; none of scores."""
        return 1 / (1 + predictions[:, 1].astype(np.float64)) if predictions.ndim == 2 else None

    def resampled(
        self, predictions: Floats, labels: Ints, units: Units, samples: int, seed: int, only: str | None = None
    ) -> Resampled:
        """All metrics of resamples."""
        if predictions.ndim == 2:
            return resample_means(self._columns(predictions), units, samples, seed)
        cosines = self._by_size(predictions)[0]
        parts = [moments(cosines, labels, chunk) for chunk in units.resamples(samples, seed)]
        return {name: np.concatenate([part[name] for part in parts]) for name in ("spearman", "pearson")}

    def baselines(
        self, train: Sequence[Record], labels: Ints, test: Sequence[Record], progress: Progress
    ) -> Mapping[str, Floats | str]:
        """The cosine of TF-IDF vectors."""
        from bertwright.tasks.baselines_similarity import tfidf_cosines  # scikit-learn takes seconds to load

        return tfidf_cosines(train, test, self.settings, progress)

    def warm(self) -> Any:
        """Two texts."""
        return {"text": "A text.", "text_pair": "Another."}

    def reads(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Two texts."""
        return ("text", "text_pair")

    def record(self, number: int, given: Any) -> Record:
        """Two texts, as a tuple or as a dict with `text` and `text_pair`.

        Raises:
            WrongTypeError: if it is something else.
        """
        texts = [given.get(name) for name in ("text", "text_pair")] if isinstance(given, dict) else given
        pair = isinstance(texts, list | tuple) and len(texts) == 2
        if not pair or not all(isinstance(text, str) and text.strip() for text in texts):
            raise WrongTypeError(
                f"text {number + 1}: the model says how alike two texts are; give two, as "
                '{"text": ..., "text_pair": ...}, or call encode (on the command line embed) for the vector of one'
            )
        first, second = map(repaired, texts)
        return Record(str(number), first, second)

    def answers(self, predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> list[Similarity]:
        """The cosine of each pair."""
        return [Similarity(float(cosine)) for cosine in predictions.reshape(len(records), -1)[:, 0]]

    def columns_out(self, names: Sequence[str]) -> list[str]:
        """The cosine."""
        return ["similarity"]

    def row_out(self, answer: Any, names: Sequence[str]) -> list[Any]:
        """The cosine, with six digits."""
        return [round(answer.score, 6)]

    def line(self, answer: Any, text: str) -> str:
        """The cosine, and the texts."""
        return f"{answer.score:>12.4f}  {text}"

    def shown(self, answer: Any, label: Any, names: Sequence[str], record: Record) -> Shown:
        """The score, if there is one, and the cosine, which alone is neither right nor wrong: ranks are trained."""
        return Shown(f"{label:.4g}" if self.settings.scores else "a pair", f"cosine {answer.score:.3f}", None, None)
