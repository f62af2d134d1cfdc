"""How each architecture is written in the Hugging Face layout: names of weights, of models and of settings.

An entry of `FORMATS` for each architecture; `checkpoints.py` reads and writes folders by it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bertwright.errors import UserError
from bertwright.models.bert import Bert
from bertwright.models.encoder import Encoder
from bertwright.models.modernbert import ModernBert
from bertwright.settings import ModelConfig


def _read_bert(config: Mapping[str, Any]) -> ModelConfig:
    """The settings of a config.json that have the names of BertConfig, which are ours."""
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name in config]
    kind = {"architecture": config["model_type"]} if "model_type" in config else {}
    return ModelConfig(**{name: config[name] for name in names}, **kind)


def _write_bert(config: ModelConfig) -> dict[str, Any]:
    """Settings as BertConfig has them, without those that came later for other architectures."""
    settings = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if not field.metadata.get("later")
    }
    return {"model_type": settings.pop("architecture"), "hidden_act": "gelu", **settings}


_MODERNBERT = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "initializer_range": "initializer_range",
    "hidden_dropout_prob": "mlp_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "norm_eps",
    "local_attention": "local_attention",
    "global_attn_every_n_layers": "global_attn_every_n_layers",
    "global_rope_theta": "global_rope_theta",
    "local_rope_theta": "local_rope_theta",
    "classifier_pooling": "classifier_pooling",
}
"""Settings, ours to those of ModernBertConfig as `transformers` 4.48 wrote them; later versions read these, too."""

_LAYER_TYPES = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
"""What `transformers` 5 calls global and local layers, with the setting that says how their positions turn."""


def _read_modernbert(config: Mapping[str, Any]) -> ModelConfig:
    """The settings of ModernBertConfig, in the form of `transformers` 4 or 5.

    Raises:
        UserError: if they are not computed here.
    """
    settings = {ours: config[theirs] for ours, theirs in _MODERNBERT.items()}
    if config["embedding_dropout"] != config["mlp_dropout"]:
        raise UserError(
            f"embedding_dropout is {config['embedding_dropout']} and mlp_dropout {config['mlp_dropout']}; Bertwright "
            "has one for both"
        )
    head_width = settings["hidden_size"] // settings["num_attention_heads"]
    if config.get("head_dim") not in (None, head_width):
        raise UserError(f"head_dim is {config['head_dim']}; Bertwright computes hidden_size / num_attention_heads")
    if config.get("layer_types") is not None:
        settings["global_attn_every_n_layers"] = _global_every(config["layer_types"], settings["num_hidden_layers"])
    for kind, turns in (config.get("rope_parameters") or {}).items():
        if kind not in _LAYER_TYPES or not isinstance(turns, Mapping):
            raise UserError(f"rope_parameters holds {kind}; Bertwright reads {' and '.join(_LAYER_TYPES)}")
        _check_turns(turns, f"rope_parameters.{kind}")
        settings[_LAYER_TYPES[kind]] = turns.get("rope_theta", settings[_LAYER_TYPES[kind]])
    if config.get("rope_scaling"):
        _check_turns(config["rope_scaling"], "rope_scaling")
    return ModelConfig(architecture="modernbert", **settings)


def _check_turns(turns: Mapping[str, Any], where: str) -> None:
    """See that rotary positions are the plain ones.

    Raises:
        UserError: if they are scaled or partial.
    """
    for name, value in turns.items():
        plain = {"rope_type": ("default",), "type": ("default",), "partial_rotary_factor": (1, None)}
        if name != "rope_theta" and value not in plain.get(name, (None,)):
            raise UserError(
                f"{where} has {name} {value}; Bertwright computes plain rotary positions (rope_type default)"
            )


def _global_every(kinds: list[str], layers: int) -> int:
    """The n of which the first of n layers is global, of the kinds of all layers.

    Raises:
        UserError: if there is none.
    """
    for every in range(1, len(kinds) + 1):
        if kinds == ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]:
            return every
    raise UserError(
        f"layer_types is {kinds}; Bertwright computes a full_attention first in every n layers, and sliding_attention "
        "in the others"
    )


def _write_modernbert(config: ModelConfig) -> dict[str, Any]:
    """Settings as ModernBertConfig has them; the ids of special tokens, which it has no use for, are left out."""
    settings = {theirs: getattr(config, ours) for ours, theirs in _MODERNBERT.items()}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
    return {
        "model_type": "modernbert",
        "hidden_activation": "gelu",
        "embedding_dropout": config.hidden_dropout_prob,
        **settings,
        **ids,
    }


@dataclass(frozen=True)
class Format:
    """How an architecture is built, and how Hugging Face writes it.

    Args:
        build: the encoder's class.
        title: the architecture's name, for readers.
        prefix: of the encoder's tensors in a model with a head; a bare encoder's have none.
        names: modules, ours to Hugging Face's; {n} is the number of a layer. A module that is not here has one name.
        classes: Hugging Face's class for each kind of model.
        computed: settings of a config.json of which we compute one meaning only, with the values that have it.
        defaults: settings that mean something where a config.json leaves them out.
        read: the shape that a config.json describes.
        write: the settings of a config.json that describe a shape.
    """

    build: type[Encoder]
    title: str = "BERT"
    prefix: str = ""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    computed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    read: Callable[[Mapping[str, Any]], ModelConfig] = _read_bert
    write: Callable[[ModelConfig], dict[str, Any]] = _write_bert


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
            "masked_language_model.decoder": "cls.predictions.decoder",  # where it is not tied to the embeddings
            "next_sentence": "cls.seq_relationship",
            "head.pooler.dense": "bert.pooler.dense",
            "head.classifier": "classifier",
            "head.span": "qa_outputs",
        },
        classes={
            "pretraining": "BertForPreTraining",
            "causal": "BertLMHeadModel",
            "sequence": "BertForSequenceClassification",
            "span": "BertForQuestionAnswering",
            "choice": "BertForMultipleChoice",
            "token": "BertForTokenClassification",
            "embedding": "BertModel",
        },
        computed={"hidden_act": ("gelu", "gelu_python"), "position_embedding_type": ("absolute",)},
    ),
    "modernbert": Format(
        build=ModernBert,
        title="ModernBERT",
        prefix="model.",
        names={
            "encoder.embeddings.token": "model.embeddings.tok_embeddings",
            "encoder.embeddings.norm": "model.embeddings.norm",
            "encoder.blocks.{n}.attention_norm": "model.layers.{n}.attn_norm",
            "encoder.blocks.{n}.attention.project": "model.layers.{n}.attn.Wqkv",
            "encoder.blocks.{n}.attention.output": "model.layers.{n}.attn.Wo",
            "encoder.blocks.{n}.feed_forward_norm": "model.layers.{n}.mlp_norm",
            "encoder.blocks.{n}.feed_forward.expand": "model.layers.{n}.mlp.Wi",
            "encoder.blocks.{n}.feed_forward.contract": "model.layers.{n}.mlp.Wo",
            "encoder.norm": "model.final_norm",
            "masked_language_model.dense": "head.dense",
            "masked_language_model.norm": "head.norm",
            "masked_language_model": "decoder",  # its bias
            "masked_language_model.decoder": "decoder",  # where it is not tied to the embeddings
            "head.pooler.dense": "head.dense",
            "head.pooler.norm": "head.norm",
            "head.transform.dense": "head.dense",
            "head.transform.norm": "head.norm",
            "head.classifier": "classifier",
            "head.span": "classifier",
        },
        classes={
            "pretraining": "ModernBertForMaskedLM",
            "sequence": "ModernBertForSequenceClassification",
            "span": "ModernBertForQuestionAnswering",
            "choice": "ModernBertForMultipleChoice",
            "token": "ModernBertForTokenClassification",
            "embedding": "ModernBertModel",
        },
        computed={
            "hidden_activation": ("gelu", "gelu_python"),
            "classifier_activation": ("gelu", "gelu_python"),
            "attention_bias": (False,),
            "mlp_bias": (False,),
            "norm_bias": (False,),
            "classifier_bias": (False,),
            "decoder_bias": (True,),
            "classifier_pooling": ("cls", "mean"),
        },
        defaults={
            "hidden_size": 768,
            "num_hidden_layers": 22,
            "num_attention_heads": 12,
            "intermediate_size": 1152,
            "max_position_embeddings": 8192,
            "initializer_range": 0.02,
            "pad_token_id": 50283,
            "embedding_dropout": 0.0,
            "mlp_dropout": 0.0,
            "attention_dropout": 0.0,
            "classifier_dropout": 0.0,
            "norm_eps": 1e-5,
            "local_attention": 128,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
            "classifier_pooling": "cls",
        },
        read=_read_modernbert,
        write=_write_modernbert,
    ),
}
"""The architectures, by `model.architecture`, which is Hugging Face's `model_type`."""


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
