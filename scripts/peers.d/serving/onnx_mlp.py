"""ONNX Runtime in process, one thread: 26 embeddings of 16 and 13 numbers, layers of 400 and 400 units."""

import time

from measure import Scored, main

PACKAGES = ["onnxruntime==1.31.1", "onnx==1.23.2", "numpy==2.4.6"]

EMBEDDINGS, EMBEDDING, NUMBERS, UNITS, VALUES = 26, 16, 13, 400, 10_000
SECONDS = 3.0


def session():
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    nodes, weights, columns = [], [], []

    def weight(name, *shape, spread):
        weights.append(numpy_helper.from_array(rng.normal(0, spread, shape).astype(np.float32), name))
        return name

    for i in range(EMBEDDINGS):
        column = numpy_helper.from_array(np.int64(i), f"column{i}")
        weights.append(column)
        nodes.append(helper.make_node("Gather", ["ids", column.name], [f"id{i}"], axis=1))
        table = weight(f"table{i}", VALUES, EMBEDDING, spread=0.1)
        nodes.append(helper.make_node("Gather", [table, f"id{i}"], [f"embedded{i}"], axis=0))
        columns.append(f"embedded{i}")
    nodes.append(helper.make_node("Concat", [*columns, "numbers"], ["layer0"], axis=1))
    sizes = [EMBEDDINGS * EMBEDDING + NUMBERS, UNITS, UNITS, 1]
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        w, b = weight(f"w{i}", inputs, outputs, spread=(2 / inputs) ** 0.5), weight(f"b{i}", outputs, spread=0.01)
        nodes.append(helper.make_node("Gemm", [f"layer{i}", w, b], [f"sum{i}"]))
        last = i + 2 == len(sizes)
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"sum{i}"], ["p" if last else f"layer{i + 1}"]))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", EMBEDDINGS]),
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", NUMBERS]),
        ],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(batch):
    """Seconds of each run, over batches that are there already."""
    import numpy as np

    rng = np.random.default_rng(8)
    network = session()
    batches = [
        {
            "ids": rng.integers(0, VALUES, (batch, EMBEDDINGS)),
            "numbers": rng.random((batch, NUMBERS), np.float32),
        }
        for _ in range(64)
    ]
    took = []
    warm = time.perf_counter() + SECONDS / 10
    until = warm + SECONDS
    while (began := time.perf_counter()) < until:
        network.run(None, batches[len(took) % len(batches)])
        if began >= warm or not took:
            took.append(time.perf_counter() - began)
    return took[1:]


def one(_data):
    took = sorted(run(1))
    return {"us": took[len(took) // 2] * 1e6}


def at_once(_data):
    took = run(64)
    return {"samples/s": 64 * len(took) / sum(took)}


CASES = {
    "onnx-1": Scored("mlp-1", "ONNX Runtime {version}", one),
    "onnx-64": Scored("mlp-64", "ONNX Runtime {version}", at_once),
}

if __name__ == "__main__":
    main(PACKAGES, CASES)
