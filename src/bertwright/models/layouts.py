"""How each architecture is written in the Hugging Face layout: names of weights, of models and of settings.

An entry of `FORMATS` for each architecture; `checkpoints.py` reads and writes folders by it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bertwright.models.bert import Bert
from bertwright.models.encoder import Encoder


@dataclass(frozen=True)
class Format:
    """How an architecture is built, and how Hugging Face writes it.

    Args:
        build: the encoder's class.
        prefix: of the encoder's tensors in a model with a head; a bare encoder's have none.
        names: modules, ours to Hugging Face's; {n} is the number of a layer. A module that is not here has one name.
        classes: Hugging Face's class for each kind of model.
        computed: settings of a config.json of which we compute one meaning only, with the values that have it.
    """

    build: type[Encoder]
    prefix: str = ""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    computed: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


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
}
"""The architectures, by `model_type`."""


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
