"""The map between two spaces that the benchmark of new words learns."""

import numpy as np
import pytest
from scipy.stats import ortho_group

import new_words


def test_a_turned_scaled_and_moved_space_is_found_again():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 6))
    table = 0.3 * vectors @ ortho_group.rvs(6, random_state=1) + rng.normal(size=6)
    found = new_words.aligned(vectors, table[:40], np.arange(5, 40))
    assert found == pytest.approx(table)
