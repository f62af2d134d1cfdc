"""How a WordPiece vocabulary is trained on texts, and how one that comes without options is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import tokenizers
from tokenizers.trainers import WordPieceTrainer

from bertwright.errors import UserError
from bertwright.settings import TokenizerConfig
from bertwright.text.bert_tokenizer import SPECIAL_TOKENS, bert_tokenizer
from bertwright.text.characters import KEEP_MARKS_FROM, choose_alphabet, marks_fraction

Notice = Callable[[str], None]
"""Told in a sentence what a user should know."""

_CASED_FROM = 0.01
"""The fraction of entries with a capital from which on a vocabulary is taken for cased."""


def train(texts: list[str], config: TokenizerConfig, notice: Notice) -> tokenizers.Tokenizer:
    """Train a vocabulary of at most `config.vocab_size` entries; as `Tokenizer.train`."""
    strip_accents = _strip_accents(texts, config, notice)
    inner = bert_tokenizer({}, config.lowercase, strip_accents, True)
    # The library numbers ##-characters as its hash tables please, which decides ties between pairs, so that two
    # trainings differ. A first pass finds the characters; given as "special", sorted, their order is fixed.
    inner.train_from_iterator(texts, WordPieceTrainer(vocab_size=0, show_progress=False))
    found = sorted(inner.get_vocab())
    if not found:
        raise UserError("there is no text to train a vocabulary on; give documents with text in them")
    room = config.vocab_size * 2 // 3 - len(SPECIAL_TOKENS)
    alphabet, covered = choose_alphabet(found, texts, inner.normalizer, config.limit_alphabet, room)
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
    inner.train_from_iterator(texts, trainer)
    vocabulary = inner.get_vocab()
    if len(vocabulary) > config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size is {config.vocab_size}, but the characters of the corpus alone, first in a word "
            f"and within one, are {len(vocabulary)} entries; raise tokenizer.vocab_size or lower "
            "tokenizer.limit_alphabet"
        )
    return bert_tokenizer(vocabulary, config.lowercase, strip_accents, True)


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


def is_lowercase(path: Path, vocabulary: Iterable[str], config: TokenizerConfig, notice: Notice) -> bool:
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
