"""What a model folder of Hugging Face says of itself: its settings, its head and labels, and its tensors.

A folder is computed exactly, or refused with the reason. Here stand the reasons that hold for every architecture;
`checkpoints.py` has those of a single one, and builds the models.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bertwright.errors import UserError
from bertwright.files import read_json

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

_HEADS = {
    "ForSequenceClassification": "classification of texts",
    "ForTokenClassification": "token classification",
    "ForQuestionAnswering": "question answering",
    "ForMultipleChoice": "multiple choice",
    "ForNextSentencePrediction": "next-sentence prediction",
    "ForMaskedLM": "masked tokens",
    "ForPreTraining": "pre-training",
    "LMHeadModel": "next tokens",
}
"""Heads, by the end of the names of Hugging Face's classes."""

_PRETRAINED = ("next-sentence prediction", "masked tokens", "pre-training", "next tokens")

_UNREAD = {
    "auto_map": "code of its own",
    "quantization_config": "quantized weights",
    "pruned_heads": "pruned attention heads",
    "add_cross_attention": "cross-attention",
}
"""Settings of a config.json that change what is computed, unless they are empty or false."""

_CONVERT = (
    "import sys, pathlib, torch, safetensors.torch as s; f = pathlib.Path(sys.argv[1]); "
    "s.save_file({k: v.clone().contiguous() for p in sorted(f.glob('pytorch_model*.bin')) for k, v in "
    "torch.load(p, map_location='cpu', weights_only=True).items()}, f / 'model.safetensors', "
    "metadata={'format': 'pt'})"
)
"""A program that turns pickled weights into safetensors. `weights_only` executes nothing that the pickle holds."""


_OUTPUTS = {
    "single_label_classification": ("classification", "softmax"),
    "multi_label_classification": ("multi-label", "sigmoid"),
    "regression": ("regression", "none"),
}
"""Task, and function of the outputs, for each problem_type."""

_TRUNCATIONS = ("head", "tail", "head-tail", "windows")

_MODERN = {"gamma": "weight", "beta": "bias"}


def architecture(config: dict[str, Any]) -> str:
    """Hugging Face's class of a config.json, such as BertForMaskedLM; empty where it names none."""
    named = config.get("architectures") or [""]
    return str(named[0])


def head_of(config: dict[str, Any]) -> str:
    """What a folder's head is for, in words; empty for an encoder alone, or where it is not said."""
    name = architecture(config)
    return next((words for end, words in _HEADS.items() if name.endswith(end)), "")


def has_task_head(config: dict[str, Any]) -> bool:
    """Whether a folder's head was trained for a task, not by pre-training."""
    return head_of(config) not in ("", *_PRETRAINED) or bool(config.get("finetuning_task"))


def check_settings(config: Any, folder: Path) -> None:
    """See that a config.json asks for nothing that no model here computes.

    Raises:
        UserError: if it does, or it does not say how many entries the vocabulary has.
    """
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} does not hold the settings of a model, by name")
    for setting, words in _UNREAD.items():
        if config.get(setting):
            raise UserError(f"{folder} has {words} ({setting} in its config.json), which Bertwright does not compute")
    if not isinstance(config.get("vocab_size"), int):
        raise UserError(f"{folder / 'config.json'} has no vocab_size: it is not the configuration of a BERT model")
    padding = config.get("pad_token_id")
    if padding is not None and not 0 <= padding < config["vocab_size"]:
        raise UserError(f"{folder / 'config.json'}: pad_token_id {padding} is no entry of the vocabulary")


def label_names(config: dict[str, Any], folder: Path) -> list[str]:
    """The names of a head's outputs, in order; Hugging Face's LABEL_0, LABEL_1 and so on where there are none.

    Raises:
        UserError: if they are not numbered 0, 1, 2 and so on, or a name stands for two outputs.
    """
    given = config.get("id2label")
    if given is None:
        number = config.get("num_labels", config.get("_num_labels", 2))
        return [f"LABEL_{n}" for n in range(number)]
    try:
        by_number = {int(number): str(name) for number, name in given.items()}
    except (AttributeError, ValueError):
        by_number = {}
    names = [by_number[number] for number in sorted(by_number)]
    if not names or sorted(by_number) != list(range(len(names))):
        raise UserError(f"{folder / 'config.json'}: id2label must name the classes 0, 1, 2 and so on, without holes")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{folder / 'config.json'}: id2label calls two classes {twice!r}; give each a name of its own")
    return names


def _problem_type(config: dict[str, Any]) -> str:
    """What the outputs are for; a lone one is a number where that is not said, as `transformers` trains it."""
    number = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
    return str(config.get("problem_type") or ("regression" if number == 1 else "single_label_classification"))


def task_of_outputs(config: dict[str, Any]) -> str | None:
    """The task of a head on sequences: classification, regression or multi-label; None for another head."""
    is_sequence = architecture(config).endswith("ForSequenceClassification")
    return _OUTPUTS.get(_problem_type(config), ("classification", ""))[0] if is_sequence else None


def check_outputs(config: dict[str, Any], folder: Path) -> None:
    """See that the outputs of a head on sequences mean what we compute.

    Raises:
        UserError: if they are too few, too many, or the pipeline of `transformers` makes something else of them.
    """
    kind, names = _problem_type(config), label_names(config, folder)
    rescue = f"it can be fine-tuned as an encoder: finetune.encoder {folder}"
    task, usual = _OUTPUTS.get(kind, ("", ""))
    if task == "regression" and len(names) > 1:
        raise UserError(f"{folder} is a regression model with {len(names)} numbers, and Bertwright has one; {rescue}")
    if not task or (task == "classification" and len(names) < 2):
        raise UserError(f"{folder} has problem_type {kind} and {len(names)} labels, which no classifier has; {rescue}")
    given = config.get("function_to_apply", usual)
    if given != usual:
        raise UserError(f"{folder} has function_to_apply {given}; Bertwright computes {usual}; {rescue}")


def mean_the_same(stored: Sequence[str], names: Sequence[str]) -> bool:
    """Whether two sets of class names are the same, and say what the classes are.

    Numbers and Hugging Face's LABEL_0 do not: those of another task are called alike.
    """
    telling = not any(re.fullmatch(r"(LABEL_)?[-+]?\d+", name, re.IGNORECASE) for name in names)
    return telling and sorted(stored) == sorted(names)


def reading(path: Path, positions: int) -> tuple[int, str]:
    """How a classifier reads long texts, from its tokenizer_config.json.

    `text_truncation` is a note of ours. A folder of another tool was trained on what its tokenizer leaves, which by
    default is the beginning.

    Args:
        path: of the file, which may be missing.
        positions: of the encoder.
    """
    saved = read_json(path) if path.exists() else {}
    longest = saved.get("model_max_length", positions)
    if isinstance(longest, bool) or not isinstance(longest, int | float) or longest < 3:
        raise UserError(f"{path}: model_max_length is {longest!r}; it must be a number of tokens, 3 or more")
    side = saved.get("truncation_side", "right")
    if side not in ("right", "left"):
        raise UserError(f"{path}: truncation_side is {side!r}; it must be right or left")
    truncation = saved.get("text_truncation", "head" if side == "right" else "tail")
    if truncation not in _TRUNCATIONS:
        raise UserError(f"{path}: text_truncation is {truncation!r}; it must be one of {', '.join(_TRUNCATIONS)}")
    return int(min(longest, positions)), truncation


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, from one file or several, by the names that they have there.

    Raises:
        UserError: if there are no safetensors, a file is missing or broken, or tensors are not numbers with a fraction.
    """
    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        if not path.exists():
            raise UserError(f"{folder} lacks {path.name}, which its {INDEX} names; copy it, too")
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is broken or cut short ({error}); copy it again") from error
    for name, value in tensors.items():
        if not torch.is_floating_point(value) and not name.endswith("position_ids"):
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f"{folder}: {name} is {kind}; Bertwright reads weights in float32, float16 and bfloat16")
    return tensors


def modern_names(tensors: dict[str, Tensor], prefix: str, modules: set[str]) -> dict[str, Tensor]:
    """Tensors by the names that they have in a model with a head today.

    Args:
        tensors: from `read_tensors`. Names of TensorFlow's time end in gamma and beta.
        prefix: of the encoder's tensors, which a bare encoder's do not have.
        modules: the topmost of an encoder.
    """
    bare = not any(name.startswith(prefix) for name in tensors)
    found = {}
    for old, value in tensors.items():
        name = re.sub(r"LayerNorm\.(gamma|beta)$", lambda match: f"LayerNorm.{_MODERN[match[1]]}", old)
        found[f"{prefix}{name}" if bare and name.partition(".")[0] in modules else name] = value
    return found


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
            raise UserError(f"{folder / INDEX} does not say which file holds which tensor (weight_map)")
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    if any(folder.glob("pytorch_model*.bin")):
        raise UserError(
            f"{folder} has no {WEIGHTS}, only a pickle, which could run code when read; convert it, which executes "
            f'nothing, with: python -c "{_CONVERT}" {shlex.quote(str(folder))}'
        )
    other = next((path.name for name in ("*.h5", "*.msgpack", "*.onnx", "*.ckpt*") for path in folder.glob(name)), None)
    reason = "" if other is None else f"; it has {other}, which Bertwright does not read"
    raise UserError(f"{folder} has no {WEIGHTS}{reason}")
