"""Truncation of reviews that are longer than a classifier's input: head, tail, both, or windows over all of it.

    python benchmarks/long_texts.py --imdb /path/to/imdb

Four truncations are compared on the validation set of the bundled classifier's training (`recipes/imdb-mini.yaml`). The
test split is evaluated with two: the one of training, and windows, which the validation set chose. There the best
n-gram baseline is compared, too: its probabilities stand in `results/imdb-mini/predictions/`.
"""

from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from bertwright.evaluate.significance import difference, scores
from bertwright.models.checkpoints import BUNDLED, load_tokenizer
from bertwright.recipe import FinetuneConfig, Source, SystemConfig
from bertwright.tasks.prediction import predict_saved
from bertwright.tasks.sequence import Classification
from bertwright.tasks.validation_set import cut_validation
from bertwright.text.records import Record, read_records
from bertwright.train.engine import Engine
from common import Json, described, write

ROOT = Path(__file__).resolve().parents[1]
TRUNCATIONS = ("head", "tail", "head-tail", "windows")
VALIDATION_RATIO = 0.08
"""The fraction of train that was the bundled classifier's validation set."""


def main(imdb: str, out: str = "results/imdb-mini/long-texts.json") -> None:
    """Compare.

    Args:
        imdb: the reviews, a folder or a pattern of files.
        out: the JSON file; a relative path starts at the repository.
    """
    engine = Engine(SystemConfig(), print)
    task = Classification()
    config = FinetuneConfig(data="imdb", micro_batch_tokens=4096)
    model = BUNDLED / "sentiment"
    tokenizer = load_tokenizer(model)
    train, test = (read_records(Source(path=imdb), split, task.columns) for split in ("train", "test"))
    names = task.label_names(train, None, imdb)
    known, labels = (task.labels(records, names, train, imdb) for records in (train, test))
    _, held_out = cut_validation(train, known, VALIDATION_RATIO, imdb, print)

    def evaluate(records: list[Record], labels: np.ndarray, truncations: tuple[str, ...]) -> tuple[dict, Json]:
        encoded = {one: task.encode(records, tokenizer, config.max_length, one) for one in truncations}
        long = np.array([len(sequence) for sequence in encoded["windows"]]) > config.max_length
        predicted, rows = {}, {}
        for truncation, sequences in encoded.items():
            found = predicted[truncation] = predict_saved(model, sequences, config, engine)
            row = rows[truncation] = {
                **scores(task, found, labels),
                "loss": task.loss(found, labels),
                "accuracy_long": float((found.argmax(1) == labels)[long].mean()),
            }
            print(
                f"{truncation:10}F1 {row['f1']:.4f}, accuracy {row['accuracy']:.4f}, of the {long.sum():,} long ones "
                f"{row['accuracy_long']:.4f}, loss {row['loss']:.4f}",
                flush=True,
            )
        return predicted, {"count": len(records), "long": int(long.sum()), "truncations": rows}

    print(f"{len(held_out):,} reviews of the validation set")
    _, validation = evaluate([train[i] for i in held_out], known[held_out], TRUNCATIONS)
    print(f"{len(test):,} reviews of test")
    predicted, on_test = evaluate(test, labels, ("head-tail", "windows"))
    baseline = np.load(ROOT / "results/imdb-mini/predictions/nb_logistic_regression.npy", allow_pickle=False)
    on_test["windows_higher_by"] = {
        "head-tail": difference(task, labels, predicted["windows"], predicted["head-tail"]),
        "nb_logistic_regression": difference(task, labels, predicted["windows"], baseline),
    }
    for name, higher in on_test["windows_higher_by"].items():
        print(f"windows over {name}: {higher['difference']:+.4f} ({higher['low']:+.4f} to {higher['high']:+.4f})")
    write({**described(), "validation": validation, "test": on_test}, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
