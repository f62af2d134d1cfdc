"""The baseline of tagging: a linear-chain conditional random field on the letters of each word and of its neighbours.

Lafferty et al. 2001, "Conditional Random Fields"; the features are those that named-entity systems had before neural
ones. It is computed by CRFsuite, from the package `python-crfsuite`, which `sklearn-crfsuite` stands on, too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bertwright.errors import UserError, installing

_ITERATIONS = 100


def word_features(words: Sequence[str], place: int) -> list[str]:
    """The features of a word: itself, its ends, its shape, and the words around it."""
    word = words[place]
    found = ["bias", *_features(word, ""), f"suffix3={word[-3:]}", f"suffix2={word[-2:]}", f"prefix3={word[:3]}"]
    for distance in (-2, -1, 1, 2):
        if 0 <= place + distance < len(words):
            found += _features(words[place + distance], f"{distance:+}:")
        elif abs(distance) == 1:
            found.append("first" if distance < 0 else "last")
    return found


def _features(word: str, at: str) -> list[str]:
    shape = "".join("A" if c.isupper() else "a" if c.isalpha() else "0" if c.isdigit() else "-" for c in word[:20])
    return [f"{at}word={word.lower()}", f"{at}shape={shape}"]


def fit_and_predict(
    train: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    test: Sequence[Sequence[str]],
    progress: Callable[[str], None],
) -> list[list[str]] | str:
    """Train a field, and predict the most probable tags of each text; or the reason why it is not there.

    Args:
        train: words of each text to train on.
        tags: theirs.
        test: words of each text to predict.
        progress: called with one sentence.
    """
    try:
        import pycrfsuite
    except ImportError:
        return f"it needs a package that is not installed; {installing('crf')}"
    start = time.perf_counter()
    trainer = pycrfsuite.Trainer(verbose=False)
    for words, own in zip(train, tags, strict=True):
        trainer.append([word_features(words, i) for i in range(len(words))], list(own))
    # Elastic-net weights as of sklearn-crfsuite's tutorial on CoNLL data.
    trainer.set_params({"c1": 0.1, "c2": 0.1, "max_iterations": _ITERATIONS, "feature.possible_transitions": True})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crf"
        trainer.train(str(path))
        if not path.exists():
            raise UserError(f"CRFsuite could not write its model to {folder}; see whether the disk is full")
        tagger = pycrfsuite.Tagger()
        tagger.open(str(path))
        predicted = [list(tagger.tag([word_features(words, i) for i in range(len(words))])) for words in test]
        tagger.close()
    progress(f"crf: trained, and predicted {len(test):,} texts in {time.perf_counter() - start:.0f} s")
    return predicted
