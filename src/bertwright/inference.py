"""A trained model that answers: labels for texts, tokens for masks, next sentences, features.

The answers are those of the paper: classification in section 4.1, masked tokens and next sentences in 3.1, features in
5.3. `pretrained.py` has the encoder's part of them; evaluation, command line and server use these two.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from collections.abc import Sequence as Many
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertwright.errors import UnreadableText, UserError
from bertwright.given import ONE, require_text, require_words, several, texts_of
from bertwright.inputs.sequences import ModelInput, Sequence, build, build_cloze, unknown_notice
from bertwright.models.checkpoints import find_model, load_tokenizer, pretrained_model, read_config, seed_models
from bertwright.models.heads import TaskModel
from bertwright.models.sentence_folder import MODULES
from bertwright.models.stored import reading
from bertwright.pretrained import Features, LoadedOnce, PretrainedEncoder, TokenPrediction
from bertwright.tasks.answers import Prediction
from bertwright.tasks.prediction import BATCH_TOKENS, answering, logits_on_all_cores
from bertwright.tasks.registry import load_task_model, task_of_model
from bertwright.tasks.task import Task
from bertwright.text.bert_tokenizer import MASK
from bertwright.text.records import Record
from bertwright.text.wordpiece import Tokenizer
from bertwright.vectors import TextEncoder, Vectors

__all__ = ["Features", "Model", "Prediction", "PretrainedEncoder", "TokenPrediction", "load"]


def load(model: str | Path = "bundled") -> Model:
    """A trained model, ready to answer.

    Args:
        model: a model folder in the Hugging Face layout, or the folder of a run, of which each answer takes the model
            that was trained for it: the classifier of its first seed, or the pre-trained encoder. "bundled" is the
            model that comes with Bertwright: English, film reviews.

    Raises:
        UserError: if there is no such folder, or it holds no model that can be read.
    """
    if str(model) == "bundled":
        return Model("bundled", find_model(model, "sentiment"), find_model(model, "encoder"))
    folder = find_model(model, "sentiment")
    if not folder.is_dir():
        raise UserError(f"there is no model folder {folder}; give one, such as runs/demo, or runs/demo/pretrain/model")
    if (folder / "config.json").exists():
        return Model(Path(model).resolve().name, folder, folder)
    seeds = seed_models(folder)
    pretrained = pretrained_model(folder)
    if seeds and (folder / "finetune" / "begun.json").exists() and not (folder / "finetune" / "stage.json").exists():
        raise UserError(
            f"fine-tuning in {folder} is not finished; the command that began it resumes it; for its best model so far "
            f"give {seeds[0]}"
        )
    found = seeds[0] if seeds else pretrained
    if found is None:
        raise UserError(f"{folder} holds neither a config.json nor a finished pretrain or finetune stage")
    return Model(folder.resolve().name, found, pretrained or found)


class Model:
    """A trained model as `load` gives it: every answer, from the folder that was trained for it.

    Several threads can use one model at the same time.

    Args:
        name: of the model for strangers: the folder's own name, without its path.
        classifier_folder: for labels.
        pretrained_folder: for masks, next sentences and features.
    """

    def __init__(self, name: str, classifier_folder: Path, pretrained_folder: Path) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.classifier_folder = classifier_folder
        read_config(classifier_folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pretrained = PretrainedEncoder(pretrained_folder, self._device)
        # A model that was trained for vectors gives them; any other was trained away from what its encoder says.
        self._vector_folder = classifier_folder if (classifier_folder / MODULES).exists() else pretrained_folder
        self._text_encoders: dict[str | None, TextEncoder] = {}

    @LoadedOnce
    def classifier(self) -> TaskModel:
        """The fine-tuned model.

        Raises:
            UserError: if the folder holds none.
        """
        return load_task_model(self.classifier_folder).to(self._device).eval()

    @LoadedOnce
    def _fast_classifier(self) -> TaskModel:
        """What answers in its place, faster where the hardware multiplies bfloat16."""
        return answering(self.classifier)

    @LoadedOnce
    def task(self) -> Task:
        """The task that the classifier was fine-tuned for."""
        return task_of_model(self.classifier)

    @LoadedOnce
    def classifier_tokenizer(self) -> Tokenizer:
        """The classifier's tokenizer."""
        return load_tokenizer(self.classifier_folder)

    @LoadedOnce
    def reading(self) -> tuple[int, str]:
        """How the classifier reads a long text: the most tokens at once, and the part that is kept, or windows.

        Raises:
            UserError: if the folder's tokenizer_config.json says neither in words that are known.
        """
        return reading(self.classifier_folder / "tokenizer_config.json", self.classifier.encoder.max_length)

    def records(self, given: Any) -> list[Record]:
        """What a user gives as records of the model's task: one text or several, or what else the task reads.

        Raises:
            WrongTypeError: if there is something else, or an order that nobody gave.
        """
        return [self.task.record(number, one) for number, one in enumerate(several(given))]

    def inputs(self, records: Many[Record]) -> Many[ModelInput]:
        """Records as the model reads them.

        Raises:
            UserError: if a text has no word.
        """
        max_length, truncation = self.reading
        encoded = self.task.encode(records, self.classifier_tokenizer, max_length, truncation)
        for number, one in enumerate(encoded):
            require_words(one, number, len(records))
        for notice in self.task.notices(encoded):
            warnings.warn(notice, stacklevel=3)
        return encoded

    def predict(self, texts: Any) -> Any:
        """The answer of the model's task to a text, or to each of several, in order.

        An answer does not depend on the other texts, beyond rounding.

        Args:
            texts: a text, or several; or what else the task reads, as a dict with its columns.

        Returns:
            One answer for a text, and a list for several, also where that is one: a `Prediction` of a classifier, a
            `TaggedText` of a model for tokens, an `Answer` to a question, a `Choice`.

        Raises:
            UserError: if a text has no word, something is no text, or the model has no task's head.
        """
        records = self.records(texts)
        predictions = self.predict_encoded(self.inputs(records), records)
        return predictions[0] if isinstance(texts, ONE) else predictions

    def predict_encoded(self, encoded: Many[ModelInput], records: Many[Record]) -> Many[Any]:
        """The answer to each record, as `inputs` gives it, in order."""
        parts = [self.windows(one) for one in encoded]
        flat = [part for own in parts for part in own]
        if notice := unknown_notice(flat, self.classifier_tokenizer, self.classifier_folder):
            warnings.warn(notice, stacklevel=3)
        return self.answers(self.window_logits(flat), parts, records)

    def windows(self, model_input: ModelInput) -> list[Sequence]:
        """The sequences that the model computes for a record; of most texts one."""
        return self.task.windows(model_input, self.reading[0])

    def window_logits(self, parts: Many[Sequence]) -> list[Tensor]:
        """The classifier's logits for each window of any texts, float32 (classes,)."""
        return logits_on_all_cores(self._fast_classifier, parts, BATCH_TOKENS)

    def answers(self, logits: Many[Tensor], parts: Many[Many[Sequence]], records: Many[Record]) -> Many[Any]:
        """The prediction for each record.

        Args:
            logits: of all windows, record after record, as `window_logits` gives them.
            parts: the windows of each record.
            records: as many.
        """
        if not records:
            return []
        return self.task.answers(self.task.predictions(logits, parts), self.classifier.label_names, records)

    def fill_mask(self, text: str, top_k: int = 5) -> list[list[TokenPrediction]]:
        """The most probable tokens at each [MASK] of a text, each with the others still masked.

        Args:
            text: with one [MASK] or more.
            top_k: how many tokens to give for each, 1 or more.

        Raises:
            UserError: if there is no [MASK], the text is longer than the model reads, or the model has no such head.
        """
        require_text(text, "the text")
        if not isinstance(top_k, int) or top_k < 1:
            raise UserError(f"top_k is {top_k}; it must be a whole number from 1 on")
        self.pretrained.require({"masked_language_model"}, "masked-language head")
        ids = self._fitting(build_cloze(self.pretrained.tokenizer, text)).input_ids
        if not (ids == self.pretrained.tokenizer.mask_id).any():
            raise UserError(f"the text has no {MASK}; put one where a token is to be predicted")
        return self.pretrained.fill_mask(ids, top_k)

    def next_sentence(self, first: str, second: str) -> float:
        """The probability that `second` follows `first` in a document.

        Where both are longer than the model reads, the first keeps its end and the second its beginning.

        Raises:
            UserError: if one of them has no word, or the model has no such head.
        """
        self.pretrained.require({"next_sentence", "pooler"}, "next-sentence head")
        if self.pretrained.model.encoder.config.type_vocab_size < 2:
            raise UserError(
                f"{self.pretrained.folder} knows one segment (type_vocab_size), and a pair of texts has two"
            )
        tokenizer = self.pretrained.tokenizer
        for name, text in (("first", first), ("second", second)):
            require_text(text, f"the {name} text")
            if build(tokenizer, text, max_length=None).is_empty:
                raise UserError(f"the {name} text has nothing to read; write a word")
        positions = self.pretrained.model.encoder.max_length
        pair = build(tokenizer, first, second, max_length=positions, truncation="tail", truncation_pair="head")
        return self.pretrained.next_sentence(pair)

    @overload
    def embed(  # type: ignore[overload-overlap]
        self, texts: str, layers: int = 1, truncate: bool = False
    ) -> Features: ...
    @overload
    def embed(self, texts: Iterable[str], layers: int = 1, truncate: bool = False) -> list[Features]: ...
    def embed(self, texts: str | Iterable[str], layers: int = 1, truncate: bool = False) -> Features | list[Features]:
        """Vectors of texts and of their tokens, from the pre-trained encoder, unchanged (paper, section 5.3).

        All texts are looked at before the first is computed.

        Args:
            texts: a text, or several.
            layers: how many of the last layers stand side by side in a token's vector; the paper's best had 4.
            truncate: whether of a text that is longer than the model reads its beginning is taken;
                `Features.left_out` then says how much is missing. Otherwise it is refused.

        Returns:
            Features of a text, and a list for several, also where that is one.

        Raises:
            UserError: if a text has no word, something is no text, a text is too long and is not to be cut, or the
                model has fewer layers.
        """
        depth = self.pretrained.model.encoder.config.num_hidden_layers
        if not 1 <= layers <= depth:
            raise UserError(f"layers is {layers}, but the model has {depth} layers; give 1 to that many")
        given = texts_of(texts)
        framed = [self._framed(text, number, len(given), truncate) for number, text in enumerate(given)]
        found = [self.pretrained.features(sequence, layers, left_out) for sequence, left_out in framed]
        return found[0] if isinstance(texts, str) else found

    def encode(
        self, texts: str | Iterable[str], pooling: Literal["mean", "cls"] | None = None, dimensions: int | None = None
    ) -> Vectors:
        """One vector for each text, to compare texts by: the pooled last layer of the encoder.

        A folder of sentence-transformers makes the vectors that its own `encode` makes: its pooling, length 1 where it
        says so, and the beginning of a text that is longer than it reads. Of any other folder it is the mean of all
        tokens' vectors, [CLS] and [SEP] among them. Matrix products are in bfloat16 where the hardware has it.

        Args:
            texts: a text, or several.
            pooling: mean or cls, in place of the folder's.
            dimensions: the first numbers that are kept, divided by their length; by default the folder's, or all.

        Returns:
            float32 (hidden,) for a text, and (texts, hidden) for several, also where that is one.

        Raises:
            UserError: if a text has no word, something is no text, or the folder does not give such vectors.
        """
        encoder = self.text_encoder(pooling)
        vectors, left_out = encoder.encode(texts_of(texts), dimensions)
        if longer := int((left_out > 0).sum()):
            said = f"{longer:,} of {len(left_out):,} texts are longer than the {encoder.max_length} tokens"
            warnings.warn(f"{said} that the model reads: their vectors are those of their beginnings", stacklevel=2)
        return vectors[0] if isinstance(texts, str) else vectors

    def text_encoder(self, pooling: str | None = None) -> TextEncoder:
        """What computes `encode`; arguments as there."""
        with self.lock:
            if pooling not in self._text_encoders:
                loaded = partial(self.pretrained.loaded_encoder, self._vector_folder)  # by a server, before
                self._text_encoders[pooling] = TextEncoder(self._vector_folder, self._device, pooling, loaded)
            return self._text_encoders[pooling]

    def attention(self, text: str, max_tokens: int) -> tuple[list[str], npt.NDArray[np.float32]]:
        """A text's tokens, [CLS] and [SEP] included, and the attention weights of the pre-trained encoder.

        Args:
            text: of a longer one its beginning is shown.
            max_tokens: the most tokens, if the encoder reads as many.

        Returns:
            The tokens, and the weights, float32 (layers, heads, tokens, tokens); each row sums to 1.

        Raises:
            UserError: if the text has no word.
        """
        length = min(max_tokens, self.pretrained.model.encoder.max_length)
        sequence = build(self.pretrained.tokenizer, text, max_length=length)
        require_words(sequence, 0, 1)
        return self.pretrained.tokens(sequence), self.pretrained.attention(sequence)

    def _framed(self, text: str, number: int = 0, texts: int = 1, truncate: bool = False) -> tuple[Sequence, int]:
        """[CLS] text [SEP] for the pre-trained encoder, and how many tokens were cut off where it may be cut."""
        tokenizer, positions = self.pretrained.tokenizer, self.pretrained.model.encoder.max_length
        sequence = build(tokenizer, text, max_length=None)
        left_out = max(0, len(sequence) - positions)
        if left_out and truncate:
            return build(tokenizer, text, max_length=positions), left_out
        return self._fitting(sequence, number, texts), 0

    def _fitting(self, sequence: Sequence, number: int = 0, texts: int = 1) -> Sequence:
        """The sequence, unless it is empty or longer than the pre-trained encoder reads."""
        positions = self.pretrained.model.encoder.max_length
        require_words(sequence, number, texts)
        if len(sequence) > positions:
            problem = f"has {len(sequence) - 2:,} tokens, and the model reads {positions - 2}; shorten it"
            raise UnreadableText(number, texts, problem)
        return sequence
