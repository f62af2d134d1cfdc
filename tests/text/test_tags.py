"""Tag schemes: BIO is kept, IOB1 and BIOES are converted, and what fits none is refused with its place."""

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from bertwright.errors import UserError
from bertwright.text.tags import Tagged, begins_entity, counted, has_entities, split_tags, to_bio


def rows(*written):
    return [
        Tagged(tuple(row.split()), lambda word, number=number: f"row {number}, word {word + 1}")
        for number, row in enumerate(written, 1)
    ]


def read_as(written, scheme):
    """The entities of a row as seqeval's strict reading of a scheme has them."""
    return [(one.tag, one.start, one.end) for one in Entities([written.split()], scheme).entities[0]]


def random_spans(rng, words=12):
    """Entities that do not overlap, often side by side: first word, word behind the last, type."""
    found, place = [], 0
    while place < words:
        if rng.random() < 0.6:
            end = min(words, place + int(rng.integers(1, 4)))
            found.append((place, end, "ab"[int(rng.integers(2))]))
            place = end
        else:
            place += 1
    return found


def written(spans, scheme, words=12):
    """Tags of spans in a scheme, as a row of text."""
    tags = ["O"] * words
    for number, (start, end, kind) in enumerate(spans):
        for place in range(start, end):
            first, last = place == start, place == end - 1
            touches = number > 0 and spans[number - 1][1] == start and spans[number - 1][2] == kind
            prefix = {
                "iob2": "B" if first else "I",
                "iob1": "B" if first and touches else "I",
                "bioes": "S" if first and last else "B" if first else "E" if last else "I",
                "bmes": "S" if first and last else "B" if first else "E" if last else "M",
                "bilou": "U" if first and last else "B" if first else "L" if last else "I",
            }[scheme]
            tags[place] = f"{prefix}-{kind}"
    return " ".join(tags)


@pytest.mark.parametrize(
    ("scheme", "strict", "said"),
    [
        ("iob2", IOB2, None),
        ("iob1", IOB1, "IOB1, read as BIO"),
        ("bioes", IOBES, "BIOES, read as BIO"),
        ("bilou", BILOU, "BIOES, read as BIO"),
        ("bmes", IOBES, "BMES, read as BIO"),
    ],
)
def test_every_scheme_becomes_bio_with_the_same_entities(scheme, strict, said):
    rng = np.random.default_rng(0)
    spans = [random_spans(rng) for _ in range(60)]
    given = [written(one, scheme) for one in spans]
    assert [read_as(row.replace("M-", "I-"), strict) for row in given] == [
        [(kind, a, b) for a, b, kind in one] for one in spans
    ]
    converted, told = to_bio(rows(*given))
    assert told == said
    assert [" ".join(row) for row in converted] == [written(one, "iob2") for one in spans]


def test_tags_of_words_stay_as_they_are():
    assert to_bio(rows("DET NOUN VERB", "NOUN")) == ([("DET", "NOUN", "VERB"), ("NOUN",)], None)
    assert not has_entities(["DET", "NOUN"])
    assert has_entities(["O"])


def test_classes_of_words_with_m_are_no_middles_of_entities():
    assert to_bio(rows("M-SG F-SG", "M-PL")) == ([("M-SG", "F-SG"), ("M-PL",)], None)
    assert not has_entities(["M-SG", "F-SG"])
    assert split_tags(["M-SG", "F-SG"])["M-SG"] == ("", "M-SG")
    assert split_tags(["M-SG", "O"])["M-SG"] == ("M", "SG")
    assert counted([("M-SG", "F-SG"), ("M-SG",)]) == {"F-SG": 1, "M-SG": 2}


def test_a_split_without_an_entity_is_bio():
    assert to_bio(rows("O O", "O")) == ([("O", "O"), ("O",)], None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("B-PER I-PER", "O I-LOC", "O B-LOC O"), "row 2, word 2 has the tag 'I-LOC' after O, .*write B-LOC"),
        (("B-PER O", "I-PER"), "row 2, word 1 has the tag 'I-PER' after nothing"),
        (("O B-PER I-LOC",), "row 1, word 3 has the tag 'I-LOC' after B-PER"),
        (("B-PER O", "O PER"), "row 2, word 2 has the tag 'PER', which is neither O nor.*B-PER.*I-PER"),
        (("O PER PER",), "row 1, word 2 has the tag 'PER'"),
        (("S-PER B-PER O E-PER",), "row 1, word 2 has the tag 'B-PER', but the entity of PER has no end"),
        (("S-PER B-PER",), "row 1, word 2 has the tag 'B-PER', but the entity of PER has no end"),
        (("S-PER I-PER E-PER",), "row 1, word 2 has the tag 'I-PER', but no entity of PER is open"),
        (("B-PER M-PER O S-LOC",), "'M-PER', but the entity of PER has no end; in BMES an entity is B-, M- and E-"),
        (("B-PER M-PER O",), "row 1, word 2 has the tag 'M-PER', .*no entity ends with E-; write I-PER, or E-PER"),
        (("B-PER E-LOC",), "row 1, word 2 has the tag 'E-LOC', but no entity of LOC is open"),
    ],
)
def test_what_fits_no_scheme_is_refused_with_its_place(given, message):
    with pytest.raises(UserError, match=message):
        to_bio(rows(*given))


def test_any_tags_have_the_entities_of_seqeval():
    rng = np.random.default_rng(1)
    names = ["O", "B-a", "I-a", "B-b", "I-b"]
    for _ in range(200):
        tags = [names[i] for i in rng.integers(0, 5, 9)]
        begins = [i for i in range(9) if begins_entity(tags[i], tags[i - 1] if i else "O")]
        assert begins == [start for _, start, _ in get_entities(tags)]
        kinds = [kind for kind, _, _ in get_entities(tags)]
        assert counted([tags]) == {kind: kinds.count(kind) for kind in sorted(set(kinds))}
