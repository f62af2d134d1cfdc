"""ModernBERT through all stages: pre-trained, fine-tuned on every task from a folder of `transformers`, exported."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file

import bertwright
from bertwright.apps.export import ONNX_FILE, export
from bertwright.errors import UserError
from bertwright.files import read_json
from bertwright.models.checkpoints import load_pretraining_model
from bertwright.models.modernbert import ModernBert
from bertwright.recipe import ModelConfig, OptimizerConfig, TokenizerConfig
from bertwright.tasks.finetune import check_encoder
from bertwright.tasks.initial import with_encoder
from bertwright.tasks.pretraining import Pretraining, pretrain
from bertwright.tasks.registry import load_task_model
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from small_models import relative, sentence_transformer

MODERN = {
    "architecture": "modernbert",
    "local_attention": 8,
    "classifier_pooling": "mean",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


@pytest.fixture
def modern(small_recipe):
    """The small recipe with a ModernBERT and a vocabulary of bytes, whose classifier learns what a review says."""
    recipe = small_recipe(model=MODERN, pretrain={"max_steps": 8, "next_sentence": False})
    finetune = replace(recipe.finetune, epochs=12, optimizer=OptimizerConfig(learning_rate=3e-3))
    return replace(recipe, finetune=finetune, tokenizer=TokenizerConfig(type="byte_bpe", vocab_size=400))


@pytest.mark.slow
def test_a_recipe_goes_through_all_stages_and_answers(modern, tmp_path):
    run = bertwright.run(modern, out=str(tmp_path / "run"))
    folder = run.path / "pretrain" / "model"
    assert read_json(folder / "config.json")["architectures"] == ["ModernBertForMaskedLM"]
    assert run.results["scores"]["bert"]["accuracy"] > 0.9  # one word gives the label away
    assert set(run.results["heldout"]) == {"mlm_loss", "mlm_accuracy", "mlm_bits_per_character"}
    model = bertwright.load(run.path)
    assert isinstance(model.classifier.encoder, ModernBert)
    texts = ["A wonderful film.", "A dreadful film, dreadful from end to end."]
    assert [one.label for one in model.predict(texts)] == ["positive", "negative"]
    with pytest.raises(UserError, match="has no next-sentence head"):
        model.next_sentence("The river was old.", "It was new again.")
    assert model.embed(texts)[0].pooled is None
    words = bertwright.explain(model, "A dreadful  film, ").words
    assert [(one.text, one.start) for one in words] == [("A", 0), ("dreadful", 2), ("film", 12), (",", 16)]
    assert max(words, key=lambda one: one.attribution).text == "dreadful"

    cloze = "The river by the [MASK] was old."
    fill = transformers.pipeline("fill-mask", model=str(folder))
    for one, other in zip(model.fill_mask(cloze, top_k=3)[0], fill(cloze, top_k=3), strict=True):
        assert (one.token, one.score) == (other["token_str"], pytest.approx(other["score"], rel=1e-4))
    classify = transformers.pipeline("text-classification", model=str(run.path / "finetune" / "seed-0" / "model"))
    for one, other in zip(model.predict(texts), classify(texts), strict=True):
        assert (one.label, one.score) == (other["label"], pytest.approx(other["score"], abs=0.01))
    card = (
        export(run.path / "finetune" / "seed-0" / "model", tmp_path / "out", False, False) / "README.md"
    ).read_text()
    assert "A ModernBERT classifier with the classes negative, positive." in card


class StopHereError(Exception):
    """Stands in for a kill between two steps."""


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "optimizer"), [("fp32", "adamw"), ("bf16", "muon")])
def test_pre_training_resumes_to_the_bit(modern, small_prepared, tmp_path, monkeypatch, precision, optimizer):
    recipe = replace(
        modern,
        pretrain=replace(modern.pretrain, max_steps=6, optimizer=OptimizerConfig(name=optimizer, learning_rate=1e-3)),
        system=replace(modern.system, precision=precision),
    )
    assert recipe.model.hidden_dropout_prob > 0  # dropout is part of the promise
    assert recipe.model.attention_probs_dropout_prob > 0
    engine = Engine(recipe.system, print)
    pretrain(recipe, small_prepared, tmp_path / "whole", "x", engine, print)
    original = Pretraining.micro_batches
    asked = []

    def micro_batches(self, *arguments):
        asked.append(arguments)
        if len(asked) > 3:
            raise StopHereError
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "micro_batches", micro_batches)
        with pytest.raises(StopHereError):
            pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print)
    assert pretrain(recipe, small_prepared, tmp_path / "parts", "x", engine, print).step == 6
    whole, parts = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_next_sentences_are_refused(small_recipe, modern, small_prepared, foreign, tmp_path):
    with pytest.raises(UserError, match=r"next_sentence is on, but the model is a modernbert, .*next_sentence false"):
        small_recipe(model=MODERN)
    recipe = small_recipe()
    recipe = replace(
        recipe,
        model=ModelConfig(),
        tokenizer=TokenizerConfig(),
        pretrain=replace(recipe.pretrain, encoder=str(foreign)),
    )
    with pytest.raises(UserError, match=r"next_sentence is on, but .* is a modernbert"):
        with_encoder(recipe, foreign)


@pytest.mark.parametrize(
    ("section", "settings"),
    [("pretrain", {"initialization": "local_attention"}), ("finetune", {"averaging_block": True})],
)
def test_what_is_made_for_bert_s_layers_is_refused_before_anything_is_done(modern, foreign, section, settings):
    with pytest.raises(UserError, match=r"is made for model\.architecture bert, and this recipe's is modernbert"):
        replace(modern, **{section: replace(getattr(modern, section), **settings)})
    if section == "finetune":
        config = replace(modern.finetune, **settings)
        with pytest.raises(UserError, match=r"averaging_block is made for model\.architecture bert"):
            check_encoder(config, foreign)
        assert check_encoder(replace(config, averaging_block=False), foreign).is_bytes


@pytest.mark.slow
def test_pmi_embeddings_are_used(modern, small_prepared, tmp_path):
    recipe = replace(modern, pretrain=replace(modern.pretrain, max_steps=1, embedding_initialization="pmi"))
    pretrain(recipe, small_prepared, tmp_path, "x", Engine(recipe.system, print), print)
    frequent = load_pretraining_model(tmp_path / "model").masked_language_model.bias
    assert frequent.std() > 0.5


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A folder as ModernBERT-base's, of a tiny random model of `transformers`, with a byte-level BPE."""
    folder = tmp_path_factory.mktemp("foreign") / "model"
    texts = ["The boat sank in May, and money is kept in a bank. Ada Lovelace came to London from Paris."] * 2
    tokenizer = Tokenizer.train(texts, TokenizerConfig(type="byte_bpe", vocab_size=300, lowercase=False))
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        local_attention=8,
        pad_token_id=tokenizer.pad_id,
        classifier_pooling="mean",
    )
    transformers.ModernBertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save(folder, 8192, "head", segments=False)
    return folder


SPANS = [{"text": "May", "start": 17}]
TASKS = {
    "classification": [{"text": "The boat sank.", "label": "bad"}, {"text": "Money is kept.", "label": "good"}],
    "regression": [{"text": "The boat sank.", "label": 0.5}, {"text": "Money is kept.", "label": 2.5}],
    "multi-label": [{"text": "The boat sank.", "label": ["a"]}, {"text": "Money is kept.", "label": ["a", "b"]}],
    "token-classification": [
        {"tokens": ["Ada", "Lovelace", "came", "."], "tags": ["B-PER", "I-PER", "O", "O"]},
        {"tokens": ["London", "is", "kept"], "tags": ["B-LOC", "O", "O"]},
    ],
    "question-answering": [
        {"question": "When?", "context": "The boat sank in May.", "answers": SPANS},
        {"question": "Where?", "context": "Money is kept in May.", "answers": [{"text": "kept", "start": 9}]},
    ],
    "multiple-choice": [
        {"context": "Where is money?", "choices": ["in a bank", "in May"], "label": 0},
        {"context": "When did it sink?", "choices": ["in a bank", "in May"], "label": 1},
    ],
    "embedding": [
        {"text": "The boat sank.", "text_pair": "It sank in May."},
        {"text": "Money is kept.", "text_pair": "A bank is in Paris."},
    ],
}
GIVEN = {
    "token-classification": "Ada Lovelace came to London.",
    "question-answering": {"question": "When?", "context": "The boat sank in May. " * 20},
    "multiple-choice": {"context": "Where is money?", "choices": ["in a bank", "in May", "it sank"]},
    "embedding": None,
}


EXPORTED = ("classification", "question-answering", "embedding")
"""Tasks whose ONNX is tried: a head on the whole text, one on its tokens, and none."""


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_folder_of_transformers_is_fine_tuned_on_every_task_predicts_and_exports(foreign, tmp_path, task):
    (tmp_path / "data").mkdir()
    for split, times in (("train", 8), ("test", 2)):
        rows = [
            {**row, "text": f"{row['text']} {n}"} if "text" in row else row for n in range(times) for row in TASKS[task]
        ]
        if task in ("question-answering", "multiple-choice"):
            rows = [{**row, "context": f"{row['context']} {n}"} for n, row in enumerate(rows)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    source = {"path": str(tmp_path / "data"), **({"text_pair_column": "text_pair"} if task == "embedding" else {})}
    recipe = {
        "name": "small",
        "data": {"rows": source},
        "finetune": {
            "data": "rows",
            "task": task,
            "encoder": str(foreign),
            "epochs": 2,
            "batch_size": 4,
            "max_length": 48,
            "validation_ratio": 0.3,
        },
        "system": {"precision": "fp32", "compile": "off"},
    }
    (tmp_path / "small.yaml").write_text(json.dumps(recipe))
    run = bertwright.run(tmp_path / "small.yaml", out=str(tmp_path / "run"))
    folder = run.path / "finetune" / "seed-0" / "model"
    model = load_task_model(folder).eval()
    assert isinstance(model.encoder, ModernBert)
    loaded = bertwright.load(run.path)
    if task == "embedding":
        vectors = sentence_transformer(folder).encode(["The boat sank.", "Money"])
        assert loaded.encode(["The boat sank.", "Money"]) == pytest.approx(vectors, abs=0.01)  # in bfloat16
    else:
        answer = loaded.predict([GIVEN.get(task, "The boat sank in May.")])[0]
        if task == "question-answering":
            assert answer.text == GIVEN[task]["context"][answer.start : answer.end]
        if task == "token-classification":
            assert len(answer.tags) == 6
    if task not in EXPORTED:
        return
    out = export(folder, tmp_path / "out", onnx=True, int8=False)
    session = onnxruntime.InferenceSession(out / ONNX_FILE)
    ids = np.random.default_rng(0).integers(5, 200, (2, 21))
    mask = np.ones_like(ids)
    mask[0, 9:] = 0
    found = session.run(None, {"input_ids": ids, "attention_mask": mask})
    given, real = torch.from_numpy(ids), torch.from_numpy(mask)
    with torch.no_grad():
        expected = model(given, torch.zeros_like(given), real).numpy()
    if task == "question-answering":
        found = [np.stack(found, -1)]
    real = real.numpy().astype(bool) if task in ("question-answering", "token-classification") else ...
    assert found[0][real] == pytest.approx(expected[real], abs=1e-4)
    assert {one.name for one in session.get_inputs()} == {"input_ids", "attention_mask"}


@pytest.mark.slow
def test_pre_training_of_a_folder_of_transformers_is_continued(small_recipe, foreign, tmp_path):
    recipe = small_recipe()
    recipe = replace(
        recipe,
        model=ModelConfig(),
        tokenizer=TokenizerConfig(),
        pretrain=replace(recipe.pretrain, encoder=str(foreign), next_sentence=False, max_steps=4),
        finetune=replace(recipe.finetune, epochs=1),
    )
    run = bertwright.run(recipe, out=str(tmp_path / "run"))
    assert run.results["heldout"]["mlm_loss"] < run.results["heldout_before"]["mlm_loss"]
    theirs = transformers.ModernBertForMaskedLM.from_pretrained(run.path / "pretrain" / "model").eval()
    ours = load_pretraining_model(run.path / "pretrain" / "model").eval()
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        assert relative(ours(ids, torch.zeros_like(ids))[0], theirs(ids).logits) < 1e-5
