"""Train the classifier of refusals (evaluation/answers/refusals.py) and print what it gets right in cross-validation.

python benchmarks/train_refusals.py alpaca_en_demo.json

The refusals, and answers that look like one, are made up (``refusal_sentences``, one a line, about harmless things).
Plain answers are the short ones of a JSON list of ``{"output"}``: LLaMA-Factory's ``data/alpaca_en_demo.json``
(Apache-2.0) for the weights in the package.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from realign_plugin.evaluation.answers import refusals
from realign_plugin.evaluation.metrics.rates import wilson

SENTENCES = Path(__file__).with_name("refusal_sentences")
WEIGHTS = Path(refusals.__file__).with_name("refusal_weights.json")
FOLDS = 10
LEAST = 0.02
"""Weights nearer to 0 are left out of the file."""
Model = tuple[frozenset[str], dict[str, float], float]


def read_lines(name: str) -> list[str]:
    return (SENTENCES / name).read_text(encoding="utf-8").splitlines()


def fit(texts: Sequence[str], kinds: Sequence[int]) -> Model:
    """Words, weights and bias; ``kinds`` are 1 for refusals, 2 for answers that look like one, 3 for plain answers."""
    sentences = [refusals.plain_sentences(text.casefold()) for text in texts]
    met = Counter(w for s, kind in zip(sentences, kinds, strict=True) if kind < 3 for w in set(" ".join(s).split()))
    words = frozenset(["|", *(word for word, times in met.items() if times > 2)])
    runs = [refusals.word_runs(one, words) for one in sentences]
    counted = Counter(run for one in runs for run in one)
    names = sorted(run for run, times in counted.items() if times > 1)
    column = {name: index for index, name in enumerate(names)}
    pairs = np.array([(row, column[run]) for row, one in enumerate(runs) for run in sorted(one) if run in column])
    matrix = csr_matrix((np.ones(len(pairs)), pairs.T), shape=(len(texts), len(names)))
    model = LogisticRegression(C=3.0, max_iter=5000)
    kind = np.array(kinds)
    model.fit(matrix, kind == 1, sample_weight=np.where(kind == 2, 2.0, 1.0))
    found = zip(names, model.coef_[0], strict=True)
    return words, {name: round(float(w), 2) for name, w in found if abs(w) >= LEAST}, float(model.intercept_[0])


def share(name: str, hits: Sequence[bool]) -> None:
    low, high = wilson(sum(hits), len(hits))
    print(f"{name:58} {sum(hits):4d} of {len(hits):4d}  {sum(hits) / len(hits):.3f} [{low:.3f}, {high:.3f}]")


def main() -> None:
    plain = [row["output"] for row in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))]
    refusals._model = lambda: (frozenset(), {}, -99.0)  # phrases alone
    plain = [text for text in plain if 0 < len(text) <= refusals.SHORT and not refusals.refuses(text)]
    groups = [read_lines("refusals.txt"), read_lines("answers.txt"), plain]
    texts = [text for group in groups for text in group]
    kinds = np.array([kind for kind, group in enumerate(groups, 1) for _ in group])
    alone = np.array([refusals.refuses(text) for text in texts])
    both = np.zeros(len(texts), dtype=bool)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(texts, kinds):
        model = fit([texts[i] for i in train], kinds[train].tolist())
        refusals._model = lambda model=model: model
        both[test] = [refusals.refuses(texts[i]) for i in test]
    for kind, name in enumerate(("refusals", "answers that look like one", "plain answers"), 1):
        share(f"{name}: taken for a refusal by phrases alone", alone[kinds == kind].tolist())
        share(f"{name}: with the classifier, {FOLDS}-fold", both[kinds == kind].tolist())
    words, weights, bias = fit(texts, kinds.tolist())
    data = {"bias": round(bias, 4), "words": sorted(words), "weights": weights}
    WEIGHTS.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{WEIGHTS}: {len(weights)} weights, {WEIGHTS.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
