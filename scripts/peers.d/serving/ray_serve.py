"""Ray Serve with one replica that multiplies 39 numbers in numpy."""

import signal
import threading

from measure import Served, main

PACKAGES = ["ray[serve]==2.60.0", "numpy==2.4.6"]


def serve(port):
    import numpy as np
    import ray
    from ray import serve
    from starlette.requests import Request

    @serve.deployment(num_replicas=1, max_ongoing_requests=100)
    class Model:
        def __init__(self):
            self.weights = np.random.default_rng(7).normal(size=39).astype(np.float32)

        async def __call__(self, request: Request):
            tensor = (await request.json())["inputs"][0]
            rows = np.asarray(tensor["data"], np.float32).reshape(tensor["shape"])
            data = (1 / (1 + np.exp(-(rows @ self.weights)))).tolist()
            outputs = [{"name": "prediction", "datatype": "FP32", "shape": [len(data)], "data": data}]
            return {"model_name": "bench", "model_version": "1", "outputs": outputs}

    asked_to_end = threading.Event()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(Model.bind(), route_prefix="/v2/models/bench/infer")
        # Ray has handlers of its own, which abort.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked_to_end.set())
        asked_to_end.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


CASES = {"ray": Served("infer", "Ray Serve {version}, one replica, numpy", serve)}

if __name__ == "__main__":
    main(PACKAGES, CASES)
