"""Tokenizers that `BertTokenizer` can and cannot express: the same ids both ways, or a refusal with the rule's name."""

import json
import random

import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.text.bert_tokenizer import PROBES, SPECIAL_TOKENS, bert_tokenizer, prove_saved
from bertwright.text.wordpiece import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEäöüéèïßё0123456789北京中国の한ก्ि,.'-$@!?"
WORDS = ["the", "cafe", "café", "Café", "mask", "creme", "Crème", "strasse", "##ing", "##e\u0301"]
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS])}
OPTIONS = [(lower, strip, chinese) for lower in (True, False) for strip in (None, True, False) for chinese in (1, 0)]


def random_texts(number: int) -> list[str]:
    """Texts of letters from many scripts, controls and marks."""
    draw = random.Random(0)
    blocks = [(0x20, 0x7F)] * 3 + [(0, 0x250), (0x300, 0x600), (0x900, 0x980), (0xE00, 0xE80), (0x3000, 0xA000)]
    return ["".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(40)) for _ in range(number)]


@pytest.mark.parametrize(("lower", "strip", "chinese"), OPTIONS)
def test_the_reference_of_the_proof_is_what_transformers_makes(tmp_path, lower, strip, chinese):
    ours = Tokenizer(bert_tokenizer(VOCABULARY, lower, strip, bool(chinese)))
    ours.save(tmp_path)  # and is proved
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    fresh = transformers.BertTokenizerFast(
        vocab=VOCABULARY, do_lower_case=lower, strip_accents=strip, tokenize_chinese_chars=bool(chinese)
    )
    again = Tokenizer.load(tmp_path)
    plain = tokenizers.Tokenizer.from_str(ours.to_json())
    for text in (*PROBES, *random_texts(20)):
        expected = plain.encode(text).ids
        assert theirs(text)["input_ids"] == fresh(text)["input_ids"] == expected
        assert tokenizers.Tokenizer.from_str(again.to_json()).encode(text).ids == expected


def written(folder, change):
    """A tokenizer.json of an uncased BERT with a change."""
    inner = bert_tokenizer(VOCABULARY, True, None, True)
    inner = change(inner) or inner
    inner.save(str(folder / "tokenizer.json"))
    return folder


def with_normalizer(inner):
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), inner.normalizer])


def without_normalizer(inner):
    inner.normalizer = None


def keeping_controls(inner):
    inner.normalizer = normalizers.BertNormalizer(clean_text=False)


def by_white_space(inner):
    inner.pre_tokenizer = pre_tokenizers.Whitespace()


def without_frame(inner):
    inner.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])


def other_frame(inner):
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A [SEP] $B:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )


def one_segment(inner):
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )


def with_a_token(inner):
    inner.add_tokens(["<place>"])


def with_a_special_token(inner):
    inner.add_special_tokens(["mask"])


def with_a_greedy_mask(inner):
    inner.add_special_tokens([AddedToken("[MASK]", lstrip=True, special=True)])


def with_long_words(inner):
    inner.model = WordPiece(VOCABULARY, unk_token="[UNK]", max_input_chars_per_word=200)


def with_another_mark(inner):
    inner.model = WordPiece(VOCABULARY, unk_token="[UNK]", continuing_subword_prefix="@@")


def with_another_unknown(inner):
    inner.model = WordPiece(VOCABULARY, unk_token="mask")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_normalizer, "its normalizer is Sequence"),
        (without_normalizer, "its normalizer is missing"),
        (keeping_controls, "keeps control characters"),
        (by_white_space, "its pre_tokenizer is Whitespace"),
        (without_frame, "its post_processor may differ"),
        (other_frame, "its post_processor may differ"),
        (one_segment, "its post_processor may differ"),
        (with_a_token, "added token <place>"),
        (with_a_special_token, "added token mask"),
        (with_a_greedy_mask, r"finds \[MASK\] by other rules"),
        (with_long_words, "max_input_chars_per_word of its model is 200"),
        (with_another_mark, "continuing_subword_prefix of its model is @@"),
        (with_another_unknown, "unk_token of its model is mask"),
    ],
)
def test_rules_that_bert_tokenizer_does_not_have_are_refused_by_name(tmp_path, change, words):
    with pytest.raises(UserError, match=f"BertTokenizer.*{words}"):
        Tokenizer.load(written(tmp_path, change))


def bert_processing(inner):
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))


def no_processor(inner):
    return tokenizers.Tokenizer.from_str(json.dumps({**json.loads(inner.to_str()), "post_processor": None}))


@pytest.mark.parametrize("change", [lambda inner: None, bert_processing, no_processor])
def test_other_ways_to_write_the_same_rules_are_read(tmp_path, change):
    ours = Tokenizer.load(written(tmp_path, change))
    ours.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in PROBES:
        ids = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json")).encode(text).ids
        assert theirs(text)["input_ids"] == ids


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"do_lower_case": False}, "do_lower_case is true in the first and false in the second"),
        ({"do_lower_case": True, "strip_accents": False}, "strip_accents is true in the first and false"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars is true in the first and false"),
        ({"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ({"strip_accents": True}, None),
        ({}, None),
    ],
)
def test_two_files_of_a_folder_that_disagree_are_refused(tmp_path, options, words):
    written(tmp_path, lambda inner: None)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **options})
    if words is None:
        Tokenizer.load(tmp_path)
        return
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    inner = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert any(theirs(text)["input_ids"] != inner.encode(text).ids for text in PROBES)  # there is something to refuse
    with pytest.raises(UserError, match=words):
        Tokenizer.load(tmp_path)


def test_a_cased_tokenizer_json_whose_options_do_not_say_so_is_refused(tmp_path):
    bert_tokenizer(VOCABULARY, False, None, True).save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).tokens == list(VOCABULARY)  # alone it has the last word
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(UserError, match="do_lower_case is false in the first and true in the second"):
        Tokenizer.load(tmp_path)


def test_files_that_differ_are_found_when_they_are_saved(tmp_path):
    inner = bert_tokenizer(VOCABULARY, True, None, True)
    with_normalizer(inner)
    with pytest.raises(UserError, match="would read other ids"):
        Tokenizer(inner).save(tmp_path)
    Tokenizer(bert_tokenizer(VOCABULARY, True, None, True)).save(tmp_path)
    options = read_json(tmp_path / "tokenizer_config.json")
    write_json(tmp_path / "tokenizer_config.json", {**options, "do_lower_case": False})
    with pytest.raises(UserError, match="would read other ids"):
        prove_saved(tmp_path)
