"""Fine-tuning's view of its texts: what is cut, how batches are formed, what is held out, how texts are judged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.recipe import FinetuneConfig, ModelConfig, OptimizerConfig, SystemConfig
from bertwright.errors import UserError
from bertwright.models.heads import BertForPreTraining, BertForSequenceClassification
from bertwright.models.checkpoints import load_classifier, load_pretraining_model, save_model
from bertwright.tasks.baselines import nb_logistic_regression
from bertwright.tasks.classify import (
    ClassificationObjective,
    ClassifyTask,
    EncodedTexts,
    certain,
    collate,
    encode_texts,
    finetune,
    label_names,
    label_numbers,
    predict_probabilities,
    split_validation,
    start_classifier,
    truncate,
    windows,
)
from bertwright.text.corpus import LabelledText, read_labelled
from bertwright.train.engine import Engine

SHAPE = ModelConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
    hidden_dropout_prob=0.1,
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(SystemConfig(precision="fp32", compile="off"), print)


def texts_of(lengths: list[int], vocabulary: int = 60) -> EncodedTexts:
    """Random texts of given lengths; their first token numbers them."""
    rng = np.random.default_rng(0)
    ids = [np.concatenate([[i], rng.integers(5, vocabulary, n - 1)]).astype(np.int32) for i, n in enumerate(lengths)]
    return EncodedTexts(ids, certain(np.arange(len(lengths)) % 2, 2))


def model_of(classes: list[str], vocabulary: int, pad_id: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(SHAPE, vocabulary, classes, 0.1, pad_id)


def task_of(texts: EncodedTexts, tokenizer, folder: Path, **settings) -> ClassifyTask:
    config = FinetuneConfig(data="reviews", max_length=64, **settings)
    model = model_of(["negative", "positive"], tokenizer.vocab_size, tokenizer.pad_id)
    return ClassifyTask(config, 3, model, tokenizer, texts, texts, folder)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(length=st.integers(0, 40), room=st.integers(1, 40), where=st.sampled_from(["head", "tail", "head-tail"]))
def test_a_long_text_keeps_its_head_its_tail_or_half_of_each(length, room, where):
    ids = np.arange(length, dtype=np.int32)
    kept = truncate(ids, room, where).tolist()
    if length <= room:
        assert kept == list(range(length))
    elif where == "head":
        assert kept == list(range(room))
    elif where == "tail":
        assert kept == list(range(length - room, length))
    else:
        assert kept == [*range(room // 2), *range(length - (room - room // 2), length)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(length=st.integers(0, 200), most=st.integers(3, 40))
def test_windows_hold_all_of_a_text_once_in_few_framed_parts_of_like_length(length, most):
    body = np.arange(10, 10 + length, dtype=np.int32)
    found = windows(np.concatenate([[1], body, [2]]).astype(np.int32), most)
    assert all(part[0] == 1 and part[-1] == 2 and len(part) <= most for part in found)
    assert np.concatenate([part[1:-1] for part in found]).tolist() == body.tolist()
    assert len(found) == max(1, -(-length // (most - 2)))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_texts_are_framed_by_special_tokens_and_fit(small_tokenizer):
    texts = ["the cat", "rain was falling " * 30, "", "one<br /><BR>two"]
    encoded = encode_texts(texts, small_tokenizer, 16, "tail")
    for ids in encoded:
        assert ids[0] == small_tokenizer.cls_id
        assert ids[-1] == small_tokenizer.sep_id
    assert [len(ids) for ids in encoded[1:3]] == [16, 2]
    assert encoded[1].tolist()[1:-1] == small_tokenizer.encode(["rain was falling " * 30])[0].tolist()[-14:]
    assert encoded[3].tolist()[1:-1] == small_tokenizer.encode(["one two"])[0].tolist()


def test_an_epoch_holds_each_text_once_in_full_batches_of_like_lengths(small_tokenizer, tmp_path):
    rng = np.random.default_rng(1)
    lengths = rng.integers(4, 60, 1003).tolist()
    task = task_of(texts_of(lengths), small_tokenizer, tmp_path, batch_size=10)
    epochs = [task.epoch_batches(epoch) for epoch in (0, 1, 0)]
    for batches in epochs:
        assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
        assert sorted(map(len, batches)) == [3] + [10] * 100
        computed = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        assert sum(lengths) / computed > 0.9, "little of what is computed is padding"
    assert [b.tolist() for b in epochs[0]] == [b.tolist() for b in epochs[2]]
    assert [b.tolist() for b in epochs[0]] != [b.tolist() for b in epochs[1]]


@pytest.mark.parametrize("world", [1, 3, 7])
def test_processes_share_out_a_batch_and_none_is_without_rows(small_tokenizer, tmp_path, world):
    task = task_of(texts_of([5 + i % 50 for i in range(61)]), small_tokenizer, tmp_path, batch_size=12)
    for number in range(2 * task.batches_per_epoch):
        epoch, index = divmod(number, task.batches_per_epoch)
        expected = sorted(task.epoch_batches(epoch)[index].tolist())
        found = []
        for rank in range(world):
            parts = task.micro_batches(0, number, rank, world)
            assert parts, "a process without a batch would leave the others waiting"
            for part in parts:
                scored = part["targets"].sum(1) > 0
                found += part["input_ids"][scored, 0].tolist()
                assert task.counts(part)["label"] == int(scored.sum())
        assert sorted(found) == expected


def test_micro_batches_are_bounded_and_hold_the_rows_unchanged(small_tokenizer, tmp_path):
    texts = texts_of([60, 4, 33, 17, 48, 9, 64, 5])
    task = task_of(texts, small_tokenizer, tmp_path, batch_size=8, micro_batch_tokens=128)
    parts = task.micro_batches(0, 0, 0, 1)
    rows = {}
    for part in parts:
        assert part["input_ids"].numel() <= 128
        for ids, mask, label in zip(part["input_ids"], part["attention_mask"], part["targets"].argmax(1), strict=True):
            assert (ids[~mask] == small_tokenizer.pad_id).all()
            rows[int(ids[0])] = (ids[mask].tolist(), int(label))
    assert rows == {i: (texts.ids[i].tolist(), int(texts.labels[i])) for i in range(8)}


def test_the_validation_part_is_balanced_the_same_every_time_and_apart():
    labels = np.array([0] * 90 + [1] * 10)
    training, validation = split_validation(labels, 0.2)
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(100))
    assert np.bincount(labels[validation]).tolist() == [18, 2]
    assert split_validation(labels, 0.2)[1].tolist() == validation.tolist()


def test_a_class_of_one_text_is_trained_on():
    training, validation = split_validation(np.array([0] * 40 + [1]), 0.2)
    assert 40 in training
    assert len(validation) == 8


def test_padding_stays_within_the_model_s_positions(small_tokenizer, tmp_path):
    torch.manual_seed(0)
    shape = replace(SHAPE, max_position_embeddings=60)  # no multiple of the step that widths are rounded to
    model = BertForSequenceClassification(shape, small_tokenizer.vocab_size, ["a", "b"], 0.1, small_tokenizer.pad_id)
    texts = texts_of([60, 50])
    assert predict_probabilities(model, texts.ids, 128, 64).shape == (2, 2)
    config = FinetuneConfig(data="reviews", max_length=60, micro_batch_tokens=64)
    task = ClassifyTask(config, 0, model, small_tokenizer, texts, texts, tmp_path)
    assert [batch["input_ids"].shape for batch in task.micro_batches(0, 0, 0, 1)] == [(1, 60), (1, 60)]


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]])
def test_a_classifier_is_a_start_for_any_number_of_classes(small_tokenizer, tmp_path, names):
    given = model_of(["negative", "positive"], small_tokenizer.vocab_size, small_tokenizer.pad_id)
    save_model(given, small_tokenizer, tmp_path)
    model = start_classifier(tmp_path, FinetuneConfig(data="reviews"), names, print)
    assert model.classifier.out_features == len(names)
    assert torch.equal(model.classifier.weight[:2], given.classifier.weight) == (len(names) == 2)
    assert torch.equal(model.bert.pooler.dense.weight, given.bert.pooler.dense.weight)


@pytest.mark.parametrize("size", [10, 60])
def test_few_rows_of_the_validation_part_have_a_neighbour_in_training(size):
    films = np.arange(10_000) // size  # the rows of a film stand side by side, both classes mixed
    training, validation = split_validation(np.arange(10_000) % 2, 0.1)
    leaked = np.isin(films[validation], films[training])
    assert leaked.mean() < 0.35, "drawn row by row it would be nearly all"
    assert len(validation) == 1_000


def test_a_text_is_judged_alike_whatever_its_batch_mates():
    model = model_of(["a", "b", "c"], 60).eval()
    rng = np.random.default_rng(2)
    ids = [rng.integers(5, 60, n).astype(np.int32) for n in (3, 50, 17, 64, 9, 31)]
    together = predict_probabilities(model, ids, 128, 64)
    alone = np.concatenate([predict_probabilities(model, [text], 128, 64) for text in ids])
    assert together.shape == (6, 3)
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)


def test_a_text_in_windows_gets_the_mean_of_their_logits():
    model = model_of(["a", "b", "c"], 60).eval()
    rng = np.random.default_rng(2)
    ids = [rng.integers(5, 60, n).astype(np.int32) for n in (9, 150, 64, 65)]
    found = predict_probabilities(model, ids, 128, 64)
    for text, row in zip(ids, found, strict=True):
        with torch.inference_mode():
            parts = [torch.from_numpy(part)[None].long() for part in windows(text, 64)]
            logits = torch.cat([model(part, torch.zeros_like(part)) for part in parts])
        np.testing.assert_allclose(row, logits.mean(0).softmax(-1).numpy(), atol=1e-6)
    assert predict_probabilities(model, [], 128, 64).shape == (0, 3)


def test_with_windows_training_sees_both_ends_and_the_validation_part_is_judged_whole(
    small_recipe, small_tokenizer, engine, tmp_path
):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    rates = OptimizerConfig(learning_rate=0.02)
    settings = {"max_length": 32, "validation_ratio": 0.25, "epochs": 1, "optimizer": rates}
    recipes = {name: small_recipe(finetune={**settings, "truncation": name}) for name in ("head-tail", "windows")}
    for name, recipe in recipes.items():
        finetune(recipe, encoder, tmp_path / name, "f", engine, lambda _: None)
    models = [load_classifier(tmp_path / name / "seed-0" / "model") for name in recipes]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other), "training is the same"
    texts = read_labelled(recipes["windows"].source("reviews"), "train")
    labels = np.array([int(text.label) for text in texts])
    _, held_out = split_validation(labels, 0.25)
    ids = encode_texts([texts[i].text for i in held_out], small_tokenizer, 32, "windows")
    assert max(map(len, ids)) > 32
    said = predict_probabilities(models[1], ids, 256, 32)
    loss = float(-np.log(said[np.arange(len(held_out)), labels[held_out]]).mean())
    noted = [json.loads((tmp_path / name / "seed-0" / "done.json").read_text())["validation_loss"] for name in recipes]
    assert noted[1] == pytest.approx(loss, rel=2e-5)
    assert noted[0] != pytest.approx(loss, rel=2e-5), "head and tail alone say something else"


def test_judging_leaves_a_training_model_in_training():
    model = model_of(["a", "b"], 60).train()
    predict_probabilities(model, [np.array([5, 6, 7], np.int32)], 128, 64)
    assert model.training


def test_labels_get_numbers_in_the_order_of_their_names():
    words = [LabelledText("1", "x", "spam"), LabelledText("2", "y", "ham"), LabelledText("3", "z", "spam")]
    assert label_names(words) == ["ham", "spam"]
    assert label_numbers(words, ["ham", "spam"], "data.mail").tolist() == [1, 0, 1]
    numbers = [LabelledText("1", "x", 1), LabelledText("2", "y", 0)]
    assert label_names(numbers) == ["negative", "positive"]
    assert label_numbers(numbers, ["negative", "positive"], "data.mail").tolist() == [1, 0]
    with pytest.raises(UserError, match=r"data\.mail: text 2 has label 'ham'.*spam"):
        label_numbers(words, ["spam"], "data.mail")


def encoder_folder(folder: Path, tokenizer) -> Path:
    torch.manual_seed(1)
    save_model(BertForPreTraining(SHAPE, tokenizer.vocab_size, tokenizer.pad_id), tokenizer, folder)
    return folder


def test_the_best_checkpoint_by_validation_is_the_one_that_is_kept(small_recipe, small_tokenizer, engine, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    recipe = small_recipe(finetune={"epochs": 3, "evaluations_per_epoch": 2, "seeds": (0, 1), "validation_ratio": 0.25})
    finetune(recipe, encoder, tmp_path / "out", "print", engine, lambda _: None)
    for seed in (0, 1):
        folder = tmp_path / "out" / f"seed-{seed}"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        best = min(row["loss"] for row in rows if row["kind"] == "eval")
        assert json.loads((folder / "done.json").read_text())["validation_loss"] == best
        texts = read_labelled(recipe.source("reviews"), "train")
        labels = np.array([int(text.label) for text in texts])
        _, held_out = split_validation(labels, 0.25)
        ids = encode_texts([texts[i].text for i in held_out], small_tokenizer, 64, "head-tail")
        said = predict_probabilities(load_classifier(folder / "model"), ids, 256, 64)
        loss = -np.log(said[np.arange(len(held_out)), labels[held_out]]).mean()
        assert loss == pytest.approx(best, rel=1e-4)
    one, other = ((tmp_path / "out" / f"seed-{seed}" / "model" / "model.safetensors").read_bytes() for seed in (0, 1))
    assert one != other


def test_an_averaging_block_is_one_block_more_and_still_a_plain_bert(small_recipe, small_tokenizer, engine, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    recipe = small_recipe(finetune={"averaging_block": True, "epochs": 1})
    start = start_classifier(encoder, recipe.finetune, ["bad", "good"], print)
    before = dict(load_pretraining_model(encoder).bert.named_parameters())
    for name, value in start.bert.named_parameters():
        if name.startswith("blocks.2."):
            assert name not in before
        elif not name.startswith("pooler."):
            assert torch.equal(value, before[name])
    assert not start.bert.blocks[2].attention.query.weight.any(), "queries of zero look at all positions alike"

    finetune(recipe, encoder, tmp_path / "out", "print", engine, lambda _: None)
    folder = tmp_path / "out" / "seed-0" / "model"
    ours, theirs = (
        load_classifier(folder).eval(),
        transformers.AutoModelForSequenceClassification.from_pretrained(folder),
    )
    assert theirs.config.num_hidden_layers == 3
    ids = torch.randint(5, small_tokenizer.vocab_size, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs.eval()(ids).logits
        torch.testing.assert_close(ours(ids, torch.zeros_like(ids)), expected, rtol=1e-4, atol=1e-5)


def test_texts_longer_than_the_encoder_s_positions_are_refused(small_recipe, small_tokenizer, engine, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    recipe = small_recipe(model={"max_position_embeddings": 128}, finetune={"max_length": 128})
    with pytest.raises(UserError, match=r"max_length is 128, but .* has 64 positions; lower it"):
        finetune(recipe, encoder, tmp_path / "out", "print", engine, lambda _: None)


def test_an_encoder_with_another_vocabulary_than_its_tokenizer_is_refused(
    small_recipe, small_tokenizer, engine, tmp_path
):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 8}))
    with pytest.raises(UserError, match=r"do not belong together"):
        finetune(small_recipe(), encoder, tmp_path / "out", "print", engine, lambda _: None)


def test_a_teacher_s_guesses_are_learnt_beside_the_labels(small_recipe, small_tokenizer, engine, tmp_path):
    folder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    said = []
    recipe = small_recipe(finetune={"unlabelled": "books", "epochs": 1, "seeds": [0, 1]})
    finetune(recipe, folder, tmp_path / "out", "f", engine, said.append)
    guesses = np.load(tmp_path / "out" / "teacher" / "guesses.npy")
    assert guesses.shape == (30, 2)
    teacher = load_classifier(tmp_path / "out" / "teacher" / "model")
    books = sorted(Path(recipe.source("books").path).glob("*.txt"))
    ids = encode_texts([book.read_text() for book in books], small_tokenizer, 64, "head-tail")
    assert np.allclose(guesses, predict_probabilities(teacher, ids, 256, 64), atol=1e-6)
    assert [line for line in said if "fine-tuning" in line] == [
        "fine-tuning a teacher with seed 0: 36 texts, 4 to validate on",
        "fine-tuning with seed 0: 66 texts, 4 to validate on",
        "fine-tuning with seed 1: 66 texts, 4 to validate on",
    ]
    assert all((tmp_path / "out" / f"seed-{seed}" / "model" / "model.safetensors").exists() for seed in (0, 1))


def test_co_training_learns_from_the_mean_of_the_teacher_and_a_bag_of_words(
    small_recipe, small_tokenizer, engine, tmp_path
):
    folder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    changes = {"unlabelled": "reviews:test", "epochs": 0.2}
    recipe = small_recipe(finetune={**changes, "co_training": True})
    finetune(recipe, folder, tmp_path / "out", "f", engine, lambda _: None)
    train = read_labelled(recipe.source("reviews"), "train")
    labels = np.array([int(example.label) for example in train])
    own, _ = split_validation(labels, recipe.finetune.validation_ratio)
    bag = nb_logistic_regression().fit([train[i].text for i in own], labels[own])
    texts = [example.text for example in read_labelled(recipe.source("reviews"), "test")]
    teacher = load_classifier(tmp_path / "out" / "teacher" / "model")
    alone = predict_probabilities(teacher, encode_texts(texts, small_tokenizer, 64, "head-tail"), 256, 64)
    both = np.load(tmp_path / "out" / "teacher" / "guesses.npy")
    assert np.allclose(both, (alone + bag.predict_proba(texts)) / 2, atol=1e-5)
    assert not np.allclose(both, alone, atol=1e-2)
    with pytest.raises(UserError, match=r"finetune\.co_training needs texts without labels"):
        small_recipe(finetune={"co_training": True})


def test_long_texts_without_labels_are_left_out(small_recipe, small_tokenizer, engine, tmp_path):
    folder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    changes = {"unlabelled": "reviews:test", "epochs": 0.2, "unlabelled_max_length": 63}
    recipe = small_recipe(finetune=changes)
    texts = [example.text for example in read_labelled(recipe.source("reviews"), "test")]
    short = [ids for ids in encode_texts(texts, small_tokenizer, 64, "head-tail") if len(ids) <= 63]
    assert 0 < len(short) < len(texts)
    finetune(recipe, folder, tmp_path / "out", "f", engine, lambda _: None)
    assert len(np.load(tmp_path / "out" / "teacher" / "guesses.npy")) == len(short)
    recipe = small_recipe(finetune={**changes, "unlabelled_max_length": 3})
    with pytest.raises(UserError, match="no text of at most 3 tokens"):
        finetune(recipe, folder, tmp_path / "out2", "f", engine, lambda _: None)


def test_the_loss_is_the_cross_entropy_with_the_targets_and_rows_of_zeros_do_not_count():
    model = model_of(["a", "b", "c"], 60).eval()
    batch = collate([np.arange(5, 15, dtype=np.int32)] * 3, model.bert)
    targets = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    outcome = ClassificationObjective(model)(**batch, targets=targets)
    logits = model(**batch)[:2]
    expected = torch.nn.functional.cross_entropy(logits, targets[:2], reduction="sum")
    assert float(outcome["label_loss"]) == pytest.approx(float(expected), rel=1e-6)
    assert int(outcome["label_correct"]) == int((logits.argmax(-1) == targets[:2].argmax(-1)).sum())
