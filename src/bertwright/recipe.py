"""Everything a recipe can say: the named data sources, a section for each stage, and the checks across sections.

A recipe is one YAML file and the whole experiment. Precedence, from weak to strong: the defaults, the recipe file,
options on the command line (`--pretrain.max_minutes 50`). `settings.py` has the sections of tokenizer, network and
pre-training, `finetune_settings.py` that of fine-tuning; `recipe_file.py` reads recipes, and refuses keys that do not
exist.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from bertwright.errors import UserError
from bertwright.finetune_settings import FinetuneConfig
from bertwright.ranges import Section, decisive, fingerprint, number, require, to_dict
from bertwright.settings import (
    LARGEST_SEED,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    Phase,
    PretrainConfig,
    TokenizerConfig,
    default_rate,
)

__all__ = [
    "EvaluateConfig",
    "FinetuneConfig",
    "MaskingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Phase",
    "PrepareConfig",
    "PretrainConfig",
    "Recipe",
    "Source",
    "SystemConfig",
    "TokenizerConfig",
    "decisive",
    "fingerprint",
    "to_dict",
]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where texts come from: files, an archive, or a data set on the Hugging Face hub.

    Args:
        path: a file, a folder or a glob (.txt .jsonl .csv .parquet, each also .gz .xz .zst), the aclImdb folder or its
            tar.gz, a hub id such as stanfordnlp/imdb, or a preset: bookcorpus, wikipedia, imdb.
        text_column: the column that holds the text, in formats that have columns.
        text_pair_column: the column that holds the second text; given, the labels are those of pairs of texts.
        negative_column: the column that holds a text that is no match of a pair's first, for the task embedding.
        label_column: the column that holds the label, where labels are read: a class or a number; for multi-label a
            list of names.
        label_columns: for multi-label data with a column for each label, in which 1 says that a text has it and 0 that
            it has not: their names.
        context_column: the column that holds the text that questions are about, or that choices follow.
        question_column: the column that holds the question.
        answers_column: the column that holds the answers: a list of {text, start}, empty where there is no answer.
        choices_column: the column that holds the list of choices.
        tokens_column: the column that holds the list of tokens, for tags of words; in a CoNLL file tokens is the
            first column, tags the last, and a number is that column, from 1.
        tags_column: the column that holds a tag for each token.
        entities_column: the column that holds entities as spans of text_column's characters, in place of tokens and
            tags: a list of {start, end, label}.
        rows: whether a row (in .txt: a file) is a whole document, or each row (in .txt: each line) is one sentence of
            a running text; a blank row then ends the document.
        subset: the configuration of a hub data set that has several, for example 20231101.en of wikipedia.
        test_ratio: the fraction of the labelled texts that is the test split, where the data have none, as one CSV
            file; the rest is train. Each class has the same fraction of it, texts that are equal stay together, and
            the same texts are divided in the same way in any order.
        group_column: the column that says which rows belong together, such as those of one author. No group is
            divided between train, validation set and test, where the validation set can be made of whole groups.
    """

    path: str
    text_column: str = "text"
    text_pair_column: str | None = None
    negative_column: str | None = field(default=None, metadata={"later": True})
    label_column: str = "label"
    label_columns: tuple[str, ...] | None = None
    context_column: str = "context"
    question_column: str = "question"
    answers_column: str = "answers"
    choices_column: str = "choices"
    tokens_column: str = "tokens"
    tags_column: str = "tags"
    entities_column: str | None = None
    rows: Literal["documents", "sentences"] = "documents"
    subset: str | None = None
    test_ratio: float | None = None
    group_column: str | None = None

    def __post_init__(self) -> None:
        """See that there is a path, that the test split is a part, and that columns of labels differ.

        Raises:
            UserError: if the path is empty, the ratio out of range, or a column named twice.
        """
        require(self.path.strip() != "", "data: a source has an empty path; give a file, a folder, a glob or a hub id")
        ratio = self.test_ratio
        require(ratio is None or 0 < ratio < 1, f"data: test_ratio of {self.path} is {ratio}; it must be in (0, 1)")
        names = self.label_columns
        require(
            names is None or (len(names) > 0 and len(set(names)) == len(names)),
            f"data: label_columns of {self.path} must name one column or more, each once",
        )


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Section):
    """The corpora to pre-train on, turned once into token ids on disk.

    Args:
        corpora: names from `data`, each optionally with splits (imdb:train+unsupervised).
        heldout_ratio: the fraction of all documents kept out of training, to measure the objectives on.
        drop_duplicates: whether a document that repeats an earlier one to the letter is left out.
        workers: processes that split and tokenize; the default is one per core.
    """

    section: ClassVar[str] = "prepare."
    corpora: tuple[str, ...] = ()
    heldout_ratio: float = number(0.005, "(0, 0.5)")
    drop_duplicates: bool = True
    workers: int | None = number(None, ">= 1", machine=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What the report compares with.

    Args:
        published: figures of the primary metric that others report on the same test split, by the system's name; they
            stand in the table without an interval.
    """

    published: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """How the machine is used. Nothing here changes the result, beyond rounding.

    Args:
        precision: bf16 computes matrix products in bfloat16; weights are trained and stored in float32. auto picks it
            where the hardware has it.
        compile: whether torch.compile is used; auto uses it where a compiler is found and the planned steps repay its
            start-up, on refuses to run without one. true and false are on and off.
        tracker: what also gets the lines of metrics.jsonl, the recipe and the report's metrics: tensorboard, wandb or
            mlflow, each a package to install.
    """

    precision: Literal["auto", "fp32", "bf16"] = field(default="auto", metadata={"machine": True})
    compile: Literal["auto", "on", "off"] | bool = field(default="auto", metadata={"machine": True})
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = field(default="none", metadata={"machine": True})

    def __post_init__(self) -> None:
        """Make `compile` a word: a bare on or off is a boolean in YAML 1.1."""
        if isinstance(self.compile, bool):
            object.__setattr__(self, "compile", "on" if self.compile else "off")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The whole experiment, from raw text to report.

    Args:
        name: the recipe's name; the run folder is runs/NAME unless `out` says otherwise.
        out: the run folder.
        seed: the seed of everything drawn at random before fine-tuning, which has seeds of its own.
        data: named sources; a plain string is a source with default columns.
        tokenizer: the vocabulary.
        prepare: the corpora to pre-train on; with finetune.encoder, this, model and pretrain may be left out.
        model: the network; a recipe may name a file of recipes/models here. With pretrain.encoder, this and tokenizer
            are the encoder's.
        pretrain: pre-training.
        finetune: fine-tuning.
        evaluate: what the report compares with.
        sweep: what `bertwright sweep` searches, by setting of finetune (epochs, optimizer.learning_rate): a list of
            values, or a range {low, high} with log: true where values are drawn evenly by their logarithm. By default
            learning rate, epochs and batch size around the recipe's. Other commands do not read it.
        system: how the machine is used.
    """

    name: str
    data: dict[str, str | Source]
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    out: str | None = None
    seed: int = 0
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sweep: dict[str, Any] = field(default_factory=dict)
    system: SystemConfig = field(default_factory=SystemConfig)

    def __post_init__(self) -> None:
        """See that the sections fit each other, and choose the learning rates that are left open.

        Raises:
            UserError: with the first that does not.
        """
        self._choose_learning_rate("pretrain", default_rate(self.pretrain.encoder is None))
        self._choose_learning_rate("finetune", 5e-5)
        require(0 <= self.seed < LARGEST_SEED, f"seed is {self.seed}; it must be in [0, 2^63)")
        if self.finetune.encoder is None:
            require(
                len(self.prepare.corpora) > 0,
                "prepare.corpora is empty; name at least one entry of `data`, or begin with an encoder: "
                "finetune.encoder",
            )
            require(
                self.pretrain.max_steps is not None or self.pretrain.max_minutes is not None,
                "pretrain needs a budget: give max_steps or max_minutes",
            )
        require(
            self.tokenizer.new_words == 0 or (self.tokenizer.path or self.pretrain.encoder) is not None,
            "tokenizer.new_words adds to a vocabulary that exists, and this recipe trains one; name an encoder in "
            "pretrain.encoder, or raise tokenizer.vocab_size in place of new_words",
        )
        self._check_continued()
        self._check_data()
        self._check_test_split()
        if self.pretrain.encoder is None:
            self._check_objectives()
            self._check_lengths()
        else:
            self._check_encoder()

    def _check_continued(self) -> None:
        layers = self.pretrain.frozen_layers
        require(
            self.pretrain.dropout is None or self.pretrain.encoder is not None,
            "pretrain.dropout is that of an encoder in pretrain.encoder, which the recipe does not name; from random "
            "weights give model.hidden_dropout_prob and model.attention_probs_dropout_prob",
        )
        require(
            layers == 0 or self.pretrain.encoder is not None,
            f"pretrain.frozen_layers is {layers}, and random weights are not worth keeping; name an encoder in "
            "pretrain.encoder, or leave it out",
        )
        require(
            layers == 0 or self.tokenizer.new_words == 0,
            "pretrain.frozen_layers keeps the embeddings as they are, and tokenizer.new_words adds some that must be "
            "trained; leave out one of them",
        )

    def _choose_learning_rate(self, section: Literal["pretrain", "finetune"], rate: float) -> None:
        config = getattr(self, section)
        if config.optimizer.learning_rate is None:
            optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
            object.__setattr__(self, section, dataclasses.replace(config, optimizer=optimizer))

    def _check_data(self) -> None:
        used = {entry.partition(":")[0] for entry in (*self.prepare.corpora, *self.finetune.entries)}
        for name in used - set(self.data):
            raise UserError(f"the recipe uses `{name}`, which `data` does not name; it names: {', '.join(self.data)}")
        for name in set(self.data) - used:
            raise UserError(f"data.{name} is not used by the recipe; it uses: {', '.join(sorted(used))}")
        for phase in self.pretrain.phases:
            for corpus in phase.corpora or ():
                require(corpus in self.prepare.corpora, f"a phase names `{corpus}`, which prepare.corpora lacks")

    def _check_encoder(self) -> None:
        """See that nothing is asked for that the encoder brings; its shape is checked when it is read."""
        require(
            self.finetune.encoder is None,
            "pretrain.encoder continues the pre-training of an encoder, and finetune.encoder leaves pre-training out; "
            "give one of them",
        )
        # What only repeats a default says nothing else than the encoder, and cannot be told from it.
        tokenizer = dataclasses.replace(self.tokenizer, html_line_breaks=False, new_words=0)  # of the texts
        for given, default in ((self.model, ModelConfig()), (tokenizer, TokenizerConfig())):
            for name, value in dataclasses.asdict(given).items():
                require(
                    value == getattr(default, name),
                    f"{given.section}{name} is {value}, but pretrain.encoder brings its own "
                    f"{'network' if given is self.model else 'tokenizer'}; leave out {given.section.rstrip('.')}, or "
                    "pretrain.encoder",
                )
        for name in ("initialization", "embedding_initialization"):
            value = getattr(self.pretrain, name)
            require(
                value == "paper",
                f"pretrain.{name} is {value}, but the weights are those of pretrain.encoder; leave out one of them",
            )

    def _check_test_split(self) -> None:
        split = self.finetune.test_split
        if self.finetune.data == "" or split == "test":
            return
        require(
            split.strip().lower() not in ("", "train", "training"),
            f"finetune.test_split is `{split}`; name a split that is not trained on, such as test or dev",
        )
        require(
            self.source(self.finetune.data).test_ratio is None,
            f"finetune.test_split is `{self.finetune.test_split}`, but data.{self.finetune.data} has a test_ratio, "
            "which makes the test split; leave out one of the two",
        )

    def _check_objectives(self) -> None:
        head_width = self.model.hidden_size // self.model.num_attention_heads
        require(
            self.pretrain.initialization == "paper" or head_width % 2 == 0,
            "pretrain.initialization local_attention needs an even model.hidden_size / model.num_attention_heads; it "
            f"is {head_width}",
        )
        made_for_bert = {
            "pretrain.initialization local_attention": self.pretrain.initialization == "local_attention",
            "finetune.averaging_block": self.finetune.averaging_block and self.finetune.encoder is None,
        }
        for setting, asked in made_for_bert.items():
            require(
                not asked or self.model.architecture != "modernbert",
                f"{setting} is made for model.architecture bert, and this recipe's is modernbert; leave it out",
            )
        require(
            self.model.why_no_pairs is None or not self.pretrain.next_sentence,
            f"pretrain.next_sentence is on, but the model {self.model.why_no_pairs}; switch it off with "
            "--pretrain.next_sentence false",
        )

    def _check_lengths(self) -> None:
        positions = self.model.max_position_embeddings
        for phase in self.pretrain.phases:
            require(
                phase.sequence_length <= positions,
                f"pretrain.phases ask for {phase.sequence_length} tokens, but the model has {positions} positions; "
                "lower sequence_length or raise model.max_position_embeddings",
            )
        require(
            self.finetune.data == ""
            or self.finetune.encoder is not None  # whose own length is checked when it is read
            or self.finetune.max_length <= positions,
            f"finetune.max_length is {self.finetune.max_length}, but the model has {positions} positions; lower it or "
            "raise model.max_position_embeddings",
        )

    def source(self, name: str) -> Source:
        """The named source, with a plain string made a `Source`."""
        entry = self.data[name]
        return Source(path=entry) if isinstance(entry, str) else entry
