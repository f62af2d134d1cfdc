"""bertwright init: what it finds in files of many forms, and the recipe that it writes."""

import csv
import dataclasses
import gzip
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file, save_file

from bertwright.apps.inspection import Contents, Texts
from bertwright.apps.new_recipe import Findings, epochs, write_recipe
from bertwright.cli import main
from bertwright.models.checkpoints import find_model, new_encoder, save_model
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import ModelConfig, TokenizerConfig
from bertwright.recipe_file import load_recipe
from bertwright.tasks.finetune import check_encoder
from bertwright.tasks.initial import with_encoder
from bertwright.tasks.registry import recipe_task
from bertwright.text.corpus import parts_read
from bertwright.text.records import read_split
from bertwright.text.wordpiece import Tokenizer

CLASSES = {
    "hardware": ["The printer on floor {} is broken again.", "The screen of desk {} stays black since noon."],
    "billing": ["I was charged twice for the invoice {} of March.", "Please send a receipt for the order {}."],
    "access": ["I forgot the password of account {} again.", "My login to server {} is locked, please help."],
}


def tickets(rows=60):
    found = []
    for number in range(rows):
        name = list(CLASSES)[number % 3]
        text = CLASSES[name][number // 3 % 2].format(number)
        found.append({"id": 100 + number, "created": f"2024-03-{number % 28 + 1:02d}", "body": text, "queue": name})
    return found


def write_csv(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(capsys):
    def run(*words, status=0):
        assert main(["init", *map(str, words)]) == status
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert status == 0 or said.err.count("\n") == 1
        return said.err if status else said.out

    return run


@pytest.mark.slow
def test_one_csv_of_tickets_becomes_a_recipe_that_loads(say, folder):
    write_csv(folder / "tickets.csv", tickets())
    said = say("tickets.csv")
    for words in ("60", "body", "English", "3: access 20, billing 20, hardware 20", "20 % of the rows"):
        assert words in said
    assert said.rstrip().endswith("bertwright run recipes/tickets.yaml")
    recipe = load_recipe("recipes/tickets.yaml")
    source = recipe.source("tickets")
    assert (source.path, source.text_column, source.label_column) == ("tickets.csv", "body", "queue")
    assert source.test_ratio == 0.2
    assert (recipe.finetune.encoder, recipe.finetune.data, recipe.finetune.epochs) == ("bundled", "tickets", 40)
    assert 24 <= recipe.finetune.max_length <= 48


@pytest.mark.parametrize("form", ["csv", "semicolon", "tsv", "jsonl", "json", "parquet", "csv.gz"])
@pytest.mark.slow
def test_each_format_is_looked_at_alike(say, folder, form):
    rows = tickets()
    path = folder / f"t.{'csv' if form == 'semicolon' else form}"
    if form in ("csv", "semicolon", "tsv"):
        write_csv(path, rows, {"csv": ",", "semicolon": ";", "tsv": "\t"}[form])
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(write_csv(folder / "plain.csv", rows).read_bytes()))
    said = say(path)
    assert "text column   body" in said
    assert "3: access 20, billing 20, hardware 20" in said
    assert load_recipe("recipes/t.yaml").source("t").label_column == "queue"


@pytest.mark.slow
def test_a_recipe_is_not_overwritten_without_the_flag(say, folder):
    write_csv(folder / "tickets.csv", tickets())
    say("tickets.csv", "--out", "mine.yaml")
    before = (folder / "mine.yaml").read_text()
    (folder / "mine.yaml").write_text(before + "# changed\n")
    assert "--overwrite" in say("tickets.csv", "--out", "mine.yaml", status=2)
    assert (folder / "mine.yaml").read_text().endswith("# changed\n")
    say("tickets.csv", "--out", "mine.yaml", "--overwrite")
    assert (folder / "mine.yaml").read_text() == before


@pytest.mark.parametrize("out", ["given", "."])
@pytest.mark.slow
def test_a_recipe_replaces_no_folder(say, folder, out):
    write_csv(folder / "tickets.csv", tickets())
    (folder / "given").mkdir()
    (folder / "given" / "kept.txt").write_text("kept")
    said = say("tickets.csv", "--out", out, "--overwrite", status=2)
    assert f"{out} is a folder; give a file with --out, such as " in said
    assert "tickets.yaml" in said
    assert sorted(path.name for path in folder.rglob("*")) == ["given", "kept.txt", "tickets.csv"]


@pytest.mark.slow
def test_the_command_that_is_printed_works_with_spaces_in_names(say, folder):
    write_csv(folder / "my tickets.csv", tickets())
    said = say("my tickets.csv", "--out", "my recipe.yaml")
    assert said.rstrip().endswith("then: bertwright run 'my recipe.yaml'")
    assert (
        (folder / "my recipe.yaml")
        .read_text()
        .startswith("# Written by: bertwright init 'my tickets.csv' --out 'my recipe.yaml'\n")
    )


@pytest.mark.slow
def test_two_columns_of_text_are_a_question(say, folder):
    rows = [row | {"answer": f"We will look at number {row['id']} as soon as we can."} for row in tickets()]
    write_csv(folder / "t.csv", rows)
    said = say("t.csv", status=2)
    assert "which column of t.csv is the text: body (about 9 words), answer (about 11 words)?" in said
    assert "--text-column" in said
    assert not (folder / "recipes").exists()
    assert "text column   answer" in say("t.csv", "--text-column", "answer")


@pytest.mark.slow
def test_the_text_column_that_is_named_counts_for_unlabelled_texts_as_well(say, folder):
    rows = [row | {"answer": f"We will look at number {row['id']} as soon as we can."} for row in tickets()]
    write_csv(folder / "tickets.csv", rows)
    write_csv(folder / "old.csv", [{"body": row["body"], "answer": row["answer"]} for row in rows])
    (folder / "more.txt").write_text("Once there was a printer. It did not print.\n" * 20)
    say("tickets.csv", "old.csv", "--text-column", "answer")
    recipe = load_recipe("recipes/tickets.yaml")
    assert [recipe.source(name).text_column for name in ("tickets", "old")] == ["answer", "answer"]
    say("tickets.csv", "more.txt", "--text-column", "answer", "--overwrite")  # which has no such column


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"text_pair": "And this is a second text of the same row, {}."}, "speaks of both"),
        ({"choices": ["the first one {}", "the second one"]}, "lists"),
        ({"labels": ["billing", "access"]}, "which column of t.jsonl is the label: label"),
    ],
)
def test_data_of_other_tasks_are_asked_about_and_not_classified_by_half(say, folder, extra, expected):
    def filled(value, number):
        return [one.format(number) for one in value] if isinstance(value, list) else value.format(number)

    rows = [
        {"text": row["body"], "label": row["queue"]} | {name: filled(value, number) for name, value in extra.items()}
        for number, row in enumerate(tickets())
    ]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert expected in say("t.jsonl", status=2)
    say("t.jsonl", "--text-column", "text", "--label-column", "label")
    assert load_recipe("recipes/t.yaml").source("t").text_pair_column is None
    if "text_pair" in extra:
        said = say("t.jsonl", "--text-column", "text", "--text-pair-column", "text_pair", "--overwrite")
        assert "text columns  text and text_pair" in said
        recipe = load_recipe("recipes/t.yaml")
        assert (recipe.source("t").text_pair_column, recipe.finetune.task) == ("text_pair", "classification")
    if "labels" in extra:
        said = say("t.jsonl", "--text-column", "text", "--label-column", "labels", "--overwrite")
        assert "labels (multi-label)" in said
        assert load_recipe("recipes/t.yaml").finetune.task == "multi-label"


def test_classes_that_are_numbers_stand_in_their_order(say, folder):
    rows = [row | {"queue": number % 12 - 1} for number, row in enumerate(tickets(120))]
    write_csv(folder / "t.csv", rows)
    assert "12: -1 10, 0 10, 1 10, 2 10, 3 10" in say("t.csv", "--label-column", "queue")


def test_a_large_file_is_looked_at_in_part_and_says_so(say, folder, monkeypatch):
    monkeypatch.setattr("bertwright.apps.inspection.LOOKED_AT", 30)
    monkeypatch.setattr("bertwright.apps.init.LOOKED_AT", 30)
    write_csv(folder / "t.csv", tickets())
    assert "the first 30" in say("t.csv")


def test_classes_are_counted_in_all_rows_of_a_file_that_is_sorted_by_class(say, folder, monkeypatch):
    monkeypatch.setattr("bertwright.apps.inspection.LOOKED_AT", 30)
    monkeypatch.setattr("bertwright.apps.init.LOOKED_AT", 30)
    write_csv(folder / "t.csv", sorted(tickets(90), key=lambda row: row["queue"]))
    said = say("t.csv")
    assert "the first 30" in said
    assert "3: access 30, billing 30, hardware 30" in said


@pytest.mark.slow
def test_space_after_the_commas_of_a_header_is_no_part_of_a_name(say, folder):
    path = write_csv(folder / "t.csv", [row | {"team": row["queue"]} for row in tickets()])
    path.write_text(path.read_text().replace("id,created,body,queue,team", "id, created, body, queue, team"))
    say("t.csv")
    source = load_recipe("recipes/t.yaml").source("t")
    assert (source.text_column, source.label_column) == ("body", "queue")
    assert len(read_split(source, "train", ("text", "label")).records) == 48
    path.write_text(path.read_text().replace("queue, team", "queue, queue"))
    assert "t.csv has 2 columns called `queue`; rename all but one" in say("t.csv", "--overwrite", status=2)


@pytest.mark.slow
def test_no_column_of_labels_is_a_question_and_unlabelled_answers_it(say, folder):
    rows = [{"id": row["id"], "body": row["body"]} for row in tickets()]
    write_csv(folder / "t.csv", rows)
    said = say("t.csv", status=2)
    assert "--label-column" in said
    assert "--unlabelled" in said
    say("t.csv", "--unlabelled", "--minutes", "3")
    written = (folder / "recipes" / "t.yaml").read_text()
    assert written.startswith("# Written by: bertwright init t.csv --minutes 3 --unlabelled\n")
    recipe = load_recipe("recipes/t.yaml")
    assert (recipe.pretrain.max_minutes, recipe.finetune.data) == (3, "")
    assert recipe.source("t").text_column == "body"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda row, n: row | {"queue": f"{n / 7:.3f}" if n else "none"}, "in 59 of 60 rows, and words in others"),
        (lambda row, n: row | {"queue": "all"}, "at least two"),
        (lambda row, n: row | {"queue": "odd" if n == 5 else row["queue"]}, "one row of the class odd"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused_with_the_reason(say, folder, change, expected):
    write_csv(folder / "t.csv", [change(row, number) for number, row in enumerate(tickets())])
    assert expected in say("t.csv", "--label-column", "queue", status=2)


@pytest.mark.slow
def test_labels_that_are_numbers_make_a_regression(say, folder):
    write_csv(folder / "t.csv", [row | {"queue": f"{number / 7:.3f}"} for number, row in enumerate(tickets())])
    assert "queue (regression)" in say("t.csv", "--label-column", "queue")
    recipe = load_recipe("recipes/t.yaml")
    assert (recipe.finetune.task, recipe.source("t").test_ratio) == ("regression", 0.2)


def comments(rows=60):
    return [
        {"id": f"c{n}", "comment": f"The boat number {n} was old and slow.", "toxic": n % 3 // 2, "insult": n % 2}
        for n in range(rows)
    ]


@pytest.mark.parametrize("form", ["csv", "csv of booleans", "jsonl", "booleans"])
@pytest.mark.slow
def test_columns_of_0_and_1_are_several_labels(say, folder, form):
    rows = comments()
    if "booleans" in form:
        rows = [row | {name: bool(row[name]) for name in ("toxic", "insult")} for row in rows]
    if "csv" in form:
        path = write_csv(folder / "c.csv", rows)
    else:
        path = folder / "c.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = say(path.name)
    assert "2 columns of 0 and 1, one for each label (multi-label): toxic 20, insult 30" in said
    assert "text column   comment (others: id)" in said
    recipe = load_recipe("recipes/c.yaml")
    source = recipe.source("c")
    assert (recipe.finetune.task, source.label_columns) == ("multi-label", ("toxic", "insult"))
    split = read_split(source, "train", ("text", "labels"))
    assert split.records[0].labels in ((), ("toxic",), ("insult",), ("toxic", "insult"))
    assert split.summary()["classes"].keys() == {"toxic", "insult"}


@pytest.mark.parametrize(
    ("change", "label"),
    [
        (lambda n: {"label": n % 3}, "label"),  # a column of that name is the label
        (lambda n: {"insult": n % 3}, None),  # another column of classes: which is meant?
        (lambda n: {"insult": 1}, "toxic"),  # says nothing
    ],
)
def test_columns_of_0_and_1_are_no_labels_where_another_column_may_be(say, folder, change, label):
    write_csv(folder / "c.csv", [row | change(number) for number, row in enumerate(comments())])
    if label is None:
        assert "which column of c.csv is the label: toxic (2 classes), insult (3 classes)?" in say("c.csv", status=2)
    else:
        assert f"label column  {label}" in say("c.csv")
        assert load_recipe("recipes/c.yaml").source("c").label_columns is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--text-column", "body", "--text-pair-column", "body"), "are both body; name two columns"),
        (("--text-pair-column", "bdy"), "has no column `bdy`; it has: id, created, body, queue; did you mean `body`?"),
        (("--text-pair-column", "body", "--text-column", "queue", "--unlabelled"), "no label is read; leave it out"),
    ],
)
def test_pairs_that_are_none_are_refused(say, folder, words, said):
    write_csv(folder / "t.csv", tickets())
    assert said in say("t.csv", *words, status=2)


def test_empty_rows_duplicates_and_bad_rows_are_counted_with_the_first(say, folder):
    rows = tickets()
    rows[4]["body"] = ""
    rows[7]["body"] = rows[1]["body"]
    path = write_csv(folder / "t.csv", rows)
    path.write_text(path.read_text() + "1,2,3,4,5\n")
    said = say("t.csv")
    assert "1 row without text; the first: line 6" in said
    assert "1 row with the text of an earlier one" in said
    assert "line 62, has 5 columns where the header has 4" in said


def test_a_column_of_groups_is_suggested(say, folder):
    write_csv(folder / "t.csv", [row | {"customer": f"c{n % 9}"} for n, row in enumerate(tickets())])
    assert "customer looks like a group" in say("t.csv")
    assert "# group_column: customer" in (folder / "recipes" / "t.yaml").read_text()


@pytest.mark.slow
def test_text_that_is_not_english_is_pretrained_on_first(say, folder):
    words = "der drucker ist schon wieder kaputt und niemand weiß warum die rechnung stimmt nicht".split()
    rows = [
        {"text": " ".join(words[(n * k) % len(words)] for k in range(1, 12)), "label": "ab"[n % 2]} for n in range(40)
    ]
    write_csv(folder / "t.csv", rows)
    assert "not English" in say("t.csv")
    recipe = load_recipe("recipes/t.yaml")
    assert recipe.finetune.encoder is None
    assert recipe.prepare.corpora == ("t:train",)
    assert recipe.model.hidden_size == 128
    assert recipe.finetune.max_length <= recipe.pretrain.phases[0].sequence_length


@pytest.mark.slow
def test_labels_and_unlabelled_text_become_one_recipe(say, folder):
    write_csv(folder / "tickets.csv", tickets())
    (folder / "old").mkdir()
    for number in range(5):
        (folder / "old" / f"{number}.txt").write_text("Once there was a printer. It did not print.\n" * 20)
    say("tickets.csv", "old", "--minutes", "2")
    recipe = load_recipe("recipes/tickets.yaml")
    assert recipe.prepare.corpora == ("tickets:train", "old")
    assert recipe.finetune.data == "tickets"
    assert recipe.finetune.encoder is None
    # In English the bundled encoder is adapted, in another language there is none.
    assert (recipe.pretrain.encoder, recipe.pretrain.max_minutes) == ("bundled", 2)
    (folder / "old" / "0.txt").write_text(
        "Der Drucker ist kaputt und niemand weiß warum. Die Rechnung stimmt nicht.\n" * 900
    )
    say("tickets.csv", "old", "--overwrite")
    assert load_recipe("recipes/tickets.yaml").pretrain.encoder is None


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.slow
def test_folders_of_classes_are_seen(say, folder, split):
    for part in ("train", "test") if split else (".",):
        for name in CLASSES:
            (folder / "mails" / part / name).mkdir(parents=True)
            for number in range(4):
                (folder / "mails" / part / name / f"{number}.txt").write_text(CLASSES[name][0].format(number))
    assert "3: access 4, billing 4, hardware 4" in say("mails")
    recipe = load_recipe("recipes/mails.yaml")
    assert recipe.source("mails").test_ratio == (None if split else 0.2)


@pytest.mark.slow
def test_split_files_keep_their_splits(say, folder):
    (folder / "t").mkdir()
    write_csv(folder / "t" / "train.csv", tickets(30))
    write_csv(folder / "t" / "test.csv", tickets(12))
    assert "its own split" in say("t")
    assert load_recipe("recipes/t.yaml").source("t").test_ratio is None


@pytest.mark.slow
def test_a_text_file_beside_a_table_is_not_read_for_labels(say, folder):
    (folder / "t").mkdir()
    write_csv(folder / "t" / "tickets.csv", tickets())
    (folder / "t" / "notes.txt").write_text("These are the tickets of last year.\n")
    assert "1 text file beside the tables is not used" in say("t")
    source = load_recipe("recipes/t.yaml").source("t")
    assert source.path == "t/tickets.csv"
    assert len(read_split(source, "train", ("text", "label")).records) == 48
    say("t", "--unlabelled", "--text-column", "body", "--overwrite")
    assert load_recipe("recipes/t.yaml").source("t").path == "t"


@pytest.mark.slow
def test_a_folder_whose_recipe_would_read_more_than_its_tables_is_refused(say, folder):
    (folder / "t").mkdir()
    write_csv(folder / "t" / "a.csv", tickets())
    write_csv(folder / "t" / "b.csv", tickets())
    (folder / "t" / "notes.txt").write_text("These are the tickets of last year.\n")
    assert "move the text files to another folder" in say("t", status=2)
    (folder / "t" / "b.csv").rename(folder / "t" / "test.csv")
    assert "t has no train split, but test; call one of its files train" in say("t", status=2)
    (folder / "t" / "a.csv").rename(folder / "t" / "train.csv")
    assert "1 text file beside the tables is not used" in say("t")
    source = load_recipe("recipes/t.yaml").source("t")
    assert (source.path, source.test_ratio) == ("t", None)
    assert [len(read_split(source, one, ("text", "label")).records) for one in ("train", "test")] == [60, 60]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "texts"),
    [
        ("tickets.csv", ["my notes.txt"]),
        ("tickets.csv", ["old/1.txt", "old/2.txt"]),
        ("t.csv", ["1.txt", "2.txt"]),  # of the folder's name, so that the recipe would have it, too
        ("train.csv", ["1.txt", "old/2.txt.gz"]),
    ],
)
def test_the_command_that_is_printed_pretrains_on_the_texts_beside_a_table(say, folder, table, texts):
    (folder / "t" / "old").mkdir(parents=True)
    write_csv(folder / "t" / table, tickets())
    if table == "train.csv":
        write_csv(folder / "t" / "test.csv", tickets(12))
    for name in texts:
        content = b"Once there was a printer. It did not print.\n" * 20
        (folder / "t" / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    [note] = [
        line for line in say("t", "--encoder", "bundled").splitlines() if "not used; to pre-train on them:" in line
    ]
    words = shlex.split(note.partition("to pre-train on them: ")[2])
    assert words[:2] == ["bertwright", "init"]
    assert "not used" not in say(*words[2:])
    path = folder / "recipes" / ("t.yaml" if table in ("t.csv", "train.csv") else "tickets.yaml")
    recipe = load_recipe(path)
    assert recipe.pretrain.encoder == "bundled"
    entry = recipe.prepare.corpora[-1]
    read = parts_read(recipe.source(entry), None)
    assert {Path(part).relative_to((folder / "t").resolve()) for part in read} == {Path(name) for name in texts}


@pytest.mark.slow
def test_a_folder_with_the_name_of_a_preset_is_that_folder(say, folder):
    (folder / "imdb").mkdir()
    write_csv(folder / "imdb" / "train.csv", tickets())
    say("imdb")
    source = load_recipe("recipes/imdb.yaml").source("imdb")
    assert source.path == "./imdb"
    assert len(read_split(source, "train", ("text", "label")).records) == 48


@pytest.mark.parametrize("words", [(), ("nothing.csv",), ("t.csv", "--minutes", "-1"), ("t.csv", "--minutes", "nan")])
def test_mistakes_are_one_sentence(say, folder, words):
    write_csv(folder / "t.csv", tickets())
    say(*words, status=2)
    assert not (folder / "recipes").exists()


@pytest.mark.parametrize("content", ["", "\n", "text,label\n", '{"a": 1', "[]", '"a\n'])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet", "txt"])
def test_odd_files_are_one_sentence_or_a_recipe(capsys, folder, content, suffix):
    (folder / f"t.{suffix}").write_text(content)
    status = main(["init", f"t.{suffix}"])
    said = capsys.readouterr().err
    assert (status == 0) == (folder / "recipes" / "t.yaml").exists()
    assert status == 0 or (said.startswith("bertwright: error: ") and said.count("\n") == 1)


@pytest.mark.slow
def test_metrics_speak_of_the_rarer_of_two_classes(say, folder):
    rows = [
        {"text": f"A payment of {n} euros to shop {n % 7}.", "label": "fraud" if n % 10 == 0 else "legit"}
        for n in range(60)
    ]
    write_csv(folder / "payments.csv", rows)
    say("payments.csv")
    assert load_recipe("recipes/payments.yaml").finetune.positive_label == "fraud"


@pytest.mark.parametrize(
    ("form", "rarer"), [("True", "true"), ("1.0", "1"), ("schema", "fraud"), ("folders", "negative")]
)
@pytest.mark.slow
def test_the_rarer_class_is_called_as_training_calls_it(say, folder, form, rarer):
    rows = [{"text": f"A payment of {n} euros to shop {n % 7}.", "label": int(n % 10 == 0)} for n in range(60)]
    name = "payments.csv"
    if form == "schema":
        name = "payments.parquet"
        schema = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["legit", "fraud"]}}}}
        table = pa.Table.from_pylist([*rows, {"text": "A payment that nobody has looked at.", "label": -1}])
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(schema)}), folder / name)
    elif form == "folders":  # those of aclImdb
        name = "payments"
        for number, row in enumerate(rows):
            path = folder / name / ("train" if number % 4 else "test") / ("neg" if row["label"] else "pos")
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{number}.txt").write_text(row["text"])
    else:
        written = {"True": ("False", "True"), "1.0": ("0.0", "1.0")}[form]
        write_csv(folder / name, [row | {"label": written[row["label"]]} for row in rows])
    say(name)
    recipe = load_recipe("recipes/payments.yaml")
    records = read_split(recipe.source("payments"), "train", ("text", "label")).records
    assert recipe.finetune.positive_label == rarer
    assert rarer in {record.label for record in records}


def test_epochs_fall_as_labels_grow():
    found = [epochs(labels) for labels in (10, 50, 200, 2_000, 20_000, 200_000, 5_000_000)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (40, 1)


TEXTS = Texts(0, 0, None, 0, 90_000, (9, 30, 60), (8, 20, 30), {"LATIN": 1.0}, 0.9)
TASKS = {
    "classification": {"label_column": "label", "labels": {"a": 1, "b": 1}},
    "pairs": {"label_column": "label", "labels": {"a": 1, "b": 1}, "pair_column": "text_pair"},
    "regression": {"label_column": "label", "labels": {}, "task": "regression"},
    "multi-label": {"label_columns": ("a", "b"), "labels": {}, "task": "multi-label"},
    "token-classification": {"tagged": {"tokens_column": "words"}, "labels": {"PER": 3}},
    "question-answering": {"tagged": {"context_column": "text"}, "labels": {}, "task": "question-answering"},
    "multiple-choice": {"tagged": {"choices_column": "ends"}, "labels": {}, "task": "multiple-choice"},
}


@pytest.mark.parametrize("kind", list(TASKS))
@pytest.mark.parametrize(("rows", "few", "very_few"), [(500, True, True), (3_000, True, False), (9_000, False, False)])
@pytest.mark.slow
def test_each_task_gets_settings_for_its_number_of_labels(folder, kind, rows, few, very_few):
    given = {"label_column": None, **TASKS[kind]}
    if not given.get("task") and "tagged" not in given:
        given["labels"] = dict.fromkeys(given["labels"], rows // 2)
    texts = dataclasses.replace(TEXTS, rows=rows)
    contents = Contents(rows, False, {}, 0, None)
    named = {"name": "t", "path": "t", "text_column": "text"}
    plain = {"has_test": True, "groups": [], "notes": [], "is_plain": False, "characters": 90_000}
    (folder / "t.yaml").write_text(
        write_recipe([Findings(contents=contents, texts=texts, **named, **plain, **given)], 20, "x")
    )
    recipe = load_recipe("t.yaml")
    config, task = recipe.finetune, recipe_task(recipe)
    assert task.name == ("classification" if kind == "pairs" else kind)
    assert ("text_pair" in task.columns) == (kind == "pairs")
    assert config.seeds == ((0, 1, 2) if very_few else (0,))
    assert config.early_stopping_patience == (5 if few else None)
    assert (config.batch_size, config.optimizer.learning_rate) == ((16, 1e-4) if few else (32, 5e-5))
    assert config.validation_ratio == (0.2 if very_few else 0.1)
    assert config.epochs == {500: 20, 3_000: 8, 9_000: 3}[rows]
    assert config.class_weights is None
    assert config.encoder == "bundled"


@pytest.mark.slow
@pytest.mark.parametrize("rows", [tickets, comments])
def test_a_run_of_the_written_recipe_ends_with_a_report(say, folder, rows):
    write_csv(folder / "t.csv", rows())
    say("t.csv")
    # One process computes in one precision, and the other tests of this one compute in fp32.
    words = ["--finetune.epochs", "2", "--system.compile", "off", "--system.precision", "fp32"]
    assert main(["run", "recipes/t.yaml", *words]) == 0
    assert (folder / "runs" / "t" / "report.html").exists()
    assert len(list((folder / "runs" / "t" / "finetune").glob("seed-*"))) == 3


GERMAN = "der drucker ist schon wieder kaputt und niemand weiß warum die rechnung stimmt nicht".split()


def german(rows=40):
    texts = [" ".join([*(GERMAN[(n * k) % len(GERMAN)] for k in range(1, 12)), str(n)]) for n in range(1, rows + 1)]
    return [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)]


def write_encoder(path, texts, **shape):
    """A model folder with random weights and a vocabulary of some texts."""
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = ModelConfig(**{**small, "max_position_embeddings": 64, **shape})
    kind = "byte_bpe" if config.architecture == "modernbert" else "wordpiece"
    tokenizer = Tokenizer.train(texts, TokenizerConfig(type=kind, vocab_size=600, min_frequency=1))
    save_model(PretrainingModel(new_encoder(config, tokenizer.vocab_size, tokenizer.pad_id)), tokenizer, path)
    return path


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.slow
def test_labels_of_any_language_start_from_a_folder_and_its_vocabulary(say, folder, architecture):
    write_csv(folder / "t.csv", german())
    write_encoder(folder / "my bert", [row["text"] for row in german()], architecture=architecture)
    assert "not English; the bundled vocabulary knows " in say("t.csv")
    said = say("t.csv", "--encoder", "my bert", "--overwrite")
    assert "Latin script, not English; the vocabulary of my bert knows 100 % of the words" in said
    recipe = load_recipe("recipes/t.yaml")
    assert (recipe.finetune.encoder, recipe.pretrain.encoder, recipe.prepare.corpora) == ("my bert", None, ())
    assert not recipe.finetune.averaging_block
    assert recipe.finetune.optimizer.learning_rate == 1e-4
    check_encoder(recipe.finetune, folder / "my bert")
    written = (folder / "recipes" / "t.yaml").read_text()
    assert written.startswith("# Written by: bertwright init t.csv --encoder 'my bert'\n")


@pytest.mark.parametrize(
    ("name", "shape", "optimizer", "finetune_rate"),
    [
        ("bundled", {}, ("muon", 3e-4, 1e-3), 1e-4),
        ("small", {}, ("adamw", 2e-4), 1e-4),
        ("short", {"max_position_embeddings": 40}, ("adamw", 2e-4), 1e-4),
        ("base", {"hidden_size": 768, "num_attention_heads": 12}, ("adamw", 3e-5), 3e-5),
        ("modern", {"architecture": "modernbert"}, ("adamw", 2e-4), 1e-4),
        ("runs/muon", {}, ("muon", 3e-4, 1e-3), 1e-4),
        ("runs/adamw", {}, ("adamw", 2e-4), 1e-4),
    ],
)
@pytest.mark.slow
def test_texts_adapt_a_folder_at_rates_and_lengths_that_fit_it(say, folder, name, shape, optimizer, finetune_rate):
    rows = [row | {"body": " ".join([row["body"]] * 9)} for row in tickets()]  # longer than most of the folders read
    texts = [row["body"] for row in rows]
    write_csv(folder / "t.csv", rows)
    (folder / "old.txt").write_text("\n".join(texts))
    if name.startswith("runs/"):
        write_encoder(folder / name / "pretrain" / "model", texts, **shape)
        content = {"pretrain": {"optimizer": {"name": name.partition("/")[2]}}}
        (folder / name / "pretrain" / "recipe.yaml").write_text(yaml.safe_dump(content))
    elif name != "bundled":
        write_encoder(folder / name, texts, **shape)
    say("t.csv", "old.txt", "--encoder", name)
    recipe = load_recipe("recipes/t.yaml")
    config = recipe.pretrain
    assert (config.encoder, config.next_sentence, recipe.finetune.encoder) == (name, False, None)
    found = (config.optimizer.name, config.optimizer.learning_rate, config.optimizer.muon_learning_rate)
    assert found[: len(optimizer)] == optimizer
    assert recipe.finetune.optimizer.learning_rate == finetune_rate
    assert recipe.finetune.averaging_block == (optimizer[0] == "muon")
    resolved = with_encoder(recipe, find_model(name, "encoder"))  # which refuses lengths beyond the positions
    assert resolved.model.max_position_embeddings == shape.get(
        "max_position_embeddings", 512 if name == "bundled" else 64
    )
    assert config.phases[0].sequence_length == {"short": 32, "bundled": 128}.get(name, 64)
    assert ("has no more positions" in (folder / "recipes" / "t.yaml").read_text()) == (name != "bundled")


@pytest.mark.slow
def test_texts_alone_adapt_a_folder_and_so_do_texts_beside_tags(say, folder):
    texts = [row["text"] for row in german()]
    write_encoder(folder / "bert", texts)
    (folder / "old.txt").write_text("\n".join(texts))
    say("old.txt", "--encoder", "bert")
    recipe = load_recipe("recipes/old.yaml")
    assert (recipe.pretrain.encoder, recipe.prepare.corpora, recipe.finetune.data) == ("bert", ("old",), "")
    rows = [{"tokens": text.split(), "tags": ["B-X"] + ["O"] * 11} for text in texts]
    (folder / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    say("tags.jsonl", "--encoder", "bert")
    assert load_recipe("recipes/tags.yaml").finetune.encoder == "bert"
    say("tags.jsonl", "old.txt", "--encoder", "bert", "--overwrite")
    recipe = load_recipe("recipes/tags.yaml")
    assert (recipe.pretrain.encoder, recipe.prepare.corpora) == ("bert", ("old",))
    assert recipe.finetune.task == "token-classification"


@pytest.mark.slow
def test_english_texts_beside_tags_adapt_the_bundled_encoder_at_the_tags_length(say, folder):
    words = "The boat sank near the old harbour and nobody saw it in the rain that day".split()
    rows = [{"tokens": [*words * 6, f"{n}"], "tags": [*(["O", "B-X"] + ["O"] * 14) * 6, "O"]} for n in range(30)]
    (folder / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "old.txt").write_text("\n".join([" ".join(words)] * 40))
    say("tags.jsonl", "old.txt")
    recipe = load_recipe("recipes/tags.yaml")
    assert (recipe.pretrain.encoder, recipe.finetune.task) == ("bundled", "token-classification")
    assert recipe.pretrain.phases[0].sequence_length >= recipe.finetune.max_length > 90


@pytest.mark.slow
def test_a_home_folder_is_one_however_it_is_written(say, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    write_csv(folder / "t.csv", german())
    write_encoder(folder / "bert", [row["text"] for row in german()])
    say("t.csv", "--encoder=~/bert")
    recipe = load_recipe("recipes/t.yaml")
    assert find_model(recipe.finetune.encoder, "encoder") == folder / "bert"
    again = shlex.split((folder / "recipes" / "t.yaml").read_text().splitlines()[0].partition("bertwright init ")[2])
    say(*again, "--overwrite")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("nothing", "--encoder is bert, but there is no such folder; give a model folder"),
        ("empty", "bert is not a model folder: it has no config.json"),
        ("gpt2", "bert holds a gpt2 model"),
        ("pickle", "bert has no model.safetensors, only a pickle"),
        ("no vocabulary", "there is no tokenizer at"),
        ("another script", "of these texts are unknown to the vocabulary of bert; give an encoder of their language"),
    ],
)
@pytest.mark.slow
def test_an_encoder_that_cannot_be_used_is_refused_before_a_recipe_is_written(say, folder, kind, expected):
    write_csv(folder / "t.csv", tickets())
    bert = folder / "bert"
    if kind == "another script":
        write_encoder(bert, ["Ο εκτυπωτής χάλασε πάλι.", "Το τιμολόγιο είναι λάθος."])
    elif kind != "nothing":
        write_encoder(bert, [row["body"] for row in tickets()])
    if kind == "empty":
        (bert / "config.json").unlink()
    if kind == "gpt2":
        (bert / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    if kind == "pickle":
        (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    if kind == "no vocabulary":
        for name in ("vocab.txt", "tokenizer.json"):
            (bert / name).unlink()
    assert expected in say("t.csv", "--encoder", "bert", status=2)
    assert not (folder / "recipes").exists()


@pytest.mark.slow
def test_without_an_encoder_torch_is_not_loaded(folder):
    write_csv(folder / "t.csv", tickets())
    asked = "import sys; from bertwright.cli import main; print(main(['init', 't.csv']), 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.endswith("\n0 False\n")


def general_of(recipe):
    """The corpora that no phase of a recipe reads."""
    return [name for name in recipe.prepare.corpora if name not in (recipe.pretrain.phases[0].corpora or (name,))]


@pytest.mark.parametrize("encoder", [None, "bundled"])
@pytest.mark.slow
def test_general_text_shows_what_an_encoder_forgets(say, folder, encoder):
    words = [] if encoder is None else ["--encoder", encoder]
    write_csv(folder / "tickets.csv", tickets(99))
    write_csv(folder / "general.csv", [{"body": row["body"]} for row in tickets(200)[100:]])
    say("tickets.csv", "general.csv", *words)
    recipe = load_recipe("recipes/tickets.yaml")
    assert recipe.prepare.corpora == ("tickets:train", "general", "general-text")
    assert general_of(recipe) == ["general-text"]
    assert recipe.prepare.heldout_ratio == 0.05
    assert len(parts_read(recipe.source("general-text"), None)) == 72
    assert "what is forgotten" in (folder / "recipes" / "tickets.yaml").read_text()
    # Too little of one's own would be held out beside it, and in another language it says nothing.
    for rows, text in ((20, "body"), (120, "text")):
        own = german(rows) if text == "text" else tickets(rows)
        write_csv(folder / "few.csv", [{"text": row[text], "label": number % 2} for number, row in enumerate(own)])
        (folder / "old.txt").write_text("\n".join(row[text] for row in own))
        say("few.csv", "old.txt", "--overwrite", *words)
        assert general_of(load_recipe("recipes/few.yaml")) == []


@pytest.mark.slow
@pytest.mark.parametrize("headless", [False, True])
def test_what_an_encoder_without_its_head_forgets_is_not_promised(say, folder, headless):
    write_csv(folder / "tickets.csv", tickets(99))
    write_csv(folder / "old.csv", [{"body": row["body"]} for row in tickets(200)[100:]])
    weights = write_encoder(folder / "bert", [row["body"] for row in tickets(200)]) / "model.safetensors"
    if headless:
        kept = {name: value for name, value in load_file(weights).items() if not name.startswith("cls.")}
        save_file(kept, weights, {"format": "pt"})
    say("tickets.csv", "old.csv", "--encoder", "bert")
    assert general_of(load_recipe("recipes/tickets.yaml")) == ([] if headless else ["general"])


def test_a_run_that_has_only_fine_tuned_names_its_model(say, folder):
    write_csv(folder / "t.csv", tickets(99))
    write_encoder(folder / "run" / "finetune" / "seed-0" / "model", [row["body"] for row in tickets(99)])
    said = say("t.csv", "--encoder", "run", status=2)
    assert "run has fine-tuned an encoder and pre-trained none; name its model: run/finetune/seed-0/model" in said
    say("t.csv", "--encoder", "run/finetune/seed-0/model")


@pytest.mark.slow
def test_the_report_has_a_row_for_what_was_forgotten(say, folder, sample):
    write_csv(folder / "t.csv", tickets(99))
    (folder / "old").mkdir()
    for number, row in enumerate(tickets(200)[99:]):
        (folder / "old" / f"{number}.txt").write_text(row["body"])
    texts = [path.read_text() for path in (sample / "books").glob("*.txt")]
    write_encoder(folder / "bert", texts, max_position_embeddings=32)
    say("t.csv", "old", "--encoder", "bert", "--minutes", "0.05")
    words = "--finetune.epochs 1 --finetune.seeds [0] --pretrain.log_every 1 --system.compile off"
    assert main(["run", "recipes/t.yaml", *words.split(), "--system.precision", "fp32"]) == 0
    results = json.loads((folder / "runs" / "t" / "results.json").read_text())
    apart = results["heldout_corpora"]
    assert apart["general"]["after"]["mlm_loss"] > 0
    assert set(apart) == {"t:train", "old", "general"}
    assert "loss on masked tokens, general alone" in (folder / "runs" / "t" / "report.html").read_text()
