"""Fine-tuning a classifier: what is cut, how batches are formed, the validation set, how texts are predicted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from bertwright.errors import UserError
from bertwright.inputs.sequences import Sequence, build_many, truncate, windows
from bertwright.models.checkpoints import load_pretraining_model, new_encoder, save_model
from bertwright.models.heads import PretrainingModel, TaskModel, soft_cross_entropy
from bertwright.recipe import FinetuneConfig, ModelConfig, OptimizerConfig, Recipe, Source, SystemConfig
from bertwright.tasks.baselines import nb_logistic_regression
from bertwright.tasks.finetune import finetune, new_task_model, read_split
from bertwright.tasks.prediction import collate, predict, predict_saved
from bertwright.tasks.registry import TASKS, load_task_model, recipe_task, task_of_labels
from bertwright.tasks.sequence import Classification
from bertwright.tasks.supervised import Finetuning, TaskObjective, Validation
from bertwright.tasks.task import Examples
from bertwright.tasks.validation_set import split_validation
from bertwright.text.records import Record, read_records
from bertwright.train.engine import Engine
from bertwright.train.loop import LoopConfig, train

TASK = Classification()
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


def sequence(ids) -> Sequence:
    """Ids as a sequence whose first and last token are the frame."""
    ids = np.asarray(ids, np.int32)
    special = np.zeros(len(ids), np.bool_)
    special[[0, -1]] = True
    return Sequence(ids, np.zeros_like(ids), special)


def texts_of(lengths: list[int], vocabulary: int = 60) -> Examples:
    """Random texts of given lengths; their first token numbers them."""
    rng = np.random.default_rng(0)
    sequences = [sequence([i, *rng.integers(5, vocabulary, n - 1)]) for i, n in enumerate(lengths)]
    return Examples(sequences, np.eye(2, dtype=np.float32)[np.arange(len(lengths)) % 2])


def model_of(classes: list[str], vocabulary: int, pad_id: int = 0, shape: ModelConfig = SHAPE) -> TaskModel:
    torch.manual_seed(0)
    encoder = new_encoder(shape, vocabulary, pad_id)
    return TaskModel(encoder, TASK.head(encoder, classes, 0.1), classes, TASK.name)


def job_of(texts: Examples, tokenizer, folder: Path, model: TaskModel | None = None, **settings) -> Finetuning:
    config = FinetuneConfig(**{"data": "reviews", "max_length": 64, **settings})
    model = model or model_of(["negative", "positive"], tokenizer.vocab_size, tokenizer.pad_id)
    validation = Validation(texts.sequences, texts.targets.argmax(1))
    return Finetuning(TASK, config, 3, model, tokenizer, texts, validation, folder)


def labelled(recipe, split="train"):
    """Texts and classes of a split of the recipe's reviews."""
    records = read_records(recipe.source("reviews"), split, TASK.columns)
    return [record.text for record in records], np.array([int(record.label) for record in records])


def encode(texts, tokenizer, max_length, truncation):
    return build_many(tokenizer, texts, max_length=max_length, truncation=truncation)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(length=st.integers(0, 40), capacity=st.integers(1, 40), where=st.sampled_from(["head", "tail", "head-tail"]))
@pytest.mark.slow
def test_a_long_text_keeps_its_head_its_tail_or_half_of_each(length, capacity, where):
    kept = truncate(length, capacity, where).tolist()
    if length <= capacity:
        assert kept == list(range(length))
    elif where == "head":
        assert kept == list(range(capacity))
    elif where == "tail":
        assert kept == list(range(length - capacity, length))
    else:
        assert kept == [*range(capacity // 2), *range(length - (capacity - capacity // 2), length)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(length=st.integers(0, 200), most=st.integers(3, 40))
@pytest.mark.slow
def test_windows_hold_all_of_a_text_once_in_few_framed_parts_of_like_length(length, most):
    body = np.arange(10, 10 + length, dtype=np.int32)
    whole = sequence([1, *body, 2])
    parts = windows(whole, most)
    found = [part.input_ids for part in parts]
    assert all(part.special_tokens_mask.nonzero()[0].tolist() == [0, len(part) - 1] for part in parts)
    assert all(part[0] == 1 and part[-1] == 2 and len(part) <= most for part in found)
    assert np.concatenate([part[1:-1] for part in found]).tolist() == body.tolist()
    assert len(found) == max(1, -(-length // (most - 2)))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_texts_are_framed_by_special_tokens_and_fit(small_tokenizer, monkeypatch):
    monkeypatch.setattr(small_tokenizer, "html_line_breaks", True)
    texts = ["the cat", "rain was falling " * 30, "", "one<br /><BR>two"]
    records = [Record(str(number), text) for number, text in enumerate(texts)]
    encoded = [one.input_ids for one in TASK.encode(records, small_tokenizer, 16, "tail")]
    for ids in encoded:
        assert ids[0] == small_tokenizer.cls_id
        assert ids[-1] == small_tokenizer.sep_id
    assert [len(ids) for ids in encoded[1:3]] == [16, 2]
    assert encoded[1].tolist()[1:-1] == small_tokenizer.encode(["rain was falling " * 30])[0].tolist()[-14:]
    assert encoded[3].tolist()[1:-1] == small_tokenizer.encode(["one two"])[0].tolist()


def test_an_epoch_holds_each_text_once_in_full_batches_of_like_lengths(small_tokenizer, tmp_path):
    rng = np.random.default_rng(1)
    lengths = rng.integers(4, 60, 1003).tolist()
    job = job_of(texts_of(lengths), small_tokenizer, tmp_path, batch_size=10)
    epochs = [job.epoch_batches(epoch) for epoch in (0, 1, 0)]
    for batches in epochs:
        assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
        assert sorted(map(len, batches)) == [3] + [10] * 100
        computed = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        assert sum(lengths) / computed > 0.9, "little of what is computed is padding"
    assert [b.tolist() for b in epochs[0]] == [b.tolist() for b in epochs[2]]
    assert [b.tolist() for b in epochs[0]] != [b.tolist() for b in epochs[1]]


@pytest.mark.parametrize("world", [1, 3, 7])
def test_processes_share_out_a_batch_and_none_is_without_rows(small_tokenizer, tmp_path, world):
    job = job_of(texts_of([5 + i % 50 for i in range(61)]), small_tokenizer, tmp_path, batch_size=12)
    for number in range(2 * job.batches_per_epoch):
        epoch, index = divmod(number, job.batches_per_epoch)
        expected = sorted(job.epoch_batches(epoch)[index].tolist())
        found = []
        for rank in range(world):
            parts = job.micro_batches(0, number, rank, world)
            assert parts, "a process without a batch would leave the others waiting"
            for part in parts:
                scored = part["targets"].sum(1) > 0
                found += part["input_ids"][scored, 0].tolist()
                assert job.counts(part)["label"] == int(scored.sum())
        assert sorted(found) == expected


@pytest.mark.slow
def test_one_compilation_serves_layers_that_are_alike_all_batches_and_evaluations(
    small_tokenizer, tmp_path, monkeypatch
):
    graphs = []

    def backend(graph, inputs):
        graphs.append(len(inputs))
        return graph

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **options: compile_module(module, backend=backend, **options)
    )
    shape = replace(SHAPE, num_hidden_layers=4)
    model = model_of(["a", "b"], small_tokenizer.vocab_size, small_tokenizer.pad_id, shape)
    texts = texts_of([5 + i % 50 for i in range(33)])  # the last batch has one text
    job = job_of(texts, small_tokenizer, tmp_path / "best", model, batch_size=8)
    engine = Engine(SystemConfig(precision="fp32", compile="on"), print)
    optimizer = replace(job.config.optimizer, learning_rate=1e-4)
    config = LoopConfig(optimizer, 0, 10, None, log_every=1, evaluate_every=3, checkpoint_every=100)
    after: list[int] = []
    config = replace(config, watch=lambda *_: after.append(len(graphs)))
    train(job, config, engine, tmp_path / "run", "f", lambda _: None)
    assert after[0] == after[-1] == len(graphs), "nothing is compiled after the first steps"
    assert len(graphs) <= 4, "embeddings and a block; the compiler begins both twice"


def test_micro_batches_are_bounded_and_hold_the_rows_unchanged(small_tokenizer, tmp_path):
    texts = texts_of([60, 4, 33, 17, 48, 9, 64, 5])
    job = job_of(texts, small_tokenizer, tmp_path, batch_size=8, micro_batch_tokens=128)
    parts = job.micro_batches(0, 0, 0, 1)
    rows = {}
    for part in parts:
        assert part["input_ids"].numel() <= 128
        for ids, mask, label in zip(part["input_ids"], part["attention_mask"], part["targets"].argmax(1), strict=True):
            assert (ids[~mask] == small_tokenizer.pad_id).all()
            rows[int(ids[0])] = (ids[mask].tolist(), int(label))
    assert rows == {i: (texts.sequences[i].input_ids.tolist(), int(texts.targets[i].argmax())) for i in range(8)}


def test_the_validation_set_is_balanced_the_same_every_time_and_apart():
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
    shape = replace(SHAPE, max_position_embeddings=60)  # no multiple of the step that widths are rounded to
    model = model_of(["a", "b"], small_tokenizer.vocab_size, small_tokenizer.pad_id, shape)
    texts = texts_of([60, 50])
    assert predict(TASK, model, texts.sequences, 128, 64).shape == (2, 2)
    job = job_of(texts, small_tokenizer, tmp_path, model, max_length=60, micro_batch_tokens=64)
    assert [batch["input_ids"].shape for batch in job.micro_batches(0, 0, 0, 1)] == [(1, 60), (1, 60)]


@pytest.mark.parametrize("names", [["negative", "positive"], ["ham", "spam"], ["a", "b", "c"]])
def test_a_classifier_is_a_start_for_any_number_of_classes(small_tokenizer, tmp_path, names):
    given = model_of(["negative", "positive"], small_tokenizer.vocab_size, small_tokenizer.pad_id)
    save_model(given, small_tokenizer, tmp_path)
    model = new_task_model(TASK, tmp_path, FinetuneConfig(data="reviews"), names, print)
    assert model.head.classifier.out_features == len(names)
    assert torch.equal(model.head.classifier.weight[:2], given.head.classifier.weight) == (names[0] == "negative")
    assert torch.equal(model.head.pooler.dense.weight, given.head.pooler.dense.weight)


@pytest.mark.parametrize("size", [10, 60])
def test_few_rows_of_the_validation_set_have_a_neighbour_in_training(size):
    films = np.arange(10_000) // size  # the rows of a film stand side by side, both classes mixed
    training, validation = split_validation(np.arange(10_000) % 2, 0.1)
    leaked = np.isin(films[validation], films[training])
    assert leaked.mean() < 0.35, "drawn row by row it would be nearly all"
    assert len(validation) == 1_000


def test_a_prediction_does_not_depend_on_batch_mates():
    model = model_of(["a", "b", "c"], 60).eval()
    rng = np.random.default_rng(2)
    texts = [sequence(rng.integers(5, 60, n)) for n in (3, 50, 17, 64, 9, 31)]
    together = predict(TASK, model, texts, 128, 64)
    alone = np.concatenate([predict(TASK, model, [text], 128, 64) for text in texts])
    assert together.shape == (6, 3)
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)


def test_a_text_in_windows_gets_the_mean_of_their_logits():
    model = model_of(["a", "b", "c"], 60).eval()
    rng = np.random.default_rng(2)
    texts = [sequence(rng.integers(5, 60, n)) for n in (9, 150, 64, 65)]
    found = predict(TASK, model, texts, 128, 64)
    for text, row in zip(texts, found, strict=True):
        with torch.inference_mode():
            parts = [torch.from_numpy(part.input_ids)[None].long() for part in windows(text, 64)]
            logits = torch.cat([model(part, torch.zeros_like(part)) for part in parts])
        np.testing.assert_allclose(row, logits.mean(0).softmax(-1).numpy(), atol=1e-6)
    assert predict(TASK, model, [], 128, 64).shape == (0, 3)


@pytest.mark.slow
def test_with_windows_training_sees_both_ends_and_the_validation_set_is_read_whole(
    small_recipe, small_tokenizer, engine, tmp_path
):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    rates = OptimizerConfig(learning_rate=0.01)
    settings = {"max_length": 32, "validation_ratio": 0.25, "epochs": 2, "optimizer": rates}
    recipes = {name: small_recipe(finetune={**settings, "truncation": name}) for name in ("head-tail", "windows")}
    for name, recipe in recipes.items():
        finetune(recipe, encoder, tmp_path / name, "f", engine, lambda _: None)
    models = [load_task_model(tmp_path / name / "seed-0" / "model") for name in recipes]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other), "training is the same"
    texts, labels = labelled(recipes["windows"])
    _, held_out = split_validation(labels, 0.25)
    sequences = encode([texts[i] for i in held_out], small_tokenizer, 32, "windows")
    assert max(map(len, sequences)) > 32
    predicted = predict(TASK, models[1], sequences, 256, 32)
    loss = float(-np.log(predicted[np.arange(len(held_out)), labels[held_out]]).mean())
    noted = [json.loads((tmp_path / name / "seed-0" / "done.json").read_text())["validation_loss"] for name in recipes]
    assert noted[1] == pytest.approx(loss, rel=2e-5)
    assert noted[0] != pytest.approx(loss, rel=2e-5), "head and tail alone say something else"


def test_predicting_leaves_a_training_model_in_training():
    model = model_of(["a", "b"], 60).train()
    predict(TASK, model, [sequence([5, 6, 7])], 128, 64)
    assert model.training


def test_labels_get_numbers_in_the_sorted_order_of_what_the_data_write():
    words = [Record("1", "x", label="spam"), Record("2", "y", label="ham"), Record("3", "z", label="spam")]
    assert TASK.label_names(words, None, "data.mail") == ["ham", "spam"]
    assert TASK.labels(words, ["ham", "spam"], words, "data.mail").tolist() == [1, 0, 1]
    with pytest.raises(UserError, match=r"data\.mail: text 2 has label ham.*spam"):
        TASK.labels(words, ["spam"], words[:1], "data.mail")


def test_a_recipe_names_the_classes_in_place_of_the_data():
    records = [Record("1", "x", label="1"), Record("2", "y", label="0")]
    assert TASK.label_names(records, None, "data.reviews") == ["0", "1"]
    names = TASK.label_names(records, ("negative", "positive"), "data.reviews")
    assert names == ["negative", "positive"]
    assert TASK.labels(records, names, records, "data.reviews").tolist() == [1, 0]
    with pytest.raises(UserError, match=r"finetune\.label_names has 3 names, but the data have 2 classes: 0, 1"):
        TASK.label_names(records, ("a", "b", "c"), "data.reviews")
    swapped = TASK.label_names(records, ("1", "0"), "data.reviews")
    assert TASK.labels(records, swapped, records, "data.reviews").tolist() == [0, 1], "their order, not other names"
    with pytest.raises(UserError, match=r"calls the label `0` of the data `1`"):
        TASK.label_names(records, ("1", "2"), "data.reviews")
    with pytest.raises(UserError, match=r"data\.reviews has only the label `1`.*at least two classes"):
        TASK.label_names(records[:1], None, "data.reviews")


def rows_of(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))


def test_a_validation_split_of_the_data_is_the_validation_set(small_tokenizer, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    data = tmp_path / "data"
    data.mkdir()
    for number, name in enumerate(("train", "validation", "test")):
        rows_of(data / f"{name}.jsonl", [("the cat " * (number + 1), "ab"[i % 2]) for i in range(6 * (number + 1))])
    recipe = Recipe(
        name="x", data={"x": str(data)}, finetune=FinetuneConfig(data="x", encoder=str(encoder), max_length=64)
    )
    notices = []
    split = read_split(recipe, encoder, notices.append)
    assert (len(split.training), len(split.validation.labels)) == (6, 12)
    assert split.validation.labels.tolist() == [0, 1] * 6
    assert len(split.training.sequences[0]) < len(split.validation.inputs[0])
    assert "validation_ratio is not used" in notices[0]
    rows_of(data / "validation.jsonl", [("the cat", "c")])
    with pytest.raises(UserError, match=r"split validation: text validation/0 has label c, but train has only a, b"):
        read_split(recipe, encoder, print)


def test_groups_are_not_divided_between_training_and_validation_set(small_tokenizer, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    rows = [{"text": "the cat", "label": i % 2, "author": i // 6} for i in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "a mat", "label": 0, "author": 99}) + "\n")
    source = Source(path=str(tmp_path / "t*.jsonl"), group_column="author")
    finetuning = FinetuneConfig(data="x", encoder=str(encoder), max_length=64, validation_ratio=0.2)
    split = read_split(Recipe(name="x", data={"x": source}, finetune=finetuning), encoder, print)
    training = {split.records[i].group for i in split.training_rows}
    assert len(training) == 8
    assert len(split.validation.labels) == 12
    assert sum(record.group not in training for record in split.records) == 12


@pytest.mark.parametrize("classes", [[-1, 0, 1], list(range(12))])
def test_class_n_of_a_saved_model_is_label_n_here_and_in_transformers(small_tokenizer, tmp_path, classes):
    rows_of(tmp_path / "train.jsonl", [(f"text {number}", number) for number in reversed(classes)])
    records = read_records(Source(path=str(tmp_path)), "train", TASK.columns)
    names = TASK.label_names(records, None, "")
    assert TASK.labels(records, names, records, "").tolist() == list(reversed(range(len(classes))))
    model = model_of(names, small_tokenizer.vocab_size, small_tokenizer.pad_id)
    save_model(model, small_tokenizer, tmp_path / "model")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert theirs.config.id2label == {number: str(label) for number, label in enumerate(classes)}
    assert load_task_model(tmp_path / "model").label_names == names
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model.eval()(ids, torch.zeros_like(ids)), rtol=1e-4, atol=1e-5)


def encoder_folder(folder: Path, tokenizer) -> Path:
    torch.manual_seed(1)
    save_model(PretrainingModel(new_encoder(SHAPE, tokenizer.vocab_size, tokenizer.pad_id)), tokenizer, folder)
    return folder


@pytest.mark.slow
def test_the_best_checkpoint_by_validation_is_the_one_that_is_kept(small_recipe, small_tokenizer, engine, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    recipe = small_recipe(finetune={"epochs": 3, "evaluations_per_epoch": 2, "seeds": (0, 1), "validation_ratio": 0.25})
    finetune(recipe, encoder, tmp_path / "out", "print", engine, lambda _: None)
    for seed in (0, 1):
        folder = tmp_path / "out" / f"seed-{seed}"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        best = min(row["loss"] for row in rows if row["kind"] == "eval")
        assert json.loads((folder / "done.json").read_text())["validation_loss"] == best
        texts, labels = labelled(recipe)
        _, held_out = split_validation(labels, 0.25)
        sequences = encode([texts[i] for i in held_out], small_tokenizer, 64, "head-tail")
        predicted = predict(TASK, load_task_model(folder / "model"), sequences, 256, 64)
        loss = -np.log(predicted[np.arange(len(held_out)), labels[held_out]]).mean()
        assert loss == pytest.approx(best, rel=1e-4)
    one, other = ((tmp_path / "out" / f"seed-{seed}" / "model" / "model.safetensors").read_bytes() for seed in (0, 1))
    assert one != other


@pytest.mark.slow
def test_an_averaging_block_is_one_block_more_and_still_a_plain_bert(small_recipe, small_tokenizer, engine, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    recipe = small_recipe(finetune={"averaging_block": True, "epochs": 1})
    start = new_task_model(TASK, encoder, recipe.finetune, ["bad", "good"], print)
    before = dict(load_pretraining_model(encoder).encoder.named_parameters())
    for name, value in start.encoder.named_parameters():
        if name.startswith("blocks.2."):
            assert name not in before
        else:
            assert torch.equal(value, before[name])
    assert not start.encoder.blocks[2].attention.query.weight.any(), "queries of zero look at all positions alike"

    finetune(recipe, encoder, tmp_path / "out", "print", engine, lambda _: None)
    folder = tmp_path / "out" / "seed-0" / "model"
    ours, theirs = (
        load_task_model(folder).eval(),
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
    (encoder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 8}))
    with pytest.raises(UserError, match=r"do not belong together"):
        finetune(small_recipe(), encoder, tmp_path / "out", "print", engine, lambda _: None)


@pytest.mark.slow
def test_a_teacher_s_pseudo_labels_are_trained_on_with_the_labels(small_recipe, small_tokenizer, engine, tmp_path):
    folder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    notices = []
    recipe = small_recipe(finetune={"unlabelled": "books", "epochs": 1, "seeds": [0, 1]})
    finetune(recipe, folder, tmp_path / "out", "f", engine, notices.append)
    pseudo_labels = np.load(tmp_path / "out" / "teacher" / "pseudo_labels.npy")
    assert pseudo_labels.shape == (30, 2)
    teacher = load_task_model(tmp_path / "out" / "teacher" / "model")
    books = sorted(Path(recipe.source("books").path).glob("*.txt"))
    sequences = encode([book.read_text() for book in books], small_tokenizer, 64, "head-tail")
    assert np.allclose(pseudo_labels, predict(TASK, teacher, sequences, 256, 64), atol=1e-6)
    assert [line for line in notices if "fine-tuning" in line] == [
        "fine-tuning a teacher with seed 0: 36 texts, 4 in the validation set",
        "fine-tuning with seed 0: 66 texts, 4 in the validation set",
        "fine-tuning with seed 1: 66 texts, 4 in the validation set",
    ]
    assert all((tmp_path / "out" / f"seed-{seed}" / "model" / "model.safetensors").exists() for seed in (0, 1))


@pytest.mark.slow
def test_co_training_learns_from_the_mean_of_the_teacher_and_a_linear_model(
    small_recipe, small_tokenizer, engine, tmp_path
):
    folder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    recipe = small_recipe(finetune={"unlabelled": "books", "epochs": 0.2, "co_training": True})
    finetune(recipe, folder, tmp_path / "out", "f", engine, lambda _: None)
    train, labels = labelled(recipe)
    own, _ = split_validation(labels, recipe.finetune.validation_ratio)
    linear = nb_logistic_regression().fit([train[i] for i in own], labels[own])
    texts = [book.read_text() for book in sorted(Path(recipe.source("books").path).glob("*.txt"))]
    teacher = load_task_model(tmp_path / "out" / "teacher" / "model")
    alone = predict(TASK, teacher, encode(texts, small_tokenizer, 64, "head-tail"), 256, 64)
    mean = np.load(tmp_path / "out" / "teacher" / "pseudo_labels.npy")
    assert np.allclose(mean, (alone + linear.predict_proba(texts)) / 2, atol=1e-5)
    assert not np.allclose(mean, alone, atol=1e-2)
    with pytest.raises(UserError, match=r"finetune\.co_training needs unlabelled texts"):
        small_recipe(finetune={"co_training": True})


@pytest.mark.slow
def test_long_unlabelled_texts_and_those_that_are_evaluated_on_are_left_out(
    small_recipe, small_tokenizer, engine, tmp_path
):
    folder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    changes = {"unlabelled": "more", "epochs": 0.2, "unlabelled_max_length": 63}
    texts = [f"{text} Unlabelled." for text in labelled(small_recipe(), "test")[0]]
    evaluated = [text.replace(" ", "  ") for text in labelled(small_recipe(), "test")[0]]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts + evaluated))

    def with_more(changes):
        recipe = small_recipe()
        data = {**recipe.data, "more": str(tmp_path / "more.jsonl")}
        return replace(recipe, data=data, finetune=replace(recipe.finetune, **changes))

    recipe = with_more(changes)
    notices = []
    short = [one for one in encode(texts, small_tokenizer, 64, "head-tail") if len(one) <= 63]
    assert 0 < len(short) < len(texts)
    finetune(recipe, folder, tmp_path / "out", "f", engine, notices.append)
    assert "left out 0 empty texts, and 40 equal to a text that is evaluated on" in notices
    assert len(np.load(tmp_path / "out" / "teacher" / "pseudo_labels.npy")) == len(short)
    recipe = with_more({**changes, "unlabelled_max_length": 3})
    with pytest.raises(UserError, match="no text of at most 3 tokens"):
        finetune(recipe, folder, tmp_path / "out2", "f", engine, lambda _: None)


def test_the_loss_is_the_cross_entropy_with_the_targets_and_rows_of_zeros_do_not_count():
    model = model_of(["a", "b", "c"], 60).eval()
    batch = collate([sequence(range(5, 15))] * 3, model.encoder)
    targets = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    outcome = TaskObjective(model)(**batch, targets=targets)["label"]
    logits = model(**batch)[:2]
    expected = torch.nn.functional.cross_entropy(logits, targets[:2], reduction="sum")
    assert outcome.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert int(outcome.count) == 2
    assert int(outcome.correct) == int((logits.argmax(-1) == targets[:2].argmax(-1)).sum())


def test_the_loss_of_a_model_that_predicts_class_frequencies_is_their_cross_entropy():
    known, labels = np.array([0, 0, 0, 1]), np.array([0, 1, 1])
    assert TASK.chance_loss(known, labels) == pytest.approx(-(np.log(0.75) + 2 * np.log(0.25)) / 3)


def test_class_weights_multiply_the_loss_as_in_pytorch():
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    names, rng = ["a", "b", "c"], np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(len(labels), 3)).astype(np.float32))
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    given = {"c": 4.0, "a": 1.0, "b": 0.5}
    for asked, weights in (("balanced", balanced), (given, [1.0, 0.5, 4.0])):
        targets = TASK.targets(labels, names) * TASK.text_weights(labels, names, asked)[:, None]
        found = soft_cross_entropy(logits, torch.from_numpy(targets))
        weight = torch.tensor(np.asarray(weights), dtype=torch.float32)
        expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), weight)
        torch.testing.assert_close(found.total / found.count, expected)
    with pytest.raises(UserError, match=r"class_weights names a, b, and the classes are a, b, c"):
        TASK.text_weights(labels, names, {"a": 1, "b": 2})


@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_is_and_its_head_learns(small_recipe, small_tokenizer, engine, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    rates = OptimizerConfig(learning_rate=0.01, weight_decay=0.1)
    recipe = small_recipe(finetune={"max_length": 32, "epochs": 2, "freeze_encoder": True, "optimizer": rates})
    finetune(recipe, encoder, tmp_path / "out", "f", engine, lambda _: None)
    before, after = (safetensors.numpy.load_file(file) for file in (
        encoder / "model.safetensors", tmp_path / "out" / "seed-0" / "model" / "model.safetensors"
    ))  # fmt: skip
    shared = [name for name in after if name in before and "pooler" not in name]
    assert len(shared) > 10
    assert all(np.array_equal(before[name], after[name]) for name in shared)
    assert not np.array_equal(before["bert.pooler.dense.weight"], after["bert.pooler.dense.weight"])


@pytest.mark.slow
def test_training_ends_when_the_validation_loss_has_not_fallen_for_long_enough(
    small_recipe, small_tokenizer, engine, tmp_path
):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    settings = {"max_length": 32, "epochs": 40, "batch_size": 8, "checkpoint_every": 1}
    settings |= {"early_stopping_patience": 3, "optimizer": OptimizerConfig(learning_rate=0.03)}
    said = []
    finetune(small_recipe(finetune=settings), encoder, tmp_path / "out", "f", engine, said.append)
    lines = [json.loads(line) for line in (tmp_path / "out" / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "eval"]
    assert 3 < len(losses) < 40
    best = int(np.argmin(losses))
    assert len(losses) == best + 4, "three evaluations after the best one"
    assert any(f"the last 3 evaluations had no lower validation loss than {losses[best]:.4f}" in one for one in said)


@pytest.mark.parametrize(("chosen_by", "expected"), [("accuracy", [0, 1, 1, 3, 3, 3]), ("loss", [0, 0, 0, 3, 4, 4])])
def test_the_loss_decides_between_checkpoints_of_an_equal_metric(
    small_tokenizer, engine, tmp_path, chosen_by, expected
):
    job = job_of(texts_of([5]), small_tokenizer, tmp_path / "best", metric_for_best_model=chosen_by)
    evaluations = [(0.75, 0.5), (0.9, 0.7), (0.8, 0.6), (0.9, 0.3), (0.8, 0.2), (0.9, 0.3)]
    best, kept = None, []
    for number, (accuracy, loss) in enumerate(evaluations):
        torch.nn.init.constant_(job.model.head.classifier.bias, number)
        best = job.on_evaluation({"accuracy": accuracy, "loss": loss}, best, engine)
        kept.append(int(safetensors.numpy.load_file(tmp_path / "best" / "model.safetensors")["classifier.bias"][0]))
    assert kept == expected
    assert best == ((0.9, 0.3) if chosen_by == "accuracy" else (0.2, 0.2))


@pytest.mark.slow
def test_a_metric_that_the_recipe_names_chooses_the_checkpoint(small_recipe, small_tokenizer, engine, tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", small_tokenizer)
    settings = {"max_length": 32, "epochs": 30, "metric_for_best_model": "accuracy", "early_stopping_patience": 6}
    settings |= {"optimizer": OptimizerConfig(learning_rate=0.03)}
    recipe, said = small_recipe(finetune=settings), []
    finetune(recipe, encoder, tmp_path / "out", "f", engine, said.append)
    folder = tmp_path / "out" / "seed-0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    best = min(range(len(evaluations)), key=lambda i: (-evaluations[i]["accuracy"], evaluations[i]["loss"]))
    assert len(evaluations) == best + 7, "six evaluations after the best one"
    done = json.loads((folder / "done.json").read_text())
    assert (done["chosen_by"], done["best"]) == ("accuracy", evaluations[best]["accuracy"])
    assert done["validation_loss"] is None
    assert any("evaluations had no higher accuracy than" in one for one in said)
    split = read_split(recipe, encoder, said.append)
    predictions = predict_saved(folder / "model", split.validation.inputs, recipe.finetune, engine)
    assert split.task.loss(predictions, split.validation.labels) == pytest.approx(evaluations[best]["loss"], rel=1e-5)


def test_a_metric_that_the_task_does_not_have_chooses_no_checkpoint(small_recipe):
    with pytest.raises(UserError, match="of classification it can be: loss, f1, accuracy, macro_f1, matthews, roc_auc"):
        recipe_task(small_recipe(finetune={"metric_for_best_model": "exact_match"}))


@pytest.mark.parametrize(
    ("task", "chosen_by", "names", "instead"),
    [
        ("classification", "macro_f1", ["a", "b", "c"], "loss, f1, accuracy, matthews, roc_auc"),
        ("classification", "macro_f1", ["a", "b"], None),
        ("token-classification", "entity_f1", ["NOUN", "VERB"], "loss, accuracy"),
        ("token-classification", "entity_f1", ["O", "B-PER", "I-PER"], None),
    ],
)
def test_a_metric_that_the_labels_do_not_have_is_refused_before_the_work(small_recipe, task, chosen_by, names, instead):
    recipe = small_recipe(finetune={"task": task, "metric_for_best_model": chosen_by, "data": ""})
    task = recipe_task(recipe)
    if instead is None:
        assert chosen_by in task_of_labels(task, recipe.finetune, names).choosing_metrics
        return
    with pytest.raises(UserError, match=f"of {task.name} with these labels it can be: {instead}$"):
        task_of_labels(task, recipe.finetune, names)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_checkpoints_are_chosen_by_metrics_that_have_intervals(task):
    assert task.primary_metric in task.choosing_metrics
