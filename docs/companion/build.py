"""Typeset the companion to the paper: `make companion`, or `python docs/companion/build.py`.

The result is BERT.pdf at the repository's root; the same sources, results and typesetter give the same bytes. With
--pages FOLDER the pages are also written there as images, to look at.
"""

import argparse
from pathlib import Path

import typst

ROOT = Path(__file__).resolve().parents[2]


def make_compiler(root: Path = ROOT) -> typst.Compiler:
    """A compiler that is told which results and recipes exist, since Typst cannot ask whether a file does.

    Args:
        root: of the repository.
    """
    found = sorted("/" + str(path.relative_to(root)) for path in (root / "results").rglob("*.json"))
    steps = list((root / "recipes" / "ablation").glob("[0-9]*.yaml"))
    return typst.Compiler(
        root / "docs" / "companion" / "main.typ",
        root=root,
        ignore_system_fonts=True,
        sys_inputs={"results": " ".join(found), "ablation-steps": str(len(steps))},
    )


def main() -> None:
    """Typeset, and say where the pages are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "BERT.pdf")
    parser.add_argument("--pages", type=Path, help="also write page-N.png here")
    arguments = parser.parse_args()
    compiler = make_compiler()
    compiler.compile(output=arguments.output, format="pdf", timestamp=0)
    print(arguments.output)
    if arguments.pages:
        arguments.pages.mkdir(parents=True, exist_ok=True)
        compiler.compile(output=arguments.pages / "page-{p}.png", format="png", ppi=60)
        print(arguments.pages)


if __name__ == "__main__":
    main()
