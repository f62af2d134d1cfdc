"""Model folders in the Hugging Face layout, written and read.

A folder holds config.json, model.safetensors and the tokenizer. `transformers` opens our folders without custom code,
and we open its. Weights are read from safetensors only: nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from bertwright.errors import UserError
from bertwright.files import read_json, user_path, write_json
from bertwright.models.embedding_head import EmbeddingHead
from bertwright.models.encoder import Encoder
from bertwright.models.heads import PretrainingModel, TaskModel
from bertwright.models.initialization import initialize
from bertwright.models.layouts import FORMATS, to_hugging_face
from bertwright.models.sentence_folder import encoder_folder, write_pooling
from bertwright.models.sequence_heads import stored_parameters
from bertwright.models.stored import (
    WEIGHTS,
    architecture,
    check_settings,
    has_task_head,
    modern_names,
    read_tensors,
)
from bertwright.settings import ModelConfig
from bertwright.text.wordpiece import Tokenizer

AnyModel = PretrainingModel | TaskModel


BUNDLED = Path(__file__).parent.parent / "bundled"
"""The bundled model: `encoder` (with both pre-training heads) and `sentiment` (English film reviews)."""


def find_model(model: str | Path, part: str) -> Path:
    """The folder of a model that a user names.

    Args:
        model: a folder, a run's folder (for its encoder), or "bundled" for the model that comes with Bertwright.
        part: encoder or sentiment: which of the bundled two.

    Raises:
        UserError: for the bundled model's earlier name, a run without the encoder that is asked for, or a modules.json
            that cannot be read.
    """
    if str(model) == "boxed" and not Path(model).exists():
        raise UserError("the model that comes with Bertwright is now called bundled")
    folder = BUNDLED / part if str(model) == "bundled" else user_path(str(model))
    if part == "encoder" and not (folder / "config.json").exists():
        if (trained := pretrained_model(folder)) is not None:
            return trained
        if tuned := seed_models(folder):
            raise UserError(
                f"the run {folder} has fine-tuned an encoder and pre-trained none; name its model: {tuned[0]}"
            )
    return encoder_folder(folder)


def pretrained_model(run: Path) -> Path | None:
    """The encoder that a run has pre-trained; None without one, or if its fine-tuning began with another one since."""
    found, recipe = run / "pretrain" / "model", run / "finetune" / "recipe.yaml"
    own = yaml.safe_load(recipe.read_text(encoding="utf-8"))["finetune"] if recipe.is_file() else {}
    return found if found.is_dir() and own.get("encoder") is None else None


def seed_models(run: Path) -> list[Path]:
    """The models that a run has fine-tuned, in the order of its recipe's seeds, as its report has them."""
    recipe = run / "finetune" / "recipe.yaml"
    seeds = yaml.safe_load(recipe.read_text(encoding="utf-8"))["finetune"]["seeds"] if recipe.is_file() else []
    found = {int(path.parent.name.partition("-")[2]): path for path in run.glob("finetune/seed-*/model")}
    return [found[seed] for seed in [*seeds, *sorted(found.keys() - set(seeds))] if seed in found]


def new_encoder(config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> Encoder:
    """A fresh encoder of the architecture that `config.architecture` names.

    Raises:
        UserError: if there is no such architecture.
    """
    if config.architecture not in FORMATS:
        raise UserError(f"model.architecture is {config.architecture}; Bertwright has: {', '.join(FORMATS)}")
    return FORMATS[config.architecture].build(config, vocab_size, pad_token_id)


def stored_encoder(config: dict[str, Any], shape: ModelConfig | None = None) -> Encoder:
    """A fresh encoder for the weights of a folder.

    Args:
        config: of the folder, from `read_config`.
        shape: of the network; the default is the folder's.

    Raises:
        UserError: if there is no such architecture.
    """
    return new_encoder(shape or model_config(config), config["vocab_size"], config.get("pad_token_id") or 0)


def hugging_face_config(model: AnyModel) -> dict[str, Any]:
    """The config.json of a model."""
    encoder, layout = model.encoder, FORMATS[model.encoder.config.architecture]
    kind = "causal" if encoder.causal and isinstance(model, PretrainingModel) else model.kind
    config = {
        "architectures": [layout.classes.get(kind, kind)],
        "vocab_size": encoder.vocab_size,
        "pad_token_id": encoder.pad_token_id,
        "torch_dtype": "float32",
        "tie_word_embeddings": not (
            isinstance(model, PretrainingModel) and model.masked_language_model.decoder is not None
        ),
        **layout.write(encoder.config),
    }
    if isinstance(model, TaskModel):
        config |= {"finetuning_task": model.task, **model.head.settings, **model.notes}
        dropout = getattr(model.head, "dropout", None)
        config |= {} if dropout is None else {"classifier_dropout": dropout.p}
        names = model.label_names
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return config


def save_weights(model: AnyModel, folder: Path, leave_out: tuple[str, ...] = (), *, in_training: bool = False) -> None:
    """Write config.json and model.safetensors into a folder (make it atomic with `files.atomic_path`).

    Args:
        model: ours.
        folder: made if missing.
        leave_out: modules whose parameters are not written.
        in_training: whether the parameters are written as they are trained, for a resume; not as other tools expect
            them (`stored_parameters`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = FORMATS[model.encoder.config.architecture].names
    state = {  # copies, since safetensors refuses views; the tied output matrix is not a parameter of ours
        to_hugging_face(name, names): value.detach().cpu().clone()
        for name, value in (model.named_parameters() if in_training else stored_parameters(model))
        if not name.startswith(tuple(f"{module}." for module in leave_out))
    }
    if isinstance(model, PretrainingModel) and model.masked_language_model.decoder is not None:
        decoder_bias = to_hugging_face("masked_language_model.decoder.bias", names)
        state[decoder_bias] = model.masked_language_model.bias.detach()  # `transformers` unties it, too
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / "config.json", hugging_face_config(model))


def save_model(
    model: AnyModel,
    tokenizer: Tokenizer,
    folder: Path,
    max_length: int | None = None,
    truncation: str = "head-tail",
    leave_out: tuple[str, ...] = (),
) -> None:
    """Write a model folder that `transformers` opens: weights, configuration and tokenizer.

    Args:
        model: ours.
        tokenizer: the model's.
        folder: made if it is missing.
        max_length: the most tokens that the model was trained to read; None is its number of positions.
        truncation: which part of a longer text that is.
        leave_out: as in `save_weights`.
    """
    save_weights(model, folder, leave_out)
    longest = max_length or model.encoder.max_length
    if isinstance(model, TaskModel) and isinstance(model.head, EmbeddingHead):
        truncation = "head"  # as sentence-transformers, which opens the folder, cuts texts
        width, pooling = model.encoder.config.hidden_size, dataclasses.replace(model.head.pooling, max_length=longest)
        write_pooling(folder, pooling, width, lacks_pooler=model.encoder.pooler() is None)
    tokenizer.save(folder, longest, truncation, model.encoder.has_segments)


MOST_PADDING = 1_024
"""The most rows of a table of embeddings beyond its vocabulary, which fill it up to a multiple of 8 or 64, say."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """A model folder's tokenizer.

    Raises:
        UserError: if there is none, or it is of another vocabulary than the model. The model may have some more rows:
            many a table is filled up to a multiple of 8, since hardware multiplies it faster.
    """
    tokenizer, stored = Tokenizer.load(folder), read_config(folder)
    if not 0 <= stored["vocab_size"] - tokenizer.vocab_size < MOST_PADDING:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} entries and the model {stored['vocab_size']}; they "
            "do not belong together"
        )
    return tokenizer


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder.

    Raises:
        UserError: if there is none, it is not JSON, or it is of an architecture or a variant that we do not compute.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder} is not a model folder: it has no config.json")
    config: dict[str, Any] = read_json(path)
    kind = config.get("model_type", "bert") if isinstance(config, dict) else "bert"
    if kind not in FORMATS:
        raise UserError(f"{folder} holds a {kind} model; Bertwright reads: {', '.join(FORMATS)}")
    check_settings(config, folder)
    config = {**FORMATS[kind].defaults, **config}
    for setting, computed in FORMATS[kind].computed.items():
        if config.get(setting, computed[0]) not in computed:
            raise UserError(f"{folder} has {setting} {config[setting]}; Bertwright computes {computed[0]}")
    try:
        model_config(config)
    except (UserError, TypeError) as error:
        raise UserError(f"{path} is not the shape of a model that Bertwright computes: {error}") from error
    return config


def model_config(config: dict[str, Any]) -> ModelConfig:
    """Our part of a config.json.

    Raises:
        UserError: if it asks for what the architecture does not compute here.
    """
    return FORMATS[config.get("model_type", "bert")].read(config)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, by Hugging Face's names for a model with a head.

    Names of TensorFlow's time (gamma, beta) become today's. Tensors of heads that no model has here are left out.

    Raises:
        UserError: if there is no model.safetensors, it is broken, or an encoder holds what its architecture has not.
    """
    kind = read_config(folder).get("model_type", "bert")
    format_ = FORMATS[kind]
    known, prefix = set(format_.names.values()), format_.prefix
    modules = {name.removeprefix(prefix).partition(".")[0] for name in known if prefix and name.startswith(prefix)}
    found = {}
    for name, value in modern_names(read_tensors(folder), prefix, modules).items():
        if name.endswith("embeddings.position_ids"):
            continue  # 0, 1, 2, …
        module = re.sub(r"\.\d+\.", ".{n}.", name.rpartition(".")[0], count=1)
        if known and module not in known and not name.startswith("head."):
            if name.startswith((prefix, "cls.")):
                raise UserError(f"{folder} holds the tensor {name}, which a {kind} model does not have")
            continue  # of a head that is not computed
        found[name] = value
    return found


_PRETRAINING_HEADS = ("masked_language_model", "next_sentence", "pooler")


def load_pretraining_model(folder: Path) -> PretrainingModel:
    """The model of a folder with both pre-training heads; its `absent` names those that the folder lacks.

    The output matrix of masked tokens is that of the folder where it is not the table of token embeddings ("untied"),
    whatever the configuration says; so does `transformers`.

    Raises:
        UserError: if the folder cannot be read or its tensors do not fit its configuration.
    """
    config, weights = read_config(folder), read_weights(folder)
    model = PretrainingModel(stored_encoder(config), draw=False)
    names = FORMATS[model.encoder.config.architecture].names
    bias, decoder = (to_hugging_face(f"masked_language_model.{name}", names) for name in ("bias", "decoder.weight"))
    own_bias = to_hugging_face("masked_language_model.decoder.bias", names)
    if has_task_head(config) and bias not in weights:  # ModernBERT calls a task's layers as those of masked tokens
        masked = {to_hugging_face(name, names) for name, _ in model.named_parameters() if name.startswith("masked_")}
        weights = {name: value for name, value in weights.items() if name not in masked}
    if own_bias in weights:  # a copy of the head's bias, or what took its place
        weights[bias] = weights[own_bias]
    absent = load_into(model, weights, folder, may_miss=_PRETRAINING_HEADS)
    for part in _PRETRAINING_HEADS:  # in this order in every process: a set has none
        if part in absent:
            initialize(model.get_submodule(part), model.encoder.config.initializer_range)
    absent |= model.absent
    table, matrix = model.encoder.token_embeddings.weight, weights.get(decoder)
    if matrix is not None and not torch.equal(matrix.float(), table):
        model.masked_language_model.decoder = nn.Linear(table.shape[1], table.shape[0], bias=False)
        load_into(model, weights, folder, may_miss=_PRETRAINING_HEADS)
    elif matrix is None and not config.get("tie_word_embeddings", True):
        absent |= {"masked_language_model"}  # its output matrix is not there
    classes = FORMATS[model.encoder.config.architecture].classes
    pretrained = {classes.get(kind, kind) for kind in ("pretraining", "causal")}
    if "next_sentence" in absent and architecture(config) in pretrained:
        absent |= {"pooler"}  # nothing but next sentences trains it
    model.absent = absent
    return model


def load_into(model: AnyModel, weights: dict[str, Tensor], folder: Path, may_miss: tuple[str, ...]) -> frozenset[str]:
    """Copy tensors into a model, by name.

    Args:
        model: ours.
        weights: from `read_weights`; those of heads that the model does not have are left alone.
        folder: named in errors.
        may_miss: modules that may be absent as a whole; they keep their fresh values.

    Returns:
        Those of `may_miss` that are absent.

    Raises:
        UserError: if a tensor is missing or has another shape.
    """
    names = FORMATS[model.encoder.config.architecture].names
    absent: dict[str, str] = {}
    present: set[str] = set()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            theirs = to_hugging_face(name, names)
            part = next((part for part in may_miss if name.startswith(f"{part}.")), "")
            if theirs not in weights:
                absent[part] = theirs
                continue
            present.add(part)
            if parameter.shape != weights[theirs].shape:
                raise UserError(
                    f"{folder}: {theirs} has shape {tuple(weights[theirs].shape)}, but its config asks for "
                    f"{tuple(parameter.shape)}"
                )
            parameter.copy_(weights[theirs])
    for part, theirs in absent.items():
        if not part or part in present:  # half a head answers nothing
            raise UserError(f"{folder} lacks the tensor {theirs}; it is not a whole model")
    return frozenset(absent)
