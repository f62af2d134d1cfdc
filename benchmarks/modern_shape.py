"""What each of ModernBERT's differences from BERT does for a short pre-training, one at a time.

    texts=(--books '/path/books-0[0-2].jsonl.xz' --imdb /path/imdb)
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/modern_shape.py "${texts[@]}" --seeds '[0]' &
    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/modern_shape.py "${texts[@]}" --seeds '[1]' &

Run `--rows '[BERT]' --seeds '[0]'` first. If its loss remains above 5.5, BERT has not left the plateau on which it
predicts by the frequencies of words alone, and no difference of shape would show: raise `--steps`, and give an `--out`.

A row is BERT-mini with one difference: normalisation before each part (pre-norm), rotary positions, gated units with as
many weights, no biases, attention to neighbours in two of three layers. The last row has all five, and is the package's
own ModernBERT. Everything else is the same in all rows: texts, vocabulary, masks, no segments, no dropout, and Muon, as
in `recipes/speedrun/modern.yaml`, but sequences of `LENGTH` tokens. Each row reads the same number of tokens with each
seed, and a seed's initial weights are BERT's up to the first part that a row has otherwise: all of them but for rotary
positions, gated units and ModernBERT.

The variants stand here and not in the package, whose two architectures are textbooks and have no such options. The
result is written after each run, and what it has is not done again: the same command resumes after an interruption.
`results/modern/README.md` shows the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor, nn

import bertwright
from bertwright.evaluate.significance import mean_and_spread
from bertwright.models.bert import Bert, Block, SelfAttention
from bertwright.models.layouts import FORMATS
from bertwright.models.local_attention import attend_nearby
from bertwright.models.modernbert import rotate, rotation
from bertwright.recipe import Recipe, to_dict
from bertwright.settings import ModelConfig
from common import (
    Json,
    begin_with,
    described,
    differences,
    last_evaluation,
    markdown,
    measure_rows,
    prepare_once,
    read_lines,
    register,
    settings_of,
)
from varied_attention import VariedSelfAttention

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "modern"

SHAPE = ModelConfig(architecture="modernbert")
"""For what ModernBERT sets beside width and depth: the window, and how many layers are global."""

LENGTH = 128
"""Tokens of a sequence. With the paper's initialization, the only one that all rows can have, longer ones stay on the
plateau of word frequencies: held-out loss 6.1 with 256 tokens after 3.8 million tokens, and 4.8 with 128
(docs/experiments/batches-and-lengths.md). A row reads 5.5 million."""

ROWS = {
    "BERT": "bert",
    "pre-norm": "bert-pre-norm",
    "rotary positions": "bert-rotary",
    "gated units": "bert-gated",
    "no biases": "bert-without-biases",
    "local attention": "bert-local",
    "all five: ModernBERT": "modernbert",
}
"""The rows, with the architecture of each."""


class PreNormBlock(Block):
    """Normalisation before attention and feed-forward, in place of after the sums."""

    def forward(self, hidden: Tensor, mask: Tensor | None, positions: int | None = None) -> Tensor:
        """As BERT's."""
        attended = self.attention(self.attention_norm(hidden), mask, positions)
        hidden = hidden[:, :positions] + self.dropout(attended)
        summed: Tensor = hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return summed


class PreNorm(Bert):
    """BERT with pre-norm blocks and a last normalisation; the first block gets embeddings that are normalised."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        self.blocks = nn.ModuleList(PreNormBlock(config) for _ in range(config.num_hidden_layers))
        self.blocks[0].attention_norm = nn.Identity()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """As BERT's."""
        normalised: Tensor = self.norm(super().forward(*inputs, **named))
        return normalised


class RotarySelfAttention(VariedSelfAttention):
    """Queries and keys are rotated by their positions."""

    def changed(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """As BERT's, rotated."""
        turns = rotation(query.shape[2], query.shape[3], SHAPE.global_rope_theta, query.device)
        return rotate(query, turns), rotate(key, turns)


class NoPositions(nn.Module):
    """In place of the table of position embeddings."""

    def forward(self, positions: Tensor) -> Tensor:
        """Zeros that are added to the embeddings of positions (S,): (S, 1)."""
        return torch.zeros(len(positions), 1, device=positions.device)


class Rotary(Bert):
    """BERT with rotary positions."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        self.embeddings.position = NoPositions()
        for block in self.blocks:
            block.attention = RotarySelfAttention(config)


class GatedFeedForward(nn.Module):
    """As ModernBERT's, with biases; the width is two thirds, so that there are as many weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = gated_width(config.intermediate_size)
        self.expand = nn.Linear(config.hidden_size, 2 * width)
        self.contract = nn.Linear(width, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, S, H) through (B, S, F) back to (B, S, H)."""
        values, gate = self.expand(hidden).chunk(2, dim=-1)
        contracted: Tensor = self.contract(F.gelu(values) * gate)
        return contracted


def gated_width(width: int) -> int:
    """Two thirds of a feed-forward part's width, in multiples of eight."""
    return round(width * 2 / 3 / 8) * 8


class Gated(Bert):
    """BERT with gated units."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        for block in self.blocks:
            block.feed_forward = GatedFeedForward(config)


class SelfAttentionWithoutBiases(SelfAttention):
    """The maps to queries, keys and values have weights alone."""

    def projection(self) -> tuple[Tensor, None]:  # type: ignore[override]
        """As BERT's."""
        return torch.cat([part.weight for part in (self.query, self.key, self.value)]), None


class WithoutBiases(Bert):
    """BERT without the biases of its linear maps and its normalisations."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        for block in self.blocks:
            block.attention = SelfAttentionWithoutBiases(config)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.LayerNorm):
                part.register_parameter("bias", None)


class NearSelfAttention(VariedSelfAttention):
    """A position attends to its neighbours alone."""

    def attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_prob: float) -> Tensor:
        """As BERT's, within a window."""
        return attend_nearby(query, key, value, mask, SHAPE.local_attention, dropout_prob)


class Local(Bert):
    """BERT whose layers attend to neighbours alone, but for the first of three."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        for number, block in enumerate(self.blocks):
            if number % SHAPE.global_attn_every_n_layers:
                block.attention = NearSelfAttention(config)


VARIANTS: dict[str, type[Bert]] = {
    "bert-pre-norm": PreNorm,
    "bert-rotary": Rotary,
    "bert-gated": Gated,
    "bert-without-biases": WithoutBiases,
    "bert-local": Local,
}


def recipe_of(architecture: str, books: str, imdb: str, steps: int, seed: int, out: str) -> Recipe:
    """The recipe of a row."""
    width = 1024
    model = ModelConfig(
        architecture=architecture,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=gated_width(width) if architecture == "modernbert" else width,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    phases = [
        {"sequence_length": LENGTH, "budget_ratio": 0.1},
        {"sequence_length": LENGTH, "budget_ratio": 0.9, "corpora": ["imdb:train+unsupervised"]},
    ]
    recipes = ROOT / "recipes" / "speedrun"
    return bertwright.load_recipe(
        [recipes / "modern.yaml", recipes / "rules.yaml"],
        name=f"modern-shape-{architecture}",
        data={"books": books, "imdb": imdb},
        model=to_dict(model),
        seed=seed,
        pretrain={"max_minutes": None, "max_steps": steps, "phases": phases},
        out=out,
    )


def weights_of(architecture: str, shape: ModelConfig) -> int:
    """The number of weights in the layers of a row's network."""
    blocks = FORMATS[architecture].build(shape, 8).get_submodule("blocks")
    return sum(parameter.numel() for parameter in blocks.parameters())


def measure(recipe: Recipe, work: Path) -> Json:
    """Pre-train a row; returns its figures on held-out text, and its times."""
    bertwright.run(recipe, stages=["prepare", "pretrain"])
    last = last_evaluation(work / "pretrain")
    lines = read_lines(work / "pretrain" / "metrics.jsonl")
    rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    return {
        **last["heldout"],
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "tokens_per_second": float(np.median(rates)) if rates else None,
        "layer_weights": weights_of(recipe.model.architecture, recipe.model),
        "environment": described(),
    }


def table(rows: dict[str, list[Json]]) -> str:
    """A line per row: means over the seeds, and the differences from BERT."""
    header = ("shape", "masked-token loss", "right", "differs from BERT by", "weights in layers")
    lines = []
    base = rows.get("BERT", [])
    for name, runs in rows.items():
        loss = mean_and_spread([one["mlm_loss"] for one in runs])
        right = float(np.mean([one["mlm_accuracy"] for one in runs]))
        spread = f" ± {loss['std']:.3f}" if len(runs) > 1 else ""
        difference = "" if name == "BERT" else differences(runs, base, "mlm_loss", 3)
        lines.append((name, f"{loss['mean']:.3f}{spread}", f"{right:.1%}", difference, f"{runs[0]['layer_weights']:,}"))
    return markdown(header, lines)


def main(
    books: str,
    imdb: str,
    steps: int = 300,
    seeds: Sequence[int] = (0, 1),
    rows: Sequence[str] = tuple(ROWS),
    work: str = "runs/modern-shape",
    out: str = str(OUT),
) -> None:
    """Measure all rows and print the table.

    Args:
        books: general text.
        imdb: labelled and unlabelled reviews.
        steps: of pre-training, 18,432 tokens each.
        seeds: of the weights, the masks and the order of the texts; odd ones take the rows backwards.
        rows: to measure.
        work: a folder to work in; the corpus is prepared once, and the rows of a seed share a run folder.
        out: a folder for results.json, whose README.md receives the table.
    """
    register(VARIANTS)
    place = Path(work).resolve()
    corpus = place / "corpus"
    base = recipe_of("bert", books, imdb, steps, 0, str(corpus))
    prepare_once(base, corpus)

    def measured(name: str, seed: int) -> Json:
        run = place / f"run-{seed}-{steps}"  # a run of fewer steps would be continued
        if not run.exists():  # a row that was interrupted resumes there
            begin_with(corpus, run)
        return measure(recipe_of(ROWS[name], books, imdb, steps, seed, str(run)), run)

    measure_rows(Path(out), settings_of(base), list(ROWS), rows, seeds, measured, table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
