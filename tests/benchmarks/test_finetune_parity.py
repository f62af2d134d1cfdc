"""Whole fine-tunings against transformers: both sides get the same rows and tokens, and the same score."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

import finetune_parity
import parity_trainer
from bertwright.models.checkpoints import find_model, load_tokenizer
from bertwright.tasks.registry import recipe_task
from bertwright.text.records import read_records

TOKENIZER = transformers.AutoTokenizer.from_pretrained
ENTITIES = {"tokens": ["Unbelievably", ",", "Ada", "Lovelace", "left"], "tags": ["O", "O", "B-PER", "I-PER", "O"]}


@pytest.fixture(scope="module")
def encoder():
    """The bundled encoder, which transformers reads, too."""
    return find_model("bundled", "encoder")


def written(folder, part, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(folder, part):
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def pairs(count, start=0):
    return [
        {"text": f"film {n} was good", "text_pair": f"I liked {n}", "label": ("entailment", "not_entailment")[n % 2]}
        for n in range(start, start + count)
    ]


def read(task, encoder, folder, rows):
    """Task, records, labels and settings of a task whose train part are some rows."""
    written(folder, "train", rows)
    recipe = finetune_parity.recipe_of(task, folder, encoder, (0,), folder / "out")
    found = recipe_task(recipe)
    records = read_records(recipe.source(task), "train", found.columns)
    names = found.label_names(records, None, "here")
    return found, records, found.labels(records, names, records, "here"), recipe.finetune


class TestTheRows:
    def test_without_test_labels_a_tenth_of_train_is_the_validation_set_and_dev_is_scored(self, tmp_path):
        written(tmp_path / "rte", "train", pairs(50))
        written(tmp_path / "rte", "dev", pairs(7, 100))
        caps = finetune_parity.Caps(None, None, None)
        counts = finetune_parity.write_data(tmp_path, "rte", caps, tmp_path / "out")
        assert counts == {"train": 45, "validation": 5, "test": 7}
        both = rows_of(tmp_path / "out", "train") + rows_of(tmp_path / "out", "validation")
        assert sorted(row["text"] for row in both) == sorted(row["text"] for row in pairs(50))
        assert rows_of(tmp_path / "out", "test") == pairs(7, 100)

    def test_a_cap_draws_the_same_rows_each_time_and_fewer_are_among_more(self, tmp_path):
        for part, count in (("train", 40), ("dev", 20), ("test", 30)):
            written(tmp_path / "mrpc", part, pairs(count))
        found = {}
        for name, train in (("a", 10), ("b", 10), ("c", 20)):
            caps = finetune_parity.Caps(train, 5, 6)
            assert finetune_parity.write_data(tmp_path, "mrpc", caps, tmp_path / name)["test"] == 6
            found[name] = {part: rows_of(tmp_path / name, part) for part in ("train", "validation", "test")}
        assert found["a"] == found["b"]
        assert found["c"]["train"][:10] == found["a"]["train"]
        assert len(found["a"]["train"]) == 10
        assert found["a"]["train"] != pairs(10)


class TestTheFeatures:
    def test_pairs_are_the_tokens_that_ours_reads(self, tmp_path, encoder):
        rows = [{**row, "label": float(n)} for n, row in enumerate(pairs(3))]
        task, records, labels, config = read("stsb", encoder, tmp_path, rows)
        found = parity_trainer.of_texts(TOKENIZER(encoder), records, labels, config.max_length)
        ours = task.encode(records, load_tokenizer(encoder), config.max_length, config.truncation)
        for theirs, own in zip(found, ours, strict=True):
            assert theirs["input_ids"] == own.input_ids.tolist()
            assert theirs["token_type_ids"] == own.token_type_ids.tolist()
        assert [row["labels"] for row in found] == [0.0, 1.0, 2.0]

    def test_a_tag_stands_at_the_first_piece_of_its_word(self, tmp_path, encoder):
        task, records, labels, config = read("conll2003", encoder, tmp_path, [ENTITIES])
        (found,) = parity_trainer.of_tags(TOKENIZER(encoder), records, labels, config.max_length)
        (own,) = task.encode(records, load_tokenizer(encoder), None, "head")
        assert found["input_ids"] == own.input_ids.tolist()
        assert len(own) > len(ENTITIES["tokens"]) + 2, "no word is divided, so that nothing is tested"
        first = [number if number != before else -1 for before, number in zip([-1, *own.word_ids], own.word_ids)]  # noqa: B905
        expected = [labels[0][number] if number >= 0 else parity_trainer.IGNORED for number in first]
        assert found["labels"] == expected

    def test_an_answer_is_in_the_windows_that_hold_it_whole(self, tmp_path, encoder):
        context = "the film was good . " * 90 + "Ada Lovelace wrote it . " + "the film was bad . " * 60
        answer = {"text": "Ada Lovelace", "start": context.index("Ada")}
        row = {"id": "1", "question": "Who wrote it?", "context": context, "answers": [answer]}
        _, records, labels, config = read("squad", encoder, tmp_path, [row])
        tokenizer = TOKENIZER(encoder)
        found = parity_trainer.of_questions(tokenizer, records, labels, config.max_length)
        places = [(one["start_positions"], one["end_positions"]) for one in found]
        whole = ["ada lovelace" in tokenizer.decode(one["input_ids"]) for one in found]
        assert [place != (0, 0) for place in places] == whole
        assert any(whole)
        assert not all(whole)
        for one, (start, end), inside in zip(found, places, whole, strict=True):
            assert not inside or tokenizer.decode(one["input_ids"][start : end + 1]) == "ada lovelace"


def test_a_summary_compares_means_of_seeds_and_the_faster_trainer():
    lines = [
        {"side": side, "seconds": seconds, "metrics": [{"accuracy": score} for score in scores], "rows": {"train": 8}}
        for side, seconds, scores in (
            ("ours", 15, (0.7, 0.8)),
            ("transformers", 60, (0.7, 0.72)),
            ("transformers_bf16", 30, (0.6, 0.6)),
        )
    ]
    found = finetune_parity.summary("rte", lines)
    assert (found["ours"], found["transformers"], found["difference"]) == (0.75, 0.71, 0.04)
    assert (found["ratio_seconds"], found["ratio_seconds_best"]) == (0.25, 0.5)
    assert "| rte | 0.750 | 0.710 | 0.600 | 15 | 60 | 30 | 0.25 | 0.50 |" in finetune_parity.table({"rte": found})


@pytest.mark.slow
@pytest.mark.parametrize("side", finetune_parity.SIDES[1:])
def test_the_score_of_a_trainers_model_is_that_of_its_own_predictions(side, tmp_path, encoder):
    data = tmp_path / "data"
    for part, rows in (("train", pairs(16)), ("validation", pairs(4, 16)), ("test", pairs(9, 20))):
        written(data, part, rows)
    recipe = finetune_parity.recipe_of("rte", data, encoder, (0,), tmp_path / "out")
    recipe = replace(recipe, finetune=replace(recipe.finetune, epochs=1.0))
    (folder,) = finetune_parity.train_theirs(recipe, fast=side == "transformers_bf16")
    model = transformers.BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = TOKENIZER(folder)
    right = []
    for row in pairs(9, 20):
        with torch.inference_mode():
            logits = model(**tokenizer(row["text"], row["text_pair"], return_tensors="pt")).logits
        right.append(model.config.id2label[int(logits.argmax())] == row["label"])
    assert finetune_parity.score(recipe, folder)["accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(("side", "seeds"), [("transformers", (0, 1)), ("transformers_bf16", (0,))])
def test_the_faster_trainer_has_one_seed(tmp_path, encoder, monkeypatch, side, seeds):
    trained = []

    def train(recipe, *, fast):
        trained.append((recipe.finetune.seeds, fast))
        (tmp_path / "out").mkdir()
        return [tmp_path / "out"] * len(recipe.finetune.seeds)

    monkeypatch.setattr(finetune_parity, "train_theirs", train)
    monkeypatch.setattr(finetune_parity, "score", lambda recipe, model: {"accuracy": 0.5})
    recipe = finetune_parity.recipe_of("rte", tmp_path, encoder, (0, 1), tmp_path / "out")
    assert len(finetune_parity.unit(recipe, side)["metrics"]) == len(seeds)
    assert trained == [(seeds, side == "transformers_bf16")]


def test_what_is_done_is_not_done_again(tmp_path, encoder, monkeypatch, capsys):
    for part, rows in (("train", pairs(16)), ("dev", pairs(4, 16))):
        written(tmp_path / "data" / "rte", part, rows)
    calls = []

    def counted(recipe, side):
        calls.append((side, recipe.finetune.seeds))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"seconds": len(calls), "metrics": [{"accuracy": 0.5}, {"accuracy": 0.7}]}

    monkeypatch.setattr(finetune_parity, "in_own_process", counted)
    words = {"data": str(tmp_path / "data"), "encoder": str(encoder), "tasks": ("rte",), "seeds": (0, 1)}
    words |= {"work": str(tmp_path / "work"), "out": str(tmp_path / "out.json")}
    with pytest.raises(KeyboardInterrupt):
        finetune_parity.main(**words)
    (tmp_path / "out.json").write_text('{"mrpc": {"ours": 0.5}}')
    finetune_parity.main(**words)
    first, second, third = finetune_parity.SIDES
    assert calls == [(side, (0, 1)) for side in (first, second, second, third)]
    result = json.loads((tmp_path / "out.json").read_text())
    found = result["rte"]
    assert result["mrpc"] == {"ours": 0.5}, "of an earlier call"
    assert found["seconds"]["ours"] == 1
    assert found["by_seed"]["ours"] == [0.5, 0.7]
    assert found["processor"]
    assert "| rte |" in capsys.readouterr().out
