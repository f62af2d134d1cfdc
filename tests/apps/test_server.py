"""The server, through a real client: answers, refusals, limits, clients that leave, and many clients at once."""

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx2
import numpy as np
import pytest

import bertwright
from bertwright.apps.batching import Limits
from bertwright.apps.explain import explain
from bertwright.apps.page import FILM_REVIEWS
from bertwright.apps.server import make_app
from serving import Server

TEXTS = ["A wonderful film about a river.", "A dreadful film.", "We saw a boat and a stone. Wonderful."]
EVERYWHERE = ("/predict", "/explain", "/fill-mask", "/next-sentence", "/embed", "/attention")
LIMITS = Limits()


@pytest.fixture(scope="module")
def model():
    return bertwright.load("bundled")


@pytest.fixture(scope="module")
def client(model):
    with Server(make_app(model)) as client:
        yield client


def body(path, texts):
    """A request of the one shape."""
    return {"texts": texts, "text_pairs": texts} if path == "/next-sentence" else {"texts": texts}


def counted(client, path, status):
    """How many requests /metrics says were answered so."""
    wanted = f'bertwright_requests_total{{path="{path}",status="{status}"}} '
    return next((float(line[len(wanted) :]) for line in client.get("/metrics").text.splitlines() if wanted in line), 0)


def soon(condition, seconds=10.0):
    """Whether something comes true within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_texts_are_classified_as_by_the_model(client, model):
    answer = client.post("/predict", json={"texts": TEXTS})
    assert answer.status_code == 200
    for found, prediction in zip(answer.json(), model.predict(TEXTS), strict=True):
        assert found["label"] == prediction.label
        assert found["probabilities"] == pytest.approx(prediction.probabilities, abs=0.01)


@pytest.mark.slow
def test_long_texts_in_windows_are_classified_as_by_the_model(client, model):
    texts = ["A dreadful film. " + "The boat was old again. " * 400, TEXTS[0], "The boat was old. " * 300]
    found = client.post("/predict", json={"texts": texts}).json()
    assert [one["score"] for one in found] == pytest.approx([one.score for one in model.predict(texts)], abs=0.01)


@pytest.mark.slow
def test_explanations_are_those_of_the_model(client, model):
    for found, text in zip(client.post("/explain", json={"texts": TEXTS}).json(), TEXTS, strict=True):
        ours = explain(model, text)
        assert found["label"] == ours.prediction.label
        assert found["baseline_log_odds"] == pytest.approx(ours.baseline, abs=1e-4)
        attributions = [word["attribution"] for word in found["words"]]
        assert attributions == pytest.approx([word.attribution for word in ours.words], abs=1e-3)
        assert max(abs(word["relative_attribution"]) for word in found["words"]) == 1


def test_the_encoder_s_answers_are_those_of_the_model(client, model):
    masked = ["The [MASK] was old again.", "A [MASK] and a [MASK]."]
    for found, text in zip(client.post("/fill-mask", json={"texts": masked, "top_k": 3}).json(), masked, strict=True):
        ours = model.fill_mask(text, 3)
        assert [[one["token"] for one in mask] for mask in found] == [[one.token for one in mask] for mask in ours]
    pairs = {"texts": ["The river was old.", "We saw a boat."], "text_pairs": ["We saw a boat.", "It sank."]}
    for found, *pair in zip(client.post("/next-sentence", json=pairs).json(), *pairs.values(), strict=True):
        assert found["score"] == pytest.approx(model.next_sentence(*pair), abs=1e-5)
        assert found["is_next"] == (found["score"] >= 0.5)
    found = client.post("/embed", json={"texts": [*TEXTS, "a " * 600]}).json()
    vectors = model.encode([*TEXTS, "a " * 510])
    assert [one["left_out"] for one in found] == [0, 0, 0, 90]
    cosines = (np.array([one["vector"] for one in found]) * vectors).sum(1) / (np.linalg.norm(vectors, axis=1) ** 2)
    np.testing.assert_allclose(cosines, 1, atol=1e-2)
    (found,) = client.post("/embed", json={"texts": TEXTS[:1], "layers": 2, "per_token": True}).json()
    (ours,) = model.embed(TEXTS[:1], 2)
    assert found["tokens"] == ours.tokens
    np.testing.assert_allclose(found["vectors"], ours.vectors, atol=1e-5)


def test_attention_weights_are_those_of_the_model_and_of_a_long_text_s_beginning(client, model):
    (shown,) = client.post("/attention", json={"texts": TEXTS[1:2]}).json()
    tokenizer = model.pretrained.tokenizer
    assert shown["tokens"][1:-1] == [tokenizer.tokens[i] for i in tokenizer.encode([TEXTS[1]])[0]]
    np.testing.assert_allclose(shown["weights"], model.attention(TEXTS[1], 64)[1], atol=1e-3)
    (long,) = client.post("/attention", json={"texts": [TEXTS[0] * 20]}).json()
    assert len(long["tokens"]) == len(long["weights"][0][0]) == 64


@pytest.mark.slow
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


@pytest.mark.parametrize("path", EVERYWHERE)
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"text": "a [MASK]"}, '"texts" is missing'),
        ({"text": "a [MASK]"}, "no field of this request"),
        ({"texts": "a [MASK]"}, '"texts" is not a list; put it in brackets'),
        ({"texts": []}, "give at least one text"),
        ({"texts": [7]}, '"texts[0]" is not a string'),
        ({"texts": ["a [MASK]"], "lang": "en"}, '"lang" is no field'),
        ({"texts": ["a [MASK]"] * 65}, "65 texts, and may have at most 64"),
        (["a"], "not a JSON object"),
        ({"texts": ["a [MASK]", " "]}, "text"),
    ],
)
def test_all_requests_have_one_shape_and_what_misses_it_gets_a_sentence(client, path, wrong, words):
    if path == "/next-sentence" and isinstance(wrong, dict) and "texts" in wrong:
        wrong = {**wrong, "text_pairs": wrong["texts"]}
    answer = client.post(path, json=wrong)
    assert answer.status_code == 422
    assert set(answer.json()) == {"detail"}
    assert words in answer.json()["detail"]


def test_bad_requests_get_a_clear_4xx(client):
    for path, request, status, words in (
        ("/predict", {"texts": ["A film.", " "]}, 422, "text 2 of 2 has nothing to read"),
        ("/explain", {"texts": ["A film.", " "]}, 422, "text 2 of 2 has nothing to read"),
        ("/embed", {"texts": ["A film.", " "]}, 422, "text 2 of 2 has nothing to read"),
        ("/embed", {"texts": ["A film.", "a " * 600], "per_token": True}, 422, "text 2 of 2 has 600 tokens"),
        ("/embed", {"texts": ["A film."], "layers": 9, "per_token": True}, 422, "layers is 9"),
        ("/embed", {"texts": ["A film."], "layers": 2}, 422, 'add "per_token": true'),
        ("/fill-mask", {"texts": ["no mask"]}, 422, "has no [MASK]"),
        ("/fill-mask", {"texts": ["a [MASK]", "no mask"]}, 422, "text 2 of 2"),
        ("/fill-mask", {"texts": ["a [MASK]"], "top_k": 0}, 422, "greater than or equal to 1"),
        ("/next-sentence", {"texts": ["a"], "text_pairs": [""]}, 422, "second text has nothing to read"),
        ("/next-sentence", {"texts": ["a"], "text_pairs": ["b", "c"]}, 422, "give as many"),
        ("/nowhere", {}, 404, "no such path; /docs names its paths"),
        ("/search", {"texts": ["a"]}, 404, "start it with bertwright serve --index INDEX"),
        ("/health", {}, 405, "this path takes GET"),
    ):
        answer = client.post(path, json=request)
        assert answer.status_code == status, path
        assert words in answer.json()["detail"]
    typed = {"Content-Type": "application/json"}
    assert "not valid JSON" in client.post("/predict", content=b"{nonsense", headers=typed).json()["detail"]
    assert "Content-Type" in client.post("/predict", content=b'{"texts": ["a"]}').json()["detail"]
    assert "no body" in client.post("/predict").json()["detail"]
    key = client.post("/predict", content=rb'{"\ud83d": 1}', headers=typed)
    assert key.status_code == 422
    nested = client.post("/predict", content=b"[" * 50_000, headers=typed)
    assert 400 <= nested.status_code < 500
    assert "not JSON in UTF-8" in nested.json()["detail"]
    cp1252 = client.post("/predict", content='{"texts": ["Der Film war schön."]}'.encode("cp1252"), headers=typed)
    assert cp1252.status_code == 400
    assert cp1252.json()["detail"] == (
        'the body is not JSON in UTF-8, or is nested too deep; in UTF-8, send JSON such as {"texts": ["A text."]}'
    )


@pytest.mark.parametrize("path", EVERYWHERE)
def test_a_refusal_gives_a_body_that_is_answered(client, path):
    refused = client.get(path), client.post(path), client.post(path, json={"texts": "a"})
    assert [answer.status_code for answer in refused] == [405, 422, 422]
    (sent,) = {answer.json()["detail"].partition("send JSON such as ")[2] for answer in refused}
    assert client.post(path, json=json.loads(sent)).status_code == 200


def test_limits_count_tokens_and_not_characters(client):
    few = client.post("/predict", json={"texts": ["q" * 30_000 + " a film"]})  # one token that is not known, and two
    assert few.status_code == 200
    many = client.post("/explain", json={"texts": ["!" * 20_000]})  # the request of fault 19
    assert many.status_code == 422
    assert "20,002 tokens" in many.json()["detail"]
    for path, texts, words in (
        ("/predict", ["a " * 8_200], "may have at most 8,192"),
        ("/predict", ["a " * 6_000] * 3, "18,006 tokens, and may have at most 16,384"),
        ("/explain", ["a " * 700], "may have at most 682, since each is computed 24 times"),
        ("/explain", ["a film. " * 10] * 64, "may have at most 682"),
        ("/fill-mask", ["a [MASK] " * 43] * 3, "129 [MASK], and may have at most 128"),
        ("/embed", ["a " * 500] * 40, "may have at most 16,384"),
        ("/attention", ["a " * 500] * 64, "numbers"),
    ):
        request = body(path, texts) | ({"top_k": 50} if path == "/fill-mask" else {})
        answer = client.post(path, json=request)
        assert answer.status_code == 422, path
        assert words in answer.json()["detail"]
    wide = client.post("/embed", json={"texts": ["a " * 500] * 20, "layers": 2, "per_token": True})
    assert "numbers" in wide.json()["detail"]


def test_a_body_too_large_is_refused_with_or_without_its_length(client):
    before = counted(client, "other", 413)
    for content in (b" " * (LIMITS.body_bytes + 1), (b" " * 10_000 for _ in range(LIMITS.body_bytes // 10_000 + 2))):
        answer = client.post("/predict", content=content)
        assert answer.status_code == 413
        assert f"{LIMITS.body_bytes:,} bytes" in answer.json()["detail"]
    assert counted(client, "other", 413) == before + 2


@pytest.mark.slow
def test_a_body_that_trickles_in_is_given_up(model):
    with Server(make_app(model, replace(LIMITS, body_seconds=0.3))) as client:
        address = client.base_url.host, client.base_url.port
        with socket.create_connection(address, timeout=10) as slow:
            slow.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"')
            assert b" 408 " in slow.recv(1000)
        assert client.post("/predict", json={"texts": TEXTS}).status_code == 200


@pytest.mark.parametrize("limits", [Limits(waiting_requests=0), Limits(waiting_tokens=10)])
@pytest.mark.slow
def test_a_full_queue_is_said_at_every_path(model, limits):
    with Server(make_app(model, limits)) as client:
        for path in EVERYWHERE:
            refused = client.post(path, json=body(path, ["a [MASK] in May"]))
            assert refused.status_code == 503
            assert refused.headers["Retry-After"]
            assert "try again" in refused.json()["detail"]


@pytest.mark.slow
def test_when_the_time_is_up_the_work_ends_and_others_are_answered(model):
    with Server(make_app(model, replace(LIMITS, seconds=0.4, request_tokens=200_000, waiting_tokens=10**6))) as client:
        late = client.post("/explain", json={"texts": ["a " * 6_000]})  # minutes of work
        assert late.status_code == 504
        assert "0.4 seconds" in late.json()["detail"]
        assert soon(lambda: "bertwright_waiting_requests 0.0" in client.get("/metrics").text)
        assert soon(lambda: client.post("/predict", json={"texts": TEXTS[:1]}).status_code == 200)
        assert counted(client, "/explain", 504) == 1


@pytest.mark.slow
def test_a_client_that_leaves_frees_its_work(model):
    with Server(make_app(model, replace(LIMITS, request_tokens=200_000, waiting_tokens=10**6))) as client:
        with pytest.raises(httpx2.TimeoutException):
            client.post("/explain", json={"texts": ["a " * 6_000]}, timeout=0.5)
        assert soon(lambda: counted(client, "/explain", 499) == 1)
        assert soon(lambda: "bertwright_waiting_requests 0.0" in client.get("/metrics").text)


@pytest.mark.slow
def test_an_unexpected_error_is_neutral_counted_and_in_the_log(model, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("something at /secret/place")

    with Server(make_app(model)) as client:
        monkeypatch.setattr(model.text_encoder(), "compute", fail)
        monkeypatch.setattr(model, "window_logits", fail)
        for path in ("/embed", "/predict"):
            with caplog.at_level(logging.ERROR):
                answer = client.post(path, json={"texts": TEXTS})
            assert answer.status_code == 500
            assert "secret" not in answer.text
            number = answer.json()["detail"].split()[-1]
            assert f"error {number} at {path}" in caplog.text
            assert "/secret/place" in caplog.text
            assert counted(client, path, 500) == 1
        monkeypatch.undo()
        assert client.post("/predict", json={"texts": TEXTS}).status_code == 200  # the thread lives


@pytest.mark.slow
def test_no_path_of_the_machine_leaves_the_server(model):
    alone = bertwright.load(model.classifier_folder)  # a classifier has no heads of pre-training
    places = {str(path) for folder in (model.classifier_folder, *model.classifier_folder.parents[:3]) for path in
              (folder, folder.resolve())}  # fmt: skip
    with Server(make_app(alone)) as client:
        refused = [client.post(path, json=body(path, ["a [MASK]"])) for path in ("/fill-mask", "/next-sentence")]
        assert ["head" in answer.json()["detail"] for answer in refused] == [True, True]
        pages = [client.get(path) for path in ("/", "/docs", "/health", "/openapi.json", "/metrics", "/nowhere")]
        for answer in refused + pages:
            assert not any(place in answer.text for place in places)


def test_health_metrics_description_and_pages(client, model):
    health = client.get("/health").json()
    assert health["labels"] == model.classifier.label_names
    client.post("/predict", json={"texts": TEXTS})
    metrics = client.get("/metrics").text
    assert 'bertwright_requests_total{path="/predict",status="200"}' in metrics
    assert "bertwright_batch_windows_sum" in metrics
    client.post("/nowhere")
    assert "/nowhere" not in client.get("/metrics").text
    paths = client.get("/openapi.json").json()["paths"]
    assert {*EVERYWHERE, "/health"} == set(paths)
    for path in ("/", "/docs"):
        page = client.get(path).text
        assert "<title>Bertwright" in page
        assert "https://" not in page
        assert "Content-Security-Policy" in page
    for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript")):
        assert client.get(path).headers["content-type"].startswith(kind)
        assert "https://" not in client.get(path).text
    for path in ("/page.js", "/docs"):
        assert "innerHTML" not in client.get(path).text  # what a client sent is only ever text


@pytest.mark.parametrize("path", EVERYWHERE)
def test_half_an_emoji_is_read_as_a_question_mark(client, path):
    typed = {"Content-Type": "application/json"}
    broken, whole = (json.dumps(body(path, [f"a [MASK] and {end}"])) for end in ("\ud83d", "?"))
    answers = [client.post(path, content=content, headers=typed) for content in (broken, whole)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize("path", EVERYWHERE)
def test_the_examples_of_the_description_are_answered(client, path):
    schema = client.get("/openapi.json").json()
    example = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    if path == "/fill-mask":
        assert "[MASK]" in json.dumps(example)
    assert client.post(path, json=example).status_code == 200


def test_the_page_s_examples_are_of_the_class_that_it_says(client):
    for label, text in FILM_REVIEWS.items():
        (found,) = client.post("/predict", json={"texts": [text]}).json()
        assert found["label"] == label
        assert found["score"] > 0.9
        assert text in client.get("/").text


@pytest.mark.slow
def test_the_page_of_another_model_has_no_film_reviews(model):
    with Server(make_app(bertwright.load(model.classifier_folder))) as client:
        page = client.get("/").text
        assert "film" not in page.lower()
        assert "movie" not in page.lower()


@pytest.mark.slow
def test_three_clients_with_the_worst_request_do_not_stall_a_fourth():
    from serve_stall import SENTENCE, largest_requests, serving, stall

    requests = largest_requests(bertwright.load("bundled"), LIMITS)
    with serving() as (_, address):
        found = stall(address, *requests["words that take long to tokenize"], seconds=2)
        assert found["median_ms_of_others"] < 2_000
        assert found["failed_of_others"] == 0
        # Clients with several connections fill the queue with large requests; a small one is still let in.
        found = stall(address, *requests["explain one text"], seconds=2, connections=4)
        assert found["median_ms_of_others"] < 2_000
        assert found["failed_of_others"] == 0
        assert httpx2.post(f"{address}/predict", json=SENTENCE).status_code == 200


@pytest.mark.slow
def test_eight_threads_get_the_answers_that_one_gets(model):
    texts = [f"{'A wonderful' if i % 3 else 'A dreadful'} film. {'The boat was old. ' * (i % 5)}" for i in range(24)]
    masked = "The [MASK] was old."

    def ask(i):
        words = explain(model, texts[i]).words
        (prediction,) = model.predict([texts[i]])
        token = model.fill_mask(masked, 1)[0][0]
        return [
            prediction.score,
            token.score,
            *(word.attribution for word in words),
            *model.embed(texts[i : i + 1])[0].mean,
        ]

    expected = [ask(i) for i in range(len(texts))]
    barrier = threading.Barrier(8)

    def ask_all(thread):
        barrier.wait()
        return [(i, ask(i)) for i in range(thread, len(texts), 8)]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(ask_all, range(8)):
            for i, values in found:
                assert values == pytest.approx(expected[i], abs=2e-2)
