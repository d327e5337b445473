"""FastAPI on uvicorn, one worker, in front of scikit-learn's logistic regression of 39 numbers."""

from measure import Served, main

PACKAGES = ["fastapi==0.165.0", "uvicorn[standard]==0.54.0", "scikit-learn==1.9.1"]


def serve(port):
    import numpy as np
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from sklearn.linear_model import LogisticRegression

    floats = np.random.default_rng(7).random((1000, 39))
    model = LogisticRegression().fit(floats, floats[:, 0] > floats[:, 1])

    class Tensor(BaseModel):
        name: str
        shape: list[int]
        datatype: str
        data: list[float]

    class Request(BaseModel):
        inputs: list[Tensor]

    app = FastAPI()

    @app.post("/v2/models/bench/infer")
    async def infer(request: Request):
        tensor = request.inputs[0]
        rows = np.asarray(tensor.data, np.float32).reshape(tensor.shape)
        data = model.predict_proba(rows)[:, 1].tolist()
        outputs = [{"name": "prediction", "datatype": "FP32", "shape": [len(data)], "data": data}]
        return {"model_name": "bench", "model_version": "1", "outputs": outputs}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


CASES = {"fastapi": Served("infer", "FastAPI {version}, uvicorn, scikit-learn", serve)}

if __name__ == "__main__":
    main(PACKAGES, CASES)
