"""Fine-tuning steps per second: ours against Hugging Face's model for the same task, on the same texts.

    python benchmarks/finetune_speed.py                                     (BERT-mini on the bundled sample)
    python benchmarks/finetune_speed.py --texts /path/to/imdb --sizes mini,base
    python benchmarks/finetune_speed.py --task token-classification --texts /path/to/tasks/conll2003
    python benchmarks/finetune_speed.py --task question-answering --texts /path/to/tasks/squad

A step is forward, backward, clipping and AdamW with dropout 0.1 on 32 labelled texts of up to 512 tokens, at their real
lengths, neighbours in length together, as `tasks/supervised.py` batches them. All systems start from the same weights
and take the same batches in turns; a ratio is taken within a round, and the table shows the median.

- `ours`: the training loop's own step, which also builds its batches and cuts them; a classifier of texts has [CLS]
  alone go through the last block. bf16 and compiled where the machine can.
- `transformers_fp32`, `transformers_bf16`, `transformers_bf16_compiled`: as in pretrain_speed.py, on batches that were
  built beforehand and padded to their longest text.

Speed counts real tokens. GFLOP/s count useful work by formula as in pretrain_speed.py; of a text classifier its last
block counts as far as [CLS] needs it: keys and values of all positions, and the rest at one.
"""

import statistics
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

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
from bertwright.tasks.registry import find_task
from bertwright.tasks.supervised import Finetuning, Validation
from bertwright.text.records import read_records
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from common import VOCABULARIES, Json, described, write
from racing import Step, race, show
from steps import our_step, transformers_step

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZER = OptimizerConfig(learning_rate=5e-5)
THEIRS = {
    "classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "question-answering": "BertForQuestionAnswering",
}
"""The class of transformers for each task."""

MOST_RECORDS = 25_000

UNLABELLED = -100
"""The label of a token that transformers does not score."""


def labels_of(task: str, targets: np.ndarray | list[np.ndarray], width: int) -> dict[str, Tensor]:
    """Our targets as transformers reads them, int64.

    Args:
        task: its name.
        targets: of classification (batch, classes); of the others an array (seq, classes or 2) for each text.
        width: of the batch's widest text, padding included.
    """
    if task == "classification":
        return {"labels": torch.from_numpy(np.asarray(targets).argmax(1))}
    if task == "question-answering":
        start, end = torch.from_numpy(np.array([own.argmax(0) for own in targets])).T
        return {"start_positions": start, "end_positions": end}
    labels = torch.full((len(targets), width), UNLABELLED)
    for row, own in zip(labels, targets, strict=True):
        scored = own.any(1)
        row[: len(own)][torch.from_numpy(scored)] = torch.from_numpy(own[scored].argmax(1))
    return {"labels": labels}


def theirs(job: Finetuning, *, bf16: bool, compiled: bool) -> Step:
    """Hugging Face's model in a plain training step."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        save_weights(job.model, Path(folder))
        model = getattr(transformers, THEIRS[job.task.name]).from_pretrained(folder, dtype=torch.float32)

    def batch(number: int) -> dict[str, Tensor]:
        texts = job.training.take(job.epoch_batches(0)[number])
        built = collate(texts.sequences, job.model.encoder)
        return {**built, **labels_of(job.task.name, texts.targets, built["input_ids"].shape[1])}

    return transformers_step(model, batch, OPTIMIZER, bf16=bf16, compiled=compiled, dynamic=True)


def useful_flops(shape: ModelConfig, lengths: np.ndarray, outputs: int | None) -> float:
    """Forward and backward of a batch.

    Args:
        shape: of the network.
        lengths: tokens of each text.
        outputs: of the head at each token; None for a classifier of texts, whose last block is for [CLS] alone.
    """
    width, inner = shape.hidden_size, shape.intermediate_size
    full = shape.num_hidden_layers - (outputs is None)
    n = lengths.astype(float)
    blocks = 6 * n.sum() * full * (4 * width**2 + 2 * width * inner) + 12 * (n**2).sum() * full * width
    if outputs is not None:
        return float(blocks + 6 * n.sum() * width * outputs)
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
    task: Literal["classification", "token-classification", "question-answering"] = "classification",
    sizes: str = "mini",
    rounds: int = 5,
    seconds: float = 10.0,
    batches: int = 8,
    micro_batch_tokens: int = 4096,
    out: str | None = None,
) -> None:
    """Compare the speed of fine-tuning with transformers.

    Args:
        texts: labelled texts with a train split, as in a recipe.
        task: what they are labelled for.
        sizes: files of recipes/models, parted by commas.
        rounds: how often each system has its turn.
        seconds: the length of a turn.
        batches: different batches, taken again and again.
        micro_batch_tokens: of ours.
        out: the JSON file; a relative path starts at the repository, and KIND becomes the kind of processor: amx. The
            default is results/speed/finetune-KIND.json, for other tasks than classification finetune-TASK-KIND.json.
    """
    one = find_task(task)
    records = read_records(Source(path=texts), "train", one.columns)[:MOST_RECORDS]
    names = one.label_names(records, None, texts)
    labels = one.labels(records, names, records, texts)
    tokenizer = train_tokenizer([f"{record.text_pair or ''} {record.text}" for record in records[:10_000]])
    config = FinetuneConfig(data="texts", task=task, micro_batch_tokens=micro_batch_tokens)
    inputs = one.encode(records, tokenizer, config.max_length, config.truncation)
    training, validation = one.examples(inputs, labels, names, config.max_length), Validation(inputs, labels)
    result: Json = {"sizes": {}}
    for size in sizes.split(","):
        shape = ModelConfig(**yaml.safe_load((ROOT / "recipes" / "models" / f"{size}.yaml").read_text()))
        torch.manual_seed(0)
        encoder = new_encoder(shape, tokenizer.vocab_size, tokenizer.pad_id)
        model = TaskModel(encoder, one.head(encoder, names, config.classifier_dropout), names, one.name)
        with TemporaryDirectory() as folder:
            job = Finetuning(one, config, 0, model, tokenizer, training, validation, Path(folder) / "best")
            every = training.lengths()
            lengths = [every[rows] for rows in job.epoch_batches(0)[:batches]]
            steps = {
                "transformers_fp32": theirs(job, bf16=False, compiled=False),
                "transformers_bf16": theirs(job, bf16=True, compiled=False),
                "transformers_bf16_compiled": theirs(job, bf16=True, compiled=True),
                "ours": our_step(job, OPTIMIZER, Engine(SystemConfig(), print)),
            }
            print(f"{size}, {task}, 32 texts of up to {config.max_length} tokens", flush=True)
            outputs = None if task == "classification" else len(names) or 2
            tokens, flops = [int(n.sum()) for n in lengths], [useful_flops(shape, n, outputs) for n in lengths]
            figures, measured = race(steps, tokens, flops, rounds, seconds)
        figures["mean_length"] = round(sum(tokens) / sum(map(len, lengths)), 1)
        figures["matmul_gflops"] = round(statistics.median(measured["bf16"]), 1)
        result["sizes"][size] = figures
        show(figures, statistics.median(measured["bf16"]))
    head = {**described(), "transformers": version("transformers"), "task": task, "texts": texts}
    middle = "" if task == "classification" else f"{task}-"
    write({**head, **result, **result["sizes"]}, out or f"results/speed/finetune-{middle}KIND.json")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
