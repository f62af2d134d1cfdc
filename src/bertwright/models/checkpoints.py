"""Model folders in the Hugging Face layout, written and read: one entry of `FORMATS` for each architecture.

A folder holds config.json, model.safetensors, tokenizer.json and the rest of the tokenizer. `transformers` opens our
folders without custom code, and we open its. Weights are read from safetensors only: nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.models.bert import Bert
from bertwright.models.encoder import Encoder
from bertwright.models.heads import PretrainingModel, TaskModel
from bertwright.settings import ModelConfig
from bertwright.text.wordpiece import Tokenizer

AnyModel = PretrainingModel | TaskModel


@dataclass(frozen=True)
class Format:
    """How an architecture is built, and how Hugging Face writes it.

    Args:
        build: the encoder's class.
        prefix: of the encoder's tensors in a model with a head; a bare encoder's have none.
        names: modules, ours to Hugging Face's; {n} is the number of a layer. A module that is not here has one name.
        classes: Hugging Face's class for each kind of model.
        computed: settings of a config.json of which we compute one value only.
    """

    build: type[Encoder]
    prefix: str = ""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    computed: Mapping[str, str] = dataclasses.field(default_factory=dict)


FORMATS: dict[str, Format] = {
    "bert": Format(
        build=Bert,
        prefix="bert.",
        names={
            "encoder.embeddings.token": "bert.embeddings.word_embeddings",
            "encoder.embeddings.position": "bert.embeddings.position_embeddings",
            "encoder.embeddings.segment": "bert.embeddings.token_type_embeddings",
            "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
            "encoder.blocks.{n}.attention.query": "bert.encoder.layer.{n}.attention.self.query",
            "encoder.blocks.{n}.attention.key": "bert.encoder.layer.{n}.attention.self.key",
            "encoder.blocks.{n}.attention.value": "bert.encoder.layer.{n}.attention.self.value",
            "encoder.blocks.{n}.attention.output": "bert.encoder.layer.{n}.attention.output.dense",
            "encoder.blocks.{n}.attention_norm": "bert.encoder.layer.{n}.attention.output.LayerNorm",
            "encoder.blocks.{n}.feed_forward.expand": "bert.encoder.layer.{n}.intermediate.dense",
            "encoder.blocks.{n}.feed_forward.contract": "bert.encoder.layer.{n}.output.dense",
            "encoder.blocks.{n}.feed_forward_norm": "bert.encoder.layer.{n}.output.LayerNorm",
            "pooler.dense": "bert.pooler.dense",
            "masked_language_model.dense": "cls.predictions.transform.dense",
            "masked_language_model.norm": "cls.predictions.transform.LayerNorm",
            "masked_language_model": "cls.predictions",  # its bias
            "next_sentence": "cls.seq_relationship",
            "head.pooler.dense": "bert.pooler.dense",
            "head.classifier": "classifier",
        },
        classes={
            "pretraining": "BertForPreTraining",
            "causal": "BertLMHeadModel",
            "sequence": "BertForSequenceClassification",
        },
        computed={"hidden_act": "gelu", "position_embedding_type": "absolute"},
    ),
}
"""The architectures, by `model_type`."""

BUNDLED = Path(__file__).parent.parent / "bundled"
"""The bundled model: folders `encoder` (with both pre-training heads) and `sentiment` (English film reviews)."""


def find_model(model: str | Path, part: str) -> Path:
    """The folder of a model that a user names.

    Args:
        model: a folder, or "bundled" for the model that comes with Bertwright.
        part: encoder or sentiment: which of the bundled two.

    Raises:
        UserError: for the bundled model's earlier name.
    """
    if str(model) == "boxed" and not Path(model).exists():
        raise UserError("the model that comes with Bertwright is now called bundled")
    return BUNDLED / part if str(model) == "bundled" else Path(model)


def new_encoder(config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> Encoder:
    """A fresh encoder of the architecture that `config.model_type` names.

    Raises:
        UserError: if there is no such architecture.
    """
    if config.model_type not in FORMATS:
        raise UserError(f"model.model_type is {config.model_type}; Bertwright has: {', '.join(FORMATS)}")
    return FORMATS[config.model_type].build(config, vocab_size, pad_token_id)


def to_hugging_face(name: str, names: Mapping[str, str]) -> str:
    """Hugging Face's name of one of our parameters.

    Args:
        name: ours.
        names: of a `Format`.
    """
    module, _, parameter = name.rpartition(".")
    number = re.search(r"\.(\d+)\.", module)
    general = module.replace(number.group(0), ".{n}.", 1) if number else module
    found = names.get(general, general)
    return f"{found.replace('{n}', number.group(1)) if number else found}.{parameter}"


def hugging_face_config(model: AnyModel) -> dict[str, Any]:
    """The config.json of a model."""
    encoder = model.encoder
    kind = "causal" if encoder.causal and isinstance(model, PretrainingModel) else model.kind
    config = {
        "architectures": [FORMATS[encoder.config.model_type].classes.get(kind, kind)],
        "hidden_act": "gelu",
        "vocab_size": encoder.vocab_size,
        "pad_token_id": encoder.pad_token_id,
        "torch_dtype": "float32",
        "tie_word_embeddings": True,
        **dataclasses.asdict(encoder.config),
    }
    if isinstance(model, TaskModel):
        config["finetuning_task"] = model.task
        dropout = getattr(model.head, "dropout", None)
        config |= {} if dropout is None else {"classifier_dropout": dropout.p}
        config["id2label"] = dict(enumerate(model.label_names))
        config["label2id"] = {name: i for i, name in enumerate(model.label_names)}
    return config


def save_weights(model: AnyModel, folder: Path, leave_out: str = "") -> None:
    """Write config.json and model.safetensors into a folder (make it atomic with `files.atomic_path`).

    Args:
        model: ours.
        folder: made if it is missing.
        leave_out: beginning of the names of parameters that are not written; none where it is empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = FORMATS[model.encoder.config.model_type].names
    # Copies, since safetensors refuses views; the tied output matrix is not a parameter of ours and is not written.
    state = {
        to_hugging_face(name, names): value.detach().cpu().clone()
        for name, value in model.named_parameters()
        if not (leave_out and name.startswith(leave_out))
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", hugging_face_config(model))


def save_model(
    model: AnyModel,
    tokenizer: Tokenizer,
    folder: Path,
    max_length: int | None = None,
    truncation: str = "head-tail",
    leave_out: str = "",
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
    tokenizer.save(folder, max_length or model.encoder.max_length, truncation)


def load_tokenizer(folder: Path) -> Tokenizer:
    """A model folder's tokenizer.

    Raises:
        UserError: if there is none, or it is of another vocabulary than the model.
    """
    tokenizer, stored = Tokenizer.load(folder), read_config(folder)
    if tokenizer.vocab_size != stored["vocab_size"]:
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
    kind = config.get("model_type", "bert")
    if kind not in FORMATS:
        raise UserError(f"{folder} holds a {kind} model; Bertwright reads: {', '.join(FORMATS)}")
    for setting, computed in FORMATS[kind].computed.items():
        if config.get(setting, computed) != computed:
            raise UserError(f"{folder} has {setting} {config[setting]}; Bertwright computes {computed}")
    return config


def model_config(config: dict[str, Any]) -> ModelConfig:
    """Our part of a config.json."""
    return ModelConfig(
        **{field.name: config[field.name] for field in dataclasses.fields(ModelConfig) if field.name in config}
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, by Hugging Face's names for a model with a head.

    Names of TensorFlow's time (gamma, beta) become today's; a tied output matrix is left out.

    Raises:
        UserError: if there is no model.safetensors, it is broken, or it holds what the architecture does not have.
    """
    path = folder / "model.safetensors"
    if not path.exists():
        pickled = folder / "pytorch_model.bin"
        reason = "only a pickle, which could run code when read; save it as safetensors" if pickled.exists() else "none"
        raise UserError(f"{folder} has no model.safetensors ({reason})")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is broken or cut short ({error}); copy it again") from error
    kind = read_config(folder).get("model_type", "bert")
    format_ = FORMATS[kind]
    known = set(format_.names.values())
    found = {}
    for full, value in tensors.items():
        name = re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_MODERN[m[1]]}", full)
        if not name.startswith((format_.prefix, "cls.", "classifier.", "head.")):
            name = f"{format_.prefix}{name}"  # saved from a bare encoder
        if name.startswith("cls.predictions.decoder.") or name.endswith("embeddings.position_ids"):
            continue  # the decoder is tied to the embeddings; position_ids are 0, 1, 2, …
        module = re.sub(r"\.\d+\.", ".{n}.", name.rpartition(".")[0], count=1)
        if known and module not in known and not name.startswith("head."):
            raise UserError(f"{path} holds {full}, which a {kind} model does not have")
        found[name] = value
    return found


_MODERN = {"gamma": "weight", "beta": "bias"}


def load_pretraining_model(folder: Path) -> PretrainingModel:
    """The model of a folder with both pre-training heads; a head that is missing there is freshly initialised.

    Raises:
        UserError: if the folder cannot be read or its tensors do not fit its configuration.
    """
    config = read_config(folder)
    model = PretrainingModel(new_encoder(model_config(config), config["vocab_size"], config.get("pad_token_id", 0)))
    load_into(model, read_weights(folder), folder, may_miss=("masked_language_model", "next_sentence", "pooler"))
    return model


def load_into(model: AnyModel, weights: dict[str, Tensor], folder: Path, may_miss: tuple[str, ...]) -> None:
    """Copy tensors into a model, by name.

    Args:
        model: ours.
        weights: from `read_weights`; those of heads that the model does not have are left alone.
        folder: named in errors.
        may_miss: beginnings of our names that may be absent; they keep their fresh values.

    Raises:
        UserError: if a tensor is missing or has another shape.
    """
    names = FORMATS[model.encoder.config.model_type].names
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            theirs = to_hugging_face(name, names)
            if theirs not in weights:
                if not name.startswith(may_miss):
                    raise UserError(f"{folder} lacks the tensor {theirs}; it is not a whole model")
                continue
            if parameter.shape != weights[theirs].shape:
                raise UserError(
                    f"{folder}: {theirs} has shape {tuple(weights[theirs].shape)}, but its config asks for "
                    f"{tuple(parameter.shape)}"
                )
            parameter.copy_(weights[theirs])
