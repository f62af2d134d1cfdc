"""What the server computes for each kind of request: tokens against the limits, then the work in pieces.

An answer's body is written by the thread that computes, so that a long one does not keep the others waiting for theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.apps.batching import Limits, Steps, Windows, Work
from bertwright.apps.explain import as_json, check, explaining, read
from bertwright.apps.integrated_gradients import PASSES
from bertwright.apps.requests import (
    EmbedRequest,
    ExplainRequest,
    MaskRequest,
    PairRequest,
    PredictRequest,
    SearchRequest,
    TextsRequest,
    examples,
    such_as,
)
from bertwright.apps.search import Searcher
from bertwright.errors import UnreadableText, UserError
from bertwright.inference import Model
from bertwright.inputs.questions import Question
from bertwright.inputs.sequences import ModelInput, Sequence
from bertwright.text.bert_tokenizer import MASK
from bertwright.text.records import Record
from bertwright.vectors import TextEncoder

MOST_ATTENTION = 64
"""Tokens of a text whose attention is shown: a picture of more has no readable rows, and grows with the square."""


def predict(model: Model, request: PredictRequest, limits: Limits) -> Work:
    """Classes of texts, or what else the model's task answers."""
    records = _records(model, request)
    choices = sum(len(record.choices or ()) for record in records)  # each of which is read with its whole context
    _require_few(limits, max(len(records), choices), "choices" if choices else "texts")
    encoded = model.inputs(records)
    _require_whole(encoded)
    _within(limits, [len(one) for one in encoded])  # before windows are made, of which a long text has many
    parts = [model.windows(one) for one in encoded]
    tokens = sum(len(part) for own in parts for part in own)
    if tokens > limits.request_tokens:
        raise UserError(
            f"the request has {tokens:,} tokens in windows, which overlap or repeat a question, and may have at most "
            f"{limits.request_tokens:,}; shorten or divide it"
        )
    return Work(tokens, _predicting(model, parts, records))


def _records(model: Model, request: PredictRequest) -> list[Record]:
    """What a request gives as records of the model's task.

    Raises:
        UserError: if it is something else, with a body that the model answers.
    """
    try:
        return model.records(request.given())
    except UserError as error:
        raise UserError(f"{error}; {such_as(examples(model.task.warm())['/predict'])}") from error


def _require_whole(encoded: Many[ModelInput]) -> None:
    """See that no question is cut, of which a client would not know: an answer has no place for it.

    Raises:
        UserError: if one is.
    """
    for number, one in enumerate(encoded):
        if isinstance(one, Question) and one.left_out:
            problem = f"has a question with {one.left_out:,} tokens more than the model reads; shorten it"
            raise UnreadableText(number, len(encoded), problem)


def _predicting(model: Model, parts: Many[Many[Sequence]], records: Many[Record]) -> Steps:
    logits = yield Windows([part for own in parts for part in own], model.window_logits)
    assert logits is not None
    predictions = model.answers(logits, parts, records)
    return _body([_json(asdict(prediction)) for prediction in predictions])


def explain(model: Model, request: ExplainRequest, limits: Limits) -> Work:
    """Predictions, and attributions of words."""
    check(model, request.label)
    records = _records(model, request)
    _require_few(limits, len(records))
    sequences = [read(model, record, number, len(records)) for number, record in enumerate(records)]
    work = _explaining(model, records, sequences, request.label)
    return Work(_within(limits, [len(one) for one in sequences], PASSES), work)


def _explaining(model: Model, records: list[Record], sequences: list[Sequence], label: str | None) -> Steps:
    answers = []
    for record, sequence in zip(records, sequences, strict=True):
        found = yield from explaining(model, record, sequence, label)
        answers.append(_json(as_json(found)))
    return _body(answers)


def fill_mask(model: Model, request: MaskRequest, limits: Limits) -> Work:
    """Tokens for masks."""
    tokenizer = model.pretrained.tokenizer
    masks = sum(tokenizer.with_masks(text).count(MASK) for text in request.texts)
    if masks > limits.masks:
        raise UserError(f"the request has {masks:,} {MASK}, and may have at most {limits.masks}; send several requests")
    tokens = _within(limits, _lengths(model, request.texts))

    def answer(number: int) -> Any:
        found = model.fill_mask(request.texts[number], request.top_k)
        return [[asdict(prediction) for prediction in predictions] for predictions in found]

    return Work(tokens, _one_by_one(len(request.texts), answer))


def next_sentence(model: Model, request: PairRequest, limits: Limits) -> Work:
    """Probabilities that texts follow others."""
    firsts, seconds = request.texts, request.text_pairs
    if len(firsts) != len(seconds):
        raise UserError(
            f'"texts" has {len(firsts)} texts and "text_pairs" {len(seconds)}; give as many, each of which may follow '
            "the text of its place"
        )
    pairs = zip(_lengths(model, firsts), _lengths(model, seconds), strict=True)
    tokens = _within(limits, [first + second for first, second in pairs])

    def answer(number: int) -> Any:
        score = model.next_sentence(firsts[number], seconds[number])
        return {"is_next": score >= 0.5, "score": score}

    return Work(tokens, _one_by_one(len(firsts), answer))


def embed(model: Model, request: EmbedRequest, limits: Limits) -> Work:
    """Vectors of texts, or of their tokens."""
    if request.per_token:
        return _embed_tokens(model, request.texts, request.layers or 1, limits)
    if request.layers is not None:
        raise UserError('"layers" is about the vectors of tokens; add "per_token": true, or leave it out')
    encoder = model.text_encoder()
    sequences, left_out = encoder.inputs(request.texts)
    tokens = _within(limits, [len(one) for one in sequences], numbers=len(sequences) * encoder.width())
    return Work(tokens, _embedding(encoder, sequences, left_out.tolist()))


def _embedding(encoder: TextEncoder, sequences: list[Sequence], left_out: list[int]) -> Steps:
    vectors = yield Windows(sequences, encoder.compute)
    assert vectors is not None
    answers = zip(vectors, left_out, strict=True)
    return _body([_json({"vector": vector.tolist(), "left_out": number}) for vector, number in answers])


def _embed_tokens(model: Model, texts: list[str], layers: int, limits: Limits) -> Work:
    lengths = _lengths(model, texts)
    width = model.pretrained.model.encoder.config.hidden_size
    tokens = _within(limits, lengths, numbers=(2 + sum(lengths) * layers) * width)

    def answer(number: int) -> Any:
        values = asdict(model.embed([texts[number]], layers)[0])
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    return Work(tokens, _one_by_one(len(texts), answer))


def attention(model: Model, request: TextsRequest, limits: Limits) -> Work:
    """Attention weights of texts: of a longer one of its first tokens."""
    lengths = [min(length, MOST_ATTENTION) for length in _lengths(model, request.texts)]
    config = model.pretrained.model.encoder.config
    maps = config.num_hidden_layers * config.num_attention_heads
    tokens = _within(limits, lengths, numbers=maps * sum(length**2 for length in lengths))

    def answer(number: int) -> Any:
        shown, weights = model.attention(request.texts[number], MOST_ATTENTION)
        return {"tokens": shown, "weights": np.round(weights, 3).tolist()}

    return Work(tokens, _one_by_one(len(request.texts), answer))


def search(searcher: Searcher, request: SearchRequest, limits: Limits) -> Work:
    """Texts of an index. Files have their names without the folders of this machine."""
    _require_few(limits, len(request.texts))
    tokens = characters = 0
    if searcher.encoder is not None:
        # By the encoder of vectors, which is there: the pre-trained one would be loaded while all requests wait.
        sequences, _ = searcher.encoder.text_encoder().inputs(request.texts)
        tokens = _within(limits, [len(one) for one in sequences])

    def answer(number: int) -> Any:
        nonlocal characters
        hits = searcher.find(request.texts[number], request.top)
        characters += sum(len(hit.entry.text) for hit in hits)
        if characters > limits.answer_characters:
            raise UserError(
                f"the texts of the answer have more than {limits.answer_characters:,} characters; ask for fewer with a "
                'smaller "top", or send fewer queries'
            )
        return [{"score": hit.score, **asdict(hit.entry), "file": Path(hit.entry.file).name} for hit in hits]

    return Work(tokens, _one_by_one(len(request.texts), answer))


def _one_by_one(texts: int, answer: Callable[[int], Any]) -> Steps:
    """Answers to texts by number, with a pause after each."""
    answers = []
    for number in range(texts):
        yield None
        with _named(number, texts):
            answers.append(_json(answer(number)))
    return _body(answers)


@contextmanager
def _named(number: int, texts: int) -> Iterator[None]:
    """Say which of a request's texts is refused.

    Raises:
        UserError: if the block does.
    """
    try:
        yield
    except UnreadableText as error:
        raise UnreadableText(number, texts, error.problem) from error
    except UserError as error:
        raise UserError(f"text {number + 1} of {texts}: {error}" if texts > 1 else str(error)) from error


def _lengths(model: Model, texts: list[str]) -> list[int]:
    """Tokens of each text in the pre-trained encoder's vocabulary, as far as it reads them."""
    tokenizer, most = model.pretrained.tokenizer, model.pretrained.model.encoder.max_length
    return [min(len(ids) + 2, most) for ids in tokenizer.encode([tokenizer.clean(text) for text in texts])]


def _require_few(limits: Limits, number: int, what: str = "texts") -> None:
    """See that a request has no more texts than it may have, before they are tokenized.

    Raises:
        UserError: if it has.
    """
    if number > limits.texts:
        raise UserError(
            f"the request has {number:,} {what}, and may have at most {limits.texts}; send fewer, or several requests"
        )


def _within(limits: Limits, lengths: list[int], passes: int = 1, numbers: int = 0) -> int:
    """The tokens that a request computes.

    Args:
        limits: of the server.
        lengths: tokens of each text.
        passes: how many times each is computed.
        numbers: in the answer.

    Raises:
        UserError: if they are more than a request may have.
    """
    _require_few(limits, len(lengths))
    for number, length in enumerate(lengths):
        if length > limits.text_tokens:
            problem = f"has {length:,} tokens, and may have at most {limits.text_tokens:,}; shorten it"
            raise UnreadableText(number, len(lengths), problem)
    tokens, most = sum(lengths), limits.request_tokens // passes
    if tokens > most:
        why = f", since each is computed {passes} times" if passes > 1 else ""
        raise UserError(f"the request has {tokens:,} tokens, and may have at most {most:,}{why}; shorten or divide it")
    if numbers > limits.answer_numbers:
        raise UserError(
            f"the answer would have {numbers:,} numbers, and may have at most {limits.answer_numbers:,}; divide the "
            "request, or ask for less"
        )
    return tokens * passes


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _body(answers: list[str]) -> bytes:
    return f"[{','.join(answers)}]".encode()
