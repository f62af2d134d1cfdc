"""Continued pre-training: it starts exactly from a folder's encoder, or says in one sentence why it cannot."""

import json
import pickle
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

import bertwright
from bertwright.apps.export import ONNX_FILE, export
from bertwright.errors import UserError
from bertwright.evaluate.tables import heldout_rows
from bertwright.files import read_json, write_json
from bertwright.inputs.masking import IGNORED_LABEL
from bertwright.models.checkpoints import find_model, load_pretraining_model, read_config
from bertwright.recipe import Recipe, SystemConfig
from bertwright.recipe_file import load_recipe
from bertwright.settings import ModelConfig, OptimizerConfig, TokenizerConfig
from bertwright.tasks.initial import first_model, with_encoder
from bertwright.tasks.pretraining import Pretraining, pretrain
from bertwright.text.prepare import prepare_corpus
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from processes import environment, in_two_processes


@pytest.fixture(scope="module")
def engine():
    return Engine(SystemConfig(precision="fp32", compile="off"), print)


@pytest.fixture
def make(tmp_path, small_prepared):
    """Writes a folder of a class of `transformers` with the corpus's tokenizer; gives model and folder."""

    def build(kind="BertForPreTraining", **settings):
        torch.manual_seed(3)
        tokenizer = Tokenizer.load(small_prepared / "tokenizer")
        shape = {
            "vocab_size": tokenizer.vocab_size,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        }
        model = getattr(transformers, kind)(transformers.BertConfig(**shape | settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(tmp_path / "encoder")
        tokenizer.save(tmp_path / "encoder", 64)
        return model, tmp_path / "encoder"

    return build


@pytest.fixture
def continued(small_recipe):
    """Builds a recipe that continues an encoder; keywords replace fields of its section `pretrain`."""

    def build(encoder, **pretrain) -> Recipe:
        recipe = small_recipe()
        return replace(
            recipe,
            model=ModelConfig(),
            tokenizer=TokenizerConfig(),
            pretrain=replace(recipe.pretrain, encoder=str(encoder), **pretrain),
        )

    return build


def corpora(prepared):
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    parts = (PreparedCorpus(prepared / f"{part}.arrow", tokenizer.fingerprint) for part in ("train", "heldout"))
    return tokenizer, *parts


@pytest.mark.parametrize("kind", ["BertForPreTraining", "BertForMaskedLM"])
@pytest.mark.slow
def test_at_step_0_the_held_out_loss_is_that_of_transformers(make, continued, small_prepared, engine, tmp_path, kind):
    theirs, folder = make(kind)
    recipe = continued(folder, max_steps=1)
    pretrain(recipe, small_prepared, tmp_path / "out", "x", engine, lambda _: None)
    lines = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    first = next(line for line in lines if line["kind"] == "eval")
    tokenizer, train, heldout = corpora(small_prepared)
    model = first_model(recipe, tokenizer, train, lambda _: None)
    stream = Pretraining(recipe, model, tokenizer, train, heldout)._heldout[0].stream
    totals = {"mlm": [0.0, 0, 0], "nsp": [0.0, 0, 0]}
    for number in range(-(-len(stream.plan(0)) // stream.batch_size)):
        batch = stream.batch(number)
        given = [torch.from_numpy(x) for x in (batch.input_ids, batch.attention_mask, batch.token_type_ids)]
        with torch.inference_mode():
            out = theirs(*(x.long() for x in given))
        pairs = {"mlm": (out[0], batch.labels)}
        if kind == "BertForPreTraining":
            pairs["nsp"] = (out.seq_relationship_logits, batch.next_sentence_label)
        for name, (logits, labels) in pairs.items():
            logits, labels = logits.flatten(0, -2), torch.from_numpy(labels).long().flatten()
            scored = labels != IGNORED_LABEL
            sums = (
                torch.nn.functional.cross_entropy(logits[scored], labels[scored], reduction="sum").item(),
                int(scored.sum()),
                int((logits.argmax(-1) == labels)[scored].sum()),
            )
            totals[name] = [a + b for a, b in zip(totals[name], sums, strict=True)]
    assert first["step"] == 0
    for name, (total, count, correct) in totals.items():
        if count:
            assert first[f"{name}_loss"] == pytest.approx(total / count, rel=1e-5)
            assert first[f"{name}_accuracy"] == pytest.approx(correct / count)
    assert totals["mlm"][1] > 20


class StopHereError(Exception):
    """Stands in for a kill between two steps."""


def stop_after(batches, monkeypatch):
    original, asked = Pretraining.micro_batches, []

    def micro_batches(self, *arguments):
        asked.append(arguments)
        if len(asked) > batches:
            raise StopHereError
        return original(self, *arguments)

    monkeypatch.setattr(Pretraining, "micro_batches", micro_batches)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights_to_the_bit(
    make, continued, small_prepared, engine, tmp_path, monkeypatch
):
    # With a head that is drawn afresh, and an output matrix of its own.
    _, folder = make("BertForMaskedLM", tie_word_embeddings=False)
    recipe = continued(folder)
    pretrain(recipe, small_prepared, tmp_path / "whole", "x", engine, lambda _: None)
    stop_after(3, monkeypatch)
    with pytest.raises(StopHereError):
        pretrain(recipe, small_prepared, tmp_path / "cut", "x", engine, lambda _: None)
    monkeypatch.undo()
    said: list[str] = []
    pretrain(recipe, small_prepared, tmp_path / "cut", "x", engine, said.append)
    assert any("resuming from step" in text for text in said)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


IN_TWO = """
import pathlib, pickle, sys
from bertwright.tasks.pretraining import pretrain
from bertwright.train.engine import Engine
recipe = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
engine = Engine(recipe.system, print)
assert engine.world == 2
pretrain(recipe, pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), "x", engine, print)
"""


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(make, continued, small_prepared, engine, tmp_path):
    _, folder = make("BertForMaskedLM")  # the next-sentence head is drawn afresh, in each process
    recipe = continued(folder, max_steps=4, dropout=0.0)
    pretrain(recipe, small_prepared, tmp_path / "one", "x", engine, lambda _: None)
    (tmp_path / "recipe").write_bytes(pickle.dumps(recipe))
    (tmp_path / "two.py").write_text(IN_TWO)
    words = [str(tmp_path / "two.py"), str(tmp_path / "recipe"), str(small_prepared), str(tmp_path / "two")]
    done = subprocess.run(in_two_processes(words), env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=1e-3, msg=name)
    logs = [map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines()) for name in ("one", "two")]
    tokens = [[line["tokens"] for line in log if line["kind"] == "train"] for log in logs]
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pairs", "expected"),
    [
        ("BertForPreTraining", True, None),
        ("BertForPreTraining", False, "the next-sentence head of"),
        ("BertForMaskedLM", True, "no next-sentence head and no trained pooler: freshly initialised"),
        ("BertForMaskedLM", False, None),
        ("BertModel", True, "no head for masked tokens and no next-sentence head: freshly initialised"),
    ],
)
def test_heads_that_the_folder_lacks_are_said(make, continued, small_prepared, kind, pairs, expected):
    _, folder = make(kind)
    said: list[str] = []
    tokenizer, train, _ = corpora(small_prepared)
    model = first_model(continued(folder, next_sentence=pairs), tokenizer, train, said.append)
    assert not model.absent
    assert len(said) == (expected is not None)
    assert expected is None or expected in said[0]
    theirs = load_pretraining_model(folder).encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.encoder.state_dict().items())


def change(folder, **settings):
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **settings})


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_layers_stay_as_they_are_and_all_above_is_trained(
    make, continued, small_prepared, engine, tmp_path, optimizer
):
    _, folder = make("BertForMaskedLM")
    rates = OptimizerConfig(name=optimizer, learning_rate=1e-3)
    recipe = continued(folder, frozen_layers=1, max_steps=2, next_sentence=False, optimizer=rates)
    pretrain(recipe, small_prepared, tmp_path / "out", "x", engine, lambda _: None)
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out" / "model"))
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert same == {name for name in before if name.startswith(("bert.embeddings.", "bert.encoder.layer.0."))}
    assert len(same) == 5 + 16


@pytest.mark.slow
def test_dropout_is_that_of_the_recipe_and_the_folder_keeps_its_own(make, continued, small_prepared, engine, tmp_path):
    _, folder = make("BertForMaskedLM")
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tenth = dict.fromkeys(none, 0.1)
    trained = {}
    for name, own, setting in (("given", tenth, 0.0), ("own", none, None), ("kept", tenth, None)):
        change(folder, **own)
        recipe = continued(folder, dropout=setting, max_steps=2, next_sentence=False)
        pretrain(recipe, small_prepared, tmp_path / name, "x", engine, lambda _: None)
        model = tmp_path / name / "model"
        trained[name] = load_file(model / "model.safetensors")
        assert own.items() <= read_json(model / "config.json").items()
    same = [all(torch.equal(value, trained[name][key]) for key, value in trained["given"].items()) for name in trained]
    assert same == [True, True, False]


@pytest.mark.parametrize(
    ("spoil", "pretrain_settings", "expected"),
    [
        (lambda folder: None, {"frozen_layers": 3}, "pretrain.frozen_layers is 3, but"),
        (lambda folder: change(folder, model_type="t5"), {}, "holds a t5 model; Bertwright reads: bert"),
        (lambda folder: [path.unlink() for path in folder.glob("*o*.txt")] + [(folder / "tokenizer.json").unlink()], {},
         "there is no tokenizer at"),
        (lambda folder: change(folder, vocab_size=150), {}, "do not belong together"),
        (lambda folder: change(folder, max_position_embeddings=48), {},
         "sequence_length of pretrain.phases is 64, but"),
        (lambda folder: change(folder, is_decoder=True), {}, "--pretrain.next_sentence false"),
        (lambda folder: change(folder, type_vocab_size=1), {}, "has type_vocab_size 1"),
        (lambda folder: (folder / "config.json").unlink(), {}, "it has no config.json"),
        (shutil.rmtree, {}, "there is no such folder"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_continued_is_refused_in_one_sentence(
    make, continued, spoil, pretrain_settings, expected
):
    _, folder = make()
    recipe = continued(folder, **pretrain_settings)
    spoil(folder)
    with pytest.raises(UserError) as refused:
        with_encoder(recipe, folder)
    assert expected in str(refused.value)
    assert str(folder) in str(refused.value)


def test_a_causal_folder_is_continued_as_one(make, continued, small_prepared):
    _, folder = make("BertLMHeadModel", is_decoder=True)
    recipe = continued(folder, next_sentence=False)
    assert with_encoder(recipe, folder).model.is_decoder
    tokenizer, train, heldout = corpora(small_prepared)
    model = first_model(recipe, tokenizer, train, lambda _: None)
    assert Pretraining(recipe, model, tokenizer, train, heldout).tokens == "clm"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": {"num_hidden_layers": 4}}, "model.num_hidden_layers is 4, but pretrain.encoder brings its own net"),
        ({"tokenizer": {"vocab_size": 4096}}, "tokenizer.vocab_size is 4096, but pretrain.encoder brings its own tok"),
        ({"tokenizer": {"path": "vocab.txt"}}, "tokenizer.path is vocab.txt"),
        ({"pretrain": {"initialization": "local_attention"}}, "pretrain.initialization is local_attention, but"),
        ({"pretrain": {"embedding_initialization": "pmi"}}, "pretrain.embedding_initialization is pmi, but"),
        ({"finetune": {"encoder": "bundled"}}, "give one of them"),
    ],
)
def test_what_the_encoder_brings_is_not_asked_for_too(changes, expected):
    with pytest.raises(UserError) as refused:
        load_recipe("demo", **changes)
    assert expected in str(refused.value)
    assert load_recipe("demo", tokenizer={"html_line_breaks": True}).tokenizer.html_line_breaks
    assert load_recipe("demo", tokenizer={"new_words": 50}).tokenizer.new_words == 50


def test_random_weights_and_new_words_are_not_frozen():
    with pytest.raises(UserError, match="frozen_layers is 2, and random weights are not worth keeping"):
        load_recipe("demo-from-scratch", pretrain={"frozen_layers": 2})
    with pytest.raises(UserError, match="frozen_layers keeps the embeddings as they are, and"):
        load_recipe("demo", pretrain={"frozen_layers": 2}, tokenizer={"new_words": 50})
    assert load_recipe("demo", pretrain={"frozen_layers": 2}).pretrain.frozen_layers == 2


def test_dropout_of_random_weights_is_the_networks():
    with pytest.raises(UserError, match=r"which the recipe does not name; from random weights give model\.hidden"):
        load_recipe("demo-from-scratch", pretrain={"dropout": 0.0})
    assert load_recipe("demo", pretrain={"dropout": 0.0}).pretrain.dropout == 0


@pytest.mark.parametrize("name", ["demo-from-scratch", "imdb-counterfactual"])
def test_new_words_need_a_vocabulary_to_add_to(name):
    with pytest.raises(UserError, match="new_words adds to a vocabulary that exists"):
        load_recipe(name, tokenizer={"new_words": 50})


def settings(recipe_file, encoder, tmp_path):
    """The small recipe with an encoder in place of tokenizer and network, as a file."""
    content = yaml.safe_load(recipe_file.read_text())
    del content["model"], content["tokenizer"]
    content["pretrain"]["encoder"] = str(encoder)
    content["finetune"] |= {"seeds": [0], "epochs": 1}
    path = tmp_path / "continued.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_run_from_an_encoder_to_a_report(make, recipe_file, tmp_path, capsys):
    _, folder = make()
    path, out = settings(recipe_file, folder, tmp_path), tmp_path / "run"
    results = bertwright.run(path, out=str(out)).results
    before, after = results["heldout_before"], results["heldout"]
    names = {"mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "mlm_bits_per_character"}
    assert before.keys() == after.keys() == names
    assert {name: both.keys() for name, both in results["heldout_corpora"].items()} == {
        name: {"before", "after"} for name in ("books", "reviews:train")
    }
    for both in results["heldout_corpora"].values():
        assert both["before"].keys() == both["after"].keys() == {"mlm_loss", "mlm_accuracy", "mlm_bits_per_character"}
        assert both["after"]["mlm_loss"] < both["before"]["mlm_loss"]
    assert after["mlm_loss"] < before["mlm_loss"]
    page = (out / "report.html").read_text()
    assert f"continued that of <code>{folder.name}</code>: on held-out text, the loss on masked tokens" in page
    assert f"went from {before['mlm_loss']:.3f} to <b>{after['mlm_loss']:.3f}</b>" in page
    bits = [f"<td>{one['mlm_bits_per_character']:.3f}</td>" for one in (before, after)]
    assert f'<th scope="row">bits per character</th>{bits[0]}{bits[1]}' in page
    assert "loss on masked tokens, reviews:train alone" in page
    assert f"; {after['mlm_bits_per_character']:.3f} bits per character)" in page
    assert results["overlap"]["pretraining"] == "unknown"
    assert "model" not in yaml.safe_load((out / "recipe.yaml").read_text())
    for name in ("vocab.txt", "tokenizer.json"):
        assert (out / "pretrain" / "model" / name).read_bytes() == (folder / name).read_bytes(), name
    assert read_config(out / "pretrain" / "model")["hidden_size"] == 32
    capsys.readouterr()
    bertwright.run(out / "recipe.yaml", out=str(out), stages=["prepare", "pretrain"])
    assert capsys.readouterr().err.count("nothing has changed") == 2
    bertwright.run(path, out=str(out), stages=["pretrain"], pretrain={"max_steps": 10})
    assert "resuming from step 8" in capsys.readouterr().err
    with pytest.raises(UserError, match="this run's own result"):
        bertwright.run(path, out=str(out), pretrain={"encoder": str(out)})
    # The folder of a run stands for its encoder; another content is another start.
    other = bertwright.run(
        path, out=str(tmp_path / "next"), stages=["prepare", "pretrain"], pretrain={"encoder": str(out)}
    )
    assert (other.path / "pretrain" / "model" / "model.safetensors").exists()
    weights = load_pretraining_model(folder)
    with torch.no_grad():
        weights.encoder.token_embeddings.weight.add_(0.1)
    bertwright.models.checkpoints.save_weights(weights, folder)
    with pytest.raises(UserError, match="prepare`, which is not done for this recipe"):
        bertwright.run(path, out=str(out), stages=["pretrain"])


@pytest.mark.slow
def test_broken_weights_are_refused_before_any_work(make, recipe_file, tmp_path):
    _, folder = make()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="broken or cut short"):
        bertwright.run(settings(recipe_file, folder, tmp_path), out=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "prepare").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fits", [True, False])
def test_an_encoder_with_the_vocabulary_of_another_is_warned_of(recipe_file, tmp_path, capsys, fits):
    folder = tmp_path / "encoder"
    shutil.copytree(find_model("bundled", "encoder"), folder)
    if not fits:
        (folder / "tokenizer.json").unlink()
        special, words = np.split(np.array((folder / "vocab.txt").read_text().splitlines()), [5])
        order = np.random.default_rng(0).permutation(len(words))
        (folder / "vocab.txt").write_text("\n".join([*special, *words[order]]) + "\n")
    path = settings(recipe_file, folder, tmp_path)
    bertwright.run(path, out=str(tmp_path / "run"), stages=["prepare", "pretrain"])
    assert ("predicts tokens of held-out text worse than chance" in capsys.readouterr().err) != fits


@pytest.mark.slow
def test_without_labels_the_report_has_the_encoder_before_and_after(make, recipe_file, tmp_path, capsys):
    _, folder = make()
    path = settings(recipe_file, folder, tmp_path)
    content = yaml.safe_load(path.read_text())
    del content["finetune"]
    del content["data"]["reviews"]
    content["prepare"]["corpora"] = ["books"]
    path.write_text(yaml.safe_dump(content))
    run = bertwright.run(path, out=str(tmp_path / "run"))
    before, after = (run.results[name]["mlm_loss"] for name in ("heldout_before", "heldout"))
    assert after < before
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["on", "held-out", "text", "before", "after"]
    assert table[2].split()[-2:] == [f"{before:.3f}", f"{after:.3f}"]
    assert f"went from {before:.3f} to <b>{after:.3f}</b>" in (run.path / "report.html").read_text()


def test_without_a_head_there_is_nothing_before():
    results = {"heldout": {"mlm_loss": 2.0}, "heldout_before": {}}
    assert heldout_rows(results) == [("loss on masked tokens", ["-", "2.000"])]


@pytest.fixture
def grown(make, continued, small_prepared, tmp_path):
    """Builds an encoder's folder, and a recipe that adds ten words to its vocabulary with its prepared corpus."""

    def build(kind="BertForPreTraining", **settings):
        theirs, folder = make(kind, **settings)
        recipe = continued(folder, max_steps=4, next_sentence=False)
        recipe = replace(recipe, tokenizer=TokenizerConfig(new_words=10))
        prepare_corpus(with_encoder(recipe, folder), tmp_path / "prepare", "x")
        return theirs, folder, recipe, tmp_path / "prepare"

    return build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("BertForPreTraining", {}),
        ("BertForMaskedLM", {"tie_word_embeddings": False}),
        ("BertForPreTraining", {"vocab_size": 164}),  # four rows of padding, which are used
        ("BertForPreTraining", {"vocab_size": 184}),
        ("BertModel", {}),
    ],
)
def test_new_words_start_from_their_pieces_and_their_frequency(grown, engine, kind, settings):
    theirs, folder, recipe, prepared = grown(kind, **settings)
    tokenizer, train, _ = corpora(prepared)
    old = Tokenizer.load(folder)
    new = tokenizer.tokens[old.vocab_size :]
    assert len(new) == 10
    model = first_model(recipe, tokenizer, train, lambda _: None)
    rows = max(tokenizer.vocab_size, settings.get("vocab_size", 0))
    before = theirs.get_input_embeddings().weight
    tables = [(model.encoder.token_embeddings.weight, before)]
    if "tie_word_embeddings" in settings:
        tables.append((model.masked_language_model.decoder.weight, theirs.get_output_embeddings().weight))
    for after, table in tables:
        assert len(after) == rows == model.encoder.vocab_size
        assert torch.equal(after[: old.vocab_size], table[: old.vocab_size])
        for number, word in enumerate(new, old.vocab_size):
            parts = old.encode([word.removeprefix("##")])[0].tolist()
            if not word.startswith("##"):
                torch.testing.assert_close(after[number], sum(table[part] for part in parts) / len(parts))
    bias = model.masked_language_model.bias.detach().double().numpy()
    if kind == "BertModel":
        assert not bias.any()
        return
    np.testing.assert_array_equal(
        bias[: old.vocab_size], theirs.get_output_embeddings().bias.detach().numpy()[: old.vocab_size]
    )
    counts = np.zeros(tokenizer.vocab_size)
    for document in train.spans(train.document_starts[:-1], np.diff(train.document_starts)):
        for token in document:
            counts[token] += 1
    seen = [token for token in range(old.vocab_size) if counts[token]]
    line = np.stack([np.log(counts[seen]), np.ones(len(seen))], 1)
    slope, level = np.linalg.lstsq(line, bias[seen], rcond=None)[0]
    expected = slope * np.log(np.maximum(counts[old.vocab_size :], 1)) + level
    np.testing.assert_allclose(bias[old.vocab_size : tokenizer.vocab_size], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": False}])
def test_a_grown_encoder_opens_in_transformers_and_resumes_to_the_bit(grown, engine, tmp_path, monkeypatch, settings):
    _, folder, recipe, prepared = grown("BertForMaskedLM", **settings)
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    pretrain(recipe, prepared, tmp_path / "whole", "x", engine, lambda _: None)
    stop_after(3, monkeypatch)
    with pytest.raises(StopHereError):
        pretrain(recipe, prepared, tmp_path / "cut", "x", engine, lambda _: None)
    monkeypatch.undo()
    pretrain(recipe, prepared, tmp_path / "cut", "x", engine, lambda _: None)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    saved = tmp_path / "whole" / "model"
    assert read_config(saved)["vocab_size"] == tokenizer.vocab_size == Tokenizer.load(folder).vocab_size + 10
    theirs = transformers.BertForMaskedLM.from_pretrained(saved).eval()
    tied = theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    assert tied == (not settings)
    words = transformers.AutoTokenizer.from_pretrained(saved)
    text = " ".join(entry for entry in tokenizer.tokens[-10:] if not entry.startswith("##"))
    ids = words(text, return_tensors="pt")["input_ids"]
    assert ids[0, 1:-1].tolist() == tokenizer.encode([text])[0].tolist()
    assert ids.max() >= Tokenizer.load(folder).vocab_size
    ours = load_pretraining_model(saved).eval()
    with torch.inference_mode():
        logits = ours(ids, torch.zeros_like(ids))[0]
        torch.testing.assert_close(logits, theirs(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_with_new_words_from_an_encoder_to_onnx(make, recipe_file, tmp_path, capsys):
    _, folder = make()
    path, out = settings(recipe_file, folder, tmp_path), tmp_path / "run"
    phases = [{"sequence_length": 64, "corpora": ["books"]}]  # what reviews lose is what was forgotten
    pretraining = {"next_sentence": False, "max_steps": 3, "phases": phases}
    run = bertwright.run(path, out=str(out), tokenizer={"new_words": 10}, pretrain=pretraining)
    assert "10 new words, such as " in capsys.readouterr().err
    assert load_recipe(out / "recipe.yaml").tokenizer.new_words == 10
    classifier = out / "finetune" / "seed-0" / "model"
    sizes = {read_config(one)["vocab_size"] for one in (out / "pretrain" / "model", classifier)}
    assert sizes == {read_config(folder)["vocab_size"] + 10}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    given = transformers.AutoTokenizer.from_pretrained(classifier)("the old boat by the river", return_tensors="pt")
    exported = export(classifier, tmp_path / "onnx", onnx=True, int8=False)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / ONNX_FILE)
    found = session.run(None, {name: value.numpy() for name, value in given.items()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(**given).logits.numpy(), rtol=1e-3, atol=1e-4)
    assert run.results["heldout_before"]["mlm_loss"] > run.results["heldout"]["mlm_loss"]
    assert set(run.results["heldout_corpora"]) == {"books", "reviews:train"}
