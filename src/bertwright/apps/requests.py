"""The requests of the server's API: one shape for all, and a sentence for each way to miss it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from bertwright.text.formats import repaired

Texts = Annotated[list[str], Field(min_length=1)]


class TextsRequest(BaseModel):
    """Texts, each of which gets an answer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"texts": ["The weather was good."]}})

    texts: Texts


class MaskRequest(BaseModel):
    """Texts, each with one [MASK] or more."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"texts": ["The house was [MASK]."], "top_k": 5}}
    )

    texts: Texts
    top_k: Annotated[int, Field(ge=1, le=50, description="Tokens to give for each [MASK].")] = 5


class PairRequest(BaseModel):
    """Texts, and as many texts of which each may follow the one of the same place."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"texts": ["The boat was old."], "text_pairs": ["It sank in May."]}},
    )

    texts: Texts
    text_pairs: Texts


class EmbedRequest(BaseModel):
    """Texts to compute vectors of."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"texts": ["The boat was old."], "layers": 1, "per_token": False}}
    )

    texts: Texts
    layers: Annotated[int, Field(ge=1, description="The last layers that a token's vector holds side by side.")] = 1
    per_token: Annotated[bool, Field(description="Also give a vector for each token.")] = False


class Refusal(BaseModel):
    """Why there is no answer: the body of every error."""

    detail: Annotated[str, Field(description="What is wrong, and what to do.")]


_EXAMPLE = '{"texts": ["A text."]}'

_SENTENCES = {
    "json_invalid": f"the body is not valid JSON; send an object such as {_EXAMPLE}",
    "model_attributes_type": (
        f"the body is not a JSON object with the header Content-Type: application/json; send one such as {_EXAMPLE}"
    ),
    "list_type": '"<field>" is not a list; put texts in brackets, one text as well: ["A text."]',
    "string_type": '"<field>" is not a string; give a text in quotes',
    "too_short": '"<field>" is empty; give at least one text',
    "extra_forbidden": '"<field>" is no field of this request; /docs names its fields',
}
"""What is wrong, by pydantic's type of error; <field> stands for the field."""


def sentence(error: RequestValidationError) -> str:
    """What is wrong with a request, without the input: it can be long, or not even text."""
    return "; ".join(dict.fromkeys(_said(fault) for fault in error.errors()[:3]))


def _said(fault: Mapping[str, Any]) -> str:
    place = fault["loc"][1:]
    name = repaired(str(place[0]))[:40] if place else ""
    if len(place) > 1:
        name += f"[{place[1]}]"
    if fault["type"] == "missing":
        wanted = f'"{name}" is missing' if name else "the request has no body"
        return f"{wanted}; send JSON such as {_EXAMPLE}"
    known = _SENTENCES.get(fault["type"])
    return known.replace("<field>", name) if known else f'"{name}": {fault["msg"]}'
