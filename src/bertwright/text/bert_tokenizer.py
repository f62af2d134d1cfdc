"""What `BertTokenizer` of `transformers` can express: a WordPiece vocabulary, and three options for case and accents.

A model folder is read by `transformers` as a `BertTokenizer`, which looks at the vocabulary and at the options in
tokenizer_config.json, and passes over all other rules in tokenizer.json. A tokenizer with other rules is refused, and
whatever is saved is proved to give the same ids both ways.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from bertwright.errors import UserError
from bertwright.files import read_json

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)

LONGEST_WORD = 100
"""Letters; a longer word is one unknown token."""

PROBES = (
    "Crème Brûlée: the café's naïve Ångström, cafe\u0301, STRASSE, Straße and İstanbul.",
    "北京 is 中国的首都。東京 𠀀 안녕하세요 สวัสดี हिन्दी ελληνικά ΟΔΥΣΣΕΥΣ Ещё ёлка שָׁלוֹם مرحبا",
    "nul\x00 bell\x07 tab\tline\n nbsp\u00a0 soft\u00adhyphen joined\u200dup mark\ufeffed \ufffd",
    "don't [MASK] the [mask], [UNK] ##ing [unused1] e-mail@x.org $1,234.50 <br /> “q” … 😀👍🏽",
    "a" * LONGEST_WORD + " " + "a" * (LONGEST_WORD + 1) + " " + "the" * 60,
    "ＡＢＣ ﬁne ½ ² ㍿ ①",
)
"""Texts on which tokenizers of different rules differ."""

_VERBATIM = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of `transformers` that execute a tokenizer.json as it stands."""


def bert_tokenizer(
    vocabulary: dict[str, int], lowercase: bool, strip_accents: bool | None, chinese: bool
) -> tokenizers.Tokenizer:
    """The tokenizer that `BertTokenizer` makes of a vocabulary and its options.

    Args:
        vocabulary: ids of the entries.
        lowercase: `do_lower_case`.
        strip_accents: None strips them exactly where `lowercase` is on.
        chinese: whether each Chinese character is a word, `tokenize_chinese_chars`.
    """
    inner = tokenizers.Tokenizer(WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=LONGEST_WORD))
    inner.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    if CLS in vocabulary and SEP in vocabulary:  # [CLS] A [SEP] B [SEP], for those who use tokenizer.json elsewhere
        inner.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(token, vocabulary[token]) for token in (CLS, SEP)],
        )
    return inner


def bert_options(lowercase: bool, strip_accents: bool | None, chinese: bool) -> dict[str, Any]:
    """What the tokenizer_config.json of a folder says; arguments as in `bert_tokenizer`."""
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": lowercase,
        "strip_accents": strip_accents,
        "tokenize_chinese_chars": chinese,
        "pad_token": PAD,
        "unk_token": UNK,
        "cls_token": CLS,
        "sep_token": SEP,
        "mask_token": MASK,
    }


def require_expressible(inner: tokenizers.Tokenizer, path: Path, saved: dict[str, Any]) -> None:
    """See that a tokenizer.json has no rules but those of `BertTokenizer`, and that tokenizer_config.json agrees.

    Args:
        inner: from the file.
        path: of the file.
        saved: the options in tokenizer_config.json, empty where there is none.

    Raises:
        UserError: if not; the first rule that differs is named.
    """
    described = inner.to_str()
    rules = json.loads(described)
    reason = _other_rule(rules)
    normalizer = rules["normalizer"] or {}
    if reason is None:
        options = (normalizer["lowercase"], normalizer["strip_accents"], normalizer["handle_chinese_chars"])
        reference = bert_tokenizer(inner.get_vocab(), *options)
        if rules["post_processor"] is None:
            inner.post_processor = reference.post_processor
            described = inner.to_str()
        if _ids(tokenizers.Tokenizer.from_str(described)) != _ids(reference):
            reason = "the ids that it gives are not those of BertTokenizer; its post_processor may differ"
    if reason is not None:
        raise UserError(
            f"{path} can't be used, since BertTokenizer, as which `transformers` reads a BERT model, does not express "
            f"it: {reason}; give the vocab.txt of a BERT model, or train a vocabulary"
        )
    if saved and saved.get("tokenizer_class") not in _VERBATIM:
        lowercase, chinese = saved.get("do_lower_case", True), saved.get("tokenize_chinese_chars", True)
        theirs = {
            "do_lower_case": (lowercase, normalizer["lowercase"]),
            "strip_accents": (
                _strips(saved.get("strip_accents"), lowercase),
                _strips(normalizer["strip_accents"], normalizer["lowercase"]),
            ),
            "tokenize_chinese_chars": (chinese, normalizer["handle_chinese_chars"]),
        }
        for option, (said, done) in theirs.items():
            if said != done:
                raise UserError(
                    f"{path} and the tokenizer_config.json in its folder disagree: {option} is {json.dumps(done)} in "
                    f"the first and {json.dumps(said)} in the second, by which `transformers` reads (a missing option "
                    "has its default); write into the second what the model was trained with"
                )


def _strips(strip_accents: bool | None, lowercase: bool) -> bool:
    return lowercase if strip_accents is None else strip_accents


def _other_rule(rules: dict[str, Any]) -> str | None:
    """The first rule of a tokenizer.json that `BertTokenizer` does not have, in words; None if there is none."""
    model = rules["model"]
    for part, expected in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        kind = (rules[part] or {}).get("type")
        if kind != expected:
            return f"its {part} is {kind or 'missing'}, in place of {expected}"
    if not rules["normalizer"]["clean_text"]:
        return "its normalizer keeps control characters (clean_text is false)"
    settings = {"unk_token": UNK, "continuing_subword_prefix": "##", "max_input_chars_per_word": LONGEST_WORD}
    for setting, value in settings.items():
        if model[setting] != value:
            return f"{setting} of its model is {model[setting]}, in place of {value}"
    for token in rules["added_tokens"]:
        if token["content"] not in SPECIAL_TOKENS:
            return f"it has the added token {token['content']}, which is not in the vocabulary of WordPiece"
        if any(token[flag] for flag in ("single_word", "lstrip", "rstrip", "normalized")):
            return f"it finds {token['content']} by other rules (single_word, lstrip, rstrip or normalized)"
    return None


def _ids(inner: tokenizers.Tokenizer) -> list[tuple[list[int], list[int]]]:
    """Ids and segments of the probes, alone and in pairs, and of the vocabulary's own entries."""
    entries = " ".join(sorted(inner.get_vocab())[:5_000])
    inputs = [*PROBES, entries, *zip(PROBES, reversed(PROBES), strict=True)]
    return [(encoding.ids, encoding.type_ids) for encoding in inner.encode_batch(inputs)]


def prove_saved(folder: Path) -> None:
    """See that the files of a folder that we wrote give the same ids here and in `transformers`.

    Args:
        folder: with tokenizer.json, vocab.txt and tokenizer_config.json.

    Raises:
        UserError: if they do not.
    """
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    options = read_json(folder / "tokenizer_config.json")
    lines = (folder / "vocab.txt").read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    theirs = bert_tokenizer(
        {line: number for number, line in enumerate(lines)},
        options["do_lower_case"],
        options["strip_accents"],
        options["tokenize_chinese_chars"],
    )
    if _ids(ours) != _ids(theirs):
        raise UserError(
            f"the tokenizer can't be saved to {folder}: `transformers` would read other ids from it; give the "
            "vocab.txt of a BERT model"
        )
