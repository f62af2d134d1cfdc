"""A model for other tools: a folder for the Hugging Face hub, with a model card and, if asked for, ONNX files.

Our folders are in the Hugging Face layout already. Exporting copies the files that a user of the model needs, and adds
a card that says how the model was trained.
"""

from __future__ import annotations

import importlib.resources
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from bertwright.errors import UserError, extra
from bertwright.evaluate.comparison import metric_name, system_name
from bertwright.evaluate.report import without_folders
from bertwright.files import atomic_path, digests, read_json, write_text
from bertwright.inference import Model
from bertwright.models.checkpoints import AnyModel, load_pretraining_model, load_tokenizer, read_config
from bertwright.models.heads import PretrainingModel, TaskModel
from bertwright.models.layouts import FORMATS
from bertwright.models.sentence_folder import FILES, MODULES, read_pooling, write_pooling
from bertwright.models.stored import WEIGHTS, has_task_head, read_tensors, reading
from bertwright.tasks.answers import Prediction
from bertwright.tasks.registry import load_task_model
from bertwright.vectors import load_vector_model

ONNX_FILE = "onnx/model.onnx"
INT8_FILE = "onnx/model_int8.onnx"
_OPSET = 20  # the first with GELU as one operator


def export(folder: Path, out: Path, onnx: bool, int8: bool, small: bool = False, license: str = "unknown") -> Path:
    """Write a folder that is ready to push to the hub.

    Args:
        folder: a model folder. Where it belongs to a run, the card has the run's recipe and scores, and shows one
            short text of the run's test split.
        out: the folder to write; it must not exist.
        onnx: also write the model for ONNX Runtime, in float32.
        int8: also write it with int8 weights.
        small: write weights in bfloat16, half the size of float32.
            `transformers` computes in float32 all the same, Bertwright in bfloat16 where the hardware has it.
        license: the hub's identifier of what others may do with it, such as apache-2.0, for the card.

    Returns:
        `out`.

    Raises:
        UserError: if `out` exists, the model cannot be read, it is a causal classifier, or a package that
            writes ONNX is missing.
    """
    if out.exists():
        raise UserError(f"{out} exists; give a new folder, or remove it")
    config = read_config(folder)
    model = _loaded(folder, config)
    if isinstance(model, TaskModel) and model.encoder.causal:
        raise UserError(
            f"{folder} is a causal classifier, which classifies by the last token; other tools classify by [CLS], and "
            "their predictions would differ: it cannot be exported"
        )
    load_tokenizer(folder)  # refuses one that does not belong to the model
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for name in ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.txt", *FILES):
            if (folder / name).exists():
                (temporary / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / name, temporary / name)
        pooling = read_pooling(folder)
        if pooling is not None and not (temporary / MODULES).exists():  # of the older form, in a folder above
            write_pooling(temporary, pooling, model.encoder.config.hidden_size, lacks_pooler=False)
        if small or not (folder / WEIGHTS).exists():  # they may stand in several files
            tensors = read_tensors(folder)
            if small:  # numbers of positions stay whole: bfloat16 has one in two, from 256 on
                halved = {name: value.bfloat16() for name, value in tensors.items() if value.is_floating_point()}
                tensors |= halved
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        if onnx or int8:
            (temporary / "onnx").mkdir()
            write_onnx(model, temporary / ONNX_FILE)
        if int8:
            _quantize(temporary / ONNX_FILE, temporary / INT8_FILE)
            if not onnx:
                (temporary / ONNX_FILE).unlink()
        write_text(temporary / "README.md", model_card(folder, model, small, license))
    return out


def _loaded(folder: Path, config: dict[str, Any]) -> AnyModel:
    """The model of a folder: what makes vectors, a task's, or a pre-trained one."""
    pooling = read_pooling(folder)
    if pooling is not None:
        return load_vector_model(folder, pooling)
    return load_task_model(folder) if has_task_head(config) else load_pretraining_model(folder)


def _outputs(model: AnyModel) -> dict[str, int]:
    """The names of what a model gives, with the place of each among its outputs; a random head's are left out.

    Raises:
        UserError: if nothing remains.
    """
    if isinstance(model, TaskModel) and model.kind == "embedding":
        return {"sentence_embedding": 0}
    if isinstance(model, TaskModel):
        return {"start_logits": 0, "end_logits": 1} if model.kind == "span" else {"logits": 0}
    found = {"prediction_logits": 0, "seq_relationship_logits": 1}
    if "masked_language_model" in model.absent:
        del found["prediction_logits"]
    if model.absent & {"next_sentence", "pooler"}:
        del found["seq_relationship_logits"]
    if not found:
        raise UserError("the model has no head, neither for masked tokens nor for next sentences, to write as ONNX")
    return found


class _Logits(nn.Module):
    """A model with inputs and outputs in the order and under the names that ONNX users of BERT expect."""

    def __init__(self, model: AnyModel, places: list[int]) -> None:
        super().__init__()
        self.model = model
        self.places = places

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        if self.model.kind == "choice":
            flat = [one.flatten(0, 1) for one in (input_ids, token_type_ids, attention_mask)]
            return self.model(*flat).view(input_ids.shape[:2])
        found = self.model(input_ids, token_type_ids, attention_mask)
        if self.model.kind == "span":
            return found.unbind(-1)
        return found if isinstance(found, Tensor) else tuple(found[place] for place in self.places)


def write_onnx(model: AnyModel, path: Path) -> None:
    """Write a model for ONNX Runtime: any batch size, any length up to the model's positions.

    Inputs are input_ids, attention_mask and, of an encoder with segments, token_type_ids, int64 (batch, sequence). The
    output is logits, (batch, classes), or of tokens (batch, sequence, classes), in the order of the labels; of a
    pre-trained model prediction_logits (batch, sequence, vocabulary) and seq_relationship_logits (batch, 2), as far as
    it has them. A model for questions gives start_logits and end_logits, (batch, sequence); one for choices reads
    (batch, choices, sequence), and gives logits (batch, choices). A folder of sentence-transformers gives
    sentence_embedding, (batch, numbers of a vector).

    Args:
        model: ours.
        path: the file.

    Raises:
        UserError: if onnx or onnxscript is not installed, or the model has no head.
    """
    outputs = _outputs(model)
    sequence = torch.export.Dim("sequence", max=model.encoder.max_length)
    sizes = {0: torch.export.Dim("batch"), 1: sequence}
    shape: tuple[int, ...] = (2, 16)
    if model.kind == "choice":
        shape, sizes = (2, 3, 16), {0: torch.export.Dim("batch"), 1: torch.export.Dim("choices"), 2: sequence}
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if model.encoder.has_segments else [])]
    example = (torch.ones(shape).long(), torch.ones(shape).long(), torch.zeros(shape).long())[: len(names)]
    # It warns of packages that no model here needs.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with extra("export", "writing ONNX"), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Logits(model.cpu().eval(), list(outputs.values())),
            example,
            dynamo=True,
            opset_version=_OPSET,
            input_names=names,
            output_names=list(outputs),
            dynamic_shapes=dict.fromkeys(names, sizes),
            verbose=False,
        )
    assert program is not None
    program.save(path)


def _quantize(source: Path, target: Path) -> None:
    """Weights of linear maps as int8, one scale per output; activations are quantized dynamically."""
    with extra("export", "int8"):
        from onnxruntime.quantization import QuantType, quantize_dynamic
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])


def find_results(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The run that a model folder belongs to, with its results; None where there is none.

    A results.json above the folder is not enough: it must be of these weights.

    Args:
        folder: of the model.
    """
    folder = folder.resolve()
    for run in folder.parents:
        results = read_json(run / "results.json") if (run / "results.json").is_file() else None
        if isinstance(results, dict):
            evaluated = results.get("weights", {}).get(folder.relative_to(run).as_posix())
            same = evaluated is not None and digests([folder / WEIGHTS])[0][1] == evaluated
            return (run, results) if same else None
    return None


_EXAMPLE_LENGTH = 160


def _example(run: Path, folder: Path) -> dict[str, str] | None:
    """A short text of the run's test split that was classified right, and the model's prediction, as a card shows it.

    None where there is no such text.
    """
    path = run / "evaluate" / "examples.json"
    shown = read_json(path).get("classified", []) if path.exists() else []
    fit = [
        one
        for one in shown
        if one["prediction"] == one["label"] and len(one["text"]) <= _EXAMPLE_LENGTH and "```" not in one["text"]
    ]
    model = Model(folder.name, folder, folder)
    if not fit or model.classifier.notes.get("text_pair"):
        return None
    chosen = max(fit, key=lambda one: one["score"])
    prediction = model.predict(chosen["text"])
    if not isinstance(prediction, Prediction):
        return {"text": repr(chosen["text"]), "answer": model.task.line(prediction, chosen["text"])}
    return {"text": repr(chosen["text"]), "answer": f"{prediction.label}, {prediction.score:.2f}"}


_TASK_TAGS = {
    "sequence": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "choice": "multiple-choice",
    "embedding": "sentence-similarity",
}
"""The hub's names for what a task's head is for, by its kind."""


def _pipeline_tag(model: AnyModel) -> str:
    """The hub's name for what a model does."""
    if isinstance(model, TaskModel):
        return _TASK_TAGS[model.kind]
    if "masked_language_model" in model.absent:
        return "feature-extraction"
    return "text-generation" if model.encoder.causal else "fill-mask"


def _heads(model: AnyModel) -> str:
    """An encoder's heads in words."""
    assert isinstance(model, PretrainingModel)
    heads = {
        "masked tokens": "masked_language_model" not in model.absent,
        "next sentences": not model.absent & {"next_sentence", "pooler"},
    }
    found = [name for name, there in heads.items() if there]
    return f", with {'its heads' if len(found) > 1 else 'its head'} for {' and '.join(found)}" if found else ""


def model_card(folder: Path, model: AnyModel, small: bool, license: str) -> str:
    """The README.md of a model on the hub.

    Args:
        folder: the model's; where it belongs to a run, the card has the run's recipe and results, and one text of its
            test split.
        model: from there.
        small: whether its weights are stored in bfloat16.
        license: the hub's identifier.
    """
    belongs = find_results(folder)
    found: dict[str, Any] = {}
    is_classifier = isinstance(model, TaskModel)
    if belongs is not None:
        run, results = belongs
        found = {"results": results, "seed": folder.resolve().parent.name.removeprefix("seed-")}
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        found["from_scratch"] = not (recipe["finetune"].get("encoder") or recipe["pretrain"].get("encoder"))
        found["recipe"] = yaml.safe_dump(without_folders(recipe), sort_keys=False, allow_unicode=True)
        found["example"] = _example(run, folder) if model.kind in ("sequence", "token") else None
    template = importlib.resources.files("bertwright.apps").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    return (
        jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(template)
        .render(
            tag=_pipeline_tag(model),
            kind=FORMATS[model.encoder.config.architecture].title,
            shape=model.encoder.config,
            vocab_size=model.encoder.vocab_size,
            label_names=model.label_names if isinstance(model, TaskModel) else [],
            heads="" if isinstance(model, TaskModel) else _heads(model),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            small=small,
            license=license,
            classifier=is_classifier,
            truncation=_truncation(folder, model),
            html_line_breaks=load_tokenizer(folder).html_line_breaks,
            threshold=model.notes.get("no_answer_threshold") if isinstance(model, TaskModel) else None,
            task=model.task if isinstance(model, TaskModel) else None,
            pair=isinstance(model, TaskModel) and model.notes.get("text_pair"),
            thresholds=isinstance(model, TaskModel) and model.notes.get("label_thresholds"),
            system_name=lambda system: system_name(system, found["results"]),
            metric_name=lambda key: metric_name(key, found["results"]),
            **found,
        )
    )


def _truncation(folder: Path, model: AnyModel) -> str | None:
    """How a classifier reads a long text."""
    if not isinstance(model, TaskModel):
        return None
    return reading(folder / "tokenizer_config.json", model.encoder.max_length)[1]
