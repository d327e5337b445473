"""xLearn's FM and FFM with 4 factors, from libffm text, one pass over c500k by one thread."""

import os
import shutil
import tempfile
import time

from measure import Case, LogLoss, Outcome, main, path

PACKAGES = ["xlearn==0.40a1", "numpy==2.4.6", "scipy==1.17.1"]
BUILD_PACKAGES = ["cmake==3.31.10", "setuptools==65.5.0", "wheel==0.48.0"]  # only a source package is to be had

# Rate and regularisation are xLearn's own defaults.
OPTIONS = {"task": "binary", "lr": 0.2, "lambda": 0.00002, "k": 4, "epoch": 1, "nthread": 1}


def learn(data, create):
    import numpy as np
    import xlearn

    os.environ.setdefault("USER", "peers")  # part of the name of xLearn's log; it dies without one
    # xLearn writes a binary copy beside its input and takes it the next time; a link in a place that goes away again
    # makes every run read the text.
    with tempfile.TemporaryDirectory() as directory:
        def linked(name):
            link = os.path.join(directory, name)
            os.symlink(os.path.abspath(path(data, name)), link)
            return link

        model_path, scores, log = (os.path.join(directory, name) for name in ("model", "scores", "log"))
        model = getattr(xlearn, create)()
        model.setQuiet()
        model.setTrain(linked("c500k.train.ffm"))
        began = time.perf_counter()
        model.fit({**OPTIONS, "log": log}, model_path)
        seconds = time.perf_counter() - began
        model.setTest(linked("c500k.test.ffm"))
        model.setSigmoid()
        model.predict(model_path, scores)
        with open(path(data, "c500k.test.ffm")) as lines:
            labels = [float(line[0]) for line in lines]
        test = LogLoss().add(labels, np.loadtxt(scores))
    with open(path(data, "c500k.train.ffm")) as lines:
        samples = sum(1 for _ in lines)
    return Outcome(samples, seconds, None, test.mean())


CASES = {
    "xlearn-ffm": Case("ffm", "xLearn {version}, k=4", lambda data: learn(data, "create_ffm")),
    "xlearn-fm": Case("fm", "xLearn {version}, k=4", lambda data: learn(data, "create_fm")),
}

if __name__ == "__main__":
    main(PACKAGES, CASES)
