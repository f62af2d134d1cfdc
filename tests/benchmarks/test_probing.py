"""The probes of the study of bidirectional context, and the measurements that use them."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

import probing
from bertwright.files import write_json
from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import ModelConfig
from bertwright.text.store import CorpusWriter, PreparedCorpus, TokenizedDocuments
from small_models import shaken

PROBES = probing.read_probes()
SETS = defaultdict(list)
for probe in PROBES:
    SETS[probe.pair].append(probe)


def sides(probe):
    left, right = probe.text.split("[MASK]")
    return left.strip(), right.strip()


def only_one(values):
    assert len(set(values)) == 1, values


class TestTheProbes:
    def test_there_are_enough_of_each_side(self):
        number = Counter(probe.side for probe in PROBES)
        assert len(PROBES) >= 216
        assert set(number) == {"left", "right", "both", "agreement"}
        assert min(number[side] for side in ("left", "right", "both")) >= 60
        assert number["agreement"] >= 40

    def test_ids_and_texts_are_unique_and_each_text_has_one_mask(self):
        assert len({probe.id for probe in PROBES}) == len({probe.text for probe in PROBES}) == len(PROBES)
        for probe in PROBES:
            assert probe.text.count("[MASK]") == 1
            assert all(sides(probe)), f"{probe.id}: words stand on either side"

    def test_words_are_single_plain_and_two(self):
        for probe in PROBES:
            assert re.fullmatch("[a-z]+", probe.good), probe
            assert re.fullmatch("[a-z]+", probe.bad), probe
            assert probe.good != probe.bad

    def test_a_preferred_word_is_right_in_half_of_each_set(self):
        for probes in SETS.values():
            only_one(frozenset((probe.good, probe.bad)) for probe in probes)
            only_one(probe.side for probe in probes)
            only_one(Counter(probe.good for probe in probes).values())
            assert len({probe.good for probe in probes}) == 2

    @pytest.mark.parametrize("side", ["left", "agreement"])
    def test_where_the_left_decides_twins_share_their_right(self, side):
        for one, other in (probes for probes in SETS.values() if probes[0].side == side):
            assert sides(one)[1] == sides(other)[1]
            assert sides(one)[0] != sides(other)[0]

    def test_where_the_right_decides_twins_share_their_left(self):
        for one, other in (probes for probes in SETS.values() if probes[0].side == "right"):
            assert sides(one)[0] == sides(other)[0]
            assert sides(one)[1] != sides(other)[1]

    def test_where_both_decide_each_side_alone_goes_with_either_word(self):
        for probes in (probes for probes in SETS.values() if probes[0].side == "both"):
            assert len(probes) == 4
            for index in (0, 1):
                answers = defaultdict(set)
                for probe in probes:
                    answers[sides(probe)[index]].add(probe.good)
                assert [len(words) for words in answers.values()] == [2, 2]

    def test_agreement_has_its_distance_from_the_one_word_in_which_twins_differ(self):
        distances = Counter()
        for one, other in (probes for probes in SETS.values() if probes[0].side == "agreement"):
            singular, plural = sides(one)[0].split(), sides(other)[0].split()
            differing = [i for i, words in enumerate(zip(singular, plural, strict=True)) if words[0] != words[1]]
            assert len(differing) == 1
            assert one.distance == other.distance == len(singular) - differing[0]
            distances[one.distance] += 1
        assert set(distances) == set(range(1, 9))
        assert all(probe.distance is None for probe in PROBES if probe.side != "agreement")


WORDS = probing.Probe("x", "x", "right", "the cat sat on [MASK] mat while rain", "a", "i")


def model_of(vocab_size, is_decoder):
    torch.manual_seed(0)
    shape = ModelConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        is_decoder=is_decoder,
    )
    return shaken(PretrainingModel(new_encoder(shape, vocab_size)).eval(), 0.2)


class TestLogOdds:
    def ids(self, tokenizer, text):
        return tokenizer.encode([text])[0].tolist()

    def test_a_causal_model_predicts_token_by_token(self, small_tokenizer):
        t = small_tokenizer
        model = model_of(t.vocab_size, True)
        right = self.ids(t, "mat while rain")
        start = [t.cls_id, *self.ids(t, "the cat sat on")]
        found = probing.log_odds(model, t, WORDS)
        expected = []
        for shown in range(len(right) + 1):
            total = {}
            for word in ("a", "i"):
                row, total[word] = list(start), 0.0
                for token in [*self.ids(t, word), *right[:shown]]:
                    with torch.no_grad():
                        logits = model(torch.tensor([row]), torch.zeros(1, len(row), dtype=torch.long))[0]
                    total[word] += float(logits[0, -1].log_softmax(-1)[token])
                    row.append(token)
            expected.append(total["a"] - total["i"])
        assert found == pytest.approx(expected, abs=1e-4)

    def test_a_masked_model_predicts_the_word_with_the_rest_masked_that_is_not_revealed(self, small_tokenizer):
        t = small_tokenizer
        model = model_of(t.vocab_size, False)
        found = probing.log_odds(model, t, WORDS)
        left, right = self.ids(t, "the cat sat on"), self.ids(t, "mat while rain")
        assert len(found) == len(right) + 1
        good, bad = self.ids(t, "a")[0], self.ids(t, "i")[0]
        for shown in (0, 1, len(right)):
            covered = [t.mask_id] * (len(right) - shown)
            row = [t.cls_id, *left, t.mask_id, *right[:shown], *covered, t.sep_id]
            with torch.no_grad():
                logits = model(torch.tensor([row]), torch.zeros(1, len(row), dtype=torch.long))[0][0, len(left) + 1]
            assert found[shown] == pytest.approx(float(logits[good] - logits[bad]), abs=1e-4)

    def test_with_the_left_context_alone_half_of_the_twins_that_differ_on_the_right_are_right(self, small_tokenizer):
        model = model_of(small_tokenizer.vocab_size, True)
        twin = probing.Probe("y", "x", "right", "the cat sat on [MASK] came to look", "i", "a")
        odds = {probe.id: probing.log_odds(model, small_tokenizer, probe) for probe in (WORDS, twin)}
        assert probing.accuracy([WORDS, twin], [odds], 0)["mean"] == 0.5

    def test_a_word_of_two_tokens_does_not_fit(self, small_tokenizer):
        assert probing.fits(WORDS, small_tokenizer)
        assert not probing.fits(probing.Probe("z", "z", "left", "the [MASK] sat", "a", "hippopotamus"), small_tokenizer)


def test_an_interval_is_over_sets_and_narrows_with_them():
    alike = probing.interval([[1.0, 1.0], [0.0, 0.0]] * 10)
    apart = probing.interval([[1.0], [1.0], [0.0], [0.0]] * 10)
    assert alike["mean"] == apart["mean"] == 0.5
    assert (alike["count"], apart["count"]) == (40, 40)
    # Twenty sets of two dependent values say less than forty values.
    assert alike["high"] - alike["low"] > 1.15 * (apart["high"] - apart["low"])
    assert probing.interval([[1.0, 0.0]] * 10)["high"] == 0.5


@pytest.fixture
def corpus(tmp_path):
    """Six documents of 60 sentences of 5 tokens, three of each source; the token at position p is p."""
    write_json(tmp_path / "manifest.json", {"fingerprint": "test"})
    with CorpusWriter(tmp_path / "heldout.arrow", 2**17, "test") as writer:
        for number in range(6):
            tokens = np.arange(number * 300, number * 300 + 300, dtype=np.int32)
            documents = TokenizedDocuments(tokens, np.full(60, 5, np.int32), np.array([60], np.int32))
            writer.write("books" if number % 2 else "reviews", documents)
    return PreparedCorpus(tmp_path / "heldout.arrow", "test")


def test_pairs_are_what_their_kind_says(corpus):
    places = probing.draw_pairs(corpus, 200, capacity=23)
    assert len(places) > 150
    for place in places:
        a, b = place["next"]
        assert len(a) == len(b) == 20  # four whole sentences
        assert b[0] == a[-1] + 1
        assert [part.tolist() for part in place["swapped"]] == [b.tolist(), a.tolist()]
        for kind in ("far", "other document"):
            assert place[kind][0].tolist() == a.tolist()
            assert len(place[kind][1]) == len(b)
        far, other = place["far"][1], place["other document"][1]
        assert far[0] // 300 == a[0] // 300
        assert min(abs(far[0] - a[0]), abs(far[0] - b[-1])) >= 5 * probing.FAR
        assert other[0] // 300 != a[0] // 300
        assert (other[0] // 300 - a[0] // 300) % 2 == 0, "of the same source"
    assert {int(place["far"][1][0] > place["next"][0][0]) for place in places} == {0, 1}


def test_next_sentences_are_predicted_in_batches_as_alone(small_tokenizer):
    model = model_of(small_tokenizer.vocab_size, False)
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(5, small_tokenizer.vocab_size, n) for n in rng.integers(1, 20, 2)) for _ in range(5)]
    together = probing.next_probability(model, small_tokenizer, pairs)
    for (a, b), predicted in zip(pairs, together, strict=True):
        row = [small_tokenizer.cls_id, *a, small_tokenizer.sep_id, *b, small_tokenizer.sep_id]
        segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
        with torch.no_grad():
            _, logits = model(torch.tensor([row]), torch.tensor([segments]))
        assert predicted == pytest.approx(float(logits.softmax(-1)[0, 0]), abs=1e-5)


@pytest.mark.parametrize("is_decoder", [False, True])
def test_attention_weights_sum_to_one_and_a_causal_model_attends_to_no_later_position(
    corpus, small_tokenizer, is_decoder
):
    model = model_of(2_000, is_decoder)
    profile = probing.attention_profile(model, small_tokenizer, corpus, 3, 40)
    assert profile.shape == (2, 2, len(probing.PLACES))
    np.testing.assert_allclose(profile.sum(-1), 1, atol=1e-5)
    ahead = profile[:, :, probing.PLACES.index("+1") :].sum()
    assert (ahead == 0) == is_decoder


def test_a_head_that_attends_to_the_right_neighbour_shows_in_the_profile(corpus, small_tokenizer, monkeypatch):
    def attends_right(ids):
        length = ids.shape[1]
        maps = torch.zeros(1, 2, 2, length, length)
        maps[:, :, 0] = torch.eye(length).roll(1, 1)  # each position to the one after it, the last to [CLS]
        maps[:, :, 1, :, 0] = 1
        return maps

    model = model_of(2_000, False)
    monkeypatch.setattr(model.encoder, "attention_maps", attends_right)
    profile = probing.attention_profile(model, small_tokenizer, corpus, 3, 40)
    assert profile[0, 0, probing.PLACES.index("+1")] == pytest.approx(37 / 38)
    assert profile[0, 0, probing.PLACES.index("[SEP]")] == pytest.approx(1 / 38)  # the last token's neighbour
    assert profile[0, 1, 0] == pytest.approx(1)
