"""New entries for a vocabulary that exists: those that save the user's texts most tokens.

A vocabulary of other texts breaks the terms of a field into pieces. WordPiece training on the user's texts finds the
entries that these would have; the texts are then cut by both vocabularies together, and the tokens that each new entry
saves are counted. The old entries keep their ids, so that the encoder's weights stay where they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from tokenizers.models import WordPiece

from bertwright.errors import UserError
from bertwright.settings import TokenizerConfig
from bertwright.text.bert_tokenizer import LONGEST_WORD, UNK, bert_tokenizer
from bertwright.text.wordpiece import Tokenizer
from bertwright.text.wordpiece_training import Notice

CANDIDATES = 30_522
"""Entries that are trained on the texts, as many as BERT has; more than that are trained for very many new words."""

FEWEST = 5
"""How often a candidate must occur, and how many tokens it must save: there is too little to learn a rarer one from."""

_SHOWN = 5


def with_new_words(tokenizer: Tokenizer, texts: Iterable[str], number: int, notice: Notice) -> Tokenizer:
    """A tokenizer with up to `number` more entries, at the end of the vocabulary.

    Args:
        tokenizer: the one to add to; it stays unchanged.
        texts: a sample of the corpus.
        number: the most entries to add.
        notice: told which and how many were added, what they save, and why there are fewer than asked for.

    Raises:
        UserError: if the texts are blank, or the tokenizer is not a WordPiece.
    """
    if tokenizer.is_bytes:
        raise UserError(
            "tokenizer.new_words adds to a WordPiece vocabulary, and this one is a byte-level BPE, to which no "
            "word is unknown; leave it out"
        )
    cleaned = [tokenizer.clean(text) for text in texts]
    old = tokenizer.inner.get_vocab()
    counts = _words(tokenizer, cleaned)
    savings = _savings(counts, old, _candidates(tokenizer, cleaned, number))
    chosen = sorted(savings, key=lambda entry: (-savings[entry], entry))[:number]
    if len(chosen) < number:
        notice(
            f"tokenizer.new_words asks for {number:,}, and the texts give {len(chosen):,}: all else that occurs "
            f"{FEWEST} times is in the vocabulary already, or would save fewer than {FEWEST} tokens"
        )
    if not chosen:
        return tokenizer
    grown = Tokenizer(
        bert_tokenizer(_grown(old, chosen), *tokenizer.normalization),
        tokenizer.html_line_breaks,
    )
    foreign = sum(pieces(entry, old) == [old[UNK]] for entry in chosen)
    if foreign:
        notice(
            f"{foreign:,} of the new words have characters that the vocabulary lacks: their vectors all start as that "
            f"of {UNK}, and differ only after training"
        )
    before, after = (_tokens(counts, one.inner.get_vocab()) for one in (tokenizer, grown))
    notice(
        f"{len(chosen):,} new words, such as {', '.join(chosen[:_SHOWN])}: the vocabulary grows from {len(old):,} to "
        f"{grown.vocab_size:,} entries, and a sample of the texts is {after:,} tokens in place of {before:,}"
    )
    return grown


def pieces(entry: str, vocabulary: Mapping[str, int]) -> list[int]:
    """The ids of an entry cut into those of a vocabulary, the longest first; that of [UNK] alone where that fails.

    Args:
        entry: a word, or a part of one that begins with ##.
        vocabulary: ids by entry.
    """
    found: list[int] = []
    prefix, rest = ("##", entry[2:]) if entry.startswith("##") else ("", entry)
    while rest:
        end = next((end for end in range(len(rest), 0, -1) if prefix + rest[:end] in vocabulary), 0)
        if end == 0:
            return [vocabulary[UNK]]
        found.append(vocabulary[prefix + rest[:end]])
        prefix, rest = "##", rest[end:]
    return found


def _grown(vocabulary: Mapping[str, int], entries: Iterable[str]) -> dict[str, int]:
    return {**vocabulary, **{entry: number for number, entry in enumerate(entries, len(vocabulary))}}


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, as the tokenizer sees it before it is cut; the longest ones, always [UNK], not."""
    inner = tokenizer.encoder
    counts: Counter[str] = Counter()
    for text in texts:
        words = inner.pre_tokenizer.pre_tokenize_str(inner.normalizer.normalize_str(text))
        counts.update(word for word, _ in words if len(word) <= LONGEST_WORD)
    return counts


def _candidates(tokenizer: Tokenizer, texts: list[str], number: int) -> list[str]:
    """The entries that training on the texts gives and the vocabulary lacks, sorted."""
    lowercase, strip_accents, _ = tokenizer.normalization
    config = TokenizerConfig(
        vocab_size=max(CANDIDATES, 2 * number),
        lowercase=lowercase,
        # As the old one does: None of an uncased vocabulary strips them.
        strip_accents=lowercase if strip_accents is None else strip_accents,
        min_frequency=FEWEST,
    )
    trained = Tokenizer.train(texts, config)
    return sorted(set(trained.tokens) - set(tokenizer.tokens))


def _savings(counts: Counter[str], old: Mapping[str, int], candidates: list[str]) -> dict[str, float]:
    """The tokens that each candidate saves, where these are enough; those of one word share what they save together."""
    new = set(candidates)
    before, after = _model(old), _model(_grown(old, candidates))
    savings: defaultdict[str, float] = defaultdict(float)
    for word, count in counts.items():
        tokens = [token.value for token in after.tokenize(word)]
        used = [token for token in tokens if token in new]
        if used:
            saved = _cost(word, [token.value for token in before.tokenize(word)]) - _cost(word, tokens)
            for token in used:
                savings[token] += count * saved / len(used)
    return {entry: saved for entry, saved in savings.items() if saved >= FEWEST}


def _cost(word: str, tokens: list[str]) -> int:
    """How many tokens a word is; an unknown one counts as more than its letters, for nothing is left of it."""
    return len(word) + 1 if tokens == [UNK] else len(tokens)


def _tokens(counts: Counter[str], vocabulary: Mapping[str, int]) -> int:
    model = _model(vocabulary)
    return sum(count * len(model.tokenize(word)) for word, count in counts.items())


def _model(vocabulary: Mapping[str, int]) -> WordPiece:
    return WordPiece(dict(vocabulary), unk_token=UNK, max_input_chars_per_word=LONGEST_WORD)
