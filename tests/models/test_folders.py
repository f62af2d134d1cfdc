"""Folders of Hugging Face, each kind made with `transformers`: computed as there, or refused with the reason."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bertwright
from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.inputs.sequences import build_cloze
from bertwright.models.checkpoints import load_pretraining_model, save_weights
from bertwright.recipe import FinetuneConfig
from bertwright.tasks.finetune import new_task_model
from bertwright.tasks.registry import find_task, load_task_model
from small_models import relative

TASK = find_task("classification")
TEXTS = ["The cat sat on a mat.", "Rain was falling over old roofs, and nobody came to look for it."]


@pytest.fixture
def make(tmp_path, small_tokenizer):
    """Writes a folder of a tiny random model of a class of `transformers`, with a tokenizer; gives both.

    Keywords are settings of BertConfig; `rows` beyond the vocabulary fill up the table of embeddings.
    """

    def build(kind: str, name: str = "theirs", rows: int = 0, save=None, **settings):
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=small_tokenizer.vocab_size + rows,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            **settings,
        )
        model = getattr(transformers, kind)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        folder = tmp_path / name
        model.save_pretrained(folder, **(save or {}))
        small_tokenizer.save(folder)
        tokenizer_config = read_json(folder / "tokenizer_config.json")
        write_json(folder / "tokenizer_config.json", {**tokenizer_config, "model_max_length": 64})
        return model, folder

    return build


def change(folder: Path, **settings) -> None:
    """Change settings of a folder's config.json; None removes one."""
    config = {**read_json(folder / "config.json"), **settings}
    write_json(folder / "config.json", {name: value for name, value in config.items() if value is not None})


def batch(vocabulary: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, segments and mask of three rows, two of them padded."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, vocabulary, (3, 20)))
    mask = torch.arange(20) < torch.tensor([[20], [11], [3]])
    segments = (torch.arange(20) > 6).long() * mask
    return ids * mask, segments, mask


def read_both(theirs, folder, load=load_pretraining_model):
    """Our outputs for a batch and theirs, at real tokens."""
    ids, segments, mask = batch()
    with torch.inference_mode():
        return load(folder).eval()(ids, segments, mask), theirs(ids, mask.long(), segments), mask


def predicted_both(folder: Path, text: str):
    """Our probabilities of a text and those of the pipeline of `transformers`."""
    theirs = transformers.pipeline("text-classification", model=str(folder), top_k=None, truncation=True)
    ours = bertwright.load(folder).predict([text])[0].probabilities
    return ours, {one["label"]: one["score"] for one in theirs([text])[0]}


class TestClassifiers:
    @pytest.mark.parametrize(
        "names",
        [["ham", "spam"], ["LABEL_0", "LABEL_1"], [str(n) for n in range(12)], ["-1", "0", "1"]],
        ids=lambda names: names[0] + f" of {len(names)}",
    )
    def test_probabilities_and_names_are_those_of_transformers(self, make, names):
        labels = {} if names[0] == "LABEL_0" else {"id2label": dict(enumerate(names))}
        _, folder = make("BertForSequenceClassification", **labels)
        assert ("id2label" in read_json(folder / "config.json")) == bool(labels)
        ours, theirs = predicted_both(folder, TEXTS[1])
        assert list(ours) == names
        assert ours == pytest.approx(theirs, abs=0.01)  # ours may compute in bfloat16

    def test_one_that_says_single_label_is_a_classifier(self, make):
        theirs, folder = make("BertForSequenceClassification", num_labels=3, problem_type="single_label_classification")
        ours, expected, _ = read_both(theirs, folder, load_task_model)
        assert relative(ours, expected.logits) < 1e-5

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"num_labels": 3, "problem_type": "regression"}, "is a regression model with 3 numbers"),
            ({"num_labels": 1, "function_to_apply": "sigmoid"}, "function_to_apply sigmoid; Bertwright computes none"),
            ({"num_labels": 2, "function_to_apply": "sigmoid"}, "function_to_apply sigmoid"),
            ({"num_labels": 2, "is_decoder": True}, "is a causal classifier"),
        ],
    )
    def test_heads_that_give_no_class_are_refused_for_classification_and_fine_tuned(self, make, settings, words):
        _, folder = make("BertForSequenceClassification", **settings)
        with pytest.raises(UserError, match=words):
            bertwright.load(folder).predict(TEXTS)
        said: list[str] = []
        model = new_task_model(TASK, folder, FinetuneConfig(data="reviews"), ["LABEL_0", "yes"], said.append)
        assert model.head.classifier.out_features == 2
        assert "a fresh head" in said[0]

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("BertForMaskedLM", "masked tokens"),
            ("BertForNextSentencePrediction", "next-sentence prediction"),
            ("BertForPreTraining", "pre-training"),
            ("BertModel", "it is a BertModel"),
        ],
    )
    def test_models_of_other_tasks_are_refused_by_name_and_are_a_start_for_fine_tuning(self, make, kind, words):
        theirs, folder = make(kind)
        with pytest.raises(UserError, match=f"is not a classifier of texts.*{words}"):
            bertwright.load(folder).predict(TEXTS)
        said: list[str] = []
        model = new_task_model(TASK, folder, FinetuneConfig(data="reviews"), ["ham", "spam"], said.append)
        inner = theirs if kind == "BertModel" else theirs.bert
        ids, segments, mask = batch()
        with torch.inference_mode():
            expected = inner(ids, mask.long(), segments).last_hidden_state
            assert relative(model.encoder.eval()(ids, segments, mask)[mask], expected[mask]) < 1e-5
        assert not any("a fresh head" in one for one in said)
        assert any("has no pooler" in one for one in said) == (getattr(inner, "pooler", None) is None)
        if getattr(inner, "pooler", None) is not None:
            assert torch.equal(model.head.pooler.dense.weight, inner.pooler.dense.weight)

    @pytest.mark.parametrize("kind", ["single_label_classification", "ranking"])
    def test_a_lone_output_that_is_no_number_is_refused(self, make, kind):
        _, folder = make("BertForSequenceClassification", num_labels=1)
        change(folder, problem_type=kind)
        with pytest.raises(UserError, match=f"problem_type {kind} and 1 labels, which no classifier has"):
            bertwright.load(folder).predict(TEXTS)

    @pytest.mark.parametrize(
        ("kind", "words"),
        [("BertForQuestionAnswering", "question answering"), ("BertForMultipleChoice", "multiple choice")],
    )
    def test_heads_of_other_tasks_are_no_start_for_classes_and_texts_alone_are_refused(self, make, kind, words):
        _, folder = make(kind)
        with pytest.raises(UserError, match=r"question|choices"):
            bertwright.load(folder).predict(TEXTS)
        said: list[str] = []
        new_task_model(TASK, folder, FinetuneConfig(data="reviews"), ["ham", "spam"], said.append)
        assert any("a fresh head" in one and words in one for one in said)

    def test_one_whose_config_names_no_class_is_refused_with_what_to_add(self, make):
        _, folder = make("BertForSequenceClassification")
        change(folder, architectures=None)
        with pytest.raises(UserError, match=r"is not a classifier, as far as its config\.json says.*architectures"):
            bertwright.load(folder).predict(TEXTS)

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            ({"0": "a", "1": "a"}, "calls two classes 'a'"),
            ({"0": "a", "2": "b"}, "without holes"),
            ({"a": 0, "b": 1}, "without holes"),
            ({}, "without holes"),
            ({"0": "a", "1": "b", "2": "c"}, "has shape"),
        ],
    )
    def test_labels_that_cannot_be_told_apart_are_refused(self, make, labels, words):
        _, folder = make("BertForSequenceClassification")
        change(folder, id2label=labels)
        with pytest.raises(UserError, match=words):
            bertwright.load(folder).predict(TEXTS)


class TestHeadsOfAnotherTask:
    def started(self, folder, names):
        said: list[str] = []
        return new_task_model(TASK, folder, FinetuneConfig(data="reviews"), names, said.append), " ".join(said)

    def test_a_head_of_the_same_classes_is_kept_in_the_order_of_the_new_ones(self, make):
        theirs, folder = make("BertForSequenceClassification", id2label={0: "ham", 1: "spam", 2: "eggs"})
        model, said = self.started(folder, ["eggs", "ham", "spam"])
        assert torch.equal(model.head.classifier.weight, theirs.classifier.weight[[2, 0, 1]])
        assert torch.equal(model.head.classifier.bias, theirs.classifier.bias[[2, 0, 1]])
        assert "starting from the head of" in said

    @pytest.mark.parametrize(
        ("stored", "names"),
        [
            (["negative", "positive"], ["ham", "spam"]),
            (["LABEL_0", "LABEL_1"], ["LABEL_0", "LABEL_1"]),
            (["0", "1"], ["0", "1"]),
            (["ham", "spam"], ["ham", "spam", "eggs"]),
            (["ham", "spam"], ["Ham", "Spam"]),
        ],
    )
    def test_a_head_of_other_classes_or_of_mere_numbers_is_not(self, make, stored, names):
        theirs, folder = make("BertForSequenceClassification", id2label=dict(enumerate(stored)))
        model, said = self.started(folder, names)
        assert not torch.equal(model.head.classifier.weight[:2], theirs.classifier.weight)
        assert torch.equal(model.head.pooler.dense.weight, theirs.bert.pooler.dense.weight)
        assert "a fresh head" in said

    def test_a_block_on_top_leaves_the_head_that_was_trained_below_it(self, make):
        theirs, folder = make("BertForSequenceClassification", id2label={0: "ham", 1: "spam"})
        said: list[str] = []
        config = FinetuneConfig(data="reviews", averaging_block=True)
        model = new_task_model(TASK, folder, config, ["ham", "spam"], said.append)
        assert len(model.encoder.blocks) == 3
        assert not torch.equal(model.head.classifier.weight, theirs.classifier.weight)
        assert not torch.equal(model.head.pooler.dense.weight, theirs.bert.pooler.dense.weight)


class TestMaskedTokens:
    @pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
    @pytest.mark.parametrize("tied", [True, False])
    def test_logits_are_those_of_transformers_tied_or_not(self, make, kind, tied):
        theirs, folder = make(kind, tie_word_embeddings=tied)
        (ours, _), expected, mask = read_both(theirs, folder)
        logits = expected.logits if kind == "BertForMaskedLM" else expected.prediction_logits
        assert relative(ours[mask], logits[mask]) < 1e-5
        matrix, table = theirs.cls.predictions.decoder.weight, theirs.bert.embeddings.word_embeddings.weight
        assert torch.equal(matrix, table) == tied

    def test_an_output_matrix_that_differs_is_used_though_the_config_says_tied(self, make):
        _, folder = make("BertForMaskedLM", tie_word_embeddings=False)
        change(folder, tie_word_embeddings=True)
        theirs = transformers.BertForMaskedLM.from_pretrained(folder).eval()
        (ours, _), expected, mask = read_both(theirs, folder)
        assert relative(ours[mask], expected.logits[mask]) < 1e-5
        back = folder.with_name("back")
        save_weights(load_pretraining_model(folder), back)
        again = transformers.BertForMaskedLM.from_pretrained(back).eval()
        (ours, _), expected, mask = read_both(again, folder)
        assert relative(ours[mask], expected.logits[mask]) < 1e-5

    def test_an_untied_model_without_its_output_matrix_fills_no_mask(self, make):
        _, folder = make("BertForMaskedLM", tie_word_embeddings=False)
        tensors = load_file(folder / "model.safetensors")
        del tensors["cls.predictions.decoder.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match="has no masked-language head"):
            bertwright.load(folder).fill_mask("the [MASK] sat")

    @pytest.mark.parametrize("rows", [8, 64 - 11])
    def test_a_table_with_more_rows_than_the_vocabulary_is_computed_exactly(self, make, rows, small_tokenizer):
        theirs, folder = make("BertForMaskedLM", rows=rows)
        (ours, _), expected, mask = read_both(theirs, folder)
        assert relative(ours[mask], expected.logits[mask]) < 1e-5
        found = bertwright.load(folder).fill_mask("the [MASK] sat", top_k=10_000)[0]
        assert sorted(one.token for one in found) == sorted(small_tokenizer.tokens)
        ids = torch.from_numpy(build_cloze(small_tokenizer, "the [MASK] sat").input_ids.astype(np.int64))[None]
        with torch.inference_mode():
            row = theirs(ids).logits[0][ids[0] == small_tokenizer.mask_id][0].softmax(-1)
        expected_scores = dict(zip(small_tokenizer.tokens, row.tolist(), strict=False))
        assert {one.token: one.score for one in found} == pytest.approx(expected_scores, abs=1e-5)

    def test_a_classifier_with_more_rows_than_the_vocabulary_predicts_as_transformers(self, make):
        _, folder = make("BertForSequenceClassification", rows=8, num_labels=3)
        ours, theirs = predicted_both(folder, TEXTS[0])
        assert ours == pytest.approx(theirs, abs=0.01)

    @pytest.mark.parametrize("rows", [-1, 5_000])
    def test_a_vocabulary_of_another_model_is_refused(self, make, rows):
        _, folder = make("BertForMaskedLM", rows=rows)
        with pytest.raises(UserError, match="do not belong together"):
            bertwright.load(folder).fill_mask("the [MASK] sat")


class TestPoolers:
    @pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering"])
    def test_without_one_there_are_vectors_but_no_pooled_one_and_no_next_sentence(self, make, kind):
        theirs, folder = make(kind)
        model = bertwright.load(folder)
        found = model.embed([TEXTS[0]])[0]
        assert found.pooled is None
        ids = torch.from_numpy(model._framed(TEXTS[0])[0].input_ids.astype(np.int64))[None]
        with torch.inference_mode():
            expected = theirs.bert(ids).last_hidden_state[0].numpy()
        assert np.allclose(found.vectors, expected, atol=1e-5)
        with pytest.raises(UserError, match="has no next-sentence head"):
            model.next_sentence(*TEXTS)

    @pytest.mark.parametrize("kind", ["BertModel", "BertForNextSentencePrediction", "BertForSequenceClassification"])
    def test_a_trained_one_is_that_of_transformers(self, make, kind):
        theirs, folder = make(kind)
        model = bertwright.load(folder)
        ids = torch.from_numpy(model._framed(TEXTS[0])[0].input_ids.astype(np.int64))[None]
        with torch.inference_mode():
            expected = (theirs if kind == "BertModel" else theirs.bert)(ids).pooler_output[0].numpy()
        assert np.allclose(model.embed([TEXTS[0]])[0].pooled, expected, atol=1e-5)

    def test_next_sentences_without_a_pooler_are_refused(self, make):
        _, folder = make("BertForPreTraining")
        tensors = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in tensors.items() if "pooler" not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match="has no next-sentence head"):
            bertwright.load(folder).next_sentence(*TEXTS)

    def test_half_a_head_is_refused(self, make):
        _, folder = make("BertForPreTraining")
        tensors = load_file(folder / "model.safetensors")
        del tensors["cls.predictions.transform.dense.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"lacks the tensor cls\.predictions\.transform\.dense\.weight"):
            load_pretraining_model(folder)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"position_embedding_type": "relative_key"}, "position_embedding_type relative_key"),
            ({"hidden_act": "relu"}, "hidden_act relu"),
            ({"hidden_act": "gelu_new"}, "hidden_act gelu_new"),
            ({"add_cross_attention": True}, "has cross-attention"),
            ({"pruned_heads": {"0": [1]}}, "has pruned attention heads"),
            ({"quantization_config": {"quant_method": "bitsandbytes"}}, "has quantized weights"),
            ({"auto_map": {"AutoModel": "modeling.Bert"}}, "has code of its own"),
            ({"pad_token_id": 900}, "pad_token_id 900"),
            ({"vocab_size": None}, "has no vocab_size"),
            ({"num_attention_heads": 5}, "must be a multiple of"),
            ({"hidden_size": "32"}, "not the shape of a model"),
            *[({"model_type": kind}, f"holds a {kind} model") for kind in ("roberta", "distilbert")],
        ],
    )
    def test_what_is_not_computed_is_refused(self, make, settings, words):
        _, folder = make("BertForMaskedLM")
        change(folder, **settings)
        with pytest.raises(UserError, match=words):
            bertwright.load(folder)

    @pytest.mark.parametrize(
        "settings",
        [
            {"hidden_act": "gelu_python"},
            {"position_embedding_type": "absolute"},
            {
                "chunk_size_feed_forward": 4,
                "use_cache": False,
                "gradient_checkpointing": True,
                "output_attentions": True,
            },
            {"layer_norm_eps": 0.1},
            {"type_vocab_size": 3},
            {"pad_token_id": None},
            {"model_type": None},
        ],
        ids=lambda settings: next(iter(settings)),
    )
    def test_what_changes_nothing_or_is_computed_is_read(self, make, settings):
        given = {name: value for name, value in settings.items() if name in ("layer_norm_eps", "type_vocab_size")}
        theirs, folder = make("BertForMaskedLM", **given)
        change(folder, **{name: value for name, value in settings.items() if name not in given})
        (ours, _), expected, mask = read_both(theirs, folder)
        assert relative(ours[mask], expected.logits[mask]) < 1e-5

    def test_a_causal_model_is_that_of_transformers(self, make):
        theirs, folder = make("BertLMHeadModel", is_decoder=True)
        ids, segments, mask = batch()
        with torch.inference_mode():
            ours, _ = load_pretraining_model(folder).eval()(ids, segments, mask)
            expected = theirs(ids, mask.long(), segments).logits
        assert relative(ours[mask], expected[mask]) < 1e-5

    def test_a_pair_for_a_model_of_one_segment_is_refused(self, make):
        _, folder = make("BertForNextSentencePrediction", type_vocab_size=1)
        with pytest.raises(UserError, match="knows one segment"):
            bertwright.load(folder).next_sentence(*TEXTS)


class TestWeightFiles:
    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    def test_half_precision_is_read_as_float32(self, make, kind):
        theirs, folder = make("BertForMaskedLM")
        theirs.to(kind).save_pretrained(folder)
        expected = transformers.BertForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        (ours, _), outputs, mask = read_both(expected, folder)
        assert ours.dtype == torch.float32
        assert relative(ours[mask], outputs.logits[mask]) < 1e-5

    def test_several_files_are_read_as_one(self, make):
        theirs, folder = make("BertForMaskedLM", save={"max_shard_size": "20KB"})
        assert (folder / "model.safetensors.index.json").exists()
        (ours, _), expected, mask = read_both(theirs, folder)
        assert relative(ours[mask], expected.logits[mask]) < 1e-5
        next(folder.glob("model-00002-of-*.safetensors")).unlink()
        with pytest.raises(UserError, match=r"lacks model-00002-of-.*, which its model.safetensors.index.json names"):
            load_pretraining_model(folder)

    def test_whole_numbers_are_no_weights(self, make):
        _, folder = make("BertForMaskedLM")
        tensors = load_file(folder / "model.safetensors")
        tensors = {name: value.to(torch.int8) for name, value in tensors.items()}
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(UserError, match="is int8; Bertwright reads weights in float32"):
            load_pretraining_model(folder)

    @pytest.mark.slow
    @pytest.mark.parametrize("files", [1, 2])
    def test_a_pickle_is_refused_with_a_command_that_converts_it(self, make, files):
        theirs, folder = make("BertForPreTraining", name="a folder's name")
        (folder / "model.safetensors").unlink()
        state = list(theirs.state_dict().items())
        for number in range(files):
            torch.save(dict(state[number::files]), folder / f"pytorch_model{f'-{number}' if files > 1 else ''}.bin")
        with pytest.raises(UserError, match="only a pickle") as refused:
            load_pretraining_model(folder)
        command = str(refused.value).partition("nothing, with: ")[2]
        words = shlex.split(command)
        assert words[0] == "python"
        subprocess.run([sys.executable, *words[1:]], check=True)
        (ours, _), expected, mask = read_both(theirs, folder)
        assert relative(ours[mask], expected.prediction_logits[mask]) < 1e-5

    def test_weights_of_other_tools_are_named(self, make):
        _, folder = make("BertForMaskedLM")
        (folder / "model.safetensors").rename(folder / "tf_model.h5")
        with pytest.raises(UserError, match=r"no model\.safetensors; it has tf_model\.h5"):
            load_pretraining_model(folder)


class TestLongTexts:
    LONG = "cat " * 40 + "mat " * 60

    @pytest.mark.parametrize(("side", "kept"), [(None, "head"), ("right", "head"), ("left", "tail")])
    def test_a_foreign_classifier_reads_what_transformers_reads(self, make, side, kept):
        _, folder = make("BertForSequenceClassification")
        options = read_json(folder / "tokenizer_config.json")
        if side is not None:
            options["truncation_side"] = side
        write_json(folder / "tokenizer_config.json", {**options, "model_max_length": 32})
        model = bertwright.load(folder)
        assert model.reading == (32, kept)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        expected = tokenizer(self.LONG, truncation=True)["input_ids"]
        assert model.inputs(model.records([self.LONG]))[0].input_ids.tolist() == expected

    def test_no_limit_is_the_number_of_positions(self, make):
        _, folder = make("BertForSequenceClassification")
        options = read_json(folder / "tokenizer_config.json")
        write_json(folder / "tokenizer_config.json", {**options, "model_max_length": int(1e30)})
        assert bertwright.load(folder).reading == (64, "head")
        del options["model_max_length"]
        write_json(folder / "tokenizer_config.json", options)
        assert bertwright.load(folder).reading == (64, "head")

    @pytest.mark.parametrize(
        ("option", "value"),
        [("model_max_length", "long"), ("model_max_length", 2), ("truncation_side", "both"), ("text_truncation", "x")],
    )
    def test_limits_that_cannot_be_read_are_refused(self, make, option, value):
        _, folder = make("BertForSequenceClassification")
        options = read_json(folder / "tokenizer_config.json")
        write_json(folder / "tokenizer_config.json", {**options, option: value})
        with pytest.raises(UserError, match=option):
            bertwright.load(folder).predict(TEXTS)


def test_a_copy_that_transformers_saved_again_answers_alike(make, tmp_path):
    """Settings of ours survive a round through `transformers`."""
    _, folder = make("BertForSequenceClassification", id2label={0: "ham", 1: "spam"})
    options = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**options, "text_truncation": "windows"})
    again = tmp_path / "again"
    transformers.AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(again)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(again)
    assert bertwright.load(again).reading[1] == "windows"
    ours, theirs = (bertwright.load(each).predict(TEXTS) for each in (folder, again))
    assert [one.probabilities for one in ours] == [one.probabilities for one in theirs]
