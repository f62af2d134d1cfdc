"""Vectors of texts: losses against plain loops, one gradient whatever the micro-batches, and runs from files."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import label_ranking_average_precision_score

import bertwright
from bertwright.cli import main
from bertwright.errors import UserError, WrongTypeError
from bertwright.files import read_json, write_json
from bertwright.finetune_settings import EmbeddingConfig
from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.embedding_head import EmbeddingHead, contrastive_losses, ranking_loss, ranking_losses
from bertwright.models.heads import TaskModel
from bertwright.models.sentence_folder import Pooling, read_pooling
from bertwright.recipe import FinetuneConfig, OptimizerConfig, Recipe, Source, SystemConfig
from bertwright.tasks.baselines_similarity import tfidf_cosines
from bertwright.tasks.crops import crop, halves
from bertwright.tasks.embedding import Embedding
from bertwright.tasks.finetune import encoder_digests as digests_of
from bertwright.tasks.finetune import read_split as finetune_split
from bertwright.tasks.ranks import compared
from bertwright.tasks.registry import recipe_task
from bertwright.tasks.resampling import Units
from bertwright.tasks.supervised import Finetuning, Validation
from bertwright.text.records import Record, read_split
from bertwright.text.wordpiece import Tokenizer  # noqa: F401 (of the other process)
from bertwright.train.engine import Engine
from bertwright.train.loop import LoopConfig, gradients
from conftest import LEXICON, ROOT
from processes import environment, in_two_processes
from small_models import SHAPE, relative, sentence_transformer, shaken

WORDS = "the cat sat on a mat while rain was falling over old roofs and nobody came to look for it".split()
CONFIG = FinetuneConfig(data="x", task="embedding", batch_size=10, max_length=32, micro_batch_tokens=4_096)


def sentence(rng, most=18):
    return " ".join(rng.choice(WORDS, rng.integers(4, most)))


def records(kind, count=23):
    rng = np.random.default_rng(3)
    made = [Record(str(n), sentence(rng), sentence(rng), number=float(n % 5)) for n in range(count)]
    made = [replace(one, text=made[n // 3 * 3].text) for n, one in enumerate(made)] if kind != "crops" else made
    if kind == "crops":
        return [replace(one, text_pair=None) for one in made]
    return [replace(one, negative=sentence(rng)) for one in made] if kind == "negatives" else made


def task_for(kind, config=CONFIG):
    source = {
        "crops": Source(path="x"),
        "pairs": Source(path="x", text_pair_column="text_pair"),
        "scores": Source(path="x", text_pair_column="text_pair"),
        "negatives": Source(path="x", text_pair_column="text_pair", negative_column="negative"),
    }[kind]
    embedding = replace(config.embedding, scores=kind == "scores")
    return Embedding().on(source).with_settings(replace(config, embedding=embedding))


KINDS = ("crops", "pairs", "negatives", "scores")


def job_for(kind, tokenizer, folder, config=CONFIG, dropout=0.0, count=23):
    task, rows = task_for(kind, config), records(kind, count)
    labels = task.labels(rows, ["similarity"], rows, "data.x")
    inputs = task.encode(rows, tokenizer, config.max_length, "head")
    training = task.examples(inputs, labels, ["similarity"], config.max_length)
    torch.manual_seed(0)
    shape = replace(SHAPE, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    encoder = new_encoder(shape, tokenizer.vocab_size)
    model = TaskModel(encoder, task.head(encoder, ["similarity"], 0.0), ["similarity"], "embedding")
    shaken(model, 0.1)
    return Finetuning(task, config, 5, model, tokenizer, training, Validation(inputs, labels), folder / "best")


@pytest.fixture(scope="module")
def engine():
    return Engine(SystemConfig(precision="fp32", compile="off"), print)


LOOP = LoopConfig(OptimizerConfig(learning_rate=1e-4, max_grad_norm=1e9), 7, 10, None, 1, 1, 1)


def gradients_of(job, engine, number=0):
    job.model.train()
    job.model.zero_grad(set_to_none=True)
    metrics = gradients(job, job.objective, LOOP, engine, 3, job.micro_batches(0, number, 0, 1))
    return metrics, [p.grad.clone() for p in job.model.parameters() if p.grad is not None]


# Sizes


@pytest.mark.parametrize("kind", ["pairs", "scores"])
def test_metrics_are_those_of_vectors_that_were_cut_to_each_size(kind, small_tokenizer):
    sizes = (16, 8, 48)  # of which the largest is the whole vector
    task = task_for(kind, replace(CONFIG, embedding=EmbeddingConfig(dimensions=sizes)))
    task = Embedding().on(Source(path="x", text_pair_column="text_pair")).restored(task.notes())
    plain = task_for(kind)
    rows = records(kind)
    labels = task.labels(rows, ["similarity"], rows, "data.x")
    parts = [task.windows(one, 32) for one in task.encode(rows, small_tokenizer, 32, "head")]
    vectors = torch.randn(2 * len(rows), 48, generator=torch.Generator().manual_seed(0))
    vectors[1::2] += vectors[::2]  # the second text of a pair is near the first
    vectors /= vectors.norm(dim=1, keepdim=True)
    found = task.predictions(list(vectors), parts)
    details = task.details(found, labels)["by_size"]
    assert list(details) == ["8", "16"]
    for size in (8, 16, 48):
        cut = vectors[:, :size] / vectors[:, :size].norm(dim=1, keepdim=True)
        expected = plain.metrics(plain.predictions(list(cut), parts), labels)
        assert (details[str(size)] if size < 48 else task.metrics(found, labels)) == pytest.approx(expected, abs=1e-6)
    assert details["8"] != details["16"]
    whole = plain.predictions(list(vectors), parts)
    assert plain.details(whole, labels) == {}
    # Neither the loss, by which a checkpoint is chosen, nor the answers depend on the sizes.
    assert task.loss(found, labels) == pytest.approx(plain.loss(whole, labels))
    assert task.answers(found, ["similarity"], rows) == plain.answers(whole, ["similarity"], rows)
    units = Units(len(rows))
    drawn = [one.resampled(values, labels, units, 5, 0) for one, values in ((task, found), (plain, whole))]
    for name, values in drawn[0].items():
        np.testing.assert_allclose(values, drawn[1][name], atol=1e-6)


# Losses


def cosine(a, b):
    return float(a @ b / a.norm() / b.norm())


@pytest.mark.parametrize("together", [2, 3])
@pytest.mark.parametrize("sizes", [(6,), (2, 6)])
def test_the_contrastive_loss_is_that_of_a_plain_loop(together, sizes):
    vectors = torch.randn(7, together, 6, generator=torch.Generator().manual_seed(0))
    texts = torch.arange(7 * together).view(7, together)
    texts[3, 1] = texts[5, 1]  # two examples have one positive
    texts[6, together - 1] = texts[2, 0]  # a candidate is another example's own text
    texts[4, 0] = texts[1, 0]  # two positives of one text; their hard negatives stay negatives of both
    if together == 3:
        texts[0, 2] = texts[4, 1]  # a positive of it is another text's hard negative
    expected = []
    for i in range(7):
        of_sizes = []
        for size in sizes:
            own = vectors[i, 0, :size]
            right = np.exp(cosine(own, vectors[i, 1, :size]) / 0.1)
            total = right
            known = [texts[j, 1] for j in range(7) if texts[j, 0] == texts[i, 0]]
            for j in range(7):
                for k in range(1, together):
                    if (j, k) != (i, 1) and texts[j, k] not in (texts[i, 0], *known):
                        total += np.exp(cosine(own, vectors[j, k, :size]) / 0.1)
            of_sizes.append(-np.log(right / total))
        expected.append(np.mean(of_sizes))
    found = contrastive_losses(vectors, texts, 0.1, sizes)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_the_ranking_loss_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    cosines, scores = rng.uniform(-1, 1, 9), rng.integers(0, 4, 9).astype(float)
    terms = [np.exp((cosines[j] - cosines[i]) / 0.2) for i in range(9) for j in range(9) if scores[i] > scores[j]]
    found = ranking_loss(torch.tensor(cosines), torch.tensor(scores), 0.2)
    assert float(found) == pytest.approx(np.log(1 + sum(terms)))
    vectors = torch.randn(9, 2, 4, generator=torch.Generator().manual_seed(1))
    of_pairs = torch.tensor([cosine(first, second) for first, second in vectors])
    losses = ranking_losses(vectors, torch.tensor(scores), 0.2, (4,))
    np.testing.assert_allclose(losses, np.full(9, float(ranking_loss(of_pairs, torch.tensor(scores), 0.2))), rtol=1e-4)


def test_vectors_in_the_order_of_scores_have_nearly_no_loss():
    cosines = torch.linspace(-1, 1, 6)
    assert ranking_loss(cosines, torch.arange(6), 0.02) < 1e-3
    assert ranking_loss(-cosines, torch.arange(6), 0.02) > 50


# One gradient


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_micro_batches_changes_nothing(kind, small_tokenizer, engine, tmp_path):
    found = {}
    for tokens in (4_096, 64):
        job = job_for(kind, small_tokenizer, tmp_path, replace(CONFIG, micro_batch_tokens=tokens))
        assert (len(job.micro_batches(0, 0, 0, 1)) == 1) == (tokens == 4_096)
        found[tokens] = gradients_of(job, engine)
    (one, gradients_one), (many, gradients_many) = found.values()
    assert one["loss"] == pytest.approx(many["loss"], rel=1e-5)
    assert one["label_count"] == many["label_count"] == len(job.epoch_batches(0)[0])
    for a, b in zip(gradients_one, gradients_many, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_one_graph_with_the_same_dropout(kind, small_tokenizer, engine, tmp_path):
    config = replace(CONFIG, micro_batch_tokens=64, embedding=EmbeddingConfig(dimensions=(8,)))
    job = job_for(kind, small_tokenizer, tmp_path, config, dropout=0.2)
    metrics, found = gradients_of(job, engine)
    batches = job.micro_batches(0, 0, 0, 1)
    assert len(batches) > 2
    job.model.zero_grad(set_to_none=True)
    torch.manual_seed((LOOP.seed * 1_000_003 + 3) * 8_191)
    names = ("input_ids", "token_type_ids", "attention_mask")
    vectors = torch.cat([job.model(*(batch[name] for name in names)) for batch in batches])  # one graph
    targets = torch.cat([batch["targets"] for batch in batches])
    losses = job.model.head.batch_losses(vectors, targets)
    losses.mean().backward()
    assert metrics["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    expected = [p.grad for p in job.model.parameters() if p.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    torch.manual_seed(1)
    other = torch.cat([job.model(*(batch[name] for name in names)) for batch in batches])
    assert relative(vectors, other) > 0.01, "dropout is at work"


TWO = """
import pathlib, sys
import torch
sys.path[:0] = sys.argv[3:4]
from test_embedding import KINDS, LOOP, job_for, SystemConfig, Engine, gradients, Tokenizer
tokenizer = Tokenizer.load(pathlib.Path(sys.argv[1]))
engine = Engine(SystemConfig(precision="fp32", compile="off"), print)
assert engine.world == 2
found = {}
for kind in KINDS:
    job = job_for(kind, tokenizer, pathlib.Path(sys.argv[2]))
    objective = engine.prepare(job.objective.train(), False)
    batches = job.micro_batches(0, 0, engine.rank, 2)
    metrics = gradients(job, objective, LOOP, engine, 3, batches)
    found[kind] = (metrics["loss"], [p.grad.clone() for p in job.model.parameters() if p.grad is not None])
if engine.is_main:
    torch.save(found, sys.argv[2] + "/found.pt")
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(small_tokenizer, engine, tmp_path):
    small_tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "two.py").write_text(TWO)
    words = [str(tmp_path / "two.py"), str(tmp_path / "tokenizer"), str(tmp_path), str(ROOT / "tests" / "tasks")]
    command = in_two_processes(words)
    done = subprocess.run(command, env=environment("tests"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    two = torch.load(tmp_path / "found.pt", weights_only=True)
    for kind in KINDS:
        metrics, expected = gradients_of(job_for(kind, small_tokenizer, tmp_path), engine)
        loss, found = two[kind]
        assert loss == pytest.approx(metrics["loss"], rel=1e-5)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


def test_a_batch_is_the_same_for_any_number_of_processes(small_tokenizer, tmp_path):
    job = job_for("crops", small_tokenizer, tmp_path)

    def rows(number, world):
        found = {}
        for rank in range(world):
            for batch in job.micro_batches(0, number, rank, world):
                ids = [
                    row[mask].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
                ]
                for place, pair in zip(batch["places"].tolist(), zip(ids[::2], ids[1::2], strict=True), strict=True):
                    found[place] = pair
        return found

    assert rows(0, 1) == rows(0, 3)
    sizes = [len(rows(number, 1)) for number in range(job.batches_per_epoch)]
    assert sorted(sizes) == [7, 8, 8], "no short batch at the end"
    epoch = {tuple(pair[0]) for number in range(3) for pair in rows(number, 1).values()}
    later = {tuple(pair[0]) for number in range(3, 6) for pair in rows(number, 1).values()}
    assert len(epoch - later) > 10, "crops are drawn anew"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "batch_size"), [(3_201, 64), (3_205, 64), (1_601, 32), (101, 2), (65, 64), (64, 64), (3, 2)]
)
def test_no_batch_of_an_epoch_has_few_negatives(small_tokenizer, tmp_path, texts, batch_size):
    job = job_for("pairs", small_tokenizer, tmp_path, replace(CONFIG, batch_size=batch_size), count=texts)
    batches = job.epoch_batches(3)
    sizes = [len(batch) for batch in batches]
    assert len(batches) == job.batches_per_epoch == -(-texts // batch_size)
    assert batch_size >= max(sizes) >= min(sizes) >= max(sizes) - 1
    assert sorted(np.concatenate(batches)) == list(range(texts))


def test_rows_that_fill_up_a_batch_change_nothing(small_tokenizer, engine, tmp_path):
    job = job_for("pairs", small_tokenizer, tmp_path)
    _, expected = gradients_of(job, engine)
    (filling,) = job.micro_batches(0, 0, 20, 21)  # of a process that has none
    assert (job.counts(filling)["label"], len(filling["input_ids"])) == (0, 4)
    job.model.zero_grad(set_to_none=True)
    gradients(job, job.objective, LOOP, engine, 3, [filling, *job.micro_batches(0, 0, 0, 1)])
    found = [p.grad for p in job.model.parameters() if p.grad is not None]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


# Pairs of one text


def test_crops_are_framed_stretches_of_bounded_length(small_tokenizer):
    record = Record("0", " ".join(WORDS * 9))
    whole = task_for("crops").encode([record], small_tokenizer, 32, "")[0].whole
    ids, rng = whole.input_ids.tolist(), np.random.default_rng(0)
    crops = [crop(whole, 64, rng).input_ids.tolist() for _ in range(200)]
    for one in crops:
        assert (one[0], one[-1]) == (ids[0], ids[-1])
        body = one[1:-1]
        assert any(ids[start : start + len(body)] == body for start in range(1, len(ids)))
    lengths = [len(one) - 2 for one in crops]
    tokens = len(ids) - 2
    assert round(0.1 * tokens) <= min(lengths) < 0.2 * tokens
    assert max(lengths) == 62 < 0.5 * tokens
    starts = {tuple(one[1:9]) for one in crops}
    assert len(starts) > 30


def test_a_crop_of_a_short_text_is_all_of_it(small_tokenizer):
    (one,) = task_for("crops").encode([Record("0", "the cat sat")], small_tokenizer, 32, "")
    assert crop(one.whole, 32, np.random.default_rng(0)).input_ids.tolist() == one.whole.input_ids.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four", ("one two", "three four")),
        ("one  two\nthree", ("one", "two three")),
        ("北京是中国", ("北京", "是中国")),
        ("a", ("a", "a")),
    ],
)
def test_halves_of_a_text(text, expected):
    assert halves(text) == expected


# Metrics


@pytest.mark.parametrize("sparse", [False, True])
def test_ranks_are_those_of_a_plain_loop(sparse, monkeypatch):
    monkeypatch.setattr("bertwright.tasks.ranks._AT_ONCE", 4)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, 11, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    texts = [[f"a{n}", f"b{n}"] for n in range(11)]
    texts[4][1], vectors[1, 4] = "b2", vectors[1, 2]  # one second text stands twice
    texts[6][0], vectors[0, 6] = "b7", vectors[1, 7]  # a first text is another's second
    for n in (3, 9):  # three pairs have one first text, one of them in capitals
        texts[n][0], vectors[0, n] = "A1" if n == 9 else "a1", vectors[0, 1]
    expected = []
    for i in range(11):
        also_right = {texts[j][1] for j in range(11) if texts[j][0].lower() == texts[i][0].lower()}
        others = {
            texts[j][1]: float(vectors[0, i] @ vectors[1, j])
            for j in range(11)
            if texts[j][1] not in (also_right | {texts[i][0]}) - {texts[i][1]}
        }
        own = others.pop(texts[i][1])
        total = sum(np.exp(value / 0.1) for value in [own, *others.values()])
        expected.append([own, sum(value >= own for value in others.values()), -np.log(np.exp(own / 0.1) / total)])
    from scipy.sparse import csr_array

    first, second = (csr_array(one) if sparse else one for one in vectors)
    found = compared(first, second, texts, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_reciprocal_rank_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    first, second = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 30, 4)))
    found = compared(first, second, [[f"a{n}", f"b{n}"] for n in range(30)], 0.05)
    metrics = Embedding().metrics(found, np.zeros(30))
    assert metrics["mrr"] == pytest.approx(label_ranking_average_precision_score(np.eye(30), first @ second.T))
    nearest = (first @ second.T).argmax(1) == np.arange(30)
    assert metrics["recall_at_1"] == pytest.approx(nearest.mean())
    assert Embedding().loss(found, np.zeros(30)) == pytest.approx(found[:, 2].mean())


def test_all_right_answers_of_a_question_can_be_found_at_once():
    # Two questions, each with two right texts that lie on its own vector: both rows of each are found.
    first = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    texts = [("q", "a"), ("q", "b"), ("r", "c"), ("r", "d")]
    assert Embedding().metrics(compared(first, first, texts, 0.05), np.zeros(4))["recall_at_1"] == 1


@pytest.mark.parametrize("width", [4, 32, 128, 256, 384, 768])
def test_vectors_that_are_all_the_same_find_nothing(width):
    # Any vector, and not one whose products are exact: cosines of the same vectors differ by rounding.
    vector = np.random.default_rng(width).normal(size=width)
    same = np.tile((vector / np.linalg.norm(vector)).astype(np.float32), (12, 1))
    found = compared(same, same, [[f"a{n}", f"b{n}"] for n in range(12)], 0.05)
    assert Embedding().metrics(found, np.zeros(12)) == {
        "recall_at_1": 0,
        "recall_at_10": 0,
        "mrr": pytest.approx(1 / 12),
    }


@pytest.mark.parametrize("sparse", [False, True])
def test_a_pair_s_cosine_is_its_own_also_where_another_has_the_same_words(sparse):
    first = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    second = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    if sparse:
        from scipy.sparse import csr_array

        first, second = csr_array(first), csr_array(second)
    texts = [("a", "Good."), ("b", "good!"), ("c", "other")]
    found = compared(first, second, texts, 0.1)
    np.testing.assert_allclose(found[:, 0], [1, 1, 0.6], rtol=1e-6)
    assert found[:, 1].tolist() == [0, 0, 1]
    # The others are among the candidates once.
    expected = -np.log(np.exp(10) / (np.exp(10) + np.exp(6)))
    np.testing.assert_allclose(found[0, 2], expected, rtol=1e-5)


def test_texts_of_unknown_words_are_no_candidate_of_their_own(small_tokenizer):
    # Each is [UNK] [UNK] to the vocabulary: equal tokens, and still other texts, none of which is found.
    pairs = [("доставка была", "быстрой вполне"), ("качество очень", "плохое совсем"), ("цена высокая", "больно даже")]
    records = [Record(str(n), *pair) for n, pair in enumerate(pairs)]
    task = task_for("pairs")
    inputs = task.encode(records, small_tokenizer, 32, "head")
    parts = [task.windows(one, 32) for one in inputs]
    assert len({part.input_ids.tobytes() for own in parts for part in own}) == 1
    found = task.predictions([torch.ones(4) / 2] * 6, parts)
    assert task.metrics(found, np.zeros(3))["recall_at_1"] == 0
    assert found[:, 1].tolist() == [2, 2, 2]


def test_tf_idf_is_not_asked_to_tell_texts_apart_that_have_the_same_words():
    records = [Record(str(n), f"question {n} of {n}", f"Answer {n}") for n in range(8)]
    records += [Record("8", "one more question", "Answer 3")]
    twin = [*records[:8], Record("8", "one more question", "answer 3!")]
    settings = EmbeddingConfig()
    one, other = (tfidf_cosines(records, test, settings, print)["tfidf_cosine"] for test in (records, twin))
    np.testing.assert_allclose(one, other)


def test_scores_are_compared_by_their_order():
    rng = np.random.default_rng(2)
    cosines, labels = rng.uniform(-1, 1, 40).astype(np.float32), rng.integers(0, 5, 40).astype(float)
    assert Embedding().metrics(cosines, labels)["spearman"] == pytest.approx(spearmanr(cosines, labels)[0])


# Settings and data


def recipe(tmp_path, source, **finetune):
    return Recipe(
        name="x",
        data={"x": Source(path=str(tmp_path), **source)},
        finetune=FinetuneConfig(**{"data": "x", "task": "embedding", "encoder": "bundled", **finetune}),
    )


PAIRS = {"text_pair_column": "text_pair"}


@pytest.mark.parametrize(
    ("source", "finetune", "expected"),
    [
        ({}, {"embedding": EmbeddingConfig(scores=True)}, "scores is for pairs with a score"),
        ({**PAIRS, "negative_column": "n"}, {"embedding": EmbeddingConfig(scores=True)}, "without negative_column"),
        ({"negative_column": "n"}, {}, "name the second texts, too: text_pair_column"),
        ({}, {"truncation": "windows"}, "truncation is windows, and of a text the vector is that of its head"),
        ({}, {"truncation": "tail"}, "truncation is tail"),
        ({}, {"batch_size": 1}, "batch_size is 1"),
        ({}, {"freeze_encoder": True}, "nothing to train"),
        ({}, {"label_names": ("a", "b")}, "label_names is for classes"),
        ({}, {"metric_for_best_model": "spearman"}, "of embedding it can be: loss, recall_at_1, recall_at_10, mrr"),
        ({}, {"task": "classification", "embedding": EmbeddingConfig(pooling="cls")}, "is for finetune.task embedding"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, source, finetune, expected):
    with pytest.raises(UserError, match=expected):
        recipe_task(recipe(tmp_path, source, **finetune))


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"dimensions": (0,)}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=r"finetune\.embedding\."):
        EmbeddingConfig(**settings)


def test_too_few_texts_for_negatives_are_refused(small_tokenizer):
    task = task_for("pairs")
    rows = records("pairs", 9)
    inputs = task.encode(rows, small_tokenizer, 32, "head")
    with pytest.raises(UserError, match=r"has 9 texts, .* 10 \(finetune.batch_size\); give more"):
        task.examples(inputs, np.zeros(9), ["similarity"], 32)
    with pytest.raises(UserError, match="has one text alone"):
        task.label_names([Record("0", "a", "b"), Record("1", "c", "b")], None, "data.x")
    with pytest.raises(UserError, match="has one first text alone"):
        task.label_names([Record("0", "a", "b"), Record("1", "a", "c")], None, "data.x")
    with pytest.raises(UserError, match="has one score alone"):
        task_for("scores").label_names([Record("0", "a", "b", number=1.0)] * 2, None, "data.x")
    wide = task_for("pairs", replace(CONFIG, embedding=EmbeddingConfig(dimensions=(49,))))
    with pytest.raises(UserError, match=r"dimensions has 49, and the vectors 48"):
        wide.head(new_encoder(SHAPE, 64), ["similarity"], 0.0)


def test_plain_texts_are_divided_by_test_ratio(tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(f"Text {number}\nhas two lines.\n")
    source = Source(path=str(tmp_path), test_ratio=0.3)
    train, test = (read_split(source, split, ("text",)).records for split in ("train", "test"))
    assert (len(train), len(test)) == (7, 3)
    assert {one.text for one in train + test} == {f"Text {n}\nhas two lines.\n" for n in range(10)}


def test_a_row_without_its_negative_is_skipped_and_counted(tmp_path):
    rows = [{"text": "a", "text_pair": "b", "bad": "c"}, {"text": "a", "text_pair": "b", "bad": ""}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Source(path=str(tmp_path), **PAIRS, negative_column="bad")
    found = read_split(source, "train", Embedding().on(source).columns)
    assert [one.negative for one in found.records] == ["c"]
    assert found.skipped["empty text"][0] == 1


@pytest.mark.slow
def test_what_a_folder_of_sentence_transformers_does_beside_its_encoder_is_not_lost(small_tokenizer, tmp_path):
    write_data(tmp_path / "data", "pairs")
    torch.manual_seed(0)
    encoder = new_encoder(SHAPE, small_tokenizer.vocab_size)
    model = TaskModel(encoder, EmbeddingHead(Pooling("cls")), ["similarity"], "embedding")
    folder = tmp_path / "model"
    save_model(model, small_tokenizer, folder, 64)
    trained = recipe(tmp_path / "data", PAIRS, encoder=str(folder), max_length=32)
    named = replace(trained, finetune=replace(trained.finetune, embedding=EmbeddingConfig(pooling="mean")))
    for one, mode in ((trained, "cls"), (named, "mean")):
        assert (
            finetune_split(one, folder, lambda text: None).task.head(encoder, ["similarity"], 0.0).pooling.mode == mode
        )
    plain = digests_of(trained.finetune, folder)
    pooling = read_json(folder / "1_Pooling" / "config.json")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    assert digests_of(trained.finetune, folder) != plain, "another pooling is another training"
    write_json(folder / "1_Pooling" / "config.json", pooling)
    modules = read_json(folder / "modules.json")
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    prompt = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    for file, content, expected in (
        ("modules.json", [*modules, dense], "has the modules Transformer, Pooling, Dense"),
        ("config_sentence_transformers.json", prompt, "puts a prompt before each text"),
    ):
        shutil.copytree(folder, tmp_path / "other", dirs_exist_ok=True)
        write_json(tmp_path / "other" / file, content)
        other = replace(named, finetune=replace(named.finetune, encoder=str(tmp_path / "other")))
        with pytest.raises(UserError, match=expected):
            bertwright.run(other, out=str(tmp_path / "run"))


# Runs


def write_data(folder, kind):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, start, count in (("train", 0, 160), ("test", 500, 40)):
        rows = []
        for number in range(start, start + count):
            word, other = rng.choice(LEXICON, 2, replace=False)
            row = {"text": f"We saw a {word} in {number}."}
            if kind == "crops":
                row["text"] += f" And a {other} by the {word}, says number {number}, with a {other}."
            else:
                row |= {"text_pair": f"The {word} was old, says number {number}.", "bad": f"A {other} was new."}
            if kind == "scores":
                row["label"] = number % 2
                row["text_pair"] = row["text_pair"] if number % 2 else row["bad"]
            rows.append(json.dumps(row))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_ends_with_a_folder_that_sentence_transformers_opens(kind, tmp_path, capsys):
    write_data(tmp_path / "data", kind)
    source = {} if kind == "crops" else dict(PAIRS)
    source |= {"negative_column": "bad"} if kind == "negatives" else {}
    run = bertwright.run(
        recipe(
            tmp_path / "data",
            source,
            batch_size=16,
            max_length=32,
            epochs=2,
            embedding=EmbeddingConfig(
                scores=kind == "scores",
                pooling="cls" if kind == "pairs" else "mean",
                dimensions=(64,) if kind in ("pairs", "scores") else (),
            ),
            optimizer=OptimizerConfig(learning_rate=2e-4, warmup_ratio=0.1),
        ),
        out=str(tmp_path / "run"),
        system={"precision": "fp32", "compile": "off"},
    )
    primary = "spearman" if kind == "scores" else "recall_at_1"
    assert (run.results["task"], run.results["primary_metric"]) == ("embedding", primary)
    bert, baseline = run.results["scores"]["bert"], run.results["scores"]["tfidf_cosine"]
    assert bert[f"{primary}_low"] <= bert[primary] <= bert[f"{primary}_high"]
    assert bert[primary] > (0.5 if kind == "scores" else 0.2), "chance is 0, or 1 in 40"
    assert 0 <= baseline[primary] <= 1
    assert list(bert.get("by_size", {})) == (["64"] if kind in ("pairs", "scores") else [])
    page = (run.path / "report.html").read_text()
    assert ("BERT by the size of its vectors" in page) == ("by_size" in bert)
    assert "labelled <b>" in page
    assert "Most confident errors" not in page, "a cosine is neither right nor wrong"
    folder = run.path / "finetune" / "seed-0" / "model"
    texts = ["We saw a river.", "The boat was old, says number 7."]
    ours = bertwright.load(run.path).encode(texts)
    theirs = sentence_transformer(folder).encode(texts)
    assert ((ours * theirs).sum(1) > 0.999).all()  # matrix products in bfloat16
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)

    (answer,) = bertwright.load(run.path).predict([tuple(texts)])
    assert answer.score == pytest.approx(float(theirs[0] @ theirs[1]), abs=0.02)
    with pytest.raises(WrongTypeError, match="or call encode"):
        bertwright.load(run.path).predict("A text.")
    words = ["predict", "--file", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"text": texts[0], "text_pair": texts[1]}) + "\n")
    assert main([*words, "--model", str(run.path)]) == 0
    line = read_json(tmp_path / "out.jsonl")
    assert line["similarity"] == pytest.approx(answer.score, abs=1e-4)


@pytest.mark.slow
def test_an_encoder_of_sentence_transformers_is_trained_further(tmp_path, capsys):
    write_data(tmp_path / "data", "pairs")
    cls = EmbeddingConfig(pooling="cls")
    first = recipe(tmp_path / "data", PAIRS, batch_size=16, max_length=32, epochs=1, embedding=cls)
    system = {"precision": "fp32", "compile": "off"}
    run = bertwright.run(first, out=str(tmp_path / "one"), system=system)
    start = run.path / "finetune" / "seed-0" / "model"
    again = replace(first, finetune=replace(first.finetune, encoder=str(start), embedding=EmbeddingConfig()))
    second = bertwright.run(again, out=str(tmp_path / "two"), system=system)
    trained = second.path / "finetune" / "seed-0" / "model"
    assert read_pooling(trained).mode == "cls", "a recipe that names no pooling continues with the folder's"
    assert read_json(trained / "config.json")["embedding"]["pooling"] == "cls"
    losses = [read_json(one.path / "finetune" / "seed-0" / "done.json")["validation_loss"] for one in (run, second)]
    assert losses[1] < losses[0]
    assert "head" not in capsys.readouterr().err.replace(str(tmp_path), "").replace("heads", "")
