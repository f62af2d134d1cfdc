"""What rounding costs: F1 of the bundled classifier, in bfloat16, and of its int8 form in ONNX Runtime.

    python benchmarks/rounded_weights.py --run runs/imdb-mini --imdb /path/to/imdb

All judge the whole test split. The float32 weights that the box was rounded from did so in the run's evaluate stage,
whose probabilities are read; they chose nothing, and neither does this.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from jsonargparse import auto_cli

import bertwright
from bertwright.recipe import Source
from bertwright.evaluate.significance import classification_scores
from bertwright.tasks.classify import collate, text_probabilities, windows
from bertwright.text.corpus import read_labelled
from bertwright.apps.export import INT8_FILE, export
from bertwright.inference import Model
from common import described, write


def int8_probabilities(model: Model, texts: list[str]) -> np.ndarray:
    """What the int8 form of a classifier makes of texts, (texts, classes)."""
    max_length, _ = model.reading
    parts = [windows(ids, max_length) for ids in model.encode(texts)]
    encoded = [part for own in parts for part in own]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    logits = np.empty((len(encoded), len(model.classifier.label_names)), np.float32)
    with TemporaryDirectory() as temporary:
        folder = export(model.classifier_folder, Path(temporary) / "model", onnx=False, int8=True)
        session = onnxruntime.InferenceSession(folder / INT8_FILE)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            batch = collate([encoded[i] for i in part], model.classifier.bert)
            given = {name: value.numpy().astype(np.int64) for name, value in batch.items()}
            logits[part] = session.run(["logits"], given)[0]
    return text_probabilities(torch.from_numpy(logits), [len(own) for own in parts])


def main(run: str, imdb: str, model: str = "bundled", out: str = "results/predict/rounded-weights.json") -> None:
    """Compare a classifier's rounded forms with the one that they came from.

    Args:
        run: the run folder that the classifier came from.
        imdb: the reviews, as the run read them.
        model: the classifier with rounded weights.
        out: the JSON file; a relative path starts at the repository.
    """
    predictions = Path(run) / "evaluate" / "predictions"
    labels = np.load(predictions / "labels.npy", allow_pickle=False)
    texts = [row.text for row in read_labelled(Source(path=imdb), "test")]
    judge = bertwright.load(model)
    found = {
        "float32": np.load(predictions / "bert.npy", allow_pickle=False),
        "rounded": np.array([list(v.probabilities.values()) for v in judge.predict(texts)], np.float32),
        "onnx_int8": int8_probabilities(judge, texts),
    }
    scores = {name: classification_scores(labels, rows, bootstrap_samples=0) for name, rows in found.items()}
    result = {
        **described(),
        "run": run,
        "model": model,
        "count": len(texts),
        "scores": scores,
        "f1_loss": {name: round(scores["float32"]["f1"] - score["f1"], 5) for name, score in scores.items()},
        "same_label": {
            name: float(np.mean(found["float32"].argmax(1) == rows.argmax(1))) for name, rows in found.items()
        },
    }
    for name, score in scores.items():
        print(f"{name:12}F1 {score['f1']:.4f}, same label {result['same_label'][name]:.2%}")
    write(result, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
