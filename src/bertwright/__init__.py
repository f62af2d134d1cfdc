"""Bertwright builds BERT encoders from nothing: raw text in; tokenizer, encoder, classifier and honest report out."""

__version__ = "0.1.0"
