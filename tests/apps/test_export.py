"""Models in other tools: ONNX Runtime against us, and the hub folder against `transformers`."""

import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bertwright
from bertwright.apps.export import INT8_FILE, ONNX_FILE, export
from bertwright.cli import main
from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.models.checkpoints import load_pretraining_model, load_tokenizer, new_encoder, save_model
from bertwright.models.embedding_head import EmbeddingHead
from bertwright.models.heads import PretrainingModel, SequenceHead, TaskModel
from bertwright.models.sentence_folder import Pooling
from bertwright.tasks.registry import load_task_model
from bertwright.text.wordpiece import Tokenizer
from small_models import SHAPE, sentence_transformer, shaken

onnxruntime = pytest.importorskip(
    "onnxruntime", reason="ONNX Runtime is not installed: pip install onnx onnxruntime onnxscript"
)


@pytest.fixture(scope="module")
def folders(finished):
    return {"classifier": finished / "finetune/seed-0/model", "pretrained": finished / "pretrain/model"}


@pytest.fixture(scope="module")
def exported(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    return {name: export(folder, out / name, onnx=True, int8=True, license="mit") for name, folder in folders.items()}


def batch_of(batch: int, length: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(length)
    ids = torch.from_numpy(rng.integers(5, 160, (batch, length)))
    mask = torch.ones_like(ids)
    mask[-1, max(1, length // 2) :] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(length) > length // 2).long().expand(batch, -1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("length", [5, 33, 64])
@pytest.mark.parametrize("name", ["classifier", "pretrained"])
def test_onnx_runtime_gives_our_logits(exported, folders, name, batch, length):
    given = batch_of(batch, length)
    session = onnxruntime.InferenceSession(exported[name] / ONNX_FILE)
    theirs = session.run(None, {key: value.numpy() for key, value in given.items()})
    model = (load_task_model if name == "classifier" else load_pretraining_model)(folders[name]).eval()
    with torch.inference_mode():
        ours = model(given["input_ids"], given["token_type_ids"], given["attention_mask"])
    ours = [ours] if name == "classifier" else list(ours)
    seen = given["attention_mask"].bool().numpy()
    for a, b in zip(theirs, ours, strict=True):
        if a.ndim == 3:  # what stands at padding means nothing
            a, b = a[seen], b[torch.from_numpy(seen)]
        assert np.allclose(a, b.numpy(), atol=1e-4)


@pytest.mark.slow
def test_int8_predicts_alike(exported, folders):
    given = {key: value.numpy() for key, value in batch_of(7, 33).items()}
    exact, rounded = (
        onnxruntime.InferenceSession(exported["classifier"] / name).run(None, given)[0]
        for name in (ONNX_FILE, INT8_FILE)
    )
    assert np.abs(exact - rounded).max() < 0.25 * np.abs(exact).max()
    assert (exported["classifier"] / INT8_FILE).stat().st_size < (exported["classifier"] / ONNX_FILE).stat().st_size


def test_the_folder_opens_in_transformers_and_tells_where_it_comes_from(folders, tmp_path):
    written = {
        name: export(folder, tmp_path / name, onnx=False, int8=False, license="mit") for name, folder in folders.items()
    }
    classify = transformers.pipeline("text-classification", model=str(written["classifier"]), truncation=True)
    positive = read_json(folders["classifier"] / "config.json")["id2label"]["1"]
    assert classify("A wonderful film. " * 60)[0]["label"] == positive  # cut at the model's length by its tokenizer
    card = (written["classifier"] / "README.md").read_text()
    known = (
        "license: mit",
        "text-classification",
        "Trained from random weights",
        "| BERT (this run) |",
        "max_steps: 8",
        "On the test split of `reviews`",
        "| system | accuracy | F1 of `positive` | 95 % interval | macro-F1 |",
        'classify("The text to classify.")',
    )
    for words in (*known, "mean over 2 fine-tuning seeds. This model is seed 0", "## Limits"):
        assert words in card
    assert "fill-mask" in (written["pretrained"] / "README.md").read_text()


@pytest.mark.parametrize("name", ["classifier", "pretrained"])
def test_a_small_folder_has_half_the_bytes_and_answers_alike(folders, tmp_path, name):
    small = export(folders[name], tmp_path / name, onnx=False, int8=False, small=True)
    weights = [load_file(folder / "model.safetensors") for folder in (folders[name], small)]
    sizes = [sum(value.nbytes for value in tensors.values()) for tensors in weights]
    assert sizes[1] == 0.5 * sizes[0]
    card = (small / "README.md").read_text()
    assert "`transformers` computes in float32, Bertwright in bfloat16 where the hardware has it" in card
    auto = transformers.AutoModelForSequenceClassification if name == "classifier" else transformers.BertForPreTraining
    given = batch_of(7, 33)
    theirs = auto.from_pretrained(small).eval()
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.float32}
    read = load_task_model if name == "classifier" else load_pretraining_model
    with torch.inference_mode():
        opened = theirs(**given)
        arguments = given["input_ids"], given["token_type_ids"], given["attention_mask"]
        ours, exact = read(small).eval()(*arguments), read(folders[name]).eval()(*arguments)
    if name == "classifier":
        opened, ours, exact = [opened.logits], [ours], [exact]
    else:
        opened = [opened.prediction_logits, opened.seq_relationship_logits]
    seen = given["attention_mask"].bool()
    for a, b, c in zip(opened, ours, exact, strict=True):
        if a.ndim == 3:  # what stands at padding means nothing
            a, b, c = a[seen], b[seen], c[seen]
        assert torch.allclose(a, b, atol=1e-4)
        assert (b - c).abs().max() < 0.05 * c.abs().max()
        assert not torch.equal(b, c)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("pretrained", "AutoModel"),
        ("pretrained", "AutoModelForPreTraining"),
        ("pretrained", "AutoModelForMaskedLM"),
        ("pretrained", "AutoModelForNextSentencePrediction"),
        ("classifier", "AutoModelForSequenceClassification"),
    ],
)
def test_every_head_of_transformers_opens_what_we_write_and_we_what_it_saves(folders, tmp_path, name, head):
    theirs, told = getattr(transformers, head).from_pretrained(folders[name], output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    theirs.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folders[name]).save_pretrained(tmp_path)
    given = batch_of(3, 20)
    arguments = given["input_ids"], given["token_type_ids"], given["attention_mask"]
    with torch.inference_mode():
        opened = theirs.eval()(**given)
        if name == "classifier":
            again = load_task_model(tmp_path).eval()
            assert torch.allclose(again(*arguments), opened.logits, atol=1e-5)
        else:
            again = load_pretraining_model(tmp_path).eval()
            masked, following = again(*arguments)
            seen = given["attention_mask"].bool()
            if head == "AutoModel":
                assert torch.allclose(again.encoder(*arguments)[seen], opened.last_hidden_state[seen], atol=1e-5)
                assert torch.allclose(again.pooler(opened.last_hidden_state), opened.pooler_output, atol=1e-5)
            if head in ("AutoModelForPreTraining", "AutoModelForMaskedLM"):
                logits = opened.logits if head == "AutoModelForMaskedLM" else opened.prediction_logits
                assert torch.allclose(masked[seen], logits[seen], atol=1e-4)
            if head in ("AutoModelForPreTraining", "AutoModelForNextSentencePrediction"):
                logits = opened.seq_relationship_logits if head == "AutoModelForPreTraining" else opened.logits
                assert torch.allclose(following, logits, atol=1e-5)
    assert load_tokenizer(tmp_path).tokens == load_tokenizer(folders[name]).tokens


def test_pipelines_and_sentence_transformers_give_our_vectors(folders):
    text = "The river by the stone was old again."
    ours = bertwright.load(folders["pretrained"]).embed([text])[0]
    features = transformers.pipeline("feature-extraction", model=str(folders["pretrained"]))(text)
    assert np.allclose(np.array(features)[0], ours.vectors, atol=1e-5)
    sentence = sentence_transformer(folders["pretrained"]).encode(text)
    assert np.allclose(sentence, ours.vectors.mean(0), atol=1e-5)  # it averages [CLS] and [SEP], too


def test_the_card_claims_no_more_than_is_known(folders, tmp_path):
    shutil.copytree(folders["pretrained"], tmp_path / "given")
    card = (export(tmp_path / "given", tmp_path / "out", onnx=False, int8=False) / "README.md").read_text()
    assert "license: unknown" in card
    assert "random weights" not in card


def test_an_existing_folder_is_not_overwritten(folders, tmp_path):
    with pytest.raises(UserError, match="exists; give a new folder"):
        export(folders["classifier"], tmp_path, onnx=False, int8=False)


def foreign(folder, tokenizer, kind, **settings):
    """A tiny random model that `transformers` saved."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=64, **sizes, **settings)
    model = getattr(transformers, kind)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def card_of(folder, out):
    return (export(folder, out, onnx=False, int8=False) / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "tag", "words"),
    [
        ("BertForSequenceClassification", "text-classification", "classes LABEL_0, LABEL_1."),
        ("BertForMaskedLM", "fill-mask", "A BERT encoder, with its head for masked tokens."),
        ("BertForPreTraining", "fill-mask", "with its heads for masked tokens and next sentences."),
        ("BertForNextSentencePrediction", "feature-extraction", "with its head for next sentences."),
        ("BertModel", "feature-extraction", "A BERT encoder.\n"),
    ],
)
def test_a_card_speaks_of_the_model_s_own_head_and_its_call_works(tmp_path, small_tokenizer, kind, tag, words):
    folder = foreign(tmp_path / "given", small_tokenizer, kind)
    card = card_of(folder, tmp_path / "out")
    assert f"pipeline_tag: {tag}\n" in card
    assert words in card
    code = card.partition("```python\n")[2].partition("```")[0]
    exec(code.replace("PATH", str(tmp_path / "out")), {})


def test_results_above_a_folder_are_those_of_another_model(finished, small_tokenizer, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    assert "## Evaluation" in card_of(run / "finetune/seed-0/model", tmp_path / "own")
    foreign(run / "downloaded", small_tokenizer, "BertForSequenceClassification")
    assert "## Evaluation" not in card_of(run / "downloaded", tmp_path / "other")
    shutil.copytree(run / "finetune/seed-1/model", run / "finetune/seed-0/model", dirs_exist_ok=True)
    card = card_of(run / "finetune/seed-0/model", tmp_path / "exchanged")
    assert "## Evaluation" not in card
    assert "## Recipe" not in card


def test_a_card_s_example_is_of_the_user_s_data_with_what_the_model_says(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shown = [
        {"text": "A wonderful film.", "label": "negative", "prediction": "positive", "score": 1.0},
        {"text": "A dreadful 'film', \"dreadful\".", "label": "negative", "prediction": "negative", "score": 0.9},
        {"text": "dreadful " * 50, "label": "negative", "prediction": "negative", "score": 0.95},
    ]
    write_json(run / "evaluate" / "examples.json", {"classified": shown})
    folder = run / "finetune/seed-0/model"
    card = card_of(folder, tmp_path / "out")
    text = shown[1]["text"]
    prediction = bertwright.load(folder).predict(text)
    assert f"classify({text!r})  # {prediction.label}, {prediction.score:.2f}\n" in card


@pytest.mark.slow
def test_class_n_of_onnx_is_label_n(tmp_path, small_tokenizer):
    names = {n: str(n) for n in range(12)}  # sorted as text, 10 would come before 2
    folder = foreign(tmp_path / "given", small_tokenizer, "BertForSequenceClassification", id2label=names)
    out = export(folder, tmp_path / "out", onnx=True, int8=False)
    session = onnxruntime.InferenceSession(out / ONNX_FILE)
    model = bertwright.load(folder)
    labels = read_json(out / "config.json")["id2label"]
    theirs = transformers.pipeline("text-classification", model=str(out))
    said = set()
    for text in ("the cat sat", "rain", "old roofs and rain", "on a mat", "nobody came to look", "falling"):
        ids = torch.from_numpy(model.inputs(model.records([text]))[0].input_ids.astype(np.int64))[None].numpy()
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (logits,) = session.run(None, given)
        said.add(labels[str(logits[0].argmax())])
        assert model.predict(text).label == labels[str(logits[0].argmax())] == theirs(text)[0]["label"]
    assert len(said) > 1


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("BertForMaskedLM", ["prediction_logits"]),
        ("BertForNextSentencePrediction", ["seq_relationship_logits"]),
        ("BertModel", []),
    ],
)
@pytest.mark.slow
def test_onnx_has_no_output_of_a_random_head(tmp_path, small_tokenizer, kind, outputs):
    folder = foreign(tmp_path / "given", small_tokenizer, kind)
    if not outputs:
        with pytest.raises(UserError, match="has no head"):
            export(folder, tmp_path / "out", onnx=True, int8=False)
        assert not (tmp_path / "out").exists()
        return
    out = export(folder, tmp_path / "out", onnx=True, int8=False)
    session = onnxruntime.InferenceSession(out / ONNX_FILE)
    assert [output.name for output in session.get_outputs()] == outputs
    given = batch_of(3, 20)
    given["input_ids"] %= small_tokenizer.vocab_size
    theirs = getattr(transformers, kind).from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = theirs(**given).logits.numpy()
    (found,) = session.run(None, {name: value.numpy() for name, value in given.items()})
    seen = given["attention_mask"].bool().numpy() if found.ndim == 3 else slice(None)
    assert np.allclose(found[seen], expected[seen], atol=1e-4)


def test_weights_in_several_files_are_written_as_one(tmp_path, small_tokenizer):
    folder = foreign(tmp_path / "given", small_tokenizer, "BertForMaskedLM")
    theirs = transformers.BertForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    theirs.save_pretrained(folder, max_shard_size="20KB")
    assert not (folder / "model.safetensors").exists()
    out = export(folder, tmp_path / "out", onnx=False, int8=False)
    again = transformers.BertForMaskedLM.from_pretrained(out)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("BertForNextSentencePrediction", {"hidden_act": "relu"}, "hidden_act"),
        ("BertForSequenceClassification", {"num_labels": 3, "problem_type": "regression"}, "regression model"),
        ("BertForSequenceClassification", {"function_to_apply": "sigmoid"}, "function_to_apply sigmoid"),
    ],
)
def test_a_model_that_is_not_computed_is_not_exported(tmp_path, small_tokenizer, kind, settings, words):
    folder = foreign(tmp_path / "given", small_tokenizer, kind, **settings)
    with pytest.raises(UserError, match=words):
        export(folder, tmp_path / "out", onnx=False, int8=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_a_folder_of_vectors_gives_them_from_onnx_and_from_its_copy(small_tokenizer, tmp_path, mode):
    torch.manual_seed(0)
    pooling = Pooling(mode, normalize=True)
    model = TaskModel(
        new_encoder(SHAPE, small_tokenizer.vocab_size), EmbeddingHead(pooling), ["similarity"], "embedding"
    )
    save_model(shaken(model, 0.2), small_tokenizer, tmp_path / "model", 32)
    out = export(tmp_path / "model", tmp_path / "out", onnx=True, int8=False, license="mit")
    session = onnxruntime.InferenceSession(out / ONNX_FILE)
    assert [one.name for one in session.get_outputs()] == ["sentence_embedding"]
    for batch, length in ((1, 5), (7, 33)):
        given = batch_of(batch, length)
        given["input_ids"] = given["input_ids"] % small_tokenizer.vocab_size
        (theirs,) = session.run(None, {key: value.numpy() for key, value in given.items()})
        with torch.inference_mode():
            ours = model.eval()(given["input_ids"], given["token_type_ids"], given["attention_mask"])
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)
    texts = ["the cat sat on a mat", "rain"]
    copies = [sentence_transformer(folder).encode(texts) for folder in (tmp_path / "model", out)]
    assert np.array_equal(*copies)
    card = (out / "README.md").read_text()
    assert "pipeline_tag: sentence-similarity" in card
    assert "library_name: sentence-transformers" in card
    assert 'SentenceTransformer("PATH")' in card


@pytest.mark.slow
@pytest.mark.parametrize("breaks", [True, False])
def test_the_card_says_what_other_tools_read_of_line_breaks(tmp_path, small_tokenizer, breaks):
    tokenizer = Tokenizer(small_tokenizer.inner, html_line_breaks=breaks)
    head = EmbeddingHead(Pooling())
    model = TaskModel(new_encoder(SHAPE, tokenizer.vocab_size), head, ["similarity"], "embedding")
    save_model(model, tokenizer, tmp_path / "model", 32)
    out = export(tmp_path / "model", tmp_path / "out", onnx=False, int8=False)
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    ours, text = Tokenizer.load(out), "the cat<br />sat<BR>on a mat"
    (expected,) = ours.encode([ours.clean(text)])

    def ids(given):
        return theirs(given, add_special_tokens=False)["input_ids"]

    assert (ids(text) == expected.tolist()) != breaks
    if breaks:  # the card's advice
        assert ids("the cat sat on a mat") == expected.tolist()
    assert ("replace them by a space first" in (out / "README.md").read_text()) == breaks


def test_a_small_folder_has_all_weights_in_bfloat16_and_leaves_whole_numbers(tmp_path, small_tokenizer):
    save_model(PretrainingModel(new_encoder(SHAPE, small_tokenizer.vocab_size)), small_tokenizer, tmp_path / "in", 64)
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    places = torch.arange(300)[None]  # of which bfloat16 has one in two, from 256 on
    tensors |= {name: tensors[name].half(), "bert.embeddings.position_ids": places}
    save_file(tensors, tmp_path / "in" / "model.safetensors", metadata={"format": "pt"})
    small = load_file(export(tmp_path / "in", tmp_path / "out", False, False, small=True) / "model.safetensors")
    assert {value.dtype for value in small.values()} == {torch.bfloat16, torch.int64}
    assert torch.equal(small[name], tensors[name].bfloat16())
    assert torch.equal(small["bert.embeddings.position_ids"], places)


def test_a_run_that_began_with_an_encoder_has_none_to_export(tmp_path, small_tokenizer, capsys):
    head = SequenceHead(SHAPE.hidden_size, 2, 0.1)
    model = TaskModel(new_encoder(SHAPE, small_tokenizer.vocab_size), head, ["a", "b"], "text-classification")
    run = tmp_path / "run"
    save_model(model, small_tokenizer, run / "finetune" / "seed-0" / "model", max_length=64)
    words = ["export", str(tmp_path / "out"), "--model", str(run), "--part", "pretrained"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.endswith("run has no encoder of its own: it began with finetune.encoder of its recipe; export that\n")
    assert main(words[:-2]) == 0
    alone = tmp_path / "pretrained"  # a run that ends with an encoder
    encoder = PretrainingModel(new_encoder(SHAPE, small_tokenizer.vocab_size))
    save_model(encoder, small_tokenizer, alone / "pretrain" / "model", max_length=64)
    words = ["export", str(tmp_path / "encoder"), "--model", str(alone), "--part", "pretrained"]
    assert main(words) == 0
