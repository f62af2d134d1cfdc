"""What sits on the encoder: the two pre-training heads and the classifier, each with its own loss.

Losses are sums over what was scored. The training loop divides by the count over the whole global batch, so that
gradient accumulation and several processes change nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertwright.config import ModelConfig
from bertwright.model.bert import Bert, Dropout, initialize
from bertwright.objectives.batches import IGNORED_LABEL


def score(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `logits` (..., C) against `labels` (...), leaving out `IGNORED_LABEL`.

    Returns:
        The sum of the cross-entropies in nats, float32, and the number of right guesses, int64; both scalars.
    """
    logits = logits.flatten(0, -2).float()  # in float32 whatever the autocast says: a sum of exponentials needs it
    labels = labels.flatten()
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="sum")
    correct = ((logits.argmax(-1) == labels) & (labels != IGNORED_LABEL)).sum()
    return loss, correct


class MaskedLanguageModelHead(nn.Module):
    """Guess the token at a position: transform, then compare with every token embedding (paper, section 3.1, task 1).

    The output matrix is the token embedding itself ("tied"); only a bias per token is new.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, token_embeddings: Tensor) -> Tensor:
        """Map (..., H) to logits (..., V), given the token embeddings (V, H)."""
        transformed = self.norm(F.gelu(self.dense(hidden)))
        return F.linear(transformed, token_embeddings, self.bias)


class BertForPreTraining(nn.Module):
    """The encoder with both pre-training heads.

    In a left-to-right model (`is_decoder`) the first head guesses the next token, in place of a masked one.

    Args:
        config: the shape of the network.
        vocab_size: number of entries V of the vocabulary.
        pad_token_id: id of [PAD].
    """

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__()
        self.bert = Bert(config, vocab_size, pad_token_id)
        self.masked_language_model = MaskedLanguageModelHead(config, vocab_size)
        self.next_sentence = nn.Linear(config.hidden_size, 2)
        initialize(self, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        masked_positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of both objectives.

        Args:
            input_ids: int64 (B, S).
            token_type_ids: int64 (B, S).
            attention_mask: (B, S), 1 at real tokens; None says that there is no padding.
            masked_positions: int64 (M,), indices into the flattened (B * S) positions. Only scored positions pay: the
                vocabulary projection is the widest matrix of a small BERT, and five of six positions have no label.
                None gives logits at every position.

        Returns:
            MLM logits, (M, V) or (B, S, V), and NSP logits (B, 2), where class 0 says "B follows A".
        """
        hidden = self.bert(input_ids, token_type_ids, attention_mask)  # (B, S, H)
        chosen = hidden if masked_positions is None else hidden.flatten(0, 1)[masked_positions]  # (M, H)
        mlm_logits = self.masked_language_model(chosen, self.bert.embeddings.token.weight)
        nsp_logits = self.next_sentence(self.bert.pooler(hidden))  # (B, 2)
        return mlm_logits, nsp_logits


def start_counted(model: BertForPreTraining, vectors: npt.NDArray[np.float32], shares: npt.NDArray[np.float32]) -> None:
    """First token embeddings from counts, in place of random ones; only first weights change.

    A token that never stands near another keeps its random embedding. The output bias says how frequent each token is,
    so that embeddings need not: a bias that starts at zero moves by no more than the learning rate in a step.

    Args:
        model: freshly initialised. Changed in place.
        vectors: a unit vector per token, float32 (V, H).
        shares: of the text, float32 (V,).
    """
    width = vectors.shape[1]
    embedding = model.bert.embeddings.token.weight
    with torch.no_grad():
        counted = torch.from_numpy(vectors.any(1))
        scale = model.bert.config.initializer_range * width**0.5  # as long as random ones are
        embedding[counted] = scale * torch.from_numpy(vectors)[counted]
        logs = torch.from_numpy(shares).log()
        model.masked_language_model.bias.copy_(logs - logs.mean())


def last_vector(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The vector of each sequence's last real token, which alone has seen all of it if the model reads left to right.

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


class BertForSequenceClassification(nn.Module):
    """The encoder with a classifier on the pooled [CLS] vector (paper, section 4.1).

    A left-to-right model's [CLS] has seen nothing: there the pooler reads the last real token, the closing [SEP].

    Args:
        config: the shape of the network.
        vocab_size: number of entries V of the vocabulary.
        label_names: names of the K classes, in the order of their numbers.
        classifier_dropout: dropout on the pooled vector.
        pad_token_id: id of [PAD].
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        label_names: list[str],
        classifier_dropout: float,
        pad_token_id: int = 0,
    ) -> None:
        super().__init__()
        self.label_names = label_names
        self.bert = Bert(config, vocab_size, pad_token_id)
        self.dropout = Dropout(classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, len(label_names))
        initialize(self, config.initializer_range)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (B, K) of a batch (B, S)."""
        if self.bert.config.is_decoder:
            chosen = last_vector(self.bert(input_ids, token_type_ids, attention_mask), attention_mask)  # (B, 1, H)
        else:
            chosen = self.bert(input_ids, token_type_ids, attention_mask, positions=1)  # (B, 1, H)
        logits: Tensor = self.classifier(self.dropout(self.bert.pooler(chosen)))
        return logits
