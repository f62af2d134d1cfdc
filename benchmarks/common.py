"""What the speed benchmarks share: a recipe around a text, a prepared corpus, and figures on paper."""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from bertwright.errors import UserError
from bertwright.files import read_json, write_json, write_text
from bertwright.recipe import (
    ModelConfig,
    PrepareConfig,
    PretrainConfig,
    Recipe,
    Source,
    SystemConfig,
    TokenizerConfig,
    decisive,
    to_dict,
)
from bertwright.text.decoding import open_bytes
from bertwright.text.prepare import prepare_corpus

VOCABULARIES = (30_522, 16_000, 8_000, 4_000, 2_000, 1_000)
"""BERT's vocabulary, and what to train on texts too small for it: the largest that the text allows."""

Json = dict[str, Any]


def recipe_of(
    text: str,
    tokenizer: TokenizerConfig,
    model: ModelConfig | None = None,
    pretrain: PretrainConfig | None = None,
    seed: int = 0,
) -> Recipe:
    """A recipe that reads one text; a twentieth is held out, so that the small sample has a held-out part."""
    return Recipe(
        name="benchmark",
        seed=seed,
        data={"text": Source(path=text)},
        tokenizer=tokenizer,
        prepare=PrepareConfig(corpora=("text",), heldout_ratio=0.05),
        model=model or ModelConfig(),
        pretrain=pretrain or PretrainConfig(max_steps=1),
    )


def prepare_with_vocabulary(text: str, folder: Path, sample_megabytes: float = 120.0) -> int:
    """Prepare a corpus with the largest of `VOCABULARIES` that the text allows; returns its size."""
    for size in VOCABULARIES:
        config = TokenizerConfig(vocab_size=size, sample_megabytes=sample_megabytes)
        try:
            prepare_corpus(recipe_of(text, config), folder, "benchmark")
        except UserError as error:
            if "the corpus allows only" not in str(error) or size == VOCABULARIES[-1]:
                raise
        else:
            return size
    raise AssertionError


def spread(values: list[float], digits: int = 3) -> Json:
    """Median, least and greatest."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "greatest": round(max(values), digits),
    }


def read_lines(path: Path) -> list[Json]:
    """The rows of a .jsonl file, also a compressed one."""
    with open_bytes(path) as lines:
        return [json.loads(line) for line in lines]


def write_lines(path: Path, rows: Iterable[Json]) -> None:
    """Write rows as a .jsonl file."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def last_evaluation(pretrain: Path) -> Json:
    """What the last evaluation of a finished pretrain stage says, and the figures on held-out text under `heldout`."""
    last = [line for line in read_lines(pretrain / "metrics.jsonl") if line["kind"] == "eval"][-1]
    return {**last, "heldout": {key: last[key] for key in last if key.startswith(("mlm_", "clm_", "nsp_"))}}


def kept_evaluation(finetuned: Path) -> Json:
    """The evaluation of a finished fine-tuning, `seed-N` or `teacher`, whose weights were kept."""
    return min(
        (line for line in read_lines(finetuned / "metrics.jsonl") if line["kind"] == "eval"),
        key=lambda row: row["loss"],
    )


def described() -> Json:
    """Machine, versions and command of this benchmark."""
    from bertwright.train.engine import Engine, environment  # torch: not for the workers that import this file

    return {**environment(Engine(SystemConfig(), print)), "command": " ".join(["python", *sys.argv])}


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, without a line end at its end."""
    names = list(header)
    lines = [f"| {' | '.join(row)} |" for row in (names, *rows)]
    return "\n".join([lines[0], "|---" * len(names) + "|", *lines[1:]])


def register(variants: Mapping[str, Any]) -> None:
    """Have the package build, save and open variants of BERT, by names of their own as architectures.

    Args:
        variants: the classes of the encoders, by name.
    """
    from bertwright.models.layouts import FORMATS  # torch: not for the workers that import this file

    for name, build in variants.items():  # weights have our own names: Hugging Face's do not know all of them
        FORMATS[name] = replace(FORMATS["bert"], build=build, names={}, prefix="")


def decided(recorded: Any, section: Any, *, budget: bool = False) -> Any:
    """Recorded settings of a section, and of the sections in it, without those that decide nothing as they are today.

    Left out are those of the machine, and what came later, at its default: a record from before it came has the same
    settings.

    Args:
        recorded: as plain values.
        section: as it is today.
        budget: whether steps and minutes are kept; else they are recorded apart.
    """
    if isinstance(section, tuple) and isinstance(recorded, list) and len(recorded) == len(section):
        return [decided(*pair, budget=budget) for pair in zip(recorded, section, strict=True)]
    if not is_dataclass(section):
        return recorded
    kept, today = decisive(section, budget=budget), to_dict(section)
    free = {
        each.name
        for each in fields(section)
        if each.metadata.get("machine") or (each.metadata.get("budget") and not budget)
    }
    return {
        name: decided(value, getattr(section, name, None), budget=budget)
        for name, value in recorded.items()
        if name not in free and (name in kept or value != today.get(name))
    }


def same(
    recorded: Json, today: Json, sections: dict[str, Any], where: Path, system: str = "", *, budget: bool = False
) -> Json:
    """Recorded settings that are today's, as they were recorded, since folders to work in are named for them.

    Args:
        recorded: earlier.
        today: those of the sections as `decided` leaves them.
        sections: of the recipe, by their names in the settings.
        where: they were recorded.
        system: whose settings they are; the default is the whole measurement's.
        budget: see `decided`.

    Raises:
        SystemExit: if they are others, whose results would be lost.
    """
    kept = {name: decided(recorded.get(name, {}), section, budget=budget) for name, section in sections.items()}
    if recorded | kept != today:
        whose = f" of `{system}`" if system else ""
        raise SystemExit(f"{where} has results{whose} by other settings; give other places: --out and --work")
    return recorded


def resumed(target: Path, today: Json, sections: dict[str, Any], *, budget: bool = False) -> Json:
    """The content of a measurement's file that is continued, or its settings alone where there is none.

    Args:
        target: the file.
        today: see `same`.
        sections: see `same`.
        budget: see `decided`.

    Raises:
        SystemExit: if it has results of other settings.
    """
    plain: Json = json.loads(json.dumps(today))
    if not target.exists():
        return {"settings": plain}
    earlier: Json = read_json(target)
    same(earlier.get("settings", {}), plain, sections, target, budget=budget)
    return earlier


TABLE = "<!-- table:start -->", "<!-- table:end -->"
"""The marks in a README between which a benchmark writes its table."""


def write_table(readme: Path, table: str) -> None:
    """Put a table between the marks of a README; without the file or the marks nothing is written."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    head, start, rest = text.partition(TABLE[0])
    _, end, tail = rest.partition(TABLE[1])
    if start and end:
        write_text(readme, f"{head}{start}\n\n{table}\n\n{end}{tail}")


def write(result: Json, out: str) -> None:
    """Write a result as JSON; a relative path starts at the repository."""
    target = Path(__file__).resolve().parents[1] / out
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {target}")


def measure_rows(
    folder: Path,
    settings: Json,
    rows: Iterable[str],
    seeds: Iterable[int],
    measure: Callable[[str, int], Json],
    table: Callable[[dict[str, list[Json]]], str],
) -> None:
    """Measure each row with each seed, and write results.json and the table of README.md after each of them.

    What results.json has is not measured again, and another process may measure other seeds at the same time.

    Args:
        folder: of both files.
        settings: of all rows, which results.json holds beside them.
        rows: their names.
        seeds: of each.
        measure: a row with a seed; returns its figures.
        table: shows the runs of each row.

    Raises:
        SystemExit: if the file has rows of other settings.
    """
    target = folder / "results.json"

    def known() -> Json:
        found: Json = read_json(target) if target.exists() else {**settings, "rows": {}}
        if {name: found.get(name) for name in settings} != settings:
            raise SystemExit(f"{target} has rows of other settings; give another folder: --out")
        return found

    for seed, name in product(seeds, rows):
        if any(run["seed"] == seed for run in known()["rows"].get(name, [])):
            continue
        run = {"seed": seed, **measure(name, seed)}
        found = known()
        found["rows"][name] = sorted([*found["rows"].get(name, []), run], key=lambda one: one["seed"])
        write_json(target, found)
        write_table(folder / "README.md", table(found["rows"]))
        print(f"{name}, seed {seed}: done", flush=True)
    print(table(known()["rows"]))
