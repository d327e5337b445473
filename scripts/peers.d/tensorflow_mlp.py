"""TensorFlow on the processor: embedding 8 of 39 slots, then layers of 128 and 64, mini-batches of 256, over c500k."""

import os
import time

from measure import FFM_BITS, SLOTS, Case, LogLoss, Outcome, main, path, read_ffm

PACKAGES = ["tensorflow-cpu==2.21.0"]

MINI_BATCH = 256
RATE = 0.02


def learn(data):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.random.set_seed(7)
    widths = [SLOTS * 8, 128, 64, 1]
    table = tf.Variable(tf.random.normal([1 << FFM_BITS, 8], stddev=0.01))
    weights = [tf.Variable(tf.keras.initializers.HeUniform(seed=i)([widths[i], widths[i + 1]])) for i in range(3)]
    biases = [tf.Variable(tf.zeros([width])) for width in widths[1:]]
    variables = [table, *weights, *biases]
    sums = [tf.Variable(tf.fill(v.shape, 1e-8)) for v in variables]  # Adagrad's sums of squares

    def logits(keys):
        x = tf.reshape(tf.gather(table, keys), [-1, widths[0]])
        for i in range(3):
            x = x @ weights[i] + biases[i]
            if i < 2:
                x = tf.nn.relu(x)
        return x[:, 0]

    # Written out in raw operations, compiled once: Keras' own loop costs more than the learning.
    @tf.function(reduce_retracing=True)
    def step(truth, keys):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(truth, logits(keys)))
        for v, s, g in zip(variables, sums, tape.gradient(loss, variables)):
            if isinstance(g, tf.IndexedSlices):
                tf.raw_ops.ResourceSparseApplyAdagrad(
                    var=v.handle, accum=s.handle, lr=RATE, grad=g.values, indices=g.indices, update_slots=True
                )
            else:
                tf.raw_ops.ResourceApplyAdagrad(var=v.handle, accum=s.handle, lr=RATE, grad=g, update_slots=True)
        return loss

    began = time.perf_counter()
    labels, ids = read_ffm(path(data, "c500k.train.ffm"))
    total = 0.0
    for first in range(0, len(labels), MINI_BATCH):
        truth = labels[first : first + MINI_BATCH]
        total += float(step(tf.constant(truth), tf.constant(ids[first : first + MINI_BATCH]))) * len(truth)
    seconds = time.perf_counter() - began
    test_labels, test_ids = read_ffm(path(data, "c500k.test.ffm"))
    test = LogLoss()
    for first in range(0, len(test_labels), 8192):
        test.add(test_labels[first : first + 8192], tf.sigmoid(logits(test_ids[first : first + 8192])).numpy())
    return Outcome(len(labels), seconds, total / len(labels), test.mean())


CASES = {"tensorflow": Case("mlp", "TensorFlow {version}", learn)}

if __name__ == "__main__":
    main(PACKAGES, CASES)
