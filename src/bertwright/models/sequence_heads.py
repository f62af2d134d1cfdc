"""The heads on a pooled vector beside the classifier: one number, and any number of labels.

Letters in the shapes are those of `heads.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertwright.models.heads import Loss, SequenceHead, TaskModel


class RegressionHead(SequenceHead):
    """One number for a sequence, from the pooled vector (paper, section 4.1, STS-B).

    The last layer computes in units of the training labels' deviation, from their mean on, so that numbers of any size
    are trained at the same rate. `folded` makes it compute the numbers themselves, as other tools expect it.

    Args:
        hidden_size: width H.
        dropout: on the pooled vector.
        causal: whether the encoder is causal.
        mean: of the labels.
        deviation: of the labels, above 0.
        pooler: as in `SequenceHead`.
    """

    settings = MappingProxyType({"problem_type": "regression"})

    def __init__(
        self,
        hidden_size: int,
        dropout: float,
        causal: bool = False,
        mean: float = 0.0,
        deviation: float = 1.0,
        pooler: nn.Module | None = None,
    ) -> None:
        super().__init__(hidden_size, 1, dropout, causal, pooler)
        self.mean = mean
        self.deviation = deviation

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (B, S, H) to numbers (B, 1)."""
        pooled = self.dropout(self.pooled(hidden, attention_mask)).float()
        layer = self.classifier
        with torch.autocast(pooled.device.type, enabled=False):  # bfloat16 has no number between 2000 and 2008
            found = F.linear(pooled, layer.weight.float(), layer.bias.float())
        return self.mean + self.deviation * found

    def folded(self, name: str, value: Tensor) -> Tensor:
        """A parameter of the same head with mean 0 and deviation 1.

        Args:
            name: of the parameter.
            value: its value here.
        """
        if not name.startswith("classifier."):
            return value
        return value * self.deviation + (self.mean if name == "classifier.bias" else 0.0)

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """The squared error in units of the deviation; targets (B, 2) are 1 and the number."""
        scored, numbers = targets.unbind(-1)
        errors = (logits.float().squeeze(-1) - numbers) / self.deviation
        return Loss((scored * errors**2).sum(), self.scored(targets))

    def scored(self, targets: Tensor) -> Tensor:
        """Rows whose first column is not 0."""
        return (targets[:, 0] > 0).sum()


class MultiLabelHead(SequenceHead):
    """The log-odds of each of K labels, of which a sequence may have any number.

    The last layer computes what it adds to the log-odds of each label's frequency. From zero, all labels are far too
    probable at first, and an encoder unlearns what tells texts apart while it makes them rare (Lin et al. 2017, "Focal
    Loss for Dense Object Detection", section 4.1). `folded` puts them into the bias, as other tools expect it.

    Args:
        hidden_size: width H.
        outputs: number of labels K.
        dropout: on the pooled vector.
        causal: whether the encoder is causal.
        log_odds: of each label's frequency, K numbers; zeros by default.
        pooler: as in `SequenceHead`.
    """

    settings = MappingProxyType({"problem_type": "multi_label_classification"})

    def __init__(
        self,
        hidden_size: int,
        outputs: int,
        dropout: float,
        causal: bool = False,
        log_odds: Sequence[float] = (),
        pooler: nn.Module | None = None,
    ) -> None:
        super().__init__(hidden_size, outputs, dropout, causal, pooler)
        self.log_odds: Tensor
        self.register_buffer("log_odds", torch.tensor(log_odds or [0.0] * outputs), persistent=False)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (B, S, H) to log-odds (B, K)."""
        return super().forward(hidden, attention_mask) + self.log_odds

    def folded(self, name: str, value: Tensor) -> Tensor:
        """A parameter of the same head without log-odds of its own.

        Args:
            name: of the parameter.
            value: its value here.
        """
        return value + self.log_odds.to(value) if name == "classifier.bias" else value

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """The mean over labels of the binary cross-entropy; targets (B, K) are 1 and -1, and 0 in rows not scored."""
        scored = (targets != 0).float()
        each = F.binary_cross_entropy_with_logits(logits.float(), (targets > 0).float(), scored, reduction="none")
        return Loss(each.mean(-1).sum(), self.scored(targets))

    def scored(self, targets: Tensor) -> Tensor:
        """Rows that are not all 0."""
        return (targets != 0).any(-1).sum()


def stored_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a model as they are written, by name: with what its head adds to its last layer in that."""
    head = model.head if isinstance(model, TaskModel) else None
    for name, value in model.named_parameters():
        own = name.removeprefix("head.")
        yield (
            name,
            head.folded(own, value) if isinstance(head, RegressionHead | MultiLabelHead) and own != name else value,
        )
