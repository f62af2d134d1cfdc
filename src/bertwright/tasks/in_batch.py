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

_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


class BatchObjective(nn.Module):
    """The model as the loop calls it in both passes.

    Args:
        model: the model.
    """

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

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


def with_gradients(objective: nn.Module, head: Head, batches: list[Batch], engine: Engine) -> list[Batch]:
    """Micro-batches with `gradients` and `losses` as `BatchObjective` takes them.

    Args:
        objective: a `BatchObjective`, prepared by the engine.
        head: of its model.
        batches: this process's micro-batches of a global batch, each with `targets` (sequences, ...) and with `places`,
            the numbers of its examples in the global batch; a batch whose targets are 0 is not scored.
        engine: the machine.
    """
    inputs = [{name: batch[name].to(engine.device) for name in _INPUTS} for batch in batches]
    with torch.no_grad():
        vectors = torch.cat([objective(**own)["vectors"].float() for own in inputs])  # (own sequences, H)
    targets = torch.cat([batch["targets"] for batch in batches]).to(engine.device)
    places = torch.cat([batch["places"] for batch in batches]).to(engine.device)
    together = len(targets) // len(places)
    scored = int(head.scored(targets)) > 0
    # Each process lays its rows among zeros; the sum over processes is the global batch.
    size = int(engine.sum(torch.tensor(len(places) if scored else 0)))
    own = torch.cat([vectors, targets], dim=1).view(len(places), together, -1)
    whole = own.new_zeros(size, *own.shape[1:])
    if scored:
        whole[places] = own
    whole = engine.sum(whole).flatten(0, 1)
    outputs = whole[:, : vectors.shape[1]].clone().requires_grad_()
    losses = head.batch_losses(outputs, whole[:, vectors.shape[1] :])  # (size,)
    (gradients,) = torch.autograd.grad(losses.sum(), outputs)
    gradients, losses = gradients.view(size, together, -1), losses.detach()
    found = []
    for batch, own_inputs in zip(batches, inputs, strict=True):
        rows = batch["places"].to(engine.device)
        gradient = gradients[rows].flatten(0, 1) * float(scored)
        found.append({**own_inputs, "gradients": gradient, "losses": losses[rows] * float(scored)})
    return found
