"""The recipe that `bertwright init` writes: plain YAML, and a comment with the reason for each choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bertwright.apps.inspect_encoder import Encoder
from bertwright.apps.inspection import Contents, Texts
from bertwright.recipe import Source
from bertwright.text import decoding, formats
from bertwright.text.sources import Files, locate

TEST_RATIO = 0.2
"""The fraction of a file without splits that becomes the test set."""

_LENGTHS = (64, 128, 256, 512)
_VOCABULARIES = (512, 1024, 2048, 4096, 8192, 16384)
_CHARACTERS_PER_ENTRY = 100
"""Characters of text for each entry of a vocabulary: fewer leave entries that hardly occur."""

_SMALL = 20_000_000
"""Characters of text below which a model of two narrow layers is large enough."""

_GENERAL = "sample/books"
"""English that comes with the package, on which the report shows what an encoder forgets."""

_DOCUMENTS = 100
"""Documents below which too few are held out beside those of general text."""

FEW, VERY_FEW = 5_000, 1_000
"""Labels below which training takes more epochs with smaller batches, and has three seeds."""

PATIENCE = 5
"""Evaluations, one an epoch, after the lowest validation loss: in measured runs no later one was lower."""


@dataclass(frozen=True)
class Findings:
    """What `init` found in one path.

    Args:
        name: for the recipe and for its entry of `data`.
        path: that the recipe names.
        contents: all columns.
        texts: what those of the text column are like.
        text_column: the column of the text.
        label_column: the column of the label; None without labels.
        labels: rows of each class; None without labels.
        has_test: whether there is a test split.
        groups: columns that seem to say which rows belong together.
        notes: remarks on what is not used.
        is_plain: whether it has no columns.
        characters: of all texts, as far as can be told.
        tagged: of words with tags, questions or choices, the options of a source that say where they stand; None for
            other data.
        task: the task, where it is none of these: words with tags, classes of texts.
        pair_column: the column of the second text, where labels are those of pairs.
        label_columns: those that hold 0 and 1, one for each label of multi-label data.
        texts_beside: text files beside the tables, which are not read.
    """

    name: str
    path: str
    contents: Contents
    texts: Texts
    text_column: str
    label_column: str | None
    labels: dict[str, int] | None
    has_test: bool
    groups: list[str]
    notes: list[str]
    is_plain: bool
    characters: int
    tagged: dict[str, str] | None = None
    task: str | None = None
    pair_column: str | None = None
    label_columns: Sequence[str] = ()
    texts_beside: Sequence[Path] = ()

    @property
    def by_class(self) -> bool:
        """Whether a part of the rows has the same fraction of each class."""
        return self.task is None or (self.tagged is not None and self.task != "embedding")


def write_recipe(found: Sequence[Findings], minutes: float, command: str, encoder: Encoder | None = None) -> str:
    """A commented recipe as YAML.

    Args:
        found: one with labels, one without, or both, in this order.
        minutes: the budget of pre-training.
        command: that asked for it, for the first line.
        encoder: to start from; None is the bundled one for English texts, and random weights for others.
    """
    labelled = found[0] if found[0].labels is not None else None
    unlabelled = next((one for one in found if one.labels is None), None)
    lines = [f"# Written by: {command}", f"name: {_plain(found[0].name)}", "data:"]
    names = _names(found)
    for one in found:
        lines += _source(one, names[one.path])
    own_text = [one for one in found if one.tagged is None]  # lists of words are no documents
    is_english = all(one.texts.is_english for one in (found if unlabelled is not None else own_text))
    pretrains = unlabelled is not None or (encoder is None and bool(own_text) and not is_english)
    both = labelled is not None and unlabelled is not None
    length = _sequence_length(own_text, labelled)
    if pretrains and (encoder is not None or (both and is_english)):
        compares = encoder is None or encoder.predicts_masks
        general = _general(own_text, names) if labelled is not None and is_english and compares else None
        lines += [] if general is None else [f"  {general}: {_GENERAL}  # comes with Bertwright"]
        lines += _adapting(own_text, names, minutes, encoder, general, length)
    elif pretrains:
        lines += _pretraining(own_text, names, minutes, length)
    if labelled is not None:
        lines += _finetuning(labelled, names[labelled.path], encoder, pretrains)
    return "\n".join(lines) + "\n"


def recipe_name(path: Path) -> str:
    """A name for what lies at a path: that of the file or folder, in letters, digits, - and _."""
    stem = path.resolve().name
    for suffix in (*decoding.COMPRESSIONS, *formats.FORMATS):
        stem = stem.removesuffix(suffix)
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem).strip("-") or "texts"


def _names(found: Sequence[Findings]) -> dict[str, str]:
    names = {one.path: one.name for one in found}
    if len(set(names.values())) < len(names):
        names[found[-1].path] += "-texts"
    return names


def _plain(value: object) -> str:
    """A value as it stands in YAML, quoted where it must be."""
    return yaml.safe_dump(value, allow_unicode=True, default_flow_style=True, width=math.inf).splitlines()[0]


def _of_each(one: Findings) -> str:
    """Of which rows a part is taken: with classes, of each."""
    return " of each class" if one.by_class else ""


def _source(one: Findings, name: str) -> list[str]:
    lines = [f"  {_plain(name)}:", f"    path: {_plain(one.path)}"]
    if not one.is_plain and one.tagged is None:
        lines.append(f"    text_column: {_plain(one.text_column)}")
    if one.pair_column is not None:
        lines.append(f"    text_pair_column: {_plain(one.pair_column)}")
    lines += [f"    {option}: {_plain(column)}" for option, column in (one.tagged or {}).items()]
    if one.labels is None:
        return lines
    if one.label_column is not None:
        lines.append(f"    label_column: {_plain(one.label_column)}")
    if one.label_columns:
        lines.append(f"    label_columns: {_plain(list(one.label_columns))}")
    if not one.has_test:
        lines.append(
            f"    test_ratio: {TEST_RATIO}  # this part{_of_each(one)} is kept out of training, as the test set"
        )
    if one.groups:
        lines.append("    # Do rows of one group belong together? Then keep them on one side of the split:")
        lines.append(f"    # group_column: {_plain(one.groups[0])}")
    return lines


def _pretraining(found: Sequence[Findings], names: dict[str, str], minutes: float, length: int) -> list[str]:
    characters = sum(one.characters for one in found)
    vocabulary = max(
        (size for size in _VOCABULARIES if size * _CHARACTERS_PER_ENTRY <= characters), default=_VOCABULARIES[0]
    )
    size = "tiny" if characters < _SMALL else "mini"
    return [
        "tokenizer:",
        f"  vocab_size: {vocabulary}  # fits some {characters:,} characters of text",
        *_corpora(found, names),
        f"model: {size}  # or another of: bertwright recipes",
        "pretrain:",
        f"  max_minutes: {minutes:g}  # more text and more minutes make a better encoder",
        "  batch_tokens: 8192",
        "  micro_batch_tokens: 4096",
        "  initialization: local_attention  # both shorten the start of a short training",
        "  embedding_initialization: pmi",
        f"  phases: [{{sequence_length: {length}}}]",
        "  optimizer:",
        "    {name: muon, learning_rate: 1.0e-3, muon_learning_rate: 4.0e-3, weight_decay: 0.1, warmup_ratio: 0.05}",
        "  evaluate_every: 200",
    ]


def _adapting(
    found: Sequence[Findings],
    names: dict[str, str],
    minutes: float,
    encoder: Encoder | None,
    general: str | None,
    length: int,
) -> list[str]:
    name, language = ("bundled", "English; ") if encoder is None else (encoder.name, "")
    # The batch is a multiple of the length, as long as that is a power of two.
    length = length if encoder is None else min(length, 1 << (encoder.positions.bit_length() - 1))
    phase = f"sequence_length: {length}"
    why_all: list[str] = []
    if general is not None:
        phase += f", corpora: {_plain(_entries(found, names))}"
        why_all = [f"  # No phase reads {general}: the report's loss on it, before and after, shows what is forgotten."]
    if encoder is None or encoder.by_muon:
        optimizer = "name: muon, learning_rate: 3.0e-4, muon_learning_rate: 1.0e-3, weight_decay: 0.1"
    else:
        optimizer = f"learning_rate: {'3.0e-5' if encoder.is_large else '2.0e-4'}"
    return [
        *_corpora(found, names, general),
        "pretrain:",
        f"  encoder: {_plain(name)}  # {language}its pre-training is continued on these texts",
        f"  max_minutes: {minutes:g}",
        "  batch_tokens: 8192",
        "  micro_batch_tokens: 4096",
        "  next_sentence: false  # masked tokens alone: all of the text counts, and no pairs are needed",
        *why_all,
        f"  phases: [{{{phase}}}]",
        "  # Rates at which it keeps what it knows; at higher ones it forgets more:",
        f"  optimizer: {{{optimizer}, warmup_ratio: 0.05}}",
        "  evaluate_every: 200",
    ]


def _general(found: Sequence[Findings], names: dict[str, str]) -> str | None:
    """The name of general text beside texts of the user's; None where it would be most of the text that is held out.

    Args:
        found: the texts.
        names: of their entries.
    """
    own = any(Path(one.path) == Path(_GENERAL) for one in found)
    if own or sum(map(_documents, found)) < _DOCUMENTS:
        return None
    return next(name for name in ("general", "general-text", "sample-books") if name not in names.values())


def _documents(one: Findings) -> int:
    """How many documents pre-training reads of texts: rows, or files of plain text."""
    if one.is_plain and one.labels is None:
        place = locate(Source(path=one.path))
        return len(place.paths) if isinstance(place, Files) else 0
    return one.texts.rows - one.texts.empty - one.texts.duplicates


def _entries(found: Sequence[Findings], names: dict[str, str]) -> list[str]:
    return [names[one.path] if one.labels is None else f"{names[one.path]}:train" for one in found]


def _corpora(found: Sequence[Findings], names: dict[str, str], general: str | None = None) -> list[str]:
    corpora = _entries(found, names) + ([] if general is None else [general])
    ratio: list[str] = []
    if sum(one.texts.rows for one in found) < 10_000:
        ratio = ["  heldout_ratio: 0.05  # of few documents, enough to measure the loss on"]
    elif general is not None:
        ratio = [f"  heldout_ratio: 0.02  # so that some of {general}, few documents, is held out, too"]
    return ["prepare:", f"  corpora: {_plain(corpora)}", *ratio]


def _sequence_length(found: Sequence[Findings], labelled: Findings | None) -> int:
    """Fine-tuning reads no position that pre-training has not trained; documents alone are long, and cut."""
    longest = min(found[0].texts.tokens[1], 126) if labelled is None else labelled.texts.tokens[1]
    return next((length for length in _LENGTHS if length >= longest + 2), _LENGTHS[-1])


def _finetuning(one: Findings, name: str, encoder: Encoder | None, pretrains: bool) -> list[str]:
    assert one.labels is not None
    rows = sum(one.labels.values()) if one.tagged is None and one.task is None else one.texts.rows
    training = rows if one.has_test or one.tagged is not None else round((1 - TEST_RATIO) * rows)
    most = _LENGTHS[-1] if encoder is None else min(_LENGTHS[-1], encoder.positions)
    length = min(most, max(32, 8 * math.ceil((one.texts.tokens[1] + 2) / 8)))
    limit = "; the encoder has no more positions" if most < min(_LENGTHS[-1], one.texts.tokens[1] + 2) else ""
    lines = ["finetune:", f"  data: {_plain(name)}"]
    if encoder is not None:
        lines += [] if pretrains else [f"  encoder: {_plain(encoder.name)}"]
    elif not pretrains:
        why = "leave it out to pre-train on text of your own"
        if one.tagged is not None and not one.texts.is_english:
            why = "these texts are not: name an encoder of their language (bertwright init --encoder FOLDER)"
        lines.append(f"  encoder: bundled  # English; {why}")
    elif not one.texts.is_english:
        lines.append("  # The bundled encoder is English, so this recipe pre-trains one on these texts first.")
        lines.append("  # To start from one of their language: bertwright init --encoder FOLDER.")
    if one.tagged is None:
        counts = one.labels
        if len(counts) == 2 and min(counts.values()) < 0.3 * rows:
            rare = min(counts, key=lambda name: counts[name])
            lines.append(f"  positive_label: {_plain(rare)}  # the rarer class: precision, recall and F1 speak of it")
    if one.tagged is None and (encoder is None or encoder.averages):
        why = "[CLS] starts as the mean of all tokens: better after a short pre-training"
        lines.append(f"  averaging_block: true  # {why}")
    if one.tagged is not None or one.task is not None:
        lines.insert(2, f"  task: {one.task or 'token-classification'}")
    return [
        *lines,
        *(_embedding(one) if one.task == "embedding" else []),
        f"  max_length: {length}  # tokens; 99 % of the texts have at most {one.texts.tokens[1]}{limit}",
        *_by_number(training, one.task == "embedding", encoder is not None and encoder.is_large),
    ]


def _embedding(one: Findings) -> list[str]:
    if "label_column" not in (one.tagged or {}):
        return []
    return ["  embedding: {scores: true}  # cosines are to be in the order of the scores"]


def _by_number(labels: int, embedding: bool, is_large: bool) -> list[str]:
    """Settings that depend on the number of labels, for all tasks (docs/experiments/fine-tuning.md).

    Encoders as wide as BERT-base have a rate of the paper's (appendix A.3).
    """
    few, very_few = labels < FEW, labels < VERY_FEW
    rate = "3.0e-5" if is_large else "1.0e-4" if few else "5.0e-5"
    batch_size, what = str(16 if few else 32), "labels"
    if embedding:
        what = "pairs"
        # The training set, without the validation set, fills a batch.
        batch_size = f"{min(64, max(2, labels // 2))}  # the other texts of a batch are the negatives"
    lines = [f"  epochs: {epochs(labels)}  # for {labels:,} {what}; fewer need more"]
    if few:
        lines.append(
            f"  early_stopping_patience: {PATIENCE}  # evaluations; it ends when the validation loss falls no more"
        )
    lines += [
        f"  batch_size: {batch_size}",
        f"  validation_ratio: {0.2 if very_few else 0.1}",
        f"  optimizer: {{learning_rate: {rate}, warmup_ratio: 0.1}}",
    ]
    if very_few:
        lines.append(f"  seeds: [0, 1, 2]  # few {what}: results differ from seed to seed; the report has their mean")
    return lines


def epochs(labels: int) -> int:
    """Passes over the training set that make some 300 steps of few labels, and at least one of many."""
    for most, passes in ((150, 40), (1_000, 20), (5_000, 8), (50_000, 3), (500_000, 2)):
        if labels <= most:
            return passes
    return 1
