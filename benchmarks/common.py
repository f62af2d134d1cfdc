"""What the speed benchmarks share: a recipe around a text, a prepared corpus, and figures on paper."""

import json
import shutil
import statistics
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import bertwright
from bertwright.errors import UserError
from bertwright.files import digests, read_json, write_json, write_text
from bertwright.recipe import (
    ModelConfig,
    PrepareConfig,
    PretrainConfig,
    Recipe,
    Source,
    SystemConfig,
    TokenizerConfig,
    decisive,
    fingerprint,
    to_dict,
)
from bertwright.text.decoding import open_bytes
from bertwright.text.prepare import prepare_corpus
from bertwright.text.sources import Files, locate

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
    """A recipe that reads one text; a twentieth is held out, so that the small sample has held-out text."""
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

    machine = environment(Engine(SystemConfig(), print))
    return {**machine, "processor": processor(machine), "command": " ".join(["python", *sys.argv])}


KINDS = "amx", "avx512"
"""Processors that multiply in bfloat16, by the instructions for it, whose names stand in a result's `machine`."""


def processor(machine: Json) -> str:
    """The kind of the processor at hand, on which speed depends: gpu, amx, avx512 (with bfloat16), avx2 and so on.

    Args:
        machine: from `environment`.
    """
    import torch

    if torch.cuda.is_available():
        return "gpu"
    capability = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "-")
    plain = f"{capability}-without-bf16" if capability in KINDS else capability
    return processor_of(machine) or plain


def processor_of(result: Json) -> str | None:
    """The kind of processor that a result is of; None where an older one, of neither of `KINDS`, does not say it."""
    known = next((kind for kind in KINDS if f"{kind}_bf16" in result.get("machine", "")), None)
    return result.get("processor", known)


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, without a line end at its end."""
    names = list(header)
    lines = [f"| {' | '.join(row)} |" for row in (names, *rows)]
    return "\n".join([lines[0], "|---" * len(names) + "|", *lines[1:]])


def register(variants: Mapping[str, Any]) -> None:
    """Have the package build, save and open variants of BERT, by names of their own as architectures.

    The initial weights of a seed are BERT's, up to the first part that one of the two has alone: a variant that
    replaces parts after BERT has made its own would otherwise draw others.

    Args:
        variants: the classes of the encoders, by name.
    """
    import torch  # not for the workers that import this file

    from bertwright.models.bert import Bert
    from bertwright.models.layouts import FORMATS

    def built(variant: Any, *arguments: Any) -> Any:
        Bert(*arguments)  # all that a network draws while it is made: its weights are drawn after that
        with torch.random.fork_rng(devices=[]):
            return variant(*arguments)

    for name, variant in variants.items():  # weights have our own names: Hugging Face's do not know all of them
        FORMATS[name] = replace(FORMATS["bert"], build=partial(built, variant), names={}, prefix="")


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
    if getattr(section, "task", "embedding") != "embedding":
        free.add("embedding")  # decides nothing of other tasks, and its own default has changed
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
    """Write a result as JSON; a relative path starts at the repository, and KIND in it becomes the kind of processor.

    A file of another kind of processor is not changed: the result is then written as NAME-KIND.json.
    """
    own = result.get("processor")
    target = Path(__file__).resolve().parents[1] / out.replace("KIND", own or "KIND")
    if own is not None and target.exists() and processor_of(read_json(target)) != own:
        target = target.with_stem(f"{target.stem}-{own}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {target}")


def data_hash(recipe: Recipe) -> str:
    """One hash of all files that a recipe reads; of data sets of the hub, of their revisions."""
    places = {name: locate(recipe.source(name)) for name in recipe.data}
    return fingerprint(
        {
            name: [digest for _, digest in digests(list(place.paths))] if isinstance(place, Files) else str(place)
            for name, place in places.items()
        }
    )


def settings_of(recipe: Recipe) -> Json:
    """What results.json keeps of the recipe that all rows begin with, by which it knows rows that are not comparable.

    Of the recipe that is what decides results: a setting that comes later, at its default, shuts no rows out.

    Args:
        recipe: of the first row and seed; its folders do not count.
    """
    plain = {name: value for name, value in to_dict(recipe).items() if name not in ("data", "out", "seed")}
    return {
        "recipe": decided(plain, recipe, budget=True),
        "data_hash": data_hash(recipe),
        "processor": described()["processor"],
    }


def prepare_once(recipe: Recipe, corpus: Path) -> None:
    """Prepare the corpus that all rows share. Of two processes that are started together, one waits for the other.

    Args:
        recipe: of any row and seed.
        corpus: its run folder.
    """
    corpus.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(corpus.with_name(f"{corpus.name}.lock")):
        bertwright.run(replace(recipe, out=str(corpus)), stages=["prepare"])


def begin_with(corpus: Path, folder: Path) -> None:
    """Have a fresh run folder begin with a corpus that is prepared."""
    new = folder.with_name(f"{folder.name}.new")
    for place in (folder, new):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(corpus, new)
    new.rename(folder)  # whole, or not there


def differences(runs: Sequence[Json], base: Sequence[Json], metric: str, digits: int) -> str:
    """How far a row is from the first one: the mean over the seeds that both have, and in brackets each of them."""
    known = {one["seed"]: one[metric] for one in base}
    paired = [one[metric] - known[one["seed"]] for one in runs if one["seed"] in known]
    each = ", ".join(f"{one:+.{digits}f}" for one in paired)
    return f"{statistics.mean(paired):+.{digits}f} ({each})" if paired else ""


def measure_rows(
    folder: Path,
    settings: Json,
    order: Sequence[str],
    rows: Sequence[str],
    seeds: Iterable[int],
    measure: Callable[[str, int], Json],
    table: Callable[[dict[str, list[Json]]], str],
) -> None:
    """Measure each row with each seed, and write results.json and the table of README.md after each of them.

    What results.json has is not measured again, and another process may measure other seeds at the same time. Odd seeds
    take the rows from the last one to the first, so that a machine that becomes faster or slower over the hours favours
    no row. A row that fails is shown with its error, and the next one follows.

    Args:
        folder: of both files.
        settings: of all rows, which results.json holds beside them.
        order: the names of all rows, as results.json and the table have them.
        rows: the names of those to measure.
        seeds: of each.
        measure: a row with a seed; returns its figures.
        table: shows the runs of each row.

    Raises:
        SystemExit: if the file has rows of other settings, or, at the end, if a row has failed.
    """
    target = folder / "results.json"
    folder.mkdir(parents=True, exist_ok=True)

    def known() -> Json:
        found: Json = read_json(target) if target.exists() else {**settings, "rows": {}}
        if {name: found.get(name) for name in settings} != settings:
            raise SystemExit(
                f"{target} has rows of another recipe, of other texts or of another kind of processor; give another "
                "folder: --out"
            )
        return found

    def keep(name: str, run: Json) -> None:
        with FileLock(f"{target}.lock"):  # a process that ends a row at the same time waits
            found = known()
            others = [one for one in found["rows"].get(name, []) if one["seed"] != run["seed"]]
            found["rows"][name] = sorted([*others, run], key=lambda one: one["seed"])
            names = sorted(found["rows"], key=lambda row: [*order, row].index(row))
            found["rows"] = {row: found["rows"][row] for row in names}
            write_json(target, found)
            write_table(folder / "README.md", table(found["rows"]))

    failed = []

    def measure_all(seed: int) -> None:
        for name in rows[::-1] if seed % 2 else rows:
            if any(run["seed"] == seed for run in known()["rows"].get(name, [])):
                continue
            try:
                keep(name, {"seed": seed, **measure(name, seed)})
                print(f"{name}, seed {seed}: done", flush=True)
            except Exception:
                traceback.print_exc()
                failed.append(f"{name}, seed {seed}")

    for seed in seeds:
        try:
            with FileLock(folder / f"seed-{seed}.lock", blocking=False):
                measure_all(seed)
        except Timeout:
            raise SystemExit(f"another process is measuring seed {seed} in {folder}; end it, or wait for it") from None
    print(table(known()["rows"]))
    if failed:
        raise SystemExit(f"failed, with errors above: {'; '.join(failed)}; the same command measures them again")
