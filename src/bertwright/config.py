"""Everything a recipe can say, as frozen dataclasses: one per stage, checked where a value is written.

A recipe is one YAML file and the whole experiment. Precedence, from weak to strong: the defaults below, the recipe
file, options on the command line (`--pretrain.max_minutes 50`). Names that also exist in Hugging Face's `BertConfig`
mean the same here. `cli.py` turns these classes into `--help`, and refuses keys that they do not have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from bertwright.errors import UserError

LARGEST_SEED = 2**63
"""Below which a seed must be, for PyTorch to take it."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where texts come from: files, an archive, or a data set on the Hugging Face hub.

    Args:
        path: a file, a folder or a glob (.txt .jsonl .csv .parquet, each also .gz .xz .zst), the aclImdb folder or its
            tar.gz, a hub id such as stanfordnlp/imdb, or a preset: bookcorpus, wikipedia, imdb.
        text_column: the column that holds the text, in formats that have columns.
        label_column: the column that holds the label, where labels are read.
        rows: whether a row (in .txt: a file) is a whole document, or each row (in .txt: each line) is one sentence of
            a running text; a blank row then ends the document.
        subset: the configuration of a hub data set that has several, for example 20231101.en of wikipedia.
    """

    path: str
    text_column: str = "text"
    label_column: str = "label"
    rows: Literal["documents", "sentences"] = "documents"
    subset: str | None = None

    def __post_init__(self) -> None:
        _require(self.path.strip() != "", "data: a source has an empty path; give a file, a folder, a glob or a hub id")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The WordPiece vocabulary (paper, section 3: input representations).

    Args:
        path: an existing vocab.txt, tokenizer.json or folder with one; the default trains a vocabulary on the corpora.
        vocab_size: number of entries to train, special tokens included.
        lowercase: whether upper-case letters are made lower-case (an uncased model).
        strip_accents: whether accents are removed; the default removes them exactly when lowercase is on.
        min_frequency: how often a pair must occur to be merged into a new entry.
        sample_megabytes: how much text, spread evenly over the corpora, the vocabulary is learnt from.
    """

    path: str | None = None
    vocab_size: int = 30_522
    lowercase: bool = True
    strip_accents: bool | None = None
    min_frequency: int = 2
    sample_megabytes: float = 120.0

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 64, f"tokenizer.vocab_size is {self.vocab_size}; it must be at least 64")
        _require(self.min_frequency >= 1, f"tokenizer.min_frequency is {self.min_frequency}; it must be at least 1")
        _require(self.sample_megabytes > 0, "tokenizer.sample_megabytes must be above 0")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """The corpora to pre-train on, turned once into token ids on disk.

    Args:
        corpora: names from `data`, each optionally with splits (imdb:train+unsupervised).
        heldout_share: the part of all documents kept out of training, to measure the objectives on.
        drop_duplicates: whether a document that repeats an earlier one to the letter is left out.
        workers: processes that split and tokenize; the default is one per core.
    """

    corpora: tuple[str, ...] = ()
    heldout_share: float = 0.005
    drop_duplicates: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        _require(0 < self.heldout_share < 0.5, f"prepare.heldout_share is {self.heldout_share}; use 0 < share < 0.5")
        _require(self.workers is None or self.workers >= 1, "prepare.workers must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of the network, with the names and defaults of Hugging Face's BertConfig (BERT-base).

    Args:
        hidden_size: width H of every layer's output.
        num_hidden_layers: number L of Transformer blocks.
        num_attention_heads: number A of attention heads; must divide hidden_size.
        intermediate_size: width of the feed-forward layer, 4 H in the paper.
        max_position_embeddings: the longest sequence, in tokens.
        type_vocab_size: number of segments.
        hidden_dropout_prob: dropout on embeddings and on each sub-layer's output.
        attention_probs_dropout_prob: dropout on attention weights.
        layer_norm_eps: the constant inside layer normalisation.
        initializer_range: standard deviation of the truncated normal that weights start from.
        is_decoder: whether the model reads from left to right: each position sees itself and those before it, and
            pre-training guesses the next token in place of masked ones (paper, section 5.1, "LTR").
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    is_decoder: bool = False

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "type_vocab_size"):
            _require(getattr(self, name) >= 1, f"model.{name} must be at least 1")
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            f"model.hidden_size ({self.hidden_size}) must be a multiple of "
            f"model.num_attention_heads ({self.num_attention_heads})",
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _require(0 <= getattr(self, name) < 1, f"model.{name} must be in [0, 1)")
        _require(self.initializer_range > 0, f"model.initializer_range is {self.initializer_range}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Which tokens the masked language model must guess (paper, section 3.1, task 1, and appendix A.1).

    Args:
        rate: the part of the real tokens that is chosen, 0.15 in the paper.
        replacement: 80-10-10 puts [MASK], a random token or the token itself in chosen positions with probability 0.8,
            0.1 and 0.1 as in the paper; mask puts [MASK] in all of them.
        unit: choose single tokens, as in the paper, or whole words.
    """

    rate: float = 0.15
    replacement: Literal["80-10-10", "mask"] = "80-10-10"
    unit: Literal["token", "word"] = "token"

    def __post_init__(self) -> None:
        _require(0 < self.rate < 1, f"masking rate is {self.rate}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer (paper, appendix A.2 and A.3).

    Args:
        name: adamw as in the paper, or muon for the weight matrices of the blocks with adamw for all else.
        learning_rate: peak rate of adamw.
        muon_learning_rate: peak rate of muon, in units of adamw's update size.
        weight_decay: decoupled weight decay; never on biases and layer normalisation.
        beta1: decay of adamw's first moment.
        beta2: decay of adamw's second moment.
        epsilon: adamw's denominator constant.
        max_grad_norm: gradients are scaled down to this global norm.
        warmup_share: the part of the budget in which the rate climbs from zero, before it decays linearly to zero.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    muon_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    max_grad_norm: float = 1.0
    warmup_share: float = 0.01

    def __post_init__(self) -> None:
        for name in ("learning_rate", "muon_learning_rate", "max_grad_norm"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("weight_decay", "epsilon"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must not be below 0")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        _require(0 <= self.warmup_share < 1, f"warmup_share is {self.warmup_share}; it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of pre-training with one sequence length.

    Args:
        sequence_length: the most tokens in a sequence, [CLS] and [SEP] included.
        share: the part of the budget spent in this phase; the shares of all phases add up to 1.
        corpora: entries of prepare.corpora to draw from; the default is all of them.
        batch_tokens: tokens in a global batch of this phase; the default is pretrain.batch_tokens.
        next_sentence: whether this phase has next-sentence prediction, where pre-training has it; without it, a
            sequence is one stretch of one document.
    """

    sequence_length: int = 128
    share: float = 1.0
    corpora: tuple[str, ...] | None = None
    batch_tokens: int | None = None
    next_sentence: bool = True

    def __post_init__(self) -> None:
        _require(self.sequence_length >= 8, f"sequence_length is {self.sequence_length}; it must be at least 8")
        _require(0 < self.share <= 1, f"a phase has share {self.share}; use 0 < share <= 1")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-training with masked language modelling and next-sentence prediction (paper, section 3.1).

    Args:
        max_steps: the budget in optimizer steps; give this or max_minutes.
        max_minutes: the budget in minutes of steps; start-up of the compiler, evaluations and saving come on top.
        batch_tokens: tokens in a global batch, all processes together: sequences times sequence length.
        micro_batch_tokens: the most tokens, padding included, that one process computes at a time; gradients are
            accumulated over the global batch.
        next_sentence: whether next-sentence prediction is trained beside masked language modelling.
        short_sequence_probability: the part of sequences that are cut to a random shorter length (paper: 0.1).
        first_weights: paper draws them all at random; local starts positions as sines and gives each head of the first
            two blocks a neighbour to look at, which saves a short training most of its first plateau.
        first_embeddings: paper draws the token embeddings at random; counted takes them from what stands near what in
            the last phase's corpora, and the output bias from how frequent each token is (`text/vectors.py`).
        masking: which tokens must be guessed; a left-to-right model (model.is_decoder) guesses all, and hides none.
        phases: sequence lengths in order, for example 128 tokens first and 512 at the end.
        optimizer: the optimizer and its schedule.
        log_every: steps between two lines of metrics.jsonl.
        evaluate_every: steps between two evaluations on held-out text.
        checkpoint_every: steps between two checkpoints.
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    batch_tokens: int = 32_768
    micro_batch_tokens: int = 8_192
    next_sentence: bool = True
    short_sequence_probability: float = 0.1
    first_weights: Literal["paper", "local"] = "paper"
    first_embeddings: Literal["paper", "counted"] = "paper"
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    phases: tuple[Phase, ...] = (Phase(),)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    log_every: int = 10
    evaluate_every: int = 500
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        _require(
            self.max_steps is None or self.max_steps >= 1,
            f"pretrain.max_steps is {self.max_steps}; it must be at least 1",
        )
        _require(
            self.max_minutes is None or self.max_minutes > 0,
            f"pretrain.max_minutes is {self.max_minutes}; it must be above 0",
        )
        _require(
            self.max_steps is None or self.max_minutes is None,
            "pretrain has two budgets: give either max_steps or max_minutes, not both",
        )
        total = sum(phase.share for phase in self.phases)
        _require(abs(total - 1) < 1e-6, f"the shares of pretrain.phases add up to {total:g}; they must add up to 1")
        for phase in self.phases:
            for name in ("batch_tokens", "micro_batch_tokens"):
                tokens = (name == "batch_tokens" and phase.batch_tokens) or getattr(self, name)
                _require(
                    tokens >= phase.sequence_length and tokens % phase.sequence_length == 0,
                    f"pretrain.{name} ({tokens}) must be a multiple of the sequence length ({phase.sequence_length})",
                )
        _require(0 <= self.short_sequence_probability <= 1, "pretrain.short_sequence_probability must be in [0, 1]")
        for name in ("log_every", "evaluate_every", "checkpoint_every"):
            _require(getattr(self, name) >= 1, f"pretrain.{name} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tuning for text classification (paper, section 4.1 and appendix A.3).

    Args:
        data: the entry of `data` with labelled texts; it has a train and a test split. The default names
            none: the recipe ends with pre-training.
        encoder: a folder with pre-trained weights, or boxed: the encoder that comes with Bertwright; the default takes
            those of the pretrain stage.
        unlabelled: texts without labels, as an entry of `data` such as imdb:unsupervised. A first fine-tuned model, the
            teacher, says how likely it holds each class for them; a second one learns from that and from the labels
            (self-training; Du et al. 2021, "Self-training Improves Pre-training for Natural Language Understanding").
            All seeds learn from one teacher. The test split of `data` is refused.
        unlabelled_max_length: the most tokens of a text without labels, cut to max_length as it is; longer ones are
            left out, so that it must be below max_length to leave any out. A judgement teaches about as much whatever
            the text's length, and costs by the token.
        co_training: whether NB-weighted logistic regression, trained on the same labels, judges the texts without
            labels, too; the second model learns from the mean of both probabilities. The one reads in order, the other
            knows rare phrases, and they err in different places (Blum and Mitchell 1998, "Combining Labeled and
            Unlabeled Data with Co-Training").
        epochs: passes over the training part.
        batch_size: texts in a global batch.
        micro_batch_tokens: the most tokens, padding included, that one process computes at a time.
        max_length: the most tokens that are read together, [CLS] and [SEP] included.
        truncation: which part of a longer text is kept: its head, its tail, or half of each; or all of it, judged in
            windows whose logits are averaged, while training still sees half of its head and half of its tail.
        averaging_block: whether a fresh block is put on the encoder that at first averages all tokens for [CLS]; after
            a short pre-training [CLS] alone knows too little.
        hidden_dropout_prob: the encoder's dropout while fine-tuning; the default keeps that of pre-training.
        classifier_dropout: dropout before the classifier.
        validation_share: the part of train that is held out; the checkpoint with the lowest loss on it is kept.
        evaluations_per_epoch: how often the validation part is judged in an epoch.
        seeds: one fine-tuning run per seed.
        optimizer: the optimizer and its schedule.
        log_every: steps between two lines of metrics.jsonl.
        checkpoint_every: steps between two checkpoints.
    """

    data: str = ""
    encoder: str | None = None
    unlabelled: str | None = None
    unlabelled_max_length: int = 512
    co_training: bool = False
    epochs: float = 3.0
    batch_size: int = 32
    micro_batch_tokens: int = 8_192
    max_length: int = 512
    truncation: Literal["head", "tail", "head-tail", "windows"] = "head-tail"
    averaging_block: bool = False
    hidden_dropout_prob: float | None = None
    classifier_dropout: float = 0.1
    validation_share: float = 0.1
    evaluations_per_epoch: int = 1
    seeds: tuple[int, ...] = (0,)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=5e-5, warmup_share=0.1))
    log_every: int = 10
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        _require(
            self.data != "" or (self.encoder is None and self.unlabelled is None),
            "finetune needs labelled texts: name their entry of `data` in finetune.data",
        )
        _require(
            ":" not in self.data,
            f"finetune.data is `{self.data}`; name the entry of `data` alone, for its train and test splits are read",
        )
        _require(self.epochs > 0, "finetune.epochs must be above 0")
        _require(self.max_length >= 8, f"finetune.max_length is {self.max_length}; it must be at least 8")
        _require(0 < self.validation_share < 1, "finetune.validation_share must lie between 0 and 1")
        _require(len(self.seeds) > 0, "finetune.seeds is empty; name at least one seed")
        _require(len(set(self.seeds)) == len(self.seeds), "finetune.seeds names a seed twice")
        for seed in self.seeds:
            _require(0 <= seed < LARGEST_SEED, f"finetune.seeds names {seed}; a seed must be in [0, 2^63)")
        _require(
            self.unlabelled_max_length >= 3,
            f"finetune.unlabelled_max_length is {self.unlabelled_max_length}; it must be at least 3",
        )
        for name in ("batch_size", "evaluations_per_epoch", "log_every", "checkpoint_every"):
            _require(getattr(self, name) >= 1, f"finetune.{name} must be at least 1")
        for name in ("hidden_dropout_prob", "classifier_dropout"):
            _require(0 <= (getattr(self, name) or 0) < 1, f"finetune.{name} must be in [0, 1)")
        _require(
            self.unlabelled is not None or not self.co_training,
            "finetune.co_training needs texts without labels: name them in finetune.unlabelled, or leave it out",
        )
        _require(
            self.micro_batch_tokens >= self.max_length,
            f"finetune.micro_batch_tokens ({self.micro_batch_tokens}) must be at least finetune.max_length "
            f"({self.max_length}), so that the longest text fits",
        )

    @property
    def entries(self) -> tuple[str, ...]:
        """The entries of a recipe's `data` that fine-tuning reads."""
        return tuple(entry for entry in (self.data, self.unlabelled) if entry)

    @property
    def training_truncation(self) -> str:
        """The part of a long text that training sees."""
        return "head-tail" if self.truncation == "windows" else self.truncation


@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """How the machine is used. Nothing here changes what is computed, beyond rounding.

    Args:
        precision: bf16 computes matrix products in bfloat16 with float32 weights; auto picks it where the hardware
            has it.
        compile: whether torch.compile is used; auto uses it where a compiler is found, on refuses to run without one.
    """

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"


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
        model: the network; a recipe may name a file of recipes/models here.
        pretrain: pre-training.
        finetune: fine-tuning.
        system: how the machine is used.
    """

    name: str
    data: dict[str, str | Source]
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    out: str | None = None
    seed: int = 0
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    system: SystemConfig = field(default_factory=SystemConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < LARGEST_SEED, f"seed is {self.seed}; it must be in [0, 2^63)")
        if self.finetune.encoder is None:
            _require(
                len(self.prepare.corpora) > 0,
                "prepare.corpora is empty; name at least one entry of `data`, or begin with an encoder: "
                "finetune.encoder",
            )
            _require(
                self.pretrain.max_steps is not None or self.pretrain.max_minutes is not None,
                "pretrain needs a budget: give max_steps or max_minutes",
            )
        used = {entry.partition(":")[0] for entry in (*self.prepare.corpora, *self.finetune.entries)}
        for name in used - set(self.data):
            raise UserError(f"the recipe uses `{name}`, which `data` does not name; it names: {', '.join(self.data)}")
        for name in set(self.data) - used:
            raise UserError(f"data.{name} is not used by the recipe; it uses: {', '.join(sorted(used))}")
        head_width = self.model.hidden_size // self.model.num_attention_heads
        _require(
            self.pretrain.first_weights == "paper" or head_width % 2 == 0,
            "pretrain.first_weights local needs an even model.hidden_size / model.num_attention_heads; it is "
            f"{head_width}",
        )
        _require(
            not (self.model.is_decoder and self.pretrain.next_sentence),
            "pretrain.next_sentence is on, but model.is_decoder makes a left-to-right model, whose [CLS] sees neither "
            "sentence; switch it off with --pretrain.next_sentence false",
        )
        for phase in self.pretrain.phases:
            _require(
                phase.sequence_length <= self.model.max_position_embeddings,
                f"pretrain.phases ask for {phase.sequence_length} tokens, but the model has "
                f"{self.model.max_position_embeddings} positions; lower sequence_length or raise "
                "model.max_position_embeddings",
            )
            for corpus in phase.corpora or ():
                _require(corpus in self.prepare.corpora, f"a phase names `{corpus}`, which prepare.corpora lacks")
        _require(
            self.model.type_vocab_size > 1 or not self.pretrain.next_sentence,
            "model.type_vocab_size is 1, but next-sentence prediction tells two segments apart; raise it, or set "
            "pretrain.next_sentence to false",
        )
        _require(
            self.finetune.data == ""
            or self.finetune.encoder is not None  # whose own length is checked when it is read
            or self.finetune.max_length <= self.model.max_position_embeddings,
            f"finetune.max_length is {self.finetune.max_length}, but the model has "
            f"{self.model.max_position_embeddings} positions; lower it or raise model.max_position_embeddings",
        )

    def source(self, name: str) -> Source:
        """The named source, with a plain string made a `Source`."""
        entry = self.data[name]
        return Source(path=entry) if isinstance(entry, str) else entry


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists, strings and numbers, ready for JSON or YAML."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def fingerprint(*parts: Any) -> str:
    """A short hash of configurations and plain values: equal exactly when all of them are equal."""
    plain = [to_dict(part) if dataclasses.is_dataclass(part) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
