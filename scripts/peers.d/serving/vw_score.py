"""Vowpal Wabbit over a file of its own format: every row of c3m's training part, by a model of its test part."""

import math
import os
import tempfile
import time

from measure import Scored, main, path

PACKAGES = ["vowpalwabbit==9.11.9"]


def score(data):
    from vowpalwabbit import Workspace

    def run(arguments):
        """A whole run over a file, by Vowpal Wabbit's own reader: seconds and samples."""
        began = time.perf_counter()
        workspace = Workspace(f"--quiet --loss_function logistic {arguments}")
        workspace.finish()
        return time.perf_counter() - began, workspace.get_weighted_examples()

    with tempfile.TemporaryDirectory() as directory:
        model, predictions = os.path.join(directory, "model"), os.path.join(directory, "predictions")
        run(f"-d {path(data, 'c3m.test.vw')} -b 22 -f {model} --ftrl --ftrl_alpha 0.1 --ftrl_beta 1")
        rows = path(data, "c3m.train.vw")
        seconds, samples = run(f"-d {rows} -i {model} -t --link logistic -p {predictions}")
        loss = 0.0
        with open(rows) as truths, open(predictions) as probabilities:
            for truth, probability in zip(truths, probabilities, strict=True):
                p = min(max(float(probability.split()[0]), 1e-7), 1 - 1e-7)
                loss -= math.log(p if not truth.startswith("-") else 1 - p)
    return {"rows/s": samples / seconds, "log loss": loss / samples}


CASES = {"vw-score": Scored("score", "Vowpal Wabbit {version}, its own text", score)}

if __name__ == "__main__":
    main(PACKAGES, CASES)
