"""A trained model that answers: labels for texts, words for masks, next sentences, features.

What each answer is stands in the paper: classification in section 4.1, masked words and next sentences in 3.1, features
in 5.3.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertwright.errors import NOTHING_TO_READ, UnreadableText, UserError
from bertwright.files import read_json
from bertwright.model.bert import Bert, Block, seen_from_left
from bertwright.model.heads import BertForPreTraining, BertForSequenceClassification
from bertwright.model.interop import (
    find_model,
    load_classifier,
    load_pretraining_model,
    load_tokenizer,
    read_config,
    read_weights,
)
from bertwright.objectives.batches import IS_NEXT
from bertwright.tasks.classify import Ids, encode_texts, predict_probabilities
from bertwright.text.wordpiece import MASK, Tokenizer
from bertwright.train.engine import has_bf16

_BATCH_TOKENS = 2048
"""Tokens that are computed together, padding included."""

_TEXTS_PER_CORE = 8
"""From how many texts on each core judges its own."""


@dataclass(frozen=True)
class Verdict:
    """What a classifier says of a text.

    Args:
        label: the likeliest class.
        score: its probability.
        probabilities: of each class, by name.
    """

    label: str
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Guess:
    """A token that may stand at a mask.

    Args:
        token: as the vocabulary writes it; ## continues a word.
        score: its probability.
    """

    token: str
    score: float


@dataclass(frozen=True)
class Features:
    """A text as vectors.

    Args:
        pooled: what the pooler makes of [CLS], float32 (hidden,).
        mean: the average of the tokens' vectors in the last layer, float32 (hidden,).
        tokens: the text's tokens, [CLS] and [SEP] included.
        vectors: one per token, float32 (tokens, layers * hidden): the last layers side by side, the very last first.
    """

    pooled: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    tokens: list[str]
    vectors: npt.NDArray[np.float32]


def load(model: str | Path) -> Model:
    """A trained model, ready to answer.

    Args:
        model: a model folder in the Hugging Face layout, or the folder of a run, of which each answer takes the model
            that was trained for it: the classifier of its first seed, or the pre-trained encoder. "boxed" is the model
            that comes with Bertwright: English, film reviews.

    Raises:
        UserError: if there is no such folder, or it holds no BERT model that can be read.
    """
    if str(model) == "boxed":
        return Model("boxed", find_model(model, "sentiment"), find_model(model, "encoder"))
    folder = Path(model)
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
    """What `load` gives: every answer, from the folder that was trained for it.

    Args:
        name: what strangers may call it: the folder's own name, without the way there.
        classifier_folder: for labels.
        pretrained_folder: for masks, next sentences and features.
    """

    def __init__(self, name: str, classifier_folder: Path, pretrained_folder: Path) -> None:
        self.name = name
        self.classifier_folder = classifier_folder
        self.pretrained_folder = pretrained_folder
        read_config(classifier_folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def classifier(self) -> BertForSequenceClassification:
        """The fine-tuned classifier.

        Raises:
            UserError: if the folder holds none.
        """
        return load_classifier(self.classifier_folder).to(self._device).eval()

    @cached_property
    def _fast_classifier(self) -> BertForSequenceClassification:
        """The classifier in bfloat16, where the hardware multiplies that faster.

        Autocast would turn every weight into bfloat16 in every batch, and carry float32 between the matrix products.
        """
        return copy.deepcopy(self.classifier).to(torch.bfloat16) if has_bf16() else self.classifier

    @cached_property
    def pretrained(self) -> BertForPreTraining:
        """The encoder with its pre-training heads."""
        return load_pretraining_model(self.pretrained_folder).to(self._device).eval()

    def _require(self, head: str, called: str) -> None:
        """Refuse to answer with a head of random weights, which a classifier's folder would get.

        Raises:
            UserError: if the folder holds no weights of the head, or a left-to-right model, which has not learnt to
                fill masks or to tell next sentences.
        """
        if self.pretrained.bert.config.is_decoder:
            raise UserError(
                f"{self.pretrained_folder} reads from left to right: it has learnt to guess next tokens, and its "
                f"{called} answers nothing; give a model that was pre-trained both ways"
            )
        if head not in self._stored:
            raise UserError(f"{self.pretrained_folder} has no {called}; give a model that was pre-trained with one")

    @cached_property
    def _stored(self) -> set[str]:
        return {name.partition(".")[0] for name in read_weights(self.pretrained_folder)}

    @cached_property
    def classifier_tokenizer(self) -> Tokenizer:
        """The classifier's tokenizer."""
        return load_tokenizer(self.classifier_folder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The pre-trained encoder's tokenizer."""
        return load_tokenizer(self.pretrained_folder)

    @cached_property
    def reading(self) -> tuple[int, str]:
        """How the classifier reads a long text: the most tokens at once, and what becomes of the others."""
        path = self.classifier_folder / "tokenizer_config.json"
        saved = read_json(path) if path.exists() else {}
        positions = self.classifier.bert.config.max_position_embeddings
        return min(int(saved.get("model_max_length", positions)), positions), saved.get("text_truncation", "head-tail")

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of texts as the classifier reads them.

        Raises:
            UserError: if a text has no word.
        """
        return _readable(texts, self.classifier_tokenizer, *self.reading)

    def predict(self, texts: Sequence[str]) -> list[Verdict]:
        """The class of each text, in order. A text's verdict does not depend on the others, beyond rounding.

        Args:
            texts: each is read up to the length that the model was fine-tuned at.

        Raises:
            UserError: if a text has no word, or the model is not a classifier.
        """
        return self.judge(self.encode(texts))

    def judge(self, encoded: Sequence[Ids]) -> list[Verdict]:
        """The class of each text that `encode` has read, in order."""
        names = self.classifier.label_names
        max_length, _ = self.reading
        cores = torch.get_num_threads()
        if self._device.type == "cpu" and cores > 1 and len(encoded) >= _TEXTS_PER_CORE * cores:
            rows = _on_each_core(self._fast_classifier, encoded, max_length, cores)
        else:
            rows = predict_probabilities(self._fast_classifier, encoded, _BATCH_TOKENS, max_length)
        return [
            Verdict(names[int(row.argmax())], float(row.max()), dict(zip(names, map(float, row), strict=True)))
            for row in rows
        ]

    @torch.inference_mode()
    def fill_mask(self, text: str, top_k: int = 5) -> list[list[Guess]]:
        """The likeliest tokens at each [MASK] of a text, each mask judged with the others still hidden.

        Args:
            text: with one [MASK] or more.
            top_k: how many tokens to give for each.

        Raises:
            UserError: if there is no [MASK], the text is longer than the model reads, or the model has no such head.
        """
        self._require("masked_language_model", "masked-language head")
        ids = self._framed(text)
        masks = np.flatnonzero(ids == self.tokenizer.mask_id)
        if len(masks) == 0:
            raise UserError(f"the text has no {MASK}; put one where a word is to be guessed")
        row, places = self._tensor(ids)[None], self._tensor(masks)
        logits, _ = self.pretrained(row, torch.zeros_like(row), None, places)
        best = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
        return [
            [Guess(self.tokenizer.tokens[i], p) for i, p in zip(*pair, strict=True)]
            for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def next_sentence(self, first: str, second: str) -> float:
        """The probability that `second` follows `first` in a document.

        Where both are longer than the model reads, the first keeps its end and the second its beginning.

        Raises:
            UserError: if one of them has no word, or the model has no such head.
        """
        self._require("next_sentence", "next-sentence head")
        a, b = self.tokenizer.encode([first, second])
        for name, ids in (("first", a), ("second", b)):
            if len(ids) == 0:
                raise UserError(f"the {name} text has nothing to read; write a word")
        room = self.pretrained.bert.config.max_position_embeddings - 3
        own = max(room // 2, room - len(b))
        a = a[-own:]
        b = b[: room - len(a)]
        edge = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        row = self._tensor(np.concatenate([edge[0], a, edge[1], b, edge[1]]))[None]
        segment = self._tensor(np.repeat([0, 1], [len(a) + 2, len(b) + 1]))[None]
        _, logits = self.pretrained(row, segment, None, self._tensor(np.zeros(1)))
        return float(logits.float().softmax(-1)[0, IS_NEXT])

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], layers: int = 1) -> list[Features]:
        """Vectors of texts and of their tokens, from the pre-trained encoder, unchanged (paper, section 5.3).

        Args:
            texts: each within the model's length.
            layers: how many of the last layers stand side by side in a token's vector; the paper's best had 4.

        Raises:
            UserError: if a text has no word or is too long, or the model has fewer layers.
        """
        bert = self.pretrained.bert
        if not 1 <= layers <= len(bert.blocks):
            raise UserError(f"layers is {layers}, but the model has {len(bert.blocks)} layers; give 1 to that many")
        features = []
        for number, text in enumerate(texts):
            ids = self._framed(text, number, len(texts))
            hidden = hidden_states(bert, self._tensor(ids)[None])
            last = hidden[-1][0]  # (S, H)
            features.append(
                Features(
                    bert.pooler(hidden[-1])[0].cpu().numpy(),
                    last[1:-1].mean(0).cpu().numpy(),
                    [self.tokenizer.tokens[i] for i in ids],
                    torch.cat([state[0] for state in hidden[: -layers - 1 : -1]], dim=-1).cpu().numpy(),
                )
            )
        return features

    @torch.inference_mode()
    def attention(self, text: str, max_tokens: int) -> tuple[list[str], npt.NDArray[np.float32]]:
        """A text's tokens, [CLS] and [SEP] included, and who looks at whom in the pre-trained encoder.

        Args:
            text: of a longer one its beginning is shown.
            max_tokens: the most tokens, if the encoder reads as many.

        Returns:
            The tokens, and the weights as `attention_maps` gives them, float32 (layers, heads, tokens, tokens).

        Raises:
            UserError: if the text has no word.
        """
        bert = self.pretrained.bert
        ids = _readable([text], self.tokenizer, min(max_tokens, bert.config.max_position_embeddings), "head")[0]
        return [self.tokenizer.tokens[i] for i in ids], attention_maps(bert, self._tensor(ids)).cpu().numpy()

    def _framed(self, text: str, number: int = 0, texts: int = 1) -> Ids:
        """[CLS] text [SEP] for the pre-trained encoder. `number` and `texts` say which of how many it is."""
        ids = self.tokenizer.encode([text])[0]
        positions = self.pretrained.bert.config.max_position_embeddings
        if len(ids) == 0:
            raise UnreadableText(number, texts, NOTHING_TO_READ)
        if len(ids) + 2 > positions:
            problem = f"has {len(ids):,} tokens, and the model reads {positions - 2}; shorten it"
            raise UnreadableText(number, texts, problem)
        return np.concatenate([[self.tokenizer.cls_id], ids, [self.tokenizer.sep_id]]).astype(np.int32)

    def _tensor(self, values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self._device)


def _readable(texts: Sequence[str], tokenizer: Tokenizer, max_length: int, truncation: str) -> list[Ids]:
    """`encode_texts`, of texts that each have something to read."""
    encoded = encode_texts(texts, tokenizer, max_length, truncation)
    for number, ids in enumerate(encoded):
        if len(ids) == 2:  # [CLS] and [SEP]
            raise UnreadableText(number, len(texts), NOTHING_TO_READ)
    return encoded


def _on_each_core(
    model: BertForSequenceClassification, encoded: Sequence[Ids], max_length: int, cores: int
) -> npt.NDArray[np.float32]:
    """`predict_probabilities` with a share of the texts on each core, where no product waits for another core's half.

    The shares are alike in their texts' lengths.
    """
    order = np.argsort([-len(ids) for ids in encoded], kind="stable")
    shares = [order[core::cores] for core in range(cores)]
    result = np.zeros((len(encoded), len(model.label_names)), np.float32)
    try:
        with ThreadPoolExecutor(cores, "judge", torch.set_num_threads, (1,)) as pool:
            jobs = [
                pool.submit(predict_probabilities, model, [encoded[i] for i in share], _BATCH_TOKENS, max_length)
                for share in shares
            ]
            for share, job in zip(shares, jobs, strict=True):
                result[share] = job.result()
    finally:
        torch.set_num_threads(cores)  # what a thread sets is also what threads to come start with
    return result


def hidden_states(bert: Bert, input_ids: Tensor) -> list[Tensor]:
    """What each layer makes of unpadded texts in one segment: the embeddings and L blocks, each (B, S, H).

    Args:
        bert: the encoder, in evaluation mode.
        input_ids: int64 (B, S).
    """
    states = [bert.embeddings(input_ids, torch.zeros_like(input_ids))]
    for block in bert.blocks:
        states.append(block(states[-1], None))
    return states


def attention_maps(bert: Bert, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
    """Who looks at whom: the attention weights of every head, (L, A, S, S); each row, one position's looks, sums to 1.

    Args:
        bert: the encoder, in evaluation mode.
        input_ids: one text, int64 (S,).
        token_type_ids: its segments, int64 (S,); None is one segment.
    """
    segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    hidden = bert.embeddings(input_ids[None], segments[None])
    heads, maps = bert.config.num_attention_heads, []
    for block in bert.blocks:
        assert isinstance(block, Block)
        query, key = (
            part(hidden)[0].unflatten(-1, (heads, -1)).transpose(0, 1)  # (A, S, D)
            for part in (block.attention.query, block.attention.key)
        )
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (A, S, S)
        if bert.config.is_decoder:
            scores = scores.masked_fill(~seen_from_left(scores.shape[1], scores.shape[2], scores.device), -torch.inf)
        maps.append(scores.softmax(-1))
        hidden = block(hidden, None)
    return torch.stack(maps)
