"""Data sets of the hub, streamed through the real `datasets` library from a stand-in for the hub on this machine."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.network

ROWS = [{"text": "One.\n\nTwo.", "label": 0}, {"text": "", "label": 1}, {"text": "A last text", "label": 1}]


def _parquet(rows: list[dict]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=2)
    return stream.getvalue()


def _at_hub(endpoint: str, home: Path, code: str) -> list:
    """Runs code with another hub, in a process of its own since the address is read when modules load."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    program = (
        "import json, sys\nfrom bertwright.recipe import Source\nfrom bertwright.errors import UserError\n"
        "from bertwright.text.corpus import *\nfrom bertwright.text.records import read_records\n"
        "columns = ('text', 'label')\nout = []\n" + code + "\nprint(json.dumps(out))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hub(hub_server: ModuleType) -> Iterator[str]:
    sentences = [{"text": f"sentence {number} ."} for number in range(700)]
    card = (
        "---\nconfigs:\n- config_name: {0}\n  data_files:\n  - split: train\n    path: {0}/*\n"
        "- config_name: other\n  data_files: other/*\n---\n"
    )
    imdb_card = "---\ndataset_info:\n  config_name: plain_text\n  features:\n  - name: text\n    dtype: string\n"
    imdb_card += (
        "  - name: label\n    dtype:\n      class_label:\n        names:\n          '0': neg\n          '1': pos\n"
    )
    imdb_card += "configs:\n- config_name: plain_text\n  default: true\n  data_files:\n" + "".join(
        f"  - split: {split}\n    path: plain_text/{split}-*\n" for split in ("train", "test", "unsupervised")
    )
    repositories = {
        "bookcorpus/bookcorpus": {
            "main": {"bookcorpus.py": b"raise SystemExit('remote code was run')", "README.md": b"# books\n"},
            "refs/convert/parquet": {"plain_text/train/0000.parquet": _parquet(sentences)},
        },
        "stanfordnlp/imdb": {
            "main": {
                "README.md": f"{imdb_card}---\n".encode(),
                "plain_text/train-00000-of-00001.parquet": _parquet(ROWS),
                "plain_text/test-00000-of-00001.parquet": _parquet(ROWS[::-1]),
                "plain_text/unsupervised-00000-of-00001.parquet": _parquet([{"text": "unknown", "label": -1}]),
            }
        },
        "wikimedia/wikipedia": {
            "main": {
                "README.md": card.format("20231101.en").encode(),
                "20231101.en/train-00000-of-00001.parquet": _parquet([{"title": "A", "text": "Article."}]),
                "other/train-00000-of-00001.parquet": _parquet([{"title": "B", "text": "Other."}]),
            }
        },
    }
    with hub_server.serve(repositories) as endpoint:
        yield endpoint


@pytest.mark.slow
def test_the_presets_stream_from_the_hub_without_running_remote_code(hub: str, tmp_path: Path) -> None:
    books, imdb, every, labelled, wikipedia, other, prints, shared = _at_hub(
        hub,
        tmp_path,
        """
for name, splits in (("bookcorpus", None), ("imdb", ["unsup", "train"]), ("imdb", None)):
    out.append([document.text for document in read_documents(Source(path=name), splits)])
test = read_records(Source(path="imdb"), "test", columns)
out.append([[record.id, record.label, record.class_number] for record in test])
out.append([document.text for document in read_documents(Source(path="wikipedia"), None)])
out.append([document.text for document in read_documents(Source(path="wikimedia/wikipedia", subset="other"), None)])
out.append([source_fingerprint(Source(path=name)) for name in ("imdb", "stanfordnlp/imdb", "bookcorpus")])
shared = parts_read(Source(path="imdb"), None).keys() & parts_read(Source(path="stanfordnlp/imdb"), ["test"]).keys()
out.append([split for _, split in shared])
""",
    )
    assert [len(text.split("\n")) for text in books] == [512, 188]
    assert imdb == ["unknown", *(row["text"] for row in ROWS)]
    assert len(every) == 7
    assert labelled == [["test/0", "pos", 1], ["test/2", "neg", 0]], "the schema's names; the empty text is skipped"
    assert (wikipedia, other) == (["Article."], ["Other."])
    assert prints[0] == prints[1] != prints[2]
    assert shared == ["test"]


@pytest.mark.slow
def test_what_goes_wrong_at_the_hub_is_said_in_one_sentence(hub: str, tmp_path: Path) -> None:
    messages = _at_hub(
        hub,
        tmp_path,
        """
for source, split in (
    (Source(path="nobody/nothing"), "train"),
    (Source(path="imdb", text_column="txt"), "train"),
    (Source(path="imdb"), "validation"),
    (Source(path="imdb"), "unsupervised"),
    (Source(path="wikimedia/wikipedia", subset="absent"), "train"),
):
    try:
        read_records(source, split, columns)
    except UserError as error:
        out.append(str(error))
""",
    )
    wanted = [
        "nobody/nothing is no file or folder here, and no public data set on the hub",
        "no column `txt`",
        "no split `validation`",
        "no label",
        "absent",
    ]
    for message, part in zip(messages, wanted, strict=True):
        assert part in message
        assert "\n" not in message


@pytest.mark.slow
def test_what_is_read_is_the_commit_that_was_fingerprinted(hub_server: ModuleType, tmp_path: Path) -> None:
    branches = {"main": {"train.jsonl": b'{"text": "first", "label": "a"}\n'}}
    with hub_server.serve({"someone/texts": branches}) as endpoint:
        pushed = tmp_path / "pushed"
        thread = threading.Thread(target=_push_when, args=(pushed, branches), daemon=True)
        thread.start()
        # Earlier commits stay readable, as on the hub.
        first, second, text = _at_hub(
            endpoint,
            tmp_path,
            f"""
import time
from pathlib import Path
source = Source(path="someone/texts")
out.append(source_fingerprint(source))
Path({str(pushed)!r}).touch()
while not Path({str(pushed)!r} + ".done").exists():
    time.sleep(0.01)
out.append(source_fingerprint(source))
out.append([document.text for document in read_documents(source, None)])
""",
        )
        (later,) = _at_hub(endpoint, tmp_path, "out.append(source_fingerprint(Source(path='someone/texts')))")
    assert first == second != later
    assert text == ["first"]


def _push_when(asked: Path, branches: dict) -> None:
    """Moves the main branch to another commit as soon as a file is there."""
    while not asked.exists():
        time.sleep(0.01)
    branches["earlier"] = branches["main"]
    branches["main"] = {"train.jsonl": b'{"text": "second", "label": "a"}\n'}
    Path(f"{asked}.done").touch()


@pytest.mark.slow
def test_a_mistyped_path_is_no_data_set_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "reviews" / "train").mkdir(parents=True)
    messages = _at_hub(
        "http://127.0.0.1:9",
        tmp_path,
        f"""
import os
os.chdir({str(tmp_path)!r})
for path in ("reviws/", "reviews/trian", "./reviws/train", "reviws/train"):
    try:
        read_documents(Source(path=path), None)
    except UserError as error:
        out.append(str(error))
""",
    )
    assert all("does not exist (did you mean " in message and "hub did" not in message for message in messages[:3])
    assert "reviws/train is no file or folder here (did you mean reviews?), and the hub did not answer" in messages[3]


@pytest.mark.slow
def test_without_a_network_the_message_names_the_data_set_and_the_way_out(tmp_path: Path) -> None:
    (message,) = _at_hub(
        "http://127.0.0.1:9",
        tmp_path,
        """
try:
    read_documents(Source(path="bookcorpus"), None)
except UserError as error:
    out.append(str(error))
""",
    )
    assert "bookcorpus/bookcorpus is no file or folder here, and the hub did not answer" in message
    assert "--data.NAME PATH" in message
