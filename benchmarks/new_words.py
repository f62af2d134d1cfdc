"""What the vectors of new words should start from: the mean of their pieces, or co-occurrence counts.

    python benchmarks/new_words.py --text '/path/to/agnews/*.jsonl.xz' --probed '[/path/to/all-MiniLM-L6-v2]'

The encoder's vocabulary grows by the words of the text that it breaks into pieces (`tokenizer.new_words`), and its
pre-training is continued on the text, in the same way from each start:

- `old vocabulary`: no new words.
- `random`: the new vectors and biases as the paper draws them.
- `mean of the pieces`: as `models/initialization.py` has it.
- `mean of the pieces, bias zero`: the same vectors, without the bias that a word of its frequency has.
- `co-occurrence counts`: PMI vectors (`text/cooccurrence.py`) of all entries, turned into the encoder's space by the
  orthogonal map, and the scale, that fit best for the entries that both know; the bias as for the mean.

Bits per character of held-out text compare vocabularies, before training and after it. A row is the mean over seeds,
which decide batches and masks of training. The result is written after each run, and what it has is not done again.

Before that, words that encoders know are taken out of their vocabularies, and both starts predict their vectors: the
mean cosine with the true ones, after the mean vector is subtracted from all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from scipy.linalg import orthogonal_procrustes

from bertwright.evaluate.heldout import HeldoutMetrics
from bertwright.evaluate.significance import mean_and_spread
from bertwright.files import digests
from bertwright.models.checkpoints import find_model, load_pretraining_model, load_tokenizer
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import (
    OptimizerConfig,
    Phase,
    PretrainConfig,
    Recipe,
    Source,
    SystemConfig,
    TokenizerConfig,
    fingerprint,
    to_dict,
)
from bertwright.tasks.initial import first_model, with_encoder
from bertwright.tasks.pretraining import Pretraining, loop_config
from bertwright.text.cooccurrence import token_vectors
from bertwright.text.new_words import pieces
from bertwright.text.prepare import prepare_corpus
from bertwright.text.sources import Files, locate
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from bertwright.train.loop import train
from common import Json, decided, described, markdown, recipe_of, resumed, write

OLD = "old vocabulary"
STARTS = (OLD, "random", "mean of the pieces", "mean of the pieces, bias zero", "co-occurrence counts")
KNOWN = 20
"""How often an entry must stand in the text for its two vectors to be compared."""
TAKEN, LONG, RARE = 500, 5, (5, 60)
"""Known words that are taken out: how many, with how many letters at least, and how often they stand in the text."""


def aligned(vectors: np.ndarray, table: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Vectors in the space of a table: turned and scaled so that those of known rows are nearest to it.

    Args:
        vectors: one for each entry, (V, H).
        table: of the entries that it has, the first rows, (old, H).
        known: numbers of rows that both have.
    """
    centre, own_centre = table[known].mean(0), vectors[known].mean(0)
    moved, goal = vectors - own_centre, table[known] - centre
    turn, singular = orthogonal_procrustes(moved[known], goal)
    scale = singular / (moved[known] ** 2).sum()
    found: np.ndarray = scale * moved @ turn + centre
    return found


def started(start: str, recipe: Recipe, tokenizer: Tokenizer, corpus: PreparedCorpus, first: int) -> PretrainingModel:
    """The model before training.

    Args:
        start: one of `STARTS`.
        recipe: with pretrain.encoder.
        tokenizer: of the corpus.
        corpus: to train on.
        first: the number of old entries.
    """
    model = first_model(recipe, tokenizer, corpus, print)
    table, bias = model.encoder.token_embeddings.weight, model.masked_language_model.bias
    with torch.no_grad():
        if start == "random":
            deviation = model.encoder.config.initializer_range
            torch.nn.init.trunc_normal_(table[first:], std=deviation, a=-2 * deviation, b=2 * deviation)
        if start in ("random", "mean of the pieces, bias zero"):
            bias[first:] = 0
        if start == "co-occurrence counts":
            vectors, frequencies = token_vectors(corpus, tokenizer.vocab_size, table.shape[1], None)
            counts = frequencies / frequencies.min()
            known = np.flatnonzero((counts[:first] >= KNOWN) & vectors[:first].any(1))
            found = aligned(vectors.astype(np.float64), table[:first].double().numpy(), known)
            seen = np.flatnonzero(vectors[first:].any(1))
            table[first + seen] = torch.from_numpy(found[first:][seen]).float()
    return model


def known_words(folder: Path, text: str, work: Path) -> Json:
    """How near both starts are to the vectors of words that an encoder knows, as if these were new.

    Args:
        folder: of the encoder.
        text: in which entries are counted.
        work: keeps the prepared text.
    """
    prepared = work / f"known-{fingerprint(str(folder))}"
    if not prepared.exists():
        prepare_corpus(recipe_of(text, TokenizerConfig(path=str(folder))), prepared, "benchmark")
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    corpus = PreparedCorpus(prepared / "train.arrow", tokenizer.fingerprint)
    table = load_pretraining_model(folder).encoder.token_embeddings.weight.detach().double().numpy()
    vectors, frequencies = token_vectors(corpus, tokenizer.vocab_size, table.shape[1], None)
    counts = frequencies / frequencies.min() - 1
    words = [i for i, entry in enumerate(tokenizer.tokens) if entry.isalpha() and len(entry) >= LONG]
    rare = [i for i in words if RARE[0] <= counts[i] <= RARE[1] and vectors[i].any()]
    taken = np.random.default_rng(0).permutation(rare)[:TAKEN]
    known = np.setdiff1d(np.flatnonzero((counts >= KNOWN) & vectors.any(1)), taken)
    counted, centre = aligned(vectors.astype(np.float64), table, known), table[known].mean(0)
    cosines: dict[str, list[float]] = {"mean of the pieces": [], "co-occurrence counts": []}
    for number in taken:
        rest = {entry: i for entry, i in tokenizer.inner.get_vocab().items() if i != number}
        found = (table[pieces(tokenizer.tokens[number], rest)].mean(0), counted[number])
        for values, one in zip(cosines.values(), found, strict=True):
            a, b = one - centre, table[number] - centre
            values.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return {"words": len(taken), **{name: round(float(np.mean(values)), 4) for name, values in cosines.items()}}


def named(encoder: str) -> str:
    """What an encoder is called in the result, whatever the machine: bundled, or its folder without what is above."""
    return encoder if "/" not in encoder else "/".join(("…", *Path(encoder).parts[-2:]))


def content(text: str) -> str:
    """A hash of a text's files, or its name where it is no files."""
    place = locate(Source(path=text))
    return fingerprint(digests(list(place.paths))) if isinstance(place, Files) else text


def main(
    text: str,
    encoder: str = "bundled",
    probed: tuple[str, ...] = (),
    new_words: int = 1_000,
    steps: int = 150,
    batch_tokens: int = 2_048,
    learning_rate: float = 3e-4,
    sequence_length: int = 64,
    seeds: tuple[int, ...] = (0, 1),
    work: str = "runs/new-words",
    out: str = "results/continued/new-words.json",
) -> None:
    """Train from each start and print the table.

    Args:
        text: to continue on.
        encoder: a model folder with a head for masked tokens, or bundled.
        probed: folders of further encoders whose known words are taken out.
        new_words: the most words to add.
        steps: of training.
        batch_tokens: tokens of a step.
        learning_rate: of AdamW.
        sequence_length: of training and held-out text.
        seeds: of the training.
        work: a folder to work in.
        out: the JSON file; a relative path starts at the repository.
    """
    config = PretrainConfig(
        encoder=encoder,
        max_steps=steps,
        batch_tokens=batch_tokens,
        micro_batch_tokens=batch_tokens,
        next_sentence=False,
        phases=(Phase(sequence_length=sequence_length),),
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup_ratio=0.05),
        evaluate_every=10 * steps,
    )
    folder, engine = find_model(encoder, "encoder"), Engine(SystemConfig(), print)
    first = load_tokenizer(folder).vocab_size
    target = Path(__file__).resolve().parents[1] / out
    today = {"pretrain": decided(to_dict(config), config, budget=True), "new_words": new_words, "text": content(text)}
    earlier = resumed(target, today, {"pretrain": config}, budget=True)
    settings, rows, known = (earlier.setdefault(name, {}) for name in ("settings", "rows", "known_words"))
    place = Path(work) / fingerprint(settings)
    for one in (encoder, *probed):
        if named(one) not in known:
            known[named(one)] = known_words(find_model(one, "encoder"), text, place)
            print(named(one), known[named(one)])
    for start in STARTS:
        words = 0 if start == OLD else new_words
        prepared = place / f"prepare-{words}"
        for seed in seeds[len(rows.setdefault(start, [])) :]:
            recipe = recipe_of(text, TokenizerConfig(new_words=words), pretrain=config, seed=seed)
            if not prepared.exists():
                report = prepare_corpus(with_encoder(recipe, folder), prepared, "benchmark")
                print(*report["notices"], sep="\n")
            measure = HeldoutMetrics.read(prepared, recipe, engine)
            tokenizer, heldout = measure.tokenizer, measure.corpus
            corpus = PreparedCorpus(prepared / "train.arrow", tokenizer.fingerprint)
            model = started(start, recipe, tokenizer, corpus, first)
            before = measure.of(model)
            training = Pretraining(recipe, model, tokenizer, corpus, heldout)
            train(training, loop_config(recipe), engine, place / f"{start}-{seed}", "benchmark", print)
            rows[start].append({"before": before, "after": measure.of(model), "heldout_tokens": heldout.num_tokens})
            result = {"settings": settings, "entries": tokenizer.vocab_size, "known_words": known, "rows": rows}
            write({**result, **described()}, out)
    lines = []
    for start, done in rows.items():
        cells = [
            mean_and_spread([one[when][key] for one in done])
            for key in ("mlm_bits_per_character", "mlm_loss")
            for when in ("before", "after")
        ]
        lines.append([start, *(f"{cell['mean']:.4f} ± {cell['std']:.4f}" for cell in cells)])
    header = ("initial vectors", "bits per character before", "after", "loss on masked tokens before", "after")
    print(markdown(header, lines))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
