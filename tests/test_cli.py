"""The command line as people know it, and no mistake of a user's that ends in a traceback."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertwright.cli import FIRST_SETTINGS, STAGES, USES, function_of, main
from bertwright.recipe_file import make_recipe_parser, plain_words
from processes import environment

ODD = ["-1", "0", "", "nan", "1e400", "none", "[", "{a: b", "'", "é", "~nobody/x", "../..", "99999999999999999999"]


def run(capsys, *words):
    """The status and what was said; a mistake is one sentence, and never a traceback."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as ended:
        status = int(ended.code or 0)
    said = capsys.readouterr()
    assert status in (0, 2), words
    if status == 2:
        assert said.err.startswith("bertwright: error: "), (words, said.err)
        assert said.err.count("\n") == 1, (words, said.err)
    assert "Traceback" not in said.err + said.out
    return status, said.err if status else said.out


@pytest.mark.slow
def test_without_a_command_the_help_is_shown(capsys):
    status, said = run(capsys)
    assert status == 0
    assert all(f"    {name.split()[0]} " in said for name in [*STAGES, *USES])


def test_the_help_of_a_stage_shows_the_first_settings_by_group(capsys):
    status, said = run(capsys, "run", "--help")
    assert status == 0
    assert len(said.splitlines()) < 60
    for group, names in FIRST_SETTINGS.items():
        assert f"{group}:" in said
        assert all(f"--{name.replace('_', '-')}\n" in said for name in names)
    _, everything = run(capsys, "run", "--help-all")
    assert len(everything.splitlines()) > 200


@pytest.mark.slow
def test_help_shows_hyphens_and_no_underscores_in_options(capsys):
    for name in [*STAGES, *USES]:
        _, said = run(capsys, *name.split(), "--help-all" if name in STAGES else "--help")
        options = [word for word in said.replace("[", " ").split() if word.startswith("--")]
        assert options
        assert not [word for word in options if "_" in word.partition("=")[0].split("{")[0]], name


FLAGS = {
    command: {name for name, one in inspect.signature(function_of(command)).parameters.items() if one.default is False}
    for command in USES
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name in USES if FLAGS[name]))
def test_the_help_shows_flags_as_they_are_typed(capsys, name):
    _, said = run(capsys, *name.split(), "--help")
    usage = " ".join(said.partition("\n\n")[0].split())
    assert all(f"[--{flag.replace('_', '-')}]" in usage for flag in FLAGS[name])
    assert "true" not in said
    assert "bool" not in said


@pytest.mark.slow
@pytest.mark.parametrize(("name", "needed"), [("predict", False), ("embed", False), ("init", True), ("export", True)])
def test_the_help_says_required_of_what_a_command_cannot_do_without(capsys, name, needed):
    assert ("(required)" in run(capsys, name, "--help")[1]) == needed


@pytest.mark.slow
def test_hyphens_and_underscores_are_alike():
    for words in (["--pretrain.max-minutes", "5"], ["--pretrain.max_minutes", "5"], ["--pretrain.max-minutes=5"]):
        parsed = make_recipe_parser().parse_args(plain_words(["--recipe", "demo", *words]))
        assert parsed.pretrain.max_minutes == 5


def test_the_name_of_an_entry_of_data_keeps_its_hyphens():
    words = ["--data.my-texts.text-column", "body", "--data.my-texts.path=x-y", "--pretrain.max-steps=1"]
    found = plain_words(words)
    assert found == ["--data.my-texts.text_column", "body", "--data.my-texts.path=x-y", "--pretrain.max_steps=1"]


@pytest.mark.parametrize("value", ["true", "false", "True"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_flag_with_a_value_is_refused(capsys, value, joined):
    words = [f"--explain={value}"] if joined else ["--explain", value]
    assert run(capsys, "predict", "A film.", *words) == (
        2,
        "bertwright: error: --explain takes no value: write --explain alone, or leave it out\n",
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predict", "x", "--text-colunm", "a"], "did you mean --text-column?"),
        (["predict", "x", "--top-k", "3"], "there is no option top_k"),
        (["predict", "x", "--format", "xml"], "--format is xml; give table, jsonl or html"),
        (["embed", "x", "--pooling", "max"], "--pooling is max; give mean or cls"),
        (["fill-mask", "a [MASK]", "--top-k", "x"], "--top-k is x; give a whole number"),
        (["run", "demo", "--learning-rate", "1"], "pretrain.optimizer.learning_rate or finetune.optimizer.learning"),
        (["run", "demo", "--pretrain.learning-rate", "1"], "pretrain.optimizer.learning_rate"),
        (["run", "demo", "--share", "1"], "share is now called budget_ratio"),
        (["run", "demo", "--pretrain.initialization", "local"], "local is now called local_attention"),
        (["run", "demo", "--pretrain.embedding-initialization", "counted"], "counted is now called pmi"),
        (["predit", "x"], "did you mean predict?"),
        (["fill-mask", "a [MASK]", "--top-k", "-1"], "top_k"),
        (["fill-mask", "a [MASK]", "--top-k", "0"], "top_k"),
        (["embed", "x", "--layers", "0"], "layers"),
        (["embed", "x", "--layers", "-1"], "layers"),
        (["serve", "--port", "-1"], "port"),
        (["serve", "--port", "70000"], "port"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_answered_with_what_is_meant(capsys, words, expected):
    status, said = run(capsys, *words)
    assert status == 2
    assert expected in said, said


def options(name):
    plain = USES[name][1]
    parameters = inspect.signature(function_of(name)).parameters.values()
    return [one.name for one in parameters if one.name not in plain and one.default is not False]


GIVEN = {"predict": ["x"], "fill-mask": ["a [MASK]"], "next-sentence": ["a", "b"], "embed": ["x"], "export": ["out"]}
GIVEN |= {"search build": ["t.csv", "i"], "search add": ["t.csv", "i"], "search remove": ["t.csv", "i"]}
GIVEN |= {"search query": ["i", "x"], "search evaluate": ["i", "t.csv"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in USES if name != "serve"])
def test_no_odd_value_of_an_option_ends_in_a_traceback(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("text,label\n" + "a film,a\nthe cat,b\n" * 5)
    given = GIVEN.get(name, ["t.csv"] if name == "init" else [])
    for option in options(name):
        for value in ODD:
            run(capsys, *name.split(), *given, f"--{option.replace('_', '-')}={value}")
    for value in ODD[1:]:
        run(capsys, *name.split(), "--file", value)
    for value in ODD if name == "init" else ():
        run(capsys, name, value)
    run(capsys, *name.split(), "--nothing-of-the-kind")


@pytest.mark.slow
def test_no_odd_value_of_a_setting_ends_in_a_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A folder that is a file: whatever a value means, the run cannot begin.
    (tmp_path / "file").write_text("")
    known = make_recipe_parser().known
    assert len(known) > 60
    for number, option in enumerate(known):
        words = [f"--{option.replace('_', '-')}={ODD[5 * number % len(ODD)]}"]
        assert run(capsys, "run", "demo", "--system.precision=fp32", *words, "--out=file")[0] == 2, words


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"]])
@pytest.mark.slow
def test_help_and_version_end_well(capsys, words):
    assert run(capsys, *words)[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_output_that_finds_no_space_is_one_sentence_and_a_status():
    command = [sys.executable, "-m", "bertwright", "recipes"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.returncode == 2
    assert done.stderr == "bertwright: error: no space left on the disk; free some and run the command again\n"


PIPED = """
import sys
from tqdm import tqdm
from bertwright import cli, pipeline

def work(words):
    pipeline.say("half")  # to standard error, which nobody reads, and the work continues
    with tqdm(total=2, mininterval=0) as bar:
        bar.update(1)
    print("half", flush=True)
    sys.exit(9)

cli._call = work
sys.exit(cli.main(["embed", "text"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("closed", "status"), [("stderr", 9), ("stdout", 141)])
def test_a_closed_pipe_does_not_pass_for_finished_work(closed, status):
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, closed: writer}
    done = subprocess.run([sys.executable, "-c", PIPED], env=environment(), **streams)
    os.close(writer)
    assert done.returncode == status


@pytest.mark.slow
def test_a_warning_is_a_sentence():
    words = [sys.executable, "-m", "bertwright", "predict", "Это прекрасный фильм"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.startswith("bertwright: more than a fifth of the tokens are unknown")
    assert done.stderr.count("\n") == 1
