"""The WordPiece tokenizer: text to ids and back (paper, section 3, "Input/Output Representations").

Words are cut greedily into the longest known pieces; a piece that continues a word begins with ##. The work is done by
the `tokenizers` library; this file trains it, and sees to it that every option survives saving and loading.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from bertwright.errors import UserError
from bertwright.files import read_json, write_json, write_text
from bertwright.settings import TokenizerConfig
from bertwright.text.bert_tokenizer import (
    CLS,
    MASK,
    PAD,
    SEP,
    SPECIAL_TOKENS,
    UNK,
    bert_tokenizer,
    prove_saved,
    require_expressible,
)
from bertwright.text.formats import repaired
from bertwright.text.sentences import HTML_BREAK

Ids = npt.NDArray[np.int32]

_ALPHABET = 1000
"""Characters that a trained vocabulary has at most; rarer ones are unknown, as in the library's own default."""


class Tokenizer:
    """A WordPiece vocabulary with the rules that cut text into its entries.

    Args:
        inner: a tokenizer of the `tokenizers` library with a WordPiece model and BERT's special tokens.
        html_line_breaks: whether a <br /> in a text is white space.

    Raises:
        UserError: if a special token is missing or the model is not WordPiece.
    """

    def __init__(self, inner: tokenizers.Tokenizer, html_line_breaks: bool = False) -> None:
        if not isinstance(inner.model, WordPiece):
            kind = type(inner.model).__name__
            raise UserError(f"the tokenizer is a {kind} model; BERT needs WordPiece: give a vocab.txt of a BERT model")
        vocabulary = inner.get_vocab()
        for token in SPECIAL_TOKENS:
            if token not in vocabulary:
                raise UserError(f"the vocabulary has no {token}; add it, or give the vocabulary of a BERT model")
        if max(vocabulary.values()) != len(vocabulary) - 1:
            raise UserError(
                f"the vocabulary has {len(vocabulary)} entries, but ids up to {max(vocabulary.values())}: an entry is "
                "there twice, or one is missing"
            )
        inner.no_truncation()
        inner.no_padding()
        self.inner = inner
        self.html_line_breaks = html_line_breaks
        self.vocab_size: int = inner.get_vocab_size()
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (vocabulary[t] for t in SPECIAL_TOKENS)
        self.tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        self.is_continuation = np.array([token.startswith("##") for token in self.tokens])
        reserved = {*SPECIAL_TOKENS, *(t for t in self.tokens if t.startswith("[unused"))}
        self.ordinary_ids = np.array([i for i, token in enumerate(self.tokens) if token not in reserved], np.int32)

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
        """Train a vocabulary of `config.vocab_size` entries from texts.

        Raises:
            UserError: if the texts hold too few different words for a vocabulary of that size, or too many characters.
        """
        model = WordPiece(unk_token=UNK, max_input_chars_per_word=100)
        inner = _untrained(model, config.lowercase, config.strip_accents)
        pieces = [repaired(text) for text in texts]
        # The library numbers ##-characters as its hash tables please, which decides ties between pairs, so that two
        # trainings differ. A first pass finds the characters; given as "special", sorted, their order is fixed.
        inner.train_from_iterator(pieces, WordPieceTrainer(vocab_size=0, show_progress=False))
        found = sorted(inner.get_vocab())
        alphabet = _most_frequent([c for c in found if len(c) == 1], inner, pieces)
        continuing = [token for token in found if token.startswith("##") and token[2:] in alphabet]
        trainer = WordPieceTrainer(
            vocab_size=config.vocab_size,
            special_tokens=[*SPECIAL_TOKENS, *continuing],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            min_frequency=config.min_frequency,
            show_progress=False,
        )
        inner = _untrained(model, config.lowercase, config.strip_accents)
        inner.train_from_iterator(pieces, trainer)
        vocabulary = inner.get_vocab()
        if len(vocabulary) < config.vocab_size:
            raise UserError(
                f"tokenizer.vocab_size is {config.vocab_size}, but the corpus allows only {len(vocabulary)} "
                "entries; lower tokenizer.vocab_size or add text"
            )
        if len(vocabulary) > config.vocab_size:
            raise UserError(
                f"tokenizer.vocab_size is {config.vocab_size}, but the characters of the corpus alone, first in a word "
                f"and within one, are {len(vocabulary)} entries; raise tokenizer.vocab_size"
            )
        inner = bert_tokenizer(vocabulary, config.lowercase, config.strip_accents, True)
        return cls(inner, config.html_line_breaks)

    @classmethod
    def load(cls, path: Path, config: TokenizerConfig | None = None) -> Tokenizer:
        """Load a folder, a tokenizer.json, or a vocab.txt.

        A vocab.txt says nothing of case and accents: these come from a tokenizer_config.json in its folder or, where
        there is none, from `config`. So does, for all three, whether <br /> is a line break.

        Raises:
            UserError: if there is no tokenizer at `path` or it can't be read.
        """
        if path.is_dir():
            path = path / "tokenizer.json" if (path / "tokenizer.json").exists() else path / "vocab.txt"
        if not path.exists():
            raise UserError(f"there is no tokenizer at {path}; give a vocab.txt, a tokenizer.json or a folder with one")
        options = _Options(path.with_name("tokenizer_config.json"))
        config = config or TokenizerConfig()
        html_line_breaks = options.get("html_line_breaks", config.html_line_breaks)
        try:
            if path.suffix == ".json":
                inner = tokenizers.Tokenizer.from_file(str(path))
                tokenizer = cls(inner, html_line_breaks)
                require_expressible(inner, path, options.saved)
                return tokenizer
            # Only a line feed ends a line: other separators are entries of real vocabularies.
            text = path.read_bytes().decode("utf-8")
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception for a file that it can't read
            raise UserError(f"{path} is not a tokenizer that can be read ({error})") from error
        vocabulary = {line.removesuffix("\r"): i for i, line in enumerate(text.removesuffix("\n").split("\n"))}
        lowercase = options.get("do_lower_case", config.lowercase)
        strip_accents = options.get("strip_accents", None if "strip_accents" in options.saved else config.strip_accents)
        chinese = options.get("tokenize_chinese_chars", True)
        return cls(bert_tokenizer(vocabulary, lowercase, strip_accents, chinese), html_line_breaks)

    @classmethod
    def from_json(cls, text: str, html_line_breaks: bool = False) -> Tokenizer:
        """The tokenizer that `to_json` described."""
        return cls(tokenizers.Tokenizer.from_str(text), html_line_breaks)

    def to_json(self) -> str:
        """The whole tokenizer, options included, as the text of a tokenizer.json."""
        described: str = self.inner.to_str()
        return described

    def save(self, folder: Path, max_length: int | None = None, truncation: str | None = None) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json, as Hugging Face's BertTokenizerFast does.

        The files are read again, to see that `transformers` gets the same ids from them.

        Args:
            folder: made if it is missing.
            max_length: the most tokens that the folder's model reads; `transformers` cuts texts there when asked to.
            truncation: which part of a longer text the model was trained on: a note for us, which others pass over.
        """
        normalizer = json.loads(self.to_json())["normalizer"] or {}
        reading = {
            "model_max_length": max_length,
            "text_truncation": truncation,
            "html_line_breaks": self.html_line_breaks or None,
        }
        write_text(folder / "tokenizer.json", self.to_json())
        write_text(folder / "vocab.txt", "\n".join(self.tokens) + "\n")
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": normalizer.get("lowercase", False),
                "strip_accents": normalizer.get("strip_accents"),
                "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
                "pad_token": PAD,
                "unk_token": UNK,
                "cls_token": CLS,
                "sep_token": SEP,
                "mask_token": MASK,
                **{name: value for name, value in reading.items() if value is not None},
            },
        )
        prove_saved(folder)

    def clean(self, text: str) -> str:
        """The text as the model reads it.

        Half a surrogate pair becomes a question mark; <br /> a space, where it is a line break.
        """
        text = repaired(text)
        return HTML_BREAK.sub(" ", text) if self.html_line_breaks else text

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, int32 (tokens,), without special tokens and without a length limit."""
        try:
            encodings = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            encodings = self.inner.encode_batch_fast([repaired(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Readable text for ids, special tokens included."""
        text: str = self.inner.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    @property
    def fingerprint(self) -> str:
        """A short hash of the vocabulary and every option."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


class _Options:
    """The options in a tokenizer_config.json, if there is one.

    Args:
        path: of the file.

    Raises:
        UserError: if it is not a JSON object, or an option that is asked for is of another type.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = read_json(path) if path.exists() else {}
        if not isinstance(self.saved, dict):
            raise UserError(f"{path} does not hold the options of a tokenizer, by name")

    def get(self, name: str, default: bool | None) -> Any:
        value = self.saved.get(name, default)
        if not isinstance(value, bool) and value is not default:
            raise UserError(f"{self.path}: {name} is {value!r}; it must be true or false")
        return value


def _untrained(
    model: WordPiece, lowercase: bool, strip_accents: bool | None, chinese: bool = True
) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def _most_frequent(characters: list[str], inner: tokenizers.Tokenizer, texts: Iterable[str]) -> list[str]:
    """The characters that get entries of their own, at most `_ALPHABET`; ties go to the smaller code."""
    if len(characters) <= _ALPHABET:
        return characters
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(inner.normalizer.normalize_str(text))
    return sorted(sorted(characters, key=lambda c: (-counts[c], c))[:_ALPHABET])
