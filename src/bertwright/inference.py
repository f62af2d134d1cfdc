"""A trained model that answers: labels for texts, tokens for masks, next sentences, features.

The answers are those of the paper: classification in section 4.1, masked tokens and next sentences in 3.1, features in
5.3. `pretrained.py` has the encoder's part of them; evaluation, command line and server use these two.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bertwright.errors import NOTHING_TO_READ, UnreadableText, UserError
from bertwright.files import read_json
from bertwright.inputs.sequences import Sequence, build
from bertwright.models.checkpoints import find_model, load_tokenizer, read_config
from bertwright.models.heads import TaskModel
from bertwright.pretrained import Features, PretrainedEncoder, TokenPrediction
from bertwright.tasks.prediction import predict
from bertwright.tasks.registry import TASKS, load_task_model
from bertwright.tasks.task import Floats, Prediction, Task
from bertwright.text.records import Record
from bertwright.text.wordpiece import MASK, Tokenizer
from bertwright.train.engine import has_bf16

__all__ = ["Features", "Model", "Prediction", "PretrainedEncoder", "TokenPrediction", "load"]

_BATCH_TOKENS = 2048
"""Tokens that are computed together, padding included."""

_TEXTS_PER_CORE = 8
"""From this many texts per core, each core computes its own."""


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
        return Model(folder.resolve().name, folder, folder)
    seeds = sorted(folder.glob("finetune/seed-*/model"), key=lambda path: int(path.parent.name.partition("-")[2]))
    pretrained = folder / "pretrain" / "model"
    if not seeds and not pretrained.exists():
        raise UserError(f"{folder} holds neither a config.json nor a finished pretrain or finetune stage")
    classifier = seeds[0] if seeds else pretrained
    return Model(folder.resolve().name, classifier, pretrained if pretrained.exists() else classifier)


class Model:
    """A trained model as `load` gives it: every answer, from the folder that was trained for it.

    Args:
        name: of the model for strangers: the folder's own name, without its path.
        classifier_folder: for labels.
        pretrained_folder: for masks, next sentences and features.
    """

    def __init__(self, name: str, classifier_folder: Path, pretrained_folder: Path) -> None:
        self.name = name
        self.classifier_folder = classifier_folder
        read_config(classifier_folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pretrained = PretrainedEncoder(pretrained_folder, self._device)

    @cached_property
    def classifier(self) -> TaskModel:
        """The fine-tuned model.

        Raises:
            UserError: if the folder holds none.
        """
        return load_task_model(self.classifier_folder).to(self._device).eval()

    @cached_property
    def _fast_classifier(self) -> TaskModel:
        """The classifier in bfloat16, where the hardware multiplies that faster.

        Autocast would turn every weight into bfloat16 in every batch, and carry float32 between the matrix products.
        """
        return copy.deepcopy(self.classifier).to(torch.bfloat16) if has_bf16() else self.classifier

    @property
    def task(self) -> Task:
        """The task that the classifier was fine-tuned for."""
        return TASKS[self.classifier.task]

    @cached_property
    def classifier_tokenizer(self) -> Tokenizer:
        """The classifier's tokenizer."""
        return load_tokenizer(self.classifier_folder)

    @cached_property
    def reading(self) -> tuple[int, str]:
        """How the classifier reads a long text: the most tokens at once, and the part that is kept, or windows."""
        path = self.classifier_folder / "tokenizer_config.json"
        saved = read_json(path) if path.exists() else {}
        positions = self.classifier.encoder.max_length
        return min(int(saved.get("model_max_length", positions)), positions), saved.get("text_truncation", "head-tail")

    def encode(self, texts: Many[str]) -> list[Sequence]:
        """Texts as the classifier reads them.

        Raises:
            UserError: if a text has no word.
        """
        max_length, truncation = self.reading
        records = [Record(str(number), text) for number, text in enumerate(texts)]
        encoded = self.task.encode(records, self.classifier_tokenizer, max_length, truncation)
        for number, sequence in enumerate(encoded):
            _require_words(sequence, number, len(texts))
        return encoded

    def predict(self, texts: Many[str]) -> list[Prediction]:
        """The class of each text, in order. A text's prediction does not depend on the others, beyond rounding.

        Args:
            texts: each is read up to the length that the model was fine-tuned at.

        Raises:
            UserError: if a text has no word, or the model is not a classifier.
        """
        return self.predict_encoded(self.encode(texts))

    def predict_encoded(self, encoded: Many[Sequence]) -> list[Prediction]:
        """The class of each text that `encode` gives, in order."""
        max_length, _ = self.reading
        cores = torch.get_num_threads()
        if self._device.type == "cpu" and cores > 1 and len(encoded) >= _TEXTS_PER_CORE * cores:
            rows = _on_each_core(self.task, self._fast_classifier, encoded, max_length, cores)
        else:
            rows = predict(self.task, self._fast_classifier, encoded, _BATCH_TOKENS, max_length)
        return self.task.answers(rows, self.classifier.label_names)

    def fill_mask(self, text: str, top_k: int = 5) -> list[list[TokenPrediction]]:
        """The most probable tokens at each [MASK] of a text, each with the others still masked.

        Args:
            text: with one [MASK] or more.
            top_k: how many tokens to give for each.

        Raises:
            UserError: if there is no [MASK], the text is longer than the model reads, or the model has no such head.
        """
        self.pretrained.require("masked_language_model.bias", "masked-language head")
        if top_k < 1:
            raise UserError(f"top_k is {top_k}; it must be a whole number from 1 on")
        ids = self._framed(text)[0].input_ids
        if not (ids == self.pretrained.tokenizer.mask_id).any():
            raise UserError(f"the text has no {MASK}; put one where a token is to be predicted")
        return self.pretrained.fill_mask(ids, top_k)

    def next_sentence(self, first: str, second: str) -> float:
        """The probability that `second` follows `first` in a document.

        Where both are longer than the model reads, the first keeps its end and the second its beginning.

        Raises:
            UserError: if one of them has no word, or the model has no such head.
        """
        self.pretrained.require("next_sentence.weight", "next-sentence head")
        tokenizer = self.pretrained.tokenizer
        for name, text in (("first", first), ("second", second)):
            if build(tokenizer, text, max_length=None).is_empty:
                raise UserError(f"the {name} text has nothing to read; write a word")
        positions = self.pretrained.model.encoder.max_length
        pair = build(tokenizer, first, second, max_length=positions, truncation="tail", truncation_pair="head")
        return self.pretrained.next_sentence(pair)

    def embed(self, texts: Many[str], layers: int = 1, truncate: bool = False) -> list[Features]:
        """Vectors of texts and of their tokens, from the pre-trained encoder, unchanged (paper, section 5.3).

        Args:
            texts: some.
            truncate: whether of a text that is longer than the model reads its beginning is taken;
                `Features.left_out` then says how much is missing. Otherwise it is refused.
            layers: how many of the last layers stand side by side in a token's vector; the paper's best had 4.

        Raises:
            UserError: if a text has no word or is too long, or the model has fewer layers.
        """
        depth = self.pretrained.model.encoder.config.num_hidden_layers
        if not 1 <= layers <= depth:
            raise UserError(f"layers is {layers}, but the model has {depth} layers; give 1 to that many")
        framed = [self._framed(text, number, len(texts), truncate) for number, text in enumerate(texts)]
        return [self.pretrained.features(sequence, layers, left_out) for sequence, left_out in framed]

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
        _require_words(sequence, 0, 1)
        return self.pretrained.tokens(sequence), self.pretrained.attention(sequence)

    def _framed(self, text: str, number: int = 0, texts: int = 1, truncate: bool = False) -> tuple[Sequence, int]:
        """[CLS] text [SEP] for the pre-trained encoder, and how many tokens were cut off."""
        sequence = build(self.pretrained.tokenizer, text, max_length=None)
        positions = self.pretrained.model.encoder.max_length
        _require_words(sequence, number, texts)
        left_out = max(0, len(sequence) - positions)
        if left_out and not truncate:
            problem = f"has {len(sequence) - 2:,} tokens, and the model reads {positions - 2}; shorten it"
            raise UnreadableText(number, texts, problem)
        return (build(self.pretrained.tokenizer, text, max_length=positions) if left_out else sequence), left_out


def _require_words(sequence: Sequence, number: int, texts: int) -> None:
    if sequence.is_empty:
        raise UnreadableText(number, texts, NOTHING_TO_READ)


def _on_each_core(task: Task, model: TaskModel, encoded: Many[Sequence], max_length: int, cores: int) -> Floats:
    """`predict` with a part of the texts on each core, where no product waits for another core's half.

    The parts are alike in their texts' lengths.
    """
    order = np.argsort([-len(sequence) for sequence in encoded], kind="stable")
    parts = [order[core::cores] for core in range(cores)]
    found: list[tuple[npt.NDArray[np.int64], Floats]] = []
    try:
        with ThreadPoolExecutor(cores, "predict", torch.set_num_threads, (1,)) as pool:
            jobs = [
                pool.submit(predict, task, model, [encoded[i] for i in part], _BATCH_TOKENS, max_length)
                for part in parts
            ]
            found = [(part, job.result()) for part, job in zip(parts, jobs, strict=True)]
    finally:
        torch.set_num_threads(cores)  # what a thread sets is also what threads to come start with
    result = np.zeros((len(encoded), *found[0][1].shape[1:]), np.float32)
    for part, rows in found:
        result[part] = rows
    return result
