"""The server's page: what it says of the model, the forms that it has, and its files.

The page is three files without requests to other machines. What it shows of a model stands in it as JSON, and becomes
text there, never markup.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from bertwright.errors import UserError
from bertwright.inference import Model
from bertwright.models.encoder import Encoder
from bertwright.tasks.entities import scheme_of
from bertwright.tasks.task import Task
from bertwright.tasks.text_task import TextTask
from bertwright.text.formats import repaired
from bertwright.text.tags import has_entities

FILM_REVIEWS = {
    "positive": "A wonderful film: funny, moving and beautifully made. I loved every minute of it.",
    "negative": "A dreadful film: boring, badly acted and far too long. I left before the end.",
}
"""The page's examples for the bundled classifier, which classifies film reviews, by their class."""

_ABOUT = {
    "classification": "Assigns one of {count} classes to {text}.",
    "multi-label": "Assigns any number of {count} labels to {text}.",
    "regression": "Predicts a number for {text}.",
    "token-classification": "Finds entities in a text and says of which type they are.",
    "tags": "Assigns one of {count} tags to each word of a text.",
    "question-answering": "Finds the answer to a question in a text.",
    "multiple-choice": "Chooses what follows or answers a text.",
    "embedding": "Says how similar two texts are.",
}
"""What a model is for, by its form or its task."""

_READS = {"token-classification": "windows", "question-answering": "windows", "embedding": "head"}
"""How tasks read a long text that do so in one way, whatever the folder says of truncation."""

_FIELDS = {
    "pairs": ("text", "text_pair"),
    "text-or-pair": ("text", "text_pair"),
    "question-answering": ("text", "context"),
    "multiple-choice": (),
}
"""The hub's keys of an example in the order of the form's fields; `text` alone for other forms, none for choices."""


def page_routes(model: Model, queries: Sequence[str] | None) -> APIRouter:
    """The routes of the page and of the description of the API.

    Args:
        model: answers.
        queries: examples for an index of texts; None without an index.
    """
    routes = APIRouter()
    folder = importlib.resources.files("bertwright.apps")
    page, style, script, docs = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js", "docs.html")
    )
    # "<" could end the element that holds the JSON.
    page = page.replace('{"settings": null}', json.dumps(settings(model, queries)).replace("<", r"\u003c"))

    @routes.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> str:
        return page

    @routes.get("/page.css", include_in_schema=False)
    async def show_style() -> Response:
        return Response(style, media_type="text/css")

    @routes.get("/page.js", include_in_schema=False)
    async def show_script() -> Response:
        return Response(script, media_type="text/javascript")

    @routes.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def show_docs() -> str:
        return docs

    return routes


def settings(model: Model, queries: Sequence[str] | None) -> dict[str, Any]:
    """What the page shows of a model.

    Args:
        model: answers.
        queries: examples for an index of texts; None without an index.

    Returns:
        `model`, its name; `form`, of its own task; `tabs`, what else it answers; `about`, what it is for; `answers`,
        classes, types of entities or tags; `labels`, of the head's outputs; `mask`, as the vocabulary spells it;
        `facts` by name; `examples`, each with `title` and `values` of the form's fields; `queries`, examples for the
        index.
    """
    task, labels = model.task, model.classifier.label_names
    form = _form(task, labels)
    said = _ABOUT.get(form, _ABOUT.get(task.name, "Answers the task {task}."))
    text = {"pairs": "a pair of texts", "text-or-pair": "a text or a pair of texts"}.get(form, "a text")
    about = said.format(count=len(labels), text=text, task=task.name)
    if model.name == "bundled":
        about += " The model comes with Bertwright and was trained on English film reviews."
    answers = []
    if task.name in ("classification", "multi-label"):
        answers = labels
    elif task.name == "token-classification":
        answers = sorted(scheme_of(labels).types)
    return {
        "model": model.name,
        "form": form,
        "tabs": _tabs(model, queries is not None),
        "about": about,
        "answers": answers,
        "labels": labels,
        "mask": model.pretrained.tokenizer.special.mask,
        "facts": _facts(model),
        "examples": _examples(model, form),
        "queries": list(queries or ()),
    }


def _form(task: Task, labels: Sequence[str]) -> str:
    """The form of a model's own task: the task's name, or one of its kinds that need another form."""
    if "text_pair" in task.reads(()):
        return "pairs"
    if isinstance(task, TextTask) and task.pair is None:
        return "text-or-pair"
    if task.name == "token-classification" and not has_entities(labels):
        return "tags"
    return task.name


def _tabs(model: Model, can_search: bool) -> list[str]:
    """What a model answers besides its own task; a tab that could only refuse is left out."""
    tabs = ["attention"]
    for tab, heads in (("fill", {"masked_language_model"}), ("pair", {"next_sentence", "pooler"})):
        try:
            model.pretrained.require(heads, "head")
            tabs.append(tab)
        except UserError:
            continue
    return [*tabs, "search"] if can_search else tabs


def _facts(model: Model) -> dict[str, str]:
    """The model in figures; also those of its pre-trained encoder, where that is a model of its own."""
    longest, truncation = model.reading
    parts = {
        "windows": "a longer text in windows",
        "head": "the beginning of a longer text",
        "tail": "the end of a longer text",
        "head-tail": "beginning and end of a longer text",
    }
    facts = {
        "Task": model.task.name,
        "Network": _network(model.classifier.encoder),
        "Weights": f"{sum(one.numel() for one in model.classifier.parameters()):,}",
        "Vocabulary": f"{model.classifier_tokenizer.vocab_size:,} entries",
        "Reads": f"{longest:,} tokens; {parts[_READS.get(model.task.name, truncation)]}",
    }
    if model.pretrained.folder != model.classifier_folder:
        facts["Other tabs"] = f"its pre-trained encoder: {_network(model.pretrained.model.encoder)}"
    return facts


def _network(encoder: Encoder) -> str:
    shape = encoder.config
    return f"{shape.num_hidden_layers} layers of {shape.hidden_size}, {shape.num_attention_heads} heads"


def _examples(model: Model, form: str) -> list[dict[str, Any]]:
    """Examples for the model's own form: the bundled model's, or those of its model card (`widget`, as on the hub)."""
    if model.name == "bundled":
        return [{"title": f"a {label} review", "values": [text]} for label, text in FILM_REVIEWS.items()]
    found = []
    for given in _widgets(model.classifier_folder / "README.md"):
        keys = _FIELDS.get(form, ("text",))
        if "text_pair" not in given and form == "text-or-pair":
            keys = ("text",)
        elif "text_pair" in given and "text_pair" not in keys:
            continue  # its first text alone would be another example
        values = [given.get(key) for key in keys]
        texts = [repaired(value) for value in values if isinstance(value, str) and value.strip()]
        if texts and len(texts) == len(values):
            found.append({"title": str(given.get("example_title") or texts[0]), "values": texts})
    return found


def _widgets(card: Path) -> list[dict[str, Any]]:
    """The examples of a model card; none where there is no card, or its head is not what the hub describes."""
    try:
        _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        widgets = yaml.safe_load(head)["widget"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return []
    return [one for one in widgets if isinstance(one, dict)] if isinstance(widgets, list) else []
