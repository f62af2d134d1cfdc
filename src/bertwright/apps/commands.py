"""The commands that use a trained model: each reads its texts, calls the model, and prints."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import bertwright
from bertwright.apps.file_answers import AT_ONCE, TextRows, answered, open_rows, predict_into, trained_columns
from bertwright.apps.printing import Given, print_explanations, print_json, print_prediction, print_vectors
from bertwright.errors import UnreadableText, UserError, extra
from bertwright.text import formats


def predict(
    texts: list[str],
    model: str = "bundled",
    file: str | None = None,
    out: str | None = None,
    text_column: str | None = None,
    format: Literal["table", "jsonl", "html"] = "table",
    explain: bool = False,
    question: str | None = None,
    context: str | None = None,
    choices: list[str] | None = None,
    text_pair: str | None = None,
    text_pair_column: str | None = None,
    label: str | None = None,
) -> None:
    """Predict the class of texts: those given, those of a file, or one a line from standard input.

    Args:
        texts: to classify; without them and --file, the lines of standard input.
        model: a model folder, the folder of a run, or bundled: the model that comes with Bertwright.
        file: a .txt (a text a line), .csv, .tsv, .jsonl or .parquet file, also compressed; for tags of words also
            .conll, or .txt like it. A row without text has an empty prediction.
        out: of a file, write all its columns with label, score and the probability of each class to this .csv, .tsv or
            .jsonl file.
        text_column: of the file; the default is the column that the model was trained on, text, or the only column.
        format: without --out, a table to read, JSON lines, or a page (with --explain).
        explain: also show which words moved each prediction: of a class, of labels or of a number.
        question: to be answered from the context.
        context: of the question, or of the choices.
        text_pair: the second text of the one that is given, where the model reads pairs.
        text_pair_column: of the file, where the model reads pairs; the default is that of training, or text_pair.
        choices: of which one follows the context, as a list: '["in May", "in June"]'.
        label: with --explain, the class or label whose words are shown; the default is the most probable.

    Raises:
        UserError: if there is no text, one that is given has no word, or the model is for another task.
    """
    _check_explained(explain, format, label)
    asked = _asked(question=question, context=context, choices=choices) | _pair(texts, text_pair)
    if asked:
        other = bool((texts and text_pair is None) or file or out)
        return _predict_one(asked, model, other, format, explain, label)
    if out is not None and (file is None or explain or format != "table"):
        raise UserError("--out holds the predictions of a --file; give one, without --explain and --format")
    _check_file(texts, file, text_column or text_pair_column)
    given = _given(texts) if file is None else []
    classifier = bertwright.load(model)
    task, usual, names = classifier.task, trained_columns(model), classifier.classifier.label_names
    rows = None if file is None else open_rows(Path(file), text_column, usual, task.reads, text_pair_column, names)
    if rows is not None and out is not None:
        predict_into(rows, Path(out), names, classifier.predict, task)
    elif explain:
        print_explanations(classifier, given if rows is None else _given_of(rows), format, rows, label)
    elif rows is not None:
        for chunk in rows.chunks():
            for (_, one), prediction in zip(chunk, answered(rows, chunk, classifier.predict), strict=True):
                print_prediction(classifier.task, one or "", prediction, format)
        rows.skipped.report(rows.rows)
    else:
        _predict_texts(classifier, given, format)


def _predict_texts(classifier: bertwright.Model, given: Sequence[Given], format: str) -> None:
    for start in range(0, len(given), AT_ONCE):
        part = given[start : start + AT_ONCE]
        with _naming(part):
            predictions = classifier.predict([one.text for one in part])
        for one, prediction in zip(part, predictions, strict=True):
            print_prediction(classifier.task, one.text, prediction, format)


def _asked(**fields: Any) -> dict[str, Any]:
    """What is given by name: a text, or a list of texts."""
    return {
        name: formats.repaired(one) if isinstance(one, str) else [formats.repaired(text) for text in one]
        for name, one in fields.items()
        if one
    }


def _pair(texts: Sequence[str], text_pair: str | None) -> dict[str, Any]:
    """The text that is given, with a second one, if there is one.

    Raises:
        UserError: if there are several texts, or none.
    """
    if text_pair is None:
        return {}
    if len(texts) != 1:
        raise UserError(f"--text-pair is the second text of one, and {len(texts)} are given; give one text")
    return _asked(text=texts[0], text_pair=text_pair)


def _check_explained(explain: bool, format: str, label: str | None) -> None:
    """See that what explanations alone have is not asked of predictions.

    Raises:
        UserError: if it is.
    """
    if label is not None and not explain:
        raise UserError("--label names what is explained; add --explain, or leave it out")
    if format == "html" and not explain:
        raise UserError("an HTML page shows explanations: add --explain, or choose --format table or jsonl")


def _predict_one(asked: dict[str, Any], name: str, other: bool, format: str, explain: bool, label: str | None) -> None:
    """Answer what is given by name.

    Raises:
        UserError: if there is something else to answer, or the model reads other columns.
    """
    if other:
        raise UserError(
            "--question, --context, --choices and --text-pair say what is to be answered; leave out other texts, "
            "--file and --out"
        )
    model = bertwright.load(name)
    if explain:
        print_explanations(model, [Given(asked, "what is given")], format, None, label)
    else:
        print_prediction(model.task, asked, model.predict(asked), format)


def _given_of(rows: TextRows) -> list[Given]:
    return [Given(text, rows.where(row)) for chunk in rows.chunks() for row, text in chunk if text is not None]


@contextmanager
def _naming(part: Sequence[Given]) -> Iterator[None]:
    """Say where a text stands that a model refuses: the model knows only its number among those of the call.

    Raises:
        UserError: if the block does, with the place of the text.
    """
    try:
        yield
    except UnreadableText as error:
        raise UserError(f"{part[error.number].where} {error.problem}") from error


def fill_mask(text: str, model: str = "bundled", top_k: int = 5, format: Literal["table", "jsonl"] = "table") -> None:
    """Predict the masked tokens of a text.

    Args:
        text: with one [MASK] or more.
        model: a model folder, the folder of a run, or bundled: the model that comes with Bertwright.
        top_k: how many tokens to print for each mask.
        format: a table to read, or JSON lines, one for each mask.

    Raises:
        UserError: if the text has no [MASK] or is too long.
    """
    for number, predictions in enumerate(bertwright.load(model).fill_mask(text, top_k), 1):
        if format == "jsonl":
            print_json({"mask": number, "predictions": [asdict(prediction) for prediction in predictions]})
        else:
            print(f"[MASK] {number}: " + ", ".join(f"{one.token} {one.score:.3f}" for one in predictions))


def next_sentence(first: str, second: str, model: str = "bundled", format: Literal["table", "jsonl"] = "table") -> None:
    """Predict whether a text follows another in a document.

    Args:
        first: the text before.
        second: the text that may follow it.
        model: a model folder, the folder of a run, or bundled: the model that comes with Bertwright.
        format: a line to read, or JSON.

    Raises:
        UserError: if one of them has no word.
    """
    probability = bertwright.load(model).next_sentence(first, second)
    if format == "jsonl":
        print_json({"is_next": probability >= 0.5, "score": probability})
    else:
        print(f"{'follows' if probability >= 0.5 else 'does not follow'}; probability that it does: {probability:.3f}")


def embed(
    texts: list[str],
    model: str = "bundled",
    file: str | None = None,
    out: str | None = None,
    text_column: str | None = None,
    pooling: Literal["mean", "cls"] | None = None,
    dimensions: int | None = None,
    per_token: bool = False,
    layers: int | None = None,
) -> None:
    """Compute vectors of texts: one for each as JSON lines, or all into a file.

    Args:
        texts: to compute vectors of; without them and --file, the lines of standard input.
        model: a model folder, one of sentence-transformers, the folder of a run, or bundled: the model that comes with
            Bertwright.
        file: a .txt (a text a line), .csv, .tsv, .jsonl or .parquet file, also compressed. Of a text that is too long
            for the model, the beginning is used, with a notice.
        out: of a file, write the vectors to this .parquet file, beside all its columns, or to this .npy file, a row
            for each text.
        text_column: of the file; the default is the column that the model was trained on, text, or the only column.
        pooling: mean of all tokens' vectors or that of [CLS], in place of the folder's own, which is the mean where it
            says nothing.
        dimensions: how many first numbers of a vector are kept, and divided by their length; the default is all.
        per_token: print the vector of each token, of the pre-trained encoder.
        layers: with --per-token, how many of the last layers a token's vector holds side by side; the default is one.

    Raises:
        UserError: if there is no text, one that is given has no word, or the model has fewer layers or dimensions.
    """
    if out is not None and (file is None or per_token):
        raise UserError("--out holds a vector for each text of a --file; give one, without --per-token")
    if layers is not None and not per_token:
        raise UserError("--layers is about the vectors of tokens; add --per-token, or leave it out")
    if per_token and (pooling is not None or dimensions is not None):
        raise UserError("--pooling and --dimensions make one vector of a text; leave them out, or --per-token")
    rows = _file_rows(texts, file, text_column, model)
    given = _given(texts) if rows is None else []
    loaded = bertwright.load(model)
    if rows is not None and out is not None:
        from bertwright.apps.vector_files import embed_into

        embed_into(rows, Path(out), loaded.text_encoder(pooling), dimensions)
        return

    def answer(part: list[str]) -> Sequence[Any]:
        if per_token:
            return loaded.embed(part, 1 if layers is None else layers, truncate=True)
        return list(zip(*loaded.text_encoder(pooling).encode(part, dimensions), strict=True))

    if rows is None:
        for one in given:
            with _naming([one]):
                print_vectors(one.text, one.where, answer([one.text])[0])
        return
    for chunk in rows.chunks():
        for (row, text), found in zip(chunk, answered(rows, chunk, answer), strict=True):
            print_vectors(text or "", rows.where(row), found)
    rows.skipped.report(rows.rows, "have no vector")


def export(
    out: str,
    model: str = "bundled",
    part: Literal["classifier", "pretrained"] = "classifier",
    onnx: bool = False,
    int8: bool = False,
    small: bool = False,
    license: str = "unknown",
) -> None:
    """Write a model folder for the Hugging Face hub, with its card, and if asked for ONNX Runtime.

    Args:
        out: the folder to write; it must not exist.
        model: a model folder, the folder of a run, or bundled: the model that comes with Bertwright.
        part: of a run, its classifier or its pre-trained encoder.
        onnx: also write onnx/model.onnx, in float32.
        int8: also write onnx/model_int8.onnx, with int8 weights.
        small: weights in bfloat16 in place of float32: half the size.
        license: the hub's identifier of what others may do with the model, such as apache-2.0, for the card.

    Raises:
        UserError: if the folder exists, the model cannot be read, a run lacks the part, or a package is missing.
    """
    from bertwright.apps.export import export as write
    from bertwright.models.checkpoints import find_model, read_config
    from bertwright.models.stored import has_task_head

    found = bertwright.load(model)
    folder = found.classifier_folder if part == "classifier" else found.pretrained.folder
    if part == "pretrained" and folder != find_model(model, "sentiment") and has_task_head(read_config(folder)):
        raise UserError(f"{model} has no encoder of its own: it began with finetune.encoder of its recipe; export that")
    print(f"written to {write(folder, Path(out), onnx, int8, small, license)}")


def serve(
    model: str = "bundled",
    host: str = "127.0.0.1",
    port: int = 8000,
    index: str | None = None,
    index_model: str | None = None,
) -> None:
    """Serve a model: a web page at /, a JSON API described at /docs, /health and /metrics.

    Args:
        model: a model folder, the folder of a run, or bundled: the model that comes with Bertwright.
        host: the address to listen on; 0.0.0.0 lets other machines in.
        port: the port to listen on; 0 takes a free one.
        index: an index of texts, from bertwright search build, that can be searched, too.
        index_model: where the model that built the index has been moved to; the default is where it was.

    Raises:
        UserError: if the model cannot be read, the address cannot be listened on, or a package is missing.
    """
    with extra("serve", "serving"):
        from bertwright.apps.serving import serve_forever
    serve_forever(lambda: bertwright.load(model), host, port, index, index_model)


def _file_rows(texts: Sequence[str], file: str | None, text_column: str | None, model: str) -> TextRows | None:
    """The rows of --file, if there is one."""
    _check_file(texts, file, text_column)
    return None if file is None else open_rows(Path(file), text_column, trained_columns(model))


def _check_file(texts: Sequence[str], file: str | None, text_column: str | None) -> None:
    """See that texts come from one place.

    Raises:
        UserError: if there are texts and a file, or a column of no file.
    """
    if file is None and text_column is not None:
        raise UserError("--text-column is that of a --file; give one, or leave it out")
    if file is not None and texts:
        raise UserError("give texts or --file, not both")


def _given(texts: Sequence[str]) -> list[Given]:
    """The texts of a command: its arguments, or the lines of standard input."""
    if texts:
        found = [Given(text, f"text {number} of {len(texts)}") for number, text in enumerate(texts, 1)]
    else:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are not UTF-8 become question marks below
        found = list(_lines(sys.stdin, "standard input"))
    if not found:
        raise UserError("there is no text; give one in quotes, a --file, or lines on standard input")
    return [Given(formats.repaired(one.text), one.where) for one in found]  # so that it can be printed


def _lines(lines: Iterable[str], source: str) -> Iterator[Given]:
    return (Given(line.rstrip("\n"), f"{source}, line {n}") for n, line in enumerate(lines, 1) if line.strip())
