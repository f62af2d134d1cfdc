"""The commands of `bertwright search`, end to end with a small model, and the server's route."""

import json
import shutil

import numpy as np
import pytest
import torch

import bertwright
from bertwright.apps.batching import Limits
from bertwright.apps.search import open_searcher
from bertwright.apps.search_index import SearchIndex
from bertwright.apps.search_texts import text_vectors
from bertwright.apps.server import make_app
from bertwright.apps.serving import server_config
from bertwright.cli import main
from bertwright.files import write_json
from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.embedding_head import EmbeddingHead
from bertwright.models.heads import TaskModel
from bertwright.models.sentence_folder import Pooling
from serving import Server
from small_models import SHAPE, save_tagger

pytestmark = pytest.mark.filterwarnings("ignore:more than a fifth of the tokens are unknown")  # to a small vocabulary

LINES = [
    "the cat sat on a mat",
    "",
    "rain was falling over old roofs",
    "nobody came to look for it",
    "the rain and the cat " * 30,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_tokenizer):
    """The folder of a small encoder, whose vectors differ from text to text."""
    folder = tmp_path_factory.mktemp("models") / "small"
    save_tagger(small_tokenizer, folder, ["O", "B-x"])
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("\n".join(LINES) + "\n")
    rows = [{"body": "a mat over the roofs", "n": 1}, {"body": 5}, {"body": "rain on the old mat", "n": 2}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def said(capsys):
    """Runs a command; gives what it printed. A refusal is one sentence."""

    def run(*words):
        status = main(list(map(str, words)))
        found = capsys.readouterr()
        assert status == 0 or found.err.count("\n") == 1, found.err
        return found.out if status == 0 else found.err.removeprefix("bertwright: error: ").rstrip()

    return run


@pytest.fixture
def built(place, model, capsys):
    """A hybrid index of notes.txt."""
    assert main(["search", "build", "notes.txt", "index", "--model", str(model), "--hybrid"]) == 0
    return capsys.readouterr()


def move_model(said, place, model):
    """The index anew, by a copy of the model that is then moved."""
    shutil.copytree(model, "mine")
    shutil.rmtree("index")
    said("search", "build", "notes.txt", "index", "--model", "mine", "--hybrid")
    (place / "mine").rename(place / "moved")


def answers(said, *words):
    return [json.loads(line) for line in said("search", "query", *words, "--format", "jsonl").splitlines()]


def content(folder):
    parts = list(SearchIndex(folder).parts())
    return [one for entries, _ in parts for one in entries], np.concatenate([vectors for _, vectors in parts])


def test_an_index_is_built_and_what_is_left_out_or_cut_is_said(built, place):
    assert built.out == "4 texts are in index\n"
    assert "1 of 5 rows are left out; the first: notes.txt, line 2 has no text" in built.err
    assert "1 texts are longer than the model reads; their beginnings are searched" in built.err
    assert sorted(path.name for path in place.iterdir()) == ["index", "notes.txt", "rows.jsonl"]


def test_a_query_finds_texts_by_the_cosine_of_their_vectors(built, model, said):
    found = answers(said, "index", "the cat on the roofs", "--rank", "vectors", "--top", "3")
    assert [set(one) for one in found] == [{"score", "file", "line", "text", "unit"}] * 3
    encoder = bertwright.load(model)
    texts = [line for line in LINES if line]
    vectors = encoder.text_encoder().encode(["the cat on the roofs", *texts])[0]
    query, others = vectors[0], vectors[1:]
    cosines = others @ query / np.linalg.norm(query) / np.linalg.norm(others, axis=1)
    order = np.argsort(-cosines)[:3]
    assert [one["text"] for one in found] == [texts[row] for row in order]
    assert [one["line"] for one in found] == [LINES.index(texts[row]) + 1 for row in order]
    assert [one["score"] for one in found] == pytest.approx(cosines[order].tolist(), abs=5e-3)  # bfloat16
    lines = said("search", "query", "index", "the cat on the roofs", "--rank", "vectors", "--top", "3").splitlines()
    assert lines[0].startswith(f"{found[0]['score']:7.4f}  notes.txt, line {found[0]['line']}: ")


def test_a_hybrid_index_is_ranked_by_words_and_vectors_unless_one_is_asked_for(built, said):
    assert [one["line"] for one in answers(said, "index", "nobody", "--rank", "bm25")] == [4]
    assert answers(said, "index", "nobody") == answers(said, "index", "nobody", "--rank", "hybrid")
    assert answers(said, "index", "nobody")[0]["line"] == 4


@pytest.mark.slow
def test_an_approximate_index_finds_the_same_and_stays_one_when_texts_are_added_and_removed(built, place, model, said):
    words = ("search", "build", "notes.txt", "near", "--model", model, "--hybrid", "--approximate")
    assert said(*words) == "4 texts are in near\n"
    for rank in ("vectors", "hybrid"):
        found, expected = (answers(said, name, "the cat on the roofs", "--rank", rank) for name in ("near", "index"))
        assert found == expected
    said("search", "add", "rows.jsonl", "near", "--text-column", "body")
    said("search", "remove", "notes.txt", "near")
    assert (place / "near" / "neighbours.usearch").is_file()
    assert {one["text"] for one in answers(said, "near", "rain")} == {"a mat over the roofs", "rain on the old mat"}


@pytest.mark.slow
def test_an_index_of_some_dimensions_has_the_first_numbers_of_vectors_for_texts_and_queries(built, place, model, said):
    said("search", "build", "notes.txt", "small", "--model", model, "--dimensions", "8")
    assert SearchIndex(place / "small").built.dimensions == 8
    whole, cut = (content(place / name)[1] for name in ("index", "small"))
    assert (whole.shape, cut.shape) == ((4, 48), (4, 8))
    np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
    query = bertwright.load(model).encode("the cat on the roofs", dimensions=8)
    found = answers(said, "small", "the cat on the roofs")
    assert [one["score"] for one in found] == pytest.approx(sorted((cut @ query).tolist(), reverse=True), abs=5e-3)
    said("search", "add", "rows.jsonl", "small", "--text-column", "body")
    assert content(place / "small")[1].shape == (6, 8)
    refused = said("search", "build", "notes.txt", "other", "--model", model, "--dimensions", "49")
    assert refused == "dimensions is 49, and the model's vectors have 48 numbers; give 1 to 48"
    assert not (place / "other").exists()


def test_an_index_of_an_earlier_version_is_to_be_built_again(built, place, said):
    settings = json.loads((place / "index" / "index.json").read_text())
    assert settings["dimensions"] == 48
    (place / "index" / "index.json").write_text(json.dumps(settings | {"format": "bertwright search index 2"}))
    expected = "index is an index of another version of Bertwright; delete it, and build it again"
    assert said("search", "query", "index", "the cat") == expected


@pytest.mark.slow
def test_a_model_whose_pooling_was_changed_is_another_model(place, small_tokenizer, tmp_path_factory, said):
    folder = tmp_path_factory.mktemp("models") / "vectors"
    encoder = new_encoder(SHAPE, small_tokenizer.vocab_size)
    save_model(TaskModel(encoder, EmbeddingHead(Pooling()), ["similarity"], "embedding"), small_tokenizer, folder, 16)
    said("search", "build", "notes.txt", "index", "--model", folder)
    assert len(said("search", "query", "index", "the cat").splitlines()) == 4
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 12})
    assert "is not the model that built index" in said("search", "query", "index", "the cat")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "folder", "pattern"])
def test_a_file_that_is_added_makes_the_index_that_both_would_have_made(built, place, model, said, form):
    (place / "more").mkdir()
    shutil.move("rows.jsonl", "more/rows.jsonl")
    given = {"jsonl": "more/rows.jsonl", "folder": "more", "pattern": "more/*.jsonl"}[form]
    assert said("search", "add", given, "index", "--text-column", "body") == "2 texts were added; 6 are in index\n"
    (place / "both").mkdir()
    shutil.copy("notes.txt", "both/notes.txt")
    shutil.copy("more/rows.jsonl", "both/rows.jsonl")
    said("search", "build", "both", "whole", "--model", model, "--hybrid", "--text-column", "body")
    (ours, vectors), (expected, others) = content(place / "index"), content(place / "whole")
    assert [(one.line, one.text) for one in ours] == [(one.line, one.text) for one in expected]
    assert np.allclose(vectors, others, atol=1e-6)
    query = "the rain on a mat"
    assert [one["text"] for one in answers(said, "index", query, "--rank", "bm25")] == [
        one["text"] for one in answers(said, "whole", query, "--rank", "bm25")
    ]
    assert "more/rows.jsonl is in index already; remove it first" in said("search", "add", given, "index")


@pytest.mark.slow
def test_what_is_removed_is_gone_and_the_rest_stays(built, place, said):
    before = content(place / "index")
    assert said("search", "remove", "notes.txt", "index", "--line", "3") == "1 texts were removed; 3 are in index\n"
    assert said("search", "query", "index", "falling", "--rank", "bm25") == ""
    after = content(place / "index")
    assert after[0] == [one for one in before[0] if one.line != 3]
    assert np.array_equal(after[1], before[1][[0, 2, 3]])
    assert "no text of notes.txt, line 3" in said("search", "remove", "notes.txt", "index", "--line", "3")
    assert "it has texts of notes.txt" in said("search", "remove", "other.txt", "index")
    assert "no text would be left" in said("search", "remove", "notes.txt", "index")
    said("search", "add", "rows.jsonl", "index", "--text-column", "body")
    assert said("search", "remove", "notes.txt", "index") == "3 texts were removed; 2 are in index\n"


@pytest.mark.slow
def test_another_model_is_refused_and_one_that_was_moved_is_found(built, place, model, said, small_tokenizer):
    save_tagger(small_tokenizer, place / "other", ["O", "B-x"], seed=1)
    refused = said("search", "query", "index", "cat", "--model", "other")
    assert refused.startswith("other is not the model that built index, and vectors of two models cannot be compared")
    assert "is not the model that built" in said("search", "add", "rows.jsonl", "index", "--model", "other")
    move_model(said, place, model)
    assert "if the model that built index was moved, say where with --model" in said("search", "query", "index", "cat")
    assert len(answers(said, "index", "cat", "--model", "moved")) == 4
    assert len(answers(said, "index", "cat", "--rank", "bm25")) == 2  # words need no model


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["build", "notes.txt", "index"], "index is an index already; add to it with bertwright search add"),
        (
            ["build", "notes.txt", "empty"],
            "empty exists and is no index; give the folder of one, or for a new one another",
        ),
        (["query", "empty", "cat"], "empty exists and is no index; give the folder of one"),
        (["build", "note.txt", "other"], "note.txt does not exist (did you mean notes.txt?); give a file, a folder"),
        (["build", "a/b", "other"], "a/b does not exist; give"),
        (["build", "notes.txt", "other", "--model", "gone"], "there is no model folder gone"),
        (["build", "notes.txt", "other", "--text-column", "x"], "is plain text and has no columns"),
        (["build", "rows.jsonl", "other", "--text-column", "x"], "has no column `x`; it has: body, n"),
        (["build", "blank.txt", "other"], "an index holds one text or more, and there is none"),
        (["add", "notes.txt", "gone"], "gone is no index; build one: bertwright search build TEXTS gone"),
        (["query", "index", " "], "the query is empty; write a word"),
        (["query", "index", " ", "--rank", "bm25"], "the query is empty; write a word"),
        (["query", "index", "cat", "--top", "0"], "top is 0; it must be a whole number from 1 on"),
        (["query", "index", "the cat " * 60], "tokens more than the model reads; shorten it"),
        (["query", "notes.txt", "cat"], "notes.txt exists and is no index"),
        (["query", "index", "cat", "--rank", "best"], "--rank is best; give vectors, bm25 or hybrid"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_sentence_and_nothing_is_written(built, place, said, words, expected):
    (place / "blank.txt").write_text("\n \n")
    (place / "empty").mkdir(exist_ok=True)
    before = sorted(path.name for path in place.iterdir())
    assert expected in said("search", *words)
    assert sorted(path.name for path in place.iterdir()) == before
    assert SearchIndex(place / "index").texts == 4


def test_a_query_of_other_words_finds_nothing_and_says_so(built, capsys):
    assert main(["search", "query", "index", "zebra", "--rank", "bm25"]) == 0
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "bertwright: no text shares a word with the query\n")


def test_an_index_without_words_refuses_to_rank_by_them(place, model, said):
    said("search", "build", "notes.txt", "plain", "--model", model)
    refused = said("search", "query", "plain", "cat", "--rank", "hybrid")
    assert refused == "plain holds vectors alone; build it with --hybrid to rank by words, too"
    assert len(answers(said, "plain", "cat")) == 4


def test_vectors_have_length_1_and_damaged_weights_are_refused(model):
    encoder = bertwright.load(model)
    vectors, left_out = text_vectors(encoder, ["the cat", "rain was falling", "the cat " * 60])
    assert left_out.tolist() == [0, 0, len(encoder.pretrained.tokenizer.encode(["the cat " * 60])[0]) - 62]
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    with torch.no_grad():
        encoder.text_encoder().model.encoder.token_embeddings.weight.fill_(float("nan"))
    with pytest.raises(bertwright.UserError, match="small gives vectors that are not finite; its weights are damaged"):
        text_vectors(encoder, ["the cat"])


@pytest.mark.slow
def test_the_server_answers_as_the_command_and_names_no_folder(built, place, model, said):
    bundled = bertwright.load("bundled")
    query = "the cat on the roofs"
    shutil.copy("notes.txt", "copy.txt")
    said("search", "add", str(place / "copy.txt"), "index")
    with Server(make_app(bundled, searcher=open_searcher(place / "index", loaded=bundled))) as client:
        found = client.post("/search", json={"texts": [query, "rain"], "top": 8}).json()
        expected = answers(said, "index", query, "--top", "8")
        assert [len(one) for one in found] == [8, 8]
        assert found[0] == [{**one, "file": one["file"].rpartition("/")[2]} for one in expected]
        assert str(place) not in json.dumps(found)
        for body, words in (
            ({"texts": ["cat"], "top": 51}, '"top"'),
            ({"texts": ["the cat " * 60]}, "tokens more than the model reads"),
            ({"texts": [" "]}, "nothing to read"),
            ({"texts": ["cat"] * 65}, "may have at most 64"),
            ({"texts": ["cat"], "rank": "bm25"}, '"rank" is no field of this request'),
        ):
            refused = client.post("/search", json=body)
            assert refused.status_code == 422
            assert words in refused.json()["detail"]
    with Server(make_app(bundled)) as client:
        assert client.post("/search", json={"texts": ["cat"]}).status_code == 404


def test_a_served_model_that_built_the_index_is_loaded_once(built, place, model):
    loaded = bertwright.load(model)
    assert open_searcher(place / "index", loaded=loaded).encoder is loaded
    assert open_searcher(place / "index", loaded=bertwright.load("bundled")).encoder.name == "small"


@pytest.mark.slow
def test_a_server_finds_the_model_of_an_index_that_was_moved(built, place, model, said):
    move_model(said, place, model)
    refused = said("serve", "--index", "index", "--port", "0")
    assert refused.endswith("if the model that built index was moved, say where with --index-model")
    refused = said("serve", "--index", "index", "--index-model", "bundled", "--port", "0")
    assert "bundled is not the model that built index" in refused
    assert "give that model with --index-model" in refused
    with Server(server_config(bertwright.load("bundled"), "index", "moved").app) as client:
        (found,) = client.post("/search", json={"texts": ["nobody"], "top": 1}).json()
    assert [one["text"] for one in found] == ["nobody came to look for it"]


def test_vectors_are_computed_with_the_encoder_that_is_loaded_already(model):
    expected = bertwright.load(model).encode(LINES[0])
    served = bertwright.load(model)
    encoder = served.pretrained.model.encoder
    assert served.text_encoder().model.encoder is encoder
    np.testing.assert_allclose(served.encode(LINES[0]), expected, atol=1e-6)


@pytest.mark.slow
def test_a_search_on_the_server_loads_no_model_and_its_answer_is_bounded(built, place, monkeypatch):
    def fail(*_):
        raise AssertionError("a model was loaded")

    bundled = bertwright.load("bundled")
    searcher = open_searcher(place / "index", loaded=bundled)
    with Server(make_app(bundled, Limits(answer_characters=300), searcher)) as client:
        monkeypatch.setattr("bertwright.pretrained.load_pretraining_model", fail)
        monkeypatch.setattr("bertwright.vectors.load_vector_model", fail)
        (found,) = client.post("/search", json={"texts": ["nobody"], "top": 1}).json()
        assert [one["text"] for one in found] == ["nobody came to look for it"]
        refused = client.post("/search", json={"texts": ["nobody", "the rain and the cat"], "top": 4})
        assert refused.status_code == 422
        assert "the texts of the answer have more than 300 characters; ask for fewer" in refused.json()["detail"]


def test_a_file_is_in_an_index_once_under_all_of_its_names(built, place, said):
    (place / "deep").mkdir()
    (place / "link.txt").symlink_to("notes.txt")
    for name in (place / "notes.txt", "deep/../notes.txt", "link.txt"):
        expected = f"{name} is in index already; remove it first: bertwright search remove {name} index"
        assert said("search", "add", name, "index") == expected
    assert said("search", "remove", place / "notes.txt", "index", "--line", "3").startswith("1 texts were removed")


def test_a_file_of_the_same_name_in_another_folder_is_another_file(built, place, monkeypatch, said):
    other = place / "other"
    other.mkdir()
    (other / "notes.txt").write_text("nobody saw the cat on the roofs\n")
    monkeypatch.chdir(other)
    refused = said("search", "add", "../notes.txt", "../index")
    assert refused.endswith("is in ../index already; remove it first: bertwright search remove ../notes.txt ../index")
    refused = said("search", "remove", "notes.txt", "../index")
    assert refused == f"../index has no text of notes.txt; it has texts of notes.txt, as seen from {place}"
    assert said("search", "add", "notes.txt", "../index") == "1 texts were added; 5 are in ../index\n"
    assert SearchIndex(place / "index").files == {"notes.txt", "other/notes.txt"}
    assert said("search", "remove", "notes.txt", "../index") == "1 texts were removed; 4 are in ../index\n"
    assert said("search", "remove", "../notes.txt", "../index", "--line", "1").startswith("1 texts were removed")


def test_texts_and_an_index_that_are_moved_together_are_still_known(built, place, monkeypatch, said, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere")
    for name in ("notes.txt", "index"):
        (place / name).rename(moved / name)
    monkeypatch.chdir(moved)
    refused = said("search", "add", "notes.txt", "index")
    assert refused == "notes.txt is in index already; remove it first: bertwright search remove notes.txt index"
    assert said("search", "remove", "notes.txt", "index", "--line", "3").startswith("1 texts were removed")


def test_a_command_that_is_advised_is_quoted(place, said):
    refused = said("search", "query", "my index", "cat")
    assert refused == "my index is no index; build one: bertwright search build TEXTS 'my index'"


def test_a_folder_with_the_name_of_a_preset_is_that_folder(place, model, said):
    (place / "imdb").mkdir()
    shutil.copy("notes.txt", "imdb/notes.txt")
    assert said("search", "build", "imdb", "other", "--model", model) == "4 texts are in other\n"


def test_an_index_is_changed_under_any_name_but_not_around_the_one_who_asks(built, place, monkeypatch, said):
    words = ("search", "add", "rows.jsonl", "index/bm25/..", "--text-column", "body")
    assert said(*words) == "2 texts were added; 6 are in index/bm25/..\n"
    monkeypatch.chdir(place / "index" / "bm25")
    expected = f"{(place / 'index').resolve()} is replaced as a whole, and you are in it; change to another folder"
    for name in ("..", "../../index"):
        assert said("search", "remove", "rows.jsonl", name) == f"{expected} first, with cd"
    assert SearchIndex(place / "index").texts == 6


def test_a_row_of_a_list_is_no_line(place, model, said):
    (place / "rows.json").write_text(json.dumps([{"text": "a mat"}, {"text": "rain fell\non the roofs"}], indent=1))
    said("search", "build", "rows.json", "index", "--model", model)
    assert "  rows.json, row 2: rain fell on the roofs\n" in said("search", "query", "index", "rain roofs")
    found = answers(said, "index", "a mat")
    assert {(one["line"], one["unit"], one["text"]) for one in found} == {
        (1, "row", "a mat"),
        (2, "row", "rain fell\non the roofs"),
    }
    (place / "twice.csv").write_text("text,text\na mat,rain\n")
    refused = said("search", "add", "twice.csv", "index")
    assert refused == "twice.csv has 2 columns called `text`; rename all but one"
