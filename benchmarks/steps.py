"""One training step, ours and Hugging Face's, as the speed benchmarks time it: forward, backward, clipping, AdamW."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bertwright.recipe import OptimizerConfig
from bertwright.train.engine import Engine
from bertwright.train.loop import LoopConfig, gradients, update
from bertwright.train.optim import make_optimizers
from bertwright.train.prefetch import Prefetcher
from bertwright.train.training import Training
from racing import DEVICE, Step


def our_step(job: Training, config: OptimizerConfig, engine: Engine) -> Step:
    """The training loop's step, which also builds its batches, cuts them, and reads the loss back."""
    model = job.model.to(engine.device)
    optimizers = make_optimizers(model, model.encoder.matrices(), config)
    objective = engine.prepare(job.objective, job.objective.parts()).train()
    loop = LoopConfig(config, 0, 1, None, 1, 1, 1)
    prefetcher = Prefetcher(job, engine)

    def step(number: int) -> float:
        metrics = gradients(job, objective, loop, engine, number, prefetcher.take(0, number)[0])
        update(optimizers, engine)
        return metrics["loss"]

    return step


def transformers_step(
    model: nn.Module,
    batch: Callable[[int], dict[str, Tensor]],
    config: OptimizerConfig,
    *,
    bf16: bool,
    compiled: bool,
    dynamic: bool | None = None,
) -> Step:
    """A plain step of a model of transformers, on whole batches that are built once, in the warm-up.

    Args:
        model: in float32; its output has a loss.
        batch: a numbered batch, labels included.
        config: of AdamW, with the same parameters decayed as in ours.
        bf16: whether autocast is on.
        compiled: whether torch.compile is used.
        dynamic: the compiler's option: shapes stay open from the first call.
    """
    model.to(DEVICE).train()
    (optimizer,) = make_optimizers(model, [], config)
    torch._inductor.config.fallback_random = True
    called = torch.compile(model, dynamic=dynamic) if compiled else model
    batches: dict[int, dict[str, Tensor]] = {}

    def step(number: int) -> Tensor:
        if number not in batches:
            built = {name: value.to(DEVICE) for name, value in batch(number).items()}
            batches[number] = {**built, "attention_mask": built["attention_mask"].long()}
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = called(**batches[number]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step
