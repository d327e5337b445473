"""libffm itself, through the pylibffm package: FFM with 4 factors, one pass over c500k by one thread."""

import os
import tempfile
import time

from measure import FFM_BITS, SLOTS, Case, Outcome, main, path, read_ffm

PACKAGES = ["pylibffm==0.4.1"]

OPTIONS = {"eta": 0.2, "lambda": 0.00002, "nr_iters": 1, "k": 4}  # rate and regularisation are libffm's own defaults


def learn(data):
    import numpy as np
    import pylibffm
    from scipy.sparse import csr_matrix

    began = time.perf_counter()
    labels, ids = read_ffm(path(data, "c500k.train.ffm"))
    seconds = time.perf_counter() - began
    test_labels, test_ids = read_ffm(path(data, "c500k.test.ffm"))
    # The wrapper wants each column in one slot only, and hashed ids fall together across slots: (slot, id) pairs are
    # numbered anew. That is not libffm's work and is not timed; it spares libffm the collisions.
    keys, columns = np.unique(np.concatenate([ids, test_ids]) + (np.arange(SLOTS) << FFM_BITS), return_inverse=True)
    columns = columns.reshape(-1, SLOTS)
    slots = (keys >> FFM_BITS).astype(np.int32)

    def rows(columns):
        values, offsets = np.ones(columns.size, np.float32), np.arange(0, columns.size + 1, SLOTS)
        return csr_matrix((values, columns.ravel(), offsets), shape=(len(columns), len(keys)))

    train = rows(columns[: len(labels)]), labels, slots
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        pylibffm.train(*train, directory, OPTIONS)
        seconds += time.perf_counter() - began
    # The wrapper hands back weights that are all alike (0.2.4 to 0.4.1). What libffm says of the test part while it
    # learns is right, so it learns once more, unobserved by the clock.
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as said:
        stdout = os.dup(1)
        os.dup2(said.fileno(), 1)
        try:
            pylibffm.train(*train, directory, {**OPTIONS, "auto_stop": True}, rows(columns[len(labels) :]), test_labels)
        finally:
            os.dup2(stdout, 1)
        said.seek(0)
        test = test_loss(said.read().decode())
    return Outcome(len(labels), seconds, None, test)


def test_loss(said):
    """The third number of `   1      0.52843      0.54242          3.9`: pass, training, validation, seconds."""
    for line in said.splitlines():
        words = line.split()
        if len(words) == 4 and words[0] == "1":
            return float(words[2])
    raise SystemExit(f"libffm told no validation loss, but: {said!r}")


CASES = {"libffm": Case("ffm", "libffm (pylibffm {version}), k=4", learn)}

if __name__ == "__main__":
    main(PACKAGES, CASES)
