"""Minimal pairs, as BLiMP has them: does a model find the acceptable sentence more probable than the other?

Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English". A masked language model gives a
sentence no probability; its pseudo-log-likelihood stands for it (Salazar et al. 2020, "Masked Language Model Scoring").
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertwright.errors import UserError
from bertwright.inputs import sequences
from bertwright.models.checkpoints import model_config, read_config
from bertwright.pretrained import PretrainedEncoder
from bertwright.text import formats
from bertwright.text.tables import cell, open_table

GOOD, BAD = "sentence_good", "sentence_bad"
"""The columns of the hub's form (nyu-mll/blimp)."""


def read_pairs(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """The pairs of each file, the acceptable sentence first, by the file's name.

    Args:
        folder: with a file for each phenomenon: .jsonl, .csv, .tsv or .parquet, also compressed.

    Raises:
        UserError: if there is no file, or one lacks the columns, or a row a sentence.
    """
    kinds = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and formats.format_of(path) in kinds)
    if not paths:
        raise UserError(f"{folder} has no minimal pairs; put files there with the columns {GOOD} and {BAD}")
    found: dict[str, list[tuple[str, str]]] = {}
    for path in paths:
        found.setdefault(path.name.partition(".")[0], []).extend(_pairs(path))
    return found


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    table = open_table(path)
    for column in (GOOD, BAD):
        if column not in table.columns:
            raise UserError(f"{path} has no column `{column}`; minimal pairs have {GOOD} and {BAD}")
    places = [table.place_of(column) for column in (GOOD, BAD)]
    for row in table.rows():
        where = formats.place(path, row.number)
        if row.problem is not None:
            raise UserError(f"{where} {row.problem}")
        good, bad = (cell(row.values[place]).strip() for place in places)
        if not good or not bad:
            raise UserError(f"{where} lacks a sentence; fill in {GOOD} and {BAD}, or take the row out")
        yield good, bad


def evaluate_minimal_pairs(encoder: Path, folder: Path) -> dict[str, Any]:
    """How often an encoder finds the acceptable sentence more probable; a tie counts half.

    Args:
        encoder: a model folder with the head for masked tokens.
        folder: of the pairs.

    Returns:
        metric, mean (over all files alike), sd (0, since nothing is trained), seeds (none), baseline (chance), pairs,
        and by_file.

    Raises:
        UserError: if the encoder has no such head, a sentence is too long for it, or the pairs cannot be read.
    """
    pairs = read_pairs(folder)
    model = PretrainedEncoder(encoder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    model.require({"masked_language_model"}, "head for masked tokens")
    longest = model_config(read_config(encoder)).max_position_embeddings
    by_file = {name: _accuracy(model, rows, longest) for name, rows in pairs.items()}
    return {
        "metric": "accuracy",
        "mean": float(np.mean(list(by_file.values()))),
        "sd": 0.0,
        "seeds": [],
        "baseline": 0.5,
        "pairs": sum(map(len, pairs.values())),
        "by_file": by_file,
    }


def _accuracy(model: PretrainedEncoder, pairs: list[tuple[str, str]], longest: int) -> float:
    texts = [text for pair in pairs for text in pair]
    framed = [one.input_ids for one in sequences.build_many(model.tokenizer, texts, max_length=None)]
    for text, ids in zip(texts, framed, strict=True):
        if len(ids) > longest:
            raise UserError(f"a sentence has more than the {longest} tokens that the encoder reads: {text[:60]} ...")
    good, bad = model.pseudo_log_likelihood(framed).reshape(-1, 2).T
    return float(((good > bad) + 0.5 * (good == bad)).mean())
