"""The evaluation results of a weak and a strong model, and which of them may be trained on."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

TEST_TENTHS = 4
"""How many tenths of the prompts are kept for the evaluation."""
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt, and who answered it right."""

    prompt: str
    dataset: str
    weak: int
    strong: int

    @property
    def gain(self) -> int:
        """What the strong model brings: 1, 0, or -1 where only the weak one was right."""
        return self.strong - self.weak

    @property
    def held_out(self) -> bool:
        """Never trained on, and nothing is chosen by it. By the prompt's hash alone: twins stay together."""
        return int(_digest(self.prompt)[-8:], 16) % 10 >= 10 - TEST_TENTHS

    @property
    def fold(self) -> int:
        """Its part in the cross-validation."""
        return int(_digest(self.prompt)[8:16], 16) % FOLDS


def read_examples(path: Path) -> list[Example]:
    """All examples of the file in its order, the contaminated ones left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Example(
                row["prompt"],
                row["dataset"].partition("/")[0],
                int(row["weak_correct"]),
                int(row["strong_correct"]),
            )
            for row in csv.DictReader(file)
            if row["contaminated"] == "0"
        ]


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()
