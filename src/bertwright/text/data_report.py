"""What preparation found in the corpora: counted by corpus, with what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bertwright.errors import UserError
from bertwright.recipe import Recipe
from bertwright.text.characters import Losses
from bertwright.text.store import CorpusWriter, TokenizedDocuments
from bertwright.text.wordpiece import MOST_UNKNOWN


@dataclass(frozen=True)
class TokenizedBatch:
    """What a worker makes of a batch of documents.

    Args:
        documents: their token ids.
        words: in their texts, at white space.
        unknown: tokens that are [UNK].
        lost: what the tokenizer does not keep of their texts.
        wheres: the place of each.
        characters: of each one's text, int64 (documents,).
    """

    documents: TokenizedDocuments
    words: int
    unknown: int
    lost: Losses
    wheres: tuple[str, ...]
    characters: npt.NDArray[np.int64]


@dataclass
class SourceReport:
    """What was found in one corpus.

    Args:
        how: one sentence on how documents were made.
        left_out: documents that were not used, by reason.
        first_left_out: the place of the first of these, by reason.
        changed: documents that were used but not as they stand in the source, by what was done to them.
        lost: what the tokenizer does not keep of their texts.
        heldout_characters: in the texts that are held out, white space included.
    """

    how: str = ""
    documents: int = 0
    sentences: int = 0
    words: int = 0
    tokens: int = 0
    empty_documents: int = 0
    duplicate_documents: int = 0
    one_sentence_documents: int = 0
    longest_document_tokens: int = 0
    unknown_tokens: int = 0
    heldout_characters: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    first_left_out: dict[str, str] = field(default_factory=dict)
    lost: Losses = field(default_factory=Losses)

    def leave_out(self, reason: str, where: str, documents: int = 1) -> None:
        """Count documents that are not used.

        Args:
            reason: why.
            where: the place of the first of them.
            documents: how many.
        """
        self.left_out[reason] += documents
        self.first_left_out.setdefault(reason, where)

    def add(self, result: TokenizedBatch, is_held: npt.NDArray[np.bool_]) -> None:
        """Count a batch that was tokenized, of which some documents are held out, bool (documents,)."""
        counts = result.documents.document_sentences
        self.heldout_characters += int(result.characters[is_held & (counts > 0)].sum())
        without_tokens = int((counts == 0).sum())
        self.words += result.words
        self.unknown_tokens += result.unknown
        self.lost.add(result.lost)
        self.sentences += len(result.documents.sentence_lengths)
        self.tokens += len(result.documents.tokens)
        self.empty_documents += without_tokens
        if without_tokens:
            self.leave_out("no token in it", result.wheres[int((counts == 0).argmax())], without_tokens)
        self.one_sentence_documents += int((counts == 1).sum())
        self.longest_document_tokens = max(self.longest_document_tokens, _longest(result.documents))

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, with unknown tokens, and characters without an entry, as fractions of all."""
        plain: dict[str, Any] = {**vars(self), "left_out": dict(self.left_out), "changed": dict(self.changed)}
        plain["outside_alphabet_ratio"] = self.lost.outside.total() / max(1, self.lost.characters)
        plain["stripped_characters"] = self.lost.stripped.total()
        plain["characters"] = plain.pop("lost").as_dict()
        plain["unknown_token_ratio"] = plain.pop("unknown_tokens") / max(1, self.tokens)
        return plain


def data_report(
    reports: dict[str, SourceReport],
    train: CorpusWriter,
    heldout: CorpusWriter,
    notices: list[str],
    heldout_ratio: float,
    is_given: bool,
) -> dict[str, Any]:
    """The content of data_report.json: each corpus, all together, and what a user should know or be warned of.

    Args:
        reports: of each corpus, by name.
        train: the documents that are trained on.
        heldout: those that are not.
        notices: what was decided for these corpora, in sentences.
        heldout_ratio: as the recipe has it.
        is_given: whether the vocabulary existed before.
    """
    said = [_left_out(name, report) for name, report in reports.items() if report.left_out]
    warnings = []
    for name, report in reports.items():
        if report.tokens and not report.heldout_characters:
            more = "raise it" if report.documents > 1 else "give its text as several documents"
            said.append(
                f"{name} has no held-out document, and so no loss of its own; prepare.heldout_ratio is "
                f"{heldout_ratio:g}: {more}"
            )
        used = report.documents - sum(report.left_out.values())
        if report.one_sentence_documents > 0.1 * max(1, used):
            warnings.append(
                f"{name}: {report.one_sentence_documents} of {used} documents have a single sentence, which has no "
                "next one; they are cut in two for next-sentence prediction. If a blank line follows each sentence of "
                "your text, or each row is a sentence, set `rows: sentences`."
            )
        if report.duplicate_documents > 0.05 * max(1, report.documents):
            warnings.append(f"{name}: {report.duplicate_documents} of {report.documents} documents repeat another one.")
        if report.unknown_tokens > 0.005 * max(1, report.tokens):
            share = report.unknown_tokens / report.tokens
            warnings.append(f"{name}: {share:.1%} of the tokens are unknown to the vocabulary.")
        warnings += [f"{name}: {warning}" for warning in report.lost.warnings(is_given)]
    return {
        "sources": {name: report.as_dict() for name, report in reports.items()},
        "total": _total(reports).as_dict(),
        "train": {"documents": train.documents, "tokens": train.tokens},
        "heldout": {"documents": heldout.documents, "tokens": heldout.tokens},
        "notices": [*notices, *said],
        "warnings": warnings,
    }


def _total(reports: dict[str, SourceReport]) -> SourceReport:
    total = SourceReport()
    for report in reports.values():
        for key, value in vars(report).items():
            if key == "longest_document_tokens":
                total.longest_document_tokens = max(total.longest_document_tokens, value)
            elif key in ("left_out", "changed"):
                getattr(total, key).update(value)
            elif key == "first_left_out":
                total.first_left_out = {**value, **total.first_left_out}
            elif key == "lost":
                total.lost.add(value)
            elif key != "how":
                setattr(total, key, getattr(total, key) + value)
    return total


def check_known(recipe: Recipe, reports: dict[str, SourceReport]) -> None:
    """See that a vocabulary of other texts knows most of each corpus: a large one would hide another.

    Args:
        recipe: names the vocabulary, and the corpora that a phase reads.
        reports: of each corpus, by name.

    Raises:
        UserError: if it does not.
    """
    for name, report in reports.items():
        ratio = report.unknown_tokens / max(1, report.tokens)
        if ratio <= MOST_UNKNOWN:
            continue
        characters = report.lost.as_dict()["most_frequent_outside_alphabet"]
        which = f" (most often: {' '.join(characters)})" if characters else ""
        of_phases = recipe.pretrain.corpora
        needed = len(reports) == 1 or (of_phases is not None and name in of_phases)
        others = "" if needed else f"leave {name} out of prepare.corpora, or "
        raise UserError(
            f"{ratio:.0%} of the tokens of {name} are unknown to the vocabulary of {recipe.tokenizer.path}, for it "
            f"lacks their characters{which}; {others}pre-train from scratch, with a vocabulary of these texts (give "
            "neither pretrain.encoder nor tokenizer.path)"
        )


def in_words(total: Mapping[str, Any]) -> str:
    """What `data_report` counted in all, as a sentence."""
    return (
        f"{total['documents']:,} documents, {total['sentences']:,} sentences, {total['words']:,} words, "
        f"{total['tokens']:,} tokens; {total['empty_documents']:,} empty, {total['duplicate_documents']:,} "
        f"duplicate and {total['one_sentence_documents']:,} one-sentence documents; longest "
        f"{total['longest_document_tokens']:,} tokens; {total['unknown_token_ratio']:.3%} unknown tokens, "
        f"{total['outside_alphabet_ratio']:.3%} of the characters without an entry in the vocabulary, "
        f"{total['stripped_characters']:,} characters that lost an accent or a sign"
    )


def _left_out(name: str, report: SourceReport) -> str:
    """One sentence on what was left out of a corpus."""
    reasons = (
        f"{count:,} {reason} (the first: {report.first_left_out.get(reason, name)})"
        for reason, count in report.left_out.items()
    )
    return f"{name}: {report.left_out.total():,} of {report.documents:,} documents left out: {'; '.join(reasons)}"


def _longest(documents: TokenizedDocuments) -> int:
    owner = np.repeat(np.arange(len(documents.document_sentences)), documents.document_sentences)
    sizes = np.bincount(owner, weights=documents.sentence_lengths, minlength=1)
    return int(sizes.max())
