"""Bertwright trains BERT encoders from scratch: raw text in; tokenizer, encoder, fine-tuned model and report out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertwright.errors import UserError

if TYPE_CHECKING:
    from bertwright.apps.explain import explain
    from bertwright.inference import Model, load
    from bertwright.pipeline import Run, run
    from bertwright.recipe import Recipe
    from bertwright.recipe_file import load_recipe
    from bertwright.tasks.answers import Prediction

__all__ = ["Model", "Prediction", "Recipe", "Run", "UserError", "__version__", "explain", "load", "load_recipe", "run"]

__version__ = "0.1.0"

_HOMES = {
    "Model": "inference",
    "Prediction": "tasks.answers",
    "Recipe": "recipe",
    "Run": "pipeline",
    "explain": "apps.explain",
    "load": "inference",
    "load_recipe": "recipe_file",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used: torch takes seconds to load, and --help needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bertwright' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"bertwright.{_HOMES[name]}"), name)
