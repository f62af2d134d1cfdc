"""Bertwright builds BERT encoders from nothing: raw text in; tokenizer, encoder, classifier and honest report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bertwright.use.predict import Model as Model

__version__ = "0.1.0"


def load(model: str | Path = "boxed") -> Model:
    """A trained model, ready to answer: `bertwright.load().predict(["A film to remember."])`.

    Args:
        model: a model folder in the Hugging Face layout, the folder of a run, or "boxed", the model that comes with
            Bertwright: English, film reviews.

    Raises:
        UserError: if there is no such folder, or it holds no BERT model that can be read.
    """
    from bertwright.use import predict  # torch takes seconds to load: not for --help

    return predict.load(model)
