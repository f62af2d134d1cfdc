"""Framed inputs: what a text may spell without becoming something else."""

from itertools import pairwise

import numpy as np
import pytest

from bertwright.inputs.sequences import build, build_cloze, build_many
from bertwright.recipe import TokenizerConfig
from bertwright.text.wordpiece import SPECIAL_TOKENS, Tokenizer

SPELLED = "the [SEP] cat [PAD] sat[MASK] on [CLS] a [UNK] mat"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([SPELLED, "a cat sat on the mat"], TokenizerConfig(min_frequency=1))


def _pieces(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    return tokenizer.decode(ids)


def test_spelled_special_tokens_are_text_alone_in_pairs_and_in_batches(tokenizer: Tokenizer) -> None:
    special = {tokenizer.tokens.index(token) for token in SPECIAL_TOKENS}
    for sequence in (
        build(tokenizer, SPELLED, max_length=None),
        build(tokenizer, SPELLED, SPELLED, max_length=None),
        *build_many(tokenizer, [SPELLED], max_length=None),
        *build_many(tokenizer, [SPELLED], [SPELLED], max_length=None),
    ):
        assert not special & set(sequence.input_ids[~sequence.special_tokens_mask].tolist())
        read = "the [ sep ] cat [ pad ] sat [ mask ] on [ cls ] a [ unk ] mat"
        edges = sequence.special_tokens_mask.nonzero()[0]
        for begin, end in pairwise(edges):
            assert _pieces(tokenizer, sequence.input_ids[begin + 1 : end]) == read


def test_offsets_and_words_of_spelled_special_tokens_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    sequence = build(tokenizer, SPELLED, max_length=None)
    assert sequence.offsets is not None
    assert sequence.word_ids is not None
    cut = [SPELLED[begin:end] for begin, end in sequence.offsets[1:-1]]
    assert "".join(cut) == SPELLED.replace(" ", "")
    assert (np.diff(sequence.word_ids[1:-1]) >= 0).all()


def test_only_a_cloze_reads_masks_and_only_these(tokenizer: Tokenizer) -> None:
    for text in ("the [MASK] sat on [SEP] a [MASK]", "[MASK]", "[MASK][MASK] cat[MASK]mat"):
        sequence = build_cloze(tokenizer, text)
        parts = [tokenizer.encode([part])[0].tolist() for part in text.split("[MASK]")]
        expected = parts[0] + [i for part in parts[1:] for i in (tokenizer.mask_id, *part)]
        assert sequence.input_ids.tolist() == [tokenizer.cls_id, *expected, tokenizer.sep_id]
        assert tokenizer.sep_id not in expected
    assert (
        build_cloze(tokenizer, "the cat").input_ids.tolist()
        == build(tokenizer, "the cat", max_length=None).input_ids.tolist()
    )
