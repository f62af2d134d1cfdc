"""Folders of sentence-transformers: an encoder whose tokens' vectors become one vector for a text.

`modules.json` names the parts: the encoder, how its vectors are pooled, and whether the result has length 1 (Reimers
and Gurevych 2019, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", section 3). Ours are written in
the same form, and what we do not compute is refused.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from bertwright.errors import UserError
from bertwright.files import digests, read_json, write_json

Mode = Literal["mean", "cls"]
"""How the vectors of a text's tokens become one: their mean, [CLS] and [SEP] among them; or that of [CLS]."""

POOLINGS: tuple[Mode, ...] = get_args(Mode)

MODULES = "modules.json"
_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
_SETTINGS = "sentence_bert_config.json"
FILES = (MODULES, f"{_POOLING}/config.json", _SETTINGS, "config_sentence_transformers.json")
"""What such a folder has beside an encoder's, by its place in the folder."""


_MODEL_FILES = re.compile(
    r"(.*\.safetensors(\.index\.json)?|config\.json|tokenizer\.json|tokenizer_config\.json|vocab\.txt)"
)
"""The files of an encoder's folder on which its vectors depend; what more there may be `read_pooling` says."""


@dataclass(frozen=True)
class Pooling:
    """How an encoder's folder makes one vector of a text.

    Args:
        mode: one of `POOLINGS`.
        normalize: whether the vector is divided by its length.
        max_length: the most tokens that are read, [CLS] and [SEP] included; None is as many as the encoder reads.
        dimensions: how many numbers of a vector, from the first, are kept and divided by their length; None is all.
    """

    mode: Mode = "mean"
    normalize: bool = False
    max_length: int | None = None
    dimensions: int | None = None


def encoder_folder(folder: Path) -> Path:
    """The folder of the encoder: that of sentence-transformers, or the one within it where an older form has it.

    Args:
        folder: any.

    Raises:
        UserError: if modules.json cannot be read.
    """
    if (folder / "config.json").exists() or not (folder / MODULES).exists():
        return folder
    name = str(_modules(folder)[0].get("path"))
    # The name of a folder within, and no way out of it.
    return folder / name if Path(name).name == name and (folder / name / "config.json").exists() else folder


def read_pooling(folder: Path) -> Pooling | None:
    """How a folder of sentence-transformers makes vectors; None for a folder that is not one.

    Args:
        folder: of an encoder, from `encoder_folder`.

    Raises:
        UserError: if it does what we do not compute: another module or pooling, a prompt before each text.
    """
    whole = folder
    if not (folder / MODULES).exists():
        whole = folder.resolve().parent
        if not (whole / MODULES).exists() or encoder_folder(whole).resolve() != folder.resolve():
            return None
    modules = _modules(whole)
    kinds = [str(one["type"]).rpartition(".")[2] for one in modules]
    within = modules[0].get("path") or ""
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or (
        within != "" and whole / within != folder.resolve()
    ):
        raise UserError(
            f"{whole / MODULES} has the modules {', '.join(kinds)}; Bertwright computes Transformer, Pooling and "
            "Normalize, with the encoder in the folder itself or in the one that the first module names; "
            f"{_alone(folder)}"
        )
    mode = _mode(whole / str(modules[1].get("path", _POOLING)) / "config.json", folder)
    _check_other_settings(whole, folder)
    longest = _number(folder / _SETTINGS, "max_seq_length", 3)
    return Pooling(mode, kinds[-1] == "Normalize", longest, _number(whole / FILES[3], "truncate_dim", 1))


def model_digest(folder: Path) -> str:
    """What identifies the vectors of a model: a digest of its weights, settings and tokenizer, wherever they lie.

    How one vector is made of a text, and of how many of its tokens, may stand in a folder above the encoder's.

    Args:
        folder: of the encoder.

    Raises:
        UserError: if it makes vectors in a way that we do not compute.
    """
    inside = sorted(path for path in folder.rglob("*") if _MODEL_FILES.fullmatch(path.relative_to(folder).as_posix()))
    # How many numbers of a vector are kept is a matter of the index, which says it itself.
    pooling = replace(read_pooling(folder) or Pooling(), dimensions=None)
    return sha256(repr([digests(inside), asdict(pooling)]).encode()).hexdigest()


def _modules(folder: Path) -> list[dict[str, Any]]:
    """What modules.json lists, one module or more."""
    modules = read_json(folder / MODULES)
    if not isinstance(modules, list) or not modules or not all(isinstance(m, dict) and "type" in m for m in modules):
        raise UserError(f"{folder / MODULES} is not a list of modules, each with a type and a path; copy it again")
    return modules


def _alone(folder: Path) -> str:
    """What to do where the encoder in a folder is wanted, and not its vectors of texts."""
    return f"for the encoder alone, with the mean of its tokens' vectors, give a copy of {folder} without {MODULES}"


def as_pooling(name: str) -> Mode:
    """A pooling by its name.

    Raises:
        UserError: if there is none of this name.
    """
    for mode in POOLINGS:
        if name == mode:
            return mode
    raise UserError(f"pooling is {name}; it must be {' or '.join(POOLINGS)}")


def _mode(path: Path, folder: Path) -> Mode:
    """The pooling that a config.json names, in either of its two forms; the folder is the encoder's."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} does not hold the settings of a pooling, by name")
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    given = config.get("pooling_mode")
    if given is None:
        given = [names.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = [given] if isinstance(given, str) else list(given) or ["mean"]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UserError(
            f"{path} asks for the pooling {', '.join(modes)}; Bertwright computes {' or '.join(POOLINGS)}; "
            f"{_alone(folder)}"
        )
    return as_pooling(modes[0])


def _check_other_settings(whole: Path, folder: Path) -> None:
    """Refuse what changes the text before the encoder.

    Args:
        whole: the folder with the modules.
        folder: that of the encoder.
    """
    settings, texts = _optional(whole / FILES[3]), _optional(folder / _SETTINGS)
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name"))
    if prompt:
        raise UserError(
            f"{whole / FILES[3]} puts a prompt before each text (default_prompt_name), which Bertwright does not; "
            "write the prompt into your texts, and remove default_prompt_name"
        )
    lowercase = _optional(folder / "tokenizer_config.json").get("do_lower_case", True)
    if texts.get("do_lower_case") and not lowercase:
        raise UserError(
            f"{folder / _SETTINGS} has do_lower_case, but the tokenizer keeps capitals; set do_lower_case in "
            "tokenizer_config.json instead"
        )


def _optional(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold settings by name")
    return found


def _number(path: Path, name: str, least: int) -> int | None:
    """A setting that is a whole number from `least` on; None where it is not given."""
    found = _optional(path).get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise UserError(f"{path}: {name} is {found!r}; it must be a whole number from {least} on")
    return found


def write_pooling(folder: Path, pooling: Pooling, hidden_size: int, *, lacks_pooler: bool) -> None:
    """Write what makes an encoder's folder one of sentence-transformers.

    Args:
        folder: with the encoder.
        pooling: how vectors are made.
        hidden_size: width of the vectors.
        lacks_pooler: whether the folder has no weights of the pooler that BERT's class in `transformers` has, which
            would make one at random, and warn of it.
    """
    kinds = [("", "Transformer"), (_POOLING, "Pooling"), *([(_NORMALIZE, "Normalize")] if pooling.normalize else [])]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / MODULES, modules)
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt_len"}
    write_json(
        folder / _POOLING / "config.json",
        {
            "word_embedding_dimension": hidden_size,
            **{f"pooling_mode_{name}": mode == pooling.mode for name, mode in modes.items()},
        },
    )
    options = {"model_args": {"add_pooling_layer": False}} if lacks_pooler else {}
    write_json(folder / _SETTINGS, {"max_seq_length": pooling.max_length, "do_lower_case": False, **options})
    cut = {"truncate_dim": pooling.dimensions} if pooling.dimensions is not None else {}
    write_json(folder / FILES[3], {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine", **cut})
