"""Levers that no recipe can name, for benchmarks/levers.py: variants of the network, the optimizer, the objective.

Each stands for one published idea, named where it is defined. Those of the network are registered as architectures; the
others are blocks in which a part of the package is replaced.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertwright.inputs import masking
from bertwright.inputs.masking import IGNORED_LABEL
from bertwright.models.bert import Bert, Block, attend, heads_of
from bertwright.models.heads import Loss, PretrainingModel, cross_entropy
from bertwright.models.initialization import initialize_local_attention
from bertwright.settings import ModelConfig
from bertwright.tasks import pretraining
from bertwright.train import optim
from varied_attention import VariedSelfAttention

# The network


class NormedSelfAttention(VariedSelfAttention):
    """Queries and keys of each head have a root mean square of one, times a learnt scale (Henry et al. 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.hidden_size // config.num_attention_heads
        self.query_norm, self.key_norm = nn.RMSNorm(width), nn.RMSNorm(width)

    def changed(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """As BERT's, normalised."""
        return self.query_norm(query.float()).to(query.dtype), self.key_norm(key.float()).to(key.dtype)


class NormedBert(Bert):
    """BERT with normalised queries and keys."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        for block in self.blocks:
            block.attention = NormedSelfAttention(config)


class MixedBlock(Block):
    """Half of a layer's values are those of the first layer, by a weight that is learnt (Zhou et al. 2024)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.own = nn.Parameter(torch.tensor(0.5))

    def mixed(
        self, hidden: Tensor, mask: Tensor | None, positions: int | None, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, S, H) to (B, P, H), given the first layer's values (B, A, S, D); returns the first layer's, too."""
        attention = self.attention
        query, key, value = heads_of(F.linear(hidden, *attention.projection()), attention.num_heads)
        first = value if first is None else first
        value = self.own * value + (1 - self.own) * first
        dropout_prob = attention.dropout.p if self.training else 0.0
        context = attend(query[:, :, :positions], key, value.to(query.dtype), mask, dropout_prob)
        attended = attention.output(context.transpose(1, 2).flatten(2))
        hidden = self.attention_norm(hidden[:, :positions] + self.dropout(attended))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden))), first


class ValueResiduals(Bert):
    """BERT whose layers add the first one's values to their own."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        self.blocks = nn.ModuleList(MixedBlock(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: int | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """As BERT's."""
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        hidden, first = self.embeddings(input_ids, token_type_ids, inputs_embeds), None
        for number, block in enumerate(self.blocks, 1):
            hidden, first = block.mixed(hidden, mask, positions if number == len(self.blocks) else None, first)
        return hidden


VARIANTS: dict[str, type[Bert]] = {"bert-normed": NormedBert, "bert-value-residuals": ValueResiduals}


@contextmanager
def zero_outputs() -> Iterator[None]:
    """What attention and feed-forward parts add is zero at first (Zhang et al. 2019, Fixup; Jordan 2024)."""
    made = pretraining.first_model

    def first_model(*arguments: Any) -> PretrainingModel:
        model = made(*arguments)
        for block in model.encoder.blocks:
            for part in (block.attention.output, block.feed_forward.contract):
                nn.init.zeros_(part.weight)
        return model

    with patch.object(pretraining, "first_model", first_model):
        yield


# The optimizer


class NorMuon(optim.Muon):
    """Muon whose orthogonal updates have the same size in every row, by a running mean (Li et al. 2025)."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move each matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                    state["row_squares"] = matrix.new_zeros(len(matrix), 1)
                mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - optim.MOMENTUM)
                move = optim.orthogonal(matrix.grad.lerp(mean, optim.MOMENTUM)[None])[0].float()
                squares = state["row_squares"].lerp_(move.square().mean(1, keepdim=True), 1 - optim.MOMENTUM)
                size = move.norm()
                move = move / (squares.sqrt() + 1e-8)
                move *= size / move.norm()
                scale = 0.2 * math.sqrt(max(matrix.shape))
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(move, alpha=-group["lr"] * scale)


# The objective


class CountingObjective(pretraining.PretrainingObjective):
    """Counts for each entry of the vocabulary how often it was to be predicted, and how often wrongly."""

    def __init__(self, model: PretrainingModel, next_sentence: bool) -> None:
        super().__init__(model, next_sentence)
        for name in ("seen", "wrong"):
            self.register_buffer(name, torch.ones(model.encoder.vocab_size))

    def forward(self, labels: Tensor, next_sentence_label: Tensor, **inputs: Tensor) -> dict[str, Loss]:
        """As in the package."""
        token_logits, nsp_logits = self.model(**inputs)
        if self.training:
            with torch.no_grad():
                scored = labels != IGNORED_LABEL
                entries = labels.where(scored, 0)
                # As in the package's loss: an arg-max over the vocabulary would take far longer.
                as_high = (token_logits >= token_logits.gather(1, entries[:, None])).float().sum(1)
                wrong = scored & (as_high != 1)
                self.seen.index_add_(0, entries, scored.float())
                self.wrong.index_add_(0, entries, wrong.float())
        losses = {"mlm": cross_entropy(token_logits, labels)}
        return losses | ({"nsp": cross_entropy(nsp_logits, next_sentence_label)} if self.uses_next_sentence else {})


RENEWED_EVERY = 20
"""Batches between two looks at which entries are predicted wrongly."""


@contextmanager
def error_weighted_masks() -> Iterator[None]:
    """Entries that are predicted wrongly are masked more often (Edman and Fraser 2025, adaptive masks).

    The weights are renewed while a batch is computed, in the thread that builds the next one: runs are alike, and not
    equal.
    """
    build, plain = pretraining.Pretraining.micro_batches, masking._choose
    # Weights while this thread builds a batch to train on; in another, held-out text is masked, by all rows alike.
    own = threading.local()
    known: dict[str, np.ndarray] = {}

    def micro_batches(self: pretraining.Pretraining, phase: int, number: int, rank: int, world: int) -> Any:
        if number % RENEWED_EVERY == 0:
            objective = self.objective
            assert isinstance(objective, CountingObjective)
            known["weights"] = (objective.wrong / objective.seen).clamp(min=0.1).cpu().numpy()
        own.weights = known["weights"]
        try:
            return build(self, phase, number, rank, world)
        finally:
            del own.weights

    def choose(input_ids: Any, maskable: Any, config: Any, vocabulary: Any, rng: np.random.Generator) -> Any:
        if not hasattr(own, "weights"):
            return plain(input_ids, maskable, config, vocabulary, rng)
        # The smallest of exponential numbers, each divided by its weight: draws by weight, without replacement.
        key = np.where(maskable, rng.exponential(size=input_ids.shape) / own.weights[input_ids], np.inf)
        number = maskable.sum(1)
        quota = np.where(number > 0, np.maximum(np.rint(config.rate * number), 1), 0)[:, None]
        return (key.argsort(1).argsort(1) < quota) & maskable

    with ExitStack() as patches:
        patches.enter_context(patch.object(pretraining, "PretrainingObjective", CountingObjective))
        patches.enter_context(patch.object(pretraining.Pretraining, "micro_batches", micro_batches))
        patches.enter_context(patch.object(masking, "_choose", choose))
        yield


def drawn_from(logits: Tensor) -> Tensor:
    """An entry of each row, drawn by its probability: int64 (M,), of logits (M, V); one random number a row."""
    sums = logits.float().softmax(-1).cumsum(-1)
    drawn = torch.rand(len(logits), 1, device=logits.device) * sums[:, -1:]
    return torch.searchsorted(sums, drawn, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


class DetectingObjective(pretraining.PretrainingObjective):
    """A small generator fills the masks, and the encoder tells which tokens were replaced (Clark et al. 2020, ELECTRA).

    The generator has one layer, the encoder's width and token embeddings, a quarter of its feed-forward width, and
    imdb-mini's initialization: its heads attend to neighbours. The masked-token loss is the generator's; the encoder's
    counts fifty times as much, as there.
    """

    def __init__(self, model: PretrainingModel, next_sentence: bool) -> None:
        super().__init__(model, next_sentence)
        config = model.encoder.config
        small = replace(config, num_hidden_layers=1, intermediate_size=config.intermediate_size // 4)
        model.generator = PretrainingModel(Bert(small, model.encoder.vocab_size, model.encoder.pad_token_id)).encoder
        initialize_local_attention(model.generator)
        model.generator.embeddings.token = model.encoder.embeddings.token
        own = model.encoder.matrices
        model.encoder.matrices = lambda: [*own(), *model.generator.matrices()]  # Muon trains those of both
        model.detector = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, 1)
        )

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        masked_positions: Tensor,
        labels: Tensor,
        next_sentence_label: Tensor,
    ) -> dict[str, Loss]:
        """As in the package, with a further loss."""
        model = self.model
        guessed = model.generator(input_ids, token_type_ids, attention_mask).flatten(0, 1)[masked_positions]
        logits = model.masked_language_model(guessed, model.encoder.token_embeddings.weight)
        losses = {"mlm": cross_entropy(logits, labels)}
        scored = labels != IGNORED_LABEL
        with torch.no_grad():
            drawn = drawn_from(logits)
            own = input_ids.flatten()[masked_positions]
            replaced = torch.zeros(input_ids.numel(), device=input_ids.device)
            replaced = replaced.index_put((masked_positions,), (scored & (drawn != labels)).float())
            filled = input_ids.flatten().index_put((masked_positions,), torch.where(scored, drawn, own))
        hidden = model.encoder(filled.view_as(input_ids), token_type_ids, attention_mask)
        found = model.detector(hidden).flatten().float()
        real = attention_mask.flatten()
        each = F.binary_cross_entropy_with_logits(found, replaced, reduction="none")
        right = ((found > 0) == (replaced > 0.5)) & real
        losses["rtd"] = Loss(50 * (each * real).sum(), real.sum(), right.sum())
        if self.uses_next_sentence:
            losses["nsp"] = cross_entropy(model.next_sentence(model.pooler(hidden)), next_sentence_label)
        return losses


@contextmanager
def replaced_tokens() -> Iterator[None]:
    """Pre-train by detecting replaced tokens."""
    count, save = pretraining.Pretraining.counts, pretraining.save_model

    def counts(self: pretraining.Pretraining, batch: Any) -> dict[str, int]:
        found = count(self, batch)
        return {**found, "rtd": found["tokens"]}

    def save_model(model: PretrainingModel, *arguments: Any, **options: Any) -> None:
        del model.generator, model.detector
        save(model, *arguments, **options)

    with ExitStack() as patches:
        patches.enter_context(patch.object(pretraining, "PretrainingObjective", DetectingObjective))
        patches.enter_context(patch.object(pretraining.Pretraining, "counts", counts))
        patches.enter_context(patch.object(pretraining, "save_model", save_model))
        yield
