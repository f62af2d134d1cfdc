"""Fine-tuning steps per second: ours against Hugging Face's BertForSequenceClassification, on the same reviews.

    python benchmarks/finetune_speed.py                                     (BERT-mini on the bundled sample)
    python benchmarks/finetune_speed.py --texts /path/to/imdb --sizes mini,base

A step is forward, backward, clipping and AdamW with dropout 0.1 on 32 labelled texts of up to 512 tokens, at their real
lengths, neighbours in length together, as `tasks/supervised.py` batches them. All systems start from the same weights
and take the same batches in turns; a ratio is taken within a round, and the table shows the median.

- `ours`: the training loop's own step, which also builds its batches and cuts them; [CLS] alone goes through the last
  block. bf16 and compiled where the machine can.
- `transformers_fp32`, `transformers_bf16`, `transformers_bf16_compiled`: as in pretrain_speed.py, on batches that were
  built beforehand and padded to their longest text.

Speed counts real tokens. GFLOP/s count useful work by formula as in pretrain_speed.py; of the last block only what
[CLS] needs: keys and values of all positions, and the rest at one.
"""

import statistics
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import yaml
from jsonargparse import auto_cli
from torch import Tensor

from bertwright.errors import UserError
from bertwright.models.checkpoints import new_encoder, save_weights
from bertwright.models.heads import TaskModel
from bertwright.recipe import FinetuneConfig, ModelConfig, OptimizerConfig, Source, SystemConfig, TokenizerConfig
from bertwright.tasks.prediction import collate
from bertwright.tasks.sequence import Classification
from bertwright.tasks.supervised import Finetuning, Validation
from bertwright.tasks.task import Examples
from bertwright.text.records import read_records
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from common import VOCABULARIES, Json, described, write
from racing import Step, race, show
from steps import our_step, transformers_step

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZER = OptimizerConfig(learning_rate=5e-5)
TASK = Classification()


def theirs(job: Finetuning, *, bf16: bool, compiled: bool) -> Step:
    """Hugging Face's model in a plain training step."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        save_weights(job.model, Path(folder))
        model = transformers.BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32)

    def batch(number: int) -> dict[str, Tensor]:
        texts = job.training.take(job.epoch_batches(0)[number])
        labels = torch.from_numpy(texts.targets.argmax(1))
        return {**collate(texts.sequences, job.model.encoder), "labels": labels}

    return transformers_step(model, batch, OPTIMIZER, bf16=bf16, compiled=compiled, dynamic=True)


def useful_flops(shape: ModelConfig, lengths: np.ndarray) -> float:
    """Forward and backward of a batch, the last block for [CLS] alone."""
    width, inner, full = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers - 1
    n = lengths.astype(float)
    blocks = 6 * n.sum() * full * (4 * width**2 + 2 * width * inner) + 12 * (n**2).sum() * full * width
    last = 6 * n.sum() * 2 * width**2 + 12 * n.sum() * width + 6 * len(n) * (2 * width**2 + 2 * width * inner)
    return float(blocks + last + 6 * len(n) * (width**2 + 2 * width))


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """BERT's number of entries, or the most that the texts allow."""
    for size in VOCABULARIES:
        try:
            return Tokenizer.train(texts, TokenizerConfig(vocab_size=size))
        except UserError:
            if size == VOCABULARIES[-1]:
                raise
    raise AssertionError


def main(
    texts: str = str(ROOT / "sample" / "reviews"),
    sizes: str = "mini",
    rounds: int = 5,
    seconds: float = 10.0,
    batches: int = 8,
    micro_batch_tokens: int = 4096,
    out: str = "results/speed/finetune-KIND.json",
) -> None:
    """Compare the speed of fine-tuning with transformers.

    Args:
        texts: labelled texts with a train split, as in a recipe.
        sizes: files of recipes/models, parted by commas.
        rounds: how often each system has its turn.
        seconds: the length of a turn.
        batches: different batches, taken again and again.
        micro_batch_tokens: of ours.
        out: the JSON file; a relative path starts at the repository, and KIND becomes the kind of processor: amx.
    """
    records = read_records(Source(path=texts), "train", TASK.columns)
    names = TASK.label_names(records, None, texts)
    labels = TASK.labels(records, names, records, texts)
    tokenizer = train_tokenizer([record.text for record in records[:10_000]])
    config = FinetuneConfig(data="texts", micro_batch_tokens=micro_batch_tokens)
    sequences = TASK.encode(records, tokenizer, config.max_length, config.truncation)
    training, validation = Examples(sequences, TASK.targets(labels, names)), Validation(sequences, labels)
    result: Json = {"sizes": {}}
    for size in sizes.split(","):
        shape = ModelConfig(**yaml.safe_load((ROOT / "recipes" / "models" / f"{size}.yaml").read_text()))
        torch.manual_seed(0)
        encoder = new_encoder(shape, tokenizer.vocab_size, tokenizer.pad_id)
        model = TaskModel(encoder, TASK.head(encoder, names, config.classifier_dropout), names, TASK.name)
        with TemporaryDirectory() as folder:
            job = Finetuning(TASK, config, 0, model, tokenizer, training, validation, Path(folder) / "best")
            lengths = [np.array([len(sequences[i]) for i in rows]) for rows in job.epoch_batches(0)[:batches]]
            steps = {
                "transformers_fp32": theirs(job, bf16=False, compiled=False),
                "transformers_bf16": theirs(job, bf16=True, compiled=False),
                "transformers_bf16_compiled": theirs(job, bf16=True, compiled=True),
                "ours": our_step(job, OPTIMIZER, Engine(SystemConfig(), print)),
            }
            print(f"{size}, 32 texts of up to {config.max_length} tokens", flush=True)
            tokens, flops = [int(n.sum()) for n in lengths], [useful_flops(shape, n) for n in lengths]
            figures, measured = race(steps, tokens, flops, rounds, seconds)
        figures["mean_length"] = round(sum(tokens) / sum(map(len, lengths)), 1)
        figures["matmul_gflops"] = round(statistics.median(measured["bf16"]), 1)
        result["sizes"][size] = figures
        show(figures, statistics.median(measured["bf16"]))
    head = {**described(), "transformers": version("transformers"), "texts": texts}
    write({**head, **result, **result["sizes"]}, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
