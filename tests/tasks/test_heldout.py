"""Bits per character, counted one token at a time; and that they compare vocabularies where a loss does not."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bertwright.evaluate.heldout import HeldoutMetrics
from bertwright.inputs.masking import IGNORED_LABEL
from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import Phase, PrepareConfig, PretrainConfig, Recipe, SystemConfig
from bertwright.tasks.heldout import HeldoutText, bits_per_character, corpora_read
from bertwright.tasks.pretraining import Pretraining, PretrainingObjective
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from small_models import SHAPE, shaken


@pytest.fixture(scope="module")
def engine():
    return Engine(SystemConfig(precision="fp32", compile="off"), print)


@pytest.fixture
def corpora(small_prepared):
    tokenizer = Tokenizer.load(small_prepared / "tokenizer")
    parts = (PreparedCorpus(small_prepared / f"{part}.arrow", tokenizer.fingerprint) for part in ("train", "heldout"))
    return tokenizer, *parts


def test_a_uniform_code_costs_the_same_bits_in_any_vocabulary():
    # A text of 12 characters in an alphabet of 16, cut into 12 tokens, or into 6 of two characters each.
    assert bits_per_character(math.log(16), 12, 12) == pytest.approx(4)
    assert bits_per_character(math.log(16**2), 6, 12) == pytest.approx(4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.slow
def test_bits_per_character_are_those_of_a_loop_over_single_pieces(corpora, engine, causal):
    tokenizer, _, heldout = corpora
    torch.manual_seed(1)
    model = shaken(PretrainingModel(new_encoder(replace(SHAPE, is_decoder=causal), tokenizer.vocab_size))).eval()
    objective = PretrainingObjective(model, next_sentence=False)
    text = HeldoutText(heldout, tokenizer, 32, causal=causal, next_sentence=False, scoring=True)
    losses, right, rest = [], 0, 0
    with torch.inference_mode():
        found = text.evaluate(objective, engine, 512)
        for number in range(-(-len(text.stream.plan(0)) // text.stream.batch_size)):
            plain = text.stream.batch(number)
            for row in range(len(plain.input_ids)):
                length = int(plain.attention_mask[row].sum())
                ids, labels = plain.input_ids[row, :length].copy(), plain.labels[row, :length]
                words = np.where(labels == IGNORED_LABEL, ids, labels)
                predicted = {}
                for place in range(length):
                    if causal and place + 1 < length - 1:
                        predicted[place] = ids[place + 1]
                    elif not causal and labels[place] != IGNORED_LABEL:
                        before = place - 1
                        while tokenizer.is_continuation[words[before + 1]] and labels[before] == IGNORED_LABEL:
                            before -= 1
                        if tokenizer.is_continuation[words[place]] and tokenizer.is_continuation[words[before + 1]]:
                            continue  # after a piece of the same word that is predicted
                        predicted[place] = labels[place]
                        for later in range(place + 1, length):
                            if not tokenizer.is_continuation[words[later]]:
                                break
                            ids[later] = tokenizer.mask_id
                            rest += 1
                given = torch.from_numpy(ids)[None]
                logits = model(given, torch.zeros_like(given))[0][0].log_softmax(-1)
                for place, label in predicted.items():
                    losses.append(-float(logits[place, label]))
                    right += int(logits[place].argmax()) == label
    name = "clm" if causal else "mlm"
    assert found[f"{name}_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found[f"{name}_accuracy"] == pytest.approx(right / len(losses))
    assert causal or rest > 20
    recipe = Recipe(
        name="x",
        data={"books": "b"},
        prepare=PrepareConfig(corpora=("books",)),
        pretrain=PretrainConfig(max_steps=1, next_sentence=False, phases=(Phase(sequence_length=32),)),
    )
    metrics = HeldoutMetrics(heldout, tokenizer, {"books": 600, "reviews:train": 400}, recipe, engine).of(model)
    tokens = sum(len(span) for span in heldout.spans(heldout.document_starts[:-1], np.diff(heldout.document_starts)))
    assert metrics[f"{name}_bits_per_character"] == pytest.approx(np.mean(losses) / math.log(2) * tokens / 1_000)
    # A run of an earlier version did not count the characters.
    older = HeldoutMetrics(heldout, tokenizer, {"books": None, "reviews:train": None}, recipe, engine).of(model)
    assert older.keys() == metrics.keys() - {f"{name}_bits_per_character"}


def test_a_phase_has_its_own_mask_rate_and_held_out_text_that_of_the_paper(small_recipe, corpora):
    tokenizer, train, heldout = corpora
    recipe = small_recipe()
    first, second = recipe.pretrain.phases
    phases = (replace(first, masking_rate=0.4), second)
    recipe = replace(recipe, pretrain=replace(recipe.pretrain, next_sentence=False, phases=phases))
    model = PretrainingModel(new_encoder(SHAPE, tokenizer.vocab_size))
    training = Pretraining(recipe, model, tokenizer, train, heldout)
    plain = Pretraining(replace(recipe, pretrain=replace(recipe.pretrain, phases=(first, second))), model, tokenizer,
                        train, heldout)  # fmt: skip
    for phase, rate in ((0, 0.4), (1, 0.15)):
        batches = [batch for number in range(2) for batch in training.micro_batches(phase, number, 0, 1)]
        masked = sum(int((batch["labels"] != IGNORED_LABEL).sum()) for batch in batches)
        ordinary = sum(int(batch["attention_mask"].sum()) - 2 * len(batch["input_ids"]) for batch in batches)
        assert masked / ordinary == pytest.approx(rate, abs=0.02)
    same = zip(training.micro_batches(1, 0, 0, 1), plain.micro_batches(1, 0, 0, 1), strict=True)
    assert all(torch.equal(one["input_ids"], other["input_ids"]) for one, other in same)


@pytest.mark.slow
def test_a_corpus_that_no_phase_reads_is_no_part_of_held_out_text(small_recipe, corpora, engine):
    tokenizer, train, heldout = corpora
    recipe = small_recipe(pretrain={"next_sentence": False})
    torch.manual_seed(1)
    model = shaken(PretrainingModel(new_encoder(SHAPE, tokenizer.vocab_size))).eval()

    def found(*phases):
        changed = replace(recipe, pretrain=replace(recipe.pretrain, phases=phases))
        metrics = HeldoutMetrics(heldout, tokenizer, {"books": 600, "reviews:train": 400}, changed, engine)
        training = Pretraining(changed, model, tokenizer, train, heldout)
        with torch.inference_mode():
            evaluated = training.evaluate(training.objective.eval(), engine, 0)
        assert metrics.of(model)["mlm_loss"] == pytest.approx(evaluated["mlm_loss"], rel=1e-5)
        return metrics

    books, every = Phase(sequence_length=32, corpora=("books",)), Phase(sequence_length=32)
    assert found(books).of(model) == found(books).of(model, "books") == found(every).of(model, "books")
    both = found(Phase(sequence_length=32, corpora=("books", "reviews:train")))
    assert both.of(model) == found(every).of(model) != found(books).of(model)
    # Of a corpus of which nothing is held out, all that is held out stands in.
    other = Phase(sequence_length=32, corpora=("other",))
    assert corpora_read(replace(recipe.pretrain, phases=(other,)), heldout) is None
