"""Answers of a trained model, against `transformers` on the same folders, and refusals."""

import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import bertwright
from bertwright import inference
from bertwright.apps.explain import explain
from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.models.checkpoints import save_model
from bertwright.pretrained import PretrainedEncoder
from small_models import SHAPE, classifier, shaken

TEXTS = [
    "A wonderful film about a river and a stone.",
    "Dreadful.",
    "The boat was old again. " * 30 + "A dreadful film.",
    "We saw a garden and then another letter, and it was wonderful, wonderful from end to end.",
]


@pytest.fixture(scope="module")
def model(finished):
    return bertwright.load(finished)


@pytest.fixture(scope="module")
def names(model):
    """The negative class and the positive one, as the recipe calls them."""
    return model.classifier.label_names


@pytest.fixture(scope="module")
def folders(finished):
    return {"classifier": str(finished / "finetune/seed-0/model"), "encoder": str(finished / "pretrain/model")}


class TestPredict:
    def test_labels_and_probabilities_are_those_of_the_pipeline(self, model, folders):
        classify = transformers.pipeline("text-classification", model=folders["classifier"], top_k=None)
        short = [text for text in TEXTS if len(classify.tokenizer(text)["input_ids"]) <= 64]
        assert len(short) == 3
        for text, prediction in zip(short, model.predict(short), strict=True):
            theirs = {score["label"]: score["score"] for score in classify([text])[0]}
            assert prediction.probabilities == pytest.approx(theirs, abs=0.01)  # ours may compute in bfloat16
            assert prediction.label == max(theirs, key=theirs.get)
            assert prediction.score == max(prediction.probabilities.values())

    def test_the_model_has_learnt_its_task(self, model, names):
        assert [p.label for p in model.predict(["A wonderful film.", "A dreadful film."])] == names[::-1]

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=9))
    def test_a_prediction_does_not_depend_on_the_other_texts(self, model, texts):
        alone = {text: model.predict([text])[0].score for text in texts}
        for text, prediction in zip(texts, model.predict(texts), strict=True):
            assert prediction.score == pytest.approx(alone[text], abs=0.01)

    def test_many_texts_get_their_own_predictions_from_any_number_of_cores(self, model):
        texts = [TEXTS[i] for i in np.random.default_rng(0).integers(len(TEXTS), size=40)]
        alone = {text: model.predict([text])[0] for text in TEXTS}
        own = torch.get_num_threads()
        try:
            for cores in (1, 2, 3):
                torch.set_num_threads(cores)
                together = model.predict(texts)
                assert torch.get_num_threads() == cores
                for text, prediction in zip(texts, together, strict=True):
                    assert prediction.label == alone[text].label
                    assert prediction.score == pytest.approx(alone[text].score, abs=0.01)
        finally:
            torch.set_num_threads(own)

    def test_a_long_text_is_read_as_in_fine_tuning(self, model, finished):
        tokenizer_config = read_json(finished / "finetune/seed-0/model/tokenizer_config.json")
        assert tokenizer_config["model_max_length"] == 64
        assert tokenizer_config["text_truncation"] == "head-tail"
        assert [len(sequence) for sequence in model.inputs(model.records([TEXTS[2]]))] == [64]

    def test_a_megabyte_is_no_trouble(self, model, names):
        assert model.predict(["a wonderful film " * 60_000])[0].label == names[1]

    @pytest.mark.parametrize("text", ["", "   \n", "\x00\x07\u200b"])
    def test_a_text_without_a_word_is_refused_by_its_number(self, model, text):
        with pytest.raises(UserError, match="text 2 of 2 has nothing to read"):
            model.predict(["A film.", text])

    @pytest.mark.filterwarnings("ignore:more than a fifth of the tokens are unknown")
    @pytest.mark.parametrize(
        "text", ["🎬👍", "Это прекрасный фильм", "これは映画です", "a\ud83dfilm", "<br /><br />a film"]
    )
    def test_text_of_any_kind_is_classified(self, model, text):
        assert 0.5 <= model.predict([text])[0].score <= 1

    def test_a_text_of_letters_that_the_model_does_not_know_is_answered_with_a_warning(self, model):
        assert model.predict("A film 👍").score > 0  # a word or two say nothing of the language
        for answer in (model.predict, model.encode):
            with pytest.warns(UserWarning, match=r"a fifth of the tokens are unknown to the vocabulary of .*; choose"):
                answer("Это прекрасный фильм")


@pytest.mark.slow
def test_only_fill_mask_reads_a_spelled_special_token_and_only_masks():
    model = bertwright.load("bundled")
    text = "A [SEP] b [PAD] c [CLS] d [MASK] e [UNK]."
    theirs = transformers.AutoTokenizer.from_pretrained(str(model.classifier_folder))
    words = theirs.convert_ids_to_tokens(theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    assert [words.count(bracket) for bracket in "[]"] == [5, 5]
    (encoded,) = model.inputs(model.records([text]))
    assert [model.classifier_tokenizer.tokens[i] for i in encoded.input_ids[1:-1]] == words
    assert model.embed([text])[0].tokens[1:-1] == words
    assert model.attention(text, 64)[0][1:-1] == words
    assert [
        word.text for word in explain(model, text).words
    ] == "A [ SEP ] b [ PAD ] c [ CLS ] d [ MASK ] e [ UNK ] .".split()
    assert model.next_sentence(text, "A [SEP] b.") != model.next_sentence("A", "b [PAD] c [CLS] d [MASK] e [UNK].")
    assert len(model.fill_mask(text)) == 1
    without = text.replace("[MASK]", "mask")
    with pytest.raises(UserError, match=r"the text has no \[MASK\]"):
        model.fill_mask(without)


class TestPretrainedAnswers:
    def test_masks_are_filled_as_by_transformers(self, model, folders):
        text = "The [MASK] by the river was [MASK] again."
        theirs = transformers.pipeline("fill-mask", model=folders["encoder"], top_k=4)(text)
        ours = model.fill_mask(text, top_k=4)
        assert len(ours) == 2
        for predictions, expected in zip(ours, theirs, strict=True):
            assert [one.token for one in predictions] == [row["token_str"] for row in expected]
            assert [one.score for one in predictions] == pytest.approx([row["score"] for row in expected], abs=1e-4)

    def test_next_sentences_are_predicted_as_by_transformers(self, model, folders):
        a, b = "The river by the stone was old again.", "We saw a boat."
        theirs = transformers.BertForNextSentencePrediction.from_pretrained(folders["encoder"])
        tokenizer = transformers.AutoTokenizer.from_pretrained(folders["encoder"])
        with torch.inference_mode():
            expected = theirs(**tokenizer(a, b, return_tensors="pt")).logits.softmax(-1)[0, 0]
        assert model.next_sentence(a, b) == pytest.approx(float(expected), abs=1e-5)

    def test_a_pair_that_is_too_long_keeps_the_parts_that_meet(self, model):
        near = model.next_sentence("the boat was old. " * 40, "we saw a river. " * 40)
        far = model.next_sentence("the window. " * 90 + "the boat was old. " * 40, "we saw a river. " * 40 + "x " * 50)
        assert near == pytest.approx(far)

    def test_features_are_those_of_transformers(self, model, folders):
        theirs = transformers.BertModel.from_pretrained(folders["encoder"])
        tokenizer = transformers.AutoTokenizer.from_pretrained(folders["encoder"])
        for text, ours in zip(TEXTS[:2], model.embed(TEXTS[:2], layers=2), strict=True):
            with torch.inference_mode():
                expected = theirs(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            vectors = torch.cat([expected.hidden_states[-1], expected.hidden_states[-2]], dim=-1)[0].numpy()
            assert np.allclose(ours.vectors, vectors, atol=1e-5)
            assert np.allclose(ours.pooled, expected.pooler_output[0].numpy(), atol=1e-5)
            assert np.allclose(ours.mean, vectors[1:-1, : ours.mean.shape[0]].mean(0), atol=1e-5)
            assert ours.tokens == tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])

    def test_attention_is_that_of_transformers(self, model, folders):
        theirs = transformers.BertModel.from_pretrained(folders["encoder"], attn_implementation="eager")
        ids = torch.tensor([2, 9, 30, 41, 3, 17, 8, 3])
        segments = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
        with torch.inference_mode():
            expected = theirs(ids[None], token_type_ids=segments[None], output_attentions=True).attentions
            ours = model.pretrained.model.encoder.attention_maps(ids[None], segments[None])[0]
        assert torch.allclose(ours, torch.stack([layer[0] for layer in expected]), atol=1e-5)

    def test_hidden_states_end_where_the_encoder_does(self, model):
        encoder = model.pretrained.model.encoder
        ids = torch.tensor([[2, 9, 30, 3]])
        with torch.inference_mode():
            assert torch.equal(encoder.hidden_states(ids)[-1], encoder(ids, torch.zeros_like(ids)))

    def test_bad_questions_get_one_sentence(self, model):
        for ask, words in (
            (lambda: model.fill_mask("no mask here"), r"has no \[MASK\]"),
            (lambda: model.fill_mask("[MASK] " * 100), "the model reads 62"),
            (lambda: model.fill_mask(""), "nothing to read"),
            (lambda: model.next_sentence("A film.", " "), "the second text has nothing to read"),
            (lambda: model.embed(["a film"], layers=3), "the model has 2 layers"),
        ):
            with pytest.raises(UserError, match=words):
                ask()


@pytest.fixture
def tiny(small_tokenizer, tmp_path):
    """The folder of a tiny random classifier, whose encoder answers, too."""
    torch.manual_seed(0)
    model = shaken(classifier(SHAPE, small_tokenizer.vocab_size, ["ham", "spam", "eggs"]), 0.2)
    save_model(model, small_tokenizer, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def bundled():
    return bertwright.load("bundled")


class TestOneTextOrSeveral:
    def test_a_text_has_one_answer_and_a_sequence_a_list(self, tiny):
        model = bertwright.load(tiny)
        one = model.predict("the cat sat")
        assert isinstance(one, bertwright.Prediction)
        assert [one] == model.predict(["the cat sat"]) == model.predict(("the cat sat",))
        assert model.predict([]) == model.embed([]) == []
        assert model.predict(iter(["the cat sat", "rain"]))[0].label == one.label
        assert len(model.predict(np.array(["the cat sat", "rain"]))) == 2
        vectors = model.embed("the cat sat")
        assert np.array_equal(vectors.mean, model.embed(["the cat sat"])[0].mean)

    def test_a_column_of_pandas_is_a_sequence_and_a_table_is_not(self, tiny):
        pandas = pytest.importorskip("pandas", reason="NOT TESTED: pandas is not installed")
        table = pandas.DataFrame({"text": ["the cat sat", "rain"]})
        model = bertwright.load(tiny)
        assert model.predict(table["text"]) == model.predict(["the cat sat", "rain"])
        with pytest.raises(UserError, match="not DataFrame"):
            model.predict(table)

    @pytest.mark.parametrize("ask", ["predict", "embed"])
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (b"the cat", "not bytes"),
            (bytearray(b"the"), "not bytearray"),
            (None, "not NoneType"),
            (5, "not int"),
            ({"words": "the cat"}, "dict"),
            ({"the cat"}, "not set"),
            (np.array([["the"]]), "not ndarray"),
            (["the cat", None], "text 2 is NoneType; it must be a str"),
            (["the cat", b"sat"], "text 2 is bytes"),
            ([1, 2], "text 1 is int"),
            ([["the cat"]], "text 1 is list"),
            ([float("nan")], "text 1 is float"),
        ],
    )
    def test_what_is_no_text_is_refused_by_its_type(self, tiny, ask, given, words):
        with pytest.raises(UserError, match=words) as refused:
            getattr(bertwright.load(tiny), ask)(given)
        assert isinstance(refused.value, TypeError)

    @pytest.mark.parametrize("given", [b"a [MASK]", None, 5, ["a [MASK]"]])
    @pytest.mark.slow
    def test_so_it_is_where_one_text_is_asked_for(self, bundled, given):
        for ask in (
            lambda: bundled.fill_mask(given),
            lambda: bundled.next_sentence(given, "a"),
            lambda: bundled.next_sentence("a", given),
        ):
            with pytest.raises(UserError, match="it must be a str"):
                ask()

    @pytest.mark.parametrize("top_k", [0, -1, 2.5, None])
    def test_a_number_of_tokens_below_one_is_refused(self, bundled, top_k):
        with pytest.raises(UserError, match="top_k is"):
            bundled.fill_mask("a [MASK]", top_k=top_k)


class TestLongTextsToEmbed:
    def test_all_are_looked_at_before_the_first_is_computed(self, tiny, monkeypatch):
        model = bertwright.load(tiny)
        monkeypatch.setattr(PretrainedEncoder, "features", lambda *_: pytest.fail("computed"))
        with pytest.raises(UserError, match="text 2 of 2 has 100 tokens, and the model reads 62"):
            model.embed(["a cat", "a " * 100])

    def test_a_long_one_is_cut_where_asked_and_says_by_how_much(self, tiny):
        model = bertwright.load(tiny)
        cut, short = model.embed(["a " * 100, "a " * 62], truncate=True)
        assert (cut.left_out, short.left_out) == (38, 0)
        assert cut.tokens == short.tokens
        assert np.array_equal(cut.vectors, short.vectors)


class TestThreads:
    @pytest.mark.slow
    def test_eight_threads_get_the_answers_of_one(self, tiny):
        words = "the cat sat on a mat while rain was falling over old roofs".split()
        texts = [" ".join(words[i % 7 :: 1 + i % 3]) for i in range(60)]
        alone = bertwright.load(tiny)
        expected = [alone.predict(text) for text in texts]
        explained = [explain(alone, text) for text in texts[:3]]
        vectors = alone.embed(texts[:3])
        model = bertwright.load(tiny)  # that no thread has loaded yet
        start = threading.Barrier(8)

        def ask(number):
            start.wait()
            found = []
            for i, text in enumerate(texts):
                if (i + number) % 20 == 0:
                    again = explain(model, texts[number % 3])
                    known = [word.attribution for word in explained[number % 3].words]
                    assert [word.attribution for word in again.words] == pytest.approx(known, abs=1e-4)
                if (i + number) % 10 == 0:
                    again = model.embed(texts[number % 3])
                    assert np.allclose(again.mean, vectors[number % 3].mean, atol=1e-5)
                found.append(model.predict(text))
            together = model.predict(texts)
            return found, together

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
        for found, together in answers:
            for one, other, want in zip(found, together, expected, strict=True):
                assert one.label == want.label
                assert one.score == pytest.approx(want.score, abs=1e-3)
                assert other.score == pytest.approx(want.score, abs=0.01)

    def test_a_model_is_loaded_once(self, tiny, monkeypatch):
        loaded = []
        original = inference.load_task_model
        monkeypatch.setattr(inference, "load_task_model", lambda folder: loaded.append(folder) or original(folder))
        model = bertwright.load(tiny)
        with ThreadPoolExecutor(8) as pool:
            first = list(pool.map(lambda _: model.classifier, range(8)))
        assert len(loaded) == 1
        assert all(one is first[0] for one in first)

    def test_a_model_first_used_without_gradients_explains_later(self, tiny):
        model = bertwright.load(tiny)
        with torch.inference_mode():
            model.predict("the cat sat")
        assert explain(model, "the cat sat").words


class TestLoad:
    def test_a_model_folder_alone_answers_what_it_can(self, folders, names):
        assert bertwright.load(folders["classifier"]).predict(["A wonderful film."])[0].label == names[1]
        assert bertwright.load(folders["encoder"]).fill_mask("a [MASK]")
        with pytest.raises(UserError, match="is not a classifier"):
            bertwright.load(folders["encoder"]).predict(["A film."])
        with pytest.raises(UserError, match="has no masked-language head"):
            bertwright.load(folders["classifier"]).fill_mask("a [MASK]")

    def test_a_folder_that_transformers_saved_answers_alike(self, folders, tmp_path, model):
        transformers.AutoModelForSequenceClassification.from_pretrained(folders["classifier"]).save_pretrained(tmp_path)
        transformers.AutoTokenizer.from_pretrained(folders["classifier"]).save_pretrained(tmp_path)
        ours, again = model.predict(TEXTS), bertwright.load(tmp_path).predict(TEXTS)
        assert [p.score for p in again] == pytest.approx([p.score for p in ours], abs=1e-6)

    def test_unusable_folders_are_refused(self, folders, tmp_path):
        with pytest.raises(UserError, match="there is no model folder"):
            bertwright.load(tmp_path / "nowhere")
        with pytest.raises(UserError, match="holds neither"):
            bertwright.load(tmp_path)
        other = shutil.copytree(folders["classifier"], tmp_path / "other")
        write_json(other / "config.json", {**read_json(other / "config.json"), "model_type": "gpt2"})
        with pytest.raises(UserError, match="holds a gpt2 model"):
            bertwright.load(other)
        (other / "config.json").write_text("{")
        with pytest.raises(UserError, match=r"config\.json cannot be read as JSON"):
            bertwright.load(other)
        lone = shutil.copytree(folders["classifier"], tmp_path / "lone")
        (lone / "tokenizer.json").unlink()
        (lone / "vocab.txt").unlink()
        with pytest.raises(UserError, match="there is no tokenizer"):
            bertwright.load(lone).predict(["A film."])
        pickled = shutil.copytree(folders["classifier"], tmp_path / "pickled")
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
        with pytest.raises(UserError, match="only a pickle"):
            bertwright.load(pickled).predict(["A film."])


class TestCommands:
    @pytest.fixture
    def say(self, finished, capsys):
        from bertwright.cli import main

        def run(*words, status=0):
            assert main([*words, "--model", str(finished)]) == status
            said = capsys.readouterr()
            return said.err if status else said.out

        return run

    def test_predict_prints_a_table(self, say, names):
        lines = say("predict", "A wonderful film.", "A dreadful\nfilm.").splitlines()
        assert [line.split()[0] for line in lines] == names[::-1]
        assert lines[1].endswith("A dreadful film.")

    def test_predict_reads_a_file_and_prints_json_lines(self, say, tmp_path, model, names):
        path = tmp_path / "reviews.csv"
        path.write_text('id,body\n1,"A wonderful, film."\n2,A dreadful film.\n')
        rows = say("predict", "--file", str(path), "--text_column", "body", "--format", "jsonl").splitlines()
        assert [json.loads(row)["label"] for row in rows] == names[::-1]
        assert json.loads(rows[0])["text"] == "A wonderful, film."
        assert json.loads(rows[0])["score"] == pytest.approx(model.predict(["A wonderful, film."])[0].score, abs=0.01)

    def test_predict_reads_standard_input(self, say, monkeypatch, names):
        import io

        monkeypatch.setattr("sys.stdin", io.StringIO("A wonderful film.\n\nA dreadful film.\n"))
        assert [line.split()[0] for line in say("predict").splitlines()] == names[::-1]

    @pytest.mark.parametrize(
        ("name", "rows", "place"),
        [
            ("a.csv", ["text", *["A film."] * 2004, '" "'], "a.csv, line 2006"),
            ("a.csv", ["text", '"A\nfilm."', "\u200b"], "a.csv, line 4"),
            ("a.txt", ["A film.", "\u200b"], "a.txt, line 2"),
        ],
    )
    @pytest.mark.parametrize("more", ["predict", "embed"])
    def test_a_row_without_a_word_costs_itself_and_is_named_as_the_file_has_it(
        self, finished, capsys, tmp_path, name, rows, place, more
    ):
        from bertwright.cli import main

        (tmp_path / name).write_text("\n".join(rows) + "\n")
        assert main([more, "--file", str(tmp_path / name), "--model", str(finished)]) == 0
        said = capsys.readouterr()
        assert re.search(rf"\d of [\d,]+ rows have no (answer|vector); the first: \S*{re.escape(place)} has ", said.err)
        assert said.out.count("\n") >= 2

    def test_a_text_that_is_too_long_to_embed_is_cut_and_named_as_the_file_has_it(self, finished, capsys, tmp_path):
        from bertwright.cli import main

        (tmp_path / "a.txt").write_text("A film.\n" + "film " * 600 + "\n")
        assert main(["embed", "--file", str(tmp_path / "a.txt"), "--model", str(finished)]) == 0
        said = capsys.readouterr()
        assert re.search(r"a.txt, line 2 is longer than the model reads; its last [\d,]+ tokens are left out", said.err)
        assert len(said.out.splitlines()) == 2

    @pytest.mark.parametrize("format", ["jsonl", "table"])
    @pytest.mark.parametrize("more", [(), ("--explain",)], ids=["", "explain"])
    def test_half_an_emoji_is_no_obstacle(self, say, tmp_path, more, format):
        (tmp_path / "a.jsonl").write_text(r'{"text": "A wonderful film. \ud83d"}' + "\n")
        said = say("predict", "--file", str(tmp_path / "a.jsonl"), "--format", format, *more)
        assert "wonderful" in said
        said.encode("utf-8")  # which the text itself would refuse

    def test_the_other_answers_are_printed(self, say):
        assert say("fill-mask", "The [MASK] was [MASK].", "--top_k", "2").count("[MASK]") == 2
        assert "follow" in say("next-sentence", "The river was old.", "We saw a boat.")
        row = json.loads(say("embed", "A film.", "--per-token", "--layers", "2"))
        assert np.array(row["pooled"]).shape == (32,)
        assert np.array(row["vectors"]).shape == (len(row["tokens"]), 64)

    def test_mistakes_get_one_sentence(self, say, tmp_path):
        (tmp_path / "notes.docx").write_bytes(b"PK")
        for words, expected in (
            (("predict", ""), "text 1 of 1 has nothing to read"),
            (("predict", "a", "--file", "b.txt"), "not both"),
            (("predict", "--file", str(tmp_path / "none.txt")), "does not exist"),
            (("predict", "--file", str(tmp_path / "notes.docx")), "of no known format"),
            (("predict", "a film", "--format", "html"), "add --explain"),
            (("fill-mask", "no mask"), "has no [MASK]"),
        ):
            said = say(*words, status=2)
            assert expected in said
            assert "Traceback" not in said
