"""Has this commit become slower than an earlier one?

    python benchmarks/speed_change.py --before HEAD~1

Both commits do the same work on the bundled sample, `WORK`, each in a process of its own with one thread, at the same
time, so that what disturbs one disturbs the other. The seconds are those of the processor; where it has bfloat16,
training in it is compared, too. Nothing is compiled: the compiler's own time, minutes of a round, would hide that of
ten steps. A ratio is taken in each round, and the median counts: above `MOST` a warning says so. The status is 0 either
way, since a shared machine can err; run it again before you believe it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from jsonargparse import auto_cli

ROOT = Path(__file__).resolve().parents[1]
MOST = 1.05
WORK = """
import json, sys, time
import bertwright
from bertwright.train.engine import has_bf16

folder, seconds = sys.argv[1], {}

def timed(name, work):
    start = time.process_time()
    work()
    seconds[name] = time.process_time() - start

def stage(recipe, name, precision="fp32", **settings):
    same = {"prepare": {"workers": 1}, "system": {"precision": precision, "compile": "off"}}
    bertwright.run(recipe, stages=[name], out=f"{folder}/{recipe}", **same, **settings)

steps = {"pretrain": {"max_minutes": None, "max_steps": 10}}
timed("prepare", lambda: stage("demo-from-scratch", "prepare", **steps))
timed("pretrain, 10 steps", lambda: stage("demo-from-scratch", "pretrain", **steps))
if has_bf16():
    timed("the same in bfloat16", lambda: stage("demo-from-scratch", "pretrain", "bf16", seed=1, **steps))
timed("finetune, 1 epoch", lambda: stage("demo-bundled", "finetune", finetune={"epochs": 1}))
model = bertwright.load()
with open("sample/reviews/test.jsonl", encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file]
model.predict(texts[:8])
timed("predict, 200 texts", lambda: model.predict(texts))
timed("predict, 200 times a text", lambda: [model.predict(text[:60]) for text in texts])
with open(f"{folder}/seconds.json", "w") as file:
    json.dump(seconds, file)
"""
"""What both commits do, through the public interface."""


def at_once(checkouts: dict[str, Path]) -> dict[str, dict[str, float]]:
    """One round: each commit's seconds for each kind of work.

    Args:
        checkouts: the folder of each commit.

    Raises:
        RuntimeError: if a commit cannot do the work.
    """
    with TemporaryDirectory() as folder:
        processes = {}
        for name, checkout in checkouts.items():
            (Path(folder) / name).mkdir()
            environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-c", WORK, str(Path(folder) / name)]
            processes[name] = subprocess.Popen(
                command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        said = {name: process.communicate()[1] for name, process in processes.items()}
        for name, process in processes.items():
            if process.returncode:
                raise RuntimeError(f"{name} cannot do the work: {said[name].strip().splitlines()[-1]}")
        return {name: json.loads((Path(folder) / name / "seconds.json").read_text()) for name in checkouts}


def main(before: str = "HEAD~1", rounds: int = 5) -> None:
    """Compare this working tree with an earlier commit.

    Args:
        before: the earlier commit.
        rounds: how often both do the work.
    """
    git = ["git", "-C", str(ROOT)]
    with TemporaryDirectory() as folder:
        checkouts = {"before": Path(folder) / "before", "now": ROOT}
        added = subprocess.run(
            [*git, "worktree", "add", "--detach", str(checkouts["before"]), before], capture_output=True, text=True
        )
        if added.returncode:
            print(f"NOT COMPARED: there is no commit {before!r} here ({added.stderr.strip().splitlines()[-1]})")
            return
        try:
            found = [at_once(dict(sorted(checkouts.items(), reverse=bool(n % 2)))) for n in range(rounds)]
        except RuntimeError as error:
            print(f"NOT COMPARED: {error}")
            return
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(checkouts["before"])], check=True)
    print(f"{'seconds of the processor':28}{'before':>8}{'now':>8}{'ratio':>8}  in {rounds} rounds, against {before}")
    for name in found[0]["now"]:
        ratios = [one["now"][name] / one["before"][name] for one in found]
        ratio = statistics.median(ratios)
        middle = {side: statistics.median(one[side][name] for one in found) for side in checkouts}
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:28}{middle['before']:8.2f}{middle['now']:8.2f}{ratio:8.3f}  {spread}")
        if ratio > MOST:
            print(f"{'!' * 20} WARNING: {name} takes {ratio - 1:.0%} more time than before {'!' * 20}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
