"""What rounding costs: F1 of the bundled classifier, in bfloat16, and of its int8 form in ONNX Runtime.

    python benchmarks/rounded_weights.py --run runs/imdb-mini --imdb /path/to/imdb

All are evaluated on the whole test split. The float32 weights, from which the bundled model was rounded, were evaluated
in the run's evaluate stage, whose probabilities are read. Nothing was chosen by them, and nothing is here.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from jsonargparse import auto_cli

import bertwright
from bertwright.apps.export import INT8_FILE, export
from bertwright.evaluate.significance import scores
from bertwright.inference import Model
from bertwright.inputs.sequences import windows
from bertwright.recipe import Source
from bertwright.tasks.prediction import collate
from bertwright.text.records import read_records
from common import described, write


def int8_probabilities(model: Model, texts: list[str]) -> np.ndarray:
    """Probabilities of texts by the int8 form of a classifier, (texts, classes)."""
    max_length, _ = model.reading
    parts = [windows(sequence, max_length) for sequence in model.inputs(model.records(texts))]
    encoded = [part for own in parts for part in own]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    logits = np.empty((len(encoded), len(model.classifier.label_names)), np.float32)
    with TemporaryDirectory() as temporary:
        folder = export(model.classifier_folder, Path(temporary) / "model", onnx=False, int8=True)
        session = onnxruntime.InferenceSession(folder / INT8_FILE)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            batch = collate([encoded[i] for i in part], model.classifier.encoder)
            given = {name: value.numpy().astype(np.int64) for name, value in batch.items()}
            logits[part] = session.run(["logits"], given)[0]
    return model.task.predictions(list(torch.from_numpy(logits)), parts)


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
    texts = [row.text for row in read_records(Source(path=imdb), "test", ("text",))]
    rounded = bertwright.load(model)
    found = {
        "float32": np.load(predictions / "bert.npy", allow_pickle=False),
        "rounded": np.array([list(one.probabilities.values()) for one in rounded.predict(texts)], np.float32),
        "onnx_int8": int8_probabilities(rounded, texts),
    }
    figures = {name: scores(rounded.task, rows, labels, samples=0) for name, rows in found.items()}
    result = {
        **described(),
        "run": run,
        "model": model,
        "count": len(texts),
        "scores": figures,
        "f1_loss": {name: round(figures["float32"]["f1"] - score["f1"], 5) for name, score in figures.items()},
        "same_label": {
            name: float(np.mean(found["float32"].argmax(1) == rows.argmax(1))) for name, rows in found.items()
        },
    }
    for name, score in figures.items():
        print(f"{name:12}F1 {score['f1']:.4f}, same label {result['same_label'][name]:.2%}")
    write(result, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
