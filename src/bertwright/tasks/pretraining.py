"""The pretrain stage: masked language modelling and next-sentence prediction (paper, 3.1).

A causal model (`model.is_decoder`) predicts next tokens instead, for the comparison in the paper's section 5.1.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from bertwright.errors import UserError
from bertwright.files import atomic_path
from bertwright.inputs.masking import IGNORED_LABEL
from bertwright.inputs.pretraining import PretrainStream
from bertwright.models.checkpoints import save_model
from bertwright.models.heads import Loss, PretrainingModel, cross_entropy
from bertwright.recipe import Recipe
from bertwright.settings import MaskingConfig, ModelConfig, Phase, PretrainConfig
from bertwright.tasks.heldout import HeldoutText, corpora_read, tensors
from bertwright.tasks.initial import first_model, reads
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.checkpoint import Best, EpochEnds, Position, newest_position
from bertwright.train.engine import Engine
from bertwright.train.loop import LoopConfig, Notice, train
from bertwright.train.prefetch import Batch
from bertwright.train.tracking import Tracked
from bertwright.train.training import Objective


def token_objective(config: ModelConfig) -> str:
    """The name of the loss on tokens: mlm, or clm for a causal model.

    They are not to be compared: one predicts a few tokens from both sides, the other all from the left.
    """
    return "clm" if config.is_decoder else "mlm"


def sequences_per_step(config: PretrainConfig, phase: Phase) -> int:
    """How many sequences a global batch of a phase has, all processes together."""
    return (phase.batch_tokens or config.batch_tokens) // phase.sequence_length


class PretrainingObjective(Objective):
    """The model with both losses, as the loop calls it and the compiler sees it.

    Args:
        model: the model with its pre-training heads.
        next_sentence: whether next-sentence prediction is part of the loss.
    """

    model: PretrainingModel

    def __init__(self, model: PretrainingModel, next_sentence: bool) -> None:
        super().__init__(model)
        self.tokens = token_objective(model.encoder.config)
        self.uses_next_sentence = next_sentence
        if not next_sentence:
            # Heads that get no gradient: frozen, so that neither the optimizer nor other processes wait for one.
            for part in (model.next_sentence, model.pooler):
                if part is not None:
                    part.requires_grad_(False)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        masked_positions: Tensor,
        labels: Tensor,
        next_sentence_label: Tensor,
    ) -> dict[str, Loss]:
        """The losses of a batch, whose arrays `inputs.pretraining.PretrainBatch` describes."""
        token_logits, nsp_logits = self.model(input_ids, token_type_ids, attention_mask, masked_positions)
        losses = {self.tokens: cross_entropy(token_logits, labels)}
        if self.uses_next_sentence:
            assert nsp_logits is not None, "a recipe for an encoder without that head does not ask for it"
            losses["nsp"] = cross_entropy(nsp_logits, next_sentence_label)
        return losses


_WORSE = 0.5
"""Nats above chance from which on an encoder does not know its tokens: the loss of an untrained one is by chance."""


class Pretraining:
    """Pre-training as the loop sees it.

    Args:
        recipe: the whole recipe.
        model: to train.
        tokenizer: of the prepared corpus.
        corpus: to train on.
        heldout: to evaluate on.
        notice: told if the encoder that is continued does not know its own tokens; None is not.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: PretrainingModel,
        tokenizer: Tokenizer,
        corpus: PreparedCorpus,
        heldout: PreparedCorpus,
        notice: Notice | None = None,
    ) -> None:
        config = recipe.pretrain
        self._notice = notice if config.encoder is not None and "masked_language_model" not in model.fresh else None
        self.config = config
        self.model = model
        self.objective = PretrainingObjective(model, config.next_sentence)
        self.tokens = self.objective.tokens
        causal = model.encoder.causal
        self.phase_ratios = tuple(phase.budget_ratio for phase in config.phases)
        self.step_tokens = config.batch_tokens
        self._streams = [
            PretrainStream(
                corpus,
                tokenizer,
                sequences_per_step(config, phase),
                None if causal else _masking(config, phase),
                sequence_length=phase.sequence_length,
                next_sentence=config.next_sentence and phase.next_sentence,
                short_sequence_probability=config.short_sequence_probability,
                sources=phase.corpora,
                seed=recipe.seed * len(config.phases) + index,  # a phase does not repeat the pairs of another
            )
            for index, phase in enumerate(config.phases)
        ]
        # Held-out text has pairs in all phases if the run has any, so that next-sentence accuracy is measured
        # throughout, but not if a small corpus left one document, from which no pair can be drawn.
        self._heldout = [
            HeldoutText(
                heldout,
                tokenizer,
                phase.sequence_length,
                causal=causal,
                next_sentence=config.next_sentence,
                sources=corpora_read(config, heldout),
            )
            for phase in config.phases
        ]

    @property
    def epoch_ends(self) -> EpochEnds:
        """What is known of the lengths of epochs, for each phase."""
        return tuple(stream.epoch_ends for stream in self._streams)

    @epoch_ends.setter
    def epoch_ends(self, ends: EpochEnds) -> None:
        for stream, own in zip(self._streams, ends, strict=True):
            stream.epoch_ends = own

    def micro_batches(self, phase: int, number: int, rank: int, world: int) -> list[Batch]:
        """This process's rows of a global batch, cut into micro-batches of bounded size."""
        stream = self._streams[phase]
        for other in self._streams[:phase]:
            other.forget()  # gigabytes of a large corpus
        own = slice(rank * stream.batch_size // world, (rank + 1) * stream.batch_size // world)
        return [tensors(part) for part in stream.batch(number, own).cut(self.config.micro_batch_tokens)]

    def counts(self, batch: Batch) -> dict[str, int]:
        """Scored tokens and pairs, and real tokens."""
        return {
            self.tokens: int((batch["labels"] != IGNORED_LABEL).sum()),
            "nsp": int((batch["next_sentence_label"] != IGNORED_LABEL).sum()),
            "tokens": int(batch["attention_mask"].sum()),
        }

    def evaluate(self, objective: nn.Module, engine: Engine, phase: int) -> dict[str, float]:
        """Loss and accuracy of both objectives on held-out text, masked as in the paper (or not, if causal)."""
        return self._heldout[phase].evaluate(objective, engine, self.config.micro_batch_tokens)

    def on_evaluation(self, metrics: dict[str, float], best: Best | None, engine: Engine) -> Best | None:
        """Pre-training keeps its last weights, not its best. The first one says whether an encoder fits its tokens."""
        loss, chance = metrics[f"{self.tokens}_loss"], math.log(self.model.encoder.vocab_size)
        if self._notice is not None and loss > chance + _WORSE:
            self._notice(
                f"{self.config.encoder} predicts tokens of held-out text worse than chance (loss {loss:.1f}, by chance "
                f"{chance:.1f}): its tokenizer may be that of another model, or the text of another language"
            )
        self._notice = None
        return None


def _masking(config: PretrainConfig, phase: Phase) -> MaskingConfig:
    """The masks of a phase."""
    return config.masking if phase.masking_rate is None else replace(config.masking, rate=phase.masking_rate)


def pretrain(
    recipe: Recipe, prepared: Path, folder: Path, run_fingerprint: str, engine: Engine, notice: Notice
) -> Position:
    """Pre-train a model and write it to `folder`/model in the Hugging Face layout.

    It starts from random weights, or from the encoder that the recipe names.

    Args:
        recipe: the whole recipe.
        prepared: the prepare stage's folder.
        folder: receives metrics, checkpoints and the model.
        run_fingerprint: of all that decides the result but the budget: work in `folder` for another budget continues.
        engine: the machine.
        notice: told in a sentence about anything a user should know.

    Returns:
        Where the run ended.

    Raises:
        UserError: if corpus and tokenizer do not belong together, a step has fewer sequences than there are processes,
            a phase has no text, or the loss is not a number.
    """
    config = recipe.pretrain
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    corpus = PreparedCorpus(prepared / "train.arrow", tokenizer.fingerprint)
    heldout = PreparedCorpus(prepared / "heldout.arrow", tokenizer.fingerprint)
    _check_phases(recipe, corpus, engine)
    if config.next_sentence and tokenizer.separators > 1:
        raise UserError(
            f"pretrain.next_sentence is on, but the tokenizer puts {tokenizer.separators} {tokenizer.special.sep} "
            "between two texts, and pairs are planned for one; switch it off with --pretrain.next_sentence false"
        )
    if config.corpora is not None and corpora_read(config, heldout) is None:
        notice(
            f"no document of {', '.join(config.corpora)} is held out: what is said of held-out text is of corpora that "
            "no phase reads; raise prepare.heldout_ratio"
        )
    model = first_model(recipe, tokenizer, corpus, notice)
    training = Pretraining(recipe, model, tokenizer, corpus, heldout, notice)
    position = train(training, loop_config(recipe), engine, folder, run_fingerprint, notice)
    with engine.together():  # a process that returns finds the model written
        if engine.is_main:
            with atomic_path(folder / "model") as temporary:
                # A head that was not trained is left out, so that nobody uses its output.
                left_out = () if config.next_sentence else ("next_sentence",)
                save_model(model, tokenizer, temporary, *reads(recipe, model), leave_out=left_out)
    return position


def loop_config(recipe: Recipe) -> LoopConfig:
    """Budget, schedule and intervals of pre-training."""
    config = recipe.pretrain
    return LoopConfig(
        optimizer=config.optimizer,
        seed=recipe.seed,
        max_steps=config.max_steps,
        max_seconds=None if config.max_minutes is None else config.max_minutes * 60,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        evaluate_first=config.encoder is not None,
        tracked=Tracked("pretrain", recipe),
    )


def check_budget(recipe: Recipe, folder: Path, lineage: str) -> None:
    """See that the work in a pretrain stage's folder is no more than the budget asks for.

    Args:
        recipe: the whole recipe.
        folder: a stage's folder; may be missing.
        lineage: of the run that would continue it; work of another is not looked at.

    Raises:
        UserError: if more is done already.
    """
    position, loop = newest_position(folder / "checkpoints", lineage), loop_config(recipe)
    if position is None or position.budget == loop.budget:
        return
    if position.step >= (loop.max_steps or math.inf) or position.seconds >= (loop.max_seconds or math.inf):
        raise UserError(
            f"pretrain asks for {loop.budget}, but {folder} has done {position.step} steps in {position.seconds:.0f} "
            "seconds already; ask for more, or give another folder for the shorter run: --out"
        )


def continue_from(earlier: Path, folder: Path, notice: Notice) -> None:
    """Begin a pretrain stage with a longer budget where a finished one ended: with its checkpoints and metrics.

    Args:
        earlier: the finished stage's folder; it stays unchanged.
        folder: of the new one; left alone if it has checkpoints of its own.
        notice: told if there is no checkpoint to continue from.
    """
    if (folder / "checkpoints").exists():
        return
    if not (earlier / "checkpoints").is_dir():
        notice(f"{earlier} has no checkpoints any more; pre-training starts from step 0")
    for name in ("metrics.jsonl", "checkpoints"):  # checkpoints last: they say that all is copied
        source = earlier / name
        if source.exists():
            with atomic_path(folder / name) as temporary:
                (shutil.copytree if source.is_dir() else shutil.copyfile)(source, temporary)


def _check_phases(recipe: Recipe, corpus: PreparedCorpus, engine: Engine) -> None:
    """See that each phase has a sequence for each process, and documents to train on.

    Raises:
        UserError: if not.
    """
    config = recipe.pretrain
    for phase in config.phases:
        sequences = sequences_per_step(config, phase)
        if sequences < engine.world:
            raise UserError(
                f"a step has {sequences} sequences of {phase.sequence_length} tokens, fewer than the {engine.world} "
                "processes; raise pretrain.batch_tokens"
            )
        documents = int(corpus.is_from(phase.corpora).sum())
        needed = 2 if config.next_sentence and phase.next_sentence else 1
        if documents < needed:
            names = ", ".join(phase.corpora or recipe.prepare.corpora)
            raise UserError(
                f"a phase of pretrain.phases reads {names}, which has {documents} documents to train on, and needs "
                f"{needed} (two for next sentences); duplicates and held-out documents do not count"
            )
