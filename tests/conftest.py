"""What many tests share: a small corpus, a tokenizer trained on it, and a recipe that runs in seconds."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import bertwright
from bertwright.cli import main
from bertwright.recipe import (
    FinetuneConfig,
    ModelConfig,
    OptimizerConfig,
    Phase,
    PrepareConfig,
    PretrainConfig,
    Recipe,
    SystemConfig,
    TokenizerConfig,
)
from bertwright.text.prepare import prepare_corpus
from bertwright.text.wordpiece import Tokenizer

ROOT = Path(__file__).parent.parent


SLOW_FIXTURES = {"finished", "prepared", "run"}
"""A whole run, a corpus whose every token is known, a page with all plots: they take 5 to 30 seconds."""


def pytest_collection_modifyitems(items):
    """Mark as slow what needs a slow fixture, since the first such test waits for it."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; without one on the machine a test skips."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: pages are not tested")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def run_bundled(tmp_path):
    """Fine-tunes the bundled encoder for a task on the data in a folder, in fp32, and gives the run."""

    def run(task: str, data: Path, source: str | dict | None = None, **finetune) -> bertwright.Run:
        recipe = {
            "name": data.name,
            "data": {data.name: source or str(data)},
            "finetune": {
                "data": data.name,
                "task": task,
                "encoder": "bundled",
                "batch_size": 16,
                "optimizer": {"learning_rate": 3e-4, "warmup_ratio": 0.1},
                **finetune,
            },
            "system": {"precision": "fp32", "compile": "off"},
        }
        path = tmp_path / f"{data.name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return bertwright.run(path, out=str(tmp_path / "run"))

    return run


@pytest.fixture(scope="session")
def recipes() -> Path:
    return ROOT / "recipes"


@pytest.fixture(scope="session")
def sample() -> Path:
    return ROOT / "sample"


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    words = "the cat sat on a mat while rain was falling over old roofs and nobody came to look for it".split()
    texts = [" ".join(words[i:] + words[:i]) + "." for i in range(len(words))]
    return Tokenizer.train(texts, TokenizerConfig(vocab_size=64, min_frequency=1))


LEXICON = """river stone boat winter garden letter morning window bread market teacher silver engine paper
mountain harbour evening kitchen music soldier doctor forest candle summer village bridge mirror ladder blanket
orchard""".split()


def story(number: int, sentences: int) -> str:
    """A document with a topic: its sentences share words, so that next sentences can be told from random ones."""
    own = [LEXICON[(number * 7 + i * 3) % len(LEXICON)] for i in range(5)]
    lines = [
        f"The {own[i % 5]} by the {own[(i * 2 + 1) % 5]} was {'old' if (i + number) % 2 else 'new'} again."
        if i % 3
        else f"We saw a {own[(i + 2) % 5]} and then another {own[(i + 3) % 5]}, number {i + number}."
        for i in range(sentences)
    ]
    return " ".join(lines)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """books/*.txt, 30 documents; reviews/train.jsonl and test.jsonl, 80 labelled texts in all."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "books").mkdir()
    for number in range(30):
        (folder / "books" / f"{number:02}.txt").write_text(story(number, 8 + 3 * (number % 9)))
    (folder / "reviews").mkdir()
    for split, start in (("train", 0), ("test", 1000)):
        rows = []
        for number in range(start, start + 40):
            word = "wonderful" if number % 2 else "dreadful"
            text = f"{story(number, 2 + number % 9)} A {word} film, {word} from end to end."
            rows.append(json.dumps({"text": text, "label": number % 2}))
        (folder / "reviews" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def small_recipe(small_data):
    """Builds a recipe on `small_data`; keywords replace fields of its sections, as in pretrain={"max_steps": 3}."""

    def build(**changes) -> Recipe:
        model = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        }
        pretrain = {
            "max_steps": 6,
            "batch_tokens": 1024,
            "micro_batch_tokens": 512,
            "phases": (Phase(sequence_length=32, budget_ratio=0.5), Phase(sequence_length=64, budget_ratio=0.5)),
            "log_every": 1,
            "evaluate_every": 3,
            "checkpoint_every": 2,
            "optimizer": OptimizerConfig(learning_rate=1e-3, muon_learning_rate=4e-3),
        }
        finetune = {
            "data": "reviews",
            "label_names": ("negative", "positive"),
            "epochs": 2,
            "batch_size": 8,
            "max_length": 64,
            "micro_batch_tokens": 256,
            "checkpoint_every": 2,
            "log_every": 1,
        }
        return Recipe(
            name="small",
            data={"books": str(small_data / "books"), "reviews": str(small_data / "reviews")},
            tokenizer=TokenizerConfig(vocab_size=160, min_frequency=1),
            prepare=PrepareConfig(corpora=("books", "reviews:train"), heldout_ratio=0.1, workers=1),
            model=ModelConfig(**{**model, **changes.get("model", {})}),
            pretrain=PretrainConfig(**{**pretrain, **changes.get("pretrain", {})}),
            finetune=FinetuneConfig(**{**finetune, **changes.get("finetune", {})}),
            system=SystemConfig(precision="fp32", compile="off"),
            seed=changes.get("seed", 0),
        )

    return build


@pytest.fixture(scope="session")
def small_prepared(small_data, tmp_path_factory) -> Path:
    """The prepared corpus of `small_recipe`."""
    folder = tmp_path_factory.mktemp("prepared") / "prepare"
    recipe = Recipe(
        name="small",
        data={"books": str(small_data / "books"), "reviews": str(small_data / "reviews")},
        tokenizer=TokenizerConfig(vocab_size=160, min_frequency=1),
        prepare=PrepareConfig(corpora=("books", "reviews:train"), heldout_ratio=0.1, workers=1),
        pretrain=PretrainConfig(max_steps=1),
        finetune=FinetuneConfig(data="reviews"),
    )
    prepare_corpus(recipe, folder, "small")
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory, small_data) -> Path:
    """A recipe on `small_data` whose classifier learns what a review says."""
    folder = tmp_path_factory.mktemp("recipe")
    content = {
        "name": "small",
        "data": {"books": str(small_data / "books"), "reviews": str(small_data / "reviews")},
        "tokenizer": {"vocab_size": 160, "min_frequency": 1},
        "prepare": {"corpora": ["books", "reviews:train"], "heldout_ratio": 0.1, "workers": 1},
        "model": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        },
        "pretrain": {
            "max_steps": 8,
            "batch_tokens": 1024,
            "micro_batch_tokens": 512,
            "phases": [{"sequence_length": 32, "budget_ratio": 0.5}, {"sequence_length": 64, "budget_ratio": 0.5}],
            "evaluate_every": 4,
            "checkpoint_every": 4,
            "log_every": 1,
        },
        "finetune": {
            "data": "reviews",
            "label_names": ["negative", "positive"],
            "epochs": 12,
            "batch_size": 8,
            "max_length": 64,
            "seeds": [0, 1],
            "optimizer": {"learning_rate": 3e-3, "warmup_ratio": 0.1},
        },
        "system": {"precision": "fp32", "compile": "off"},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def finished(recipe_file, tmp_path_factory) -> Path:
    """The run folder of `recipe_file`, all stages done; tests read it and leave it as it is."""
    out = tmp_path_factory.mktemp("runs") / "small"
    assert main(["run", str(recipe_file), "--out", str(out)]) == 0
    return out
