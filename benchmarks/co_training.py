"""What co-training adds to BERT, and what the same pseudo-labels add to the n-gram baseline.

    python benchmarks/co_training.py --run runs/imdb-mini

BERT is trained on pseudo-labels by its teacher and NB-weighted logistic regression; the run's baseline is not. Here the
same logistic regression is trained on the same pseudo-labels, too (the more probable class of each), and all are
compared on the validation set and on the test split. Nothing is chosen here.
"""

from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

import bertwright
from bertwright.evaluate.comparison import saved_predictions
from bertwright.evaluate.significance import difference, scores
from bertwright.models.checkpoints import load_tokenizer
from bertwright.tasks.baselines import nb_logistic_regression
from bertwright.tasks.self_training import read_unlabelled
from bertwright.tasks.sequence import Classification
from bertwright.tasks.validation_set import cut_validation
from bertwright.text.records import read_records
from common import Json, described, write


def main(run: str, out: str = "results/imdb-mini/co-training.json") -> None:
    """Compare.

    Args:
        run: the folder of a finished run with finetune.co_training.
        out: the JSON file; a relative path starts at the repository.
    """
    folder = Path(run)
    recipe = bertwright.load_recipe(folder / "recipe.yaml")
    task = Classification()
    source = recipe.source(recipe.finetune.data)
    train, test = (read_records(source, split, task.columns) for split in ("train", "test"))
    names = task.label_names(train, recipe.finetune.label_names, "train")
    labels, truth = (task.labels(records, names, train, "labels") for records in (train, test))
    own, held_out = cut_validation(train, labels, recipe.finetune.validation_ratio, "train", print)
    more, _ = read_unlabelled(recipe, task, load_tokenizer(folder / "finetune" / "teacher" / "model"), print)
    pseudo_labels = np.load(folder / "finetune" / "teacher" / "pseudo_labels.npy", allow_pickle=False)
    texts = [train[i].text for i in own]
    evaluated = [*(train[i].text for i in held_out), *(row.text for row in test)]
    predictions = {
        "NB-weighted logistic regression": nb_logistic_regression().fit(texts, labels[own]).predict_proba(evaluated),
        "NB-weighted logistic regression, pseudo-labels too": nb_logistic_regression()
        .fit([*texts, *more], np.concatenate([labels[own], pseudo_labels.argmax(1)]))
        .predict_proba(evaluated),
    }
    saved = saved_predictions(folder / "evaluate" / "predictions")
    bert = {name: rows for name, rows in saved.items() if name.startswith("bert-seed-")}
    result: Json = {**described(), "run": run, "systems": {}}
    for name, rows in predictions.items():
        on_test = rows[len(held_out) :]
        found = {
            "validation_accuracy": float((rows[: len(held_out)].argmax(1) == labels[held_out]).mean()),
            "test": scores(task, on_test, truth),
            "bert_is_higher_by": {seed: difference(task, truth, ours, on_test) for seed, ours in bert.items()},
        }
        result["systems"][name] = found
        print(f"{name}: validation {found['validation_accuracy']:.4f}, test F1 {found['test']['f1']:.4f}")
        for seed, higher in found["bert_is_higher_by"].items():
            print(f"    {seed} is higher by {higher['difference']:.4f} ({higher['low']:.4f} to {higher['high']:.4f})")
    write(result, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
