"""What a recipe says of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertwright.ranges import Section, number, require
from bertwright.settings import LARGEST_SEED, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(Section):
    """Vectors of texts, for finetune.task embedding.

    Args:
        pooling: what makes one vector of a text: the mean of its tokens' vectors, or that of [CLS] (cls). The default
            is that of finetune.encoder, where it is a folder of sentence-transformers, and otherwise the mean.
        temperature: divides cosines in the loss; the lower, the more the nearest wrong texts count.
        scores: whether label_column holds how alike the two texts of a pair are, a number; their order is then trained.
            Otherwise the texts of a pair, or two crops of a single text, are to be nearer than those of other rows.
        dimensions: numbers of dimensions, each of which, from the first, is trained to be a vector by itself, beside
            the whole one (Kusupati et al. 2022, "Matryoshka Representation Learning").
    """

    section: ClassVar[str] = "finetune.embedding."
    pooling: Literal["mean", "cls"] | None = None
    temperature: float = number(0.05, "> 0")
    scores: bool = False
    dimensions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """As for every section; and sizes are above 0."""
        super().__post_init__()
        require(
            all(size > 0 for size in self.dimensions), "finetune.embedding.dimensions must be whole numbers above 0"
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Section):
    """Fine-tuning on labelled texts (paper, section 4.1 and appendix A.3).

    Args:
        data: the entry of `data` with labelled texts; it has a train and a test split. The default names
            none: the recipe ends with pre-training.
        test_split: the split that the report evaluates on, as dev, which then is no validation set.
        task: what the labels are for: classification, regression, multi-label, token-classification,
            question-answering or multiple-choice; or embedding, which needs none.
        embedding: of the task embedding.
        label_names: names of the classes, in the sorted order of the labels in the data, for example
            [negative, positive] for 0 and 1; the default calls a class what the data call it.
        positive_label: the class that precision, recall, F1 and the area under the ROC curve speak of where there are
            two; the default is the second in order. It changes what is reported, not how the model is trained.
        encoder: a model folder or a run's folder with pre-trained weights, or bundled: the encoder that comes with
            Bertwright. There is no pre-training then; the default takes the weights of the pretrain stage.
        unlabelled: unlabelled texts, as an entry of `data` such as imdb:unsupervised. A first fine-tuned model, the
            teacher, predicts the probability of each class for them (pseudo-labels); a second one is trained on these
            and on the labels (self-training; Du et al. 2021, "Self-training Improves Pre-training for Natural Language
            Understanding"). All seeds have one teacher. The test split of `data` is refused.
        unlabelled_max_length: the most tokens of an unlabelled text, counted after the cut to max_length; longer ones
            are left out, so that it must be below max_length to leave any out. A pseudo-label teaches about as much
            whatever the text's length, and costs by the token.
        co_training: whether NB-weighted logistic regression, trained on the same labels, predicts the unlabelled texts,
            too; the second model is trained on the mean of both probabilities. The one reads in order, the other
            knows rare phrases, and they err in different places (Blum and Mitchell 1998, "Combining Labeled and
            Unlabeled Data with Co-Training").
        class_weights: how much a text of each class counts in training: balanced counts all classes alike, however many
            texts each has; or a number for each class, by name. The default counts all texts alike.
        freeze_encoder: whether the encoder keeps its weights, and the head alone is trained.
        metric_for_best_model: what the checkpoint is chosen by on the validation set: loss, or a metric, such as
            accuracy, which the report then compares systems by, too. The loss is steadier on a small validation set,
            and decides between equals; a model that has grown too confident can still be right more often.
        early_stopping_patience: evaluations in a row without a better one after which training ends; the default
            trains all epochs. The learning rate falls as if it did.
        epochs: passes over the training set.
        batch_size: texts in a global batch.
        micro_batch_tokens: the most tokens, padding included, that one process computes at a time. It changes rounding,
            and which elements dropout zeroes.
        max_length: the most tokens that are read together, [CLS] and [SEP] included.
        truncation: which part of a longer text is kept: its head, its tail, or half of each; or all of it, predicted in
            windows whose logits are averaged, while training still reads half of its head and half of its tail. For
            tags of words it has no effect: each word is read, in windows that overlap. A vector (embedding) is that of
            the head.
        averaging_block: whether a fresh block is put on the encoder that at first averages all tokens for [CLS]; after
            a short pre-training the vector at [CLS] alone holds too little.
        hidden_dropout_prob: the encoder's dropout while fine-tuning; the default keeps that of pre-training.
        classifier_dropout: dropout before the classifier.
        validation_ratio: the fraction of train that is the validation set; the best checkpoint on it is kept.
        evaluations_per_epoch: how often the validation set is evaluated in an epoch.
        seeds: one fine-tuning run per seed.
        optimizer: the optimizer and its schedule.
        log_every: steps between two lines of metrics.jsonl.
        checkpoint_every: steps between two checkpoints.
    """

    section: ClassVar[str] = "finetune."
    data: str = ""
    test_split: str = "test"
    task: str = "classification"
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig, metadata={"later": True})
    label_names: tuple[str, ...] | None = None
    positive_label: str | None = None
    encoder: str | None = None
    unlabelled: str | None = None
    unlabelled_max_length: int = number(512, ">= 3")
    co_training: bool = False
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    freeze_encoder: bool = False
    metric_for_best_model: str = "loss"
    early_stopping_patience: int | None = number(None, ">= 1")
    epochs: float = number(3.0, "> 0")
    batch_size: int = number(32, ">= 1")
    micro_batch_tokens: int = number(8_192, ">= 8", machine=True)
    max_length: int = number(512, ">= 8")
    truncation: Literal["head", "tail", "head-tail", "windows"] = "head-tail"
    averaging_block: bool = False
    hidden_dropout_prob: float | None = number(None, "[0, 1)")
    classifier_dropout: float = number(0.1, "[0, 1)")
    validation_ratio: float = number(0.1, "(0, 1)")
    evaluations_per_epoch: int = number(1, ">= 1")
    seeds: tuple[int, ...] = (0,)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(warmup_ratio=0.1))
    log_every: int = number(10, ">= 1", machine=True)
    checkpoint_every: int = number(200, ">= 1", machine=True)

    def __post_init__(self) -> None:
        """As for every section; and data, seeds and lengths fit each other."""
        super().__post_init__()
        require(
            self.data != "" or (self.encoder is None and self.unlabelled is None),
            "finetune needs labelled texts: name their entry of `data` in finetune.data",
        )
        require(
            ":" not in self.data,
            f"finetune.data is `{self.data}`; name the entry of `data` alone, for its train and test splits are read",
        )
        require(len(self.seeds) > 0, "finetune.seeds is empty; name at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), "finetune.seeds names a seed twice")
        for seed in self.seeds:
            require(0 <= seed < LARGEST_SEED, f"finetune.seeds names {seed}; a seed must be in [0, 2^63)")
        names = self.label_names
        require(names is None or len(set(names)) == len(names), "finetune.label_names gives two classes one name")
        require(
            self.unlabelled is not None or not self.co_training,
            "finetune.co_training needs unlabelled texts: name them in finetune.unlabelled, or leave it out",
        )
        weights = self.class_weights if isinstance(self.class_weights, dict) else {}
        require(
            all(0 < weight < float("inf") for weight in weights.values()),
            "finetune.class_weights must be numbers above 0",
        )
        if weights:  # YAML reads the classes 0 and 1, or true and false, as what they look like
            named = {str(key).lower() if isinstance(key, bool) else str(key): value for key, value in weights.items()}
            object.__setattr__(self, "class_weights", named)
        require(
            self.class_weights is None or self.unlabelled is None,
            "finetune.class_weights would count the labelled texts alone, beside the pseudo-labels of "
            "finetune.unlabelled; leave out one of them",
        )
        require(
            not (self.freeze_encoder and self.averaging_block),
            "finetune.averaging_block puts a fresh block on the encoder, which finetune.freeze_encoder would leave "
            "untrained; leave one of them out",
        )
        require(
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
        """The part of a long text that training reads."""
        return "head-tail" if self.truncation == "windows" else self.truncation
