"""Questions and choices as files hold them: every usual form is read, and what does not fit is refused by its place."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertwright.errors import UserError
from bertwright.recipe import Source
from bertwright.tasks.multiple_choice import MultipleChoice
from bertwright.tasks.spans import QuestionAnswering
from bertwright.text.contexts import context_fields
from bertwright.text.overlap import digests_of, train_overlap
from bertwright.text.records import account, read_records, read_split

QUESTION = ("context", "question", "answers")
CHOICES = ("context", "choices", "label")
CONTEXT = "Der 🐟 schwamm im Mai."
ANSWERS = [{"text": "im Mai", "start": 14}]


def write(folder, rows, name="train.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return Source(path=str(folder))


def read_one(folder, answers, context=CONTEXT):
    source = write(folder, [{"question": "Wann?", "context": context, "answers": answers}])
    return read_records(source, "train", QUESTION)[0]


@pytest.mark.parametrize(
    "answers",
    [
        ANSWERS,
        [{"text": "im Mai", "answer_start": 14}],
        {"text": ["im Mai"], "answer_start": [14]},
        {"text": ["im Mai"], "start": [14]},
        json.dumps(ANSWERS),
    ],
)
def test_answers_are_read_in_each_usual_form(tmp_path, answers):
    record = read_one(tmp_path, answers)
    assert record.answers == (("im Mai", 14),)
    assert (record.text, record.text_pair) == (CONTEXT, "Wann?")


@pytest.mark.parametrize("answers", [[], {"text": [], "answer_start": []}, "[]"])
def test_no_answer_is_an_empty_list(tmp_path, answers):
    assert read_one(tmp_path, answers).answers == ()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([{"text": "im Juni", "start": 14}], "the answer 'im Juni' is not in the context; copy it from there"),
        (
            [{"text": "im Mai", "start": 17}],
            "'im Mai' does not begin at 17, but first at 14; the context has 'Mai.' there",
        ),
        (
            [{"text": "im Mai", "start": -8}],
            "does not begin at -8, but first at 14; count characters from 0, not bytes",
        ),
        ([{"text": "im Mai", "start": 99}], "does not begin at 99, but first at 14"),
        ([{"text": "im Mai", "start": "14"}], "the answer 'im Mai' begins at '14'; give the place of its first"),
        ([{"text": "im Mai", "start": True}], "begins at True"),
        ([{"text": "im Mai"}], "without text or start; write "),
        ([{"text": " ", "start": 3}], "has the answer ' '; an answer is text, and no answer is an empty list"),
        ([{"text": 5, "start": 3}], "has the answer 5;"),
        ({"text": ["im Mai", "Mai"], "answer_start": [14]}, "has 2 texts of answers and 1 places; give one for each"),
        ({"text": "im Mai", "answer_start": 14}, "has answers without the lists text and answer_start"),
        ("im Mai", "has str as answers; write "),
        (5, "has int as answers"),
    ],
)
def test_answers_that_do_not_fit_are_refused_with_file_and_line(tmp_path, answers, words):
    with pytest.raises(UserError) as error:
        read_one(tmp_path / "data", answers)
    assert words in str(error.value)
    assert f"{tmp_path / 'data' / 'train.jsonl'}, line 1" in str(error.value)


def test_parquet_as_the_hub_has_it_is_read(tmp_path):
    rows = {"question": ["Wann?"], "context": [CONTEXT], "answers": [{"text": ["im Mai"], "answer_start": [14]}]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    assert read_records(Source(path=str(tmp_path)), "train", QUESTION)[0].answers == (("im Mai", 14),)


@pytest.mark.parametrize("indent", [None, 2])
def test_squad_s_own_json_is_read(tmp_path, indent):
    asked = [
        {"id": "a", "question": "Wann?", "answers": [{"text": "im Mai", "answer_start": 14}], "is_impossible": False},
        {"id": "b", "question": "Wo?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "Mai"}]},
    ]
    value = {"version": "v2.0", "data": [{"title": "Fische", "paragraphs": [{"context": CONTEXT, "qas": asked}]}]}
    (tmp_path / "train-v2.0.json").write_text(json.dumps(value, indent=indent))
    found = read_split(Source(path=str(tmp_path)), "train", QUESTION)
    assert [(one.text_pair, one.answers) for one in found.records] == [("Wann?", (("im Mai", 14),)), ("Wo?", ())]
    assert "answerable: 1, no answer: 1" in account("train", found.summary())
    # Other JSON files are read as they were.
    (tmp_path / "train-v2.0.json").write_text(json.dumps([{"question": "Wann?", "context": CONTEXT, "answers": []}]))
    assert len(read_records(Source(path=str(tmp_path)), "train", QUESTION)) == 1


def test_a_row_that_is_no_line_is_called_what_it_is(tmp_path):
    wrong = {"question": "Wo?", "answers": [{"text": "im Mai", "answer_start": 3}]}
    paragraph = {"context": CONTEXT, "qas": [{**wrong, "answers": []}, wrong]}
    row = {**wrong, "context": CONTEXT}
    path = tmp_path / "train.json"
    for value, place in (
        ({"data": [{"paragraphs": [paragraph]}]}, "question 2"),
        ([{**row, "answers": []}, row], "row 2"),
    ):
        path.write_text(json.dumps(value, indent=1))
        with pytest.raises(UserError, match=rf"train\.json, {place}: the answer 'im Mai' does not begin at 3"):
            read_records(Source(path=str(path)), "train", QUESTION)
    path.write_text(json.dumps({**row, "answers": []}) + "\n" + json.dumps(row))
    with pytest.raises(UserError, match=r"train\.json, line 2: the answer"):
        read_records(Source(path=str(path)), "train", QUESTION)


def test_rows_without_a_question_or_answers_are_skipped_and_counted(tmp_path):
    row = {"question": "Wann?", "context": CONTEXT, "answers": ANSWERS}
    source = write(
        tmp_path / "data", [row, {**row, "question": " "}, {**row, "answers": None}, {**row, "context": None}]
    )
    found = read_split(source, "train", QUESTION)
    assert len(found.records) == 1
    assert {reason: count for reason, (count, _) in found.skipped.items()} == {"empty text": 2, "no label": 1}


def test_questions_on_one_context_belong_together_and_are_duplicates_with_the_same_question_only(tmp_path):
    rows = [
        {"question": f"{word} {number}?", "context": f"{CONTEXT} {number // 5}", "answers": ANSWERS}
        for number in range(50)
        for word in ("Wann", "Wo")
    ]
    source = write(tmp_path / "data", rows)
    records = read_records(source, "train", QUESTION)
    assert len({record.group for record in records}) == 10
    assert all((a.group == b.group) == (a.text == b.text) for a in records for b in records[:20])
    divided = Source(path=str(tmp_path / "data" / "train.jsonl"), test_ratio=0.2)
    train, test = (read_records(divided, split, QUESTION) for split in ("train", "test"))
    assert not {one.text for one in train} & {one.text for one in test}
    assert (len(train), len(test)) == (80, 20)
    assert train_overlap(train, [*test, train[3]])["test_texts"] == 1
    assert len(list(digests_of(train[0]))) == 2, "a document that is a context, or a question, is left out"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (3, "all 3 rows are of one group, as questions on one context and equal texts are, which cannot be in train"),
        (1, "has one row, which cannot be in train and in test; add rows, or a test split"),
    ],
)
def test_questions_on_one_context_cannot_be_divided_and_the_refusal_says_so(tmp_path, rows, words):
    write(tmp_path, [{"question": f"{i}?", "context": CONTEXT, "answers": ANSWERS} for i in range(rows)], "all.jsonl")
    with pytest.raises(UserError) as error:
        read_records(Source(path=str(tmp_path / "all.jsonl"), test_ratio=0.5), "train", QUESTION)
    assert words in str(error.value)


def test_a_group_column_takes_the_place_of_contexts(tmp_path):
    source = write(tmp_path / "data", [{"question": "a", "context": CONTEXT, "answers": [], "title": "Fische"}])
    named = Source(path=source.path, group_column="title")
    assert read_records(named, "train", QUESTION)[0].group == "Fische"


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"choices": ["a bank", "a lake"], "label": 1}, "1"),
        ({"choices": '["a bank", "a lake"]', "label": "1"}, "1"),
        ({"choices": {"text": ["a bank", "a lake"], "label": ["A", "B"]}, "label": "B"}, "1"),
        ({"choices": {"text": ["a bank", "a lake"], "label": ["1", "2"]}, "label": "1"}, "0"),
    ],
)
def test_choices_are_read_in_each_usual_form(tmp_path, row, label):
    (record,) = read_records(write(tmp_path / "data", [{"context": "Where?", **row}]), "train", CHOICES)
    assert (record.choices, record.label) == (("a bank", "a lake"), label)
    assert record.text_pair == "a bank\na lake"
    MultipleChoice().labels([record], ["0", "1"], [record], "data.x")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"choices": ["a"], "label": 0}, "line 2 has 1 choice, and at least two are needed"),
        ({"choices": "a", "label": 0}, "line 2 has choices that are no list of texts"),
        ({"choices": ["a", 3], "label": 0}, "line 2 has choices that are no list of texts"),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}, "label": "A"}, "without lists of as many text and label"),
        ({"choices": ["a", "b", "c"], "label": 0}, "line 2 has 3 choices, and the first record of train has 2"),
        ({"choices": ["a", "b"], "label": 2}, "line 2 has the label '2'; it must be the number of the right choice"),
        ({"choices": ["a", "b"], "label": "b"}, "from 0 to 1"),
    ],
)
def test_choices_that_do_not_fit_are_refused_with_the_line(tmp_path, row, words):
    good = {"context": "Where?", "choices": ["a bank", "a lake"], "label": 0}
    source = write(tmp_path / "data", [good, {"context": "When?", **row}])
    task = MultipleChoice()

    def read():
        records = read_records(source, "train", CHOICES)
        names = task.label_names(records, None, "data.x")
        return task.labels(records, names, records, "data.x")

    with pytest.raises(UserError, match=r"train\.jsonl") as error:
        read()
    assert words in str(error.value)


def test_a_column_that_is_no_text_is_refused():
    with pytest.raises(UserError, match="here has int as context, where text is expected"):
        context_fields({"context": 5, "question": "a"}, "here")


def test_without_an_answerable_question_there_is_nothing_to_learn(tmp_path):
    records = read_records(
        write(tmp_path / "data", [{"question": "a", "context": "b", "answers": []}]), "train", QUESTION
    )
    with pytest.raises(UserError, match=r"data\.x has no question with an answer; add some"):
        QuestionAnswering().label_names(records, None, "data.x")
