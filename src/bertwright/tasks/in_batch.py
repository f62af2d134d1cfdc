"""Losses that compare the examples of a global batch, whatever the size of micro-batches and the number of processes.

All vectors are computed without a graph, the loss of the whole batch gives the gradient of each vector, and a second
pass with the same dropout takes these gradients back to the weights, a micro-batch at a time (Gao et al. 2021, "Scaling
Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright.models.heads import Head, Loss, TaskModel
from bertwright.train.engine import Engine
from bertwright.train.prefetch import Batch
from bertwright.train.training import Objective

NOT_SCORED = -1
"""The place of an example that fills up a batch."""

_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


class BatchObjective(Objective):
    """The model as the loop calls it in both passes."""

    model: TaskModel

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        gradients: Tensor | None = None,
        losses: Tensor | None = None,
    ) -> dict[str, Tensor | Loss]:
        """Vectors in the first pass; in the second a loss whose gradients are those of the whole batch's.

        Args:
            input_ids: int64 (B, S).
            token_type_ids: int64 (B, S).
            attention_mask: bool (B, S).
            gradients: of the summed losses of the global batch with respect to the vectors, float32 (B, H).
            losses: of the micro-batch's examples, (examples,); its value is reported.

        Returns:
            `vectors`, (B, H); or `label`, the loss.
        """
        vectors = self.model(input_ids, token_type_ids, attention_mask)
        if gradients is None or losses is None:
            return {"vectors": vectors}
        product = (vectors.float() * gradients).sum()
        total = product + (losses.sum() - product).detach()
        return {"label": Loss(total, torch.tensor(len(losses), device=total.device))}

    def parts(self) -> list[nn.Module]:
        """The encoder's parts; the pooling has no weights."""
        return self.model.encoder.parts(self.model.head.positions)

    def completed(self, prepared: nn.Module, batches: list[Batch], engine: Engine) -> list[Batch]:
        """The micro-batches with the gradients of their vectors."""
        return with_gradients(prepared, self.model.head, batches, engine)


def with_gradients(objective: nn.Module, head: Head, batches: list[Batch], engine: Engine) -> list[Batch]:
    """Micro-batches with `gradients` and `losses` as `BatchObjective` takes them.

    Args:
        objective: a `BatchObjective`, prepared by the engine.
        head: of its model.
        batches: this process's micro-batches of a global batch, each with `targets` (sequences, ...) and with `places`,
            the numbers of its examples in the global batch, or `NOT_SCORED`.
        engine: the machine.
    """
    inputs = [{name: batch[name].to(engine.device) for name in _INPUTS} for batch in batches]
    with torch.no_grad():
        vectors = torch.cat([objective(**own)["vectors"].float() for own in inputs])  # (own sequences, H)
    targets = torch.cat([batch["targets"] for batch in batches]).to(engine.device)
    places = torch.cat([batch["places"] for batch in batches]).to(engine.device)
    together, scored = len(targets) // len(places), places != NOT_SCORED
    # Each process lays its rows among zeros; the sum over processes is the global batch.
    size = int(engine.sum(scored.sum()))
    own = torch.cat([vectors, targets], dim=1).view(len(places), together, -1)
    whole = own.new_zeros(size, *own.shape[1:])
    whole[places[scored]] = own[scored]
    whole = engine.sum(whole).flatten(0, 1)
    outputs = whole[:, : vectors.shape[1]].clone().requires_grad_()
    losses = head.batch_losses(outputs, whole[:, vectors.shape[1] :])  # (size,)
    (gradients,) = torch.autograd.grad(losses.sum(), outputs)
    # One more row, of zeros, is that of examples that are not scored.
    gradients = torch.cat([gradients.view(size, together, -1), own.new_zeros(1, together, vectors.shape[1])])
    losses = torch.cat([losses.detach(), losses.new_zeros(1)])
    found = []
    for batch, own_inputs in zip(batches, inputs, strict=True):
        rows = batch["places"].to(engine.device) % (size + 1)  # -1 is the last one
        found.append({**own_inputs, "gradients": gradients[rows].flatten(0, 1), "losses": losses[rows]})
    return found
