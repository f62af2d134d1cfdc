"""What pre-training says of held-out text when it is done, and before it where it continued an encoder's.

Where several corpora were prepared, each is also evaluated on its own: a corpus that no phase of pre-training reads
shows what the encoder has forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from bertwright.files import read_json
from bertwright.models.checkpoints import find_model, load_pretraining_model
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import Recipe
from bertwright.tasks.heldout import HeldoutText, bits_per_character, corpora_read
from bertwright.tasks.initial import encoder_model
from bertwright.tasks.pretraining import PretrainingObjective
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine

HEADS = {"mlm": {"masked_language_model"}, "clm": {"masked_language_model"}, "nsp": {"next_sentence", "pooler"}}
"""The parts of a model that each objective needs, besides the encoder."""


@dataclass(frozen=True)
class HeldoutMetrics:
    """A run's held-out text, and how it is evaluated.

    Args:
        corpus: the held-out documents.
        tokenizer: of the corpus.
        characters: in the held-out texts of each corpus, by name; None where a run of an earlier version did not count.
        recipe: of the run.
        engine: the machine.
    """

    corpus: PreparedCorpus
    tokenizer: Tokenizer
    characters: dict[str, int | None]
    recipe: Recipe
    engine: Engine

    @classmethod
    def read(cls, prepare: Path, recipe: Recipe, engine: Engine) -> Self:
        """That of a finished prepare stage, from its folder."""
        tokenizer = Tokenizer.load(prepare / "tokenizer")
        counted = read_json(prepare / "data_report.json")["sources"]
        characters = {name: one.get("heldout_characters") for name, one in counted.items()}
        return cls(
            PreparedCorpus(prepare / "heldout.arrow", tokenizer.fingerprint), tokenizer, characters, recipe, engine
        )

    def of(self, model: PretrainingModel, name: str | None = None) -> dict[str, float]:
        """The objectives that a model has heads for, at the sequence length of the last phase.

        Args:
            model: any with this vocabulary.
            name: of one corpus, whose next sentences are left out; None takes all that some phase reads.
        """
        sources = corpora_read(self.recipe.pretrain, self.corpus) if name is None else (name,)
        pairs = self.recipe.pretrain.next_sentence and name is None
        objective = PretrainingObjective(model.to(self.engine.device), self.recipe.pretrain.next_sentence).eval()
        metrics = self._evaluated(objective, sources, pairs, scoring=False)
        counts = [self.characters.get(one) for one in sources or self.corpus.source_names]
        characters = [count for count in counts if count is not None]
        if len(characters) == len(counts):
            causal = model.encoder.causal  # whose metrics are those
            scored = metrics if causal else self._evaluated(objective, sources, pairs, scoring=True)
            tokens = int(np.diff(self.corpus.document_starts)[self.corpus.is_from(sources)].sum())
            bits = bits_per_character(scored[f"{objective.tokens}_loss"], tokens, sum(characters))
            metrics[f"{objective.tokens}_bits_per_character"] = bits
        return {key: value for key, value in metrics.items() if not HEADS[key.partition("_")[0]] & model.absent}

    def _evaluated(
        self, objective: PretrainingObjective, sources: tuple[str, ...] | None, pairs: bool, *, scoring: bool
    ) -> dict[str, float]:
        config = self.recipe.pretrain
        text = HeldoutText(
            self.corpus,
            self.tokenizer,
            config.phases[-1].sequence_length,
            causal=objective.model.encoder.causal,
            next_sentence=pairs,
            sources=sources,
            scoring=scoring,
        )
        with torch.inference_mode(), self.engine.autocast():
            return text.evaluate(objective, self.engine, config.micro_batch_tokens)


def heldout_results(recipe: Recipe, run: Path, engine: Engine) -> dict[str, Any]:
    """Metrics on held-out text as results.json has them.

    Args:
        recipe: the whole recipe.
        run: the run folder, with finished prepare and pretrain stages.
        engine: the machine.

    Returns:
        `heldout`; for an encoder that was continued also `heldout_before`, in which new words have their initial
        vectors, and, of several corpora, `heldout_corpora`: by name, `before` and `after`.
    """
    text = HeldoutMetrics.read(run / "prepare", recipe, engine)
    after = load_pretraining_model(run / "pretrain" / "model")
    results: dict[str, Any] = {"heldout": text.of(after)}
    if recipe.pretrain.encoder is not None:
        train = PreparedCorpus(run / "prepare" / "train.arrow", text.tokenizer.fingerprint)
        start = find_model(recipe.pretrain.encoder, "encoder")
        before = encoder_model(start, text.tokenizer, train, recipe.pretrain.corpora)
        results["heldout_before"] = text.of(before)
        if len(text.corpus.source_names) > 1:
            results["heldout_corpora"] = {
                name: {"before": text.of(before, name), "after": text.of(after, name)}
                for name in text.corpus.source_names
            }
    return results
