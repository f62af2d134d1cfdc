"""The classifiers that benchmarks/continued.py has trained on all labels, on the whole test split.

    python benchmarks/continued_test.py --imdb /path/to/imdb --work runs/continued

continued.py evaluates all of its many classifiers on a part of the test split. Those of all labels are evaluated here
on all of it, like the other figures of the README, from the folder in which they were trained. Nothing is chosen by it.
`whole-test.json` has F1 with its interval, by system, and the seconds of pre-training, fine-tuning and the part's
prediction from `draws.json`.
"""

from __future__ import annotations

import time
from pathlib import Path

from jsonargparse import auto_cli

from bertwright.evaluate.significance import scores
from bertwright.files import read_json, write_json
from bertwright.models.checkpoints import load_tokenizer
from bertwright.recipe import FinetuneConfig, Source, SystemConfig, fingerprint
from bertwright.tasks.prediction import predict_saved
from bertwright.text.records import read_records
from bertwright.train.engine import Engine
from common import described
from continued import place
from few_labels import TASK

ROOT = Path(__file__).resolve().parents[1]


def main(imdb: str, work: str = "runs/continued", out: str = "results/continued") -> None:
    """Evaluate what is there.

    Args:
        imdb: labelled reviews with a train and a test split.
        work: where continued.py has worked.
        out: the folder with draws.json, which receives whole-test.json; a relative path starts at the repository.
    """
    target = ROOT / out
    earlier = read_json(target / "draws.json")
    own = earlier["settings"]["finetune"]
    how = {name: own[name] for name in ("max_length", "truncation", "micro_batch_tokens") if name in own}
    config = FinetuneConfig(data="imdb", **how)
    train, test = (read_records(Source(path=imdb), split, TASK.columns) for split in ("train", "test"))
    classes = TASK.label_names(train, tuple(own["label_names"]), imdb)
    truth = TASK.labels(test, classes, train, imdb)
    written = target / "whole-test.json"
    size, found = str(len(train)), read_json(written)["systems"] if written.exists() else {}
    before = dict(found)
    for system, draws in earlier["draws"].get(size, {}).items():
        name = f"{place(system, earlier.get('systems', {}))}-{size}-0"
        model = Path(work) / fingerprint(earlier["settings"]) / name / "finetune" / "seed-0" / "model"
        if not model.is_dir():
            continue
        start = time.perf_counter()
        inputs = TASK.encode(test, load_tokenizer(model), config.max_length, config.truncation)
        predictions = predict_saved(model, inputs, config, Engine(SystemConfig(), print))
        figures = scores(TASK, predictions, truth)
        found[system] = {
            **{key: figures[key] for key in ("f1", "f1_low", "f1_high", "accuracy", "count")},
            "seconds": draws[0]["seconds"],
            "prediction_seconds": time.perf_counter() - start,
        }
        write_json(written, {"systems": found, "environment": described()})
        print(f"{system}: F1 {figures['f1']:.4f} ({figures['f1_low']:.4f} to {figures['f1_high']:.4f})", flush=True)
    if found == before:
        raise SystemExit(f"{work} has no classifier of all labels; give the folder that continued.py worked in: --work")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
