"""What a recipe says of the tokenizer, the network, pre-training and the optimizer: one frozen dataclass a stage.

A range stands with the field that it bounds (`number`) and is checked whenever a dataclass is made, from a recipe or
from Python. Names that also exist in Hugging Face's `BertConfig` or `TrainingArguments` mean the same here.
`finetune_settings.py` has those of fine-tuning; `recipe.py` puts the sections together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertwright.ranges import Section, number, require

LARGEST_SEED = 2**63
"""Below which a seed must be, for PyTorch to take it."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Section):
    """The vocabulary (paper, section 3: input representations).

    Args:
        type: of a vocabulary that is trained: wordpiece as in the paper, or byte_bpe, to which no character is unknown,
            as in ModernBERT.
        path: an existing vocab.txt, tokenizer.json or folder with one; the default trains a vocabulary on the corpora.
        vocab_size: the most entries to train, special tokens included; a small corpus allows fewer.
        lowercase: whether upper-case letters are made lower-case (an uncased model).
        strip_accents: whether accents are removed; the default follows the corpus: with lowercase, accents of Latin,
            Greek and Cyrillic letters are removed, unless one character in a thousand is of a script that would lose
            letters (vowel signs of Hindi or Thai, Hangul). Without lowercase, and with a given vocabulary, it is as in
            BERT: removed exactly when lowercase is on.
        limit_alphabet: the most characters that have entries of their own; words with others are unknown. The default
            is 1,000, or as many as cover 99.98 % of the text, and at most two thirds of the vocabulary.
        min_frequency: how often a pair must occur to be merged into a new entry.
        sample_megabytes: how much text, spread evenly over the corpora, the vocabulary is trained on.
        html_line_breaks: whether a <br /> in the texts is a line break, as in IMDB's reviews. The model's folder keeps
            the answer, so that the model reads new texts in the same way.
        new_words: the most entries to add at the end of a vocabulary that exists, that of pretrain.encoder or of path:
            those that save the texts most tokens (`text/new_words.py`).
    """

    section: ClassVar[str] = "tokenizer."
    type: Literal["wordpiece", "byte_bpe"] = field(default="wordpiece", metadata={"later": True})
    path: str | None = None
    vocab_size: int = number(30_522, ">= 64")
    lowercase: bool = True
    strip_accents: bool | None = None
    limit_alphabet: int | None = number(None, ">= 1")
    min_frequency: int = number(2, ">= 1")
    sample_megabytes: float = number(120.0, "> 0")
    html_line_breaks: bool = False
    new_words: int = number(0, ">= 0", later=True)

    def __post_init__(self) -> None:
        """As for every section; and bytes need no rules for characters."""
        super().__post_init__()
        for name in ("strip_accents", "limit_alphabet") if self.type == "byte_bpe" else ():
            require(
                getattr(self, name) is None,
                f"tokenizer.{name} is {getattr(self, name)}, but a byte_bpe reads bytes, whatever the character; leave "
                "it out",
            )


_ONLY_OF = {
    "bert": ("type_vocab_size", "is_decoder"),
    "modernbert": (
        "local_attention",
        "global_attn_every_n_layers",
        "global_rope_theta",
        "local_rope_theta",
        "classifier_pooling",
    ),
}
"""Settings of the network that one architecture has and the others have not."""


ARCHITECTURE_DEFAULTS = {
    "bert": {
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
    },
    "modernbert": {
        "num_hidden_layers": 22,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-5,
    },
}
"""Where the architectures' defaults differ: those of Hugging Face's BertConfig and ModernBertConfig."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The shape of the network, with the names of Hugging Face's BertConfig and the defaults of BERT-base.

    Where ModernBERT-base has another default, that of modernbert stands in brackets.

    Args:
        architecture: bert, or modernbert: with rotary positions, gated units and local attention, and without segments
            and biases; Hugging Face's `model_type`.
        hidden_size: width H of every layer's output.
        num_hidden_layers: number L of Transformer blocks; the default is 12 (22).
        num_attention_heads: number A of attention heads; must divide hidden_size.
        intermediate_size: width of the feed-forward layer, 4 H in the paper; the default is 3072 (1152).
        max_position_embeddings: the longest sequence, in tokens; the default is 512 (8192).
        type_vocab_size: number of segments; of bert.
        hidden_dropout_prob: dropout on embeddings and on each sub-layer's output; of modernbert on embeddings and
            within the feed-forward layer; the default is 0.1 (0).
        attention_probs_dropout_prob: dropout on attention weights; the default is 0.1 (0).
        layer_norm_eps: the constant inside layer normalisation; the default is 1e-12 (1e-5).
        initializer_range: standard deviation of the truncated normal that weights are drawn from.
        is_decoder: whether the model is causal: each position attends to itself and to those before it, and
            pre-training predicts the next token in place of masked ones (paper, section 5.1, "LTR"); of bert.
        local_attention: the width of the window in which a token of a local layer attends to others, half of it on each
            side; of modernbert, as all below.
        global_attn_every_n_layers: the first of so many layers is global, the others are local.
        global_rope_theta: the base of rotary positions' wave lengths in global layers.
        local_rope_theta: the same in local layers.
        classifier_pooling: what a head on a whole text reads: the vector at [CLS] (cls), or the mean of all tokens'.
    """

    section: ClassVar[str] = "model."
    architecture: str = field(default="bert", metadata={"formerly": "model_type"})
    hidden_size: int = number(768, ">= 1")
    num_hidden_layers: int = number(None, ">= 1")
    num_attention_heads: int = number(12, ">= 1")
    intermediate_size: int = number(None, ">= 1")
    max_position_embeddings: int = number(None, ">= 1")
    type_vocab_size: int = number(2, ">= 1")
    hidden_dropout_prob: float = number(None, "[0, 1)")
    attention_probs_dropout_prob: float = number(None, "[0, 1)")
    layer_norm_eps: float = number(None, "> 0")
    initializer_range: float = number(0.02, "> 0")
    is_decoder: bool = False
    local_attention: int = number(128, ">= 2", later=True)
    global_attn_every_n_layers: int = number(3, ">= 1", later=True)
    global_rope_theta: float = number(160_000.0, "> 0", later=True)
    local_rope_theta: float = number(10_000.0, "> 0", later=True)
    classifier_pooling: Literal["cls", "mean"] = field(default="cls", metadata={"later": True})

    @property
    def why_no_pairs(self) -> str | None:
        """Why the network cannot be trained to predict next sentences, in words; None if it can."""
        if self.is_decoder:
            return "is a causal model, whose [CLS] attends to neither sentence"
        if self.architecture == "modernbert":
            return "is a modernbert, which has no segments and no next-sentence prediction"
        return "has type_vocab_size 1, and cannot tell two segments apart" if self.type_vocab_size < 2 else None

    def __post_init__(self) -> None:
        """As for every section; heads share the width evenly, and no setting is one of another architecture."""
        for name, value in ARCHITECTURE_DEFAULTS.get(self.architecture, ARCHITECTURE_DEFAULTS["bert"]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()
        for other, names in _ONLY_OF.items():
            for name in names if self.architecture in _ONLY_OF and self.architecture != other else ():
                require(
                    getattr(self, name) == getattr(type(self), name),
                    f"model.{name} is {getattr(self, name)}, but model.architecture is {self.architecture}, which has "
                    f"no such setting; leave it out, or set model.architecture to {other}",
                )
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"model.hidden_size ({self.hidden_size}) must be a multiple of "
            f"model.num_attention_heads ({self.num_attention_heads})",
        )
        width = self.hidden_size // self.num_attention_heads
        require(
            self.architecture != "modernbert" or width % 2 == 0,
            "modernbert turns pairs of a head's numbers, so that model.hidden_size / model.num_attention_heads must be "
            f"even; it is {width}",
        )


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(Section):
    """Which tokens the masked language model must predict (paper, section 3.1, task 1, and appendix A.1).

    Args:
        rate: the fraction of the real tokens that is chosen, 0.15 in the paper.
        replacement: 80-10-10 puts [MASK], a random token or the token itself in chosen positions with probability 0.8,
            0.1 and 0.1 as in the paper; mask puts [MASK] in all of them.
        unit: choose single tokens, as in the paper, or whole words.
    """

    section: ClassVar[str] = "pretrain.masking."
    rate: float = number(0.15, "(0, 1)")
    replacement: Literal["80-10-10", "mask"] = "80-10-10"
    unit: Literal["token", "word"] = "token"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """The optimizer (paper, appendix A.2 and A.3).

    Args:
        name: adamw as in the paper, or muon for the weight matrices of the blocks with adamw for all else.
        learning_rate: peak rate of adamw. The default is 1e-4 for pre-training from random weights, 3e-5 for an encoder
            whose pre-training is continued, so that it keeps what it knows, and 5e-5 for fine-tuning.
        muon_learning_rate: peak rate of muon, in units of adamw's update size.
        weight_decay: decoupled weight decay; never on biases and layer normalisation.
        beta1: decay of adamw's first moment.
        beta2: decay of adamw's second moment.
        epsilon: adamw's denominator constant.
        max_grad_norm: gradients are scaled down to this global norm.
        warmup_ratio: the fraction of the budget in which the rate climbs from zero, before it decays linearly to zero.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float | None = number(None, "> 0")
    muon_learning_rate: float = number(1e-3, "> 0")
    weight_decay: float = number(0.01, ">= 0")
    beta1: float = number(0.9, "[0, 1)")
    beta2: float = number(0.999, "[0, 1)")
    epsilon: float = number(1e-6, "> 0")
    max_grad_norm: float = number(1.0, "> 0")
    warmup_ratio: float = number(0.01, "[0, 1)")


@dataclass(frozen=True, kw_only=True)
class Phase(Section):
    """A stretch of pre-training with one sequence length.

    Args:
        sequence_length: the most tokens in a sequence, [CLS] and [SEP] included.
        budget_ratio: the fraction of the budget spent in this phase; those of all phases add up to 1.
        corpora: entries of prepare.corpora to draw from; the default is all of them.
        batch_tokens: tokens in a global batch of this phase; the default is pretrain.batch_tokens.
        next_sentence: whether this phase has next-sentence prediction, where pre-training has it; without it, a
            sequence is one stretch of one document.
        masking_rate: the rate of pretrain.masking in this phase, as 0.3 first and 0.15 at the end; the default is
            pretrain.masking.rate.
    """

    section: ClassVar[str] = "pretrain.phases: "
    sequence_length: int = number(128, ">= 8")
    budget_ratio: float = number(1.0, "(0, 1]")
    corpora: tuple[str, ...] | None = None
    batch_tokens: int | None = None
    next_sentence: bool = True
    masking_rate: float | None = number(None, "(0, 1)", later=True)


def default_rate(from_random_weights: bool) -> float:
    """AdamW's rate of pre-training where a recipe leaves it open; lower where an encoder keeps what it knows."""
    return 1e-4 if from_random_weights else 3e-5


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Section):
    """Pre-training with masked language modelling and next-sentence prediction (paper, section 3.1).

    Args:
        encoder: a model folder or a run's folder whose pre-training is continued, or bundled: the encoder that comes
            with Bertwright. It brings weights, shape and tokenizer, so that the recipe gives neither `model` nor
            `tokenizer`; a pre-training head that the folder lacks is fresh. The default starts from random weights.
        frozen_layers: of that encoder, how many layers, from the first, stay as they are, and with them the embeddings.
            The default trains everything.
        dropout: of that encoder while its pre-training continues, on hidden states and attention weights alike; its own
            is what the model's folder keeps. The default is its own. Texts that are read once or twice need none.
        max_steps: the budget in optimizer steps; give this or max_minutes. A finished run with a larger budget than
            before continues from where it ended.
        max_minutes: the budget in minutes of steps; start-up of the compiler, evaluations and saving come on top.
        batch_tokens: tokens in a global batch, all processes together: sequences times sequence length.
        micro_batch_tokens: the most tokens, padding included, that one process computes at a time; gradients are
            accumulated over the global batch. It changes rounding, and which elements dropout zeroes.
        next_sentence: whether next-sentence prediction is trained beside masked language modelling.
        short_sequence_probability: the fraction of sequences that are cut to a random shorter length (paper: 0.1).
        initialization: paper draws all weights at random; local_attention starts positions as sines and gives each head
            of the first two blocks a neighbour to attend to, which shortens the first plateau of a short training.
        embedding_initialization: paper draws the token embeddings at random; pmi takes them from co-occurrence counts
            in the last phase's corpora (a factored matrix of pointwise mutual information), and the output bias from
            each token's frequency (`text/cooccurrence.py`).
        masking: which tokens must be predicted; a causal model (model.is_decoder) predicts all, and masks none.
        phases: sequence lengths in order, for example 128 tokens first and 512 at the end.
        optimizer: the optimizer and its schedule.
        log_every: steps between two lines of metrics.jsonl.
        evaluate_every: steps between two evaluations on held-out text.
        checkpoint_every: steps between two checkpoints.
    """

    section: ClassVar[str] = "pretrain."
    encoder: str | None = None
    frozen_layers: int = number(0, ">= 0", later=True)
    dropout: float | None = number(None, "[0, 1)", later=True)
    max_steps: int | None = number(None, ">= 1", budget=True)
    max_minutes: float | None = number(None, "> 0", budget=True)
    batch_tokens: int = 32_768
    micro_batch_tokens: int = number(8_192, ">= 8", machine=True)
    next_sentence: bool = True
    short_sequence_probability: float = number(0.1, "[0, 1]")
    initialization: Literal["paper", "local_attention"] = "paper"
    embedding_initialization: Literal["paper", "pmi"] = "paper"
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    phases: tuple[Phase, ...] = (Phase(),)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    log_every: int = number(10, ">= 1", machine=True)
    evaluate_every: int = number(500, ">= 1", machine=True)
    checkpoint_every: int = number(500, ">= 1", machine=True)

    @property
    def corpora(self) -> tuple[str, ...] | None:
        """The corpora that some phase reads; None for all."""
        if any(phase.corpora is None for phase in self.phases):
            return None
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase.corpora or ()))

    def __post_init__(self) -> None:
        """As for every section; and budget, phases and batches fit each other."""
        super().__post_init__()
        require(
            self.max_steps is None or self.max_minutes is None,
            "pretrain has two budgets: give either max_steps or max_minutes, not both",
        )
        total = sum(phase.budget_ratio for phase in self.phases)
        require(
            abs(total - 1) < 1e-6, f"budget_ratio of all pretrain.phases add up to {total:g}; they must add up to 1"
        )
        for phase in self.phases:
            for name in ("batch_tokens", "micro_batch_tokens"):
                tokens = (name == "batch_tokens" and phase.batch_tokens) or getattr(self, name)
                require(
                    tokens >= phase.sequence_length and tokens % phase.sequence_length == 0,
                    f"pretrain.{name} ({tokens}) must be a multiple of the sequence length ({phase.sequence_length})",
                )
