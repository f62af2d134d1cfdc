"""`bertwright search evaluate`: the printed metrics against plain loops over the results of queries, and refusals."""

import json
import math

import numpy as np
import pytest

from bertwright.apps.search_evaluation import metrics_table
from bertwright.cli import main
from small_models import save_tagger

pytestmark = pytest.mark.filterwarnings("ignore:more than a fifth of the tokens are unknown")  # to a small vocabulary

TEXTS = [
    "the cat sat on a mat",
    "rain was falling over old roofs",
    "nobody came to look for it",
    "an old boat in the rain",
    "the cat  came over the roofs",
    "it was falling",
    "nobody came to look for it",  # a copy
    *(f"a mat and {n} roofs" for n in range(12)),
]
ROWS = [
    ("who sat on the mat", [TEXTS[0]]),
    ("what was on the roofs", [TEXTS[1], "the cat came over the roofs"]),
    ("nobody", [TEXTS[2]]),
    ("the boat", [TEXTS[3], TEXTS[0], TEXTS[12]]),
    ("rain", ["falling rain"]),  # is not in the index
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_tokenizer):
    """A folder with two indexes of the texts, `both` and `plain`, and questions as a table of texts."""
    place = tmp_path_factory.mktemp("search")
    save_tagger(small_tokenizer, place / "model", ["O", "B-x"])
    (place / "notes.txt").write_text("\n".join(TEXTS) + "\n")
    lines = [f"{question},{text},{n}" for n, (question, texts) in enumerate(ROWS) for text in texts]
    (place / "questions.csv").write_text("\n".join(["question,text,n", *lines, ",nothing,9"]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, options in (("both", ["--hybrid"]), ("plain", ["--dimensions", "8"])):
            assert main(["search", "build", "notes.txt", name, "--model", "model", *options]) == 0
    return place


@pytest.fixture
def said(folder, monkeypatch, capsys):
    """Runs `search evaluate`; gives what it printed on stdout and stderr. A refusal is one sentence."""
    monkeypatch.chdir(folder)

    def run(*words):
        capsys.readouterr()
        status = main(["search", "evaluate", *map(str, words)])
        found = capsys.readouterr()
        assert status == 0 or found.err.count("\n") == 1, found.err
        return (found.out, found.err) if status == 0 else found.err.removeprefix("bertwright: error: ").rstrip()

    return run


def plain(text):
    return " ".join(text.split())


def by_loops(capsys, index, by):
    """The means of nDCG@10, recall@1, recall@10 and MRR@10 over the questions whose text is there."""
    rows = []
    for question, texts in ROWS[:4]:
        assert main(["search", "query", index, question, "--rank", by, "--format", "jsonl"]) == 0
        found = [plain(json.loads(line)["text"]) for line in capsys.readouterr().out.splitlines()]
        right = {plain(text) for text in texts}
        places = [found.index(text) + 1 for text in right if text in found]
        ideal = sum(1 / math.log2(place + 1) for place in range(1, len(right) + 1))
        rows.append(
            [
                sum(1 / math.log2(place + 1) for place in places) / ideal,
                sum(place == 1 for place in places) / len(right),
                len(places) / len(right),
                max([1 / place for place in places], default=0),
            ]
        )
    return np.mean(rows, axis=0)


def means(line):
    """The means of a line of the table, without their intervals."""
    return [float(cell.split()[0]) for cell in line.split("  ")[1:] if cell.strip()]


@pytest.mark.slow
def test_the_table_has_the_metrics_of_the_results_of_queries(said, capsys):
    out, err = said("both", "questions.csv")
    first = "questions.csv, line 10 has nothing in the column `question`"
    assert err == f"bertwright: 2 of 9 rows are left out; the first: {first}\n"
    lines = out.splitlines()
    assert lines[0] == "4 of 5 questions have their text in both"
    assert lines[1].split() == ["nDCG@10", "recall@1", "recall@10", "MRR@10"]
    for line, by in zip(lines[2:5], ("vectors", "bm25", "hybrid"), strict=True):
        assert line.split()[0] == by
        assert means(line) == pytest.approx(by_loops(capsys, "both", by), abs=6e-4)
    assert len(lines) == 7
    assert all(line.startswith("nDCG@10 of ") and " minus that of " in line for line in lines[5:])


@pytest.mark.slow
def test_an_index_of_vectors_alone_has_one_line(said, capsys):
    lines = said("plain", "questions.csv")[0].splitlines()
    assert len(lines) == 3
    assert means(lines[2]) == pytest.approx(by_loops(capsys, "plain", "vectors"), abs=6e-4)


@pytest.mark.slow
def test_right_texts_are_named_by_file_and_line_too_and_columns_have_any_name(folder, said):
    expected = said("both", "questions.csv")[0].splitlines()[1:]
    places = {plain(text): line for line, text in enumerate(TEXTS, 1)}
    rows = [(question, plain(text)) for question, texts in ROWS[:4] for text in texts]
    (folder / "places.jsonl").write_text(
        "".join(
            json.dumps({"question": question, "file": str(folder / "notes.txt"), "line": places[text]}) + "\n"
            for question, text in rows
        )
    )
    (folder / "named.tsv").write_text("".join(f"{q}\t{text}\n" for q, text in [("asked", "answer"), *rows]))
    for words in (["places.jsonl"], ["named.tsv", "--question-column", "asked", "--text-column", "answer"]):
        out, err = said("both", *words)
        assert out.splitlines() == ["4 of 4 questions have their text in both", *expected]
        assert err == ""


@pytest.mark.parametrize(
    ("content", "words", "expected"),
    [
        ("", [], "q.csv is empty; give a file with rows"),
        ("question,text\n", [], "q.csv has no row with a question and its right text; write one or more"),
        ("question,text\nrain,\n", [], "(q.csv, line 2 has nothing in the column `text`); write one or more"),
        ("asked,text\na,b\n", [], "q.csv has no column `question`; it has: asked, text; set --question-column"),
        ("question,body\na,b\n", [], "q.csv has no column `text`; it has: question, body; set --text-column"),
        ("question,file\na,b\n", [], "q.csv has no column `text`"),
        ("question,text\na,b\n", ["--text-column", "body"], "q.csv has no column `body`"),
        ("question,text\na,b\na,c\nd,b\n", [], "none of the 2 questions of q.csv has its text in both; give texts as"),
        ("question,file,line\na,notes.txt,x\n", [], "none of the 1 questions of q.csv has its text in both"),
        ("question,file,line\na,other.txt,1\n", [], "none of the 1 questions of q.csv has its text in both"),
        (f"question,text\n{'the cat ' * 60},{TEXTS[0]}\n", [], "all questions are longer than the model reads"),
        (
            f"question,text\n\u200b,{TEXTS[0]}\n",
            [],
            "no question has a token that the model reads (the first: q.csv, line 2",
        ),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_sentence(folder, said, content, words, expected):
    (folder / "q.csv").write_text(content)
    assert expected in said("both", "q.csv", *words)


@pytest.mark.slow
def test_a_question_without_a_token_costs_that_question(folder, said):
    (folder / "q.csv").write_text(f"question,text\na cat,{TEXTS[0]}\n\u200b,{TEXTS[0]}\n")
    _, err = said("both", "q.csv")
    assert "1 of 2 rows are left out; the first: q.csv, line 3 has nothing to read" in err


@pytest.mark.slow
def test_other_mistakes_are_one_sentence(said):
    assert said("both", "notes.txt").startswith("notes.txt is plain text and has no columns; give a table")
    assert said("both", "gone.csv") == "gone.csv does not exist; check the path"
    assert said("gone", "questions.csv").startswith("gone is no index; build one")


def test_questions_that_are_all_alike_have_no_interval_and_the_best_ranking_is_compared():
    ndcg = {"vectors": [0.5, 0.5, 0.5, 0.5], "bm25": [1.0, 0.5, 1.0, 0.5]}
    names = ("ndcg_10", "recall_1", "recall_10", "mrr_10")
    found = metrics_table({by: dict.fromkeys(names, np.array(values)) for by, values in ndcg.items()})
    lines = found.splitlines()
    assert lines[1].split() == ["vectors", "0.500", "0.500", "0.500", "0.500"]
    assert means(lines[2]) == [0.75] * 4
    assert lines[3].startswith("nDCG@10 of bm25 minus that of vectors: +0.250 (")
