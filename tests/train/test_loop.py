"""The training loop's promises: exact resume, honest normalisation, safe stops."""

import itertools
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertwright.errors import UserError
from bertwright.inference import load
from bertwright.inputs import pretraining as pretraining_inputs
from bertwright.inputs.masking import IGNORED_LABEL
from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import PretrainingModel, cross_entropy
from bertwright.recipe import (
    MaskingConfig,
    OptimizerConfig,
    Phase,
    PrepareConfig,
    Source,
    SystemConfig,
    TokenizerConfig,
)
from bertwright.tasks.finetune import finetune
from bertwright.tasks.initial import first_model
from bertwright.tasks.pretraining import Pretraining, check_budget, continue_from, pretrain
from bertwright.tasks.supervised import Finetuning
from bertwright.text.cooccurrence import token_vectors
from bertwright.text.prepare import prepare_corpus
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.checkpoint import Position
from bertwright.train.engine import Engine
from bertwright.train.metrics_log import ProgressBar
from bertwright.train.optim import Muon, learning_rate_factor, make_optimizers, orthogonal
from bertwright.train.prefetch import Prefetcher
from processes import environment, in_two_processes

FINETUNE = """
from dataclasses import replace
from bertwright.errors import UserError
from bertwright.tasks import finetune, supervised
folder = pathlib.Path(sys.argv[3])
assert engine.world == 2
if not engine.is_main:
    supervised.save_model = None  # only the main process writes
finetune.finetune(recipe, folder / "model", folder / "finetune", "x", engine, print)
try:
    few = replace(recipe, pretrain=replace(recipe.pretrain, batch_tokens=64, micro_batch_tokens=64))
    pretrain(few, pathlib.Path(sys.argv[2]), folder / "few", "x", engine, print)
except UserError as error:
    assert "fewer than the 2 processes" in str(error)
else:
    raise AssertionError
"""

PRETRAIN = """
import sys, pickle, pathlib
from bertwright.train.engine import Engine
from bertwright.tasks.pretraining import pretrain
recipe = pickle.load(open(sys.argv[1], "rb"))
engine = Engine(recipe.system, print)
pretrain(recipe, pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), "x", engine, print)
"""


@pytest.fixture(scope="module")
def engine():
    return Engine(SystemConfig(precision="fp32", compile="off"), print)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class StopHereError(Exception):
    """Stands in for a kill between two steps."""


def stop_at(monkeypatch, step):
    original = Pretraining.micro_batches
    asked = []

    def micro_batches(self, *arguments):
        asked.append(arguments)
        if len(asked) > step:
            raise StopHereError
        return original(self, *arguments)

    monkeypatch.setattr(Pretraining, "micro_batches", micro_batches)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_resume_at_any_step_equals_the_uninterrupted_run_to_the_bit(
    small_recipe, small_prepared, engine, tmp_path, monkeypatch, step, optimizer
):
    recipe = small_recipe(pretrain={"optimizer": OptimizerConfig(name=optimizer, learning_rate=1e-3)})
    assert recipe.model.hidden_dropout_prob > 0  # dropout is part of the promise
    pretrain(recipe, small_prepared, tmp_path / "whole", "x", engine, print)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(StopHereError):
            pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print)
    position = pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print)
    assert position.step == 6
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: resuming on a GPU needs a CUDA device")
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_on_a_gpu_resumes_as_well(small_recipe, small_prepared, engine, tmp_path, monkeypatch, step):
    assert engine.device.type == "cuda"
    recipe = small_recipe()
    assert recipe.model.hidden_dropout_prob > 0
    pretrain(recipe, small_prepared, tmp_path / "whole", "x", engine, print)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(StopHereError):
            pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print)
    assert pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print).step == 6
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in whole:  # the order of a GPU's sums is not fixed
        torch.testing.assert_close(whole[name], parts[name], atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_a_killed_command_resumes_and_ends_with_the_same_weights(small_recipe, small_prepared, engine, tmp_path):
    # A real process and a real SIGKILL, at whatever moment it comes.
    recipe = small_recipe(pretrain={"max_steps": 40})
    (tmp_path / "recipe").write_bytes(pickle.dumps(recipe))

    def start(folder):
        command = [
            sys.executable,
            "-c",
            PRETRAIN,
            str(tmp_path / "recipe"),
            str(small_prepared),
            str(tmp_path / folder),
        ]
        return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    pretrain(recipe, small_prepared, tmp_path / "whole", "x", engine, print)
    process = start("parts")
    deadline = time.monotonic() + 300
    while not list((tmp_path / "parts").glob("checkpoints/step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "parts" / "model").exists()
    assert start("parts").wait(600) == 0
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


LABELS = {
    "classification": lambda n: {"label": "ab"[n % 2]},
    "regression": lambda n: {"label": 2000.5 + n % 7},
    "multi-label": lambda n: {"label": ["a", "b"][: 1 + n % 2] if n % 3 else []},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", LABELS)
def test_finetuning_resumes_to_the_bit(small_recipe, small_prepared, engine, tmp_path, task):
    recipe = small_recipe(pretrain={"max_steps": 2})
    pretrain(recipe, small_prepared, tmp_path / "pretrain", "x", engine, print)
    encoder = tmp_path / "pretrain" / "model"
    rows = [{"text": f"the cat sat on a mat, number {n}", **LABELS[task](n)} for n in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(recipe.finetune, task=task, label_names=None)
    recipe = replace(recipe, finetune=config, data={**recipe.data, "reviews": str(tmp_path / "train.jsonl")})
    finetune(recipe, encoder, tmp_path / "whole", "x", engine, print)
    original = Finetuning.micro_batches
    calls = []

    def micro_batches(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise StopHereError
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetuning, "micro_batches", micro_batches)
        with pytest.raises(StopHereError):
            finetune(recipe, encoder, tmp_path / "parts", "x", engine, print)
    finetune(recipe, encoder, tmp_path / "parts", "x", engine, print)
    assert_equal(weights(tmp_path / "whole" / "seed-0"), weights(tmp_path / "parts" / "seed-0"))


def without_dropout(recipe):
    return replace(recipe, model=replace(recipe.model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


@pytest.mark.slow
def test_micro_batches_change_nothing(small_recipe, small_prepared, engine, tmp_path):
    recipes = [
        without_dropout(small_recipe(pretrain={"micro_batch_tokens": tokens, "max_steps": 3})) for tokens in (1024, 128)
    ]
    for recipe, name in zip(recipes, ("one", "many"), strict=True):
        pretrain(recipe, small_prepared, tmp_path / name, "x", engine, print)
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    for name in one:
        torch.testing.assert_close(one[name], many[name], atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(small_recipe, small_prepared, engine, tmp_path):
    recipe = without_dropout(small_recipe(pretrain={"max_steps": 4}))
    pretrain(recipe, small_prepared, tmp_path / "one", "x", engine, print)
    tracked = replace(recipe, system=replace(recipe.system, tracker="tensorboard"))  # by the main process alone
    (tmp_path / "recipe").write_bytes(pickle.dumps(tracked))
    script = tmp_path / "two.py"
    script.write_text(PRETRAIN + FINETUNE)
    words = [str(script), str(tmp_path / "recipe"), str(small_prepared), str(tmp_path / "two")]
    done = subprocess.run(in_two_processes(words), env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights(tmp_path / "two" / "finetune" / "seed-0")
    for folder in (tmp_path / "two", tmp_path / "two" / "finetune" / "seed-0"):
        assert len(list((folder / "tensorboard").glob("events.*"))) == 1
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=1e-3, msg=name)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    for a, b in zip(*lines, strict=True):
        assert json.loads(a)["tokens"] == json.loads(b)["tokens"]


@pytest.mark.slow
def test_the_loss_is_the_mean_over_all_scored_tokens(small_recipe, small_prepared, engine, tmp_path):
    # Against a lone forward pass over the padded global batch, which no loop has touched.
    recipe = without_dropout(small_recipe(pretrain={"max_steps": 1, "micro_batch_tokens": 64 * 2}))
    pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    logged = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    tokenizer = Tokenizer.load(small_prepared / "tokenizer")
    corpora = [PreparedCorpus(small_prepared / f"{part}.arrow", tokenizer.fingerprint) for part in ("train", "heldout")]
    torch.manual_seed(recipe.seed)
    model = PretrainingModel(new_encoder(recipe.model, tokenizer.vocab_size))
    training = Pretraining(recipe, model, tokenizer, *corpora)
    batch = training._streams[0].batch(0)
    mlm, nsp = model(*(torch.from_numpy(a) for a in (batch.input_ids, batch.token_type_ids, batch.attention_mask)))
    expected_mlm = torch.nn.functional.cross_entropy(mlm.flatten(0, 1), torch.from_numpy(batch.labels).flatten())
    expected_nsp = torch.nn.functional.cross_entropy(nsp, torch.from_numpy(batch.next_sentence_label))
    assert logged["mlm_loss"] == pytest.approx(expected_mlm.item(), rel=1e-5)
    assert logged["nsp_loss"] == pytest.approx(expected_nsp.item(), rel=1e-5)
    assert logged["loss"] == pytest.approx((expected_mlm + expected_nsp).item(), rel=1e-5)


@pytest.mark.slow
def test_a_causal_run_scores_every_token_once_against_the_one_before_it(small_recipe, small_prepared, engine, tmp_path):
    changes = {"max_steps": 1, "micro_batch_tokens": 64 * 2, "next_sentence": False}
    recipe = without_dropout(small_recipe(model={"is_decoder": True}, pretrain=changes))
    pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    logged, heldout = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    tokenizer = Tokenizer.load(small_prepared / "tokenizer")
    corpora = [PreparedCorpus(small_prepared / f"{part}.arrow", tokenizer.fingerprint) for part in ("train", "heldout")]
    torch.manual_seed(recipe.seed)
    model = PretrainingModel(new_encoder(recipe.model, tokenizer.vocab_size))
    batch = Pretraining(recipe, model, tokenizer, *corpora)._streams[0].batch(0)
    ids = torch.from_numpy(batch.input_ids)
    assert not (ids == tokenizer.mask_id).any()
    logits, _ = model(ids, torch.zeros_like(ids), torch.from_numpy(batch.attention_mask))
    losses = [
        torch.nn.functional.cross_entropy(logits[row, place - 1], ids[row, place]).item()
        for row, place in itertools.product(*map(range, ids.shape))
        if ids[row, place] not in (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id)
    ]
    assert logged["clm_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert {key for key in (*logged, *heldout) if "_" in key and key[:3] in ("mlm", "clm", "nsp")} == {
        "clm_loss",
        "clm_accuracy",
    }


def two_topics(folder):
    """Forty documents about the sea or about cooking: a random next sentence is off the topic half of the time."""
    topics = (
        "wave sail anchor harbour gull tide rope captain".split(),
        "oven flour butter knife onion pan salt cook".split(),
    )
    rng = random.Random(0)
    folder.mkdir()
    for number in range(40):
        words = topics[number % 2]
        lines = [f"The {rng.choice(words)} and the {rng.choice(words)} met a {rng.choice(words)}." for _ in range(60)]
        (folder / f"{number}.txt").write_text(" ".join(lines))
    return str(folder)


@pytest.mark.slow
def test_a_recipe_can_ask_for_local_attention_at_first(small_recipe, small_prepared, engine, tmp_path):
    def positions(folder, initialization):
        recipe = small_recipe(pretrain={"initialization": initialization, "max_steps": 1, "evaluate_every": 9})
        pretrain(recipe, small_prepared, tmp_path / folder, "x", engine, print)
        return weights(tmp_path / folder)["bert.embeddings.position_embeddings.weight"]

    def rises(weight):
        """How often position 0's cosine (odd columns) is above zero: a cosine begins at its top."""
        return float((weight[0, 1::2] > 0).float().mean())

    assert rises(positions("local", "local_attention")) == 1
    assert 0.1 < rises(positions("paper", "paper")) < 0.9


@pytest.mark.slow
def test_a_recipe_can_ask_for_pmi_embeddings(small_recipe, small_prepared, engine, tmp_path):
    recipe = small_recipe(pretrain={"embedding_initialization": "pmi", "max_steps": 1, "evaluate_every": 9})
    pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    tokenizer = Tokenizer.load(small_prepared / "tokenizer")
    corpus = PreparedCorpus(small_prepared / "train.arrow", tokenizer.fingerprint)
    vectors, frequencies = token_vectors(corpus, tokenizer.vocab_size, recipe.model.hidden_size, None)
    trained = weights(tmp_path)
    embeddings = trained["bert.embeddings.word_embeddings.weight"]
    likeness = torch.nn.functional.cosine_similarity(embeddings, torch.from_numpy(vectors), dim=-1)
    counted = torch.from_numpy(vectors.any(1))
    assert likeness[counted].min() > 0.95
    assert embeddings[~counted].any(1).all()  # what was never seen starts at random
    bias = trained["cls.predictions.bias"].softmax(0)
    torch.testing.assert_close(bias, torch.from_numpy(frequencies), rtol=0.02, atol=0)


@pytest.mark.slow
def test_both_objectives_are_learnt(small_recipe, engine, tmp_path):
    recipe = small_recipe(
        model={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        pretrain={
            "max_steps": 600,
            "batch_tokens": 4096,
            "micro_batch_tokens": 4096,
            "phases": (Phase(sequence_length=32),),
            "evaluate_every": 600,
            "checkpoint_every": 600,
            "masking": MaskingConfig(rate=0.15),
            "optimizer": OptimizerConfig(name="muon", learning_rate=2e-3, muon_learning_rate=5e-3, warmup_ratio=0.1),
        },
    )
    recipe = replace(
        recipe,
        data={"books": Source(path=two_topics(tmp_path / "texts")), "reviews": recipe.data["reviews"]},
        tokenizer=TokenizerConfig(vocab_size=100, min_frequency=1),
        prepare=PrepareConfig(corpora=("books",), heldout_ratio=0.1, workers=1),
    )
    prepare_corpus(recipe, tmp_path / "prepare", "x")
    pretrain(recipe, tmp_path / "prepare", tmp_path / "out", "x", engine, print)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    heldout = lines[-1]
    assert heldout["kind"] == "eval"
    # A model that knows only how often words are would be at 2.9 or so; knowing the topic leaves a choice of eight.
    assert heldout["mlm_loss"] < 1.6
    assert heldout["nsp_accuracy"] > 0.68


@pytest.mark.slow
def test_without_next_sentence_prediction_its_parts_keep_their_initial_weights(
    small_recipe, small_prepared, engine, tmp_path
):
    recipe = small_recipe(pretrain={"next_sentence": False, "max_steps": 2})
    pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    torch.manual_seed(recipe.seed)
    fresh = PretrainingModel(new_encoder(recipe.model, 160))
    trained = weights(tmp_path)
    assert torch.equal(trained["bert.pooler.dense.weight"], fresh.pooler.dense.weight)
    assert not [name for name in trained if "seq_relationship" in name]  # of a head that was not trained
    with pytest.raises(UserError, match="no next-sentence head"):
        load(tmp_path / "model").next_sentence("The river was old.", "It was new again.")
    assert load(tmp_path / "model").embed("The river was old.").pooled is None  # random, too
    assert not torch.equal(trained["bert.embeddings.word_embeddings.weight"], fresh.encoder.token_embeddings.weight)
    assert "nsp_loss" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_phase_can_leave_next_sentences_out(small_recipe, small_prepared, engine, tmp_path):
    first, second = (Phase(sequence_length=length, budget_ratio=0.5) for length in (32, 64))
    phases = (first, replace(second, next_sentence=False))
    recipe = small_recipe(pretrain={"phases": phases, "max_steps": 4, "log_every": 1, "evaluate_every": 2})
    pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = {line["step"]: "nsp_loss" in line for line in lines if line["kind"] == "train"}
    evaluated = {line["step"]: line["nsp_accuracy"] for line in lines if line["kind"] == "eval"}
    assert trained == {1: True, 2: True, 3: False, 4: False}
    assert sorted(evaluated) == [2, 4]  # what is left of it is measured all the same


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_weights(
    small_recipe, small_prepared, engine, tmp_path
):
    recipe = small_recipe(pretrain={"optimizer": OptimizerConfig(learning_rate=1e38, warmup_ratio=0.0)})
    with pytest.raises(UserError, match=r"the loss became .* lower learning_rate"):
        pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    kept = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert not (tmp_path / "model").exists()
    assert load_file(kept / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["optimizer.safetensors", "state.json", "another shape", "no state"])
def test_a_broken_checkpoint_gives_way_to_the_one_before(small_recipe, small_prepared, engine, tmp_path, damage):
    recipe = small_recipe()
    pretrain(recipe, small_prepared, tmp_path / "whole", "x", engine, print)
    pretrain(recipe, small_prepared, tmp_path / "cut", "x", engine, print)
    newest = tmp_path / "cut" / "checkpoints" / "step-00000006"
    if damage == "another shape":
        (newest / "state.json").write_text("[]")
    elif damage == "no state":
        (newest / "state.json").unlink()
    else:
        (newest / damage).write_bytes((newest / damage).read_bytes()[:100])
    said = []
    pretrain(recipe, small_prepared, tmp_path / "cut", "x", engine, said.append)
    assert any("step-00000006 is broken" in text for text in said)
    assert any("resuming from step 4" in text for text in said)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.slow
def test_new_checkpoints_outlive_broken_ones_of_later_steps(small_recipe, small_prepared, engine, tmp_path):
    recipe = small_recipe()
    for step in (500, 1000):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000006", "step-00000500", "step-00001000"]


@pytest.mark.slow
def test_a_full_disk_while_writing_a_checkpoint_loses_nothing(small_recipe, small_prepared, tmp_path, engine):
    recipe = small_recipe()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # no file may grow beyond this
    try:
        with pytest.raises(UserError, match="no space left on the disk"):
            pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []
    assert pretrain(recipe, small_prepared, tmp_path, "x", engine, print).step == 6


@pytest.mark.slow
def test_a_wall_clock_budget_ends_on_time_with_a_rate_near_zero(small_recipe, small_prepared, engine, tmp_path):
    recipe = small_recipe(pretrain={"max_steps": None, "max_minutes": 2 / 60, "checkpoint_every": 10_000})
    position = pretrain(recipe, small_prepared, tmp_path, "x", engine, print)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if line["kind"] == "train"]
    assert 2 <= position.seconds < 2.5
    assert rates[-1] < 0.15 * max(rates)
    assert all(steps > 0 for steps in position.phase_steps)


def rates(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["learning_rate"] / 1e-3 for line in lines if line["kind"] == "train"}


@pytest.mark.slow
def test_a_longer_budget_continues_where_the_shorter_one_ended(
    small_recipe, small_prepared, engine, tmp_path, monkeypatch
):
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_ratio=0.5)
    recipes = [small_recipe(pretrain={"max_steps": steps, "optimizer": optimizer}) for steps in (4, 12)]
    asked = []
    original = Pretraining.micro_batches

    def micro_batches(self, phase, number, rank, world):
        asked.append((phase, number))
        return original(self, phase, number, rank, world)

    monkeypatch.setattr(Pretraining, "micro_batches", micro_batches)
    earlier, folder, said = tmp_path / "earlier", tmp_path / "longer", []
    pretrain(recipes[0], small_prepared, earlier, "x", engine, print)
    before = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    asked.clear()
    continue_from(earlier, folder, said.append)
    position = pretrain(recipes[1], small_prepared, folder, "x", engine, said.append)
    assert {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()} == before
    assert (position.step, position.phase_steps) == (12, (4, 8))  # steps 5 and 6 are of the first half again
    assert list(dict.fromkeys(batch for batch in asked if batch[0] == 0))[:2] == [(0, 2), (0, 3)]
    assert any("the budget was 4 steps and is now 12 steps" in text for text in said)
    # As documented: from the last rate to the line of twelve steps within half of the eight that are left.
    line = {step: min(step / 6, (13 - step) / 6) for step in range(1, 13)}
    last = 0.5  # of the shorter run: one step before zero of two that fall
    expected = {step: last + (line[step] - last) * min(1, (step - 4) / 4) for step in range(5, 13)}
    found = rates(folder)
    assert list(found) == list(range(1, 13))
    assert {step: found[step] for step in expected} == pytest.approx(expected)


@pytest.mark.slow
def test_a_continued_run_resumes_to_the_bit(small_recipe, small_prepared, engine, tmp_path, monkeypatch):
    pretrain(small_recipe(), small_prepared, tmp_path / "earlier", "x", engine, print)
    longer = small_recipe(pretrain={"max_steps": 11})
    for name in ("whole", "parts"):
        continue_from(tmp_path / "earlier", tmp_path / name, print)
    pretrain(longer, small_prepared, tmp_path / "whole", "x", engine, print)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(StopHereError):
            pretrain(longer, small_prepared, tmp_path / "parts", "x", engine, print)
    continue_from(tmp_path / "earlier", tmp_path / "parts", print)  # as the stage does each time
    pretrain(longer, small_prepared, tmp_path / "parts", "x", engine, print)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert rates(tmp_path / "whole") == rates(tmp_path / "parts")


@pytest.mark.parametrize("budget", [{"max_steps": 5}, {"max_steps": None, "max_minutes": 1e-4}])
@pytest.mark.slow
def test_a_shorter_budget_is_refused(small_recipe, small_prepared, engine, tmp_path, budget):
    pretrain(small_recipe(), small_prepared, tmp_path, "x", engine, print)
    shorter = small_recipe(pretrain=budget)
    with pytest.raises(UserError, match=r"has done 6 steps in .* another folder for the shorter run: --out"):
        check_budget(shorter, tmp_path, "x")
    check_budget(small_recipe(), tmp_path, "x")
    check_budget(shorter, tmp_path, "of another recipe")


@pytest.mark.slow
def test_a_resume_in_a_later_epoch_plans_no_epoch_before_it(
    small_recipe, small_prepared, engine, tmp_path, monkeypatch
):
    recipe = small_recipe(pretrain={"max_steps": 30, "phases": (Phase(sequence_length=64),), "checkpoint_every": 25})
    pretrain(recipe, small_prepared, tmp_path / "whole", "x", engine, print)
    with monkeypatch.context() as patch:
        stop_at(patch, 27)
        with pytest.raises(StopHereError):
            pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print)
    planned = []
    original = pretraining_inputs.plan_epoch

    def plan_epoch(corpus, **options):
        if corpus.num_documents > 20:  # not the held-out one
            planned.append(options["epoch"])
        return original(corpus, **options)

    monkeypatch.setattr(pretraining_inputs, "plan_epoch", plan_epoch)
    pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print)
    assert min(planned) >= 1
    assert planned == sorted(set(planned))
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.slow
def test_held_out_metrics_do_not_depend_on_the_size_of_micro_batches(small_recipe, small_prepared, engine, tmp_path):
    found = []
    for tokens in (1024, 64):
        changes = {"micro_batch_tokens": tokens, "max_steps": 1, "phases": (Phase(sequence_length=64),)}
        pretrain(
            without_dropout(small_recipe(pretrain=changes)), small_prepared, tmp_path / str(tokens), "x", engine, print
        )
        found.append(json.loads((tmp_path / str(tokens) / "metrics.jsonl").read_text().splitlines()[-1]))
    for name in ("mlm_loss", "mlm_accuracy", "nsp_loss"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-4)


@pytest.mark.slow
def test_few_steps_are_said_to_be_few(small_recipe, small_prepared, engine, tmp_path):
    pretrain(small_recipe(pretrain={"max_steps": 1}), small_prepared, tmp_path / "pretrain", "x", engine, print)
    said = []
    recipe = small_recipe(finetune={"epochs": 3, "batch_size": 32})
    finetune(recipe, tmp_path / "pretrain" / "model", tmp_path / "finetune", "x", engine, said.append)
    assert [text for text in said if "6 steps, fewer than the 50" in text and "raise finetune.epochs" in text]
    found = list(rates(tmp_path / "finetune" / "seed-0").values())
    assert found == pytest.approx([0.05 * (1 - step / 6) / 0.9 if step else 0.05 for step in range(6)])


def test_the_learning_rate_climbs_then_falls_to_zero():
    factors = [learning_rate_factor(step / 100, 1 / 100, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0, abs=0.02)
    assert factors[100] == 0
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_no_weight_decay_on_biases_and_normalisation(small_recipe):
    model = PretrainingModel(new_encoder(small_recipe().model, 100))
    for name in ("adamw", "muon"):
        decay = {
            id(p): group["weight_decay"]
            for optimizer in make_optimizers(
                model, model.encoder.matrices(), OptimizerConfig(name=name, learning_rate=1e-3)
            )
            for group in optimizer.param_groups
            for p in group["params"]
        }
        assert len(decay) == len(list(model.parameters()))
        for parameter_name, parameter in model.named_parameters():
            free = parameter_name.endswith("bias") or "norm" in parameter_name
            assert decay[id(parameter)] == (0 if free else 0.01), parameter_name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_parameter_without_a_gradient_is_neither_moved_nor_decayed(small_recipe, engine, name):
    torch.manual_seed(0)
    model = PretrainingModel(new_encoder(small_recipe().model, 100))
    config = OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.5)
    optimizers = make_optimizers(model, model.encoder.matrices(), config)
    ids = torch.randint(5, 100, (4, 16))
    heads = (model.next_sentence, model.pooler)

    def step(with_pairs):
        before = [parameter.detach().clone() for part in heads for parameter in part.parameters()]
        encoder = model.encoder.blocks[1].attention.query.weight.detach().clone()
        mlm, nsp = model(ids, torch.zeros_like(ids))
        labels = torch.tensor([0, 1, 1, 0]) if with_pairs else torch.full((4,), IGNORED_LABEL)
        loss = cross_entropy(mlm, ids).total / ids.numel() + cross_entropy(nsp, labels).total / 4
        loss.backward()
        assert (model.next_sentence.weight.grad != 0).any() == with_pairs
        engine.clip_gradients(model, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        assert not torch.equal(encoder, model.encoder.blocks[1].attention.query.weight)
        after = [parameter for part in heads for parameter in part.parameters()]
        return [torch.equal(a, b) for a, b in zip(before, after, strict=True)]

    assert not any(step(with_pairs=True))
    assert all(step(with_pairs=False)), "momentum and weight decay stand still"
    assert all(step(with_pairs=False))
    assert not any(step(with_pairs=True))


@pytest.mark.parametrize("scale", [1e-30, 1e-20])
def test_a_tiny_gradient_is_one(engine, scale):
    model = torch.nn.Linear(3, 2)
    (optimizer,) = make_optimizers(model, [], OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    before = model.weight.detach().clone()
    model.weight.grad = torch.full((2, 3), scale)
    engine.clip_gradients(model, 1.0)
    optimizer.step()
    assert not torch.equal(before, model.weight)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.slow
def test_the_next_sentence_head_rests_in_a_phase_without_pairs_and_a_resumed_run_is_the_same(
    small_recipe, small_prepared, engine, tmp_path, monkeypatch, name
):
    phases = tuple(Phase(sequence_length=32, budget_ratio=0.5, next_sentence=pairs) for pairs in (False, True))
    optimizer = OptimizerConfig(name=name, learning_rate=1e-3, weight_decay=0.5)
    recipe = small_recipe(pretrain={"phases": phases, "optimizer": optimizer, "checkpoint_every": 1})
    pretrain(recipe, small_prepared, tmp_path / "whole", "x", engine, print)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)  # where the optimizer has no state of these heads yet
        with pytest.raises(StopHereError):
            pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print)
    tokenizer = Tokenizer.load(small_prepared / "tokenizer")
    start = first_model(recipe, tokenizer, PreparedCorpus(small_prepared / "train.arrow", tokenizer.fingerprint), print)
    newest = max((tmp_path / "parts" / "checkpoints").iterdir())
    rested = load_file(newest / "model.safetensors")
    assert newest.name >= "step-00000001"
    for theirs, parameter in (
        ("bert.pooler.dense.weight", start.pooler.dense.weight),
        ("cls.seq_relationship.weight", start.next_sentence.weight),
    ):
        assert torch.equal(rested[theirs], parameter)
        assert not torch.equal(weights(tmp_path / "whole")[theirs], parameter)
    pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


SHAPES = (8, 16), (16, 8), (16, 8)


def updated_by(make, steps, bf16=False):
    """Matrices after some steps of an optimizer on random gradients."""
    chance = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=chance)) for shape in SHAPES]
    optimizer = make(matrices)
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=chance)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            optimizer.step()
    return [matrix.detach() for matrix in matrices]


@pytest.mark.parametrize("bf16", [False, True])
def test_muon_moves_as_pytorch_s_does(bf16):
    def theirs(matrices):
        return torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")

    ours = updated_by(lambda matrices: Muon(matrices, 0.01, 0.1), 5, bf16)
    start, moved = updated_by(theirs, 0), updated_by(theirs, 5)
    for own, their, first in zip(ours, moved, start, strict=True):
        assert (own - their).abs().max() < 0.02 * (their - first).abs().max()  # PyTorch's rounds to bfloat16


def test_orthogonal_applies_jordan_s_polynomial_to_singular_values():
    for shape in ((2, 6, 9), (1, 9, 6)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
        values = values / values.norm(dim=1, keepdim=True)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        assert values.min() > 0.6
        assert values.max() < 1.3
        expected = left @ torch.diag_embed(values) @ right
        assert torch.allclose(orthogonal(matrices).double(), expected, atol=1e-4)


@pytest.mark.slow
def test_the_compiled_step_gives_the_plain_step(small_recipe, small_prepared, tmp_path):
    # With dropout, which drops the same elements. A second block would be compiled as the first one is.
    recipe = small_recipe(model={"num_hidden_layers": 1}, pretrain={"max_steps": 2})
    for mode in ("on", "off"):
        engine = Engine(SystemConfig(precision="fp32", compile=mode), print)
        pretrain(recipe, small_prepared, tmp_path / mode, "x", engine, print)
    on, off = weights(tmp_path / "on"), weights(tmp_path / "off")
    for name in on:
        torch.testing.assert_close(on[name], off[name], atol=2e-5, rtol=1e-3, msg=name)


THREE_NETWORKS = """
import torch
from bertwright.recipe import SystemConfig
from bertwright.train.engine import Engine

with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
    for _ in range(3):
        engine = Engine(SystemConfig(precision="bf16", compile="on"), print)
        linear = torch.nn.Linear(4, 4)
        engine.prepare(linear, [linear])(torch.zeros(2, 4))
"""


def run_alone(script, *arguments):
    """Run a script in a process of its own: this one has chosen its precision."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_process_may_train_one_network_after_the_other():
    run_alone(THREE_NETWORKS)


COMPILED_AMONG_PROCESSES = """
import sys
import torch
from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import SequenceHead, TaskModel
from bertwright.recipe import ModelConfig, SystemConfig
from bertwright.tasks.supervised import TaskObjective
from bertwright.train.engine import Engine

shape = ModelConfig(hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024)
head = SequenceHead(shape.hidden_size, 2, 0.1)
model = TaskModel(new_encoder(shape, 1_000), head, ["negative", "positive"], "classification")
objective = TaskObjective(model)
Engine(SystemConfig(precision="fp32", compile="on"), print).prepare(objective, objective.parts())
for part in objective.parts():
    part.compile(dynamic=True, backend="aot_eager")  # as prepare does, without the time that g++ takes
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
among = torch.nn.parallel.DistributedDataParallel(objective)
ids = torch.ones(2, 16, dtype=torch.long)
outcome = among(ids, torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool), torch.eye(2))
outcome["label"].total.backward()
"""


@pytest.mark.slow
def test_a_network_with_dropout_is_compiled_among_processes(tmp_path):
    run_alone(COMPILED_AMONG_PROCESSES, tmp_path / "meeting")


def test_without_a_compiler_training_says_so_and_runs(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    said = []
    engine = Engine(SystemConfig(precision="fp32", compile="auto"), said.append)
    assert not engine.compiles
    assert "no C++ compiler" in said[0]
    with pytest.raises(UserError, match="is on, but no C"):
        Engine(SystemConfig(precision="fp32", compile="on"), print)


def test_without_the_headers_of_python_training_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    said = []
    assert not Engine(SystemConfig(precision="fp32", compile="auto"), said.append).compiles
    assert "the headers of Python, which compiled code needs, are missing" in said[0]


@pytest.mark.slow
def test_processes_that_find_other_checkpoints_are_refused(small_recipe, small_prepared, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "from_main", lambda value: value + 500)  # what the first process has found
    with pytest.raises(UserError, match="one process found a checkpoint of step 500 and another one of step 0"):
        pretrain(small_recipe(), small_prepared, tmp_path / "run", "x", engine, print)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells which files a process has mapped")
def test_a_resumed_run_holds_no_checkpoint_open(small_recipe, small_prepared, engine, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3)
    with pytest.raises(StopHereError):
        pretrain(small_recipe(), small_prepared, tmp_path / "run", "x", engine, print)
    monkeypatch.undo()
    original, mapped = Pretraining.micro_batches, []

    def micro_batches(self, *arguments):
        mapped.append("optimizer.safetensors" in Path("/proc/self/maps").read_text())
        return original(self, *arguments)

    monkeypatch.setattr(Pretraining, "micro_batches", micro_batches)
    pretrain(small_recipe(), small_prepared, tmp_path / "run", "x", engine, print)
    assert mapped[1:]
    assert not any(mapped)


@pytest.mark.parametrize(
    ("steps", "minutes", "expected"),
    [(6, None, False), (300, None, False), (30_000, None, True), (None, 1, False), (None, 105, True)],
)
def test_a_run_is_compiled_where_its_steps_repay_that(monkeypatch, steps, minutes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr("bertwright.train.engine.shutil.which", lambda name: f"/usr/bin/{name}")
    # BERT-mini's blocks have 3.1 million weights; a batch of 16 reviews has some 2,000 tokens.
    flops = 6 * 3.1e6 * 2_000 * (steps or 0)
    for mode, wanted in (("auto", expected), ("on", True), ("off", False)):
        engine = Engine(SystemConfig(precision="fp32", compile=mode), print)
        assert engine.repays_compiling(flops, 60.0 * (minutes or 0)) == wanted


def test_the_bar_has_no_estimate_before_some_steps_were_timed(capsys):
    position = Position()
    bar = ProgressBar(1000, None, position, visible=True)
    bar.say("compiling, about a minute")
    assert "compiling, about a minute" in capsys.readouterr().err
    said = []
    for step in range(1, 9):
        position.step, position.seconds = step, float(step - 1)  # the first step's time is not counted
        bar.advance(position)
        bar._bar.refresh()
        said.append(capsys.readouterr().err.split("\r")[-1])
    bar.close()
    assert all("estimating the time left" in text for text in said[:5])
    assert "16:34 left" in said[5]  # 994 steps of a second
    assert "16:32 left" in said[7]


class Numbers:
    """Batches that say which they are; number 13 can't be made."""

    def micro_batches(self, phase, number, rank, world):
        if number == 13:
            raise UserError("there is no 13")
        return [{"which": torch.tensor([phase, number, rank, world])}]


def test_batches_built_ahead_are_the_ones_asked_for(engine):
    with closing(Prefetcher(Numbers(), engine)) as prefetcher:
        for phase, number in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (0, 3), (0, 3), (2, 11)]:
            ((batch,), waited) = prefetcher.take(phase, number)
            assert batch["which"].tolist() == [phase, number, 0, 1]
            assert waited >= 0
        assert prefetcher.take(2, 12)[0][0]["which"].tolist()[1] == 12, "what fails later does not fail now"
        with pytest.raises(UserError, match="no 13"):
            prefetcher.take(2, 13)


def slowed(monkeypatch, method, seconds):
    """Have each call of a method of `Pretraining` take longer."""
    original = getattr(Pretraining, method)

    def slow(self, *arguments):
        time.sleep(seconds)
        return original(self, *arguments)

    monkeypatch.setattr(Pretraining, method, slow)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["micro_batches", "counts"])
def test_the_fraction_of_time_that_a_step_waits_for_data_is_logged(
    small_recipe, small_prepared, engine, tmp_path, monkeypatch, method
):
    # Where a batch takes a second and a half to build, a step waits for most of it, also on a busy machine; where the
    # step itself takes as long, the next batch is ready when it ends.
    slowed(monkeypatch, method, 1.5)
    changes = {"max_steps": 4, "micro_batch_tokens": 1024, "evaluate_every": 9, "checkpoint_every": 9}
    pretrain(small_recipe(pretrain=changes), small_prepared, tmp_path, "print", engine, lambda _: None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, *ratios = [line["data_wait_ratio"] for line in lines if line["kind"] == "train"]
    assert first == 0, "the first batch is start-up"
    assert len(ratios) == 3
    if method == "micro_batches":
        assert 0.5 < min(ratios) <= max(ratios) <= 1
    else:
        assert 0 <= min(ratios) <= max(ratios) < 0.2


@pytest.mark.slow
def test_the_step_that_compiles_has_no_part_in_the_speed(small_recipe, small_prepared, engine, tmp_path):
    pretrain(small_recipe(), small_prepared, tmp_path, "print", engine, lambda _: None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert ["tokens_per_second" in line for line in trained] == [False] + [True] * 5
    tokens = trained[-1]["tokens"] - trained[0]["tokens"]
    seconds = trained[-1]["seconds"] - trained[0]["seconds"]
    assert min(line["tokens_per_second"] for line in trained[1:]) < 1.2 * tokens / seconds


@pytest.mark.slow
def test_one_held_out_document_is_measured_without_pairs(small_recipe, engine, tmp_path):
    recipe = small_recipe()
    recipe = replace(recipe, prepare=replace(recipe.prepare, heldout_ratio=0.015))
    prepare_corpus(recipe, tmp_path / "prepare", "x")
    heldout = json.loads((tmp_path / "prepare" / "manifest.json").read_text())["heldout"]
    assert heldout["documents"] == 1
    pretrain(recipe, tmp_path / "prepare", tmp_path / "out", "x", engine, print)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["kind"] == "eval"]
    assert evaluated
    assert all("mlm_loss" in line and "nsp_loss" not in line for line in evaluated)
    assert all("nsp_loss" in line for line in lines if line["kind"] == "train")


@pytest.mark.slow
@pytest.mark.parametrize("initialization", ["paper", "pmi"])
def test_a_phase_without_text_is_refused_before_anything_is_trained(
    small_recipe, small_data, engine, tmp_path, initialization
):
    first, second = (Phase(sequence_length=length, budget_ratio=0.5) for length in (32, 64))
    phases = (first, replace(second, corpora=("again",)))
    changes = {"phases": (Phase(sequence_length=32),), "embedding_initialization": initialization}
    recipe = small_recipe(pretrain=changes)
    (tmp_path / "again").mkdir()  # what stands in an entry before it is left out as a duplicate
    (tmp_path / "again" / "a.txt").write_text((small_data / "books" / "00.txt").read_text())
    data = {**recipe.data, "again": str(tmp_path / "again")}
    prepare = replace(recipe.prepare, corpora=(*recipe.prepare.corpora, "again"))
    recipe = replace(recipe, data=data, prepare=prepare, pretrain=replace(recipe.pretrain, phases=phases))
    prepare_corpus(recipe, tmp_path / "prepare", "x")
    with pytest.raises(UserError, match="reads again, which has 0 documents to train on, and needs 2"):
        pretrain(recipe, tmp_path / "prepare", tmp_path / "out", "x", engine, print)
    assert not (tmp_path / "out").exists()
