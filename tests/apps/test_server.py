"""The server, through a real client: answers, refusals, limits, and many clients at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import bertwright
from bertwright.apps import server
from bertwright.apps.explain import explain
from bertwright.apps.server import Limits, make_app
from serving import Server

TEXTS = ["A wonderful film about a river.", "A dreadful film.", "We saw a boat and a stone. Wonderful."]


@pytest.fixture(scope="module")
def model(finished):
    return bertwright.load(finished)


@pytest.fixture(scope="module")
def client(model):
    with Server(make_app(model)) as client:
        yield client


def test_texts_are_classified_as_by_the_model(client, model):
    answer = client.post("/predict", json={"texts": TEXTS})
    assert answer.status_code == 200
    for found, prediction in zip(answer.json(), model.predict(TEXTS), strict=True):
        assert found["label"] == prediction.label
        assert found["probabilities"] == pytest.approx(prediction.probabilities, abs=0.01)


def test_the_other_answers_are_the_model_s(client, model, monkeypatch):
    text = "The [MASK] was old again."
    masks = client.post("/fill-mask", json={"text": text, "top_k": 3}).json()
    assert [one["token"] for one in masks[0]] == [one.token for one in model.fill_mask(text, 3)[0]]
    pair = {"first": "The river was old.", "second": "We saw a boat."}
    score = client.post("/next-sentence", json=pair).json()["score"]
    assert score == pytest.approx(model.next_sentence(*pair.values()), abs=1e-5)
    explained = client.post("/explain", json={"text": TEXTS[1]}).json()
    ours = explain(model, TEXTS[1])
    assert explained["baseline_log_odds"] == pytest.approx(ours.baseline_log_odds, abs=1e-4)
    assert [word["attribution"] for word in explained["words"]] == pytest.approx(
        [word.attribution for word in ours.words], abs=1e-4
    )
    largest = max(explained["words"], key=lambda word: word["relative_attribution"])
    assert largest["text"] == "dreadful"
    assert largest["relative_attribution"] == 1
    shown = client.post("/attention", json={"text": TEXTS[1]}).json()
    assert len(shown["weights"]) == 2
    assert all(sum(row) == pytest.approx(1, abs=0.02) for layer in shown["weights"] for head in layer for row in head)
    assert len(shown["weights"][0][0]) == len(shown["tokens"])
    tokenizer = model.pretrained.tokenizer
    assert shown["tokens"][1:-1] == [tokenizer.tokens[i] for i in tokenizer.encode([TEXTS[1]])[0]]
    monkeypatch.setattr(server, "MAX_ATTENTION", 500)  # more than this model's positions
    positions = model.pretrained.model.encoder.max_length
    long = client.post("/attention", json={"text": TEXTS[0] * 20}).json()
    assert len(long["tokens"]) == len(long["weights"][0][0]) == positions


def test_many_clients_at_once_lose_and_mix_up_nothing(client, model):
    texts = [f"{'A wonderful' if i % 3 else 'A dreadful'} film. The {w} was old. " * (1 + i % 7) for i, w in
             enumerate("river stone boat winter garden letter morning window".split() * 12)]  # fmt: skip
    expected = [prediction.score for prediction in model.predict(texts)]

    def ask(i: int) -> list[float]:
        rows = client.post("/predict", json={"texts": texts[i : i + 1 + i % 3]}).json()
        return [row["score"] for row in rows]

    with ThreadPoolExecutor(16) as pool:
        for i, scores in enumerate(pool.map(ask, range(len(texts)))):
            assert scores == pytest.approx(expected[i : i + 1 + i % 3], abs=0.01)


def test_bad_requests_get_a_clear_4xx(client):
    for path, body, status, words in (
        ("/predict", {"texts": ["A film.", " "]}, 422, "text 2 of 2 has nothing to read"),
        ("/predict", {"texts": []}, 422, "at least 1"),
        ("/predict", {"texts": ["a film"] * 100}, 422, "at most 64"),
        ("/predict", {"texts": ["a" * 30_000]}, 422, "at most 20000"),
        ("/predict", {"text": "a film"}, 422, "Field required"),
        ("/predict", {"texts": [7]}, 422, "valid string"),
        ("/fill-mask", {"text": "no mask"}, 422, "has no [MASK]"),
        ("/fill-mask", {"text": "a [MASK]", "top_k": 0}, 422, "greater than or equal to 1"),
        ("/next-sentence", {"first": "a", "second": ""}, 422, "second text has nothing to read"),
        ("/attention", {"text": ""}, 422, "nothing to read"),
        ("/nowhere", {}, 404, "Not Found"),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == status, path
        assert words in answer.text
    assert client.post("/predict", content=b"{nonsense").status_code == 422
    half = client.post("/predict", content=rb'{"texts": ["half an emoji \ud83d"]}')
    assert half.status_code == 422
    assert "half an emoji" not in half.text
    assert client.get("/predict").status_code == 405


def test_a_body_too_large_is_refused_with_or_without_its_length(client):
    assert client.post("/predict", content=b" " * (server.MAX_BODY + 1)).status_code == 413
    pieces = (b" " * 1_000_000 for _ in range(server.MAX_BODY // 1_000_000 + 2))
    assert client.post("/predict", content=pieces).status_code == 413


def test_a_full_queue_and_a_slow_answer_are_said(model):
    with Server(make_app(model, Limits(waiting=2))) as client:
        refused = client.post("/predict", json={"texts": TEXTS})
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert client.post("/predict", json={"texts": TEXTS[:2]}).status_code == 200  # nothing is left behind
    with Server(make_app(model, Limits(waiting=0))) as client:  # one queue, whatever is asked
        for path in ("/explain", "/attention"):
            assert client.post(path, json={"text": TEXTS[0]}).status_code == 503
    with Server(make_app(model, Limits(seconds=0.0))) as client:
        assert client.post("/explain", json={"text": TEXTS[0]}).status_code == 504


def test_health_metrics_description_and_page(client, model):
    health = client.get("/health").json()
    assert health["labels"] == model.classifier.label_names
    assert "/" not in health["model"]  # clients need not know where it lies
    client.post("/predict", json={"texts": TEXTS})
    metrics = client.get("/metrics").text
    assert 'bertwright_requests_total{path="/predict",status="200"}' in metrics
    assert "bertwright_batch_texts_sum" in metrics
    assert "/nowhere" not in metrics
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/explain", "/fill-mask", "/next-sentence", "/attention", "/health"} == set(paths)
    page = client.get("/").text
    assert "<title>Bertwright</title>" in page
    assert "https://" not in page
    assert "innerHTML" not in page  # what a client sent is only ever text
