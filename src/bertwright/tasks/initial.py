"""What pre-training starts from: random weights, or an encoder whose pre-training it continues (`pretrain.encoder`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bertwright.errors import UserError
from bertwright.models.checkpoints import (
    find_model,
    load_pretraining_model,
    load_tokenizer,
    model_config,
    new_encoder,
    read_config,
)
from bertwright.models.heads import PretrainingModel
from bertwright.models.initialization import (
    as_bert,
    initialize_embeddings,
    initialize_local_attention,
    initialize_new_words,
)
from bertwright.models.stored import reading
from bertwright.recipe import Recipe
from bertwright.settings import ModelConfig
from bertwright.text.cooccurrence import sampled_documents, token_vectors
from bertwright.text.new_words import pieces
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.loop import Notice

HEADS = {
    "masked_language_model": "head for masked tokens",
    "next_sentence": "next-sentence head",
    "pooler": "trained pooler",
}
"""The parts of `PretrainingModel` on the encoder, in words."""


def unseen_positions(recipe: Recipe) -> str | None:
    """What is said of a recipe that fine-tunes on longer texts than its encoder was pre-trained on; else None.

    The embeddings of later positions stay as they began. ModernBERT has none, and an encoder whose pre-training is
    continued brings its own.

    Args:
        recipe: the whole recipe.
    """
    config, longest = recipe.finetune, max(phase.sequence_length for phase in recipe.pretrain.phases)
    if config.data == "":
        return None
    if config.encoder is not None:
        return _beyond(config.max_length, find_model(config.encoder, "encoder"))
    if recipe.pretrain.encoder is not None or recipe.model.architecture == "modernbert" or config.max_length <= longest:
        return None
    return (
        f"finetune.max_length is {config.max_length}, but no phase of pre-training is longer than {longest} tokens: "
        f"longer texts have positions that it does not see; give pretrain.phases a sequence_length of "
        f"{config.max_length}, or lower finetune.max_length to {longest}"
    )


def _beyond(max_length: int, encoder: Path) -> str | None:
    if not (encoder / "config.json").is_file():
        return None  # refused where it is read
    shape = model_config(read_config(encoder))
    longest, _ = reading(encoder / "tokenizer_config.json", shape.max_position_embeddings)
    if shape.architecture == "modernbert" or max_length <= longest:
        return None
    return (
        f"finetune.max_length is {max_length}, but {encoder} reads {longest} tokens (model_max_length in its "
        f"tokenizer_config.json): longer texts have positions that its pre-training did not see; lower "
        f"finetune.max_length to {longest}"
    )


def check_first_model(recipe: Recipe, start: Path | None) -> None:
    """See that the model before its first step can be made, before the corpus is prepared.

    Args:
        recipe: the whole recipe.
        start: the folder of the encoder that is continued, if one is.

    Raises:
        UserError: if the folder cannot be read, or there is no such architecture.
    """
    if start is not None:
        load_pretraining_model(start)
        return
    with torch.device("meta"):
        new_encoder(recipe.model, 1)


def first_model(recipe: Recipe, tokenizer: Tokenizer, corpus: PreparedCorpus, notice: Notice) -> PretrainingModel:
    """The model before its first step: an encoder's, or random weights as the recipe asks for them.

    Args:
        recipe: the whole recipe.
        tokenizer: of the corpus.
        corpus: whose co-occurrence counts may give initial embeddings.
        notice: told which heads a folder lacks.

    Raises:
        UserError: if the encoder's folder cannot be read.
    """
    config = recipe.pretrain
    torch.manual_seed(recipe.seed)
    if config.encoder is not None:
        encoder = find_model(config.encoder, "encoder")
        model = encoder_model(encoder, tokenizer, corpus, config.corpora)
        model = _continued(encoder, model, config.next_sentence, notice)
        for part in model.encoder.lowest(config.frozen_layers) if config.frozen_layers else ():
            part.requires_grad_(False)
        if config.dropout is not None:
            model.encoder.set_dropout(config.dropout)
        return model
    model = PretrainingModel(new_encoder(recipe.model, tokenizer.vocab_size, tokenizer.pad_id))
    if config.initialization == "local_attention":
        initialize_local_attention(as_bert(model.encoder, "pretrain.initialization local_attention"))
    if config.embedding_initialization == "pmi":
        width, sources = recipe.model.hidden_size, config.phases[-1].corpora
        initialize_embeddings(model, *token_vectors(corpus, tokenizer.vocab_size, width, sources))
    return model


def encoder_model(
    encoder: Path, tokenizer: Tokenizer, corpus: PreparedCorpus, sources: tuple[str, ...] | None
) -> PretrainingModel:
    """A folder's model, with rows for the entries that a run has added to its vocabulary (`tokenizer.new_words`).

    Args:
        encoder: the folder.
        tokenizer: of the corpus: the folder's, or one that has more entries at the end.
        corpus: to train on, in which the new entries are counted.
        sources: the corpora of it that are read; None for all.

    Raises:
        UserError: if the folder cannot be read.
    """
    model, old = load_pretraining_model(encoder), load_tokenizer(encoder)
    if tokenizer.vocab_size > old.vocab_size:
        vocabulary = old.inner.get_vocab()
        cut = [pieces(entry, vocabulary) for entry in tokenizer.tokens[old.vocab_size :]]
        counts = np.bincount(np.concatenate(sampled_documents(corpus, sources)), minlength=tokenizer.vocab_size)
        initialize_new_words(model, old.vocab_size, cut, counts)
    return model


def _continued(encoder: Path, model: PretrainingModel, next_sentence: bool, notice: Notice) -> PretrainingModel:
    """The model of a folder, whose heads are fresh where the folder lacks them."""
    unused = set() if next_sentence else {"next_sentence", "pooler"}
    fresh = [words for head, words in HEADS.items() if head in model.absent - unused]
    if fresh:
        notice(f"{encoder} has no {' and no '.join(fresh)}: freshly initialised")
    if not next_sentence and "next_sentence" not in model.absent:
        notice(
            f"the next-sentence head of {encoder} is left out, since the encoder changes without it "
            "(pretrain.next_sentence is false)"
        )
    model.fresh, model.absent = model.absent, frozenset()
    return model


def reads(recipe: Recipe, model: PretrainingModel) -> tuple[int, str]:
    """How many tokens a pre-trained model is said to read, and which part of a longer text.

    As its encoder's folder, or as many as it was trained on: BERT's later positions are as they began.

    Args:
        recipe: the whole recipe.
        model: that was trained.
    """
    config, positions = recipe.pretrain, model.encoder.max_length
    trained = max(phase.sequence_length for phase in config.phases)
    if config.encoder is None:
        return positions if recipe.model.architecture == "modernbert" else trained, "head-tail"
    longest, truncation = reading(find_model(config.encoder, "encoder") / "tokenizer_config.json", positions)
    return max(longest, trained), truncation


def find_start(recipe: Recipe, run: Path) -> Path | None:
    """The folder with the encoder that a recipe continues; None where pre-training starts from random weights.

    Args:
        recipe: the whole recipe.
        run: the folder of its run.

    Raises:
        UserError: if the encoder is a result of this run, which the run would replace.
    """
    given = recipe.pretrain.encoder
    found = None if given is None else find_model(given, "encoder")
    if found is not None and found.resolve().is_relative_to(run.resolve()):
        raise UserError(f"pretrain.encoder is {given}, this run's own result; give the run another folder: --out")
    return found


def with_encoder(recipe: Recipe, encoder: Path) -> Recipe:
    """A recipe in which the network and the tokenizer are those of the encoder that it continues.

    Args:
        recipe: the whole recipe, with pretrain.encoder.
        encoder: the folder.

    Raises:
        UserError: if the folder cannot be read, or the recipe asks for what the encoder cannot do.
    """
    if not encoder.is_dir():
        raise UserError(
            f"pretrain.encoder is {recipe.pretrain.encoder}, but there is no such folder; give a model folder, the "
            "folder of a run that was pre-trained, or bundled"
        )
    shape, tokenizer = model_config(read_config(encoder)), load_tokenizer(encoder)
    _check_shape(recipe, shape, encoder)
    breaks = tokenizer.html_line_breaks or recipe.tokenizer.html_line_breaks
    return replace(
        recipe,
        model=shape,
        tokenizer=replace(recipe.tokenizer, path=str(encoder), html_line_breaks=breaks),
        pretrain=replace(recipe.pretrain, encoder=None, frozen_layers=0, dropout=None),
    )


def _check_shape(recipe: Recipe, shape: ModelConfig, encoder: Path) -> None:
    """See that an encoder's shape does for the recipe."""
    lengths = {"sequence_length of pretrain.phases": max(phase.sequence_length for phase in recipe.pretrain.phases)}
    if recipe.finetune.data:
        lengths["finetune.max_length"] = recipe.finetune.max_length
    for setting, length in lengths.items():
        if length > shape.max_position_embeddings:
            raise UserError(
                f"{setting} is {length}, but {encoder} has {shape.max_position_embeddings} positions; lower it"
            )
    if recipe.pretrain.frozen_layers > shape.num_hidden_layers:
        raise UserError(
            f"pretrain.frozen_layers is {recipe.pretrain.frozen_layers}, but {encoder} has {shape.num_hidden_layers} "
            "layers; lower it"
        )
    if recipe.pretrain.next_sentence and shape.why_no_pairs is not None:
        raise UserError(
            f"pretrain.next_sentence is on, but {encoder} {shape.why_no_pairs}; switch it off with "
            "--pretrain.next_sentence false"
        )
