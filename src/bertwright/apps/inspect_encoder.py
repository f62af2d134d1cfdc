"""An encoder that the recipe of `bertwright init` starts from: what of it decides lengths and learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from bertwright.errors import UserError
from bertwright.text.wordpiece import Tokenizer

_LARGE = 768
"""The width of BERT-base, from which on learning rates are lower."""


@dataclass(frozen=True)
class Encoder:
    """An encoder to start from.

    Args:
        name: its folder as the user names it, or bundled.
        tokenizer: its own.
        positions: the most tokens that it reads together.
        is_large: whether it is as wide as BERT-base, and takes lower learning rates than a small one.
        by_muon: whether Muon has trained it, as in the recipes that come with Bertwright, for hours and not days.
        averages: whether fine-tuning puts a block on it that averages all tokens, as after a short pre-training.
        predicts_masks: whether its folder has the head for masked tokens, without which no loss can be compared.
    """

    name: str
    tokenizer: Tokenizer
    positions: int
    is_large: bool
    by_muon: bool
    averages: bool
    predicts_masks: bool


def look_at_encoder(name: str) -> Encoder:
    """The encoder that a user names.

    Args:
        name: a model folder, the folder of a run that was pre-trained, or bundled.

    Raises:
        UserError: if it cannot be read.
    """
    # torch, which these need, takes seconds to load.
    from bertwright.models.checkpoints import (
        find_model,
        load_pretraining_model,
        load_tokenizer,
        model_config,
        read_config,
    )

    folder = find_model(name, "encoder")
    if not folder.is_dir():
        raise UserError(
            f"--encoder is {name}, but there is no such folder; give a model folder, the folder of a run that was "
            "pre-trained, or bundled"
        )
    shape = model_config(read_config(folder))
    absent = load_pretraining_model(folder).absent  # says in a sentence why the weights cannot be used
    by_muon = name == "bundled" or _optimizer(folder) == "muon"
    return Encoder(
        name=name,
        tokenizer=load_tokenizer(folder),
        positions=shape.max_position_embeddings,
        is_large=shape.hidden_size >= _LARGE,
        by_muon=by_muon,
        averages=by_muon and shape.architecture == "bert",
        predicts_masks="masked_language_model" not in absent,
    )


def _optimizer(folder: Path) -> str | None:
    """The optimizer of the run that has pre-trained a folder; None of a folder from elsewhere."""
    folder = folder.resolve()
    recipe = folder.parent / "recipe.yaml"
    if folder.parts[-2:] != ("pretrain", "model") or not recipe.is_file():
        return None
    found: str = yaml.safe_load(recipe.read_text(encoding="utf-8"))["pretrain"]["optimizer"]["name"]
    return found
