"""The requests of the server's API: one shape for all, and a sentence for each way to miss it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bertwright.errors import UserError
from bertwright.text.formats import repaired

Example = dict[str, Any]
"""A body."""

Texts = Annotated[list[str], Field(min_length=1)]


class TextsRequest(BaseModel):
    """Texts, each of which gets an answer."""

    model_config = ConfigDict(extra="forbid")

    texts: Texts


class PredictRequest(BaseModel):
    """What a model predicts, each of which gets an answer: texts, or rows with the columns that its task reads."""

    model_config = ConfigDict(extra="forbid")

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
            raise UserError('one of "texts" and "rows" is needed, and not both')
        return [*(self.texts or ()), *(self.rows or ())]


class ExplainRequest(PredictRequest):
    """What a model predicts, with the label that is explained."""

    label: Annotated[str | None, Field(description="To explain; the default is the most probable.")] = None


class MaskRequest(BaseModel):
    """Texts, each with one [MASK] or more."""

    model_config = ConfigDict(extra="forbid")

    texts: Texts
    top_k: Annotated[int, Field(ge=1, le=50, description="Tokens to give for each [MASK].")] = 5


class PairRequest(BaseModel):
    """Texts, and as many texts of which each may follow the one of the same place."""

    model_config = ConfigDict(extra="forbid")

    texts: Texts
    text_pairs: Texts


class EmbedRequest(BaseModel):
    """Texts to compute vectors of."""

    model_config = ConfigDict(extra="forbid")

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

    model_config = ConfigDict(extra="forbid")

    texts: Texts
    top: Annotated[int, Field(ge=1, le=50, description="Texts to give for each query.")] = 10


class Refusal(BaseModel):
    """Why there is no answer: the body of every error."""

    detail: Annotated[str, Field(description="What is wrong, and what to do.")]


def examples(given: Any, explained: bool = True) -> dict[str, Example]:
    """A body for each path, which the server's own model answers at /predict and /explain.

    Args:
        given: something that the model's task takes, from `Task.warm`.
        explained: whether the model's predictions are; without, /explain has no body.
    """
    own = {"rows": [given]} if isinstance(given, dict) else {"texts": ["A text."]}
    return {
        "/predict": own,
        **({"/explain": own} if explained else {}),
        "/fill-mask": {"texts": ["The house was [MASK]."], "top_k": 5},
        "/next-sentence": {"texts": ["The boat was old."], "text_pairs": ["It sank in May."]},
        "/embed": {"texts": ["The boat was old."]},
        "/attention": {"texts": ["The boat was old."]},
        "/search": {"texts": ["When did the boat sink?"]},
    }


def such_as(example: Example) -> str:
    """What to send."""
    return f"send JSON such as {json.dumps(example, ensure_ascii=False)}"


_SEND = "; <send>"

_SENTENCES = {
    "json_invalid": "the body is not valid JSON; <send>",
    "model_attributes_type": "the body is not a JSON object with the header Content-Type: application/json; <send>",
    "list_type": '"<field>" is not a list; put it in brackets, one text or row as well; <send>',
    "string_type": '"<field>" is not a string; give a text in quotes',
    "too_short": '"<field>" is empty; give at least one text',
    "other_input": (
        '"texts" is missing, or "rows" with columns, and what was sent is no field of this request; /docs names its '
        "fields; <send>"
    ),
    "no_input": '"texts" is missing, or "rows" with columns; <send>',
    "dict_type": '"<field>" is not an object; give the columns by name',
    "extra_forbidden": '"<field>" is no field of this request; /docs names its fields',
}
"""What is wrong, by pydantic's type of error; <field> stands for the field, and <send> for a body that is right."""


def sentence(error: RequestValidationError, example: Example) -> str:
    """What is wrong with a request, without the input: it can be long, or not even text.

    Args:
        error: says what.
        example: a body of that path.
    """
    said = "; ".join(dict.fromkeys(map(_said, error.errors()[:3])))
    return f"{said.replace(_SEND, '')}; {such_as(example)}" if _SEND in said else said  # once, at the end


def _said(fault: Mapping[str, Any]) -> str:
    place = fault["loc"][1:]
    name = repaired(str(place[0]))[:40] if place else ""
    if len(place) > 1:
        name += f"[{place[1]}]"
    if len(place) > 2:
        column = repaired(str(place[2]))[:40]
        if place[0] == "rows" and fault["type"].endswith("_type"):  # once, and not for each form that it could have
            return f'"{name}" has in "{column}" neither a text nor a list of texts; give one of these'
        name += f".{column}"
    if fault["type"] == "missing":
        wanted = f'"{name}" is missing' if name else "the request has no body"
        return wanted + _SEND
    known = _SENTENCES.get(fault["type"])
    return known.replace("<field>", name) if known else f'"{name}": {fault["msg"]}'
