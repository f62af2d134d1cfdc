# %% [markdown]
# # BERT, from a sentence to a prediction
#
# This lesson builds a BERT from scratch: text becomes tokens, tokens become two pre-training tasks, these train a
# network, and the network learns to tell positive reviews from negative ones. You should know Python and a little
# PyTorch.
#
# The paper is *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding* (Devlin, Chang, Lee
# and Toutanova 2019). The code is Bertwright's: each cell calls a few of its functions and shows the result, and each
# section names the files to read next to it (paths under `src/bertwright`).
#
# The lesson checks its claims: an `assert` that fails stops it.

# %%
import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

REPOSITORY = "<this repository>"  # its address, for machines such as Colab's that have neither files nor package

if not Path("recipes").exists():
    subprocess.run(["git", "clone", REPOSITORY, "bertwright"], check=True)
    os.chdir("bertwright")
if importlib.util.find_spec("bertwright") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "."], check=True)
    importlib.invalidate_caches()
warnings.filterwarnings("ignore", "IProgress not found")  # progress bars for notebooks, which are not needed here

# %%
import contextlib
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image, display
from matplotlib.colors import to_rgba

import bertwright
from bertwright.apps.explain import explain, pieces
from bertwright.evaluate.comparison import comparison, saved_predictions
from bertwright.evaluate.curves import read_metrics
from bertwright.evaluate.plots import THEMES, Series, save_curves, save_intervals
from bertwright.evaluate.tables import results_table, score_rows
from bertwright.files import read_json
from bertwright.inputs.pretraining import IGNORED_LABEL, IS_RANDOM, PretrainStream
from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import PretrainingModel
from bertwright.tasks.pretraining import Pretraining
from bertwright.text.cooccurrence import sampled_documents
from bertwright.text.corpus import read_documents
from bertwright.text.records import read_records
from bertwright.text.sentences import split_sentences
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train import checkpoint
from bertwright.train.engine import Engine

# %% [markdown]
# ## The recipe
#
# The lesson uses the bundled sample: forty-five thousand words of stories and essays, and 400 reviews of films that do
# not exist. With `REAL = True` it reads BookCorpus and IMDB from the Hugging Face hub instead, and takes three hours.
#
# A recipe is the whole experiment in one YAML file. `bertwright.load_recipe` reads it, and any setting can be replaced.
# The sample's budget is set in steps here, not in minutes, so that every machine shows the same results.

# %%
REAL = False

RUN = Path("runs/lesson")
if REAL:
    RECIPE, changes = "recipes/imdb-mini.yaml", {"checkpoint_every": 500}
else:
    RECIPE = "recipes/demo-from-scratch.yaml"
    changes = {"max_minutes": None, "max_steps": 900, "log_every": 5, "evaluate_every": 50, "checkpoint_every": 30}
recipe = bertwright.load_recipe(RECIPE, out=RUN, pretrain=changes)
print(recipe.model)

# %% [markdown]
# Two helper functions. `run` is `bertwright.run` without its progress messages; the command line does the same with
# `bertwright run`. `draw_tokens` draws tokens as coloured boxes.

# %%
BLUE, RED, GREEN, PINK, YELLOW = THEMES[0].cycle
plt.rcParams.update({"figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False})


def run(recipe, **options):
    """Do stages of a recipe; the progress messages are shown only if one fails."""
    with contextlib.redirect_stderr(io.StringIO()) as messages:
        try:
            return bertwright.run(recipe, **options)
        except Exception:
            print(messages.getvalue())
            raise


def draw_tokens(tokens, colors, width=118):
    """Draw tokens in rows of at most `width` characters."""
    places, x, row = [], 0.0, 0
    for token in tokens:
        if x + len(token) > width:
            x, row = 0.0, row + 1
        places.append((x, -row))
        x += len(token) + 1.8
    figure = plt.figure(figsize=(9.6, 0.36 * (row + 1)))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-1, 127), ylim=(-row - 0.6, 0.6))
    axes.axis("off")
    for (x, y), token, color in zip(places, tokens, colors, strict=True):
        box = {"facecolor": color, "edgecolor": "none", "pad": 2.6}
        axes.text(x, y, token.replace("$", r"\$"), family="monospace", fontsize=9, va="center", bbox=box)
    plt.show()


# %% [markdown]
# ## 1. Text
#
# BERT learns from documents, because next-sentence prediction needs sentences in their order. A document is cut into
# sentences by one regular expression. Read: `text/corpus.py`, `text/sentences.py`.

# %%
document = next(read_documents(recipe.source("books"), None))
sentences = split_sentences(document.text)
print(f"{len(document.text):,} characters, {len(sentences)} sentences. The first ones:\n")
for number, sentence in enumerate(sentences[:6], 1):
    print(f"{number}  {sentence[:110]}")

# %% [markdown]
# ## 2. Tokens
#
# A network computes with numbers. WordPiece turns text into entries of a fixed vocabulary: a frequent word has an entry
# of its own, a rare one is made of pieces, and a piece that continues a word begins with `##`. So every word can be
# written.
#
# The prepare stage learns the vocabulary from the text, and writes all of the text to disk as token ids, once. Read:
# `text/wordpiece.py`, `text/prepare.py`, `text/store.py`.

# %%
run(recipe, stages=["prepare"])
tokenizer = Tokenizer.load(RUN / "prepare" / "tokenizer")
corpus, heldout = (
    PreparedCorpus(RUN / "prepare" / f"{part}.arrow", tokenizer.fingerprint) for part in ("train", "heldout")
)
print(f"{tokenizer.vocab_size:,} entries; {corpus.num_tokens:,} tokens for training, {heldout.num_tokens:,} held out")
print("\nSpecial:", *tokenizer.tokens[:5], "\nSome more:", *tokenizer.tokens[100 :: tokenizer.vocab_size // 20])

# %%
text = "The lighthouse keeper's unforgettable performance was, frankly, marvellously overcooked."
ids = tokenizer.encode([text])[0]
draw_tokens(
    [tokenizer.tokens[i] for i in ids],
    [to_rgba(YELLOW if tokenizer.is_continuation[i] else BLUE, 0.3) for i in ids],
)
print(*ids)

# %% [markdown]
# Tokenization loses only capitals and accents: text that is decoded from ids and encoded again has the same ids. The
# check covers every document of the held-out text.

# %%
documents = sampled_documents(heldout, None)
again = tokenizer.encode([tokenizer.decode(ids) for ids in documents])
same = np.mean([np.array_equal(one, two) for one, two in zip(documents, again, strict=True)])
print(f"{same:.1%} of {len(documents)} documents have the same ids again")
assert same == 1

# %% [markdown]
# How frequent is each token? A few are everywhere and most are rare: Zipf's law, a straight line on two logarithmic
# axes.
#
# These frequencies give a baseline for later. A model that knows *only* how frequent each token is can predict masked
# tokens no better than with a loss of the entropy of the frequencies, in nats: $H = -\sum_i p_i \ln p_i$. A model that
# knows nothing has a loss of $\ln V$, where $V$ is the size of the vocabulary.

# %%
counts = np.bincount(np.concatenate(sampled_documents(corpus, None)), minlength=tokenizer.vocab_size)
frequencies = counts[counts > 0] / counts.sum()
entropy, uniform = -(frequencies * np.log(frequencies)).sum(), np.log(tokenizer.vocab_size)

order = np.argsort(-counts)
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.loglog(np.arange(1, len(frequencies) + 1), counts[order[: len(frequencies)]], color=BLUE)
for rank in (0, 2, 8, 40, 200, 1000):
    name, place = f"“{tokenizer.tokens[order[rank]]}”", (rank + 1, counts[order[rank]])
    axes.annotate(name, place, (4, 4), textcoords="offset points")
axes.set(xlabel="rank of the token", ylabel="occurrences", title="A few tokens are everywhere, most are rare")
plt.show()
print(f"loss of uniform predictions: {uniform:.2f} nats per token; of the token frequencies: {entropy:.2f}")

# %% [markdown]
# ## 3. The pre-training tasks: pairs and masks
#
# The text has no labels, so BERT makes two tasks out of it (paper, section 3.1).
#
# - **Next-sentence prediction.** A sequence is `[CLS] A [SEP] B [SEP]`. In half of the sequences B follows A; in the
#   others B comes from another document. The model predicts which.
# - **Masked language modelling.** 15 % of the tokens are chosen. Of these, 80 % become `[MASK]`, 10 % become a random
#   token and 10 % stay, so that the model must form a representation of every token. It predicts the original tokens.
#
# Batch number *n* is a function of (text, seed, *n*): masks are drawn when a batch is asked for, and never stored.
# Read: `inputs/next_sentence.py`, `inputs/masking.py`, `inputs/pretraining.py`.

# %%
stream = PretrainStream(
    corpus,
    tokenizer,
    batch_size=64,
    masking=recipe.pretrain.masking,
    sequence_length=64,
    next_sentence=True,
    short_sequence_probability=0.1,
    sources=None,
    seed=0,
)
batch = stream.batch(0)


def show_sequence(row):
    """One sequence of the batch: A blue, B green, tokens to predict orange; and the answers."""
    real = batch.attention_mask[row]
    ids, answers, segments = batch.input_ids[row][real], batch.labels[row][real], batch.token_type_ids[row][real]
    asked = answers != IGNORED_LABEL
    words = [tokenizer.tokens[i] for i in ids]
    hues = to_rgba(BLUE, 0.25), to_rgba(GREEN, 0.25), to_rgba(RED, 0.7)
    draw_tokens(words, [hues[i] for i in np.where(asked, 2, segments)])
    print("answers:", *(tokenizer.tokens[i] for i in answers[asked]))
    print("B comes from another document" if batch.next_sentence_label[row] == IS_RANDOM else "B follows A", "\n")


for row in (0, 1, 2):
    show_sequence(row)

# %% [markdown]
# A whole batch, one row per sequence. White is padding, which fills short sequences up and is masked in attention.
# Sequences of similar length share a batch, so that there is little padding.

# %%
picture = np.where(batch.attention_mask, 1 + batch.token_type_ids, 0)
picture[batch.labels != IGNORED_LABEL] = 3
figure, axes = plt.subplots(figsize=(5.2, 5))
axes.imshow(np.array([to_rgba(c, a) for c, a in (("white", 1), (BLUE, 0.3), (GREEN, 0.35), (RED, 0.9))])[picture])
axes.set(xlabel="position", ylabel="sequence", title="A (blue), B (green), to be predicted (orange)")
plt.show()

# %% [markdown]
# Do the proportions hold? The check counts over fifty batches.

# %%
chosen = real = pairs = 0
fates = np.zeros(3)
for number in range(50):
    batch, plain = stream.batch(number), stream.batch(number).labels
    asked = plain != IGNORED_LABEL
    special = np.isin(batch.input_ids, (tokenizer.cls_id, tokenizer.sep_id))
    chosen, real = chosen + asked.sum(), real + (batch.attention_mask & ~special).sum()
    pairs += (batch.next_sentence_label == IS_RANDOM).mean() / 50
    masked, kept = batch.input_ids[asked] == tokenizer.mask_id, batch.input_ids[asked] == plain[asked]
    fates += masked.sum(), kept.sum(), (~masked & ~kept).sum()
fates /= fates.sum()
print(f"chosen: {chosen / real:.1%} of the tokens; random B: {pairs:.1%} of the pairs")
print(f"of the chosen, {fates[0]:.1%} are masked, {fates[1]:.1%} kept, {fates[2]:.1%} replaced")
assert abs(chosen / real - recipe.pretrain.masking.rate) < 0.01
assert abs(pairs - 0.5) < 0.05
assert np.allclose(fates, (0.8, 0.1, 0.1), atol=0.02)

# %% [markdown]
# ## 4. The network
#
# The encoder is one file, `models/bert.py`, in the order of the paper: embeddings, attention, feed-forward, block,
# encoder; the pooler is in `models/heads.py`. Ours is tiny. The figure shows the number of weights of each part: in a
# small network the token embeddings are a large part.

# %%
engine = Engine(recipe.system, print)
torch.manual_seed(recipe.seed)
fresh = PretrainingModel(new_encoder(recipe.model, tokenizer.vocab_size, tokenizer.pad_id)).to(engine.device).eval()
sizes = {}
for name, value in fresh.named_parameters():
    first, second = name.removeprefix("encoder.").split(".")[:2]
    part = f"{first}.{second}" if first in ("embeddings", "blocks") else first
    sizes[part] = sizes.get(part, 0) + value.numel()
figure, axes = plt.subplots(figsize=(7, 0.3 * len(sizes) + 0.8))
axes.barh(list(sizes)[::-1], [size / 1000 for size in list(sizes.values())[::-1]], color=BLUE)
axes.set(xlabel="thousand weights", title=f"{sum(sizes.values()):,} weights")
plt.show()

# %% [markdown]
# ### Embeddings
#
# Each token starts as the sum of three learned vectors: of the token, of its position, and of its segment, A or B. At
# first all three are random and of one size. Two different words of A have only the segment's vector in common, and so
# their cosine is about one third; the same word at two positions has two of three vectors in common.

# %%
text = "The old man loved the old boat and the old boat loved the sea."
ids = torch.tensor([tokenizer.cls_id, *tokenizer.encode([text])[0], tokenizer.sep_id], device=engine.device)
words = [tokenizer.tokens[i] for i in ids]


def cosines(vectors):
    """The cosine of each pair of vectors, (tokens, tokens)."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    return (unit @ unit.T).cpu().numpy()


def draw_matrix(axes, values, names, title, top=None):
    """A square of values, dark where they are large."""
    axes.imshow(values, cmap="Blues", vmin=0, vmax=values.max() if top is None else top)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title(title, fontsize=10)


with torch.inference_mode():
    embedded = cosines(fresh.encoder.hidden_states(ids[None])[0][0])
figure, axes = plt.subplots(figsize=(4.6, 4.6))
draw_matrix(axes, embedded, words, "Cosines of embeddings, before training", 1)
plt.show()
same = np.array(words)[:, None] == np.array(words)
same_word, different = embedded[same & ~np.eye(len(words), dtype=bool)].mean(), embedded[~same].mean()
print(f"the same word at two positions: {same_word:.2f}; different words: {different:.2f}")
assert abs(same_word - 2 / 3) < 0.1
assert abs(different - 1 / 3) < 0.1

# %% [markdown]
# ### Attention
#
# Then each position attends to all positions, on its left and on its right, and receives a weighted average of their
# *values*. The weights are a softmax over products of the position's *query* with the *keys* of all positions. Several
# heads do this independently.
#
# With small random weights attention is almost uniform: the model has not learnt yet what to attend to.

# %%
with torch.inference_mode():
    before = fresh.encoder.attention_maps(ids[None])[0].cpu()  # (layers, heads, positions, positions)
figure, axes = plt.subplots(figsize=(4.6, 4.6))
draw_matrix(axes, before[0, 0].numpy(), words, "Attention weights before training (row attends to column)", 0.5)
plt.show()
print(
    f"each row sums to {before[0, 0].sum(-1).mean():.2f}; uniform attention would have {1 / len(words):.3f} everywhere"
)
print(f"lowest weight {before[0, 0].min():.3f}, highest {before[0, 0].max():.3f}")
assert torch.allclose(before.sum(-1), torch.ones(()), atol=1e-4)
assert before[0, 0].max() < 2 / len(words)

# %% [markdown]
# ### Two heads, two losses
#
# The vector of a masked position is multiplied with every token embedding, which gives a probability for each entry of
# the vocabulary. The vector of `[CLS]` gives a probability that B follows A. The loss is the cross-entropy, $-\ln p$ of
# the right answer, averaged over all masked tokens and over all pairs. Read: `models/heads.py`.
#
# A fresh network predicts almost uniformly: its loss is $\ln V$ on masked tokens and $\ln 2$ on pairs.


# %%
def evaluate_heldout(model):
    """Loss and accuracy of both tasks on held-out text."""
    task = Pretraining(recipe, model, tokenizer, corpus, heldout)
    with torch.inference_mode():
        return task.evaluate(task.objective.eval(), engine, phase=0)


untrained = evaluate_heldout(fresh)
print(f"masked tokens: {untrained['mlm_loss']:.2f} nats (ln {tokenizer.vocab_size:,} = {uniform:.2f})")
print(f"next sentences: {untrained['nsp_loss']:.2f} nats (ln 2 = {np.log(2):.2f})")
assert abs(untrained["mlm_loss"] - uniform) < 0.5
assert abs(untrained["nsp_loss"] - np.log(2)) < 0.1

# %% [markdown]
# ## 5. The same by hand
#
# Now all of it again in a few lines of PyTorch: tokens, attention, a block, the losses and a training step. The code
# takes the weights of the network above and none of its functions, and after each part an `assert` compares the two.
#
# **WordPiece.** Take the longest entry that the word begins with, then the longest `##` entry that continues it, and so
# on. Read: `text/wordpiece.py`.

# %%
entries = {token: number for number, token in enumerate(tokenizer.tokens)}


def wordpiece(word):
    """The ids of a word's pieces, the longest first; [UNK] if some piece is not in the vocabulary."""
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in entries:
                break
        else:
            return [entries["[UNK]"]]
        found.append(entries[piece])
        start = end
    return found


sentence = "the lighthouse keeper was marvellously unforgettable ."
by_hand = [number for word in sentence.split() for number in wordpiece(word)]
print(*(tokenizer.tokens[number] for number in by_hand))
assert by_hand == list(tokenizer.encode([sentence])[0])

# %% [markdown]
# **Embeddings.** The sum of three vectors, normalised: mean 0 and variance 1 over the vector's numbers, then a learned
# scale and shift. Letters: S positions, H hidden size, A heads, D = H / A. Read: `models/bert.py`.

# %%
w = {name: value.detach().clone() for name, value in fresh.state_dict().items()}
A, EPS = recipe.model.num_attention_heads, recipe.model.layer_norm_eps


def linear(x, name):
    """A learned matrix and a shift."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x, name):
    """Layer normalisation."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def embed(ids, segments):
    """(..., S) to (..., S, H)."""
    e = "encoder.embeddings"
    summed = w[f"{e}.token.weight"][ids] + w[f"{e}.segment.weight"][segments]
    return norm(summed + w[f"{e}.position.weight"][: ids.shape[-1]], f"{e}.norm")


x = embed(ids, torch.zeros_like(ids))  # (S, H)
states = [state[0].detach() for state in fresh.encoder.hidden_states(ids[None])]
print("ids", tuple(ids.shape), "-> vectors", tuple(x.shape))
assert torch.allclose(x, states[0], atol=1e-5)

# %% [markdown]
# **One head** is three matrices. Each position has a *query* (what it looks for), a *key* (what it can be found by) and
# a *value* (what it passes on). A query times all keys gives scores; the softmax turns a row of scores into weights
# that sum to 1; the result is the weighted mean of the values. The scores are divided by $\sqrt{D}$, as sums over D
# products grow with D.

# %%
first = "encoder.blocks.0.attention"
D = x.shape[1] // A
query, key, value = (linear(x, f"{first}.{part}")[:, :D] for part in ("query", "key", "value"))  # (S, D) each
scores = query @ key.T / D**0.5  # (S, S)
weights = scores.softmax(-1)  # (S, S), each row sums to 1
head = weights @ value  # (S, D)
for name, tensor in (("x", x), ("query", query), ("scores", scores), ("weights", weights), ("head", head)):
    print(f"{name:8}{tuple(tensor.shape)}")
figure, axes = plt.subplots(figsize=(4.2, 4.2))
draw_matrix(axes, weights.cpu().numpy(), words, "One untrained head: almost equal weights")
plt.show()
assert torch.allclose(weights, fresh.encoder.attention_maps(ids[None])[0, 0, 0].detach(), atol=1e-5)

# %% [markdown]
# **Many heads, a block, the encoder.** All heads do the same at once, each with its D columns; one more matrix joins
# them. Then a feed-forward network maps each position by itself. Each of the two is added to what came in (a residual
# sum) and normalised. The encoder is its blocks, one after the other.


# %%
def attention(x, name, mask):
    """(B, S, H) to (B, S, H); `mask` (B, S) is True at real tokens."""
    parts = (linear(x, f"{name}.{part}").unflatten(-1, (A, D)) for part in ("query", "key", "value"))
    query, key, value = (part.transpose(1, 2) for part in parts)  # (B, A, S, D)
    scores = query @ key.transpose(2, 3) / D**0.5  # (B, A, S, S)
    scores = scores.masked_fill(~mask[:, None, None, :], -1e9)  # nobody attends to padding
    return linear((scores.softmax(-1) @ value).transpose(1, 2).flatten(2), f"{name}.output")


def block(x, name, mask):
    """One Transformer layer: attention, then feed-forward."""
    x = norm(x + attention(x, f"{name}.attention", mask), f"{name}.attention_norm")
    wide = torch.nn.functional.gelu(linear(x, f"{name}.feed_forward.expand"))  # (B, S, F)
    return norm(x + linear(wide, f"{name}.feed_forward.contract"), f"{name}.feed_forward_norm")


def encode(ids, segments, mask):
    """(B, S) to (B, S, H)."""
    x = embed(ids, segments)
    for number in range(recipe.model.num_hidden_layers):
        x = block(x, f"encoder.blocks.{number}", mask)
    return x


hidden = encode(ids[None], torch.zeros_like(ids[None]), torch.ones_like(ids[None], dtype=torch.bool))
assert torch.allclose(hidden[0], states[-1], atol=1e-5)

# %% [markdown]
# **Pairs and masks.** In half of the pairs B follows A, in the others it is any other sentence. Then 15 % of the
# tokens are chosen, and of these 80 % are masked, 10 % replaced, and 10 % kept. If all were masked, the network would
# never need a good vector at a token that it can read, and in fine-tuning there is no `[MASK]`. As some tokens are
# random and some kept, it cannot trust what it reads, and has to check every token by its context.
# Read: `inputs/next_sentence.py`, `inputs/masking.py`.

# %%
rng = np.random.default_rng(0)
pieces_of = [list(found) for found in tokenizer.encode(sentences[:40])]


def make_pair(number):
    """[CLS] A [SEP] B [SEP] as ids, segments, and 1 if B is random (here from the same document, in BERT another)."""
    random = rng.random() < 0.5
    other = rng.choice([n for n in range(len(pieces_of)) if n not in (number, number + 1)])
    one, two = pieces_of[number][:20], pieces_of[other if random else number + 1][:20]
    pair = [tokenizer.cls_id, *one, tokenizer.sep_id, *two, tokenizer.sep_id]
    return np.array(pair), np.array([0] * (len(one) + 2) + [1] * (len(two) + 1)), int(random)


def mask_tokens(ids):
    """Ids as the network sees them, and labels: the original token where it was chosen, -100 elsewhere."""
    seen, labels = ids.copy(), np.full_like(ids, -100)
    ordinary = np.flatnonzero((ids != tokenizer.cls_id) & (ids != tokenizer.sep_id))
    chosen = rng.choice(ordinary, max(1, round(0.15 * len(ordinary))), replace=False)
    labels[chosen] = ids[chosen]
    fate = rng.random(len(chosen))
    seen[chosen[fate < 0.8]] = tokenizer.mask_id
    replaced = chosen[(fate >= 0.8) & (fate < 0.9)]
    seen[replaced] = rng.choice(tokenizer.ordinary_ids, len(replaced))
    return seen, labels


pair, segments, is_random = make_pair(0)
seen, labels = mask_tokens(pair)
print(*(tokenizer.tokens[i] for i in seen), "\nanswers:", *(tokenizer.tokens[i] for i in labels[labels >= 0]))
assert (seen[labels < 0] == pair[labels < 0]).all()

# %% [markdown]
# **Two losses.** At a chosen position the vector is mapped and multiplied with all token embeddings: one score per
# entry of the vocabulary. The loss is the negative logarithm of the right token's probability. At all other positions
# there is no loss at all. The vector of `[CLS]` decides between "follows" and "random". Read: `models/heads.py`.


# %%
def negative_log(scores, right):
    """The mean of -ln p(right); scores (N, K), right (N,)."""
    return -scores.log_softmax(-1)[torch.arange(len(right)), right].mean()


def losses(batch):
    """The loss of masked tokens and of next sentences."""
    ids, segments, mask, labels, random = batch
    hidden = encode(ids, segments, mask)
    chosen = hidden[labels != -100]  # (M, H), the chosen positions alone
    m = "masked_language_model"
    moved = norm(torch.nn.functional.gelu(linear(chosen, f"{m}.dense")), f"{m}.norm")
    scores = moved @ w["encoder.embeddings.token.weight"].T + w[f"{m}.bias"]  # (M, V)
    pooled = torch.tanh(linear(hidden[:, 0], "pooler.dense"))  # (B, H)
    return negative_log(scores, labels[labels != -100]), negative_log(linear(pooled, "next_sentence"), random)


whole = stream.batch(0)
small = [
    torch.tensor(np.asarray(part[:8]), device=engine.device).to(kind)
    for part, kind in (
        (whole.input_ids, torch.long),
        (whole.token_type_ids, torch.long),
        (whole.attention_mask, torch.bool),
        (whole.labels, torch.long),
        (whole.next_sentence_label, torch.long),
    )
]
mlm, nsp = losses(small)
token_scores, pair_scores = fresh(*small[:3])
wanted = torch.nn.functional.cross_entropy(token_scores.flatten(0, 1), small[3].flatten())  # leaves out -100
wanted_nsp = torch.nn.functional.cross_entropy(pair_scores, small[4])
print(f"masked tokens {mlm:.3f} (ln V is {uniform:.3f}), next sentence {nsp:.3f} (ln 2 is {np.log(2):.3f})")
assert abs(mlm - wanted) < 1e-5
assert abs(nsp - wanted_nsp) < 1e-5

# %% [markdown]
# **A training step**: the losses, their gradient, and a small move of each weight against it. Adam divides the mean
# gradient by the root of the mean square, so that all weights move at a similar pace. The gradients equal those of the
# package's network. Then the step is repeated on the same eight sequences until they are memorized. Read:
# `train/loop.py`.

# %%
for tensor in w.values():
    tensor.requires_grad_()
mean, square = ({name: torch.zeros_like(tensor) for name, tensor in w.items()} for _ in range(2))


def step(number, rate=3e-3):
    """One step of Adam on the small batch; returns the loss before it and the gradients."""
    loss = sum(losses(small))
    gradients = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
    with torch.no_grad():
        for name, g in gradients.items():
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = 0.999 * square[name] + 0.001 * g**2
            unbiased, spread = mean[name] / (1 - 0.9**number), square[name] / (1 - 0.999**number)
            w[name] -= rate * unbiased / (spread.sqrt() + 1e-8)
    return loss.item(), gradients


before, gradients = step(1)
(wanted + wanted_nsp).backward()
for name, parameter in fresh.named_parameters():
    if name != "encoder.embeddings.token.weight":  # there the package leaves out the row of [PAD]
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name
fresh.zero_grad()
steps = [before, *(step(number)[0] for number in range(2, 31))]
print("loss:", *(f"{loss:.2f}" for loss in steps[::3]))
assert steps[-1] < 0.2 * steps[0]

# %% [markdown]
# ### Exercises
#
# Answer first, then unfold; the cell below checks all five.
#
# 1. A sequence is twice as long. How many more scores does a head compute?
#    <details><summary>Answer</summary>Four times as many: scores are (S, S).</details>
# 2. What is the loss at a position that was not chosen?
#    <details><summary>Answer</summary>None. Its scores are not even computed, and any label there would do.</details>
# 3. What does a block do if the order of the vectors that come in is reversed?
#    <details><summary>Answer</summary>It gives the same vectors in reverse: only the position embeddings tell the
#    order.</details>
# 4. What are the weights of a head if its query matrix and shift are zero?
#    <details><summary>Answer</summary>All equal, 1 / S: all scores are 0.</details>
# 5. Which loss has a model that gives each entry the same score?
#    <details><summary>Answer</summary>ln V. If it knows the frequencies it has their entropy, and there the curve of
#    pre-training rests at first: this is easily learnt, and the use of context is not.</details>

# %%
with torch.no_grad():
    twice = torch.cat([query, query]) @ torch.cat([key, key]).T
    assert twice.numel() == 4 * scores.numel()
    other = [part.clone() for part in small]
    other[3][0, 0] = -100  # [CLS] is never chosen: to say so again changes nothing
    assert (small[3][:, 0] == -100).all()
    assert losses(other)[0] == losses(small)[0]
    real = torch.ones(1, len(ids), dtype=torch.bool, device=ids.device)
    straight, turned = (block(y[None], "encoder.blocks.0", real)[0] for y in (x, x.flip(0)))
    assert torch.allclose(straight, turned.flip(0), atol=1e-4)
    assert torch.allclose((0 * query @ key.T).softmax(-1), torch.full_like(scores, 1 / len(ids)))
    same_scores = torch.zeros(1, tokenizer.vocab_size)
    assert abs(negative_log(same_scores, torch.tensor([7])) - uniform) < 1e-5

# %% [markdown]
# ## 6. Pre-training
#
# The pretrain stage takes two and a half minutes on two cores. Each step takes a batch, predicts, and changes all
# weights a little in the direction of a smaller loss. Read: `train/loop.py`, `tasks/pretraining.py`.
#
# Bertwright keeps the newest two checkpoints of a run. This lesson compares all of them, and so it keeps more.

# %%
checkpoint.KEEP = 1_000
run(recipe, stages=["pretrain"])
rows = read_metrics(RUN / "pretrain" / "metrics.jsonl")
training, evaluated = ([row for row in rows if row["kind"] == kind] for kind in ("train", "eval"))
end = training[-1]
print(f"{end['step']} steps, {end['tokens'] / 1e6:.1f} million tokens in {end['seconds']:.0f} seconds")

# %% [markdown]
# ### The learning curve
#
# The loss falls quickly from $\ln V$ and then stays near the dashed line for a while. On this plateau the network has
# learnt only how frequent each token is, and predicts the same for every masked position. To improve, it must use the
# context, and for that queries, keys and values of attention have to be learnt together. That takes some time, and then
# the loss falls again.
#
# Dots are held-out text, which is never trained on. The sample is tiny and is repeated many times, so in the end the
# network memorizes it: the training loss still falls where the loss on held-out text has stopped. The step up at four
# fifths is where sequences become twice as long: half of the positions are new to the network there.


# %%
def draw_curve(name, key, title, level, unit="step", rows=rows):
    """A figure of training and held-out text, as in the report of a run."""
    lines = []
    for kind, label, style, color in (("train", "training", "smoothed", 0), ("eval", "held out", "points", 1)):
        points = np.array([(r[unit], r[key]) for r in rows if r["kind"] == kind and key in r], dtype=float)
        lines.append(Series(points[:, 0], points[:, 1], label, style, color))
    save_curves(RUN / "plots", name, lines, x_label=unit, y_label=title, level=level)
    display(Image(RUN / "plots" / f"{name}.png", width=560))


draw_curve("lesson-words", "mlm_loss", "Masked tokens: loss", (entropy, "token frequencies alone"))

# %%
steps = np.array([row["step"] for row in training])
losses = np.array([row["mlm_loss"] for row in training])
near = steps[np.abs(losses - entropy) < 0.15]
print(
    f"plateau at {entropy:.2f}: {len(near)} of {len(steps)} points are within 0.15 of it, the first at step {near[0]}"
)
print(f"at the end: training {losses[-5:].mean():.2f}, held-out text {evaluated[-1]['mlm_loss']:.2f}")
assert REAL or len(near) >= 5
assert losses[-5:].mean() < entropy - 0.5
assert min(row["mlm_loss"] for row in evaluated) < entropy
assert evaluated[-1]["mlm_loss"] < untrained["mlm_loss"] - 0.5

# %% [markdown]
# The accuracy of next-sentence prediction starts at one half, and stays there until the network can compare the
# contents of A and B.

# %%
draw_curve("lesson-pairs", "nsp_accuracy", "Next sentences: accuracy", (0.5, "chance"))
with_pairs = [row["nsp_accuracy"] for row in training if "nsp_accuracy" in row]  # imdb-mini has them at first only
pairs_learnt = np.mean(with_pairs[-5:])
print(f"training, the last steps: {pairs_learnt:.1%}; held-out text, at the end: {evaluated[-1]['nsp_accuracy']:.1%}")
assert pairs_learnt > 0.52

# %% [markdown]
# ### Predictions for masked tokens, during training
#
# How do the predictions for a masked token change? A checkpoint is a model folder and loads like any other model; it
# only needs the tokenizer in the same folder. For comparison there is the bundled encoder, which was pre-trained for
# more than an hour on books and reviews.

# %%
cloze = {
    "There [MASK] nothing to be done.": "was",
    "He did [MASK] know what to say.": "not",
    "She looked out [MASK] the window.": "of",
    "It had [MASK] raining all night.": "been",
    "They were kind to each [MASK].": "other",
}
moments = {}
for folder in sorted((RUN / "pretrain" / "checkpoints").glob("step-*")):
    tokenizer.save(folder)
    moments[int(folder.name.partition("-")[2])] = bertwright.load(folder)
bundled = bertwright.load("bundled")


def probabilities(model, sentence):
    """The probability of each token at the [MASK] of a sentence, the most probable first."""
    return {
        found.token: found.score for found in model.fill_mask(sentence, top_k=model.pretrained.tokenizer.vocab_size)[0]
    }


shown = [list(moments)[i] for i in np.linspace(0, len(moments) - 1, 4).round().astype(int)]
for sentence, answer in cloze.items():
    print(f"{sentence}   ({answer})")
    for name, model in [*((f"step {step}", moments[step]) for step in shown), ("bundled", bundled)]:
        best = list(probabilities(model, sentence).items())[:5]
        print(f"  {name:>9}: " + "  ".join(f"{token} {p:.2f}" for token, p in best))

# %% [markdown]
# The predictions of the first checkpoint are the same in every sentence: `.`, `the` and `,`, the most frequent tokens.
# How probable is the right answer, from checkpoint to checkpoint?

# %%
figure, axes = plt.subplots(figsize=(7.4, 3.6))
course = {
    sentence: [probabilities(model, sentence).get(answer, 0) for model in moments.values()]
    for sentence, answer in cloze.items()
}
for color, (sentence, answer) in zip(THEMES[0].cycle, cloze.items(), strict=True):
    axes.plot(list(moments), course[sentence], color=color, label=sentence.replace("[MASK]", f"[{answer}]"))
axes.set(xlabel="step", ylabel="probability of the answer in brackets")
axes.set_ylim(0, 1.6 * max(map(max, course.values())))  # space for the legend
axes.legend(frameon=False, fontsize=8, loc="upper left")
plt.show()
gain = np.mean([line[-1] - line[0] for line in course.values()])
known = np.mean([probabilities(bundled, sentence).get(answer, 0) for sentence, answer in cloze.items()])
print(f"the mean probability of the answers rises by {gain:.2f}; the bundled encoder's is {known:.2f}")
assert gain > 0.05
assert known > 0.3

# %% [markdown]
# ### Attention after pre-training
#
# The same sentence as above. The heads have specialized: many attend to a neighbour, others to `[CLS]`, `[SEP]` or the
# full stop, which serve as a default where a head finds nothing.

# %%
trained = bertwright.load(RUN / "pretrain" / "model")
with torch.inference_mode():
    after = trained.pretrained.model.encoder.attention_maps(ids[None])[0].cpu()
layers, heads = after.shape[:2]
figure, grid = plt.subplots(layers, heads, figsize=(8, 8 * layers / heads), layout="constrained", squeeze=False)
for layer in range(layers):
    for head in range(heads):
        draw_matrix(grid[layer, head], after[layer, head].numpy(), words, f"block {layer + 1}, head {head + 1}", 0.8)
plt.show()


def spread(maps):
    """How many positions a token attends to, on average: the exponential of the entropy of its weights."""
    return float((-(maps * maps.clamp_min(1e-9).log()).sum(-1)).exp().mean())


print(f"a token attends to {spread(before):.1f} of {len(words)} positions before training, {spread(after):.1f} after")
assert spread(after) < spread(before)

# %% [markdown]
# ### Embeddings before and after
#
# Words that can stand in the same place get similar vectors, though nothing tells the network what a preposition is:
# the families of words show as darker squares along the diagonal. After so little text rare words are similar to each
# other whatever they mean, because the network has hardly met them. The bundled encoder knows more words, and more
# about them.

# %%
families = {
    "pronouns": "he she they we i you",
    "prepositions": "in on at under over with",
    "verbs": "was were is are had has",
    "numbers": "two three four five ten",
    "praise": "great wonderful excellent superb",
    "blame": "bad awful terrible boring",
}
tables = {"before": (fresh.encoder, tokenizer), "after": (trained.pretrained.model.encoder, tokenizer)}
tables["bundled"] = (bundled.pretrained.model.encoder, bundled.pretrained.tokenizer)
figure, grid = plt.subplots(1, 3, figsize=(9.6, 3.6), layout="constrained")
contrast = {}
for axes, (title, (encoder, its)) in zip(grid, tables.items(), strict=True):
    known = {word: kind for kind, line in families.items() for word in line.split() if word in its.tokens}
    vectors = encoder.token_embeddings.weight.detach()[[its.tokens.index(word) for word in known]]
    values = cosines(vectors - vectors.mean(0))
    alike = np.equal.outer(list(known.values()), list(known.values()))
    contrast[title] = float(values[alike & ~np.eye(len(known), dtype=bool)].mean() - values[~alike].mean())
    draw_matrix(axes, values, list(known), title, 0.6)
plt.show()
print(
    "mean cosine within families, minus the mean between them:",
    {name: round(value, 2) for name, value in contrast.items()},
)
assert contrast["before"] < 0.05
assert contrast["after"] > contrast["before"]
assert contrast["bundled"] > contrast["before"] + 0.1

# %% [markdown]
# ## 7. Fine-tuning
#
# Now the labelled reviews, positive or negative. A linear layer is put on the vector of `[CLS]`, and the whole network
# is trained further on the labels (paper, section 4.1). A part of the training reviews is the validation set, which
# chooses the checkpoint.
#
# The baselines are trained on the same reviews: naive Bayes on word counts and two logistic regressions on n-grams.
# They train in a second. `bertwright.run` does all remaining stages and prints the table. Read: `tasks/sequence.py`,
# `tasks/finetune.py`, `tasks/baselines.py`, `evaluate/evaluation.py`.

# %%
micro = run(recipe).results

# %% [markdown]
# With forty-five thousand words for pre-training and 200 reviews for fine-tuning, this BERT has no advantage over the
# n-gram baselines: fine-tuning can only use what pre-training has learnt.

# %%
display(Image(RUN / "plots" / "finetune-loss.png", width=560))

# %% [markdown]
# ## 8. The same, after hours on real text
#
# Bertwright comes with a classifier that was trained on two such cores: pre-trained for more than an hour on books and
# film reviews, and fine-tuned on the labelled reviews of IMDB. None of the sample's reviews, of films that do not
# exist, was among them. A recipe of a few lines fine-tunes it further on the sample, with the same code:

# %%
larger_run = run("recipes/demo-bundled.yaml", out="runs/lesson-bundled")
larger = larger_run.results

# %%
baselines = [row for row in score_rows(larger) if row["system"] != "bert"]
lines = [(row["name"], row["f1"], row["f1_low"], row["f1_high"]) for row in baselines]
for name, results in (("micro BERT, minutes on the sample", micro), ("bundled BERT, hours on real text", larger)):
    if results["data"] == larger["data"]:
        lines.append((name, *(results["scores"]["bert"][key] for key in ("f1", "f1_low", "f1_high"))))
save_intervals(RUN / "plots", "lesson-systems", lines, x_label="F1 on the sample's test reviews", emphasis=lines[-1][0])
display(Image(RUN / "plots" / "lesson-systems.png", width=560))
best = max(row["f1"] for row in baselines)
print(f"bundled BERT {larger['scores']['bert']['f1']:.3f}, best baseline {best:.3f}")
assert larger["scores"]["bert"]["f1"] > best + 0.05
assert REAL or larger["scores"]["bert"]["f1"] > micro["scores"]["bert"]["f1"]

# %% [markdown]
# How much of that comes from the 200 reviews? The bundled classifier without them, on the same test reviews:

# %%
demo = bertwright.load_recipe("recipes/demo-bundled.yaml")
reviews = read_records(demo.source("reviews"), "test", ("text", "label"))
predictions = bundled.predict([review.text for review in reviews])
right = np.mean(
    [
        one.label == demo.finetune.label_names[int(review.label)]
        for one, review in zip(predictions, reviews, strict=True)
    ]
)
best_accuracy = max(row["accuracy"] for row in baselines)
print(f"accuracy {right:.1%}; the best baseline, trained on 200 reviews: {best_accuracy:.1%}")
assert right > best_accuracy

# %% [markdown]
# ### How confident is it?
#
# Each test review gets a probability of being positive. A good classifier puts most reviews near 0 or 1, and its
# mistakes in the middle.

# %%
predictions = saved_predictions(larger_run.path / "evaluate" / "predictions")
labels, probability = predictions["labels"], predictions["bert"][:, 1]
figure, axes = plt.subplots(figsize=(7, 3))
edges = np.linspace(0, 1, 21)
axes.hist(
    [probability[labels == 0], probability[labels == 1]], edges, color=[RED, BLUE], label=["negative", "positive"]
)
axes.set(xlabel="probability of being positive", ylabel="test reviews")
axes.legend(frameon=False, title="label")
plt.show()

# %% [markdown]
# ### Attributions: which words decide?
#
# Integrated gradients: the input goes in small steps from a text in which every token is `[MASK]` to the text itself,
# and each word's attribution is the change of the log-odds along its way. Blue words raise the probability of the
# predicted class, orange ones lower it. Read: `apps/explain.py`.

# %%
classifier = bertwright.load(larger_run.path)


def show_attributions(text):
    """A prediction with its words, coloured by their relative attribution."""
    found = explain(classifier, text)
    words = [(word, attribution) for piece, attribution in pieces(found) for word in piece.split()]
    hues = [to_rgba(BLUE if attribution > 0 else RED, min(0.8, abs(attribution))) for _, attribution in words]
    draw_tokens([word for word, _ in words], hues)
    print(f"{found.prediction.label}, {found.prediction.score:.2f}\n")


show_attributions("A slow start, and then it becomes one of the loveliest films I have seen in years. Go.")
show_attributions("Two hours of speeches, a wooden hero and no joke that lands. I wanted my evening back.")

# %% [markdown]
# ### Errors
#
# The most confident mistakes say most about a classifier. Irony, faint praise, a friendly word about the lighting:
# single words point to the wrong class, and the meaning is in their combination.

# %%
for mistake in read_json(larger_run.path / "evaluate" / "examples.json")["mistakes"][:3]:
    print("label:", mistake["label"])
    show_attributions(mistake["text"])

# %% [markdown]
# ## 9. The real run
#
# The same code with `recipes/imdb-mini.yaml`: books and 75,000 film reviews for pre-training, IMDB's 25,000 labelled
# training reviews for fine-tuning and validation, and the official 25,000 test reviews, evaluated once. It takes three
# hours on two cores. The recipe also learns from unlabelled reviews, whose pseudo-labels come from a first BERT and
# from the table's best n-gram baseline together; `results/imdb-mini/README.md` says how much that adds. Everything
# below is read from `results/imdb-mini/`.

# %%
FULL = Path("results/imdb-mini")
full = read_json(FULL / "results.json")
print(f"{full['machine']}: {full['seconds'] / 3600:.1f} hours\n")
print(results_table(full))

# %% [markdown]
# This run starts from a better initialization: its first heads attend to neighbours, and its embeddings are computed
# from co-occurrence counts (`docs/decisions.md`). The plateau of token frequencies almost disappears.

# %%
draw_curve(
    "lesson-full", "mlm_loss", "Masked tokens: loss, real run", None, "seconds", read_metrics(FULL / "pretrain.jsonl")
)

# %%
rows = score_rows(full)
lines = [(row["name"], row["f1"], row.get("f1_low"), row.get("f1_high")) for row in rows]
save_intervals(RUN / "plots", "lesson-full-systems", lines, x_label="F1, IMDB test", emphasis="BERT (this run)")
display(Image(RUN / "plots" / "lesson-full-systems.png", width=560))
print(comparison(full, saved_predictions(FULL / "predictions"))["text"])
assert full["scores"]["bert"]["f1"] > full["scores"]["naive_bayes"]["f1"]
assert full["scores"]["bert"]["count"] == 25_000

# %% [markdown]
# One review in six is longer than 510 tokens, the most that this run classifies. The same encoder, fine-tuned to
# classify long reviews in windows (`results/imdb-mini-windows/`). Both of its seeds are above the best baseline, and
# the interval, which holds the spread between seeds, is above 0. Two seeds tell little of that spread: a more cautious
# rule (the sum of Behrens and Fisher) gives -0.0032 to 0.0106, and would leave it open.

# %%
WHOLE = Path("results/imdb-mini-windows")
whole = comparison(read_json(WHOLE / "results.json"), saved_predictions(WHOLE / "predictions"))
print(whole["text"])
assert whole["outcome"] == "wins"

# %% [markdown]
# With all labels the best baseline is close. Pre-training helps most where labels are few: the same encoder and the
# same baselines, trained on 100 to 25,000 labelled reviews, three draws each, evaluated on 5,000 test reviews
# (`benchmarks/few_labels.py`). With 100 labels BERT's worst draw is better than the best of any baseline.

# %%
FEW = Path("results/few-labels")
display(Image(FEW / "few-labels.png", width=560))
draws = read_json(FEW / "few-labels.json")["f1"]["100"]
others = [value for found in draws for system, value in found.items() if system != "bert"]
print(f"100 labels: BERT {min(found['bert'] for found in draws):.3f} or more, the baselines {max(others):.3f} or less")
assert min(found["bert"] for found in draws) > max(others)

# %% [markdown]
# ## 10. Does it use context on both sides?
#
# The paper's claim is in its title: *bidirectional*. In this study one network was pre-trained on the same tokens in
# two ways: with masked tokens, and as a causal (left-to-right) model that predicts each next token. Then both completed
# cloze sentences with one of two words. The deciding word stands to the left of the mask, to its right, or on both
# sides; or the masked word is a verb that must agree with its subject. Each word is right in half of the sentences, so
# chance is one half. The study (`benchmarks/bidirectional.py`) takes two and a half hours; its results are in
# `results/bidirectional/`.

# %%
STUDY = Path("results/bidirectional")
CAUSAL = "left-to-right"  # the causal model, as these results call it
study = read_json(STUDY / "results.json")["rows"]
models = (
    ("masked", "without-next-sentence", "whole sentence"),
    ("causal", CAUSAL, "left side alone"),
)
figure, axes = plt.subplots(figsize=(7, 3))
for place, (name, row, sees) in enumerate(models):
    found = [study[row]["probes"][sees][side] for side in ("left", "right", "both", "agreement")]
    ratios = np.array([side["mean"] for side in found])
    ends = np.abs(np.array([[side["low"], side["high"]] for side in found]).T - ratios)
    axes.bar(np.arange(4) + 0.4 * place - 0.2, ratios, 0.36, yerr=ends, color=(BLUE, RED)[place], capsize=3, label=name)
axes.axhline(0.5, color="black", linestyle=":", linewidth=1)
axes.set_xticks(range(4), ["left", "right", "both sides", "agreement"])
axes.set(ylim=(0, 1.15), xlabel="position of the deciding word", ylabel="accuracy")
axes.legend(frameon=False, ncols=2, loc="upper right")
plt.show()
on_the_right = [study[row]["probes"][sees]["right"]["mean"] for _, row, sees in models]
assert on_the_right[0] > on_the_right[1] + 0.1

# %% [markdown]
# If the deciding word is on the right, the masked model is better than chance, and the causal one cannot be. But masked
# language modelling is less efficient: it learns from three tokens in ten, a causal model from all. After five million
# tokens the masked model is behind on deciding words to the left, and far behind on agreement. Neither has learnt to
# combine two sides yet.
#
# The next figure shows the effect of right context. The words after the mask are uncovered one at a time; the masked
# model changes its prediction when the deciding word appears. (The causal model is shown by the likelihood of the whole
# sentence.)

# %%
display(Image(STUDY / "figures" / "uncovered-right-01-a.png", width=560))

# %% [markdown]
# What do the heads attend to? Each row is a head, each column a position relative to the attending token. In the first
# layer of the masked model one head attends to the left neighbour and one to the right neighbour. The causal model has
# no weights on the right.

# %%
for row in ("without-next-sentence", CAUSAL):
    display(Image(STUDY / "figures" / f"attention-{row}.png", width=560))

# %% [markdown]
# ## Further reading
#
# - **Your own text and labels**: `docs/guide/your-text.md`, `docs/guide/your-labels.md`.
# - **The full run**: `bertwright run recipes/imdb-mini.yaml`, or this lesson with `REAL = True`; three hours.
# - **The code, in reading order**: the map in `CONTRIBUTING.md`; each file opens with a short summary.
# - **Reasons**: `docs/decisions.md`, and `docs/experiments/` with the measurements, negative results included.
#
# Exercises: put your own sentences into the cloze test above, change the masking rate (`pretrain={"masking": {"rate":
# 0.3}}`), or start with heads that attend to a neighbour (`pretrain={"initialization": "local_attention"}`) and see the
# plateau disappear.
