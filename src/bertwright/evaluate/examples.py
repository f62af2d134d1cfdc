"""Examples to look at: predictions on the test set, the most confident errors, filled masks, pairs of passages."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertwright.inputs.sequences import frame
from bertwright.pretrained import PretrainedEncoder
from bertwright.recipe import Recipe
from bertwright.tasks.answers import Shown
from bertwright.text.store import PreparedCorpus
from bertwright.train.engine import Engine

_SHOWN = 6
"""Examples of each kind that the report shows."""


def example_texts(texts: list[str], shown: list[Shown]) -> dict[str, Any]:
    """Texts drawn at random, and the most confident mistakes, with label and prediction in words."""
    confidence = np.array([(one.error or 0.0) if one.score is None else one.score for one in shown])
    wrong = np.array([one.prediction != one.label and one.error is not None for one in shown])
    mistakes = np.argsort(np.where(wrong, -confidence, np.inf), kind="stable")[: min(_SHOWN, int(wrong.sum()))]
    drawn = np.random.default_rng(0).choice(len(texts), min(_SHOWN, len(texts)), replace=False)

    def described(index: int) -> dict[str, Any]:
        return {"text": " ".join(texts[index].split()), **asdict(shown[index])}

    return {"classified": [described(int(i)) for i in drawn], "mistakes": [described(int(i)) for i in mistakes]}


def pretraining_examples(recipe: Recipe, run: Path, engine: Engine) -> dict[str, Any]:
    """Filled masks, and pairs if the model was trained on pairs, from held-out text."""
    encoder = PretrainedEncoder(run / "pretrain" / "model", engine.device)
    heldout = PreparedCorpus(run / "prepare" / "heldout.arrow", encoder.tokenizer.fingerprint)
    return {
        "filled_masks": _filled_masks(encoder, heldout),
        "next_sentence": _example_pairs(encoder, heldout) if recipe.pretrain.next_sentence else [],
    }


def _sentences(heldout: PreparedCorpus, low: int, high: int) -> list[npt.NDArray[np.int64]]:
    """Positions (start, length, number) of held-out sentences with a length in [low, high), spread over documents."""
    lengths = heldout.sentence_lengths.astype(np.int64)
    starts = heldout.sentence_starts
    document_end = np.zeros(len(lengths), np.bool_)
    document_end[heldout.document_offsets[1:] - 1] = True
    fit = np.flatnonzero((lengths >= low) & (lengths < high) & ~document_end)
    picked = np.random.default_rng(7).choice(fit, min(_SHOWN, len(fit)), replace=False)
    return [np.array([starts[i], lengths[i], i]) for i in picked]


def _filled_masks(encoder: PretrainedEncoder, heldout: PreparedCorpus) -> list[dict[str, Any]]:
    """Held-out sentences with one whole word masked, and the model's predictions for it."""
    tokenizer = encoder.tokenizer
    rng = np.random.default_rng(11)
    examples = []
    for start, length, _ in _sentences(heldout, 12, min(40, encoder.model.encoder.max_length - 1)):
        ids = heldout.spans(np.array([start]), np.array([length]))[0].astype(np.int64)
        continues = np.append(tokenizer.is_continuation[ids], False)
        words = [
            i
            for i in range(len(ids))
            if not continues[i] and not continues[i + 1] and tokenizer.spellings[ids[i]].strip().isalpha()
        ]
        if not words:
            continue
        chosen = int(rng.choice(words))
        masked = ids.copy()
        masked[chosen] = tokenizer.mask_id
        predictions = encoder.fill_mask(frame(tokenizer, masked).input_ids, 5)[0]
        examples.append(
            {
                "text": tokenizer.with_masks(tokenizer.decode(masked.tolist())),
                "predictions": [{"token": one.token, "score": one.score} for one in predictions],
                "answer": tokenizer.spellings[ids[chosen]],
            }
        )
    return examples


def _example_pairs(encoder: PretrainedEncoder, heldout: PreparedCorpus) -> list[dict[str, Any]]:
    """Held-out sentences with their successor, and with the successor of another."""
    tokenizer = encoder.tokenizer
    positions = encoder.model.encoder.max_length
    chosen = _sentences(heldout, 8, min(40, positions // 2))
    starts, lengths = heldout.sentence_starts, heldout.sentence_lengths
    follow = [int(i) + 1 for _, _, i in chosen]
    examples = []
    for number, (start, length, _) in enumerate(chosen):
        is_next = number % 2 == 0
        other = follow[number] if is_next else follow[(number + 1) % len(follow)]
        a, b = heldout.spans(np.array([start, starts[other]]), np.array([length, lengths[other]]))
        b = b[: min(80, positions - len(a) - 3)]
        examples.append(
            {
                "a": tokenizer.decode(a.tolist()),
                "b": tokenizer.decode(b.tolist()),
                "is_next": is_next,
                "probability_next": encoder.next_sentence(frame(tokenizer, a, b)),
            }
        )
    return examples
