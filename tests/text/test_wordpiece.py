"""The tokenizer against transformers, through files of ours and of other tools, and what it refuses."""

import json
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers
from transformers import BertTokenizerFast
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from bertwright.errors import UserError
from bertwright.recipe import TokenizerConfig
from bertwright.text.wordpiece import SPECIAL_TOKENS, Tokenizer

PROSE = """The café opened early; naïve Zoë ordered crème brûlée, and Café Noir was the old name of it.
Ångström's students measured, re-measured and un-measured the 1,234.50 m (about $99) "bridge" -- twice!
Die Straße war naß, sagte Jürgen; ΟΔΥΣΣΕΥΣ came home to İstanbul. Ещё одна ёлка стояла у дома.
北京 is 中国的首都, and 東京は日本の首都です。 안녕하세요 세계. สวัสดีชาวโลก. שָׁלוֹם עולם. مرحبا بالعالم.
Embedding, embeddings, embedded: words are embedded in the embedding of words."""

TEXTS = [
    *PROSE.splitlines(),
    "",
    " \t\n ",
    "CAFE\u0301 cafe\u0301 café CAFÉ Zoe\u0308 ö o\u0308 ﬁne Å A\u030a",
    "中文字符mixed在words里面 𠀀𪚥 豈 々 〇 ㍿ ＡＢＣ。、！",
    "nul\x00 bell\x07 escape\x1b delete\x7f c1\x80 replaced\ufffd",
    "soft\u00adhyphen joined\u200dup mark\ufeffed rtl\u202eover",
    "tab\tline\nreturn\rnbsp\u00a0thin\u2009ideographic\u3000line\u2028paragraph\u2029next\x85 vertical\vform\f",
    "don't stop-me (now) [yes] {no} a_b c/d e\\f g@h i#j k^l `m` ~n~ |o| <p> «q» “r” ¿s? …t… –u— ^v $w+x=y <br />",
    "emoji 😀😀 👩‍👩‍👧 🇩🇪 ☃️ 👍🏽 end",
    "the " + "a" * 99 + " " + "a" * 100 + " " + "a" * 101 + " end",
    "the " + "abcdefghij" * 20 + " end",
    "embed" * 40 + "!" + "ed" * 50,
    "[CLS] the [MASK] of [SEP] it [UNK] [PAD]",
    "[mask] [ MASK ] [[MASK]] the[MASK]of ##ed ## #ed [unused0] [unused1]",
]


def _random_texts(number: int) -> list[str]:
    """Strings of characters from many blocks, assigned and not, surrogates left out."""
    draw = random.Random(5)
    blocks = [(0x20, 0x7F)] * 3 + [(0, 0x100), (0x100, 0x600), (0x2000, 0x2C00), (0x3000, 0xA000), (0x1F300, 0x1F700)]
    texts = []
    for _ in range(number):
        pieces = []
        for _ in range(draw.randint(1, 40)):
            pieces.append(chr(draw.randrange(*draw.choice(blocks))) if draw.random() < 0.7 else draw.choice(" eaon"))
        texts.append("".join(pieces))
    return texts


def _train(size: int = 400, texts: list[str] = TEXTS, **options: bool | int | None) -> Tokenizer:
    return Tokenizer.train(texts, TokenizerConfig(vocab_size=size, **{"min_frequency": 1, **options}))


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizer.encode(texts)]


def _expected(reference: BertTokenizerFast | BertTokenizerLegacy, texts: list[str]) -> list[list[int]]:
    """The ids of `transformers`, asked to read the spelling of a special token as text, as we always do."""
    options = {"add_special_tokens": False, "split_special_tokens": True}
    return [reference(text, **options)["input_ids"] for text in texts]


def _stripped(lowercase: bool, strip_accents: bool | None) -> bool | None:
    """What is decided for `TEXTS`, which hold Thai and Hangul."""
    return False if lowercase and strip_accents is None else strip_accents


def _vocabulary(path: Path) -> dict[str, int]:
    """A vocab.txt as Google's code reads it: a token a line, where only a line feed ends a line."""
    lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    assert len(lines) == len(set(lines))
    return {token: index for index, token in enumerate(lines)}


OPTIONS = [(lowercase, strip) for lowercase in (True, False) for strip in (None, True, False)]


@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
def test_ids_are_those_of_transformers_with_the_same_vocabulary(
    tmp_path: Path, lowercase: bool, strip_accents: bool | None
) -> None:
    ours = _train(lowercase=lowercase, strip_accents=strip_accents)
    ours.save(tmp_path)
    vocabulary = _vocabulary(tmp_path / "vocab.txt")
    strip_accents = _stripped(lowercase, strip_accents)
    fast = BertTokenizerFast(vocab=vocabulary, do_lower_case=lowercase, strip_accents=strip_accents)
    texts = TEXTS + _random_texts(200)
    assert _ids(ours, texts) == _expected(fast, texts)
    assert len(set().union(*_ids(ours, texts))) > 200


@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
def test_ids_are_those_of_the_original_algorithm_in_plain_python(
    tmp_path: Path, lowercase: bool, strip_accents: bool | None
) -> None:
    # transformers' two implementations differ by design in some places, which are kept out here: the plain one composes
    # accents first, makes a capital sigma at the end of a word a final one, and can't read [CLS] as text.
    texts = [unicodedata.normalize("NFC", text).replace("ΟΔΥΣΣΕΥΣ", "ΟΔΥΣΣΕΥ") for text in TEXTS]
    texts = [text for text in texts if "[MASK]" not in text]
    ours = _train(texts=texts, lowercase=lowercase, strip_accents=strip_accents)
    ours.save(tmp_path)
    plain = BertTokenizerLegacy(
        vocab_file=str(tmp_path / "vocab.txt"),
        do_lower_case=lowercase,
        strip_accents=_stripped(lowercase, strip_accents),
    )
    assert _ids(ours, texts) == _expected(plain, texts)


def test_case_and_accents_are_kept_or_dropped_as_asked() -> None:
    text = "Zoë drank Café Noir in São Tomé. 北京"
    read = {}
    for lowercase, strip in OPTIONS:
        filler = "sphinx of black quartz judge my vow"
        tokenizer = _train(size=120, texts=[text, filler], lowercase=lowercase, strip_accents=strip)
        read[lowercase, strip] = tokenizer.decode(tokenizer.encode([text])[0].tolist())
    assert read[True, None] == read[True, True] == "zoe drank cafe noir in sao tome. 北 京"
    assert read[True, False] == "zoë drank café noir in são tomé. 北 京"
    assert read[False, None] == read[False, False] == "Zoë drank Café Noir in São Tomé. 北 京"
    assert read[False, True] == "Zoe drank Cafe Noir in Sao Tome. 北 京"


def test_a_word_of_more_than_a_hundred_letters_is_one_unknown_token() -> None:
    tokenizer = _train()
    for letters, is_unknown in ((99, False), (100, False), (101, True), (200, True)):
        ids = tokenizer.encode(["the " + "a" * letters + " the"])[0].tolist()
        assert (ids[1:-1] == [tokenizer.unk_id]) == is_unknown
        assert is_unknown or "".join(tokenizer.tokens[i].removeprefix("##") for i in ids[1:-1]) == "a" * letters


@pytest.mark.parametrize("size", [350, 401])
def test_a_trained_vocabulary_has_the_size_asked_for_and_starts_with_the_special_tokens(
    tmp_path: Path, size: int
) -> None:
    tokenizer = _train(size)
    tokenizer.save(tmp_path)
    vocabulary = _vocabulary(tmp_path / "vocab.txt")
    assert tokenizer.vocab_size == len(vocabulary) == size
    assert tokenizer.tokens == list(vocabulary)
    assert list(vocabulary)[:5] == list(SPECIAL_TOKENS) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    assert ids == (0, 1, 2, 3, 4)
    assert tokenizer.ordinary_ids.tolist() == list(range(5, size))
    assert tokenizer.is_continuation.tolist() == [token[:2] == "##" for token in vocabulary]
    assert 50 < tokenizer.is_continuation.sum() < size - 50


def test_rare_words_are_not_learnt_whole_and_no_more_entries_are_promised_than_the_text_allows() -> None:
    characters = [chr(0x4E00 + i) for i in range(60)]
    texts = ["fancy " * 9 + "world", " ".join(characters)]
    # 5 special tokens, 60 characters, 10 letters, 8 of them also inside words, and 4 merges to build each of two words.
    everything = _train(5 + 60 + 10 + 8 + 2 * 4, texts, limit_alphabet=70)
    assert {"fancy", "world", "##y", "w", *characters} < set(everything.tokens)
    frequent = _train(5 + 60 + 10 + 8 + 4, texts, min_frequency=2, limit_alphabet=70)
    assert "fancy" in frequent.tokens
    assert "world" not in frequent.tokens
    for frequency, most in ((1, 91), (2, 87)):
        notices: list[str] = []
        config = TokenizerConfig(vocab_size=30_522, min_frequency=frequency)
        assert Tokenizer.train(texts, config, notices.append).vocab_size == most
        assert [notice.partition(",")[0] for notice in notices] == [f"the text allows only {most} entries"]
    for blank in ([], ["", " \n"]):
        with pytest.raises(UserError, match="there is no text to train a vocabulary on"):
            Tokenizer.train(blank, TokenizerConfig(vocab_size=64))
    with pytest.raises(UserError, match=r"vocab_size is 64, but the characters of the corpus alone.* are 83 entries"):
        _train(64, texts, limit_alphabet=70)


def test_training_twice_on_the_same_texts_gives_the_same_vocabulary() -> None:
    first = _train()
    for _ in range(3):
        again = _train()
        assert set(again.tokens) == set(first.tokens)
        assert again.tokens == first.tokens
        assert again.fingerprint == first.fingerprint


def test_half_a_surrogate_pair_is_text_like_any_other() -> None:
    # json.loads gives them for "\\ud83d", which cut-off emoji leave behind in scraped texts.
    broken = "the words \ud83d of words"
    tokenizer = _train(texts=[*TEXTS, broken])
    ids = tokenizer.encode([broken, "the words"])
    assert ids[0][:2].tolist() == ids[1].tolist()
    assert [tokenizer.tokens[i] for i in ids[0][-2:]] == ["of", "words"]


def test_texts_are_encoded_in_order_without_special_tokens_or_a_limit() -> None:
    tokenizer = _train()
    assert tokenizer.encode([]) == []
    together = tokenizer.encode(TEXTS)
    assert [ids.dtype for ids in together] == [np.dtype(np.int32)] * len(TEXTS)
    assert [ids.tolist() for ids in together] == [_ids(tokenizer, [text])[0] for text in TEXTS]
    assert tokenizer.encode(["", " \n"])[1].tolist() == []
    the = tokenizer.tokens.index("the")
    assert (tokenizer.encode(["the " * 5_000])[0] == np.full(5_000, the)).all()


def test_decoding_joins_pieces_and_shows_special_tokens(tmp_path: Path) -> None:
    pieces = ["em", "##bed", "##ded", "##ding", "words", "in", "."]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *pieces]) + "\n")
    tokenizer = Tokenizer.load(tmp_path)
    ids = tokenizer.encode(["embedded words in embedding ."])[0]
    assert ids.tolist() == [5, 6, 7, 9, 10, 5, 6, 8, 11]
    assert tokenizer.decode(ids.tolist()) == tokenizer.decode(ids) == "embedded words in embedding."
    assert tokenizer.decode([2, *ids, 4, 3, 0]) == "[CLS] embedded words in embedding. [MASK] [SEP] [PAD]"


@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
def test_every_option_survives_saving_and_loading(tmp_path: Path, lowercase: bool, strip_accents: bool | None) -> None:
    saved = _train(lowercase=lowercase, strip_accents=strip_accents)
    saved.save(tmp_path)
    opposite = TokenizerConfig(vocab_size=64, lowercase=not lowercase, strip_accents=not strip_accents)
    expected = _ids(saved, TEXTS)
    for loaded in (
        Tokenizer.load(tmp_path),
        Tokenizer.load(tmp_path, opposite),
        Tokenizer.load(tmp_path / "tokenizer.json", opposite),
        Tokenizer.from_json(saved.to_json()),
    ):
        assert _ids(loaded, TEXTS) == expected
        assert loaded.tokens == saved.tokens
        assert loaded.fingerprint == saved.fingerprint
    from_list = Tokenizer.load(tmp_path / "vocab.txt", opposite)
    assert _ids(from_list, TEXTS) == expected
    assert from_list.tokens == saved.tokens


def test_html_line_breaks_are_white_space_where_asked_for_and_the_folder_remembers(tmp_path: Path) -> None:
    text = "One.<br /><br>Two \ud83d"
    plain = _train()
    assert plain.clean(text) == "One.<br /><br>Two ?"
    plain.save(tmp_path)
    assert not Tokenizer.load(tmp_path).html_line_breaks
    asked = Tokenizer.load(tmp_path, TokenizerConfig(html_line_breaks=True))  # a folder of other tools is silent, too
    assert asked.clean(text) == "One.  Two ?"
    asked.save(tmp_path)
    for loaded in (
        Tokenizer.load(tmp_path),
        Tokenizer.load(tmp_path, TokenizerConfig(html_line_breaks=False)),
        Tokenizer.load(tmp_path / "vocab.txt", TokenizerConfig(html_line_breaks=False)),
    ):
        assert loaded.html_line_breaks
    (tmp_path / "tokenizer_config.json").write_text('{"html_line_breaks": "yes"}')
    with pytest.raises(UserError, match="html_line_breaks is 'yes'; it must be true or false"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
def test_transformers_loads_what_was_saved(tmp_path: Path, lowercase: bool, strip_accents: bool | None) -> None:
    ours = _train(lowercase=lowercase, strip_accents=strip_accents)
    ours.save(tmp_path)
    theirs = BertTokenizerFast.from_pretrained(str(tmp_path))
    assert _ids(ours, TEXTS) == _expected(theirs, TEXTS)
    assert [theirs.decode(ids) for ids in _ids(ours, TEXTS)] == [ours.decode(ids) for ids in _ids(ours, TEXTS)]
    pair = theirs("the café", "of words")
    alone = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the café", "of words")
    first, second = _ids(ours, ["the café", "of words"])
    assert pair["input_ids"] == alone.ids == [ours.cls_id, *first, ours.sep_id, *second, ours.sep_id]
    assert pair["token_type_ids"] == alone.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert theirs.mask_token_id == ours.mask_id
    assert theirs.pad_token_id == ours.pad_id


def _base_uncased_layout() -> list[str]:
    """Entries in the order of bert-base-uncased: 994 unused ones around the special tokens, characters, words."""
    unused = [f"[unused{i}]" for i in range(994)]
    special = ["[PAD]", *unused[:99], "[UNK]", "[CLS]", "[SEP]", "[MASK]", *unused[99:]]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = sorted(set(re.findall(r"[a-z]+", PROSE.lower())))
    characters = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", *letters, *"北京中国的首都是東日本одё"]
    return [*special, *characters, *(f"##{letter}" for letter in letters), *[w for w in words if len(w) > 1], "##ded"]


def _write_list(path: Path, tokens: list[str], line_end: str = "\n") -> None:
    path.write_bytes("".join(token + line_end for token in tokens).encode())


def _indices(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _vocab_txt(folder: Path) -> Path:
    _write_list(folder / "vocab.txt", _base_uncased_layout())
    return folder / "vocab.txt"


def _windows_vocab_txt(folder: Path) -> Path:
    _write_list(folder / "vocab.txt", _base_uncased_layout(), "\r\n")
    return folder


def _saved_by_transformers(folder: Path) -> Path:
    BertTokenizerFast(vocab=_indices(_base_uncased_layout())).save_pretrained(str(folder))
    return folder


def _saved_by_tokenizers(folder: Path) -> Path:
    tokenizer = tokenizers.BertWordPieceTokenizer(_indices(_base_uncased_layout()), lowercase=True)
    tokenizer.save(str(folder / "other-name.json"))
    return folder / "other-name.json"


def _with_limits(folder: Path) -> Path:
    """As sentence-transformers leaves it: a tokenizer.json that cuts and pads every text."""
    inner = tokenizers.BertWordPieceTokenizer(_indices(_base_uncased_layout()), lowercase=True)
    inner.enable_truncation(8)
    inner.enable_padding(length=12)
    inner.save(str(folder / "tokenizer.json"))
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "a vocab.txt": _vocab_txt,
    "a vocab.txt with Windows line ends": _windows_vocab_txt,
    "a folder of transformers": _saved_by_transformers,
    "a file of tokenizers": _saved_by_tokenizers,
    "a tokenizer.json that cuts and pads": _with_limits,
}


@pytest.mark.parametrize("made", MAKERS)
def test_files_of_other_tools_in_the_layout_of_bert_base_uncased_give_the_ids_of_transformers(
    tmp_path: Path, made: str
) -> None:
    tokens = _base_uncased_layout()
    ours = Tokenizer.load(MAKERS[made](tmp_path))
    theirs = BertTokenizerFast(vocab=_indices(tokens))
    assert _ids(ours, TEXTS) == _expected(theirs, TEXTS)
    assert ours.tokens == tokens
    assert ours.vocab_size == len(tokens)
    ids = (ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id)
    assert ids == (0, 100, 101, 102, 103)
    assert ours.ordinary_ids.tolist() == list(range(999, len(tokens)))
    assert ours.is_continuation.nonzero()[0].tolist() == [i for i, token in enumerate(tokens) if token[:2] == "##"]
    ours.save(tmp_path / "again")
    assert _ids(Tokenizer.load(tmp_path / "again"), TEXTS) == _ids(ours, TEXTS)
    assert _vocabulary(tmp_path / "again" / "vocab.txt") == _indices(tokens)


@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": True, "strip_accents": None},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
        {},
    ],
    ids=str,
)
def test_the_options_beside_a_vocab_txt_are_obeyed_as_transformers_does(tmp_path: Path, options: dict) -> None:
    tokens = [
        *SPECIAL_TOKENS,
        *"CcafeéoZzë北京的",
        "北京",
        "##京",
        "##的",
        *(f"##{c}" for c in "afeéoë"),
        "cafe",
        "Cafe",
        "café",
    ]
    _write_list(tmp_path / "vocab.txt", tokens)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **options}))
    theirs = BertTokenizerFast(vocab=_indices(tokens), **options)
    texts = ["Café Zoë cafe", "北京 北京的 的", "CAFE\u0301"]
    assert _ids(Tokenizer.load(tmp_path), texts) == _expected(theirs, texts)


@pytest.mark.parametrize(("lowercase", "strip_accents"), OPTIONS)
def test_a_lone_vocab_txt_takes_case_and_accents_from_the_recipe(
    tmp_path: Path, lowercase: bool, strip_accents: bool | None
) -> None:
    small = ["cafe", "café", "cafe\u0301", *(f"word{i}" for i in range(100))]
    tokens = [*SPECIAL_TOKENS, *small] if lowercase else [*SPECIAL_TOKENS, "Cafe", "Café", *small]
    _write_list(tmp_path / "vocab.txt", tokens)
    config = TokenizerConfig(lowercase=lowercase, strip_accents=strip_accents)
    theirs = BertTokenizerFast(vocab=_indices(tokens), do_lower_case=lowercase, strip_accents=strip_accents)
    texts = ["Café café Cafe", "CAFÉ"]
    notices: list[str] = []
    assert _ids(Tokenizer.load(tmp_path, config, notices.append), texts) == _expected(theirs, texts)
    assert notices == []


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
def test_a_cased_vocabulary_alone_is_kept_cased_and_said_to_be(tmp_path: Path, mark: str) -> None:
    letters = [*"ABCHMSTabcdefghijklmnopqrstuvwxyz.,"]
    tokens = [*SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters), "The", "the", "Bakery", "bakery", "And"]
    (tmp_path / "vocab.txt").write_text(mark + "\n".join(tokens) + "\n")
    notices: list[str] = []
    ours = Tokenizer.load(tmp_path / "vocab.txt", TokenizerConfig(), notices.append)
    theirs = BertTokenizerFast(vocab=_indices(tokens), do_lower_case=False)
    texts = ["The Bakery on Tern Street opened At Seven. And THE end", "Mr. Halloran"]
    assert ours.tokens == tokens
    assert _ids(ours, texts) == _expected(theirs, texts)
    assert len(notices) == 1
    assert re.search(r"vocab\.txt holds capitals \(17 of 75 entries\), so capitals in texts are kept", notices[0])
    ours.save(tmp_path)
    assert _ids(Tokenizer.load(tmp_path), texts) == _ids(ours, texts)
    assert _expected(BertTokenizerFast.from_pretrained(str(tmp_path)), texts) == _ids(ours, texts)


def test_an_uncased_vocabulary_that_a_recipe_calls_cased_is_warned_about(tmp_path: Path) -> None:
    found = {}
    for name, words in (("uncased", ["the", "##s", "1"]), ("chinese", ["北", "京"]), ("cased", ["the", "The"])):
        _write_list(tmp_path / f"{name}.txt", [*SPECIAL_TOKENS, *words])
        notices: list[str] = []
        Tokenizer.load(tmp_path / f"{name}.txt", TokenizerConfig(lowercase=False), notices.append)
        found[name] = notices
    assert found.pop("uncased")[0].startswith("warning: tokenizer.lowercase is false, but no entry of ")
    assert found == {"chinese": [], "cased": []}


SENTENCES = {
    "hi": "मैं किताब पढ़ता हूँ। अच्छी है।",
    "th": "ฉันชอบกินข้าวผัดที่ตลาด",
    "ko": "안녕하세요. 저는 학생입니다.",
    "ja": "がくせいは ペンで かきます。",
    "ar": "كَتَبَ الطَّالِبُ الدَّرْسَ. أنا هنا",
    "he": "שָׁלוֹם עוֹלָם",
    "ru": "Ещё одна ёлка стоит у дома, мой брат.",
    "el": "Η Αθήνα είναι όμορφη",
    "de": "Die Bücher über Äpfel und Öl",
    "vi": "Tôi đọc sách tiếng Việt ở Đà Nẵng",
    "zh": "北京是中国的首都。",
    "en": "The café opened early, naïve Zoë said.",
}
KEPT = {"hi", "th", "ko", "ja", "ar", "he"}


@pytest.mark.parametrize("language", SENTENCES)
def test_accents_are_stripped_only_where_no_letter_is_lost_and_transformers_reads_the_same(
    tmp_path: Path, language: str
) -> None:
    text = SENTENCES[language]
    notices: list[str] = []
    ours = Tokenizer.train([text] * 3, TokenizerConfig(), notices.append)
    assert [notice for notice in notices if "strip_accents" in notice] == notices[: language in KEPT]
    said = ours.decode(ours.encode([text])[0])
    plain = unicodedata.normalize("NFD", text.lower())
    kept = text.lower() if language in KEPT else "".join(c for c in plain if unicodedata.category(c) != "Mn")
    assert "".join(said.split()) == "".join(kept.split())
    ours.save(tmp_path)
    options = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert options["strip_accents"] is (False if language in KEPT else None)
    texts = [*SENTENCES.values(), *TEXTS]
    assert _expected(BertTokenizerFast.from_pretrained(str(tmp_path)), texts) == _ids(ours, texts)
    from_list = BertTokenizerFast(
        vocab=_vocabulary(tmp_path / "vocab.txt"),
        do_lower_case=options["do_lower_case"],
        strip_accents=options["strip_accents"],
    )
    assert _expected(from_list, texts) == _ids(ours, texts)


def test_a_few_foreign_words_and_emoji_do_not_change_what_english_gets() -> None:
    english = "The cat sat on the mat while rain was falling over old roofs \u2764\ufe0f \u26f9\ufe0f. " * 200
    for text, strip in ((english, None), (english + "हिन्दी", None), (english + "हिन्दी में " * 40, False)):
        tokenizer = Tokenizer.train([text], TokenizerConfig(vocab_size=120))
        assert json.loads(tokenizer.to_json())["normalizer"]["strip_accents"] is strip
    # A recipe that says it is obeyed.
    asked = Tokenizer.train([SENTENCES["hi"]], TokenizerConfig(strip_accents=True))
    assert json.loads(asked.to_json())["normalizer"]["strip_accents"] is True


@pytest.mark.slow
def test_the_alphabet_follows_the_text_the_room_and_the_recipe() -> None:
    # 3,000 ideographs, each half as frequent as one further up: 1/rank.
    characters = [chr(0x4E00 + i) for i in range(3_000)]
    text = "".join(c * (6_000 // (rank + 1)) for rank, c in enumerate(characters))
    sizes = {}
    for name, options in (
        ("all", {"vocab_size": 30_522}),
        ("room", {"vocab_size": 1_530}),
        ("asked", {"vocab_size": 30_522, "limit_alphabet": 50}),
    ):
        notices: list[str] = []
        tokenizer = Tokenizer.train([text], TokenizerConfig(**options), notices.append)
        chosen = [token for token in tokenizer.tokens if token in set(characters)]
        assert chosen == characters[: len(chosen)]  # the most frequent ones
        sizes[name] = len(chosen)
        total = len(text)
        covered = sum(6_000 // (rank + 1) for rank in range(len(chosen))) / total
        limited = [notice for notice in notices if "limit_alphabet" in notice]
        assert len(limited) == (len(chosen) < 3_000)
        for notice in limited:
            assert notice.startswith(f"{len(chosen):,} of the 3,000 characters")
            assert f"cover {covered:.2%} of it" in notice
    assert sizes["room"] == 1_530 * 2 // 3 - 5
    assert sizes["asked"] == 50
    assert sum(6_000 // (rank + 1) for rank in range(sizes["all"])) / total >= 0.9998
    assert sum(6_000 // (rank + 1) for rank in range(sizes["all"] - 1)) / total < 0.9998


@pytest.mark.parametrize("made", MAKERS)
def test_spelled_special_tokens_are_text_with_files_of_any_tool(tmp_path: Path, made: str) -> None:
    ours = Tokenizer.load(MAKERS[made](tmp_path))
    spelled = "[SEP] [PAD] [MASK] [CLS] [UNK] x[SEP]x"
    (ids,) = _ids(ours, [spelled])
    assert not {ours.pad_id, ours.cls_id, ours.sep_id, ours.mask_id} & set(ids)
    pieces = [ours.tokens[i] for i in ids]
    assert pieces[:5] == ["[", "s", "##e", "##p", "]"]
    assert pieces.count("[") == pieces.count("]") == 6
    ours.save(tmp_path / "again")
    assert _ids(Tokenizer.load(tmp_path / "again"), [spelled]) == [ids]


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x1c", "\u00a0", " ", "\ufeff"], ids=ascii)
def test_only_a_line_feed_ends_a_line_of_vocab_txt(tmp_path: Path, odd: str) -> None:
    # bert-base-chinese has U+2028 as an entry (transformers pull request 860): the ids of all that follow depend on it.
    tokens = [*SPECIAL_TOKENS, "before", f"{odd}", "after", f"x{odd}y", "last"]
    _write_list(tmp_path / "vocab.txt", tokens)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.tokens == tokens
    assert _ids(tokenizer, ["before after last"]) == [[5, 7, 9]]


def _repeated_line(folder: Path) -> None:
    _write_list(folder / "vocab.txt", [*SPECIAL_TOKENS, "a", "a", "##b", "c"])


def _gap_in_json(folder: Path) -> None:
    vocabulary = {**_indices(list(SPECIAL_TOKENS)), "a": 6, "##b": 7, "c": 8}
    BertTokenizerFast(vocab=vocabulary).backend_tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("make", [_repeated_line, _gap_in_json])
def test_a_vocabulary_with_a_gap_in_its_ids_is_refused_or_leaves_room_for_every_id(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path)
    try:
        tokenizer = Tokenizer.load(tmp_path)
    except UserError:
        return
    ids = _ids(tokenizer, ["a ab c"])[0]
    assert max(ids) < tokenizer.vocab_size
    assert [tokenizer.tokens[i] for i in ids] == ["a", "a", "##b", "c"]
    assert tokenizer.is_continuation[ids].tolist() == [False, False, True, False]


def test_fingerprints_tell_vocabularies_and_options_apart_and_nothing_else(tmp_path: Path) -> None:
    base = [*SPECIAL_TOKENS, "a", "b", "##b"]
    uncased = TokenizerConfig(lowercase=True, strip_accents=True)
    variants: dict[str, tuple[list[str], TokenizerConfig]] = {
        "base": (base, uncased),
        "one entry more": ([*base, "c"], uncased),
        "one entry other": ([*base[:-1], "##c"], uncased),
        "two entries swapped": ([*SPECIAL_TOKENS, "b", "a", "##b"], uncased),
        "special tokens swapped": (["[UNK]", "[PAD]", *base[2:]], uncased),
        "cased": (base, TokenizerConfig(lowercase=False, strip_accents=True)),
        "accents kept": (base, TokenizerConfig(lowercase=True, strip_accents=False)),
        "both": (base, TokenizerConfig(lowercase=False, strip_accents=False)),
    }
    found = {}
    for name, (tokens, config) in variants.items():
        for folder in (tmp_path / name, tmp_path / f"{name} elsewhere"):
            folder.mkdir()
            _write_list(folder / "vocab.txt", tokens)
        tokenizer = Tokenizer.load(tmp_path / name, config)
        found[name] = tokenizer.fingerprint
        assert Tokenizer.load(tmp_path / f"{name} elsewhere", config).fingerprint == found[name]
        tokenizer.encode(["a b", "b"])
        assert tokenizer.fingerprint == found[name]
        tokenizer.save(tmp_path / f"{name} saved")
        assert Tokenizer.load(tmp_path / f"{name} saved").fingerprint == found[name]
    assert len(set(found.values())) == len(variants)


def _byte_pairs(folder: Path) -> Path:
    inner = tokenizers.Tokenizer(models.BPE(_indices([*SPECIAL_TOKENS, "a"]), []))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(folder / "tokenizer.json"))
    return folder


def _without(token: str, suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tokens = [*(t for t in SPECIAL_TOKENS if t != token), "a", "b"]
        path = folder / f"given{suffix}"
        if suffix == ".txt":
            _write_list(path, tokens)
        else:
            inner = tokenizers.Tokenizer(models.WordPiece(_indices(tokens), unk_token="[UNK]"))
            inner.save(str(path))
        return path

    return make


def _file(name: str, content: bytes, options: bytes | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        if options is not None:
            (folder / "tokenizer_config.json").write_bytes(options)
        return folder / name

    return make


def _cut_short(folder: Path) -> Path:
    whole = _saved_by_transformers(folder) / "tokenizer.json"
    whole.write_bytes(whole.read_bytes()[:-200])
    return folder


LIST = "".join(f"{token}\n" for token in (*SPECIAL_TOKENS, "a")).encode()
FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a missing file": (lambda folder: folder / "absent.txt", r"no tokenizer at .*absent\.txt"),
    "a missing folder": (lambda folder: folder / "absent", r"no tokenizer at .*absent"),
    "an empty folder": (lambda folder: folder, r"no tokenizer at .*vocab\.txt; give a"),
    "a truncated tokenizer.json": (_cut_short, r"tokenizer\.json is not a tokenizer that can be read"),
    "an empty tokenizer.json": (_file("tokenizer.json", b""), r"tokenizer\.json is not a tokenizer"),
    "some other JSON": (_file("config.json", b'{"model_type": "bert"}'), r"config\.json is not a tokenizer"),
    "a binary file": (_file("vocab.txt", bytes(range(256)) * 9), r"vocab\.txt is not a tokenizer that can be read"),
    "an empty vocab.txt": (_file("vocab.txt", b""), r"the vocabulary has no \[PAD\]; add it"),
    "prose": (_file("README.txt", PROSE.encode()), r"the vocabulary has no \[PAD\]; add it"),
    "byte pairs": (_byte_pairs, r"the tokenizer is a BPE model; Bertwright reads WordPiece and byte-level BPE"),
    "broken options": (_file("vocab.txt", LIST, b"{"), r"tokenizer_config\.json"),
    "options that are a list": (_file("vocab.txt", LIST, b"[1]"), r"tokenizer_config\.json"),
    "options that are no options": (_file("vocab.txt", LIST, b'{"do_lower_case": "x"}'), r"tokenizer_config\.json"),
    **{
        f"no {token} in a {suffix}": (_without(token, suffix), rf"the vocabulary has no {re.escape(token)}; add it")
        for token in SPECIAL_TOKENS
        for suffix in (".txt", ".json")
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_bert_tokenizer_is_refused_in_one_sentence(tmp_path: Path, fault: str) -> None:
    make, pattern = FAULTS[fault]
    path = make(tmp_path)
    with pytest.raises(UserError) as caught:
        Tokenizer.load(path)
    assert re.search(pattern, str(caught.value))
    assert "\n" not in str(caught.value)
