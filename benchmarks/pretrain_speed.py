"""Pre-training steps per second: ours against Hugging Face's BertForPreTraining, on the same batches of real text.

    python benchmarks/pretrain_speed.py                                     (BERT-mini on the bundled sample)
    python benchmarks/pretrain_speed.py --sizes mini,base --text /path/to/imdb --rounds 7

A step is forward, backward, clipping and AdamW, with dropout 0.1, 15 % of the tokens masked and next-sentence
prediction, on sequences of up to 128 tokens. All systems start from the same weights, with 30,522 entries in the
vocabulary even where the text allows only a smaller one, and take the same numbered batches in turns: A B C D, A B C D,
and so on; a ratio is taken within a round, and the table shows the median. The four systems:

- `ours`: the training loop's own step (`train/loop.py`), which also builds its batches, cuts them by length and reads
  the loss back; bf16 and compiled where the machine can.
- `transformers_fp32`: what Trainer does by default on a CPU: padded batches that were built beforehand, a label at each
  position, scaled-dot-product attention, fused AdamW.
- `transformers_bf16`: the same under bf16 autocast.
- `transformers_bf16_compiled`: the same with torch.compile. It draws dropout as ours does (the compiler's option
  `fallback_random`, which is faster on a CPU). `--attention eager` takes the other attention of transformers.

Speed counts real tokens; padding is not counted. GFLOP/s count useful work by formula, forward and backward: a batch is
the same work whoever computes it. With n tokens in a sequence, m of them masked, L layers of width H with feed-forward
width F, and V entries, a sequence takes

    6 n L (4 H^2 + 2 H F) + 12 n^2 L H + 6 m (H^2 + H V) + 6 (H^2 + 2 H)

for the matrices of the blocks, attention, the masked-language-model head and the next-sentence head. `matmul_ratio` is
ours as a part of the rate of one large bf16 matrix product, measured in the same rounds. Peak memory is that of a
process that does three steps of one system and nothing else (on a CPU Linux's VmHWM, libraries included; on a GPU what
PyTorch allocated). The loss curves compare ours, in fp32 and in bf16, with transformers in fp32: no dropout, same
weights, same batches, same AdamW at a constant rate of 1e-3, so that the loss falls below that of chance.
"""

import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import yaml
from jsonargparse import auto_cli

from bertwright.recipe import ModelConfig, PretrainConfig
from common import Json, described, prepare_with_vocabulary, write
from pretrain_systems import BUILDERS, SEQUENCE, VOCABULARY, Setting, useful_flops
from racing import DEVICE, SYSTEMS, race, show

ROOT = Path(__file__).resolve().parents[1]
MEMORY_STEPS = 3


def peak_memory(name: str, setting: Setting) -> float:
    """MiB at the peak of a few steps; to be called in a process of its own."""
    step = BUILDERS[name](setting)
    for number in range(MEMORY_STEPS):
        step(number)
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def losses(name: str, setting: Setting, steps: int) -> list[float]:
    """The loss of each of the first steps."""
    step = BUILDERS[name](setting)
    return [float(step(number)) for number in range(steps)]


def alone(function: Callable, *arguments: object) -> object:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def loss_curves(setting: Setting, steps: int) -> Json:
    """How far our losses are from those of transformers, with dropout off."""
    shape = replace(setting.shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    still = replace(setting, shape=shape, learning_rate=1e-3)
    curves = {name: alone(losses, name, still, steps) for name in ("transformers_fp32", "ours_fp32", "ours")}
    theirs = curves["transformers_fp32"]
    apart = {
        name: max(abs(a - b) / b for a, b in zip(curves[name], theirs, strict=True)) for name in ("ours_fp32", "ours")
    }
    return {"steps": steps, "largest_relative_difference": apart, "losses": curves}


def main(
    sizes: str = "mini",
    text: str = str(ROOT / "sample" / "books"),
    batch: int = 32,
    rounds: int = 5,
    seconds: float = 10.0,
    batches: int = 8,
    micro_batch_tokens: int | None = None,
    attention: Literal["sdpa", "eager"] = "sdpa",
    curve_steps: int = 50,
    memory: bool = True,
    out: str = "results/speed/pretrain-KIND.json",
) -> None:
    """Compare the speed of pre-training with transformers.

    Args:
        sizes: files of recipes/models, parted by commas.
        text: a file, a folder or a glob, as in a recipe.
        batch: sequences in a batch.
        rounds: how often each system has its turn.
        seconds: the length of a turn.
        batches: different batches, taken again and again.
        micro_batch_tokens: as in a recipe; the default is the recipe's, or the whole batch where that is smaller.
        attention: the attention of transformers.
        curve_steps: steps of the loss curves, which are made for the first size; 0 leaves them out.
        memory: whether peak memory is measured.
        out: the JSON file; a relative path starts at the repository, and KIND becomes the kind of processor: amx.
    """
    whole = batch * SEQUENCE
    fits = [whole // parts for parts in range(1, batch + 1) if batch % parts == 0]
    micro = micro_batch_tokens or max(size for size in fits if size <= PretrainConfig(max_steps=1).micro_batch_tokens)
    result: Json = {"sizes": {}}
    rates: dict[str, list[float]] = {"bf16": [], "fp32": []}
    with TemporaryDirectory() as temporary:
        prepared = Path(temporary) / "prepared"
        entries = prepare_with_vocabulary(text, prepared, sample_megabytes=20.0)
        print(f"{entries} entries learnt from {text}; the models have {VOCABULARY}", flush=True)
        for size in sizes.split(","):
            shape = ModelConfig(**yaml.safe_load((ROOT / "recipes" / "models" / f"{size}.yaml").read_text()))
            setting = Setting(prepared, shape, batch, micro, attention)
            print(f"{size}, {batch} sequences of up to {SEQUENCE} tokens", flush=True)
            peaks = {name: alone(peak_memory, name, setting) for name in SYSTEMS} if memory else {}
            if curve_steps and "loss_curve" not in result:
                result["loss_curve"] = {"size": size, **loss_curves(setting, curve_steps)}
            drawn = [setting.stream.batch(number) for number in range(batches)]
            tokens = [int(drawn_batch.attention_mask.sum()) for drawn_batch in drawn]
            flops = [useful_flops(shape, drawn_batch) for drawn_batch in drawn]
            figures, measured = race(
                {name: BUILDERS[name](setting) for name in SYSTEMS}, tokens, flops, rounds, seconds
            )
            figures["real_token_ratio"] = round(sum(tokens) / (batches * batch * SEQUENCE), 3)
            figures["peak_memory_mib"] = peaks
            for kind, values in measured.items():
                rates[kind] += values
            result["sizes"][size] = figures
            show(figures, statistics.median(measured["bf16"]))
    head = {
        **described(),
        "transformers": version("transformers"),
        "text": text,
        "trained_vocabulary": entries,
        "attention": attention,
        "matmul_gflops": {kind: round(statistics.median(values), 1) for kind, values in rates.items()},
    }
    for name, apart in result.get("loss_curve", {}).get("largest_relative_difference", {}).items():
        print(f"loss curve, {curve_steps} steps: {name} is at most {apart:.2e} from transformers_fp32")
    write({**head, **result, **result["sizes"]}, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
