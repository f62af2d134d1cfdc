"""How a classifier should read a review that is longer than it reads at once: its head, its tail, both, or windows.

    python benchmarks/long_texts.py --imdb /path/to/imdb

Four readings are compared on the reviews of train that `recipes/imdb-mini.yaml` held out when the bundled classifier was
trained. The test split is judged by two: the one that it was trained with, and windows, which train's reviews chose.
There the best bag of words is compared, too: its probabilities stand in `results/imdb-mini/predictions/`.
"""

from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from bertwright.recipe import FinetuneConfig, Source, SystemConfig
from bertwright.evaluate.significance import classification_scores, f1_difference
from bertwright.models.checkpoints import BOX, load_tokenizer
from bertwright.tasks.classify import encode_texts, judged_by, label_loss, label_names, label_numbers, split_validation
from bertwright.text.corpus import LabelledText, read_labelled
from bertwright.train.engine import Engine
from common import Json, described, write

ROOT = Path(__file__).resolve().parents[1]
READINGS = ("head", "tail", "head-tail", "windows")
HELD_OUT = 0.08
"""The share of train that the bundled classifier has not learnt from."""


def main(imdb: str, out: str = "results/imdb-mini/long-texts.json") -> None:
    """Compare.

    Args:
        imdb: the reviews, a folder or a pattern of files.
        out: the JSON file; a relative path starts at the repository.
    """
    engine = Engine(SystemConfig(), print)
    config = FinetuneConfig(data="imdb", micro_batch_tokens=4096)
    model = BOX / "sentiment"
    tokenizer = load_tokenizer(model)
    train, test = (read_labelled(Source(path=imdb), split) for split in ("train", "test"))
    names = label_names(train)
    known, labels = (label_numbers(texts, names, imdb) for texts in (train, test))
    _, held_out = split_validation(known, HELD_OUT)

    def judge(texts: list[LabelledText], labels: np.ndarray, readings: tuple[str, ...]) -> tuple[dict, Json]:
        raw = [text.text for text in texts]
        encoded = {reading: encode_texts(raw, tokenizer, config.max_length, reading) for reading in readings}
        long = np.array([len(ids) for ids in encoded["windows"]]) > config.max_length
        said, scores = {}, {}
        for reading, ids in encoded.items():
            said[reading] = judged_by(model, ids, config, engine)
            scores[reading] = {
                **classification_scores(labels, said[reading]),
                "loss": label_loss(said[reading], labels),
                "accuracy_long": float((said[reading].argmax(1) == labels)[long].mean()),
            }
            row = scores[reading]
            print(
                f"{reading:10}F1 {row['f1']:.4f}, accuracy {row['accuracy']:.4f}, of the {long.sum():,} long ones "
                f"{row['accuracy_long']:.4f}, loss {row['loss']:.4f}",
                flush=True,
            )
        return said, {"count": len(texts), "long": int(long.sum()), "readings": scores}

    print(f"{len(held_out):,} held-out reviews of train")
    _, validation = judge([train[i] for i in held_out], known[held_out], READINGS)
    print(f"{len(test):,} reviews of test")
    said, judged = judge(test, labels, ("head-tail", "windows"))
    rival = np.load(ROOT / "results/imdb-mini/predictions/nb_logistic_regression.npy", allow_pickle=False)
    judged["windows_higher_by"] = {
        "head-tail": f1_difference(labels, said["windows"], said["head-tail"]),
        "nb_logistic_regression": f1_difference(labels, said["windows"], rival),
    }
    for name, higher in judged["windows_higher_by"].items():
        print(f"windows over {name}: {higher['difference']:+.4f} ({higher['low']:+.4f} to {higher['high']:+.4f})")
    write({**described(), "validation": validation, "test": judged}, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
