"""The tokenizer: text to ids and back (paper, section 3, "Input/Output Representations").

In BERT's, WordPiece, words are cut greedily into the longest known pieces; a piece that continues a word begins with
##. `byte_bpe.py` has ModernBERT's. The work is done by the `tokenizers` library; this file sees to it that every option
survives saving and loading.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers.models import WordPiece

from bertwright.arrays import Ids
from bertwright.errors import UserError
from bertwright.files import read_json, write_json, write_text
from bertwright.settings import TokenizerConfig
from bertwright.text import byte_bpe, wordpiece_training
from bertwright.text.bert_tokenizer import (
    MASK,
    SPECIAL_TOKENS,
    bert_options,
    bert_tokenizer,
    prove_saved,
    require_expressible,
)
from bertwright.text.byte_bpe import BERTS, SpecialTokens
from bertwright.text.formats import repaired
from bertwright.text.sentences import HTML_BREAK
from bertwright.text.wordpiece_training import Notice, is_lowercase

MOST_UNKNOWN = 0.2
"""The fraction of unknown tokens from which on a vocabulary of other texts is of no use for a text."""


def _silent(_: str) -> None:
    """For callers that want no notice."""


class Tokenizer:
    """A vocabulary with the rules that cut text into its entries.

    A text that spells `[SEP]` or another special token of BERT is text like any other: `[`, `sep`, `]`. Here
    `transformers` differs: it reads such spellings as special tokens, unless `split_special_tokens=True` is given.

    Args:
        inner: a tokenizer of the `tokenizers` library, a WordPiece or a BPE of bytes.
        html_line_breaks: whether a <br /> in a text is white space.
        special: its special tokens.

    Attributes:
        is_bytes: whether it is a BPE of bytes: no character is unknown, and a word's space belongs to its first token.
        mask_takes_space: whether a masked token in a text takes the place of the spaces before it, too.
        separators: how many [SEP] stand between two texts: one, but two in RoBERTa's.

    Raises:
        UserError: if a special token is missing or the model is of another kind.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, html_line_breaks: bool = False, special: SpecialTokens = BERTS
    ) -> None:
        self.is_bytes = byte_bpe.is_byte_level(inner)
        if not (self.is_bytes or isinstance(inner.model, WordPiece)):
            kind = type(inner.model).__name__
            raise UserError(
                f"the tokenizer is a {kind} model; Bertwright reads WordPiece and byte-level BPE: give a vocab.txt of "
                "a BERT model"
            )
        vocabulary = inner.get_vocab()
        for token in special.all:
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
        self.special = special
        self.encoder = byte_bpe.for_texts(inner) if self.is_bytes else _without_special_tokens(inner)
        self.separators = byte_bpe.separators(inner, special) if self.is_bytes else 1
        self.html_line_breaks = html_line_breaks
        self.vocab_size: int = inner.get_vocab_size()
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (vocabulary[t] for t in special.all)
        self.tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        added = inner.get_added_tokens_decoder() if self.is_bytes else {}
        self.mask_takes_space = self.mask_id in added and added[self.mask_id].lstrip
        reserved = {*special.all, *(t for t in self.tokens if t.startswith("[unused"))}
        reserved |= {token.content for token in added.values() if token.special}
        self.ordinary_ids = np.array([i for i, token in enumerate(self.tokens) if token not in reserved], np.int32)

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig, notice: Notice = _silent) -> Tokenizer:
        """Train a vocabulary of at most `config.vocab_size` entries from texts.

        Args:
            texts: a sample of the corpus.
            config: size and rules.
            notice: told of each choice that the texts decided: accents, alphabet, fewer entries than asked for.

        Raises:
            UserError: if the texts are blank, or hold too many characters for a vocabulary of that size.
        """
        pieces = [repaired(text) for text in texts]
        if config.type == "byte_bpe":
            inner = byte_bpe.train(pieces, config)
        else:
            inner = wordpiece_training.train(pieces, config, notice)
        if (found := inner.get_vocab_size()) < config.vocab_size:
            notice(
                f"the text allows only {found:,} entries, so that the vocabulary and the model have these and not the "
                f"{config.vocab_size:,} of tokenizer.vocab_size"
            )
        return cls(inner, config.html_line_breaks)

    @classmethod
    def load(cls, path: Path, config: TokenizerConfig | None = None, notice: Notice = _silent) -> Tokenizer:
        """Load a folder, a tokenizer.json, or a vocab.txt.

        A vocab.txt says nothing of case and accents: these come from a tokenizer_config.json in its folder or, where
        there is none, from `config`; a vocabulary with many capitals is cased whatever `config` says, since nothing
        would reach them. Whether <br /> is a line break comes from the same places for all three.

        Args:
            path: of the tokenizer.
            config: what the recipe says; None is its defaults.
            notice: told where the vocabulary's capitals and `config` disagree.

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
                if byte_bpe.is_byte_level(inner):
                    special = byte_bpe.find_special_tokens(inner, options.saved, path)
                    byte_bpe.require_framed(inner, special, path, options.saved)
                    return cls(inner, html_line_breaks, special)
                tokenizer = cls(inner, html_line_breaks)
                require_expressible(inner, path, options.saved)
                return tokenizer
            # Only a line feed ends a line: other separators are entries of real vocabularies.
            text = path.read_bytes().decode("utf-8-sig")
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception for a file that it can't read
            raise UserError(f"{path} is not a tokenizer that can be read ({error})") from error
        vocabulary = {line.removesuffix("\r"): i for i, line in enumerate(text.removesuffix("\n").split("\n"))}
        if options.saved:
            lowercase = options.get("do_lower_case", config.lowercase)
        else:
            lowercase = is_lowercase(path, vocabulary, config, notice)
        strip_accents = options.get("strip_accents", None if "strip_accents" in options.saved else config.strip_accents)
        chinese = options.get("tokenize_chinese_chars", True)
        return cls(bert_tokenizer(vocabulary, lowercase, strip_accents, chinese), html_line_breaks)

    @classmethod
    def from_json(cls, text: str, html_line_breaks: bool = False, special: SpecialTokens = BERTS) -> Tokenizer:
        """The tokenizer that `to_json` described."""
        return cls(tokenizers.Tokenizer.from_str(text), html_line_breaks, special)

    def to_json(self) -> str:
        """The whole tokenizer, options included, as the text of a tokenizer.json."""
        described: str = self.inner.to_str()
        return described

    @property
    def normalization(self) -> tuple[bool, bool | None, bool]:
        """Of a WordPiece: whether it lowers letters, strips accents (None: if it lowers), parts Chinese characters."""
        said = json.loads(self.to_json())["normalizer"] or {}
        return said.get("lowercase", False), said.get("strip_accents"), said.get("handle_chinese_chars", True)

    @cached_property
    def spellings(self) -> list[str]:
        """The entries as they are shown: as the vocabulary writes them, those of bytes as text."""
        return byte_bpe.spellings(self.inner, self.tokens) if self.is_bytes else self.tokens

    @cached_property
    def is_continuation(self) -> npt.NDArray[np.bool_]:
        """Whether an entry continues a word, bool (vocab_size,)."""
        if self.is_bytes:
            return byte_bpe.continuing(self.spellings)
        return np.array([token.startswith("##") for token in self.tokens])

    def save(
        self, folder: Path, max_length: int | None = None, truncation: str | None = None, segments: bool = True
    ) -> None:
        """Write tokenizer.json and tokenizer_config.json; of a WordPiece also vocab.txt, as BertTokenizerFast does.

        The files are read again, to see that `transformers` gets the same ids from them.

        Args:
            folder: made if it is missing.
            max_length: the most tokens that the folder's model reads; `transformers` cuts texts there when asked to.
            truncation: which part of a longer text the model was trained on: a note for us, which others pass over.
            segments: whether the folder's model reads `token_type_ids`.
        """
        reading = {
            "model_max_length": max_length,
            "text_truncation": truncation,
            "html_line_breaks": self.html_line_breaks or None,
            "model_input_names": None if segments else ["input_ids", "attention_mask"],
        }
        write_text(folder / "tokenizer.json", self.to_json())
        settings = byte_bpe.options(self.special) if self.is_bytes else bert_options(*self.normalization)
        given = {name: value for name, value in reading.items() if value is not None}
        write_json(folder / "tokenizer_config.json", {**settings, **given})
        if not self.is_bytes:
            write_text(folder / "vocab.txt", "\n".join(self.tokens) + "\n")
            prove_saved(folder)

    def clean(self, text: str) -> str:
        """The text as the model reads it.

        Half a surrogate pair becomes a question mark; <br /> a space, where it is a line break.
        """
        text = repaired(text)
        return HTML_BREAK.sub(" ", text) if self.html_line_breaks else text

    def clean_offsets(self, text: str) -> npt.NDArray[np.int64]:
        """Where each character of the cleaned text begins and ends in the text as given, int64 (characters, 2)."""
        begins = np.arange(len(text))
        ends, kept = begins + 1, np.ones(len(text), np.bool_)
        for found in HTML_BREAK.finditer(text) if self.html_line_breaks else ():
            ends[found.start()] = found.end()
            kept[found.start() + 1 : found.end()] = False
        return np.stack([begins, ends], axis=1)[kept]

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, int32 (tokens,), without special tokens and without a length limit."""
        try:
            encodings = self.encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            encodings = self.encoder.encode_batch_fast([repaired(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def spaced(self, sentences: Sequence[str], per_document: Sequence[int]) -> Sequence[str]:
        """Sentences of documents as a running text has them: of bytes, with a space before all but a document's first.

        Args:
            sentences: of all documents, without white space around them.
            per_document: how many each document has.
        """
        if not self.is_bytes:
            return sentences
        firsts = set(itertools.accumulate(per_document, initial=0))
        return [one if number in firsts else f" {one}" for number, one in enumerate(sentences)]

    def with_masks(self, text: str) -> str:
        """A text with `[MASK]` wherever it has the vocabulary's own spelling of it, such as `<mask>`."""
        return text.replace(self.special.mask, MASK)

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


def _without_special_tokens(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, to which the spelling of one of BERT's special tokens is text; other added tokens stay."""
    described = json.loads(inner.to_str())
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] not in SPECIAL_TOKENS]
    described["post_processor"] = None  # which names special tokens
    return tokenizers.Tokenizer.from_str(json.dumps(described))
