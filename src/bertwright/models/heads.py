"""The heads on the encoder: masked language model, next sentence and classifier, each with its loss.

Losses are sums over the scored items. The training loop divides by the count over the whole global batch, so that
gradient accumulation and several processes change nothing.

Letters in the shapes: B sequences in the batch, S positions in a sequence, H hidden size, V vocabulary size, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertwright.inputs.masking import IGNORED_LABEL
from bertwright.models.dropout import Dropout
from bertwright.models.encoder import Encoder
from bertwright.models.initialization import initialize


class Loss(NamedTuple):
    """The loss of a batch as sums, to be divided once over the global batch.

    Args:
        total: sum of the losses of the scored items, in nats; float32 scalar.
        count: number of scored items; scalar.
        correct: number of right predictions, where that means something; int64 scalar.
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # a tuple has a method of that name, of no use here
    correct: Tensor | None = None


def cross_entropy(logits: Tensor, labels: Tensor) -> Loss:
    """Cross-entropy of `logits` (..., K) against `labels` (...), leaving out `IGNORED_LABEL`.

    An item is right where no other class has a logit as high as its label's: counting them is vectorised, unlike the
    search for the highest.
    """
    logits = logits.flatten(0, -2).float()  # in float32 whatever the autocast says: a sum of exponentials needs it
    labels = labels.flatten()
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="sum")
    scored = labels != IGNORED_LABEL
    own = logits.gather(1, labels.where(scored, 0)[:, None])  # (N, 1)
    as_high = (logits >= own).float().sum(1)  # its own among them
    return Loss(total, scored.sum(), ((as_high == 1) & scored).sum())


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Loss:
    """Cross-entropy of `logits` (..., K) against probabilities `targets` (..., K); a row of zeros is not scored."""
    logits = logits.float()
    scored = targets.sum(-1) > 0
    total = -(targets * logits.log_softmax(-1)).sum()
    return Loss(total, scored.sum(), ((logits.argmax(-1) == targets.argmax(-1)) & scored).sum())


class Pooler(nn.Module):
    """A summary of the sequence: the vector at [CLS] through a linear map and tanh (paper, section 3, C).

    Args:
        hidden_size: width H.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map (B, S, H) to (B, H); [CLS] is never padding."""
        return torch.tanh(self.dense(hidden[:, 0]))


class MaskedLanguageModelHead(nn.Module):
    """Predict the token at a position: a transform, then a product with all token embeddings (paper, section 3.1, 1).

    The output matrix is the token embedding itself ("tied"); only a bias per token is new.

    Args:
        hidden_size: width H.
        vocab_size: number of tokens V.
        layer_norm_eps: the constant inside layer normalisation.
        biases: whether the transform has biases, as in BERT.

    Attributes:
        decoder: an output matrix of its own, without bias, in some models of others; None, as in all of ours, is tied.
    """

    def __init__(self, hidden_size: int, vocab_size: int, layer_norm_eps: float, biases: bool = True) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias=biases)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps, bias=biases)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.decoder: nn.Linear | None = None

    def forward(self, hidden: Tensor, token_embeddings: Tensor) -> Tensor:
        """Map (..., H) to logits (..., V), given the token embeddings (V, H)."""
        transformed = self.norm(F.gelu(self.dense(hidden)))
        return F.linear(transformed, token_embeddings if self.decoder is None else self.decoder.weight, self.bias)


class PretrainingModel(nn.Module):
    """An encoder with both pre-training heads; one without segments has no head for next sentences, and no pooler.

    On a causal encoder the first head predicts the next token, in place of a masked one.

    Args:
        encoder: freshly made; all weights are drawn here.
        draw: whether they are; a folder's take their place.

    Attributes:
        absent: masked_language_model, next_sentence and pooler, as far as the folder lacked them that the model was
            read from: their weights are random, and are not to answer.
        fresh: those of them that were absent when its pre-training began to be continued.
    """

    kind = "pretraining"

    def __init__(self, encoder: Encoder, draw: bool = True) -> None:
        super().__init__()
        config = encoder.config
        pairs = encoder.has_segments
        self.absent: frozenset[str] = frozenset() if pairs else frozenset({"next_sentence", "pooler"})
        self.fresh: frozenset[str] = frozenset()
        self.encoder = encoder
        self.pooler = Pooler(config.hidden_size) if pairs else None
        self.masked_language_model = MaskedLanguageModelHead(
            config.hidden_size, encoder.vocab_size, config.layer_norm_eps, encoder.has_biases
        )
        self.next_sentence = nn.Linear(config.hidden_size, 2) if pairs else None
        if draw:
            initialize(self, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        masked_positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of both objectives.

        Args:
            input_ids: int64 (B, S).
            token_type_ids: int64 (B, S).
            attention_mask: (B, S), 1 at real tokens; None says that there is no padding.
            masked_positions: int64 (M,), indices into the flattened (B * S) positions. Only scored positions pay: the
                vocabulary projection is the widest matrix of a small BERT, and five of six positions have no label.
                None gives logits at every position.

        Returns:
            MLM logits, (M, V) or (B, S, V), and NSP logits (B, 2), where class 0 says "B follows A"; None without that
            head.
        """
        hidden = self.encoder(input_ids, token_type_ids, attention_mask)  # (B, S, H)
        chosen = hidden if masked_positions is None else hidden.flatten(0, 1)[masked_positions]  # (M, H)
        mlm_logits = self.masked_language_model(chosen, self.encoder.token_embeddings.weight)
        if self.next_sentence is None or self.pooler is None:
            return mlm_logits, None
        return mlm_logits, self.next_sentence(self.pooler(hidden))  # (B, 2)


def last_vector(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The vector of each sequence's last real token, the only one that attends to all of it in a causal model.

    Args:
        hidden: (B, S, H).
        attention_mask: (B, S), 1 at real tokens; None says that there is no padding.

    Returns:
        (B, 1, H).
    """
    if attention_mask is None:
        return hidden[:, -1:]
    last = attention_mask.long().sum(1) - 1  # (B,)
    return hidden[torch.arange(len(hidden), device=hidden.device), last][:, None]


class Head(nn.Module):
    """A task's layers on the encoder's vectors; a task makes one, and `TaskModel` puts it on the encoder.

    Attributes:
        kind: which of Hugging Face's model classes has the same layers: sequence, token, span, choice.
        positions: how many of the encoder's positions, from the first, the head reads; None for all.
        settings: what a config.json says of the outputs, where the class of models leaves their meaning open.
        same_outputs: whether its outputs mean the same in every model, whatever they are called.
        in_batch: whether its loss compares the examples of a global batch with each other; it then has `batch_losses`.
    """

    kind = "sequence"
    positions: int | None = None
    settings: Mapping[str, str] = MappingProxyType({})
    same_outputs = False
    in_batch = False

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """The loss of a batch's logits.

        Args:
            logits: as `forward` gives them, (B, ...).
            targets: as the task makes them from labels, (B, ...); a row of zeros is not scored.
        """
        return soft_cross_entropy(logits, targets)

    def scored(self, targets: Tensor) -> Tensor:
        """How many items of a batch's targets the loss is over, int64 scalar."""
        return (targets.sum(-1) > 0).sum()

    def batch_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example of a global batch, float32 (N,), of a head that compares them.

        Args:
            outputs: of all sequences, as `forward` gives them, (N * sequences of an example, ...).
            targets: theirs, as many.
        """
        raise NotImplementedError


class SequenceHead(Head):
    """A classifier on the pooled [CLS] vector (paper, section 4.1).

    A causal model's [CLS] attends to nothing else: there the pooler reads the last real token, the closing [SEP].

    Args:
        hidden_size: width H.
        outputs: number of classes K.
        dropout: on the pooled vector.
        causal: whether the encoder is causal.
        pooler: that of an architecture that has its own (`Encoder.pooler`); None is BERT's.
    """

    def __init__(
        self, hidden_size: int, outputs: int, dropout: float, causal: bool = False, pooler: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.causal = causal
        self.positions = None if causal else getattr(pooler, "positions", 1)
        self.pooler = Pooler(hidden_size) if pooler is None else pooler
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, outputs)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (B, S, H) to logits (B, K)."""
        logits: Tensor = self.classifier(self.dropout(self.pooled(hidden, attention_mask)))
        return logits

    def pooled(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The vector of the whole sequence, (B, H)."""
        vector: Tensor = self.pooler(last_vector(hidden, attention_mask) if self.causal else hidden, attention_mask)
        return vector


class TokenHead(Head):
    """A classifier on the vector of every token (paper, section 5.3).

    Args:
        hidden_size: width H.
        outputs: number of classes K.
        dropout: on the vectors.
        transform: the layers below of an architecture that has some (`Encoder.transform`).
    """

    kind = "token"

    def __init__(self, hidden_size: int, outputs: int, dropout: float, transform: nn.Module | None = None) -> None:
        super().__init__()
        self.transform = transform or nn.Identity()
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, outputs)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (B, S, H) to logits (B, S, K)."""
        logits: Tensor = self.classifier(self.dropout(self.transform(hidden)))
        return logits


class TaskModel(nn.Module):
    """An encoder with a task's head.

    Args:
        encoder: freshly made, as the head; all weights are drawn here.
        head: the task's.
        label_names: names of the K classes, in the order of their numbers.
        task: the task's name.
        draw: whether weights are drawn; not where those of a folder take their place.

    Attributes:
        notes: what else the task wants to know of the model, by name, as config.json holds it.
    """

    def __init__(self, encoder: Encoder, head: Head, label_names: list[str], task: str, draw: bool = True) -> None:
        super().__init__()
        self.notes: dict[str, Any] = {}
        self.encoder = encoder
        self.head = head
        self.label_names = label_names
        self.task = task
        self.kind = head.kind
        if draw:
            initialize(self, encoder.config.initializer_range)

    @property
    def device(self) -> torch.device:
        """Where the weights are; a walk over all parameters would take a twentieth of a short text's time."""
        return self.encoder.token_embeddings.weight.device

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """The head's logits for a batch.

        Args:
            input_ids: int64 (B, S).
            token_type_ids: int64 (B, S).
            attention_mask: (B, S), 1 at real tokens; None says that there is no padding.
            inputs_embeds: vectors in place of the token embeddings, float (B, S, H).

        Returns:
            (B, K), or what the task's head gives.
        """
        hidden = self.encoder(input_ids, token_type_ids, attention_mask, self.head.positions, inputs_embeds)
        logits: Tensor = self.head(hidden, attention_mask)
        return logits
