"""Byte-level BPE: the tokenizers of GPT-2, RoBERTa and ModernBERT (Radford et al. 2019, section 2.2).

A text is a string of bytes, so that no character is unknown. A regular expression cuts it into words, each with the
space before it; within a word the most frequent pairs of neighbours are merged (Sennrich et al. 2016, "Neural Machine
Translation of Rare Words with Subword Units", section 3.2). A byte is written as a printable character: Ġ is a space.

`transformers` executes such a tokenizer.json as it stands, and so does this package, with the same library.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from bertwright.errors import UserError
from bertwright.settings import TokenizerConfig
from bertwright.text.bert_tokenizer import SPECIAL_TOKENS
from bertwright.text.word_runs import is_word


@dataclass(frozen=True)
class SpecialTokens:
    """How a vocabulary writes the special tokens.

    Args:
        pad: fills up the shorter rows of a batch.
        unk: what is unknown.
        cls: the first token of every sequence.
        sep: the last one of every text.
        mask: to be predicted.
    """

    pad: str
    unk: str
    cls: str
    sep: str
    mask: str

    @property
    def all(self) -> tuple[str, ...]:
        """All five, in this order."""
        return astuple(self)


BERTS = SpecialTokens(*SPECIAL_TOKENS)
ROBERTAS = SpecialTokens("<pad>", "<unk>", "<s>", "</s>", "<mask>")


def is_byte_level(inner: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer is a BPE of bytes."""
    return isinstance(inner.model, BPE) and bool(_byte_levels(inner))


def _byte_levels(inner: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The settings of the rules that write text as bytes; none in a tokenizer of another kind."""
    # Of the rules alone: the whole tokenizer as JSON holds its vocabulary.
    rules = json.loads(inner.pre_tokenizer.__getstate__()) if inner.pre_tokenizer else {}
    return [rule for rule in (rules, *rules.get("pretokenizers", ())) if rule.get("type") == "ByteLevel"]


def find_special_tokens(inner: tokenizers.Tokenizer, saved: Mapping[str, Any], path: Path) -> SpecialTokens:
    """The special tokens of a folder: those of its tokenizer_config.json, for the others BERT's or RoBERTa's.

    Args:
        inner: from the folder's tokenizer.json.
        saved: the options in tokenizer_config.json, empty where there is none.
        path: of the tokenizer.json, for a message.

    Raises:
        UserError: if one is missing.
    """
    vocabulary = inner.get_vocab()
    known = max((BERTS, ROBERTAS), key=lambda tokens: sum(token in vocabulary for token in tokens.all))
    named = {}
    for name, usual in vars(known).items():
        token = saved.get(f"{name}_token") or usual
        token = str(token["content"] if isinstance(token, dict) else token)
        if token not in vocabulary:
            raise UserError(
                f"{path} has no {token}, which is to be its {name}_token; name the right one in tokenizer_config.json"
            )
        named[name] = token
    return SpecialTokens(**named)


def require_framed(inner: tokenizers.Tokenizer, special: SpecialTokens, path: Path, saved: Mapping[str, Any]) -> None:
    """See that a tokenizer.json frames texts as they are framed here, and that tokenizer_config.json agrees.

    Args:
        inner: from the file.
        special: its special tokens.
        path: of the file.
        saved: the options in tokenizer_config.json.

    Raises:
        UserError: if `transformers` would put other tokens around a text or a pair, or other spaces before it.
    """
    alone, pair = inner.encode("a").tokens, inner.encode("a", "a").tokens
    text, sep = inner.encode("a", add_special_tokens=False).tokens, special.sep
    expected = [special.cls, *text, sep]
    if alone != expected or pair not in ([*expected, *text, sep], [*expected, sep, *text, sep]):
        raise UserError(
            f"{path} makes {' '.join(pair)} of a pair of texts; Bertwright frames them as {special.cls} a {sep} a {sep}"
        )
    own = adds_space(inner)
    given = saved.get("add_prefix_space", own)
    if given != own:
        raise UserError(
            f"{path} and the tokenizer_config.json in its folder disagree: add_prefix_space is "
            f"{json.dumps(own)} in the first and {json.dumps(given)} in the second"
        )


def separators(inner: tokenizers.Tokenizer, special: SpecialTokens) -> int:
    """How many separators stand between two texts: RoBERTa has two."""
    return max(1, inner.encode("a", "a").tokens.count(special.sep) - 1)


def adds_space(inner: tokenizers.Tokenizer) -> bool:
    """Whether the first word of a text is read as if a space stood before it."""
    return any(rule.get("add_prefix_space", True) for rule in _byte_levels(inner))


def for_texts(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer for texts alone: the spelling of a special token is text, and offsets leave out spaces."""
    encoder = tokenizers.Tokenizer.from_str(inner.to_str())
    encoder.encode_special_tokens = True
    encoder.post_processor = processors.ByteLevel(add_prefix_space=adds_space(inner), trim_offsets=True)
    return encoder


def spellings(inner: tokenizers.Tokenizer, tokens: list[str]) -> list[str]:
    """Entries of the vocabulary as text: a word's first token has its space, half a character is a question mark."""
    return [inner.decoder.decode([token]) for token in tokens]


def continuing(spelled: list[str]) -> npt.NDArray[np.bool_]:
    """Which entries continue a word, bool (vocab_size,): those that begin with a letter, a digit or half a character.

    Marks, such as the vowel signs of Hindi, belong to the letter before them. Where no spaces are put between words, as
    in Chinese, each letter is a word. A text's first word has no space before it either, and begins a sequence; a part
    after a hyphen counts to the word.
    """

    def continues(first: str) -> bool:
        if first == "\ufffd" or unicodedata.category(first).startswith("M"):
            return True
        return first.isalnum() and not is_word(first)

    return np.array([text != "" and continues(text[0]) for text in spelled], np.bool_)


def train(texts: list[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Train a vocabulary of at most `config.vocab_size` entries: 256 bytes, BERT's special tokens, merged pairs.

    Args:
        texts: a sample of the corpus.
        config: size and rules.

    Raises:
        UserError: if the texts are blank, or the size is too small for all bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(SPECIAL_TOKENS)
    if config.vocab_size < least:
        raise UserError(f"tokenizer.vocab_size is {config.vocab_size}; a byte_bpe needs {least} or more, for all bytes")
    if not any(text.strip() for text in texts):
        raise UserError("there is no text to train a vocabulary on; give documents with text in them")
    inner = tokenizers.Tokenizer(BPE())
    # Letters with accents are one character or two in Unicode; NFC makes them one, as in ModernBERT.
    rules = [normalizers.NFC(), *([normalizers.Lowercase()] if config.lowercase else [])]
    inner.normalizer = normalizers.Sequence(rules)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        # As in RoBERTa and ModernBERT, the masked token of a word takes the place of the space before it, too.
        special_tokens=[tokenizers.AddedToken(token, lstrip=token == BERTS.mask) for token in SPECIAL_TOKENS],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BERTS.cls} $A {BERTS.sep}",
        pair=f"{BERTS.cls} $A {BERTS.sep} $B:1 {BERTS.sep}:1",
        special_tokens=[(token, inner.token_to_id(token)) for token in (BERTS.cls, BERTS.sep)],
    )
    return inner


def options(special: SpecialTokens) -> dict[str, Any]:
    """What a tokenizer_config.json says, with which `transformers` executes the tokenizer.json as it stands."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": token for name, token in vars(special).items()},
    }
