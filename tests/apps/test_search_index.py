"""The folder of an index: exact ranks against plain loops, whole or absent, and damage in one sentence."""

import json
import shutil
import sys
import time

import numpy as np
import pytest

from bertwright.apps import search_index
from bertwright.apps.ranking import best_first, fuse
from bertwright.apps.search import changing
from bertwright.apps.search_index import Built, Entry, SearchIndex, write_index
from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.models.sentence_folder import Pooling, model_digest, write_pooling

BUILT = Built("bundled", "0123", hybrid=True)
WORDS = "river stone boat winter garden letter morning window bread market".split()


def made(texts=50, dimension=8, seed=0):
    """Entries of two files, with unit vectors of which some are equal."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((texts, dimension)).astype(np.float32)
    vectors[texts // 2] = vectors[3]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = [" ".join(generator.choice(WORDS, 4)) for _ in range(texts)]
    return [Entry(f"{'ab'[n % 2]}.txt", n + 1, text) for n, text in enumerate(chosen)], vectors


@pytest.fixture
def index(tmp_path):
    entries, vectors = made()
    with changing(tmp_path / "index"):
        parts = [(entries[:20], vectors[:20]), ([], vectors[:0]), (entries[20:], vectors[20:])]
        assert write_index(tmp_path / "index", BUILT, parts) == 50
    return SearchIndex(tmp_path / "index")


def by_loop(scores):
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))


def test_what_was_written_is_read(index):
    entries, vectors = made()
    assert [entry for part, _ in index.parts() for entry in part] == entries
    assert np.array_equal(np.concatenate([part for _, part in index.parts()]), vectors)
    assert (index.texts, index.files, index.built) == (50, {"a.txt", "b.txt"}, BUILT)


@pytest.mark.parametrize("top", [1, 7, 50, 99])
def test_a_ranking_by_vectors_is_that_of_all_cosines_and_equal_texts_keep_their_order(index, top):
    entries, vectors = made()
    query = vectors[3]
    cosines = [float(np.dot(vector.astype(np.float64), query)) for vector in vectors]
    found = index.rank("", query, top, "vectors")
    assert [hit.entry.line - 1 for hit in found[:2]] == [3, 25][:top]
    assert [hit.score for hit in found] == pytest.approx(sorted(cosines, reverse=True)[:top], abs=1e-6)
    assert [hit.entry for hit in found][2:] == [entries[row] for row in by_loop(cosines)][2:top]


def test_a_ranking_by_words_has_only_texts_that_share_one(index):
    entries, _ = made()
    found = index.rank("a boat of stone", None, 50, "bm25")
    sharing = {one.text for one in entries if {"boat", "stone"} & set(one.text.split())}
    assert {hit.entry.text for hit in found} == sharing
    assert 0 < len(found) < 50
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)
    assert index.rank("?", None, 50, "bm25") == []


def test_a_hybrid_ranking_has_the_weighted_mean_of_both(index):
    query, vector = "boat garden", made(seed=1)[1][0]
    near = {hit.entry: hit.score for hit in index.rank(query, vector, 50, "vectors")}
    shared = {hit.entry: hit.score for hit in index.rank(query, vector, 50, "bm25")}
    assert 0 < len(shared) < len(near) == 50  # a text without a shared word has BM25 0
    least, most = min(near.values()), max(near.values())
    expected = {
        entry: 0.6 * shared.get(entry, 0) / max(shared.values()) + 0.4 * (cosine - least) / (most - least)
        for entry, cosine in near.items()
    }
    found = index.rank(query, vector, 50, "hybrid")
    assert {hit.entry: hit.score for hit in found} == pytest.approx(expected)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_without_a_shared_word_vectors_decide(index):
    vector = made(seed=1)[1][0]
    nearest, found = (index.rank("?", vector, 50, by) for by in ("vectors", "hybrid"))
    assert [hit.entry for hit in found] == [hit.entry for hit in nearest]


def test_fusion_and_order_on_paper():
    assert best_first(np.array([1.0, 3.0, 1.0, 3.0])).tolist() == [1, 3, 0, 2]
    words, cosines = np.array([0.0, 2.0, 8.0], np.float32), np.array([0.5, 0.9, 0.1], np.float32)
    assert fuse(words, cosines).tolist() == pytest.approx([0.2, 0.6 / 4 + 0.4, 0.6])
    assert fuse(np.zeros(2, np.float32), np.full(2, 0.3, np.float32)).tolist() == [0, 0]
    scores = np.random.default_rng(0).integers(0, 9, 200).astype(np.float32)
    assert all(best_first(scores, top).tolist() == best_first(scores)[:top].tolist() for top in range(202))


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    """The folder of an approximate index of 6,000 texts in a hundred heaps, and as many queries with their words."""
    generator = np.random.default_rng(1)
    heaps = generator.standard_normal((100, 32))
    vectors = (heaps[np.arange(6_000) % 100] + 0.7 * generator.standard_normal((6_000, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[4_000] = vectors[7]
    texts = [" ".join(generator.choice(WORDS, 4)) + f" number {n}" for n in range(6_000)]
    entries = [Entry("a.txt", n + 1, text) for n, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("indexes")
    for approximate in (True, False):
        built = Built("bundled", "0", hybrid=True, approximate=approximate)
        parts = [(entries[:2_500], vectors[:2_500]), (entries[2_500:], vectors[2_500:])]
        write_index(folder / ("graph" if approximate else "exact"), built, parts)
    queries = (heaps + 0.7 * generator.standard_normal((100, 32))).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return folder, queries, vectors


@pytest.mark.slow
@pytest.mark.parametrize("by", ["vectors", "hybrid"])
def test_a_graph_finds_nearly_all_of_the_nearest_texts_with_the_same_scores(clustered, by):
    folder, queries, _ = clustered
    graph, exact = (SearchIndex(folder / name) for name in ("graph", "exact"))
    assert (graph.built.approximate, exact.built.approximate) == (True, False)
    shared = 0
    for number, query in enumerate(queries):
        words = f"boat garden number {number}"
        found, expected = (index.rank(words, query, 10, by) for index in (graph, exact))
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
        scores = {hit.entry: hit.score for hit in expected}
        same = [hit for hit in found if hit.entry in scores]
        shared += len(same)
        tolerance = 1e-6 if by == "vectors" else 0.02  # the worst cosine of all is estimated
        assert [hit.score for hit in same] == pytest.approx([scores[hit.entry] for hit in same], abs=tolerance)
    assert shared >= 0.98 * 10 * len(queries)


@pytest.mark.slow
def test_a_graph_keeps_the_order_of_equal_texts_and_gives_as_many_as_are_asked_for(clustered):
    folder, _, vectors = clustered
    graph = SearchIndex(folder / "graph")
    assert [hit.entry.line for hit in graph.rank("", vectors[7], 2, "vectors")] == [8, 4_001]
    assert len(graph.rank("", vectors[7], 1_500, "vectors")) == 1_500
    assert len({hit.entry.line for hit in graph.rank("", vectors[7], 9_999, "vectors")}) == 6_000


def test_an_index_of_vectors_alone_has_no_words(tmp_path):
    entries, vectors = made(10)
    write_index(tmp_path / "i", Built("bundled", "0", hybrid=False), [(entries, vectors)])
    assert not (tmp_path / "i" / "bm25").exists()
    with pytest.raises(UserError, match="holds vectors alone; build it with --hybrid"):
        SearchIndex(tmp_path / "i").rank("boat", vectors[0], 1, "hybrid")


@pytest.mark.parametrize(("module", "kind"), [("usearch.index", "approximate"), ("bm25s", "hybrid")])
def test_without_a_library_an_index_is_refused_before_a_text_is_encoded(tmp_path, monkeypatch, module, kind):
    def parts():
        raise AssertionError("a text is encoded")
        yield made(10)

    monkeypatch.setitem(sys.modules, module, None)
    built = Built("bundled", "0", **{"hybrid": False, kind: True})
    with pytest.raises(UserError, match=rf"{module[:5]}.*pip install 'bm25s"):
        write_index(tmp_path / "i", built, parts())
    assert not list(tmp_path.iterdir())


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def reword(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: cut(folder / "texts.arrow"), "damaged"),
        (lambda folder: flip(folder / "texts.arrow"), "damaged"),
        (lambda folder: flip(folder / "bm25" / "data.csc.index.npy"), "damaged"),
        (lambda folder: (folder / "texts.arrow").unlink(), "damaged"),
        (lambda folder: shutil.rmtree(folder / "bm25"), "damaged"),
        (lambda folder: cut(folder / "index.json"), "damaged"),
        (lambda folder: (folder / "index.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda folder: reword(folder / "index.json", files=[]), "damaged"),
        (lambda folder: reword(folder / "index.json", format="bertwright search index 9"), "of another version"),
        (lambda folder: reword(folder / "index.json", dimensions=2), "damaged"),
        (lambda folder: reword(folder / "index.json", hybrid=False), "damaged"),
        (lambda folder: (folder / "index.json").unlink(), "it has no index.json.; delete it, and build it again"),
        (shutil.rmtree, "is no index; build one: bertwright search build TEXTS"),
    ],
)
def test_damage_is_one_sentence(index, damage, said):
    damage(index.folder)
    with pytest.raises(UserError, match=said) as caught:
        SearchIndex(index.folder)
    assert "\n" not in str(caught.value)


def test_no_bit_of_the_settings_changes_unnoticed(index):
    path = index.folder / "index.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"damaged|of another version"):
            SearchIndex(index.folder)


def test_what_fails_on_the_way_leaves_the_old_index_and_nothing_else(index):
    def failing():
        yield made()
        raise UserError("a file ends early")

    with pytest.raises(UserError, match="ends early"), changing(index.folder):
        write_index(index.folder, BUILT, failing())
    assert SearchIndex(index.folder).texts == 50
    assert [path.name for path in index.folder.parent.iterdir()] == ["index"]
    with pytest.raises(UserError, match="one text or more"):
        write_index(index.folder.parent / "other", BUILT, [([], made()[1][:0])])
    assert [path.name for path in index.folder.parent.iterdir()] == ["index"]


def test_a_process_that_was_killed_between_two_renames_loses_nothing(index):
    index.folder.rename(index.folder.with_name(".index.old-999999999"))
    assert SearchIndex(index.folder).texts == 50


def test_an_open_index_answers_while_another_takes_its_place(index):
    entries, vectors = made(seed=1)
    before = index.rank("", vectors[0], 5, "vectors")
    write_index(index.folder, BUILT, [(entries[:4], vectors[:4])])
    assert index.rank("", vectors[0], 5, "vectors") == before
    assert SearchIndex(index.folder).texts == 4


def test_only_one_command_writes_an_index(index):
    with (
        changing(index.folder),
        pytest.raises(UserError, match=r"another bertwright command is writing .*; wait for it"),
        changing(index.folder),
    ):
        pass
    with changing(index.folder):
        pass


def test_a_model_is_known_by_its_content(tmp_path):
    (tmp_path / "m").mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        (tmp_path / "m" / name).write_text(name)
    digest = model_digest(tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("other")
    shutil.copytree(tmp_path / "m", tmp_path / "deep" / "copy")
    assert model_digest(tmp_path / "deep" / "copy") == digest
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copytree(tmp_path / "m", tmp_path / name)
        (tmp_path / name / name).write_text("other")
        assert model_digest(tmp_path / name) != digest


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_a_model_is_known_by_how_it_makes_one_vector_of_a_text(tmp_path, inner):
    folder = tmp_path / "m" / inner
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    pooling = Pooling("cls", normalize=True, max_length=16, dimensions=8)
    write_pooling(folder, pooling, 16, lacks_pooler=False)
    if inner:  # the older form
        for name in ("modules.json", "1_Pooling", "config_sentence_transformers.json"):
            (folder / name).rename(tmp_path / "m" / name)
        modules = read_json(tmp_path / "m" / "modules.json")
        write_json(tmp_path / "m" / "modules.json", [{**modules[0], "path": inner}, *modules[1:]])
    whole = tmp_path / "m"

    def change(file, **changes):
        write_json(file, {**read_json(file), **changes})
        return model_digest(folder)

    found = [model_digest(folder), change(whole / "config_sentence_transformers.json", truncate_dim=4)]
    assert len({*found}) == 1, "an index says itself how many numbers it holds"
    found.append(change(folder / "sentence_bert_config.json", max_seq_length=12))
    mean = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    found.append(change(whole / "1_Pooling" / "config.json", **mean))
    write_json(whole / "modules.json", read_json(whole / "modules.json")[:2])  # vectors of any length
    found.append(model_digest(folder))
    assert len({*found}) == 4


def rewritten(folder, texts):
    """Writes another index in place of one."""
    with changing(folder):
        write_index(folder, BUILT, [made(texts=texts, seed=texts)])


def test_an_index_that_is_replaced_while_it_is_opened_is_not_called_damaged(index, monkeypatch):
    digests, given = search_index.digests, [40]

    def digests_late(paths):
        if given:
            monkeypatch.setattr(search_index, "digests", digests)
            rewritten(index.folder, given.pop())
        return digests(paths)

    monkeypatch.setattr(search_index, "digests", digests_late)
    assert SearchIndex(index.folder).texts == 40
    assert not given


def test_an_index_that_is_moved_aside_for_a_moment_is_found(index, monkeypatch):
    aside = index.folder.with_name(".index.old-1")  # of a process that lives
    index.folder.rename(aside)
    monkeypatch.setattr(time, "sleep", lambda _: aside.rename(index.folder) if aside.exists() else None)
    assert SearchIndex(index.folder).texts == 50


def test_words_of_another_version_are_refused(index):
    opened = SearchIndex(index.folder)
    rewritten(index.folder, 40)
    with pytest.raises(UserError, match="was written anew while it was read; run the command again"):
        opened.rank("boat", None, 5, "bm25")
