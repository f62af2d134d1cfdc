"""A model for other tools: a folder ready for the Hugging Face hub, with its card, and ONNX files beside it.

Our folders are in the Hugging Face layout already; exporting copies what a user of the model needs, and writes down
where it comes from.
"""

from __future__ import annotations

import importlib.resources
import shutil
import warnings
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertwright.errors import UserError
from bertwright.evaluate.report import SYSTEM_NAMES
from bertwright.files import atomic_path, read_json, write_text
from bertwright.model.heads import BertForPreTraining, BertForSequenceClassification
from bertwright.model.interop import load_classifier, load_pretraining_model, read_config

ONNX_FILE = "onnx/model.onnx"
INT8_FILE = "onnx/model_int8.onnx"
_OPSET = 20  # the first with GELU as one operator


def export(folder: Path, out: Path, onnx: bool, int8: bool, small: bool = False, license: str = "unknown") -> Path:
    """Write a folder that is ready to push to the hub.

    Args:
        folder: a model folder. Where it belongs to a run, the card tells the run's recipe and figures.
        out: the folder to write; it must not exist.
        onnx: also write the model for ONNX Runtime, in float32.
        int8: also write it with int8 weights.
        small: write weights in bfloat16 in place of float32: half the size.
            Whoever opens the folder, `transformers` included, computes in float32 all the same.
        license: the hub's identifier of what others may do with it, such as apache-2.0; it goes on the card.

    Returns:
        `out`.

    Raises:
        UserError: if `out` exists, the model cannot be read, it is a left-to-right classifier, or a package that
            writes ONNX is missing.
    """
    if out.exists():
        raise UserError(f"{out} exists; give a new folder, or remove it")
    config = read_config(folder)
    if config.get("is_decoder") and "id2label" in config:
        raise UserError(
            f"{folder} is a left-to-right classifier, which judges by the last token; elsewhere BERT judges by [CLS] "
            "and would say something else: it stays here"
        )
    model = load_classifier(folder) if "id2label" in config else load_pretraining_model(folder)
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            if (folder / name).exists():
                shutil.copyfile(folder / name, temporary / name)
        if small:
            _shrink(temporary / "model.safetensors")
        if onnx or int8:
            (temporary / "onnx").mkdir()
            write_onnx(model, temporary / ONNX_FILE)
        if int8:
            _quantize(temporary / ONNX_FILE, temporary / INT8_FILE)
            if not onnx:
                (temporary / ONNX_FILE).unlink()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        write_text(temporary / "README.md", model_card(folder, config, parameters, small, license))
    return out


def _shrink(path: Path) -> None:
    """Rewrite a file of weights in bfloat16."""
    tensors = {name: value.to(torch.bfloat16) for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


class _Logits(nn.Module):
    """A model with inputs and outputs in the order and under the names that ONNX users of BERT expect."""

    def __init__(self, model: BertForPreTraining | BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        return self.model(input_ids, token_type_ids, attention_mask)


def write_onnx(model: BertForPreTraining | BertForSequenceClassification, path: Path) -> None:
    """Write a model for ONNX Runtime: any batch size, any length up to the model's positions.

    Inputs are input_ids, attention_mask and token_type_ids, int64 (batch, sequence). The output is logits,
    (batch, classes); of a pre-trained model prediction_logits (batch, sequence, vocabulary) and
    seq_relationship_logits (batch, 2).

    Args:
        model: ours.
        path: the file.

    Raises:
        UserError: if onnx or onnxscript is not installed.
    """
    outputs = ["logits"]
    if isinstance(model, BertForPreTraining):
        outputs = ["prediction_logits", "seq_relationship_logits"]
    shape = (2, 16)
    example = (torch.ones(shape, dtype=torch.long), torch.ones(shape, dtype=torch.long), torch.zeros(shape).long())
    batch, sequence = (
        torch.export.Dim("batch"),
        torch.export.Dim("sequence", max=model.bert.config.max_position_embeddings),
    )
    names = ["input_ids", "attention_mask", "token_type_ids"]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Logits(model.cpu().eval()),
                example,
                dynamo=True,
                opset_version=_OPSET,
                input_names=names,
                output_names=outputs,
                dynamic_shapes={name: {0: batch, 1: sequence} for name in names},
                verbose=False,
            )
    except ImportError as error:
        raise UserError(f"writing ONNX needs a package that is not installed ({error.name}); {_INSTALL}") from error
    assert program is not None
    program.save(path)


_INSTALL = "install bertwright with it: pip install 'bertwright[export]'"


def _quantize(source: Path, target: Path) -> None:
    """Weights of linear maps as int8, one scale per output; activations are quantized as they come."""
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise UserError(f"int8 needs a package that is not installed ({error.name}); {_INSTALL}") from error
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])


def _without_folders(recipe: Any) -> Any:
    """A recipe whose absolute paths are names alone: where things lay on one machine is nobody else's business."""
    if isinstance(recipe, dict):
        return {key: _without_folders(value) for key, value in recipe.items()}
    return Path(recipe).name if isinstance(recipe, str) and Path(recipe).is_absolute() else recipe


def model_card(folder: Path, config: dict[str, Any], parameters: int, small: bool, license: str) -> str:
    """The README.md of a model on the hub.

    Args:
        folder: the model's; a run's recipe, environment and results are looked for above it.
        config: its config.json.
        parameters: how many weights it has.
        small: whether they are rounded.
        license: the hub's identifier.
    """
    run = next((parent for parent in folder.resolve().parents if (parent / "results.json").exists()), None)
    found: dict[str, Any] = {}
    if run is not None:
        found = {
            "results": read_json(run / "results.json"),
            "environment": read_json(run / "environment.json"),
            "seed": folder.resolve().parent.name.removeprefix("seed-"),
        }
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        found["from_nothing"] = recipe["finetune"].get("encoder") is None
        found["truncation"] = recipe["finetune"]["truncation"]
        found["recipe"] = yaml.safe_dump(_without_folders(recipe), sort_keys=False, allow_unicode=True)
    template = importlib.resources.files("bertwright.use").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    return (
        jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(template)
        .render(
            config=config,
            parameters=parameters,
            small=small,
            license=license,
            classifier="id2label" in config,
            left_to_right=config.get("is_decoder", False),
            system_names=SYSTEM_NAMES,
            **found,
        )
    )
