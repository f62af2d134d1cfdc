"""The systems that `pretrain_speed.py` compares, each as a step on numbered batches, and the work that a batch is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor

from bertwright.inputs.pretraining import PretrainBatch, PretrainStream
from bertwright.models.checkpoints import new_encoder, save_weights
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import ModelConfig, OptimizerConfig, PretrainConfig, SystemConfig, TokenizerConfig
from bertwright.tasks.pretraining import Pretraining
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from common import recipe_of
from racing import Step
from steps import our_step, transformers_step

SEQUENCE = 128
VOCABULARY = 30_522


@dataclass(frozen=True)
class Setting:
    """What all systems have in common.

    Args:
        prepared: the folder of the prepared corpus.
        shape: of the network.
        batch: sequences in a batch.
        micro_batch_tokens: of ours.
        attention: of transformers.
        learning_rate: of AdamW.
    """

    prepared: Path
    shape: ModelConfig
    batch: int
    micro_batch_tokens: int
    attention: str
    learning_rate: float = 1e-4

    @property
    def pretrain(self) -> PretrainConfig:
        """The recipe's part: the defaults are the paper's masks, pairs and optimizer."""
        tokens = self.batch * SEQUENCE
        optimizer = OptimizerConfig(learning_rate=self.learning_rate)
        micro = self.micro_batch_tokens
        return PretrainConfig(max_steps=1, batch_tokens=tokens, micro_batch_tokens=micro, optimizer=optimizer)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The one that the corpus was prepared with."""
        return Tokenizer.load(self.prepared / "tokenizer")

    def corpus(self, part: str = "train") -> PreparedCorpus:
        """The prepared text."""
        return PreparedCorpus(self.prepared / f"{part}.arrow", self.tokenizer.fingerprint)

    @cached_property
    def stream(self) -> PretrainStream:
        """The batches that `Pretraining` draws, uncut."""
        config = self.pretrain
        return PretrainStream(
            self.corpus(),
            self.tokenizer,
            self.batch,
            config.masking,
            sequence_length=SEQUENCE,
            next_sentence=config.next_sentence,
            short_sequence_probability=config.short_sequence_probability,
            sources=None,
            seed=0,
        )

    def fresh_model(self) -> PretrainingModel:
        """The same weights every time."""
        torch.manual_seed(0)
        return PretrainingModel(new_encoder(self.shape, VOCABULARY, self.tokenizer.pad_id))


def ours(setting: Setting, precision: Literal["auto", "fp32"] = "auto") -> Step:
    """The training loop's step."""
    recipe = recipe_of("unused", TokenizerConfig(), setting.shape, setting.pretrain)
    job = Pretraining(recipe, setting.fresh_model(), setting.tokenizer, setting.corpus(), setting.corpus("heldout"))
    return our_step(job, setting.pretrain.optimizer, Engine(SystemConfig(precision=precision), print))


def theirs(setting: Setting, *, bf16: bool, compiled: bool) -> Step:
    """Hugging Face's model in a plain training step."""
    import transformers  # takes seconds, and memory that a process with ours alone should not show

    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        save_weights(setting.fresh_model(), Path(folder))
        model = transformers.BertForPreTraining.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=setting.attention
        )

    def batch(number: int) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in vars(setting.stream.batch(number)).items()}

    return transformers_step(model, batch, setting.pretrain.optimizer, bf16=bf16, compiled=compiled)


BUILDERS: dict[str, Callable[[Setting], Step]] = {
    "ours": ours,
    "transformers_fp32": partial(theirs, bf16=False, compiled=False),
    "transformers_bf16": partial(theirs, bf16=True, compiled=False),
    "transformers_bf16_compiled": partial(theirs, bf16=True, compiled=True),
    "ours_fp32": partial(ours, precision="fp32"),  # for the loss curve
}


def useful_flops(shape: ModelConfig, batch: PretrainBatch) -> float:
    """The formula at the top of pretrain_speed.py, summed over a batch."""
    lengths = batch.attention_mask.sum(1).astype(float)
    layers, width, inner = shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size
    blocks = 6 * lengths.sum() * layers * (4 * width**2 + 2 * width * inner)
    attention = 12 * (lengths**2).sum() * layers * width
    heads = 6 * (batch.labels >= 0).sum() * (width**2 + width * VOCABULARY) + 6 * len(lengths) * (width**2 + 2 * width)
    return float(blocks + attention + heads)
