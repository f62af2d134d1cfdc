"""Bits per character, counted one token at a time; and that they compare vocabularies where a loss does not."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bertwright.inputs.masking import IGNORED_LABEL
from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import SystemConfig
from bertwright.tasks.heldout import WHOLE_WORDS, HeldoutText, bits_per_character
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
def test_the_loss_of_whole_words_is_that_of_a_loop_over_single_tokens(corpora, engine, causal):
    tokenizer, _, heldout = corpora
    torch.manual_seed(1)
    shape = replace(SHAPE, is_decoder=causal)
    model = shaken(PretrainingModel(new_encoder(shape, tokenizer.vocab_size))).eval()
    objective = PretrainingObjective(model, next_sentence=False)
    masking = None if causal else WHOLE_WORDS
    text = HeldoutText(heldout, tokenizer, 32, masking, next_sentence=False, sources=("books",))
    with torch.inference_mode():
        found = text.evaluate(objective, engine, 512)
        losses, right, masked = [], 0, 0
        for number in range(-(-len(text.stream.plan(0)) // text.stream.batch_size)):
            batch = text.stream.batch(number)
            logits = model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.token_type_ids),
                           torch.from_numpy(batch.attention_mask))[0]  # fmt: skip
            for row, column in np.argwhere(batch.labels != IGNORED_LABEL):
                label = int(batch.labels[row, column])
                losses.append(-float(logits[row, column].log_softmax(-1)[label]))
                right += int(logits[row, column].argmax()) == label
                if not causal:  # the other pieces of the word are predicted, too
                    for other in (column - 1, column + 1):
                        last = max(column, other)
                        original = np.where(batch.labels[row] == IGNORED_LABEL, batch.input_ids[row], batch.labels[row])
                        if 0 < other < 31 and tokenizer.is_continuation[original[last]]:
                            masked += 1
                            assert batch.labels[row, other] != IGNORED_LABEL
    name = "clm" if causal else "mlm"
    assert found[f"{name}_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found[f"{name}_accuracy"] == pytest.approx(right / len(losses))
    assert causal or masked > 20
    tokens = sum(len(span) for span in heldout.spans(heldout.document_starts[:-1], np.diff(heldout.document_starts)))
    assert bits_per_character(found[f"{name}_loss"], tokens, 1_000) == pytest.approx(
        sum(losses) / len(losses) * tokens / math.log(2) / 1_000
    )


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
