"""A model for other tools: a folder for the Hugging Face hub, with a model card and, if asked for, ONNX files.

Our folders are in the Hugging Face layout already. Exporting copies the files that a user of the model needs, and adds
a card that says how the model was trained.
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
from bertwright.evaluate.comparison import metric_name, system_name
from bertwright.evaluate.report import without_folders
from bertwright.files import atomic_path, read_json, write_text
from bertwright.models.checkpoints import AnyModel, load_pretraining_model, read_config
from bertwright.models.heads import PretrainingModel
from bertwright.tasks.registry import load_task_model

ONNX_FILE = "onnx/model.onnx"
INT8_FILE = "onnx/model_int8.onnx"
_OPSET = 20  # the first with GELU as one operator


def export(folder: Path, out: Path, onnx: bool, int8: bool, small: bool = False, license: str = "unknown") -> Path:
    """Write a folder that is ready to push to the hub.

    Args:
        folder: a model folder. Where it belongs to a run, the card has the run's recipe and scores.
        out: the folder to write; it must not exist.
        onnx: also write the model for ONNX Runtime, in float32.
        int8: also write it with int8 weights.
        small: write weights in bfloat16 in place of float32: half the size.
            Bertwright and `transformers` compute in float32 all the same.
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
    if config.get("is_decoder") and "id2label" in config:
        raise UserError(
            f"{folder} is a causal classifier, which classifies by the last token; other tools classify by [CLS], and "
            "their predictions would differ: it cannot be exported"
        )
    model = load_task_model(folder) if "id2label" in config else load_pretraining_model(folder)
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

    def __init__(self, model: AnyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        return self.model(input_ids, token_type_ids, attention_mask)


def write_onnx(model: AnyModel, path: Path) -> None:
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
    if isinstance(model, PretrainingModel):
        outputs = ["prediction_logits", "seq_relationship_logits"]
    shape = (2, 16)
    example = (torch.ones(shape, dtype=torch.long), torch.ones(shape, dtype=torch.long), torch.zeros(shape).long())
    batch, sequence = (
        torch.export.Dim("batch"),
        torch.export.Dim("sequence", max=model.encoder.max_length),
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
    """Weights of linear maps as int8, one scale per output; activations are quantized dynamically."""
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise UserError(f"int8 needs a package that is not installed ({error.name}); {_INSTALL}") from error
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])


def model_card(folder: Path, config: dict[str, Any], parameters: int, small: bool, license: str) -> str:
    """The README.md of a model on the hub.

    Args:
        folder: the model's; a run's recipe and results are looked for above it.
        config: its config.json.
        parameters: how many weights it has.
        small: whether they are stored in bfloat16.
        license: the hub's identifier.
    """
    run = next((parent for parent in folder.resolve().parents if (parent / "results.json").exists()), None)
    found: dict[str, Any] = {}
    if run is not None:
        found = {
            "results": read_json(run / "results.json"),
            "seed": folder.resolve().parent.name.removeprefix("seed-"),
        }
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        found["from_scratch"] = recipe["finetune"].get("encoder") is None
        found["truncation"] = recipe["finetune"]["truncation"]
        found["recipe"] = yaml.safe_dump(without_folders(recipe), sort_keys=False, allow_unicode=True)
    template = importlib.resources.files("bertwright.apps").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    return (
        jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(template)
        .render(
            config=config,
            parameters=parameters,
            small=small,
            license=license,
            classifier="id2label" in config,
            causal=config.get("is_decoder", False),
            system_name=lambda system: system_name(system, found["results"]),
            metric_name=lambda key: metric_name(key, found["results"]),
            **found,
        )
    )
