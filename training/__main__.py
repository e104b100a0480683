"""python -m training CORPUS/routing.csv [--choose | --write]."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from app.llm.routing.decide import score
from app.llm.routing.evidence import Asked
from app.llm.routing.score import WEIGHTS_PATH, Weights
from training.corpus import FOLDS, Example, read_examples
from training.evaluate import BOOTSTRAPS, apgr, bootstrap, cpt, interval
from training.model import Choice, raw_score, seen, train, trained

CANDIDATES = tuple(
    Choice(penalty=penalty, least_count=count) for count in (3, 5) for penalty in (6.0, 12.0, 24.0)
)


def main(arguments: Sequence[str]) -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("corpus", type=Path)
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--choose", action="store_true", help="cross-validate within the training part"
    )
    way.add_argument("--write", action="store_true", help="make the weights again")
    given = parser.parse_args(arguments)
    examples = read_examples(given.corpus)
    training = [example for example in examples if not example.held_out]
    if given.choose:
        for choice in CANDIDATES:
            say(f"{choice}: APGR {validated(training, choice):.4f}")
    elif given.write:
        WEIGHTS_PATH.write_text(trained(training, Choice()).written(), encoding="utf-8")
        say(f"{WEIGHTS_PATH}: {WEIGHTS_PATH.stat().st_size} bytes from {len(training)} prompts")
    else:
        weights = Weights.read(WEIGHTS_PATH.read_text(encoding="utf-8"))
        say(report([example for example in examples if example.held_out], weights))


def validated(training: Sequence[Example], choice: Choice) -> float:
    """The mean APGR over the folds, each scored by weights that have not seen it."""
    found = []
    for fold in range(FOLDS):
        weights = train(seen(e for e in training if e.fold != fold), choice)
        unseen = [e for e in training if e.fold == fold]
        found.append(apgr([raw_score(weights, f) for f, _ in seen(unseen)], unseen))
    return sum(found) / len(found)


def report(held_out: Sequence[Example], weights: Weights, times: int = BOOTSTRAPS) -> str:
    """The evaluation as a Markdown table: the router, prompt length and chance on the same prompts.

    Its intervals come from so many draws of the bootstrap.
    """
    lines = ["| held-out prompts | by | APGR [95 %] | CPT50 | CPT80 |", "|---|---|---|---|---|"]
    parts = [("all", held_out)]
    parts += [(d, [e for e in held_out if e.dataset == d]) for d in ("gsm8k", "mmlu")]
    for name, examples in parts:
        lines += _rows(f"{name}, {len(examples)}", examples, weights, times)
    return "\n".join(lines)


def _rows(name: str, examples: Sequence[Example], weights: Weights, times: int) -> list[str]:
    by = {
        "router": [score(Asked(e.prompt), weights).score for e in examples],
        "learned part alone": [raw_score(weights, f) for f, _ in seen(examples)],
        "prompt length": [float(len(e.prompt)) for e in examples],
    }
    drawn = dict(zip(by, bootstrap(list(by.values()), examples, times), strict=True))
    rows = []
    for way, scores in by.items():
        value = interval(apgr(scores, examples), drawn[way])
        shares = [cpt(scores, examples, share) for share in (0.5, 0.8)]
        rows.append(f"| {name} | {way} | {value} | {shares[0]:.3f} | {shares[1]:.3f} |")
    paired = [a - b for a, b in zip(drawn["router"], drawn["prompt length"], strict=True)]
    gap = interval(apgr(by["router"], examples) - apgr(by["prompt length"], examples), paired)
    rows.append(f"| {name} | random | 0.500 | 0.500 | 0.800 |")
    rows.append(f"| {name} | router minus length, paired | {gap} | | |")
    return rows


def say(text: str) -> None:
    """Print."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
