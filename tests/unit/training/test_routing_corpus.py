"""The shipped weights on prompts that they have never seen, and that they can be made again."""

import re
import statistics
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from app.llm.routing.decide import score
from app.llm.routing.evidence import Asked
from app.llm.routing.features import features_of
from app.llm.routing.score import WEIGHTS_PATH, shipped
from training.__main__ import report
from training.corpus import Example, read_examples
from training.evaluate import apgr, bootstrap, interval
from training.model import Choice, seen, train, trained

pytestmark = pytest.mark.corpus
ROOT = Path(__file__).parents[3]
TABLE = "| held-out prompts | by |"
_MAKE = """
import sys
from pathlib import Path
from training.corpus import read_examples
from training.model import Choice, seen, train
some = [e for e in read_examples(Path(sys.argv[1])) if not e.held_out][::16]
sys.stdout.write(train(seen(some), Choice(kept=300)).written())
"""


@pytest.fixture(scope="module")
def examples(corpus: Path) -> list[Example]:
    """All usable examples."""
    return read_examples(corpus / "routing.csv")


@pytest.fixture(scope="module")
def held_out(examples: list[Example]) -> list[Example]:
    """Those that the weights have never seen."""
    return [example for example in examples if example.held_out]


def published() -> str:
    """The table of the docs."""
    text = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8")
    lines = text[text.index(TABLE) :].splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("|"), lines))


def without_intervals(table: str) -> str:
    """The table with its point figures alone."""
    return re.sub(r" \[[-\d., ]+\]", "", table)


def test_the_split_is_by_prompt(examples):
    """No prompt is on both sides, and about four tenths are held out."""
    held_out = {example.prompt for example in examples if example.held_out}
    trained_on = {example.prompt for example in examples if not example.held_out}
    assert not held_out & trained_on
    assert 0.38 < len(held_out) / len(held_out | trained_on) < 0.42


def test_the_router_beats_prompt_length(held_out):
    """The lower 95 % bound of its APGR lies above length's APGR, and the paired difference above zero."""
    ours = [score(Asked(example.prompt), shipped()).score for example in held_out]
    length = [float(len(example.prompt)) for example in held_out]
    drawn_ours, drawn_length = bootstrap([ours, length], held_out)
    value, length_value = apgr(ours, held_out), apgr(length, held_out)
    assert interval(value, drawn_ours).low > length_value
    paired = [a - b for a, b in zip(drawn_ours, drawn_length, strict=True)]
    assert interval(value - length_value, paired).low > 0


def test_the_shipped_scales_are_those_of_the_training_part(examples):
    """The numbers were put to scale by the training part, and by nothing else."""
    numbers = [features_of(e.prompt).numbers for e in examples if not e.held_out]
    for mean, column in zip(shipped().means, zip(*numbers, strict=True), strict=True):
        assert mean == round(statistics.fmean(column) * 10_000)


def test_training_gives_the_same_bytes(corpus, examples):
    """On a sixteenth of the training part: here, and in a process whose hashes are others."""
    some = [e for e in examples if not e.held_out][::16]
    here = train(seen(some), Choice(kept=300)).written()
    again = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _MAKE, str(corpus / "routing.csv")],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
    )
    assert again.stdout == here


def test_the_figures_of_the_docs(held_out):
    """docs/routing.md shows what the shipped weights come to, figure by figure; its intervals apart."""
    assert without_intervals(report(held_out, shipped(), times=1)) == without_intervals(published())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_intervals_of_the_docs(held_out):
    """The whole table, with the bootstrap's bounds."""
    assert report(held_out, shipped()) == published()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_shipped_weights_can_be_made_again(examples):
    """The whole training gives the file byte by byte."""
    made = trained([e for e in examples if not e.held_out], Choice())
    assert made.written() == WEIGHTS_PATH.read_text(encoding="utf-8")
