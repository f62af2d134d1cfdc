"""The command `bertwright serve`: addresses that cannot be listened on, the log, and the end."""

import json
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from bertwright.apps.batching import Limits
from bertwright.apps.integrated_gradients import PASSES
from bertwright.apps.serving import DRAIN_SECONDS, MOST_CONNECTIONS, listen
from bertwright.cli import main
from conftest import ROOT
from serve_stall import SENTENCE, serving


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "70000"], "--port is 70000; give a number from 0 to 65535"),
        (["--port", "-1"], "--port is -1"),
        (
            ["--host", "no.such.host.invalid", "--port", "0"],
            "--host no.such.host.invalid is no address of this machine",
        ),
        (["--host", "192.0.2.1", "--port", "0"], "--host 192.0.2.1 is no address of this machine"),
        (["--model", "nowhere", "--port", "0"], "nowhere"),
        (["--index-model", "nowhere", "--port", "0"], "--index-model is the model that built an --index; give one"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(capsys, options, words):
    assert main(["serve", *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_port_in_use_is_one_sentence(capsys):
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err


def test_version_6_of_the_protocol_is_listened_on_where_there_is_one():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no ::1")
    with listen("::1", 0) as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_end_and_stops_the_server(number):
    with serving() as (process, address):
        assert httpx2.post(f"{address}/predict", json=SENTENCE).status_code == 200
        answers = []
        request = {"texts": ["The film was long. " * 100]}
        client = threading.Thread(
            target=lambda: answers.append(httpx2.post(f"{address}/explain", json=request, timeout=60))
        )
        client.start()
        while "bertwright_waiting_requests 1.0" not in httpx2.get(f"{address}/metrics").text:
            time.sleep(0.01)
        process.send_signal(number)
        start = time.monotonic()
        assert process.wait(DRAIN_SECONDS + 20) == 0
        client.join()
        assert time.monotonic() - start < DRAIN_SECONDS + 10
        assert [answer.status_code for answer in answers] == [200]
        assert "the server has stopped" in process.stdout.read()


@pytest.mark.slow
def test_requests_that_outlast_the_end_are_told_so():
    request = {"texts": ["The film was long. " * 130]}
    with serving() as (process, address):

        def ask(_):
            answer = httpx2.post(f"{address}/explain", json=request, timeout=120)
            return answer.status_code, answer.json()["detail"] if answer.status_code != 200 else ""

        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(ask, range(4))
            while "bertwright_waiting_requests 4.0" not in httpx2.get(f"{address}/metrics").text:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert process.wait(DRAIN_SECONDS + 20) == 0
            for status, detail in answers:
                assert status == 200 or (status == 503 and "stopping" in detail)


@pytest.mark.slow
def test_the_commands_of_the_guide_work_as_printed():
    commands = re.findall(r"^curl .*$", (ROOT / "docs" / "guide" / "serve.md").read_text(), re.MULTILINE)
    assert len(commands) == 9
    with serving() as (_, address):
        for command in commands:
            typed = shlex.split(command.replace("http://127.0.0.1:8000", address))
            done = subprocess.run([*typed, "--fail-with-body", "-sS"], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done
            if not command.endswith("/metrics"):
                json.loads(done.stdout)


def test_the_guide_says_the_limits_that_are_set():
    table = (ROOT / "docs" / "guide" / "serve.md").read_text().partition("## Limits")[2].partition("## Under")[0]
    limits = Limits()
    said = [int(found.replace(",", "")) for found in re.findall(r"^\| [^|]*\| ([\d,]+)", table, re.MULTILINE)]
    expected = [limits.body_bytes, limits.body_seconds, limits.texts, limits.text_tokens, limits.request_tokens,
                limits.request_tokens // PASSES, limits.masks, limits.answer_numbers, limits.answer_characters,
                limits.waiting_requests, limits.waiting_tokens, limits.seconds, MOST_CONNECTIONS,
                DRAIN_SECONDS]  # fmt: skip
    assert said == expected
