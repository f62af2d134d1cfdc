"""Byte-level BPE against `transformers` and `tokenizers`: ids, offsets, special tokens, and what is refused."""

import json
import random

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.inputs.questions import context_tokens, encode_questions, windows
from bertwright.inputs.sequences import build, build_cloze, build_many
from bertwright.recipe import TokenizerConfig
from bertwright.text import byte_bpe
from bertwright.text.wordpiece import Tokenizer

TEXTS = [
    "The cat sat on the mat, while rain was falling over old roofs; nobody came to look for it.",
    "Don't you think that it's raining? Yes: it rained 12 hours, and 3 more in the café on the corner.",
    "Ärger über Öl: naïve Gemüter sitzen draußen. 今日は雨が降っている。 Дождь идёт весь день.",
]
RANGES = [(32, 126), (160, 591), (768, 879), (1024, 1279), (2304, 2431), (12352, 12543), (0x1F600, 0x1F64F), (9, 13)]


def random_texts(number=300):
    """Seeded texts over many scripts, with runs of white space, combining marks and words that were trained on."""
    draw = random.Random(0)
    known = " ".join(TEXTS).split()
    texts = []
    for _ in range(number):
        parts = []
        for _ in range(draw.randint(1, 12)):
            low, high = draw.choice(RANGES)
            odd = "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 5)))
            parts.append(draw.choice([odd, draw.choice(known), draw.choice(known).upper(), " " * draw.randint(1, 3)]))
        texts.append(draw.choice(["", " "]).join(parts))
    return texts


@pytest.fixture(scope="module")
def trained():
    """A vocabulary of our own, cased."""
    config = TokenizerConfig(type="byte_bpe", vocab_size=330, min_frequency=1, lowercase=False)
    return Tokenizer.train(TEXTS, config)


def write_folder(folder, trained, kind):
    """A tokenizer as RoBERTa's or ModernBERT's folder on the hub has it, with the merges of `trained`."""
    described = json.loads(trained.to_json())
    pieces = [token for token in trained.tokens if token not in trained.special.all]
    merges = [tuple(pair) for pair in described["model"]["merges"]]
    if kind == "roberta":
        names = dict(
            zip(("cls", "pad", "sep", "unk", "mask"), ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), strict=True)
        )
        entries = [*list(names.values())[:4], *pieces, "<mask>"]
        inner = tokenizers.Tokenizer(BPE({token: i for i, token in enumerate(entries)}, merges))
        inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        names = {name: f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
        inner = tokenizers.Tokenizer(BPE({token: i for i, token in enumerate(pieces)}, merges))
        inner.normalizer = normalizers.NFC()
        inner.add_tokens([AddedToken("  ", normalized=True)])  # runs of spaces, before the special tokens
    special = [
        AddedToken(token, lstrip=name == "mask", special=True, normalized=False) for name, token in names.items()
    ]
    inner.add_special_tokens(special)
    if kind == "modernbert":
        inner.add_tokens(["[unused0]"])
        frames = [(token, inner.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", frames)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.save(str(folder / "tokenizer.json"))
    settings = {f"{name}_token": token for name, token in names.items()}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **settings})
    return names


@pytest.fixture(params=["ours", "roberta", "modernbert"])
def both(request, tmp_path, trained):
    """A folder's tokenizer here and in `transformers`."""
    if request.param == "ours":
        trained.save(tmp_path, 64)
    else:
        write_folder(tmp_path, trained, request.param)
    return Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)


def test_ids_are_those_of_transformers_alone_and_in_pairs(both):
    ours, theirs = both
    texts = random_texts()
    for a, b, one, pair in zip(
        texts,
        texts[::-1],
        build_many(ours, texts, max_length=None),
        build_many(ours, texts, texts[::-1], max_length=None),
        strict=True,
    ):
        assert one.input_ids.tolist() == theirs(a)["input_ids"], a
        assert pair.input_ids.tolist() == theirs(a, b)["input_ids"], (a, b)
        specials = theirs(a, b, return_special_tokens_mask=True)["special_tokens_mask"]
        assert pair.special_tokens_mask.tolist() == [bool(one) for one in specials]
        assert len(build(ours, a, b, max_length=9)) <= 9


def test_offsets_are_those_of_transformers_without_the_space_before_a_word(both):
    ours, theirs = both
    for text in random_texts():
        found = build(ours, text, max_length=None)
        encoding = theirs(text, return_offsets_mapping=True)
        inner = found.offsets[~found.special_tokens_mask].tolist()
        expected = encoding["offset_mapping"][1:-1]
        for (start, end), (low, high) in zip(inner, expected, strict=True):
            spaces = len(text[low:high]) - len(text[low:high].lstrip())
            # RoBERTa's own offsets leave out spaces already.
            assert (start, end) in ((low, high), (min(low + spaces, high), high)), (text, low, high)
            assert end == high
            assert start == end or not text[start].isspace() or text[low:high].isspace()
        words = found.word_ids[~found.special_tokens_mask]
        assert (np.diff(words) >= 0).all() or "[unused0]" in text


def test_the_spelling_of_a_special_token_is_text(both):
    ours, _ = both
    for token in ours.special.all:
        text = f"a {token} b {token.lower()}{token}"
        ids = build(ours, text, max_length=None).input_ids
        assert not set(ids[1:-1].tolist()) & {ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id}
        assert ours.decode(ids[1:-1].tolist()) == text


def test_a_cloze_is_that_of_transformers(both):
    ours, theirs = both
    mask = ours.special.mask
    for text in (f"The {mask} sat on the {mask}.", f"{mask}", f"It{mask}s  {mask}{mask}, {mask} while"):
        for spelled in (text, text.replace(mask, "[MASK]")):
            assert build_cloze(ours, spelled).input_ids.tolist() == theirs(text)["input_ids"]


def test_a_folder_is_written_and_read_again_with_all_rules(both, tmp_path):
    ours, theirs = both
    ours.save(tmp_path / "again", 32, "head", segments=False)
    again = Tokenizer.load(tmp_path / "again")
    assert (again.special, again.fingerprint, again.separators) == (ours.special, ours.fingerprint, ours.separators)
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (other.model_max_length, other.mask_token, other.model_input_names) == (
        32,
        theirs.mask_token,
        ["input_ids", "attention_mask"],
    )
    for text in random_texts(30):
        assert other(text)["input_ids"] == theirs(text)["input_ids"]
    assert not (tmp_path / "again" / "vocab.txt").exists()


def test_an_answer_is_cut_out_of_the_context_to_the_character(both):
    ours, _ = both
    context = "  The café on the corner:\n 今日は雨が降っている, and it's  raining. " * 3
    question = encode_questions(ours, ["What of it?"], [context], 40)[0]
    parts = windows(question, 40)
    assert len(parts) > 1
    seen = set()
    for part in parts:
        assert len(part) <= 40
        own = context_tokens(part)
        assert not own[: int(np.flatnonzero(part.special_tokens_mask)[-2]) + 1].any()
        for token, (start, end) in zip(part.input_ids[own], part.offsets[own], strict=True):
            spelled = ours.spellings[token]
            if "\ufffd" not in spelled:
                assert context[start:end] == spelled.strip(" ")
            seen |= set(range(start, end))
    assert seen == {place for place, character in enumerate(context) if character != " "}


def test_a_vocabulary_is_learnt_the_same_way_twice_knows_all_characters_and_has_the_size(trained):
    config = TokenizerConfig(type="byte_bpe", vocab_size=330, min_frequency=1, lowercase=False)
    again = Tokenizer.train(TEXTS, config)
    assert again.to_json() == trained.to_json()
    assert trained.vocab_size == 330
    assert trained.tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for text in random_texts(50):
        ids = trained.encode([text])[0]
        assert trained.unk_id not in ids
        assert trained.decode(ids.tolist()) == normalizers.NFC().normalize_str(text)
    lower = Tokenizer.train(TEXTS, TokenizerConfig(type="byte_bpe", vocab_size=330, min_frequency=1))
    assert lower.decode(lower.encode(["The Café"])[0].tolist()) == "the café"


def test_continuations_are_what_follows_in_a_word(trained):
    text = "Nobody's falling, at 12 o'clock"
    ids = trained.encode([text])[0]
    words, begun = [], [text]
    for token in ids:
        if not words or not trained.is_continuation[token]:
            words.append("")
        words[-1] += trained.spellings[token]
    assert "".join(words) == "".join(begun)
    assert words[0] == "Nobody"
    assert {" falling", ",", " at"} <= set(words)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"vocab_size": 200}, "a byte_bpe needs 261 or more, for all bytes"),
        ({"strip_accents": True}, r"tokenizer\.strip_accents is True, but a byte_bpe reads bytes"),
        ({"limit_alphabet": 50}, r"tokenizer\.limit_alphabet is 50"),
    ],
)
def test_settings_that_mean_nothing_for_bytes_are_refused(config, words):
    with pytest.raises(UserError, match=words):
        Tokenizer.train(TEXTS, TokenizerConfig(type="byte_bpe", **config))


def test_blank_texts_are_refused():
    with pytest.raises(UserError, match="there is no text to train a vocabulary on"):
        Tokenizer.train([" ", ""], TokenizerConfig(type="byte_bpe"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cls_token": "[START]"}, r"has no \[START\], which is to be its cls_token"),
        ({"add_prefix_space": True}, "add_prefix_space is false in the first and true in the second"),
        ({"sep_token": "[PAD]"}, r"makes \[CLS\] a \[SEP\] a \[SEP\] of a pair of texts; Bertwright frames them"),
    ],
)
def test_a_folder_that_says_something_else_is_refused(tmp_path, trained, change, words):
    write_folder(tmp_path, trained, "modernbert")
    write_json(tmp_path / "tokenizer_config.json", {**read_json(tmp_path / "tokenizer_config.json"), **change})
    with pytest.raises(UserError, match=words):
        Tokenizer.load(tmp_path)


def test_special_tokens_of_a_folder_may_be_objects_or_left_out(tmp_path, trained):
    names = write_folder(tmp_path, trained, "roberta")
    write_json(tmp_path / "tokenizer_config.json", {"mask_token": {"content": "<mask>", "lstrip": True}})
    assert vars(Tokenizer.load(tmp_path).special) == names
    (tmp_path / "tokenizer_config.json").unlink()
    assert vars(Tokenizer.load(tmp_path).special) == names


def test_marks_belong_to_the_letter_before_them_and_ideographs_are_words():
    spelled = [" the", "re", "\u093f", "\u0e31", "か", "本", "\ufffd", "-", "", " 本", "é"]
    expected = [False, True, True, True, False, False, True, False, False, False, True]
    assert byte_bpe.continuing(spelled).tolist() == expected
