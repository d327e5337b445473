#!/usr/bin/env python3
"""Data, and sources (sources.py), in an S3-compatible store: the program against a real server that others wrote, moto.

In: the built program (--binary). Out: a line per check, and last `s3: N passed, M failed`; the exit code is 1 when a check
failed. The server is installed by package name into an environment outside the checkout, once; it and the program are
started and ended here. Between the two stands a relay that can refuse, hold up and cut connections.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True  # a test leaves nothing in the checkout
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "page"), str(ROOT / "tests" / "s3")]
import sources
from environment import install
from webdriver import Lines, end, start

PACKAGES = ["moto[server]==5.2.5"]
INSIDE = "TIDEMILL_S3_INSIDE"
SECONDS_MAX = 120
SECRET = "hush-hush-nobody-may-read-this"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A moto server; `no_auth` calls are let through before it begins to look at credentials."""

    def __init__(self, no_auth=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        more = {} if no_auth is None else {"INITIAL_NO_AUTH_ACTION_COUNT": str(no_auth)}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **more})
        until = time.monotonic() + SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def client(self, service="s3", key="test", secret=SECRET):
        import boto3

        return boto3.client(service, endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=key,
                            aws_secret_access_key=secret)


class Relay:
    """Passes bytes between the program and the server. `mood` decides for each new connection: `through`, `refuse`, `hold`
    (take it and answer nothing), or `cut`: it breaks after some ten thousand bytes in one direction or the other."""

    def __init__(self, to):
        self.to, self.mood, self.cuts, self.delay = to, "through", 0, 0.0
        self.rng = random.Random(5)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mood):
        self.mood = mood
        if mood != "through":
            for s in list(self.open):
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._relay, args=(client, self.mood), daemon=True).start()

    def _relay(self, client, mood):
        if mood == "refuse":
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self.to))
        for s in (client, server):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.open.add(s)
        left = [None, None]
        if mood == "cut":
            # Some let a whole checkpoint through: else none would ever arrive.
            left = [self.rng.randrange(*self.rng.choice([(400_000,), (5_000_000, 40_000_000)])), self.rng.randrange(5_000)]
        done = [threading.Thread(target=self._pump, args=(a, b, n, mood), daemon=True)
                for a, b, n in ((client, server, left[0]), (server, client, left[1]))]
        for thread in done:
            thread.start()
        for thread in done:
            thread.join()
        for s in (client, server):
            self.open.discard(s)
            s.close()

    def _pump(self, source, to, left, mood):
        try:
            while data := source.recv(1 << 16):
                if mood == "hold":
                    continue
                if self.delay:
                    time.sleep(self.delay / 2)
                if left is not None:
                    if len(data) >= left:
                        to.sendall(data[:left])
                        self.cuts += 1
                        break
                    left -= len(data)
                to.sendall(data)
        except OSError:
            pass
        for s in (source, to):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)


class Checks:
    """Counts checks, and goes on behind one that fails so that all are reported."""

    def __init__(self, only):
        self.passed, self.failed, self.only = 0, 0, only

    def run(self, name, check, *args):
        if self.only and self.only not in name:
            return
        began = time.monotonic()
        try:
            check(*args)
        except Exception as e:  # whatever goes wrong is a failed check
            self.failed += 1
            print(f"FAILED  {name} ({time.monotonic() - began:.1f} s): {e!r}", flush=True)
        else:
            self.passed += 1
            print(f"ok      {name} ({time.monotonic() - began:.1f} s)", flush=True)


def generated(rows, learner="FTRLClassifier", more="", columns=""):
    """A generated click stream, joined and learned, as the Rust tests have it."""
    numbers, categories = [f"I{i}" for i in range(1, 14)], [f"C{i}" for i in range(1, 27)]
    having = lambda stream: (f"WITH (connector = 'generator', stream = '{stream}', rows = {rows}, rate = 2000, "
                             f"drift_every = '5s')")
    return f"""
CREATE SOURCE impressions (imp_id BIGINT PRIMARY KEY, ts BIGINT, {', '.join(n + ' BIGINT' for n in numbers)},
  {', '.join(c + ' STRING' for c in categories)}, true_p DOUBLE, rt AS TO_TIMESTAMP_MS(ts),
  WATERMARK FOR rt AS rt - INTERVAL '1' SECOND) {having('impressions')};
CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '1' SECOND)
  {having('clicks')};
CREATE STREAM samples AS SELECT i.*, (c.imp_id IS NOT NULL) AS clicked FROM impressions i LEFT JOIN clicks c
  ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' SECOND
  EMIT EARLY INTERVAL '0.3' SECOND CORRECT RETRACT;
SELECT * FROM samples TO TRAIN {learner} WITH validate.oracle = 'true_p', checkpoint.interval = '100ms',
  publish.every = {rows // 3}{more}
  COLUMN {', '.join(numbers + categories)}, CROSS([C1, C3]){columns} LABEL clicked INTO ctr;
"""


PUSHED = """
CREATE SOURCE shown (imp_id BIGINT, ts BIGINT, item STRING, label BIGINT, rt AS TO_TIMESTAMP_MS(ts),
  WATERMARK FOR rt) WITH (connector = 'http', idle_timeout = '50ms');
SELECT * FROM shown TO TRAIN FTRLClassifier WITH checkpoint.interval = '200ms', publish.interval = '500ms'
COLUMN item LABEL label INTO ctr;
"""


class Bed:
    """What every check works with: the program, the server, a place."""

    def __init__(self, binary, home, server):
        self.binary, self.home, self.server = binary, home, server
        self.relay = Relay(server.port)
        self.client = server.client()
        self.client.create_bucket(Bucket="tide")
        self.number = 0

    def place(self):
        """An address nobody has used."""
        self.number += 1
        return f"s3://tide/run/{self.number}"

    def scratch(self):
        self.number += 1
        return self.home / f"scratch-{self.number}"

    def environment(self, endpoint=None, secret=SECRET, key="test"):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        return {**kept, "AWS_ENDPOINT_URL": endpoint or self.relay.url, "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1"}

    def command(self, *args):
        return [str(self.binary), *map(str, args)]

    def learn(self, sql, data, *more, environment=None, fails=False):
        """Runs a program to its end; its last line, or with `fails` the exit code and what it said."""
        out = subprocess.run(
            self.command("run", "--json", "--quiet", "--no-serve", "-e", sql, "--data", data, *more),
            env=environment or self.environment(), capture_output=True, text=True, timeout=SECONDS_MAX * 2)
        if SECRET in out.stdout + out.stderr:
            raise AssertionError("the secret was told")
        if fails:
            return out.returncode, out.stderr.strip()
        if out.returncode != 0:
            raise AssertionError(f"exit code {out.returncode}: {out.stderr}")
        return json.loads(out.stdout.splitlines()[-1])

    def say(self, *args, environment=None):
        """Exit code, stdout and stderr of a command."""
        out = subprocess.run(self.command(*args), env=environment or self.environment(), capture_output=True, text=True,
                             timeout=SECONDS_MAX)
        return out.returncode, out.stdout, out.stderr


def outcome(summary):
    """What must be equal to the last digit."""
    kept = {k: v for k, v in summary.items() if k not in ("events_per_s", "peak_rss_bytes", "version", "table_bytes",
                                                          "warning")}
    assert re.fullmatch("[0-9a-f]{32}", kept["state_hash"]), kept
    return kept


class Serving:
    """A program that serves and learns what it is pushed."""

    def __init__(self, bed, data, *more, sql=PUSHED, verb="run"):
        args = ["run", "-e", sql] if verb == "run" else [verb]
        self.process = start(bed.command(*args, "--data", data, "--port", "0", *more), stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, env=bed.environment())
        self.said = Lines(self.process.stderr)
        found = self.said.wait_for(r"http://(127\.0\.0\.1:\d+)", SECONDS_MAX)
        if not found:
            raise AssertionError(f"did not serve: {self.said.text()}")
        self.address = found[1]

    def call(self, path, body=None, timeout=SECONDS_MAX):
        request = urllib.request.Request(f"http://{self.address}{path}", body and body.encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return json.load(reply)

    def push(self, ids, timeout=SECONDS_MAX):
        lines = [{"imp_id": i, "ts": 1_700_000_000_000 + i, "item": f"i{i % 7}", "label": int(i % 3 == 0)} for i in ids]
        return self.call("/v1/sources/shown", "\n".join(map(json.dumps, lines)), timeout)

    def wait_for_events(self, count):
        until, status = time.monotonic() + SECONDS_MAX, {}
        while time.monotonic() < until:
            status = self.call("/v1/status")
            if status.get("events") == count:
                return status
            time.sleep(0.05)
        raise AssertionError(f"{status.get('events')} events instead of {count}: {status.get('state')}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS_MAX)


def same_hash(bed):
    """A run with its data in the store ends as one with a directory does, and other commands find everything there."""
    sql, place, scratch = generated(20_000), bed.place(), bed.scratch()
    local = bed.home / "local"
    expected = outcome(bed.learn(sql, local))
    got = outcome(bed.learn(sql, place, "--scratch", scratch))
    assert got == expected, (got, expected)
    assert list(scratch.iterdir()) == [], "scratch is left"
    assert outcome(bed.learn(sql, place)) == expected, "once more, finished"
    for args in (["checkpoints", "ls", "ctr", "--json"], ["checkpoints", "verify", "ctr", "--json"],
                 ["models", "list"], ["models", "show", "ctr"], ["models", "verify", "ctr@1"]):
        code, out, err = bed.say(*args, "--data", place)
        assert code == 0 and out, (args, code, err)
        if "verify" in args[1]:
            assert "damaged" not in out, out
        if args[:2] == ["checkpoints", "verify"]:
            newest = json.loads(out.splitlines()[-1])
            assert newest["state_hash"] == expected["state_hash"], newest
        if args[1] == "list":
            local_out = bed.say(*args, "--data", local)[1]
            assert re.sub(r"\d\d:\d\d:\d\d|\d+ s ago", "", out) == re.sub(r"\d\d:\d\d:\d\d|\d+ s ago", "", local_out), (out, local_out)
    table = bed.home / "table.csv"
    code, out, err = bed.say("checkpoints", "export", "ctr", "--to", table, "--data", place)
    rows = len(table.read_text().splitlines()) if code == 0 else 0
    assert code == 0 and rows > 500, (code, rows, err)
    prefix = place.removeprefix("s3://tide/")
    keys = bed.client.list_objects_v2(Bucket="tide", Prefix=prefix + "/")["Contents"]
    assert keys and all(re.search(r"/(commits/\d{20}|objects/\d{8}-\d{10})$", k["Key"]) for k in keys), keys


def killed(bed):
    """F1 in a store: kill -9 at random moments and at accesses to files; each start is on another machine."""
    sql, rng = generated(20_000, more=", model.alpha = 0.2"), random.Random(3)
    began, landed = time.monotonic(), 0
    expected = outcome(bed.learn(sql, bed.home / "whole"))
    took = time.monotonic() - began
    # A fast machine is done before most kills come: then the next place has to do.
    for round_ in range(20):
        place = bed.place()
        for _ in range(6):
            environment = bed.environment()
            at = rng.choice(["moment", "checkpoints", "versions", "journal.log", "job"])
            if at != "moment":
                environment["TIDEMILL_FAILPOINT"] = f"{at}:{rng.randrange(1, 40)}"
            command = bed.command("run", "--json", "--quiet", "--no-serve", "-e", sql, "--data", place, "--scratch", bed.scratch())
            process = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.1, 2 * took) if at == "moment" else SECONDS_MAX)
            if process.poll() is None:
                process.kill()
            if process.wait() >= 0:
                break
            landed += 1
        got = outcome(bed.learn(sql, place, "--scratch", bed.scratch()))
        assert got == expected, (round_, got, expected)
        if landed >= 8:
            return
    raise AssertionError(f"{landed} kills landed")


def acknowledged(bed):
    """What was acknowledged is in the store: kill -9, and another machine goes on with every event, once."""
    place, pushed = bed.place(), 0
    for round_ in range(3):
        serving = Serving(bed, place, "--scratch", bed.scratch())
        for _ in range(4):
            assert serving.push(range(pushed, pushed + 25))["accepted"] == 25
            pushed += 25
        serving.kill()
    serving = Serving(bed, place, "--scratch", bed.scratch())
    status = serving.wait_for_events(pushed)
    assert "warning" not in status or not status["warning"], status["warning"]
    assert serving.stop() == 0


def two_owners(bed):
    """F30: the second fences the first off; the first says why and ends, and nothing of it counts."""
    place = bed.place()
    first = Serving(bed, place, "--scratch", bed.scratch())
    first.push(range(50))
    second = Serving(bed, place, "--scratch", bed.scratch())
    second.wait_for_events(50)
    try:
        first.push(range(50, 60), 20)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        pass  # refused, or it had ended already
    else:
        raise AssertionError("the replaced owner acknowledged events")
    assert first.process.wait(SECONDS_MAX) == 4, first.said.text()
    said = first.said.text()
    assert "was taken over by owner 2 (pid " in said and "error[conflict]" in said, said
    second.push(range(60, 100))
    second.wait_for_events(90)
    assert second.stop() == 0


def away(bed):
    """F15 for a store: away for some seconds, it is waited for, which is told; nothing is lost and memory does not grow."""
    place = bed.place()
    serving = Serving(bed, place, "--scratch", bed.scratch())
    serving.push(range(40))
    serving.wait_for_events(40)
    rss = lambda: int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{serving.process.pid}/status").read_text())[1])
    before = rss()
    bed.relay.set("refuse")
    try:
        results = []
        threads = [threading.Thread(target=lambda i=i: results.append(serving.push(range(40 + 10 * i, 50 + 10 * i))))
                   for i in range(8)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + SECONDS_MAX
        while not (state := serving.call("/v1/status", timeout=5)["state"]).startswith("waiting: s3://tide/run/"):
            assert time.monotonic() < until, state
            time.sleep(0.1)
        for _ in range(30):
            # It answers all the while.
            body = json.dumps({"rows": [{"imp_id": 1, "ts": 1, "item": "i1"}]})
            assert serving.call("/v1/models/ctr:predict", body, timeout=5)["predictions"]
            time.sleep(0.1)
        assert not results, "acknowledged while the store was away"
        with urllib.request.urlopen(f"http://{serving.address}/metrics", timeout=5) as reply:
            assert "\ntidemill_store_away 1\n" in reply.read().decode()
        assert rss() < before + 30_000, (before, rss())
    finally:
        bed.relay.set("through")
    for thread in threads:
        thread.join()
    assert sum(r["accepted"] for r in results) == 80, results
    serving.wait_for_events(120)
    assert serving.stop() == 0
    said = serving.said.text()
    assert f"waiting for {place}: " in said and f"{place} answers again" in said, said
    again = Serving(bed, place, "--scratch", bed.scratch())
    again.wait_for_events(120)
    again.stop()


def away_in_a_run(bed):
    """A bounded run whose store goes away twice comes to the same end."""
    sql, place = generated(20_000, more=", model.alpha = 0.3"), bed.place()
    expected = outcome(bed.learn(sql, bed.home / "undisturbed"))
    stopped = threading.Event()

    def disturb():
        for mood in ("refuse", "cut", "refuse"):
            if stopped.wait(0.7):
                break
            bed.relay.set(mood)
            stopped.wait(1.0)
            bed.relay.set("through")

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        until = time.monotonic() + SECONDS_MAX
        while (found := bed.learn(sql, place, fails=True))[0] == 5:
            assert time.monotonic() < until, found
        assert found[0] == 0, found
    finally:
        stopped.set()
        thread.join()
        bed.relay.set("through")
    got = outcome(bed.learn(sql, place))
    assert got == expected, (got, expected)


def torn(bed):
    """Uploads that are cut off, in one piece or in parts, and answers that get lost: never seen, never counted twice."""
    sql = generated(20_000, "FMClassifier", ", model.factors = 450", ", CROSS([C1, C2]), CROSS([C2, C3]), CROSS([C2, C4])").replace("'100ms'", "'20ms'")
    expected, place = outcome(bed.learn(sql, bed.home / "fm")), bed.place()
    bed.relay.cuts = 0
    bed.relay.set("cut")
    try:
        until = time.monotonic() + SECONDS_MAX
        while (found := bed.learn(sql, place, fails=True))[0] == 5:
            assert time.monotonic() < until, found
        assert found[0] == 0, found
    finally:
        bed.relay.set("through")
    cuts = bed.relay.cuts
    assert cuts >= 8, f"{cuts} connections were cut"
    # One that went in parts is among them.
    sizes = [o["Size"] for o in bed.client.list_objects_v2(Bucket="tide", Prefix=place[10:] + "/")["Contents"]]
    assert max(sizes) > 8 << 20, max(sizes)
    got = outcome(bed.learn(sql, place))
    assert got == expected, (got, expected)
    code, out, err = bed.say("checkpoints", "verify", "ctr", "--json", "--data", place)
    assert code == 0 and "damaged" not in out and len(out.splitlines()) >= 2, (out, err)


def refused(bed):
    """What is wrong at the start is said in one sentence, with the way out."""
    sql, place = generated(2_000), bed.place()
    code, said = bed.learn(sql, "s3://nowhere/x", fails=True)
    assert code == 2 and "there is no bucket 'nowhere' at http" in said, (code, said)
    code, said = bed.learn(sql, place, environment=bed.environment("http://127.0.0.1:9"), fails=True)
    assert code == 5 and "error[unavailable]: " + place in said, (code, said)
    code, said = bed.learn(sql, "gs://tide/x", fails=True)
    assert code == 2 and "only s3:// is supported" in said, (code, said)
    code, said = bed.learn(sql, f"s3://test:{SECRET}@tide/x", fails=True)
    assert code == 2 and "credentials do not belong" in said, (code, said)
    for args in (["jobs"], ["models", "rollback", "ctr@1"], ["models", "promote", "ctr"], ["demo"]):
        name = "--data-dir" if args == ["demo"] else "--data"
        code, out, err = bed.say(*args, name, place)
        assert code == 2 and "not supported with data in a store" in err, (args, code, err)
    code, out, err = bed.say("checkpoints", "ls", "ctr", "--data", place)
    assert code == 3 and "holds no tidemill data" in err, (code, err)


def wrong_key(bed):
    """A server that looks at credentials: a wrong secret is refused and told to nobody, the right one works."""
    server = Server(no_auth=5)
    try:
        iam, s3 = server.client("iam"), server.client()
        s3.create_bucket(Bucket="guarded")
        iam.create_user(UserName="tide")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="tide", PolicyName="all", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="tide")["AccessKey"]
        iam.list_users()
        sql, place = generated(2_000), "s3://guarded/x"
        bad = bed.environment(server.url, SECRET, key["AccessKeyId"])
        code, said = bed.learn(sql, place, environment=bad, fails=True)
        assert code == 2 and "refused: " in said and "AWS_SECRET_ACCESS_KEY" in said, (code, said)
        good = bed.environment(server.url, key["SecretAccessKey"], key["AccessKeyId"])
        assert bed.learn(sql, place, environment=good)["state_hash"]
    finally:
        end(server.process)


def served(bed):
    """`serve` answers with what the store holds, beside the process that owns it, and changes nothing there."""
    sql, place = generated(6_000), bed.place()
    bed.learn(sql, place)
    listed = lambda: [o["Key"] for o in bed.client.list_objects_v2(Bucket="tide", Prefix=place[10:] + "/")["Contents"]]
    before = listed()
    serving = Serving(bed, place, "--scratch", bed.scratch(), verb="serve")
    row = {"imp_id": 1, "ts": 1, **{f"I{i}": 1 for i in range(1, 14)}, **{f"C{i}": "x" for i in range(1, 27)}}
    reply = serving.call("/v1/models/ctr:predict", json.dumps({"rows": [row]}))
    assert 0 < reply["predictions"][0]["probability"] < 1, reply
    try:
        serving.call("/v1/models/ctr:rollback", json.dumps({"version": 1}))
    except urllib.error.HTTPError as e:
        assert "is only read here" in (said := e.read().decode()), said
    else:
        raise AssertionError("a version was rolled back in a store that is only read")
    assert serving.stop() == 0
    assert listed() == before


def many_starts(bed):
    """However often it is started, the bucket does not grow with the starts; nor with commits."""
    sql, place = generated(6_000), bed.place()
    bed.learn(sql, place)
    count = lambda: bed.client.list_objects_v2(Bucket="tide", Prefix=place[10:] + "/")["KeyCount"]
    before = count()
    for _ in range(10):
        bed.learn(sql, place)
    assert count() <= before + 64 + 3 * 10, (before, count())


def figures(bed):
    """What a store costs, by how long its answers take: events a second of a bounded run, and how long a push waits."""
    sql = generated(100_000, more=", model.alpha = 0.15").replace("'100ms'", "'1s'")
    local = bed.home / "figures"
    print(f"a directory: {bed.learn(sql, local)['events_per_s']:,.0f} events/s", flush=True)
    for delay in (None, 0.0, 0.02, 0.1):
        bed.relay.delay = delay or 0.0
        place = bed.place() if delay is not None else bed.home / "figures-push"
        if delay is not None:
            got = bed.learn(sql, place)
            print(f"a store {delay * 1000:.0f} ms away: {got['events_per_s']:,.0f} events/s", flush=True)
            place = bed.place()
        serving = Serving(bed, place)
        for callers in (1, 16):
            took, numbers = [], iter(range(10**9))

            def push():
                for _ in range(20):
                    began = time.monotonic()
                    serving.push([next(numbers)])
                    took.append(time.monotonic() - began)

            threads, began = [threading.Thread(target=push) for _ in range(callers)], time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took.sort()
            print(f"  {callers} at a time: an event is acknowledged after {took[len(took) // 2] * 1000:.1f} ms (half of them), "
                  f"{took[int(len(took) * 0.95)] * 1000:.1f} ms (95 of 100); "
                  f"{len(took) / (time.monotonic() - began):,.0f} a second", flush=True)
        serving.stop()
    bed.relay.delay = 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "debug" / "tidemill")
    parser.add_argument("--only", help="checks whose name holds this")
    parser.add_argument("--figures", action="store_true", help="measure instead")
    options = parser.parse_args()
    if not os.environ.get(INSIDE):
        python = install("s3", PACKAGES)
        return subprocess.run([str(python), __file__, *sys.argv[1:]], env={**os.environ, INSIDE: "yes"}).returncode
    checks = Checks(options.only)
    with tempfile.TemporaryDirectory(prefix="tidemill-s3-") as home:
        server = Server()
        try:
            bed = Bed(options.binary, pathlib.Path(home), server)
            if options.figures:
                figures(bed)
                return 0
            for check in (refused, same_hash, killed, acknowledged, two_owners, away, away_in_a_run, torn, wrong_key,
                          served, many_starts):
                checks.run(check.__name__, check, bed)
            for check, needs in sources.checks(outcome, Serving):
                checks.run(check.__name__, check, bed, needs)
        finally:
            end(server.process)
    print(f"s3: {checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed or not checks.passed else 0


if __name__ == "__main__":
    sys.exit(main())
