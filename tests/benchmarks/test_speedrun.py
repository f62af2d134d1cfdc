"""The ledger of the speedrun: its rules, and its table."""

from dataclasses import replace

import pytest
import torch

import bertwright
import speedrun
from bertwright.files import read_json
from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import PretrainingModel
from bertwright.recipe_file import load_recipe
from bertwright.settings import Phase
from bertwright.text.wordpiece import Tokenizer

ENTRIES = sorted(
    path.relative_to(speedrun.RECIPES).with_suffix("").as_posix()
    for path in speedrun.RECIPES.rglob("*.yaml")
    if path.stem != "rules"
)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_rules_are_laid_over_every_entry(entry, tmp_path, monkeypatch):
    on_gpu = entry.startswith("gpu/")
    files = [path.relative_to(speedrun.RECIPES) for path in speedrun.RECIPES.rglob("rules.yaml")]
    rules = load_recipe([speedrun.RECIPES / path for path in sorted(files) if on_gpu or path.parent.name == ""][::-1])
    # An entry that wants more minutes, its own reviews and another fine-tuning gets none of them.
    own = (speedrun.RECIPES / f"{entry}.yaml").read_text()
    own = own.replace("pretrain:\n", "pretrain:\n  max_minutes: 600\n")
    own = own.replace("html_line_breaks: true", "html_line_breaks: false")
    own += "finetune: {epochs: 9, seeds: [7]}\nprepare: {heldout_ratio: 0.1, drop_duplicates: false}\n"
    for path in files:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text((speedrun.RECIPES / path).read_text())
    (tmp_path / f"{entry}.yaml").write_text(own)
    monkeypatch.setattr(speedrun, "RECIPES", tmp_path)
    recipe = speedrun.recipe_of(entry)
    assert (recipe.pretrain.max_minutes, recipe.seed) == (30 if on_gpu else 60, 0)
    assert recipe.finetune == rules.finetune
    assert recipe.data == rules.data
    assert replace(recipe.prepare, workers=None) == replace(rules.prepare, workers=None)
    assert (recipe.prepare.heldout_ratio, recipe.tokenizer.html_line_breaks) == (0.005, True)


@pytest.mark.slow
def test_the_data_are_known_by_their_content(sample, tmp_path):
    texts = tmp_path / "elsewhere" / "texts"
    texts.mkdir(parents=True)
    for path in (sample / "books").iterdir():
        (texts / path.name).write_bytes(path.read_bytes())

    def hashed(books):
        changes = {"data": {"books": str(books), "imdb": str(sample / "reviews")}}
        return speedrun.data_hash(speedrun.recipe_of("paper", **changes))

    assert hashed(texts) == hashed(sample / "books")
    (texts / "one-more.txt").write_text("The boat sank.")
    assert hashed(texts) != hashed(sample / "books")


@pytest.mark.slow
def test_entries_are_scored_on_one_text(small_recipe, small_prepared, monkeypatch):
    monkeypatch.setattr(speedrun, "LENGTH", 64)
    tokenizer = Tokenizer.load(small_prepared / "tokenizer")
    torch.manual_seed(0)
    model = PretrainingModel(new_encoder(small_recipe().model, tokenizer.vocab_size, tokenizer.pad_id))
    pairs = small_recipe()
    phases = (Phase(sequence_length=64, corpora=("reviews:train",)),)
    reviews = small_recipe(pretrain={"next_sentence": False, "phases": phases})
    found = {speedrun.bits_of(model, recipe, small_prepared) for recipe in (pairs, reviews)}
    assert len(found) == 1
    assert found.pop() > 0


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """A ledger of its own, and runs that take no time."""
    run = tmp_path / "runs" / "paper" / "run"

    def finished(recipe):
        (run / "pretrain").mkdir(parents=True)
        for path in ("recipe.yaml", "pretrain/metrics.jsonl"):
            (run / path).write_text("")
        return bertwright.Run(run, {})

    found = {"bits_per_character": 1.5, "imdb_f1": 0.9, "imdb_f1_sd": 0.01, "suite": None, "tokens": 2e6}
    monkeypatch.setattr(speedrun, "LEDGER", tmp_path / "ledger")
    monkeypatch.setattr(speedrun.bertwright, "run", finished)
    monkeypatch.setattr(speedrun, "score", lambda *_: {**found, "environment": {"machine": "a machine"}})
    words = {**speedrun.small_data(tmp_path / "reviews"), "work": str(tmp_path / "runs")}
    return tmp_path / "ledger", words


def test_an_entry_leaves_its_recipe_with_the_comment(ledger):
    folder, words = ledger
    speedrun.main("paper", **words)
    assert (folder / "paper" / "paper.yaml").read_text().startswith("# The paper's recipe")


def test_other_texts_than_the_ledger_has_are_refused(ledger):
    folder, words = ledger
    other = folder / "gpu" / "medium"
    other.mkdir(parents=True)
    (other / "result.json").write_text('{"data": "another"}')
    with pytest.raises(SystemExit, match=r"the texts of gpu/medium: their hash is .* give the same --books and --imdb"):
        speedrun.main("paper", **words)
    assert not (folder / "paper").exists()


@pytest.mark.slow
def test_an_entry_is_tried_out_on_the_sample(tmp_path, capsys):
    speedrun.main("imdb-mini", small=True, work=str(tmp_path))
    assert "| [imdb-mini](imdb-mini/recipe.yaml) | " in capsys.readouterr().out


@pytest.mark.parametrize("track", ["", "gpu/"])
def test_the_readme_has_all_entries(track):
    entries = {path.parent.name: read_json(path) for path in (speedrun.LEDGER / track).glob("*/result.json")}
    assert {f"{track}{entry}" for entry in entries} <= set(ENTRIES)
    text = (speedrun.LEDGER / track / "README.md").read_text()
    assert (speedrun.table(entries) if entries else "No entry has been run yet") in text


def test_the_fewest_bits_come_first():
    one = {"imdb_f1": 0.9, "imdb_f1_sd": 0.01, "suite": None, "tokens": 2e6, "environment": {"machine": "a machine"}}
    entries = {"a": {**one, "bits_per_character": 1.5}, "b": {**one, "bits_per_character": 1.25, "suite": 0.5}}
    assert speedrun.table(entries).splitlines()[2:] == [
        "| [b](b/recipe.yaml) | 1.250 | 0.9000 ± 0.0100 | 50.0 | 2 | a machine |",
        "| [a](a/recipe.yaml) | 1.500 | 0.9000 ± 0.0100 |  | 2 | a machine |",
    ]
