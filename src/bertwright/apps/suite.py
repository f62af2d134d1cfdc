"""`bertwright suite`: one encoder fine-tuned on the tasks of the paper's section 4, and one page of results."""

from __future__ import annotations


def suite(
    encoder: str,
    tasks: str | None = None,
    data: str = "data",
    name: str | None = None,
    out: str = "runs/suite",
    recipes: str | None = None,
) -> None:
    """Fine-tune an encoder on a suite of tasks, several seeds each; one page compares all encoders so far.

    Args:
        encoder: a model folder; a run's folder, for its encoder; bundled, the encoder that comes with Bertwright; or
            random: a network like the bundled one, with random weights.
        tasks: names of the suite's recipes, parted by commas, and minimal-pairs; the default is all whose data are
            there.
        data: the folder that holds a folder of data for each task.
        name: of the encoder in tables; the default is that of its folder.
        out: receives a folder for each encoder, results.json and suite.html. The same command continues what was
            interrupted, and another encoder joins the page.
        recipes: a folder of recipes that make up a suite of your own.

    Raises:
        UserError: if there is no such encoder or task, no task has data, or some task cannot be run.
    """
    from bertwright.apps.suite_runs import run_suite  # torch takes seconds to load: not for --help

    run_suite(encoder, tasks, data, name, out, recipes)
