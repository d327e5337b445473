"""Vowpal Wabbit, from its own text format, one pass over c3m with 2^22 weights."""

import os
import tempfile
import time

from measure import Case, Outcome, main, path

PACKAGES = ["vowpalwabbit==9.11.9"]

FTRL = "--ftrl --ftrl_alpha 0.1 --ftrl_beta 1"
ADAPTIVE = ""  # Vowpal Wabbit's default: normalized adaptive gradient descent


def learn(data, optimizer):
    from vowpalwabbit import Workspace

    def run(arguments):
        """A whole run over a file, by Vowpal Wabbit's own reader: (seconds, samples, mean log loss)."""
        began = time.perf_counter()
        # The file in the arguments makes the constructor run through it, with the parser in a thread of its own.
        workspace = Workspace(f"--quiet --loss_function logistic {arguments}")
        workspace.finish()
        seconds = time.perf_counter() - began
        samples = workspace.get_weighted_examples()
        return seconds, samples, workspace.get_sum_loss() / samples

    with tempfile.TemporaryDirectory() as directory:
        model = os.path.join(directory, "model")
        seconds, samples, progressive = run(f"-d {path(data, 'c3m.train.vw')} -b 22 -f {model} {optimizer}")
        _, _, test = run(f"-d {path(data, 'c3m.test.vw')} -i {model} -t")
    return Outcome(samples, seconds, progressive, test)


CASES = {
    "vw-ftrl": Case("lr", "Vowpal Wabbit {version}, FTRL", lambda data: learn(data, FTRL)),
    "vw-ftrl-2": Case("lr", "Vowpal Wabbit {version}, FTRL, 2 cores", lambda data: learn(data, FTRL), cores=2),
    "vw-adaptive": Case("lr", "Vowpal Wabbit {version}, adaptive", lambda data: learn(data, ADAPTIVE)),
}

if __name__ == "__main__":
    main(PACKAGES, CASES)
