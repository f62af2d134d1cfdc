"""Weights in the Hugging Face layout, in and out: one visible table of names.

A folder holds config.json, model.safetensors, tokenizer.json and the rest of the tokenizer. `transformers` opens what
we write without custom code, and we open what it writes. Weights are read from safetensors only: nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertwright.config import ModelConfig
from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.model.heads import BertForPreTraining, BertForSequenceClassification
from bertwright.text.wordpiece import Tokenizer

# Ours -> Hugging Face's. {n} is the number of a block.
NAMES = {
    "bert.embeddings.token": "bert.embeddings.word_embeddings",
    "bert.embeddings.position": "bert.embeddings.position_embeddings",
    "bert.embeddings.segment": "bert.embeddings.token_type_embeddings",
    "bert.embeddings.norm": "bert.embeddings.LayerNorm",
    "bert.blocks.{n}.attention.query": "bert.encoder.layer.{n}.attention.self.query",
    "bert.blocks.{n}.attention.key": "bert.encoder.layer.{n}.attention.self.key",
    "bert.blocks.{n}.attention.value": "bert.encoder.layer.{n}.attention.self.value",
    "bert.blocks.{n}.attention.output": "bert.encoder.layer.{n}.attention.output.dense",
    "bert.blocks.{n}.attention_norm": "bert.encoder.layer.{n}.attention.output.LayerNorm",
    "bert.blocks.{n}.feed_forward.expand": "bert.encoder.layer.{n}.intermediate.dense",
    "bert.blocks.{n}.feed_forward.contract": "bert.encoder.layer.{n}.output.dense",
    "bert.blocks.{n}.feed_forward_norm": "bert.encoder.layer.{n}.output.LayerNorm",
    "bert.pooler.dense": "bert.pooler.dense",
    "masked_language_model.dense": "cls.predictions.transform.dense",
    "masked_language_model.norm": "cls.predictions.transform.LayerNorm",
    "masked_language_model": "cls.predictions",  # its bias
    "next_sentence": "cls.seq_relationship",
    "classifier": "classifier",
}


BOX = Path(__file__).parent.parent / "boxed"
"""The model in the box: folders `encoder` (with both pre-training heads) and `sentiment` (English film reviews)."""


def find_model(model: str | Path, part: str) -> Path:
    """The folder that a user's word for a model means.

    Args:
        model: a folder, or "boxed" for the model that comes with Bertwright.
        part: encoder or sentiment: which of the box's two.
    """
    return BOX / part if str(model) == "boxed" else Path(model)


def to_hugging_face(name: str) -> str:
    """Hugging Face's name of one of our parameters."""
    return _translate(name, NAMES)


def from_hugging_face(name: str) -> str:
    """Our name of one of Hugging Face's parameters, those of TensorFlow's time (gamma, beta) included."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return _translate(name, {theirs: ours for ours, theirs in NAMES.items()})


def _translate(name: str, table: dict[str, str]) -> str:
    module, _, parameter = name.rpartition(".")
    number = re.search(r"\.(\d+)\.", module)
    general = module.replace(number.group(0), ".{n}.", 1) if number else module
    translated = table[general].replace("{n}", number.group(1)) if number else table[general]
    return f"{translated}.{parameter}"


def hugging_face_config(model: BertForPreTraining | BertForSequenceClassification) -> dict[str, Any]:
    """The config.json of a model."""
    bert = model.bert
    causal = bert.config.is_decoder and isinstance(model, BertForPreTraining)
    config = {
        "architectures": ["BertLMHeadModel" if causal else type(model).__name__],
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": bert.vocab_size,
        "pad_token_id": bert.pad_token_id,
        "torch_dtype": "float32",
        "tie_word_embeddings": True,
        **dataclasses.asdict(bert.config),
    }
    if isinstance(model, BertForSequenceClassification):
        config["classifier_dropout"] = model.dropout.p
        names = model.label_names
        config["id2label"] = dict(enumerate(names))
        config["label2id"] = {name: i for i, name in enumerate(names)}
    return config


def save_weights(model: BertForPreTraining | BertForSequenceClassification, folder: Path, leave_out: str = "") -> None:
    """Write config.json and model.safetensors into a folder (make it atomic with `files.atomic_path`).

    Args:
        model: ours.
        folder: made if it is missing.
        leave_out: beginning of the names of parameters that are not written; none where it is empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Copies, since safetensors refuses views; the tied output matrix is not a parameter of ours and is not written.
    state = {
        to_hugging_face(name): value.detach().cpu().clone()
        for name, value in model.named_parameters()
        if not (leave_out and name.startswith(leave_out))
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", hugging_face_config(model))


def save_model(
    model: BertForPreTraining | BertForSequenceClassification,
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
    tokenizer.save(folder, max_length or model.bert.config.max_position_embeddings, truncation)


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
    """The config.json of a BERT model folder.

    Raises:
        UserError: if there is none, it is not JSON, or it is of another architecture or has a variant that we do not
            compute.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder} is not a model folder: it has no config.json")
    config: dict[str, Any] = read_json(path)
    if config.get("model_type", "bert") != "bert":
        raise UserError(f"{folder} holds a {config['model_type']} model; Bertwright reads BERT models")
    if config.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{folder} uses the activation {config['hidden_act']}; Bertwright computes gelu")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{folder} uses {config['position_embedding_type']} positions; Bertwright computes absolute")
    return config


def model_config(config: dict[str, Any]) -> ModelConfig:
    """Our part of a config.json."""
    return ModelConfig(
        **{field.name: config[field.name] for field in dataclasses.fields(ModelConfig) if field.name in config}
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, by our names.

    Raises:
        UserError: if there is no model.safetensors, or it is broken.
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
    ours = {}
    for name, value in tensors.items():
        if not name.startswith(("bert.", "cls.", "classifier.")):
            name = f"bert.{name}"  # saved from a bare BertModel
        if name.startswith("cls.predictions.decoder.") or name.endswith("embeddings.position_ids"):
            continue  # the decoder is tied to the embeddings; position_ids are 0, 1, 2, …
        try:
            ours[from_hugging_face(name)] = value
        except KeyError as error:
            raise UserError(f"{path} holds {name}, which BERT does not have") from error
    return ours


def load_pretraining_model(folder: Path) -> BertForPreTraining:
    """The model of a folder with both pre-training heads; a head that is missing there starts afresh.

    Raises:
        UserError: if the folder is not a BERT model or its tensors do not fit its configuration.
    """
    config = read_config(folder)
    model = BertForPreTraining(model_config(config), config["vocab_size"], config.get("pad_token_id", 0))
    load_into(model, read_weights(folder), folder, may_miss=("masked_language_model", "next_sentence", "bert.pooler"))
    return model


def load_classifier(folder: Path) -> BertForSequenceClassification:
    """The fine-tuned classifier of a folder.

    Raises:
        UserError: if the folder is not a BERT classifier or its tensors do not fit its configuration.
    """
    config = read_config(folder)
    if "id2label" not in config:
        raise UserError(f"{folder} is not a classifier: its config.json has no id2label")
    labels = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
    dropout = config.get("classifier_dropout")
    model = BertForSequenceClassification(
        model_config(config),
        config["vocab_size"],
        labels,
        classifier_dropout=config.get("hidden_dropout_prob", 0.1) if dropout is None else dropout,
        pad_token_id=config.get("pad_token_id", 0),
    )
    load_into(model, read_weights(folder), folder, may_miss=())
    return model


def load_into(model: nn.Module, weights: dict[str, Tensor], folder: Path, may_miss: tuple[str, ...]) -> None:
    """Copy tensors into a model, by name.

    Args:
        model: ours.
        weights: from `read_weights`; those of heads that the model does not have are left alone.
        folder: named in errors.
        may_miss: beginnings of names that may be absent; they keep their fresh values.

    Raises:
        UserError: if a tensor is missing or has another shape.
    """
    parameters = dict(model.named_parameters())
    missing = [name for name in parameters if name not in weights]
    for name in missing:
        if not name.startswith(may_miss):
            raise UserError(f"{folder} lacks the tensor {to_hugging_face(name)}; it is not a whole BERT model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in weights:
                if parameter.shape != weights[name].shape:
                    raise UserError(
                        f"{folder}: {to_hugging_face(name)} has shape {tuple(weights[name].shape)}, but its config "
                        f"asks for {tuple(parameter.shape)}"
                    )
                parameter.copy_(weights[name])
