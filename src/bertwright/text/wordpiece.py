"""The WordPiece tokenizer: text to ids and back (paper, section 3, "Input/Output Representations").

Words are cut greedily into the longest known pieces; a piece that continues a word begins with ##. The work is done by
the `tokenizers` library; this file trains it, and sees to it that every option survives saving and loading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
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
from bertwright.text.characters import KEEP_MARKS_FROM, choose_alphabet, marks_fraction
from bertwright.text.formats import repaired
from bertwright.text.sentences import HTML_BREAK

Ids = npt.NDArray[np.int32]

Notice = Callable[[str], None]
"""Told in a sentence what a user should know."""

_CASED_FROM = 0.01
"""The fraction of entries with a capital from which on a vocabulary is taken for cased."""


def _silent(_: str) -> None:
    """For callers that want no notice."""


class Tokenizer:
    """A WordPiece vocabulary with the rules that cut text into its entries.

    A text that spells `[SEP]` or another special token of BERT is text like any other: `[`, `sep`, `]`. Here
    `transformers` differs: it reads such spellings as special tokens, unless `split_special_tokens=True` is given.

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
        self.encoder = _without_special_tokens(inner)
        self.html_line_breaks = html_line_breaks
        self.vocab_size: int = inner.get_vocab_size()
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (vocabulary[t] for t in SPECIAL_TOKENS)
        self.tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        self.is_continuation = np.array([token.startswith("##") for token in self.tokens])
        reserved = {*SPECIAL_TOKENS, *(t for t in self.tokens if t.startswith("[unused"))}
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
        strip_accents = _strip_accents(pieces, config, notice)
        inner = bert_tokenizer({}, config.lowercase, strip_accents, True)
        # The library numbers ##-characters as its hash tables please, which decides ties between pairs, so that two
        # trainings differ. A first pass finds the characters; given as "special", sorted, their order is fixed.
        inner.train_from_iterator(pieces, WordPieceTrainer(vocab_size=0, show_progress=False))
        found = sorted(inner.get_vocab())
        if not found:
            raise UserError("there is no text to train a vocabulary on; give documents with text in them")
        room = config.vocab_size * 2 // 3 - len(SPECIAL_TOKENS)
        alphabet, covered = choose_alphabet(found, pieces, inner.normalizer, config.limit_alphabet, room)
        if (characters := sum(len(token) == 1 for token in found)) > len(alphabet):
            notice(
                f"{len(alphabet):,} of the {characters:,} characters of the text have entries in the vocabulary and "
                f"cover {covered:.2%} of it; words with others are unknown (tokenizer.limit_alphabet, "
                "tokenizer.vocab_size)"
            )
        known = set(alphabet)
        continuing = [token for token in found if token.startswith("##") and token[2:] in known]
        trainer = WordPieceTrainer(
            vocab_size=config.vocab_size,
            special_tokens=[*SPECIAL_TOKENS, *continuing],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            min_frequency=config.min_frequency,
            show_progress=False,
        )
        inner = bert_tokenizer({}, config.lowercase, strip_accents, True)
        inner.train_from_iterator(pieces, trainer)
        vocabulary = inner.get_vocab()
        if len(vocabulary) < config.vocab_size:
            notice(
                f"the text allows only {len(vocabulary):,} entries, so that the vocabulary and the model have these "
                f"and not the {config.vocab_size:,} of tokenizer.vocab_size"
            )
        if len(vocabulary) > config.vocab_size:
            raise UserError(
                f"tokenizer.vocab_size is {config.vocab_size}, but the characters of the corpus alone, first in a word "
                f"and within one, are {len(vocabulary)} entries; raise tokenizer.vocab_size or lower "
                "tokenizer.limit_alphabet"
            )
        inner = bert_tokenizer(vocabulary, config.lowercase, strip_accents, True)
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
            lowercase = _lowercase(path, vocabulary, config, notice)
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

    @property
    def normalization(self) -> tuple[bool, bool | None, bool]:
        """Whether it lowers letters, strips accents (None: where it lowers), and parts Chinese characters."""
        said = json.loads(self.to_json())["normalizer"] or {}
        return said.get("lowercase", False), said.get("strip_accents"), said.get("handle_chinese_chars", True)

    def save(self, folder: Path, max_length: int | None = None, truncation: str | None = None) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json, as Hugging Face's BertTokenizerFast does.

        The files are read again, to see that `transformers` gets the same ids from them.

        Args:
            folder: made if it is missing.
            max_length: the most tokens that the folder's model reads; `transformers` cuts texts there when asked to.
            truncation: which part of a longer text the model was trained on: a note for us, which others pass over.
        """
        lowercase, strip_accents, chinese = self.normalization
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
                "do_lower_case": lowercase,
                "strip_accents": strip_accents,
                "tokenize_chinese_chars": chinese,
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


def _strip_accents(texts: Iterable[str], config: TokenizerConfig, notice: Notice) -> bool | None:
    """What the recipe says; where it says nothing, False for texts that would lose letters with their accents."""
    if config.strip_accents is not None or not config.lowercase:
        return config.strip_accents
    lost = marks_fraction(texts)
    if lost < KEEP_MARKS_FROM:
        return None
    notice(
        f"tokenizer.strip_accents is set to false: stripping would take letters of the scripts of this text (vowel "
        f"signs and the like, or Hangul: {lost:.1%} of its characters)"
    )
    return False


def _lowercase(path: Path, vocabulary: Iterable[str], config: TokenizerConfig, notice: Notice) -> bool:
    """Whether a vocabulary without options is read in small letters: not if it plainly holds capitals."""
    words = [token for token in vocabulary if token not in SPECIAL_TOKENS and not token.startswith("[unused")]
    capitals = sum(token != token.lower() for token in words)
    small = sum(token != token.upper() for token in words)
    if config.lowercase and capitals >= max(1, _CASED_FROM * len(words)):
        notice(
            f"{path} holds capitals ({capitals:,} of {len(words):,} entries), so capitals in texts are kept, as with "
            "tokenizer.lowercase: false"
        )
        return False
    if not config.lowercase and small and not capitals:
        notice(
            f"warning: tokenizer.lowercase is false, but no entry of {path} has a capital: every word with one is "
            "unknown; leave out tokenizer.lowercase"
        )
    return config.lowercase
