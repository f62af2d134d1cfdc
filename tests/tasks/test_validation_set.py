"""The part of train that chooses the checkpoint: classes, copies and groups."""

import numpy as np
import pytest

from bertwright.errors import UserError
from bertwright.tasks.validation_set import cut_validation
from bertwright.text.records import Record


def cut(texts, labels, groups=None, ratio=0.1):
    """Texts of training and validation set, and what was said."""
    said = []
    records = [Record(str(n), text, group=groups and groups[n]) for n, text in enumerate(texts)]
    rows = cut_validation(records, np.array(labels), ratio, "data.x", said.append)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(texts)))
    return [[records[i] for i in own] for own in rows], said


def test_copies_of_training_texts_are_trained_on():
    labels = np.arange(200) % 2
    texts = [f"text {n}" for n in range(200)]
    for copy in range(0, 200, 20):
        texts[copy] = f" text  {copy // 2 + 1}"  # white space is no difference
    (training, validation), said = cut(texts, labels)
    assert not {one.text.split()[1] for one in training} & {one.text.split()[1] for one in validation}
    assert 10 <= len(validation) <= 20
    assert not said or f"which has {len(validation)} texts" in said[0]
    plain, said = cut([f"text {n}" for n in range(200)], labels)
    assert len(plain[1]) == 20
    assert said == []


def test_a_class_that_was_repeated_is_in_both_sets_with_other_texts():
    texts = [f"usual {n}" for n in range(300)] + [f"rare {n % 12}" for n in range(60)]
    (training, validation), said = cut(texts, [0] * 300 + [1] * 60)
    rare = [{one.text for one in part if one.text.startswith("rare")} for part in (training, validation)]
    assert rare[1]
    assert not rare[0] & rare[1]
    assert len(validation) > 30, "and the other class is divided as ever"
    assert "equal texts are all in the training or all in the validation set" in said[0]


def test_the_only_group_of_a_class_is_trained_on():
    groups = [f"usual {n // 5}" for n in range(100)] + ["fraud"] * 12
    (training, validation), said = cut([f"text {n}" for n in range(112)], [0] * 100 + [1] * 12, groups)
    assert sum(one.group == "fraud" for one in training) == 12
    assert len(validation) == 10
    assert not {one.group for one in training} & {one.group for one in validation}
    assert said == []


def test_groups_that_cannot_be_divided_are_named():
    (_, validation), said = cut([f"question {n}" for n in range(40)], [0] * 40, ["one context"] * 40)
    assert len(validation) == 4
    assert "its groups cannot be divided" in said[0]


def test_one_text_of_each_class_is_refused():
    with pytest.raises(UserError, match="a class needs two or more"):
        cut(["a", "b"], [0, 1])
