"""The finetune stage: a classifier on the pre-trained encoder (paper, section 4.1 and appendix A.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bertwright.config import FinetuneConfig, Recipe, fingerprint
from bertwright.errors import UserError
from bertwright.files import atomic_path, recover, write_array, write_json
from bertwright.model.bert import Bert, start_averaging
from bertwright.model.heads import BertForSequenceClassification
from bertwright.model.interop import (
    load_classifier,
    load_into,
    load_tokenizer,
    model_config,
    read_config,
    read_weights,
    save_model,
)
from bertwright.objectives.batches import WIDTH_STEP
from bertwright.text.corpus import LabelledText, parse_corpus_name, read_documents, read_labelled
from bertwright.text.formats import repaired
from bertwright.text.sentences import HTML_BREAK
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from bertwright.train.loop import Batch, LoopConfig, train

Ids = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_POOL_BATCHES = 50
"""Batches whose texts are sorted by length together: little padding, and still a different mix in every epoch."""

_LONGEST_RUN = 250
"""Rows of a class that stand side by side in the validation part: many more than there are reviews of one film."""


@dataclass(frozen=True)
class EncodedTexts:
    """Labelled texts as token ids.

    Args:
        ids: of each text, [CLS] and [SEP] included, int32 (tokens,).
        targets: what a classifier should say: the probability of each class, float32 (texts, classes).
    """

    ids: list[Ids]
    targets: Floats

    @property
    def labels(self) -> Ints:
        """The likeliest class of each text, int64 (texts,)."""
        likeliest: Ints = self.targets.argmax(1)
        return likeliest

    def take(self, indices: Ints) -> EncodedTexts:
        """The texts at `indices`."""
        return EncodedTexts([self.ids[i] for i in indices], self.targets[indices])


def certain(labels: Ints, classes: int) -> Floats:
    """Class numbers (texts,) as targets without doubt, float32 (texts, classes)."""
    return np.eye(classes, dtype=np.float32)[labels]


def cleaned(text: str) -> str:
    """The text without <br /> tags: white space to a classifier, and the corpus that the encoder knows has none.

    Half a surrogate pair becomes a question mark.
    """
    return HTML_BREAK.sub(" ", repaired(text))


def truncate(ids: Ids, room: int, truncation: str) -> Ids:
    """At most `room` tokens of a text: its head, its tail, or half of each; or all of it, to be read in windows.

    After Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1, where head and tail share
    the room as one to three.
    """
    if len(ids) <= room or truncation == "windows":
        return ids
    head = {"head": room, "tail": 0, "head-tail": room // 2}[truncation]
    return np.concatenate([ids[:head], ids[len(ids) - (room - head) :]])


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, max_length: int, truncation: str) -> list[Ids]:
    """Token ids of texts as [CLS] text [SEP], at most `max_length` long unless they are to be read in windows."""
    edges = np.array([tokenizer.cls_id], np.int32), np.array([tokenizer.sep_id], np.int32)
    encoded = []
    for start in range(0, len(texts), 1_000):  # a thousand at a time: the library's own objects are large
        for ids in tokenizer.encode([cleaned(text) for text in texts[start : start + 1_000]]):
            encoded.append(np.concatenate([edges[0], truncate(ids, max_length - 2, truncation), edges[1]]))
    return encoded


def windows(ids: Ids, max_length: int) -> list[Ids]:
    """[CLS] text [SEP] in as few parts of about equal length as fit, each of them framed alike.

    After Sun et al. 2019, section 5.3.2.

    Args:
        ids: of a text, int32 (tokens,).
        max_length: the most tokens of a window, [CLS] and [SEP] included.
    """
    if len(ids) <= max_length:
        return [ids]
    body = ids[1:-1]
    parts = np.array_split(body, -(-len(body) // (max_length - 2)))
    return [np.concatenate([ids[:1], part, ids[-1:]]) for part in parts]


def collate(ids: Sequence[Ids], bert: Bert) -> Batch:
    """Pad token ids to a common length: tensors input_ids, token_type_ids and attention_mask, (batch, seq).

    Args:
        ids: of each text, none longer than the encoder's positions.
        bert: the encoder, which says what padding is, and has no more positions even for a length rounded up.
    """
    width = min(-(-max(len(row) for row in ids) // WIDTH_STEP) * WIDTH_STEP, bert.config.max_position_embeddings)
    input_ids = np.full((len(ids), width), bert.pad_token_id, np.int64)
    mask = np.zeros((len(ids), width), np.bool_)
    for row, values in enumerate(ids):
        input_ids[row, : len(values)] = values
        mask[row, : len(values)] = True
    tensor = torch.from_numpy(input_ids)
    return {"input_ids": tensor, "token_type_ids": torch.zeros_like(tensor), "attention_mask": torch.from_numpy(mask)}


class ClassificationObjective(nn.Module):
    """The classifier with its loss: what the loop calls and the compiler sees.

    Args:
        model: the classifier.
    """

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Summed loss and right guesses of a batch; a row of zeros in `targets` (B, K) is not scored."""
        logits = self.model(input_ids, token_type_ids, attention_mask).float()
        loss = -(targets * logits.log_softmax(-1)).sum()
        correct = ((logits.argmax(-1) == targets.argmax(-1)) & (targets.sum(-1) > 0)).sum()
        return {"label_loss": loss, "label_correct": correct}


class ClassifyTask:
    """Fine-tuning as the loop sees it.

    Args:
        config: of fine-tuning.
        seed: decides the order of texts.
        model: the encoder's weights with a fresh classifier.
        tokenizer: the encoder's.
        training: to train on.
        validation: to choose the checkpoint by.
        best_folder: receives the model with the lowest validation loss so far.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        seed: int,
        model: BertForSequenceClassification,
        tokenizer: Tokenizer,
        training: EncodedTexts,
        validation: EncodedTexts,
        best_folder: Path,
    ) -> None:
        self.config = config
        self.seed = seed
        self.model = model
        self.tokenizer = tokenizer
        self.training = training
        self.validation = validation
        self.best_folder = best_folder
        self.objective = ClassificationObjective(model)
        self.phase_shares = (1.0,)
        self.batches_per_epoch = math.ceil(len(training.ids) / config.batch_size)
        self._lengths = np.array([len(ids) for ids in training.ids])
        self._order: tuple[int, list[Ints]] | None = None

    def epoch_batches(self, epoch: int) -> list[Ints]:
        """The texts of each global batch of an epoch: each text once, neighbours in length together."""
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(len(self._lengths))
            pool = self.config.batch_size * _POOL_BATCHES
            batches = []
            for start in range(0, len(order), pool):
                part = order[start : start + pool]
                part = part[np.argsort(self._lengths[part], kind="stable")]
                batches += [part[i : i + self.config.batch_size] for i in range(0, len(part), self.config.batch_size)]
            self._order = (epoch, [batches[i] for i in rng.permutation(len(batches))])
        return self._order[1]

    def micro_batches(self, phase: int, number: int, rank: int, world: int) -> list[Batch]:
        """This process's texts of a global batch, in micro-batches of bounded size."""
        epoch, index = divmod(number, self.batches_per_epoch)
        # A last batch smaller than the number of processes still gives every process a row: the loop's collectives
        # then meet. Its weight is right all the same, since losses are divided by what was really scored.
        own = self.epoch_batches(epoch)[index][rank::world]
        if len(own) == 0:
            return [self._blank()]
        return [
            {**collate(part.ids, self.model.bert), "targets": torch.from_numpy(part.targets)}
            for part in self._cut(self.training.take(own))
        ]

    def _blank(self) -> Batch:
        batch = collate([self.training.ids[0]], self.model.bert)
        return {**batch, "targets": torch.zeros(1, self.training.targets.shape[1])}

    def _cut(self, texts: EncodedTexts) -> list[EncodedTexts]:
        """Parts of at most micro_batch_tokens, padding included, longest texts first."""
        order = np.argsort([-len(ids) for ids in texts.ids], kind="stable")
        parts = []
        while len(order):
            width = -(-len(texts.ids[order[0]]) // WIDTH_STEP) * WIDTH_STEP
            rows = max(1, self.config.micro_batch_tokens // width)
            parts.append(texts.take(order[:rows]))
            order = order[rows:]
        return parts

    def counts(self, batch: Batch) -> dict[str, int]:
        """Scored texts and real tokens."""
        return {"label": int((batch["targets"].sum(1) > 0).sum()), "tokens": int(batch["attention_mask"].sum())}

    def evaluate(self, objective: nn.Module, engine: Engine, phase: int) -> dict[str, float]:
        """Loss, accuracy and F1 (macro where there are more than two classes) on the validation part."""
        with engine.accelerator.autocast():
            probabilities = predict_probabilities(
                self.model, self.validation.ids, self.config.micro_batch_tokens, self.config.max_length
            )
        labels = self.validation.labels
        return {
            "loss": label_loss(probabilities, labels),
            "accuracy": float((probabilities.argmax(1) == labels).mean()),
            "f1": _f1(labels, probabilities.argmax(1), probabilities.shape[1]),
        }

    def on_evaluation(self, figures: dict[str, float], best: float | None, engine: Engine) -> float | None:
        """Keep the weights with the lowest validation loss, which says more than how many texts are on the right side.

        Two thousand texts leave an accuracy uncertain by half a point, and checkpoints differ by less.
        """
        if best is not None and figures["loss"] >= best:
            return best
        if engine.is_main:
            with atomic_path(self.best_folder) as temporary:
                save_model(self.model, self.tokenizer, temporary, self.config.max_length, self.config.truncation)
        return figures["loss"]


def _f1(labels: Ints, guesses: Ints, classes: int) -> float:
    scores = []
    for label in range(classes) if classes > 2 else (1,):
        hits = int(((guesses == label) & (labels == label)).sum())
        scores.append(2 * hits / max(1, int((guesses == label).sum()) + int((labels == label).sum())))
    return float(np.mean(scores))


def predict_probabilities(
    model: BertForSequenceClassification,
    ids: Sequence[Ids],
    micro_batch_tokens: int,
    max_length: int,
) -> Floats:
    """Class probabilities of encoded texts, float32 (texts, classes), in their order.

    A text of more than `max_length` tokens is read in windows, whose logits are averaged. Windows are computed longest
    first in batches of like length; a text's result does not depend on its batch mates, beyond rounding. The precision
    is that of the autocast around the call.
    """
    device = next(model.parameters()).device
    was_training = model.training
    if was_training:  # a walk over all modules, which a single short text would notice
        model.eval()
    parts = [windows(row, max_length) for row in ids]
    flat = [part for own in parts for part in own]
    order = np.argsort([-len(row) for row in flat], kind="stable")
    logits = torch.zeros(len(flat), len(model.label_names))
    start = 0
    with torch.inference_mode():
        while start < len(order):
            width = -(-len(flat[order[start]]) // WIDTH_STEP) * WIDTH_STEP
            rows = order[start : start + max(1, micro_batch_tokens // width)]
            batch = collate([flat[i] for i in rows], model.bert)
            logits[rows] = model(**{name: value.to(device) for name, value in batch.items()}).float().cpu()
            start += len(rows)
    if was_training:
        model.train()
    return text_probabilities(logits, [len(own) for own in parts])


def text_probabilities(logits: Tensor, counts: Sequence[int]) -> Floats:
    """Class probabilities of texts, float32 (texts, classes), from the logits of their windows.

    Args:
        logits: of all windows, text after text, float32 (windows, classes).
        counts: windows of each text.
    """
    number = torch.tensor(counts, dtype=torch.long)
    texts = torch.arange(len(number)).repeat_interleave(number)
    mean = torch.zeros(len(number), logits.shape[1]).index_add(0, texts, logits) / number[:, None]
    probabilities: Floats = mean.softmax(-1).numpy()
    return probabilities


def label_loss(probabilities: Floats, labels: Ints) -> float:
    """Mean of minus the log-probability, in nats, of each text's class."""
    picked = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None)
    return float(-np.log(picked).mean())


def label_names(examples: Sequence[LabelledText]) -> list[str]:
    """The classes of labelled texts, sorted; 0 and 1 are called negative and positive, as in IMDB."""
    found = sorted({str(example.label) for example in examples})
    return ["negative", "positive"] if found == ["0", "1"] else found


def label_numbers(examples: Sequence[LabelledText], names: Sequence[str], where: str) -> Ints:
    """Class numbers of labelled texts, int64 (texts,).

    Raises:
        UserError: if a label is not among the names.
    """
    numbers = {name: i for i, name in enumerate(names)}
    if list(names) == ["negative", "positive"]:
        numbers |= {"0": 0, "1": 1}
    for example in examples:
        if str(example.label) not in numbers:
            raise UserError(
                f"{where}: text {example.id} has label {example.label!r}, but train has only {', '.join(names)}"
            )
    return np.array([numbers[str(example.label)] for example in examples], np.int64)


def split_validation(labels: Ints, share: float) -> tuple[Ints, Ints]:
    """Indices of the training and the validation part, the same for every seed, with equal shares of each class.

    A class of a single text has none in the validation part.

    The validation part is made of runs of neighbours. Rows of a file that stand side by side often belong together, as
    the reviews of one film do in IMDB, and its test split is about other films: a validation part that is drawn row by
    row has a film's other reviews in training, and rewards a model for learning names.
    """
    parts = []
    for label in np.unique(labels):
        rng = np.random.default_rng(0)  # the same places for each class, so that mixed classes keep their neighbours
        rows = np.flatnonzero(labels == label)
        wanted = min(max(1, round(share * len(rows))), len(rows) - 1)
        size = min(_LONGEST_RUN, max(1, wanted // 5))
        runs = [rows[start : start + size] for start in range(0, len(rows), size)]
        parts.append(np.concatenate([runs[i] for i in rng.permutation(len(runs))])[:wanted])
    validation = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def start_classifier(
    encoder: Path, config: FinetuneConfig, names: list[str], notice: Callable[[str], None]
) -> BertForSequenceClassification:
    """A classifier with an encoder's weights, as fine-tuning starts from it.

    The head of a classifier of as many classes is taken over, too.

    Args:
        encoder: a model folder.
        config: decides dropout, and whether an averaging block is put on top.
        names: of the classes.
        notice: told if the encoder has no pooler.
    """
    stored = read_config(encoder)
    weights = read_weights(encoder)
    shape = model_config(stored)
    if config.hidden_dropout_prob is not None:
        shape = replace(shape, hidden_dropout_prob=config.hidden_dropout_prob)
    if len(weights.get("classifier.bias", names)) != len(names):  # a classifier of something else
        weights = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    may_miss = ["classifier", "bert.pooler"]
    if config.averaging_block:
        may_miss.append(f"bert.blocks.{shape.num_hidden_layers}.")
        shape = replace(shape, num_hidden_layers=shape.num_hidden_layers + 1)
        # The pooler has learnt to read the block below.
        weights = {name: value for name, value in weights.items() if not name.startswith("bert.pooler")}
    elif "bert.pooler.dense.weight" not in weights:
        notice(f"{encoder} has no pooler: it starts from random weights, as the classifier does")
    pad_id = stored.get("pad_token_id", 0)
    model = BertForSequenceClassification(shape, stored["vocab_size"], names, config.classifier_dropout, pad_id)
    load_into(model, weights, encoder, may_miss=tuple(may_miss))
    if config.averaging_block:
        start_averaging(model.bert)
    return model


def texts_without_labels(
    recipe: Recipe, tokenizer: Tokenizer, notice: Callable[[str], None]
) -> tuple[list[str], list[Ids]]:
    """The texts of `finetune.unlabelled` that are short enough, and their token ids; none where it is not set.

    Args:
        recipe: the whole recipe.
        tokenizer: the encoder's.
        notice: told how many there are.

    Raises:
        UserError: if the source can't be read, or all its texts are too long.
    """
    config = recipe.finetune
    if config.unlabelled is None:
        return [], []
    source, splits = parse_corpus_name(config.unlabelled)
    texts = [document.text for document in read_documents(recipe.source(source), splits)]
    notice(f"encoding {len(texts):,} texts without labels")
    encoded = encode_texts(texts, tokenizer, config.max_length, config.training_truncation)
    short = [i for i, ids in enumerate(encoded) if len(ids) <= config.unlabelled_max_length]
    if not short:
        raise UserError(
            f"{config.unlabelled} has no text of at most {config.unlabelled_max_length} tokens; raise "
            "finetune.unlabelled_max_length"
        )
    return [texts[i] for i in short], [encoded[i] for i in short]


def finetune(
    recipe: Recipe, encoder: Path, folder: Path, run_fingerprint: str, engine: Engine, notice: Callable[[str], None]
) -> None:
    """Fine-tune a classifier once per seed: `folder`/seed-N/model; a teacher of all seeds goes to `folder`/teacher.

    Args:
        recipe: the whole recipe.
        encoder: a model folder to start from.
        folder: receives a folder per seed.
        run_fingerprint: of all that decides the outcome.
        engine: the machine.
        notice: told in a sentence about anything a user should know.

    Raises:
        UserError: if the data can't be used, the encoder is too short for max_length, or the loss is not a number.
    """
    # scikit-learn takes seconds to load: not for those who come to judge a text.
    from bertwright.tasks.baselines import check_words, nb_logistic_regression

    config = recipe.finetune
    stored = read_config(encoder)
    if config.max_length > stored["max_position_embeddings"]:
        raise UserError(
            f"finetune.max_length is {config.max_length}, but {encoder} has {stored['max_position_embeddings']} "
            "positions; lower it"
        )
    tokenizer = load_tokenizer(encoder)
    examples = read_labelled(recipe.source(config.data), "train")
    names = label_names(examples)
    labels = label_numbers(examples, names, f"data.{config.data}")
    if config.co_training:
        check_words(example.text for example in examples)
    train_part, validation_part = split_validation(labels, config.validation_share)
    if len(validation_part) == 0:
        raise UserError(f"data.{config.data} has one text of each class to train on; a class needs two or more")
    notice(f"encoding {len(examples):,} texts")
    targets = certain(labels, len(names))
    training, validation = (
        EncodedTexts(
            encode_texts([examples[i].text for i in part], tokenizer, config.max_length, truncation), targets[part]
        )
        for part, truncation in ((train_part, config.training_truncation), (validation_part, config.truncation))
    )
    more, unlabelled = texts_without_labels(recipe, tokenizer, notice)

    def run(target: Path, seed: int, texts: EncodedTexts, doing: str) -> None:
        if (target / "done.json").exists():
            return
        if engine.is_main:
            recover(target / "model")
        torch.manual_seed(seed)
        model = start_classifier(encoder, config, names, notice)
        task = ClassifyTask(config, seed, model, tokenizer, texts, validation, target / "model")
        loop = LoopConfig(
            optimizer=config.optimizer,
            seed=seed,
            max_steps=math.ceil(config.epochs * task.batches_per_epoch),
            max_seconds=None,
            log_every=config.log_every,
            evaluate_every=max(1, task.batches_per_epoch // config.evaluations_per_epoch),
            checkpoint_every=config.checkpoint_every,
        )
        notice(f"{doing} with seed {seed}: {len(texts.ids):,} texts, {len(validation.ids):,} to validate on")
        position = train(task, loop, engine, target, fingerprint(run_fingerprint, seed, target.name), notice)
        if engine.is_main:
            write_json(target / "done.json", {"seconds": position.seconds, "validation_loss": position.best})
        engine.accelerator.wait_for_everyone()

    learnt = training
    if unlabelled:
        run(folder / "teacher", config.seeds[0], training, "fine-tuning a teacher")
        path = folder / "teacher" / "guesses.npy"
        if engine.is_main and not path.exists():
            notice(f"the teacher judges {len(unlabelled):,} texts without labels")
            guesses = judged_by(folder / "teacher" / "model", unlabelled, config, engine)
            if config.co_training:
                notice("so does a bag of words that has learnt from the same labels")
                bag = nb_logistic_regression().fit([examples[i].text for i in train_part], labels[train_part])
                guesses = (guesses + bag.predict_proba(more).astype(np.float32)) / 2
            write_array(path, guesses)
        engine.accelerator.wait_for_everyone()
        guesses = np.load(path, allow_pickle=False)
        learnt = EncodedTexts([*training.ids, *unlabelled], np.concatenate([training.targets, guesses]))
    for seed in config.seeds:
        run(folder / f"seed-{seed}", seed, learnt, "fine-tuning")


def judged_by(folder: Path, ids: Sequence[Ids], config: FinetuneConfig, engine: Engine) -> Floats:
    """What the classifier in `folder` makes of encoded texts, in the run's precision, float32 (texts, classes)."""
    model = load_classifier(folder).to(engine.device)
    with engine.accelerator.autocast():
        return predict_probabilities(model, ids, config.micro_batch_tokens, config.max_length)
