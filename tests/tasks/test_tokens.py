"""Token classification: parity with transformers in both directions, training, evaluation, report and answers."""

import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import bertwright
from bertwright.apps.explain import explain
from bertwright.apps.export import ONNX_FILE, export
from bertwright.apps.file_answers import open_rows
from bertwright.apps.server import make_app
from bertwright.cli import main
from bertwright.errors import UserError, WrongTypeError
from bertwright.evaluate.report import saved_predictions
from bertwright.files import read_json
from bertwright.recipe import FinetuneConfig
from bertwright.recipe_file import load_recipe
from bertwright.run_folder import RunFolder
from bertwright.stages import Work
from bertwright.tasks.crf import fit_and_predict
from bertwright.tasks.finetune import new_task_model
from bertwright.tasks.registry import TASKS, load_task_model
from bertwright.tasks.tagged_text import Entity
from bertwright.tasks.tokens import TokenClassification
from bertwright.text.records import Record
from bertwright.train.engine import Engine
from serving import Server
from small_models import relative, save_tagger

NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
TASK = TASKS["token-classification"]
TEXTS = [
    "The cat sat on a mat while rain was falling.",
    "Nobody came, to look-for it!",
    "over (old) roofs and 北京 caf\u00e9 wxyz",
    "rain",
]


@pytest.fixture(scope="module")
def folder(small_tokenizer, tmp_path_factory):
    place = tmp_path_factory.mktemp("tokens") / "model"
    save_tagger(small_tokenizer, place, NAMES)
    return place


def batch(lengths=(20, 11, 3)):
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 60, (len(lengths), max(lengths))))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids * mask, (torch.arange(max(lengths)) > 6).long() * mask, mask


@pytest.fixture
def in_float32(monkeypatch):
    """Also where the machine has bfloat16, so that answers can be compared closely."""
    monkeypatch.setattr("bertwright.tasks.prediction.has_bf16", lambda: False)


@pytest.mark.usefixtures("in_float32")
class TestParity:
    @pytest.mark.slow
    def test_logits_loss_and_gradients_are_those_of_transformers(self, folder):
        ours = load_task_model(folder)
        theirs = transformers.BertForTokenClassification.from_pretrained(folder, attn_implementation="eager")
        ids, segments, mask = batch()
        labels = torch.from_numpy(np.random.default_rng(1).integers(0, 5, ids.shape))
        labels[~mask] = -100
        labels[:, 0] = -100
        expected = theirs(ids, mask.long(), segments, labels=labels)
        logits = ours(ids, segments, mask)
        assert relative(logits[mask], expected.logits[mask]) < 1e-5
        targets = torch.nn.functional.one_hot(labels.clamp(0), 5).float() * (labels >= 0)[..., None]
        found = ours.head.loss(logits, targets)
        assert int(found.count) == int(ours.head.scored(targets)) == int((labels >= 0).sum())
        loss = found.total / found.count
        assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
        assert int(found.correct) == int((expected.logits.argmax(-1) == labels).sum())
        loss.backward()
        expected.loss.backward()
        assert relative(ours.head.classifier.weight.grad, theirs.classifier.weight.grad) < 1e-4
        named = dict(theirs.named_parameters())["bert.embeddings.word_embeddings.weight"]
        assert relative(ours.encoder.token_embeddings.weight.grad, named.grad) < 1e-4

    @pytest.mark.slow
    def test_a_folder_that_transformers_saved_gives_the_same_here(self, folder, small_tokenizer, tmp_path):
        theirs = transformers.BertForTokenClassification.from_pretrained(folder)
        theirs.save_pretrained(tmp_path)
        small_tokenizer.save(tmp_path, 64)
        config = read_json(tmp_path / "config.json")
        config.pop("finetuning_task", None)
        (tmp_path / "config.json").write_text(json.dumps(config))
        model = bertwright.load(tmp_path)
        assert model.task.name == "token-classification"
        assert compared(tmp_path, TEXTS[0], model) == compared(folder, TEXTS[0], bertwright.load(folder))

    @pytest.mark.slow
    @pytest.mark.parametrize("names", [NAMES, ["O", "LOC", "PER", "ORG", "X"]], ids=["BIO", "IO"])
    def test_entities_are_those_of_the_pipeline(self, small_tokenizer, tmp_path, names):
        total = 0
        for seed in range(3):
            save_tagger(small_tokenizer, tmp_path / str(seed), names, seed)
            model = bertwright.load(tmp_path / str(seed))
            total += sum(compared(tmp_path / str(seed), text, model) for text in TEXTS)
        assert total > 20, "random models find entities"

    def test_tokens_are_those_of_the_pipeline(self, folder):
        tokens = "the cat sat on a mat and nobody came".split()
        pipeline = transformers.pipeline("token-classification", model=str(folder), aggregation_strategy="first")
        answer = bertwright.load(folder).predict({"tokens": tokens})
        assert answer.tokens == tokens
        same(answer, pipeline(tokens, is_split_into_words=True)[0])


@pytest.mark.parametrize(("names", "kept"), [(NAMES[::-1], True), (["O", "B-X", "I-X"], False)])
def test_the_head_of_the_same_tags_is_a_start_in_any_order(folder, names, kept):
    said: list[str] = []
    model = new_task_model(TASK, folder, FinetuneConfig(data="sentences"), names, said.append)
    stored = load_task_model(folder).head.classifier.weight
    assert said[0].startswith("starting from the head" if kept else "a fresh head")
    if kept:
        assert torch.equal(model.head.classifier.weight, stored.flip(0))


def compared(folder, text, model):
    """How many entities of a text we and the pipeline have, after seeing that they are the same."""
    pipeline = transformers.pipeline("token-classification", model=str(folder), aggregation_strategy="first")
    answer = model.predict(text)
    same(answer, pipeline(text))
    return len(answer.entities)


def same(answer, expected):
    ours = [(one.start, one.end, one.label) for one in answer.entities]
    assert ours == [(one["start"], one["end"], one["entity_group"]) for one in expected]
    scores = [one.score for one in answer.entities]
    assert scores == pytest.approx([float(one["score"]) for one in expected], abs=1e-5)


@pytest.mark.slow
def test_the_server_gives_entities_with_their_places(folder):
    model = bertwright.load(folder)
    with Server(make_app(model)) as client:
        answers = client.post("/predict", json={"texts": TEXTS}).json()
        tokens = [TEXTS[0].split(), ["nobody", "came"]]
        of_tokens = client.post("/predict", json={"rows": [{"tokens": one} for one in tokens]}).json()
        wrong = client.post("/predict", json={"rows": [{"tokens": ["a", ""]}]})
        bare = client.post("/predict", json={"tokens": tokens})
        refused = client.post("/explain", json={"texts": TEXTS})
    for text, answer in zip(TEXTS, answers, strict=True):
        assert answer["text"] == text
        assert len(answer["tokens"]) == len(answer["tags"]) == len(answer["scores"])
        assert all(text[one["start"] : one["end"]] == one["text"] for one in answer["entities"])
    assert [answer["tags"] for answer in answers] == [answer.tags for answer in model.predict(TEXTS)]
    assert sum(len(answer["entities"]) for answer in answers) > 3
    assert [answer["tokens"] for answer in of_tokens] == tokens
    assert [answer["tags"] for answer in of_tokens] == [model.predict({"tokens": one}).tags for one in tokens]
    assert (wrong.status_code, "token 2 of 2 is empty" in wrong.json()["detail"]) == (422, True)
    assert (bare.status_code, 'or "rows" with columns' in bare.json()["detail"]) == (422, True)
    assert refused.status_code == 422
    assert "words are explained of classes, labels and numbers" in refused.json()["detail"]
    assert str(folder) not in refused.text


def test_accents_written_as_marks_stay_in_their_word():
    text = "the cafe\u0301s of Emile\u0301 and \u2764\ufe0f"
    given = TASK.record(0, text)
    words = [text[a:b] for a, b in given.words]
    assert words == ["the", "cafe\u0301s", "of", "Emile\u0301", "and", "\u2764\ufe0f"]
    row = np.eye(5, dtype=np.float32)[None, [0, 3, 0, 3, 0, 1]]
    (answer,) = TASK.answers(row, NAMES, [given])
    assert [one.text for one in answer.entities] == ["cafe\u0301s", "Emile\u0301", "\u2764\ufe0f"]


class TestAnswers:
    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:more than a fifth of the tokens are unknown")
    @settings(max_examples=25, deadline=None)
    @given(st.text(max_size=60))
    def test_characters_are_those_of_the_text_in_every_script(self, folder, text):
        model = bertwright.load(folder)
        try:
            answer = model.predict(text)
        except UserError:
            assert not TASK.record(0, text).words
            return
        assert answer.text == text.encode("utf-8", "replace").decode()
        assert len(answer.tokens) == len(answer.tags) == len(answer.scores) == len(TASK.record(0, text).words)
        assert all(one.text == answer.text[one.start : one.end] != "" for one in answer.entities)
        assert [tag for tag in answer.tags if tag != "O"] == [] or answer.entities

    def test_a_long_text_has_a_tag_for_each_word(self, folder):
        words = ("the cat sat on a mat and rain was falling over old roofs " * 12).split()
        model = bertwright.load(folder)
        answer = model.predict({"tokens": words})
        assert answer.tokens == words
        assert len(model.windows(model.inputs(model.records({"tokens": words}))[0])) > 2
        long_word = model.predict({"tokens": ["the", "ktb" * 60, "cat"]})
        assert len(long_word.tags) == 3

    def test_an_answer_does_not_depend_on_the_others(self, folder):
        model = bertwright.load(folder)
        alone = [model.predict(text) for text in TEXTS]
        for a, b in zip(alone, model.predict(TEXTS), strict=True):
            assert a.tags == b.tags
            assert a.scores == pytest.approx(b.scores, abs=0.02)

    def test_entities_are_shown_in_the_text(self):
        row = np.eye(5, dtype=np.float32)[None, [3, 4, 0, 1]]
        record = TASK.record(0, {"tokens": ["Ada", "Lovelace", "in", "London"]})
        (answer,) = TASK.answers(row, NAMES, [record])
        assert answer.entities == [Entity(0, 12, "Ada Lovelace", "PER", 1.0), Entity(16, 22, "London", "LOC", 1.0)]
        assert TASK.line(answer, "") == "[Ada Lovelace PER] in [London LOC]"
        assert TASK.row_out(answer, NAMES)[0] == ["B-PER", "I-PER", "O", "B-LOC"]
        shown = TASK.shown(answer, np.array([3, 4, 0, 0]), NAMES, record)
        assert (shown.label, shown.prediction) == ("Ada Lovelace (PER)", "Ada Lovelace (PER), London (LOC)")

    def test_tags_of_words_are_one_answer_a_word(self):
        record = TASK.record(0, {"tokens": ["a", "cat", "mat"]})
        (answer,) = TASK.answers(np.eye(2, dtype=np.float32)[None, [0, 1, 1]], ["DET", "NOUN"], [record])
        assert [(one.text, one.label) for one in answer.entities] == [("a", "DET"), ("cat", "NOUN"), ("mat", "NOUN")]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([5], "text 1 is int; it must be a str, or a dict"),
            ([{"text": "a"}], "text 1 is dict; it must be"),
            ([{"tokens": "a b"}], "text 1 has text where a list of tokens is expected"),
            ([{"tokens": ["a", ""]}], "token 2 of 2 is empty"),
        ],
    )
    def test_what_is_neither_text_nor_tokens_is_refused(self, folder, given, message):
        with pytest.raises(WrongTypeError, match=message):
            bertwright.load(folder).predict(given)

    def test_words_are_not_explained(self, folder):
        with pytest.raises(
            UserError, match="for token-classification; words are explained of classes, labels and numbers"
        ):
            explain(bertwright.load(folder), "the cat")


def record(tokens, tags):
    made = TASK.record(0, {"tokens": tokens.split()})
    return Record("train/0", made.text, words=made.words, tags=tuple(tags.split()), place="here, line 1")


class TestLabels:
    def test_names_are_o_and_both_tags_of_each_type_in_order(self):
        assert TASK.label_names([record("a b", "O B-PER"), record("c d", "B-LOC I-LOC")], None, "there") == NAMES
        assert TASK.label_names([record("a b", "VERB DET")], None, "there") == ["DET", "VERB"]
        assert TASK.label_names([record("a b", "B-x O")], ["I-x", "B-x", "O"], "there") == ["I-x", "B-x", "O"]

    @pytest.mark.parametrize(
        ("tags", "given", "message"),
        [
            ("O O", None, "there has only the tag O, so that there is nothing to learn"),
            ("B-x O", ["O", "B-y", "I-y"], "finetune.label_names must be the tags of there in any order: O, B-x, I-x"),
        ],
    )
    def test_names_that_do_not_fit_are_refused(self, tags, given, message):
        with pytest.raises(UserError, match=message):
            TASK.label_names([record("a b", tags)], given, "there")

    def test_a_tag_that_only_another_split_has_is_refused_with_its_place(self):
        with pytest.raises(
            UserError, match=r"test has the tag 'B-ORG' \(here, line 1, word 2\), which train does not have"
        ):
            TASK.labels([record("a b", "O B-ORG")], NAMES, [], "test")

    def test_targets_stand_at_first_pieces_of_each_word_once(self, small_tokenizer):
        words = ["cat", "ktbktb", "mat"] * 30
        tags = ["O", "B-PER", "I-PER"] * 30
        records = [record(" ".join(words), " ".join(tags))]
        labels = TASK.labels(records, NAMES, records, "train")
        inputs = TASK.encode(records, small_tokenizer, 32, "head")
        examples = TASK.examples(inputs, labels, NAMES, 32)
        assert len(examples) > 3
        assert all(len(one) <= 32 for one in examples.sequences)
        scored = np.concatenate([target[target.sum(axis=1) > 0].argmax(axis=1) for target in examples.targets])
        assert scored.tolist() == labels[0].tolist()

    def test_settings_for_the_whole_text_are_refused(self):
        with pytest.raises(UserError, match=r"finetune\.averaging_block averages all tokens for \[CLS\]"):
            TASK.check(FinetuneConfig(data="x", averaging_block=True))
        with pytest.raises(UserError, match=r"finetune\.unlabelled is for classification"):
            TASK.check(FinetuneConfig(data="x", unlabelled="y"))
        with pytest.raises(UserError, match=r"finetune\.positive_label is for classification"):
            TASK.about("PER", NAMES)


def test_the_field_learns_what_letters_and_neighbours_say():
    rng = np.random.default_rng(0)
    texts, tags = [], []
    for _ in range(60):
        name = "".join(rng.choice(list("abcdef"), 5)).capitalize()
        place = "".join(rng.choice(list("abcdef"), 5)).capitalize()
        texts.append(["Mr", name, "lives", "in", place])
        tags.append(["O", "B-PER", "O", "O", "B-LOC"])
    said = []
    found = fit_and_predict(texts[:40], tags[:40], texts[40:], said.append)
    assert found == tags[40:]
    assert said[0].startswith("crf: trained, and predicted 20 texts")


def test_without_its_package_the_field_leaves_itself_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycrfsuite", None)
    assert "; pip install 'python-crfsuite>=" in fit_and_predict([["a"]], [["O"]], [["a"]], print)


PEOPLE = "Ada Alan Grace Edsger Barbara Donald Tony Niklaus".split()
PLACES = "London Paris Oslo Rome Bern Wien Cairo Lima".split()


def write_sentences(folder, split, count, seed):
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        a, b = rng.choice(PEOPLE, 2)
        place = rng.choice(PLACES)
        rows = [
            [(a, "B-PER"), ("met", "O"), (b, "B-PER"), ("in", "O"), (place, "B-LOC"), (".", "O")],
            [("In", "O"), ("New", "B-LOC"), (place, "I-LOC"), ("lives", "O"), (a, "B-PER"), (b, "I-PER"), (".", "O")],
        ][int(rng.integers(2))]
        lines += [f"{word} {tag}" for word, tag in rows] + [""]
    (folder / f"{split}.conll").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def tagged_run(recipe_file, tmp_path_factory):
    """A run on invented sentences about people and places, all stages."""
    place = tmp_path_factory.mktemp("tagged")
    data = place / "data"
    data.mkdir()
    write_sentences(data, "train", 300, 0)
    write_sentences(data, "test", 60, 1)
    return bertwright.run(
        recipe_file,
        out=str(place / "run"),
        data={"sentences": str(data)},
        prepare={"corpora": ["books", "reviews:train"]},
        finetune={"data": "sentences", "task": "token-classification", "label_names": None, "seeds": [0], "epochs": 6},
    )


@pytest.mark.slow
class TestRun:
    def test_a_model_is_trained_evaluated_and_reported(self, tagged_run):
        results = tagged_run.results
        assert results["primary_metric"] == "entity_f1"
        assert results["label_names"] == NAMES
        assert results["splits"]["train"]["classes"].keys() == {"LOC", "PER"}
        bert = results["scores"]["bert"]
        assert bert["entity_f1"] > 0.8
        assert bert["entity_f1_low"] <= bert["entity_f1"] <= bert["entity_f1_high"]
        assert bert["by_type"]["PER"]["true"] > 60
        assert {"crf", "most_frequent_tag"} <= results["scores"].keys()
        assert results["scores"]["crf"]["entity_f1"] > results["scores"]["most_frequent_tag"]["entity_f1"] - 0.01
        page = (tagged_run.path / "report.html").read_text()
        assert "entity F1: BERT on 60 test texts" in page
        assert "BERT class by class" in page
        assert "(PER)" in page
        assert "Conditional random field" in page

    def test_labels_are_saved_as_json_and_read_again(self, tagged_run):
        folder = tagged_run.path / "evaluate" / "predictions"
        assert (folder / "labels.json").exists()
        saved = saved_predictions(folder)
        assert len(saved["labels"]) == 60
        task = TokenClassification().about(None, NAMES)
        again = task.metrics(saved["bert"], saved["labels"])
        assert again["entity_f1"] == pytest.approx(tagged_run.results["scores"]["bert"]["entity_f1"])

    def test_predictions_of_the_command_line_and_of_files(self, tagged_run, tmp_path, capsys):
        model = str(tagged_run.path)
        assert main(["predict", "Ada met Grace in Oslo.", "--model", model]) == 0
        line = capsys.readouterr().out
        answer = bertwright.load(tagged_run.path).predict("Ada met Grace in Oslo.")
        assert line.strip() == answer.marked()
        assert "[Ada PER]" in line
        rows = [{"id": 1, "tokens": ["Ada", "met", "Alan", "."]}, {"id": 2, "tokens": []}, {"id": 3, "tokens": [5]}]
        (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for out in ("out.jsonl", "out.csv"):
            command = ["predict", "--file", str(tmp_path / "in.jsonl"), "--model", model, "--out", str(tmp_path / out)]
            assert main(command) == 0
            assert "2 of 3 rows have no answer; the first:" in capsys.readouterr().err
        written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert len(written[0]["tags"]) == 4
        assert written[0]["entities"][0].keys() == {"start", "end", "text", "label", "score"}
        assert written[1]["entities"] is None
        assert "tags,entities" in (tmp_path / "out.csv").read_text()
        data = tagged_run.path.parent / "data" / "test.conll"
        assert main(["predict", "--file", str(data), "--model", model, "--format", "jsonl"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(lines) == 60
        assert all(len(one["tags"]) == len(one["tokens"]) for one in lines)


class TestMemory:
    """Predictions have as many places for each text as the longest has words."""

    SHORT = Record("test/0", "a", words=((0, 1),), tags=("O",))
    LONG = Record("test/1", "a " * 9, words=((0, 1),) * 9, tags=("O",) * 9, place="test.conll, line 3")

    @pytest.fixture(autouse=True)
    def little_memory(self, monkeypatch):
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=300))

    def test_a_long_text_is_refused_before_training(self):
        with pytest.raises(
            UserError, match=r"^here: test\.conll, line 3 has 9 words, and .* 2 texts .* 0\.0 GB are free"
        ):
            TASK.check_predictions([self.SHORT, self.LONG], NAMES, 1, "here")
        TASK.check_predictions([self.SHORT, self.SHORT], NAMES, 1, "here")

    @pytest.mark.slow
    def test_a_run_asks_for_the_predictions_of_all_seeds_before_training(self, recipe_file, tmp_path, monkeypatch):
        for split, count in (("train", 40), ("test", 20)):
            write_sentences(tmp_path, split, count, 0)
        settings = {"data": "s", "task": "token-classification", "label_names": None, "averaging_block": False}
        one_table = 4 * 20 * 7 * 5  # texts, words of the longest, tags
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=6 * one_table))
        for seeds in ([0, 1, 2], [0, 1, 2, 3]):
            recipe = load_recipe(recipe_file, data={"s": str(tmp_path)}, finetune=settings | {"seeds": seeds})
            work = Work(recipe, RunFolder(tmp_path / "run"), Engine(recipe.system, print), lambda _: None)
            if len(seeds) == 3:
                assert len(work.labelled[3]) == 20
            else:
                with pytest.raises(UserError, match=r"^data\.s, split test: .*test\.conll, line \d+ has 7 words, and"):
                    _ = work.labelled

    def test_predictions_that_memory_does_not_hold_are_refused(self):
        train = [self.SHORT] * 2
        labels = TASK.labels(train, NAMES, train, "here")
        with pytest.raises(UserError, match=r"^text 2 of 2 has 9 words, and .*; divide it into shorter ones"):
            TASK.about(None, NAMES).baselines(train, labels, [self.SHORT, self.LONG], lambda _: None)


def words_of(path, tokens_column="tokens", tags=NAMES):
    rows = open_rows(path, None, {"text": "text", "tokens": tokens_column, "tags": "tags"}, TASK.reads, tags=tags)
    return rows.table.columns, [given["tokens"] for chunk in rows.chunks() for _, given in chunk]


@pytest.mark.parametrize(
    ("name", "text", "column", "columns"),
    [
        ("a.conll", "Ada B-PER\nsat O\n\nRain O\n", "tokens", ["tokens", "tags"]),
        ("a.conll", "Ada B-PER\nsat O\n\nRain O\n", "words", ["tokens", "tags"]),  # as the JSONL of training
        ("a.conll", "1\tAda\tB-PER\n2\tsat\tO\n\n1\tRain\tO\n", "2", ["tokens", "tags"]),  # as GermEval
        ("a.conll", "1\tAda\n2\tsat\n\n1\tRain\n", "2", ["tokens"]),
        ("a.conll", "Ada\nsat\n\nRain\n", "2", ["tokens"]),
        ("a.txt", "Ada B-PER\nsat O\n\nRain O\n", "tokens", ["tokens", "tags"]),
        ("a.txt", "Ada X\nsat X\n\nRain Y\n", "tokens", ["tokens", "tags"]),
    ],
)
def test_the_words_of_a_file_are_those_of_training(tmp_path, name, text, column, columns):
    (tmp_path / name).write_text(text)
    assert words_of(tmp_path / name, column, ["X", "Y"]) == (columns, [["Ada", "sat"], ["Rain"]])


def test_a_text_file_that_is_no_conll_file_has_a_text_on_each_line(tmp_path):
    (tmp_path / "a.txt").write_text("Ada sat\nin Oslo\n")
    rows = open_rows(tmp_path / "a.txt", None, {"tokens": "tokens"}, TASK.reads, tags=NAMES)
    assert [given for chunk in rows.chunks() for _, given in chunk] == ["Ada sat", "in Oslo"]


def test_a_text_file_with_a_tag_that_the_model_does_not_know_is_a_conll_file(tmp_path):
    (tmp_path / "a.txt").write_text("Ada X\n" * 12 + "sat Z\n")
    assert words_of(tmp_path / "a.txt", tags=["X", "Y"]) == (["tokens", "tags"], [["Ada"] * 12 + ["sat"]])


def test_a_conll_file_that_cannot_be_read_as_asked_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.conll").write_text("Ada B-PER\n")
    with pytest.raises(
        UserError, match="has columns 1 to 2, and the words that the model was trained on were column 4"
    ):
        words_of(tmp_path / "a.conll", "4")
    with pytest.raises(UserError, match=r"a\.conll has tags in column 2, where the words are .*; write words there"):
        words_of(tmp_path / "a.conll", "2")
    with pytest.raises(UserError, match="has no column of texts; leave out --text-column"):
        open_rows(tmp_path / "a.conll", "tokens", {}, TASK.reads)
    with pytest.raises(UserError, match="has no column of texts; give a file of texts"):
        open_rows(tmp_path / "a.conll", None)


def test_a_text_file_of_words_and_tags_is_no_text_to_a_model_of_tags(folder, tmp_path, capsys):
    (tmp_path / "test.txt").write_text("rain B-PER\nfalling O\n\nnobody O\n")
    assert main(["predict", "--file", str(tmp_path / "test.txt"), "--model", str(folder), "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["tokens"] for line in lines] == [["rain", "falling"], ["nobody"]]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_onnx_gives_our_logits_and_the_card_its_tag(folder, tmp_path, batch_size):
    out = export(folder, tmp_path / "out", onnx=True, int8=False)
    card = (out / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert 'pipeline("token-classification", model="PATH", aggregation_strategy="first")' in card
    session, model = onnxruntime.InferenceSession(out / ONNX_FILE), load_task_model(folder).eval()
    for length in (5, 33, 64):
        ids, segments, mask = batch([length] * (batch_size - 1) + [max(1, length // 2)] if batch_size > 1 else [length])
        given = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": segments}
        (theirs,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        with torch.inference_mode():
            ours = model(ids, segments, mask)
        assert theirs.shape == (batch_size, ids.shape[1], len(NAMES))
        assert np.allclose(theirs[mask.numpy()], ours[mask].numpy(), atol=1e-4)
