"""A run folder becomes one page that stands alone, whatever parts of the run there are, and whatever the texts hold."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from bertwright.evaluate import significance
from bertwright.evaluate.calibration import reliability
from bertwright.evaluate.comparison import comparison
from bertwright.evaluate.plots import roc_points
from bertwright.evaluate.report import format_duration, without_folders, write_report
from bertwright.evaluate.significance import mean_and_spread
from bertwright.evaluate.tables import results_table
from bertwright.tasks.sequence import Classification

EVIL = "<script>alert('a review')</script> & \"quotes\""


def classification_scores(labels, probabilities, samples=significance.SAMPLES):
    return significance.scores(Classification(), probabilities, labels, samples=samples)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def pretrain_rows(steps=120, next_sentence=True):
    generator = np.random.default_rng(0)
    rows = []
    for step in range(1, steps + 1):
        done = step / steps
        row = {
            "kind": "train", "step": step * 10, "seconds": 60.0 * step, "tokens": 200_000 * step,
            "loss": 3 + 7 * np.exp(-6 * done) + generator.normal(0, 0.12),
            "mlm_loss": 2.8 + 7 * np.exp(-6 * done) + generator.normal(0, 0.1),
            "mlm_accuracy": 0.48 * (1 - np.exp(-5 * done)) + generator.normal(0, 0.012),
            "learning_rate": 1e-3 * min(done / 0.05, 1 - done), "grad_norm": 1.0,
            "tokens_per_second": 11_900 + generator.normal(0, 300), "phase": int(done >= 0.85),
        }  # fmt: skip
        if next_sentence:
            row |= {"nsp_loss": 0.6, "nsp_accuracy": 0.5 + 0.3 * done**0.7 + generator.normal(0, 0.03)}
        rows.append(row)
        if step % 12 == 0:
            keys = ("step", "seconds", "tokens", "mlm_loss", "mlm_accuracy", *(["nsp_accuracy"] * next_sentence))
            rows.append({"kind": "eval", **{key: row[key] for key in keys}})
    return rows


def finetune_rows(seed):
    generator = np.random.default_rng(seed)
    rows = []
    for step in range(10, 1210, 10):
        loss = 0.18 + 0.5 * np.exp(-step / 250) + generator.normal(0, 0.04)
        rows.append({"kind": "train", "step": step, "seconds": step * 0.4, "tokens": step * 9000, "loss": loss,
                     "accuracy": 1 - loss / 3, "learning_rate": 5e-5, "tokens_per_second": 20_000.0})  # fmt: skip
        if step % 400 == 0:
            f1 = 0.925 - 0.05 * np.exp(-step / 400) + generator.normal(0, 0.002)
            rows.append({"kind": "eval", "step": step, "seconds": step * 0.4, "loss": 0.2 + generator.normal(0, 0.01),
                         "accuracy": f1, "f1": f1})  # fmt: skip
    return rows


def predictions(count=3000):
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, count)
    shared = generator.normal(size=count)
    systems = {}
    strengths = {"bert": 1.62, "naive_bayes": 0.95, "logistic_regression": 1.42, "nb_logistic_regression": 1.48}
    for system, strength in strengths.items():
        logit = 2 * strength * (strength * (2 * labels - 1) + 0.9 * shared + 0.45 * generator.normal(size=count))
        positive = 1 / (1 + np.exp(-logit))
        systems[system] = np.stack([1 - positive, positive], axis=1).astype(np.float32)
    return labels, systems


@pytest.fixture(scope="module")
def scored():
    labels, systems = predictions()
    return labels, systems, {name: classification_scores(labels, values) for name, values in systems.items()}


def make_results(scores):
    labels, systems = predictions()
    calibrated = systems["bert"], labels
    seeds = {str(seed): {**scores["bert"], "f1": scores["bert"]["f1"] + 0.001 * seed} for seed in range(3)}
    f1 = [one["f1"] for one in seeds.values()]
    return {
        "recipe": "imdb-small", "task": "classification", "data": "imdb", "primary_metric": "f1",
        "published": {"another system": 0.7947}, "commit": "0123abc", "seed": 0, "machine": "AMD EPYC, 2 cores",
        "seconds": 9876.0,
        "stage_seconds": {"prepare": 95.5, "pretrain": 7200.0, "finetune": 2400.0, "evaluate": 180.5},
        "label_names": ["negative", "positive"], "scores": scores, "bert_seeds": seeds,
        "spread": {"f1": mean_and_spread(f1), "accuracy": mean_and_spread(f1)},
        "without_train_duplicates": {"count_removed": 123, "scores": scores},
        "positive_label": "positive", "calibration": reliability(*calibrated), "warnings": [],
        "heldout": {"mlm_loss": 2.79, "mlm_accuracy": 0.472, "nsp_accuracy": 0.803},
    }  # fmt: skip


def make_run(folder, scored, next_sentence=True, seeds=(0, 1, 2)):
    """A run folder with every part in it."""
    labels, systems, scores = scored
    write(folder / "results.json", make_results(scores))
    write(
        folder / "recipe.yaml",
        f"name: imdb-small\n# {EVIL}\npretrain: {{phases: [{{sequence_length: 128}}, {{sequence_length: 512}}]}}\n",
    )
    write(folder / "environment.json", {
        "commit": "0123abc4567", "python": "3.11.9", "torch": "2.13.0", "machine": "AMD EPYC 9R14", "cores": 2,
        "platform": "Linux-6.8-x86_64", "memory_gib": 31.2, "command": ["bertwright", "run", "recipes/imdb small.yaml"],
    })  # fmt: skip
    numbers = {"documents": 75_000, "sentences": 812_345, "words": 17_345_678, "tokens": 21_234_567,
               "empty_documents": 3, "duplicate_documents": 288, "one_sentence_documents": 1204,
               "longest_document_tokens": 3105, "unknown_token_ratio": 0.00012}  # fmt: skip
    how = "one document per row of the column text; <br /> is a break between paragraphs"
    write(folder / "prepare" / "data_report.json", {
        "sources": {
            "imdb": {**numbers, "how": how, "left_out": {"duplicate documents": 288, "empty documents": 3}},
            "books": {**numbers, "how": "one document per row", "left_out": {}, "changed": {"documents cut": 7}},
        },
        "total": numbers, "train": {"documents": 74_000, "tokens": 21_000_000},
        "heldout": {"documents": 375, "tokens": 105_000},
        "warnings": ["books: 1,204 documents have one sentence, so they cannot teach next-sentence prediction.", EVIL],
    })  # fmt: skip
    write(folder / "pretrain" / "metrics.jsonl", lines(pretrain_rows(next_sentence=next_sentence)))
    for seed in seeds:
        write(folder / "finetune" / f"seed-{seed}" / "metrics.jsonl", lines(finetune_rows(seed)))
    (folder / "evaluate" / "predictions").mkdir(parents=True)
    np.save(folder / "evaluate" / "predictions" / "labels.npy", labels)
    for system, values in systems.items():
        np.save(folder / "evaluate" / "predictions" / f"{system}.npy", values)
    long = "A film that takes its time, and yours. " * 30
    filled = [{"token": token, "score": p} for token, p in
               (("boring", 0.41), ("long", 0.22), ("good", 0.08), ("<b>bold</b>", 0.03))]  # fmt: skip
    write(folder / "evaluate" / "examples.json", {
        "filled_masks": [
            {"text": "The film was far too [MASK] for my taste, & I left.", "predictions": filled, "answer": "long"},
            {"text": "It was so [MASK] that I slept.", "predictions": filled, "answer": "Boring"},
        ],
        "next_sentence": [
            {"a": "She opened the door.", "b": "Nobody was there.", "is_next": True, "probability_next": 0.93},
            {"a": "He sat down to eat.", "b": "The whale sank the boat.", "is_next": False, "probability_next": 0.61},
        ],
        "classified": [
            {"text": "What a lovely evening.", "label": "positive", "prediction": "positive", "score": 0.987},
            {"text": long, "label": "negative", "prediction": "negative", "score": 0.71},
        ],
        "mistakes": [
            {"text": EVIL, "label": "negative", "prediction": "positive", "score": 0.998},
            {"text": long, "label": "positive", "prediction": "negative", "score": 0.98},
        ],
    })  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, scored):
    folder = make_run(tmp_path_factory.mktemp("run"), scored)
    return folder, write_report(folder).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects tags with their attributes, checks that they close in order, and keeps the visible text."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_has_every_part_in_order(run):
    headings = re.findall(r"<h[23]>([^<]+)</h[23]>", run[1])
    assert headings == [
        "Results", "BERT with each fine-tuning seed", "Without duplicates of the training set", "ROC curves",
        "BERT class by class", "Confusion matrix of BERT", "Calibration of BERT", "Pre-training", "Fine-tuning",
        "Examples",
        "Masked language model: predictions of masked tokens",
        "Next-sentence prediction: does the second passage follow the first?",
        "Predictions on the test set", "Most confident errors", "Data for pre-training",
        "How it was made", "Time by stage", "Environment", "Recipe",
    ]  # fmt: skip
    text = Page(run[1]).text
    first, second = "F1 of positive: BERT on 3,000 test texts", "BERT beats the best baseline, NB-weighted"
    assert text.index(first) < text.index(second)


def test_the_page_stands_alone_without_scripts_or_network(run):
    page = Page(run[1])
    assert page.all("script") == []
    assert page.all("link") == []
    assert page.all("iframe") == []
    assert "http://" not in run[1]
    assert "https://" not in run[1]
    assert "url(" not in run[1]
    assert "@import" not in run[1]
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in page.all("img"))
    assert all(link["href"].startswith("#") for link in page.all("a"))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"][1:] for link in page.all("a")} <= ids


def test_text_of_users_never_becomes_markup(run):
    page = Page(run[1])
    assert "<script" not in run[1]
    assert "<b>bold" not in run[1]
    assert page.text.count("<script>alert('a review')</script>") == 3  # a warning, a mistake, the recipe
    assert "<b>bold</b>" in page.text


def test_every_plot_comes_light_and_dark_with_a_text_for_those_who_do_not_see_it(run):
    folder, html = run
    page = Page(html)
    files = {path.name for path in (folder / "plots").iterdir()}
    light = {name for name in files if not name.endswith("-dark.png")}
    assert {"loss.png", "nsp-accuracy-by-tokens.png", "throughput.png", "roc.png", "finetune-f1.png"} <= light
    assert {name.replace(".png", "-dark.png") for name in light} == files - light
    assert len(page.all("img")) == len(page.all("source")) == len(light)
    assert all(len(image["alt"]) > 30 for image in page.all("img"))
    assert all(source["media"] == "(prefers-color-scheme: dark)" for source in page.all("source"))
    assert any("Masked language model: loss, over time" in image["alt"] for image in page.all("img"))


def test_scores_in_the_page_are_those_of_results_json(run, scored):
    text = Page(run[1]).text
    for scores in scored[2].values():
        assert f"{scores['f1']:.4f}" in text
        assert f"{scores['roc_auc']:.4f}" in text
        assert f"{scores['f1_low']:.3f}\N{EN DASH}{scores['f1_high']:.3f}" in text
    assert "2 h 44 min" in text
    assert "perplexity 16.28" in text
    assert "123 test texts are duplicates of texts in the training set" in text
    assert "F1, precision, recall and ROC AUC are those of class positive" in text


def test_a_mistake_shows_prediction_and_label(run):
    text = " ".join(Page(run[1]).text.split())
    assert "Predicted positive (99.8 %); labelled negative." in text
    assert "Predicted negative (98.0 %); labelled positive." in text
    assert "Predicted positive (98.7 %); labelled positive." in text


def test_a_masked_token_shows_whether_the_first_prediction_is_right(run):
    text = " ".join(Page(run[1]).text.split())
    assert "The text has long: the first prediction is wrong." in text
    assert "The text has Boring: the first prediction is right." in text


def test_what_was_left_out_and_what_was_changed_are_two_things(run):
    text = " ".join(Page(run[1]).text.split())
    assert "Left out of imdb: 288 duplicate documents, 3 empty documents." in text
    assert "Changed in books, but used: 7 documents cut." in text


def test_long_texts_are_folded_and_complete(run):
    page = Page(run[1])
    assert len(page.all("details")) == 3  # two texts and the recipe
    assert page.text.count("A film that takes its time, and yours. " * 30) == 2


def test_the_command_is_shown_as_it_can_be_typed(run):
    assert "bertwright run 'recipes/imdb small.yaml'" in Page(run[1]).text


@pytest.mark.slow
def test_what_an_earlier_run_with_labels_has_left_is_not_of_a_run_without(tmp_path, scored):
    make_run(tmp_path, scored)
    assert "Fine-tuning" in Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    write(tmp_path / "recipe.yaml", yaml.safe_dump(recipe | {"finetune": {"data": ""}}))
    write(tmp_path / "results.json", {"recipe": "books", "heldout": {"mlm_loss": 2.0}})
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Fine-tuning" not in text
    assert "it ends with an encoder" in text


@pytest.mark.slow
def test_writing_twice_gives_the_same_bytes(run):
    assert write_report(run[0]).read_text(encoding="utf-8") == run[1]


@pytest.mark.slow
def test_a_run_without_next_sentence_and_seeds_leaves_these_parts_out(tmp_path, scored):
    make_run(tmp_path, scored, next_sentence=False, seeds=())
    results = json.loads((tmp_path / "results.json").read_text())
    for key in ("bert_seeds", "spread", "without_train_duplicates"):
        del results[key]
    results["heldout"]["nsp_accuracy"] = None
    write(tmp_path / "results.json", results)
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert not (tmp_path / "plots" / "nsp-accuracy.png").exists()
    assert "Fine-tuning" not in text
    assert "each fine-tuning seed" not in text
    assert "duplicates of" not in text
    assert "follow each other" not in text
    assert "Pre-training" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "kept", ["results.json", "recipe.yaml", "environment.json", "prepare", "pretrain", "finetune", "evaluate", None]
)
def test_any_single_part_of_a_run_makes_a_page(tmp_path, scored, kept, run):
    source = run[0]
    if kept is not None:
        for path in [source / kept, *(source / kept).rglob("*")]:
            if path.is_file():
                (tmp_path / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path.relative_to(source)).write_bytes(path.read_bytes())
    assert "How it was made" in Page(write_report(tmp_path).read_text(encoding="utf-8")).text


@pytest.mark.slow
def test_a_task_with_three_classes_and_without_names_makes_a_page(tmp_path):
    generator = np.random.default_rng(0)
    labels, values = generator.integers(0, 3, 200), generator.random((200, 3))
    found = classification_scores(labels, values, samples=50)
    write(tmp_path / "results.json", {"task": "classification", "scores": {"bert": found, "naive_bayes": found}})
    (tmp_path / "evaluate" / "predictions").mkdir(parents=True)
    np.save(tmp_path / "evaluate" / "predictions" / "labels.npy", labels)
    np.save(tmp_path / "evaluate" / "predictions" / "bert.npy", values.astype(np.float32))
    mistake = {"text": "so", "label": "2", "prediction": "1", "score": 0.9}
    write(tmp_path / "evaluate" / "examples.json", {"mistakes": [mistake]})
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Predicted 1 (90.0 %); labelled 2." in text
    assert "published figure" not in text
    assert "ROC curves" not in text
    assert "Confusion matrix of BERT" in text
    assert "are those of class" not in text
    assert "macro-F1: BERT on 200" not in text, "the results do not name the classes"


@pytest.mark.parametrize("primary", ["f1", "accuracy"])
def test_means_over_classes_are_called_so_whichever_metric_is_the_primary_one(primary):
    generator = np.random.default_rng(0)
    found = classification_scores(generator.integers(0, 3, 200), generator.random((200, 3)), samples=50)
    named = {"task": "classification", "label_names": ["a", "b", "c"], "positive_label": None}
    header = results_table({**named, "primary_metric": primary, "scores": {"bert": found}}).splitlines()[0]
    assert {"macro-F1", "macro-precision", "macro-recall", "macro-ROC AUC"} < set(re.split("  +", header))


@pytest.mark.slow
def test_a_task_with_other_metrics_shows_them_by_their_names_and_has_no_curve(tmp_path):
    scores = {
        "bert": {"spearman": 0.81, "spearman_low": 0.79, "spearman_high": 0.83, "mean_error": 0.4, "count": 50},
        "overlap": {"spearman": 0.62, "spearman_low": 0.6, "spearman_high": 0.64, "mean_error": 0.7, "count": 50},
    }
    results = {"task": "similarity", "primary_metric": "spearman", "data": "pairs", "label_names": [], "scores": scores}
    write(tmp_path / "results.json", results)
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Spearman correlation: BERT on 50 test texts" in text
    assert "BERT beats the best baseline, overlap (Spearman correlation 0.6200), by 0.1900" in text
    assert "mean error" in text
    for absent in ("F1", "accuracy", "ROC", "Confusion", "are those of class"):
        assert absent not in text
    header, _, first, second = results_table(results).splitlines()
    assert re.split("  +", header) == ["system", "Spearman correlation", "95 % interval", "mean error"]
    assert re.split("  +", first) == ["BERT (this run)", "0.8100", "0.7900-0.8300", "0.4000"]
    assert second.startswith("overlap")


@pytest.mark.slow
def test_answers_to_questions_are_no_class(tmp_path):
    scores = {"bert": {"f1": 0.7, "f1_low": 0.6, "f1_high": 0.8, "exact_match": 0.5, "count": 50}}
    task = {"task": "question-answering", "primary_metric": "f1", "label_names": ["start", "end"]}
    write(tmp_path / "results.json", {**task, "scores": scores})
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "F1: BERT on 50 test texts" in text
    assert "of class" not in text
    assert "of `end`" not in text


def test_results_of_older_runs_which_name_only_their_data_still_make_a_table_and_a_comparison(scored):
    labels, systems, scores = scored
    old = {"task": "imdb", "scores": scores}
    table = results_table(old).splitlines()
    assert re.split("  +", table[0]) == [
        "system", "accuracy", "F1", "95 % interval", "macro-F1", "precision", "recall", "ROC AUC"
    ]  # fmt: skip
    assert table == results_table({**old, "task": "classification", "primary_metric": "f1"}).splitlines()
    assert comparison(old, {"labels": labels, **systems})["outcome"] == "wins"


@pytest.mark.slow
def test_without_duplicates_there_is_no_second_table(tmp_path, scored):
    results = make_results(scored[2])
    results["without_train_duplicates"]["count_removed"] = 0
    write(tmp_path / "results.json", results)
    assert "duplicates of" not in Page(write_report(tmp_path).read_text(encoding="utf-8")).text


@pytest.mark.slow
def test_where_the_rest_without_duplicates_does_not_define_the_metric_the_page_says_so(tmp_path, scored):
    labels, systems, scores = scored
    rest = {
        name: classification_scores(labels[labels == 1], values[labels == 1], 20) for name, values in systems.items()
    }
    results = {**make_results(scores), "primary_metric": "roc_auc"}
    results["without_train_duplicates"] = {"count_removed": 9, "scores": rest}
    assert "roc_auc" not in rest["bert"]
    write(tmp_path / "results.json", results)
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "duplicates of texts in the training set. The other texts do not define ROC AUC of positive" in text


@pytest.mark.slow
def test_without_an_interval_no_sentence_speaks_of_one_and_seeds_are_counted(tmp_path, scored):
    scores = {
        name: {key: value for key, value in one.items() if not key.endswith(("_low", "_high"))}
        for name, one in scored[2].items()
    }
    results = {**make_results(scores), "published": {}}
    results["resampled"] = {"unit": "groups", "count": 1, "run_length": 1, "parts": []}
    write(tmp_path / "results.json", results)

    def shown():
        page = write_report(tmp_path).read_text(encoding="utf-8")
        return Page(page).text, results_table(json.loads((tmp_path / "results.json").read_text()))

    text, table = shown()
    assert "BERT’s figure is the mean over 3 fine-tuning seeds; their standard deviation is 0.0010." in text
    assert "The test set has 1 group. With so few, all figures are rough, and there is no interval." in text
    assert "BERT over 3 fine-tuning seeds: F1 of `positive`" in table
    for words in ("One fine-tuning seed", "bootstrap", "95 %", "an interval is narrow"):
        assert words not in text + table
    del results["spread"]  # results of earlier versions
    write(tmp_path / "results.json", results)
    text, table = shown()
    assert "BERT’s figure is the mean over 3 fine-tuning seeds." in text
    assert "BERT's figures are the means over 3 fine-tuning seeds." in table
    results["bert_seeds"] = {"5": results["bert_seeds"]["0"]}
    write(tmp_path / "results.json", results)
    text, table = shown()
    assert "One fine-tuning seed: how far seeds differ is not known. Set finetune.seeds to several" in text
    assert "seed" not in table


@pytest.mark.slow
def test_what_is_shown_of_the_first_seed_is_said_to_be(run):
    text = Page(run[1]).text
    assert "The curve of BERT is that of the first seed, 0;" in text
    assert text.count("The predictions are those of the first seed, 0;") == 2
    assert "confusion matrix and calibration are those of the first seed, 0;" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("absent", "words"), [(False, "both classes"), (True, "the classes that labels or predictions")]
)
def test_macro_f1_is_said_to_be_that_of_the_classes_that_there_are(tmp_path, scored, absent, words):
    labels, systems, scores = scored
    if absent:
        own = labels == 1
        scores = {name: classification_scores(labels[own], values[own], 20) for name, values in systems.items()}
    write(tmp_path / "results.json", {**make_results(scores), "primary_metric": "f1"})
    assert f"macro-F1 is the mean F1 of {words}" in Page(write_report(tmp_path).read_text(encoding="utf-8")).text


def test_published_figures_are_rows_without_an_interval(run, scored):
    results = make_results(scored[2])
    (line,) = [line for line in results_table(results).splitlines() if "published" in line]
    assert re.fullmatch(r"another system \(published figure\) +0\.7947", line)
    assert "published" not in results_table({**results, "published": {}})
    row = re.search(r'<tr class="published">.*?</tr>', run[1], re.DOTALL)[0]
    assert "another system (published figure)" in row
    assert "0.7947" in row
    assert "<small>" not in row


def test_the_table_in_the_terminal_is_aligned_and_sorted_by_f1(scored):
    table = results_table(make_results(scored[2])).split("\n\n")[0].splitlines()
    column = table[0].index("F1 of `positive`") + len("F1 of `positive`")
    figures = [float(line[column - 6 : column]) for line in table[2:]]
    assert figures == sorted(figures, reverse=True)
    assert len(figures) == 5
    assert max(map(len, table)) < 130
    assert all(line == line.rstrip() for line in table)
    assert "over 3 fine-tuning seeds: F1" in results_table(make_results(scored[2]))


def test_terminal_and_page_give_the_same_comparison(run):
    folder, html = run
    results = json.loads((folder / "results.json").read_text())
    sentence = results_table(results, folder).splitlines()[-1]
    assert sentence.startswith("BERT beats")
    assert sentence.replace("`", "") in Page(html).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "(F1 of <code>positive</code> 0.9276)" in html
    assert "best baseline" not in results_table(results)


def f1(value, low, high):
    return {"f1": value, "f1_low": low, "f1_high": high}


@pytest.mark.parametrize(
    ("bert", "outcome", "words"),
    [
        (f1(0.93, 0.927, 0.933), "wins", "BERT beats the best baseline, Naive Bayes"),
        (f1(0.88, 0.877, 0.883), "loses", "BERT loses to the best baseline, Naive Bayes"),
        (f1(0.921, 0.918, 0.924), "open", "cannot be told apart"),
        (f1(0.919, 0.916, 0.922), "open", "0.0010 lower, but their 95 % intervals overlap"),
        ({"f1": 0.95}, "open", "no interval was computed"),
    ],
)
def test_the_comparison_is_honest_also_when_bert_loses_or_intervals_overlap(bert, outcome, words):
    baseline = f1(0.92, 0.917, 0.923)
    answer = comparison({"scores": {"bert": bert, "naive_bayes": baseline, "logistic_regression": f1(0.9, 0.89, 0.91)}})
    assert answer["outcome"] == outcome
    assert words in answer["text"]


@pytest.mark.slow
def test_paired_predictions_settle_what_overlapping_intervals_leave_open(scored):
    labels, systems, _ = scored
    baseline = systems["bert"].copy()
    wrong = np.flatnonzero(baseline.argmax(axis=1) == labels)[:12]
    baseline[wrong] = baseline[wrong, ::-1]
    both = {"bert": systems["bert"], "x": baseline}
    scores = {name: classification_scores(labels, values) for name, values in both.items()}
    assert comparison({"scores": scores})["outcome"] == "open"
    saved = {"labels": labels, **both}
    assert comparison({"scores": scores}, saved)["outcome"] == "wins"
    assert comparison({"scores": scores}, {**saved, "bert": baseline, "x": systems["bert"]})["outcome"] == "loses"


@pytest.mark.slow
def test_the_comparison_over_several_seeds_rests_on_all_of_them(scored):
    labels, systems, scores = scored
    half = {**systems, "labels": labels, "bert-seed-0": systems["bert"], "bert-seed-1": systems["naive_bayes"]}
    baseline = {"bert": scores["bert"], "logistic_regression": scores["logistic_regression"]}
    assert comparison({"scores": baseline}, {**systems, "labels": labels})["outcome"] == "wins"
    assert comparison({"scores": baseline}, half)["outcome"] == "open", "two seeds that differ so much settle nothing"
    alike = {**half, "bert-seed-0": systems["naive_bayes"]}
    assert comparison({"scores": baseline}, alike)["outcome"] == "loses"


def test_the_drawn_roc_curve_has_the_area_that_the_table_reports(scored):
    labels, systems, scores = scored
    false_rates, true_rates = roc_points(labels, systems["bert"][:, 1])
    assert np.trapezoid(true_rates, false_rates) == pytest.approx(scores["bert"]["roc_auc"], abs=1e-3)
    assert (false_rates[0], true_rates[0], false_rates[-1], true_rates[-1]) == (0, 0, 1, 1)
    assert len(true_rates) <= 400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (45, "45 s"),
        (59.9, "1 min"),
        (725, "12 min 5 s"),
        (10_080, "2 h 48 min"),
        (3600, "1 h"),
    ],
)
def test_durations_read_naturally(seconds, text):
    assert format_duration(seconds) == text


def test_the_template_is_free_of_leftover_marks(run):
    assert not re.search(r"\{\{|\}\}|\{%|None|nan|inf\b|undefined", Page(run[1]).text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/data/tickets.csv", "tickets.csv"),
        ("C:\\Users\\ann\\my tickets.csv", "my tickets.csv"),
        ("~/models/mini", "mini"),
        ("data/tickets.csv", "data/tickets.csv"),
        ("https://example.org/a/b.csv", "https://example.org/a/b.csv"),
        ("/home/ann/a.csv, line 3, has no text", "a.csv, line 3, has no text"),
        ("skipped rows of /home/ann/a.csv: 3 and/or more", "skipped rows of a.csv: 3 and/or more"),
    ],
)
def test_a_folder_of_the_machine_is_cut_to_its_last_name(text, shown):
    assert without_folders({"source": [text, 3]}) == {"source": [shown, 3]}


def test_no_folder_of_the_machine_stands_in_the_page(tmp_path):
    write(tmp_path / "recipe.yaml", "name: x\ndata: {a: {path: /home/ann/a.csv}}\npretrain: {phases: []}\n")
    command = ["bertwright", "run", "/home/ann/recipe.yaml", "--data.a=/home/ann/a.csv", "--out", "/home/ann/run"]
    write(tmp_path / "environment.json", {"command": command})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "/home/ann" not in page
    assert "bertwright run recipe.yaml --data.a=a.csv --out run" in page


def test_warnings_are_red_in_page_and_terminal(tmp_path):
    scores = {"bert": f1(0.0, 0.0, 0.0)}
    results = {"scores": scores, "label_names": ["ham", "fraud"], "warnings": ["BERT never predicts `fraud`."]}
    write(tmp_path / "results.json", results)
    assert '<div class="warning bad" role="alert"><p>BERT never predicts' in write_report(tmp_path).read_text("utf-8")
    assert "\x1b[1;31mWarning: BERT never predicts `fraud`.\x1b[0m" in results_table(results, color=True)
    assert "\x1b" not in results_table(results)
