"""What every peer shares: what a case is, how its figures are told, how the data is read.

In: the directory of the data. Out: JSON objects, one a line, in the form of `tidemill bench --json`. A peer's file is
read twice: by scripts/peers, under any Python, for its PACKAGES and CASES; and as a program in the peer's own
environment, which has the packages. So whatever is not in the standard library is imported inside functions.

Time runs from the opened file to the learned model: reading, parsing and progressive predictions count, the start of
the interpreter, imports and the scoring of the test part do not.
"""

import collections
import dataclasses
import importlib.metadata
import json
import math
import os
import re
import resource
import sys
import typing

SLOTS = 39
FFM_BITS = 20  # the ids in c500k.*.ffm are below 2^20, whatever their slot

# What came of one run: samples learned, seconds, log loss before learning (None: the peer cannot tell), log loss after.
Outcome = collections.namedtuple("Outcome", "samples seconds progressive test")


@dataclasses.dataclass(frozen=True)
class Case:
    """A line of the table. Cases of one task do the same work on the same data, so their figures can be compared."""

    task: str
    title: str
    run: typing.Callable  # directory of the data -> Outcome
    cores: int = 1


@dataclasses.dataclass(frozen=True)
class Served:
    """A server that answers the inference request of `tidemill bench serve`, which also is the load on it."""

    task: str
    title: str
    serve: typing.Callable  # port -> None, once it is told to end
    cores: int = 1


@dataclasses.dataclass(frozen=True)
class Scored:
    """Predictions without a server. Of the figures the first is compared, the others stand beside it."""

    task: str
    title: str
    run: typing.Callable  # directory of the data -> {unit: figure}
    cores: int = 1


def main(packages, cases):
    """Runs the case named on the command line over the data in the directory named behind it; prints its figures."""
    name, data = sys.argv[1:]
    case = cases[name]
    version = {"version": importlib.metadata.version(re.split(r"[=[]", packages[0])[0])}
    if isinstance(case, Served):
        print(json.dumps({"serving": case.title.format(**version)}), flush=True)
        return case.serve(int(data))
    if isinstance(case, Scored):
        print()
        for unit, value in case.run(data).items():
            figure = {"bench": "serve", "task": case.task, "case": case.title.format(**version)}
            print(json.dumps({**figure, "value": value, "unit": unit}))
        return None
    outcome = case.run(data)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    label = f"{case.task} {case.title.format(**version)}"
    figures = {
        "samples/s": outcome.samples / outcome.seconds,
        "progressive log loss": outcome.progressive,
        "test log loss": outcome.test,
        "peak MiB": peak_mib,
    }
    # Some peers write to stdout through C, from a buffer of their own, so that a line of theirs may lack its end.
    print()
    for unit, value in figures.items():
        if value is None:
            continue
        if not math.isfinite(value):
            sys.exit(f"{name}: {unit} is {value}")
        figure = {"bench": "train", "case": label, "value": value, "unit": unit, "ceiling": None, "ratio": None}
        print(json.dumps(figure))
    return None


def path(data, name):
    """The path of a data file; ends the program where it is not there."""
    found = os.path.join(data, name)
    if not os.path.exists(found):
        sys.exit(f"{found} is missing: see `scripts/peers data --help`")
    return found


def read_ffm(name):
    """Labels (0 or 1) and the ids of the 39 slots from lines `0 00:0123456:1 01:...`.

    All lines are equally long and the digits stand in the same places, so numpy takes them as a table of characters:
    about two million lines a second, far quicker than any parser in Python.
    """
    import numpy as np

    characters = np.fromfile(name, np.uint8)
    width = int(np.argmax(characters == ord("\n"))) + 1
    lines = characters.reshape(-1, width)
    slots = lines[:, 1:-1].reshape(len(lines), SLOTS, -1)
    ids = np.zeros((len(lines), SLOTS), np.int64)
    for digit in range(len(" 00:"), slots.shape[2] - len(":1")):
        ids = ids * 10 + (slots[:, :, digit] - ord("0"))
    return (lines[:, 0] - ord("0")).astype(np.float32), ids


class LogLoss:
    """The mean log loss of predictions, added up in mini-batches."""

    def __init__(self):
        self.sum = 0.0
        self.samples = 0

    def add(self, labels, probabilities):
        """Adds a mini-batch: arrays of the same length. Never infinite: a probability of 0 or 1 counts as 1e-15 off."""
        import numpy as np

        p = np.clip(np.asarray(probabilities, np.float64), 1e-15, 1 - 1e-15)
        self.sum -= float(np.log(np.where(np.asarray(labels) > 0, p, 1 - p)).sum())
        self.samples += len(p)
        return self

    def mean(self):
        return self.sum / self.samples
