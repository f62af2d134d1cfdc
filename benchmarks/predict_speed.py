"""Texts classified per second, from raw text to label: ours against transformers and ONNX Runtime, on the same reviews.

    python benchmarks/predict_speed.py --model bundled --texts /path/to/imdb

All systems hold the same classifier and read the same reviews, cut to the same tokens' number (the head: it is what all
of them can do), and take turns; a ratio is taken within a round, and the table shows the median.

- `ours`: `bertwright.load(model).predict(texts)`.
- `pipeline_1`, `pipeline_32`: transformers' text-classification pipeline, fp32, batches of 1 and of 32 as they come.
- `transformers_fp32`, `transformers_bf16`: the model itself on batches of 32 sorted by length.
- `onnxruntime`: the exported model in fp32, batches of 32 sorted by length.

`agreement` is the fraction of texts with the label of the fp32 pipeline. `one_text_ms` is the time that one short text
takes in a warm process: the median of the rounds, in each of which it is that of a hundred calls after twenty others,
while the threads of the system before it come to rest; `one_text_rounds` has them all. `cold_start_seconds` is that of
the command `bertwright predict`, the median of five.
"""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
import transformers
from jsonargparse import auto_cli

import bertwright
from bertwright.apps.export import ONNX_FILE, export
from bertwright.files import read_json, write_json
from bertwright.recipe import Source
from bertwright.text.records import read_records
from common import Json, described, spread, write

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = ("ours", "pipeline_1", "pipeline_32", "transformers_fp32", "transformers_bf16", "onnxruntime")
SHORT = "I did not expect much, but this film is a quiet wonder."

Classify = Callable[[list[str]], list[str]]
"""Labels of texts, in order."""


def pipeline_of(folder: Path, batch_size: int) -> Classify:
    """The pipeline of transformers."""
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    return lambda texts: [row["label"] for row in pipeline(texts, batch_size=batch_size, truncation=True)]


def sorted_batches(folder: Path, logits_of: Callable[[dict[str, torch.Tensor]], np.ndarray]) -> Classify:
    """A model called on batches of 32 texts of like length."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names = {int(key): name for key, name in read_json(folder / "config.json")["id2label"].items()}

    def classify(texts: list[str]) -> list[str]:
        rows = tokenizer(texts, truncation=True)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        labels = [""] * len(rows)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            batch = tokenizer.pad({"input_ids": [rows[i] for i in part]}, return_tensors="pt")
            for i, row in zip(part, logits_of(batch), strict=True):
                labels[i] = names[int(row.argmax())]
        return labels

    return classify


def transformers_of(folder: Path, dtype: torch.dtype) -> Classify:
    """The model of transformers."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def logits_of(batch: dict[str, torch.Tensor]) -> np.ndarray:
        return model(**batch).logits.float().numpy()

    return sorted_batches(folder, logits_of)


def onnxruntime_of(folder: Path) -> Classify:
    """The exported model in ONNX Runtime."""
    session = onnxruntime.InferenceSession(folder / ONNX_FILE)

    def logits_of(batch: dict[str, torch.Tensor]) -> np.ndarray:
        given = {name: value.numpy() for name, value in batch.items()}
        given.setdefault("token_type_ids", np.zeros_like(given["input_ids"]))
        return session.run(["logits"], given)[0]

    return sorted_batches(folder, logits_of)


def one_text(classify: Classify, warm: int = 20, times: int = 100) -> float:
    """Milliseconds that one short text takes, the median of some calls after others."""
    took = []
    for _ in range(warm + times):
        start = time.perf_counter()
        classify([SHORT])
        took.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(took[warm:]), 3)


def cold_start(model: str, times: int = 5) -> float:
    """Seconds from the command to the label of one short text, the median."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        command = [sys.executable, "-m", "bertwright", "predict", SHORT, "--model", model]
        subprocess.run(command, check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    return round(statistics.median(took), 2)


def main(
    model: str = "bundled",
    texts: str = str(ROOT / "sample" / "reviews"),
    count: int = 600,
    rounds: int = 5,
    out: str = "results/predict/speed-KIND.json",
) -> None:
    """Compare the speed of classifying texts.

    Args:
        model: a model folder, or the folder of a run.
        texts: labelled texts with a test split, as in a recipe.
        count: how many texts, drawn at random.
        rounds: how often each system has its turn.
        out: the JSON file; a relative path starts at the repository, and KIND becomes the kind of processor: amx.
    """
    transformers.utils.logging.set_verbosity_error()
    rows = read_records(Source(path=texts), "test", ("text",))
    drawn = np.random.default_rng(0).choice(len(rows), min(count, len(rows)), replace=False)
    reviews = [rows[i].text.replace("<br />", " ") for i in drawn]
    with TemporaryDirectory() as temporary:
        folder = export(bertwright.load(model).classifier_folder, Path(temporary) / "model", onnx=True, int8=False)
        config = read_json(folder / "tokenizer_config.json")
        write_json(folder / "tokenizer_config.json", {**config, "text_truncation": "head"})
        ours = bertwright.load(folder)
        systems: dict[str, Classify] = {
            "ours": lambda given: [prediction.label for prediction in ours.predict(given)],
            "pipeline_1": pipeline_of(folder, 1),
            "pipeline_32": pipeline_of(folder, 32),
            "transformers_fp32": transformers_of(folder, torch.float32),
            "transformers_bf16": transformers_of(folder, torch.bfloat16),
            "onnxruntime": onnxruntime_of(folder),
        }
        labels = {name: classify(reviews) for name, classify in systems.items()}  # and all are warm
        speed: dict[str, list[float]] = {name: [] for name in SYSTEMS}
        short: dict[str, list[float]] = {name: [] for name in ("ours", "pipeline_1", "onnxruntime")}
        for turn in range(rounds):
            for name, classify in systems.items():
                start = time.perf_counter()
                classify(reviews)
                speed[name].append(len(reviews) / (time.perf_counter() - start))
            for name, took in short.items():
                took.append(one_text(systems[name]))
            print(f"round {turn + 1}: " + ", ".join(f"{name} {speed[name][-1]:.0f}" for name in SYSTEMS), flush=True)
        medians = {name: statistics.median(values) for name, values in speed.items()}
        pipeline = max(("pipeline_1", "pipeline_32"), key=medians.__getitem__)
        result: Json = {
            **described(),
            "transformers": version("transformers"),
            "onnxruntime": version("onnxruntime"),
            "model": model,
            "texts": texts,
            "count": len(reviews),
            "reviews_per_second": {name: round(value, 1) for name, value in medians.items()},
            "ratio_pipeline": spread([a / b for a, b in zip(speed["ours"], speed[pipeline], strict=True)]),
            "ratio_onnxruntime": spread([a / b for a, b in zip(speed["ours"], speed["onnxruntime"], strict=True)]),
            "agreement": {
                name: round(float(np.mean([a == b for a, b in zip(found, labels["pipeline_1"], strict=True)])), 4)
                for name, found in labels.items()
            },
            "one_text_ms": {name: round(statistics.median(took), 2) for name, took in short.items()},
            "one_text_rounds": short,
            "cold_start_seconds": cold_start(model),
        }
        shutil.rmtree(folder)
    for name in SYSTEMS:
        print(f"{name:20}{medians[name]:8.1f} reviews/s{result['agreement'][name]:10.2%}")
    for name in ("ratio_pipeline", "ratio_onnxruntime", "one_text_ms", "cold_start_seconds"):
        print(name, result[name])
    write(result, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
