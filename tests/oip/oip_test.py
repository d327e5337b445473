#!/usr/bin/env python3
"""The Open Inference Protocol as a client that nobody here wrote speaks it: tritonclient, over HTTP and gRPC. And its
published texts: the calls and messages of the .proto, the paths, replies and schemas of the OpenAPI text.

In: the built program (--binary). Out: a line per check, and last `oip: N passed, M failed`; the exit code is 1 when a
check failed. Client and texts are installed by package name into an environment outside the checkout, once; the program
is started and ended here. A failure is followed by what the program said.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True  # a test leaves nothing in the checkout
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "page")]
from environment import install
from webdriver import Lines, end, start

PACKAGES = ["tritonclient[http,grpc]==2.73.0", "jsonschema==4.26.0"]
# For the OpenAPI text in it alone: its many dependencies stay away.
TEXTS = ["mlserver==1.7.1"]
# Of that text: what is no part of the protocol.
BEYOND = ("/infer_stream", "/generate", "/generate_stream")
INSIDE = "TIDEMILL_OIP_INSIDE"
SECONDS_MAX = 60

PROGRAM = """
CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, ts BIGINT, user STRING, item STRING, price DOUBLE, dwell FLOAT,
  age BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'http', idle_timeout = '50ms');
CREATE SOURCE clicked (imp_id BIGINT, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt)
  WITH (connector = 'http', idle_timeout = '50ms');
SELECT i.*, (c.imp_id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
  ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' HOUR EMIT IMMEDIATE CORRECT RETRACT
TO TRAIN FTRLClassifier WITH publish.interval = '100ms', model.alpha = 0.5
COLUMN user, item, price, dwell, age LABEL label INTO ctr;
"""

# What is asked: columns of three rows, as JSON has them.
ROWS = [
    {"user": "u1", "item": "i1", "price": 2.5, "dwell": 0.25, "age": 30},
    {"user": "u2", "item": "naïve \"ünïcode\"", "price": 0.0, "dwell": -1.5, "age": 41},
    {"user": "nobody", "item": "", "price": 1e-3, "dwell": 0.1, "age": -1},
]


class Checks:
    """Counts checks, and goes on behind one that fails so that all are reported."""

    def __init__(self, said):
        self.passed, self.failed, self.said = 0, 0, said

    @contextlib.contextmanager
    def check(self, name):
        try:
            yield
        except Exception as e:  # whatever a client raises is a failed check
            self.failed += 1
            print(f"FAILED  {name}: {e!r}\n--- the program ---\n{self.said.text()}\n---", flush=True)
        else:
            self.passed += 1
            print(f"ok      {name}", flush=True)


class Program:
    """The program under test, with a model that has learned a little."""

    def __init__(self, binary, home):
        sql = home / "oip.sql"
        sql.write_text(PROGRAM)
        command = [str(binary), "run", str(sql), "--data-dir", str(home / "data"), "--port", "0"]
        self.process = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.said = Lines(self.process.stderr)
        found = self.said.wait_for(r"http://(127\.0\.0\.1:\d+)", SECONDS_MAX)
        if not found:
            raise RuntimeError(f"the program did not say where it is; it said: {self.said.text()!r}")
        self.address = found[1]

    def post(self, path, body):
        text = "\n".join(json.dumps(line) for line in body) if isinstance(body, list) else json.dumps(body)
        request = urllib.request.Request(f"http://{self.address}{path}", text.encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS_MAX) as reply:
            return json.load(reply)

    def predictions(self):
        return [p["probability"] for p in self.post("/v1/models/ctr:predict", {"rows": ROWS})["predictions"]]

    def learn(self):
        """A few clicks; returns the predictions once nothing more is learned."""
        now = 1_700_000_000_000
        shown = [{**ROWS[i % 3], "imp_id": i, "ts": now + i} for i in range(60)]
        self.post("/v1/sources/shown", shown)
        self.post("/v1/sources/clicked", [{"imp_id": i, "ts": now + i} for i in range(60) if i % 3 == 0])
        until, before = time.monotonic() + SECONDS_MAX, None
        while time.monotonic() < until:
            time.sleep(0.5)
            predictions = self.predictions()
            if predictions == before and predictions[0] > predictions[1] + 0.1:
                return predictions
            before = predictions
        raise RuntimeError(f"the model did not come to rest: {before}")


def common(checks, tag, module, client, expected, np, error, code):
    """What both protocols promise; `code` tells the status of an error."""
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    types = {"user": "BYTES", "item": "BYTES", "price": "FP64", "dwell": "FP32", "age": "INT64"}
    numpy = {"BYTES": np.object_, "FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "INT32": np.int32}

    def tensor(name, datatype=None, shape=(3,), **more):
        datatype = datatype or types[name]
        values = [v.encode() for v in columns[name]] if datatype == "BYTES" else columns[name]
        made = module.InferInput(name, list(shape), datatype)
        made.set_data_from_numpy(np.array(values, dtype=numpy[datatype]).reshape(shape), **more)
        return made

    def all_of(**more):
        return [tensor(name, **more) for name in columns]

    def refused(status, words, *args, **more):
        try:
            client.infer(*args, **more)
        except error as e:
            assert code(e) == status, f"{code(e)} instead of {status}: {e.message()}"
            assert words in e.message(), e.message()
        else:
            raise AssertionError("was answered")

    def near(reply, rows=3):
        got = reply.as_numpy("prediction")
        assert got.dtype == np.float32 and got.shape == (rows,), (got.dtype, got.shape)
        assert got.tolist() == [float(np.float32(p)) for p in expected[:rows]], (got, expected)

    bad, missing = ("400", "404") if tag == "http" else ("INVALID_ARGUMENT", "NOT_FOUND")
    with checks.check(f"{tag}: live and ready"):
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("ctr")
        metadata = client.get_model_metadata("ctr")
        version = metadata["versions"][0] if tag == "http" else metadata.versions[0]
        assert client.is_model_ready("ctr", version)
    with checks.check(f"{tag}: metadata of server and model"):
        server, model = client.get_server_metadata(), client.get_model_metadata("ctr")
        get = (lambda o, k: o[k]) if tag == "http" else getattr
        assert get(server, "name") == "tidemill" and "binary_tensor_data" in get(server, "extensions")
        inputs = {get(i, "name"): get(i, "datatype") for i in get(model, "inputs")}
        assert inputs == types, inputs
        assert [get(o, "name") for o in get(model, "outputs")] == ["prediction"]
    with checks.check(f"{tag}: infer with texts and numbers"):
        near(client.infer("ctr", all_of()))
    with checks.check(f"{tag}: shape [n,1], another order, other datatypes"):
        tensors = [tensor(name, shape=(3, 1)) for name in reversed(columns) if name != "age"]
        near(client.infer("ctr", [*tensors, tensor("age", "INT32")]))
    with checks.check(f"{tag}: id comes back, output by name, version"):
        reply = client.infer("ctr", all_of(), outputs=[module.InferRequestedOutput("prediction")], request_id="no 7")
        response = reply.get_response()
        assert (response["id"] if tag == "http" else response.id) == "no 7"
        said = response["model_version"] if tag == "http" else response.model_version
        near(client.infer("ctr", all_of(), model_version=said))
    with checks.check(f"{tag}: unknown model and version"):
        refused(missing, "no model 'ctx' (have ctr)", "ctx", all_of())
        refused(missing, "has no version 999", "ctr", all_of(), model_version="999")
    with checks.check(f"{tag}: unknown input and output"):
        odd = module.InferInput("colour", [3], "INT64")
        odd.set_data_from_numpy(np.zeros(3, np.int64))
        refused(bad, "unknown input 'colour'", "ctr", [*all_of(), odd])
        refused(bad, "no output 'score'", "ctr", all_of(), outputs=[module.InferRequestedOutput("score")])
    with checks.check(f"{tag}: missing input"):
        refused(bad, "input 'age' is missing", "ctr", all_of()[:-1])
    with checks.check(f"{tag}: wrong shape"):
        refused(bad, "input 'user' has shape [1,3]", "ctr", [tensor("user", shape=(1, 3)), *all_of()[1:]])
        short = tensor("age")
        short.set_shape([2])
        refused(bad, "shape [2]", "ctr", [*all_of()[:-1], short])
    with checks.check(f"{tag}: wrong type"):
        wrong = module.InferInput("user", [3], "INT64")
        wrong.set_data_from_numpy(np.zeros(3, np.int64))
        refused(bad, "input 'user' has datatype INT64; send BYTES", "ctr", [wrong, *all_of()[1:]])
    return all_of, near


def fields_of(text):
    """The fields and calls of a .proto of this project: {(message, name): (number, type, repeated)}, {name: (in, out)}."""
    text = re.sub(r"//[^\n]*", "", text)
    calls = {c[0]: c[1:] for c in re.findall(r"rpc (\w+)\((\w+)\) returns \((\w+)\)", text)}
    text = re.sub(r"service \w+ \{.*?\n\}", "", text, flags=re.S)
    token = re.compile(r"(message|oneof) (\w+) \{|(\})|(repeated |optional )?(map<\w+, *\w+>|[\w.]+) (\w+) = (\d+);")
    inside, fields = [], {}
    for kind, name, ends, label, of, field, number in token.findall(text):
        if kind:
            inside.append(name if kind == "message" else None)
        elif ends:
            inside.pop()
        else:
            message = ".".join(part for part in inside if part)
            fields[message, field] = (int(number), of, label == "repeated ")
    return fields, calls


def proto(checks):
    """The .proto in this project against the descriptor in a client that others wrote."""
    from tritonclient.grpc import service_pb2

    theirs, ours = service_pb2.DESCRIPTOR, ROOT / "crates/tidemill-serve/src/server/grpc/inference.proto"
    fields, calls = fields_of(ours.read_text())
    scalars = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}

    def type_of(field):
        entry = field.message_type if field.type == 11 else None
        if entry is not None and entry.GetOptions().map_entry:
            return f"map<{type_of(entry.fields_by_name['key'])}, {type_of(entry.fields_by_name['value'])}>"
        return entry.name if entry is not None else scalars[field.type]

    with checks.check("grpc: every field of inference.proto is that of others"):
        assert len(fields) > 40, fields
        for (message, name), (number, of, repeated) in fields.items():
            first, *nested = message.split(".")
            descriptor = theirs.message_types_by_name[first]
            for part in nested:
                descriptor = descriptor.nested_types_by_name[part]
            field = descriptor.fields_by_name[name]
            is_map = of.startswith("map<")
            got = (field.number, type_of(field), field.is_repeated and not is_map)
            assert got == (number, re.sub(r", *", ", ", of.split(".")[-1]), repeated), (message, name, got, (number, of))
    with checks.check("grpc: every call of inference.proto is that of others"):
        assert len(calls) == 6, calls
        methods = theirs.services_by_name["GRPCInferenceService"].methods_by_name
        for name, (taken, given) in calls.items():
            assert (methods[name].input_type.name, methods[name].output_type.name) == (taken, given), name


class OpenApi:
    """The OpenAPI text of the protocol, as a server that others wrote brings it."""

    def __init__(self):
        from importlib.metadata import files
        from jsonschema import Draft4Validator, validators

        (path,) = [f for f in files("mlserver") if f.name == "dataplane.json"]
        self.text = json.loads(path.read_text())
        self.paths = {p: calls for p, calls in self.text["paths"].items() if not p.endswith(BEYOND)}
        # `bytes` is how the text says what stands behind the JSON.
        types = Draft4Validator.TYPE_CHECKER.redefine("bytes", lambda _, value: isinstance(value, bytes))
        self.validator = validators.extend(Draft4Validator, type_checker=types)

    def check(self, schema, value, closed=False):
        """Whether a value is what the text has; `closed`: and has no field that the text does not name."""
        if closed and schema.get("$ref"):
            schema = self.schema(schema["$ref"].rsplit("/", 1)[-1])
            assert set(value) <= set(schema["properties"]), (set(value), set(schema["properties"]))
        self.validator({**schema, "components": self.text["components"]}).validate(value)

    def schema(self, name):
        return self.text["components"]["schemas"][name]


def openapi(checks, address):
    """Every path of the OpenAPI text, with requests that its schemas allow: statuses and replies are those of the text."""
    text = OpenApi()

    def call(method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{address}{path}", data, headers, method=method.upper())
        try:
            with urllib.request.urlopen(request, timeout=SECONDS_MAX) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as e:
            return e.code, e.headers, e.read()

    def replied(method, path, calls, status, body=None):
        got, headers, reply = call(method, path, body)
        assert got == status, f"{method} {path}: {got} instead of {status}: {reply!r}"
        said = calls[method]["responses"].get(str(status), {}).get("content")
        if said is not None:
            assert headers.get_content_type() in said, (path, headers["Content-Type"])
            text.check(said[headers.get_content_type()]["schema"], json.loads(reply), closed=True)
        return json.loads(reply) if reply else None

    version = call("get", "/v2/models/ctr")[2]
    version = json.loads(version)["versions"][0]
    tensors = [
        {"name": name, "shape": [len(ROWS)], "datatype": datatype, "data": [row[name] for row in ROWS]}
        for name, datatype in [("user", "BYTES"), ("item", "BYTES"), ("price", "FP64"), ("dwell", "FP32"), ("age", "INT64")]
    ]
    requests = [
        {"inputs": tensors},
        {"id": "42", "parameters": {}, "inputs": tensors, "outputs": [{"name": "prediction", "parameters": {}}]},
        {"inputs": [{**tensor, "parameters": {"content_type": "np"}} for tensor in tensors]},
    ]
    for request in requests:
        text.check({"$ref": "#/components/schemas/InferenceRequest"}, request)
    with checks.check("openapi: no path of the text is left out"):
        assert len(text.paths) == 9, list(text.paths)
    for path, calls in text.paths.items():
        (method,) = {"get", "post"} & set(calls)
        here = path.replace("{model_name}", "ctr").replace("{model_version}", version)
        with checks.check(f"openapi: {method} {path}"):
            if method == "get":
                replied("get", here, calls, 200)
            else:
                for request in requests:
                    reply = replied("post", here, calls, 200, request)
                    assert reply.get("id") == request.get("id"), reply
                    assert [o["name"] for o in reply["outputs"]] == ["prediction"], reply
                # What the text requires is asked for, field by field, and refused with the text's error.
                for field in text.schema("InferenceRequest")["required"]:
                    replied("post", here, calls, 400, {k: v for k, v in requests[1].items() if k != field})
                for field in text.schema("RequestInput")["required"]:
                    broken = [{k: v for k, v in tensors[0].items() if k != field}, *tensors[1:]]
                    replied("post", here, calls, 400, {"inputs": broken})
                for field in text.schema("RequestOutput")["required"]:
                    assert field == "name", field
                    replied("post", here, calls, 400, {"inputs": tensors, "outputs": [{"parameters": {}}]})
            if "{model_name}" in path:
                body = requests[0] if method == "post" else None
                replied(method, here.replace("ctr", "nope"), calls, 404, body)
    with checks.check("openapi: the datatypes of the text are understood, and no others"):
        datatypes = text.text["components"]["enums"]["Datatype"]["enum"]
        path, calls = "/v2/models/ctr/infer", text.paths["/v2/models/{model_name}/infer"]
        numbers = [d for d in datatypes if d not in ("BOOL", "BYTES")]
        assert len(numbers) >= 11, datatypes
        for datatype in numbers:
            asked = [{**t, "datatype": datatype, "data": [1, 0, 1]} if t["name"] == "price" else t for t in tensors]
            replied("post", path, calls, 200, {"inputs": asked})
        for datatype in ("FP128", "fp32", "STRING"):
            asked = [{**t, "datatype": datatype} if t["name"] == "price" else t for t in tensors]
            replied("post", path, calls, 400, {"inputs": asked})


def http(checks, address, expected):
    import numpy as np
    import tritonclient.http as module
    from tritonclient.utils import InferenceServerException

    client = module.InferenceServerClient(address)
    all_of, near = common(checks, "http", module, client, expected, np, InferenceServerException, lambda e: e.status())
    with checks.check("http: JSON in and out"):
        outputs = [module.InferRequestedOutput("prediction", binary_data=False)]
        reply = client.infer("ctr", all_of(binary_data=False), outputs=outputs)
        near(reply)
        assert reply.get_response()["outputs"][0]["data"], reply.get_response()
    with checks.check("http: bytes in and out"):
        outputs = [module.InferRequestedOutput("prediction", binary_data=True)]
        reply = client.infer("ctr", all_of(binary_data=True), outputs=outputs)
        near(reply)
        assert reply.get_response()["outputs"][0]["parameters"]["binary_data_size"] == 12
    client.close()


def grpc(checks, address, expected):
    import numpy as np
    import tritonclient.grpc as module
    from tritonclient.utils import InferenceServerException

    client = module.InferenceServerClient(address)
    code = lambda e: str(e.status()).removeprefix("StatusCode.")
    all_of, near = common(checks, "grpc", module, client, expected, np, InferenceServerException, code)
    with checks.check("grpc: bytes in and out, a deadline that is kept"):
        reply = client.infer("ctr", all_of(), client_timeout=SECONDS_MAX)
        near(reply)
        assert len(reply.get_response().raw_output_contents) == 1
    client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "debug" / "tidemill")
    options = parser.parse_args()
    if not os.environ.get(INSIDE):
        python = install("oip", PACKAGES, TEXTS)
        return subprocess.run([str(python), __file__, *sys.argv[1:]], env={**os.environ, INSIDE: "yes"}).returncode
    with tempfile.TemporaryDirectory(prefix="tidemill-oip-") as home:
        program = Program(options.binary, pathlib.Path(home))
        checks = Checks(program.said)
        try:
            expected = program.learn()
            proto(checks)
            openapi(checks, program.address)
            http(checks, program.address, expected)
            grpc(checks, program.address, expected)
        finally:
            end(program.process)
    print(f"oip: {checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed or not checks.passed else 0


if __name__ == "__main__":
    sys.exit(main())
