"""The requests of the server's API: one shape for all, and a sentence for each way to miss it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bertwright.errors import UserError
from bertwright.text.formats import repaired

EXAMPLE = '{"texts": ["A text."]}'

Texts = Annotated[list[str], Field(min_length=1)]


class TextsRequest(BaseModel):
    """Texts, each of which gets an answer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"texts": ["The weather was good."]}})

    texts: Texts


class PredictRequest(BaseModel):
    """What a model predicts, each of which gets an answer: texts, or rows with the columns that its task reads."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"texts": ["The weather was good."]}})

    texts: Annotated[Texts | None, Field(description="Texts, for tasks on single texts.")] = None
    rows: Annotated[
        list[dict[str, str | list[str] | dict[str, list[str]]]] | None,
        Field(min_length=1, description="For other tasks, such as {question, context} or {context, choices}."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _require_one(cls, body: Any) -> Any:
        if isinstance(body, dict) and not {"texts", "rows"} & set(body):
            raise PydanticCustomError("other_input" if body else "no_input", "neither texts nor rows")
        return body

    def given(self) -> list[Any]:
        """The texts or the rows.

        Raises:
            UserError: if there are none, or both.
        """
        if (self.texts is None) == (self.rows is None):
            raise UserError(f'send "texts", or "rows" with columns, and not both: {EXAMPLE}')
        return [*(self.texts or ()), *(self.rows or ())]


class ExplainRequest(PredictRequest):
    """What a model predicts, with the label that is explained."""

    label: Annotated[str | None, Field(description="To explain; the default is the most probable.")] = None


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

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"texts": ["The boat was old."]}})

    texts: Texts
    per_token: Annotated[bool, Field(description="Give the vectors of tokens, of the pre-trained encoder.")] = False
    layers: Annotated[
        int | None,
        Field(
            ge=1, description="With per_token, the last layers that a token's vector holds side by side; 1 is usual."
        ),
    ] = None


class SearchRequest(BaseModel):
    """Queries, each of which gets the texts of the index that are nearest to it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"texts": ["When did the boat sink?"]}})

    texts: Texts
    top: Annotated[int, Field(ge=1, le=50, description="Texts to give for each query.")] = 10


class Refusal(BaseModel):
    """Why there is no answer: the body of every error."""

    detail: Annotated[str, Field(description="What is wrong, and what to do.")]


_SENTENCES = {
    "json_invalid": f"the body is not valid JSON; send an object such as {EXAMPLE}",
    "model_attributes_type": (
        f"the body is not a JSON object with the header Content-Type: application/json; send one such as {EXAMPLE}"
    ),
    "list_type": '"<field>" is not a list; put texts in brackets, one text as well: ["A text."]',
    "string_type": '"<field>" is not a string; give a text in quotes',
    "too_short": '"<field>" is empty; give at least one text',
    "other_input": (
        '"texts" is missing, or "rows" with columns, and what was sent is no field of this request; /docs names its '
        f"fields; send JSON such as {EXAMPLE}"
    ),
    "no_input": f'"texts" is missing, or "rows" with columns; send JSON such as {EXAMPLE}',
    "dict_type": '"<field>" is not an object; give the columns by name',
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
    if len(place) > 2 and place[0] == "rows":  # once, and not for each form that a column could have
        column = repaired(str(place[2]))[:40]
        return f'"{name}" has in "{column}" neither a text nor a list of texts; give one of these'
    if fault["type"] == "missing":
        wanted = f'"{name}" is missing' if name else "the request has no body"
        return f"{wanted}; send JSON such as {EXAMPLE}"
    known = _SENTENCES.get(fault["type"])
    return known.replace("<field>", name) if known else f'"{name}": {fault["msg"]}'
