"""What tasks on whole texts share: they read one text or a pair (paper, section 4.1), and average logits of windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from bertwright.errors import UserError, WrongTypeError
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs import sequences
from bertwright.inputs.sequences import ModelInput
from bertwright.recipe import Source
from bertwright.tasks.task import Task
from bertwright.text.formats import repaired
from bertwright.text.records import Record
from bertwright.text.wordpiece import Tokenizer


@dataclass(frozen=True)
class TextTask(Task):
    """A task that gives one answer to a text, or to a pair of texts.

    Args:
        columns: the fields of a record that it needs.
        pair: whether it reads pairs; None for the model of another tool, which does not say it: it is given either.
    """

    columns: tuple[str, ...] = ("text", "label")
    pair: bool | None = None

    def on(self, source: Source) -> Self:
        """A task on pairs, where the source names a column of second texts."""
        pair = source.text_pair_column is not None
        others = tuple(column for column in self.columns if column != "text_pair")
        return replace(self, columns=("text", "text_pair", *others[1:]) if pair else others, pair=pair)

    def notes(self) -> dict[str, Any]:
        """Whether the model reads pairs."""
        return {} if self.pair is None else {"text_pair": self.pair}

    def restored(self, config: Mapping[str, Any]) -> Self:
        """The task on pairs or on single texts; a model of ours that does not say it is older than pairs."""
        pair = config.get("text_pair", False if config.get("finetuning_task") == self.name else None)
        return replace(self, pair=pair)

    def check(self, config: FinetuneConfig) -> None:
        """See that a pair is not to be read in windows or trained on unlabelled texts.

        Raises:
            UserError: if it is.
        """
        if self.pair and config.truncation == "windows":
            raise UserError(
                "finetune.truncation is windows, and a pair of texts is read as one sequence; choose head, tail or "
                "head-tail, which cut both texts"
            )
        if config.unlabelled is not None and (self.pair or self.name != "classification"):
            what = "pairs of texts" if self.pair else self.name
            raise UserError(f"finetune.unlabelled is for classification of single texts, not for {what}; leave it out")
        if config.positive_label is not None and self.name != "classification":
            raise UserError(f"finetune.positive_label is for two classes, not for {self.name}; leave it out")

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, max_length: int | None, truncation: str
    ) -> Sequence[ModelInput]:
        """`[CLS] text [SEP]`, or `[CLS] text [SEP] text_pair [SEP]` where a record has two."""
        texts, pairs = [record.text for record in records], [record.text_pair for record in records]
        if all(pair is None for pair in pairs):
            return sequences.build_many(tokenizer, texts, max_length=max_length, truncation=truncation)
        cut = pair_truncation(truncation)
        return sequences.build_many(tokenizer, texts, pairs, max_length=max_length, truncation=cut)

    def warm(self) -> Any:
        """A text or two."""
        return {"text": "A text.", "text_pair": "Another."} if self.pair else "warm"

    def reads(self, fields: Sequence[str]) -> tuple[str, ...]:
        """A text; two where the model reads pairs, or, if it does not say so, where a file has them."""
        two = self.pair or (self.pair is None and "text_pair" in fields)
        return ("text", "text_pair") if two else ("text",)

    def record(self, number: int, given: Any) -> Record:
        """A text; or two, as a tuple or as a dict with `text` and `text_pair`.

        Raises:
            WrongTypeError: if it is something else, or the model does not read as many texts.
        """
        where = f"text {number + 1}"
        if isinstance(given, dict) and not set(given) - {"text", "text_pair"}:
            texts = [given.get("text"), *([given["text_pair"]] if "text_pair" in given else [])]
        else:
            texts = list(given) if isinstance(given, tuple) else [given]
        if not 1 <= len(texts) <= 2 or not all(isinstance(text, str) for text in texts):
            kind = type(given).__name__
            wanted = 'a pair: a tuple of two str, or a dict {"text": ..., "text_pair": ...}' if self.pair else "a str"
            raise WrongTypeError(f"{where} is {kind}; it must be {wanted}")
        if self.pair and len(texts) == 1:
            raise WrongTypeError(
                f'{where} is one text, and the model reads pairs; give two, as {{"text": ..., "text_pair": ...}}'
            )
        if self.pair is False and len(texts) == 2:
            raise WrongTypeError(f"{where} is a pair, and the model reads single texts; give one text")
        if len(texts) == 2 and not all(text.strip() for text in texts):
            raise WrongTypeError(f"{where} is a pair of which one text is empty; write both, or leave the pair out")
        text, *second = map(repaired, texts)
        return Record(str(number), text, second[0] if second else None)


def pair_truncation(truncation: str) -> str:
    """Which part of a longer pair is kept: it is one sequence, also where single texts are read in windows."""
    return "head-tail" if truncation == "windows" else truncation


def mean_logits(logits: Sequence[Tensor], parts: Sequence[Sequence[sequences.Sequence]]) -> Tensor:
    """The mean of each text's logits over its windows, float32 (records, K).

    Args:
        logits: of all windows, text after text, (K,) each.
        parts: the windows of each text.
    """
    if len(logits) == len(parts):
        return torch.stack(list(logits))
    number = torch.tensor([len(own) for own in parts], dtype=torch.long)
    texts = torch.arange(len(number)).repeat_interleave(number)
    stacked = torch.stack(list(logits))
    return torch.zeros(len(number), stacked.shape[1]).index_add(0, texts, stacked) / number[:, None]
