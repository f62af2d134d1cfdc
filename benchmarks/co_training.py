"""What co-training adds, and to whom: BERT's teacher, a bag of words, and a bag of words that learns as BERT does.

    python benchmarks/co_training.py --run runs/imdb-mini

BERT learns from reviews that its teacher and NB-weighted logistic regression have judged; the baseline beside it does
not. So that nobody has to guess what that is worth, the same bag of words learns here from the very same judgements
(the likelier class of each), and all are compared on the validation part and on the test split. Nothing is chosen here.
"""

from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from bertwright.cli import load_recipe
from bertwright.evaluate.significance import classification_scores, f1_difference
from bertwright.evaluate.report import saved_predictions
from bertwright.models.checkpoints import load_tokenizer
from bertwright.tasks.baselines import nb_logistic_regression
from bertwright.tasks.classify import label_names, label_numbers, split_validation, texts_without_labels
from bertwright.text.corpus import read_labelled
from common import Json, described, write


def main(run: str, out: str = "results/imdb-mini/co-training.json") -> None:
    """Compare.

    Args:
        run: the folder of a finished run with finetune.co_training.
        out: the JSON file; a relative path starts at the repository.
    """
    folder = Path(run)
    recipe = load_recipe(str(folder / "recipe.yaml"))
    source = recipe.source(recipe.finetune.data)
    train, test = read_labelled(source, "train"), read_labelled(source, "test")
    names = label_names(train)
    labels, truth = label_numbers(train, names, "train"), label_numbers(test, names, "test")
    own, held_out = split_validation(labels, recipe.finetune.validation_ratio)
    more, _ = texts_without_labels(recipe, load_tokenizer(folder / "finetune" / "teacher" / "model"), print)
    judgements = np.load(folder / "finetune" / "teacher" / "guesses.npy", allow_pickle=False)
    texts = [train[i].text for i in own]
    asked = [*(train[i].text for i in held_out), *(row.text for row in test)]
    answers = {
        "bag of words": nb_logistic_regression().fit(texts, labels[own]).predict_proba(asked),
        "bag of words, judgements too": nb_logistic_regression()
        .fit([*texts, *more], np.concatenate([labels[own], judgements.argmax(1)]))
        .predict_proba(asked),
    }
    saved = saved_predictions(folder / "evaluate" / "predictions")
    bert = {name: rows for name, rows in saved.items() if name.startswith("bert-seed-")}
    result: Json = {**described(), "run": run, "systems": {}}
    for name, rows in answers.items():
        on_test = rows[len(held_out) :]
        found = {
            "validation_accuracy": float((rows[: len(held_out)].argmax(1) == labels[held_out]).mean()),
            "test": classification_scores(truth, on_test),
            "bert_is_higher_by": {seed: f1_difference(truth, ours, on_test) for seed, ours in bert.items()},
        }
        result["systems"][name] = found
        print(f"{name}: validation {found['validation_accuracy']:.4f}, test F1 {found['test']['f1']:.4f}")
        for seed, higher in found["bert_is_higher_by"].items():
            print(f"    {seed} is higher by {higher['difference']:.4f} ({higher['low']:.4f} to {higher['high']:.4f})")
    write(result, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
