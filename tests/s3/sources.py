"""Objects of a store as a source: checks of s3_test.py, against the same server and through the same relay.

In: the bed of s3_test.py. What is put into the store is written here, so that a directory with the same files says what must
come out.
"""

import contextlib
import gzip
import json
import random
import subprocess
import time

SECONDS_MAX = 120
T0 = 1_700_000_000_000


def rows(first, count):
    """Impressions of a click stream: number, time, item, label."""
    return [(i, T0 + 20 * i, f"i{i * 7919 % 50}", int((i * 2654435761 >> 7) % 5 == 0)) for i in range(first, first + count)]


def csv(some):
    return "imp_id,ts,item,label\n" + "".join(f"{i},{ts},{item},{label}\n" for i, ts, item, label in some)


def jsonl(some):
    return "".join(json.dumps(dict(zip(("imp_id", "ts", "item", "label"), row))) + "\n" for row in some)


def program(path, more="", train=""):
    return f"""
CREATE SOURCE shown (imp_id BIGINT, ts BIGINT, item STRING, label BIGINT, rt AS TO_TIMESTAMP_MS(ts),
  WATERMARK FOR rt AS rt - INTERVAL '1' SECOND) WITH (connector = 'file', path = '{path}'{more});
SELECT * FROM shown TO TRAIN FTRLClassifier WITH checkpoint.interval = '100ms', publish.every = 4000{train}
COLUMN item LABEL label INTO ctr;
"""


class Prefix:
    """A place in the store nobody has used, and a directory that holds the same."""

    def __init__(self, bed):
        bed.number += 1
        self.client, self.key = bed.client, f"in/{bed.number}"
        self.address, self.dir = f"s3://tide/{self.key}", bed.home / f"in-{bed.number}"
        self.dir.mkdir()

    def put(self, name, content):
        body = content if isinstance(content, bytes) else content.encode()
        (self.dir / name).write_bytes(body)
        self.client.put_object(Bucket="tide", Key=f"{self.key}/{name}", Body=body)

    def delete(self, name):
        self.client.delete_object(Bucket="tide", Key=f"{self.key}/{name}")


def parts(prefix, count=6, each=2_000):
    """Objects whose times overlap, in three forms."""
    some = rows(0, count * each)
    random.Random(4).shuffle(some)
    for i in range(count):
        mine = sorted(some[i * each:(i + 1) * each])
        prefix.put(f"{i}.csv", csv(mine))
        prefix.put(f"{i}.csv.gz", gzip.compress(csv(mine).encode()))
        prefix.put(f"{i}.json.gz", gzip.compress(jsonl(mine).encode()))


def objects_as_files(bed, outcome):
    """What comes of objects is what comes of files with the same bytes, to the last bit."""
    prefix = Prefix(bed)
    parts(prefix)
    for pattern in ("*.csv", "*.csv.gz", "?.json.gz"):
        expected = outcome(bed.learn(program(prefix.dir / pattern), bed.home / f"files {pattern}"))
        assert expected["events"] == 12_000, expected
        got = outcome(bed.learn(program(f"{prefix.address}/{pattern}"), bed.home / f"objects {pattern}"))
        assert got == expected, (pattern, got, expected)
        # Once more: finished, and nothing is fetched or learned again.
        again = outcome(bed.learn(program(f"{prefix.address}/{pattern}"), bed.home / f"objects {pattern}"))
        assert again["state_hash"] == expected["state_hash"], again
    code, out, err = bed.say("models", "verify", "ctr@1", "--data", bed.home / "objects *.csv")
    assert code == 0, (out, err)


def objects_killed(bed, outcome):
    """F1: kill -9 at random moments while objects are read, and a store that goes away in between: the same bits."""
    prefix, rng = Prefix(bed), random.Random(11)
    parts(prefix, 4, 6_000)
    expected = outcome(bed.learn(program(prefix.dir / "*.csv"), bed.home / "undisturbed files"))
    sql, landed, began = program(f"{prefix.address}/*.csv"), 0, time.monotonic()
    bed.relay.delay = 0.02
    try:
        assert outcome(bed.learn(sql, bed.home / "undisturbed objects")) == expected
        took = time.monotonic() - began
        # Where a run ends before its kill comes, the next begins anew.
        for round_ in range(12):
            data = bed.home / f"killed objects {round_}"
            while kill_in_a_run(bed, sql, data, rng.uniform(0.1, 0.9) * took, landed % 3 == 2):
                landed += 1
            got = outcome(bed.learn(sql, data))
            assert got == expected, (got, expected)
            if landed >= 6:
                return
    finally:
        bed.relay.delay = 0.0
        bed.relay.set("through")
    raise AssertionError(f"{landed} kills landed")


def kill_in_a_run(bed, sql, data, seconds, goes_away):
    """Starts a run and kills it after so many seconds, or after the store was away for a moment; whether it still ran."""
    command = bed.command("run", "--json", "--quiet", "--no-serve", "-e", sql, "--data", data)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=bed.environment()) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        if process.poll() is None and goes_away:
            bed.relay.set("refuse")
            time.sleep(0.5)
            bed.relay.set("through")
        if process.poll() is None:
            process.kill()
        return process.wait() < 0


def objects_followed(bed, serving):
    """Objects that come while it runs are learned once each, through kills and while the store is away; what was learned is
    derived again from the journal."""
    prefix, data, put = Prefix(bed), bed.home / "followed objects", 0
    sql = program(f"{prefix.address}/", ", format = 'csv', follow = true, list_interval = '1s'", ", publish.interval = '500ms'")

    def bring():
        nonlocal put
        prefix.put(f"{put // 500:04}.csv", csv(rows(put, 500)))
        put += 500

    job = serving(bed, data, sql=sql)
    assert "no object matches" in job.call("/v1/status")["warning"]
    for _ in range(4):
        bring()
    job.wait_for_events(put)
    for _ in range(3):
        bring()
        job.kill()
        bring()
        job = serving(bed, data, sql=sql)
        bring()
        job.wait_for_events(put)
    bed.relay.set("refuse")
    try:
        bring()
        until = time.monotonic() + SECONDS_MAX
        while "s3://tide: list: " not in (job.call("/v1/status").get("warning") or ""):
            assert time.monotonic() < until, job.call("/v1/status")
            time.sleep(0.1)
    finally:
        bed.relay.set("through")
    status = job.wait_for_events(put)
    # What was read may go: nothing of it is needed any more.
    prefix.delete("0000.csv")
    assert job.stop() == 0
    job = serving(bed, data, sql=sql)
    bring()
    status = job.wait_for_events(put)
    assert status["rows_refused"] == 0 if "rows_refused" in status else True, status
    assert job.stop() == 0
    prefix.put("0000.csv", csv(rows(0, 500)))
    code, out, err = bed.say("models", "list", "--json", "--data", data)
    newest = json.loads(out.splitlines()[0]) if code == 0 and out.startswith("{") else {}
    code, out, err = bed.say("models", "verify", f"ctr@{newest.get('version', 1)}", "--data", data)
    assert code == 0, (out, err)


def objects_changed(bed, outcome):
    """An object that is another than the one that was read, or is gone while rows of it are needed, is named at the next start;
    one that is not needed is not missed."""
    for what in ("changed", "gone"):
        prefix, data = Prefix(bed), bed.home / f"{what} objects"
        prefix.put("a.csv", csv(rows(0, 1_000)))
        prefix.put("b.csv", csv(rows(1_000, 1_000)))
        sql = program(f"{prefix.address}/*.csv")
        before = outcome(bed.learn(sql, data))
        if what == "changed":
            prefix.put("a.csv", csv(rows(5_000, 1_000)))
            code, said = bed.learn(sql, data, fails=True)
            assert code == 4 and f"partition '{prefix.address}/a.csv': the object has changed" in said, (code, said)
            assert "--from-scratch" in said, said
        else:
            prefix.delete("a.csv")
            assert outcome(bed.learn(sql, data))["state_hash"] == before["state_hash"], "it had been read to its end"
            for checkpoint in (data / "models" / "ctr" / "job" / "checkpoints").iterdir():
                checkpoint.unlink()
            code, said = bed.learn(sql, data, fails=True)
            assert code == 4 and f"{prefix.address}/a.csv: the object is no longer there" in said, (code, said)


def objects_refused(bed, outcome):
    """What is wrong is said when the job starts, in one sentence, with the place and the way out; nothing is left behind."""
    prefix = Prefix(bed)
    prefix.put("a.csv", csv(rows(0, 10)))
    prefix.put("b.csv", "imp,ts\n1,2\n")
    nowhere = bed.environment("http://127.0.0.1:9")
    for path, environment, code, words in [
        ("s3://nowhere/x/*.csv", None, 2, ["there is no bucket 'nowhere' at http", "see to path and AWS_ENDPOINT_URL"]),
        (f"{prefix.address}/*.tsv", None, 3, [f"source shown: no object matches '{prefix.address}/*.tsv' at http"]),
        (f"{prefix.address}/a.csv", nowhere, 5, ["source shown: s3://tide: list: "]),
        (f"{prefix.address}/*.csv", None, 2, [f"{prefix.address}/b.csv: the header has no column 'imp_id'"]),
        (f"{prefix.address}/", None, 2, ["format cannot be told from"]),
    ]:
        data = bed.home / f"refused-{code}-{len(words[0])}"
        found, said = bed.learn(program(path), data, environment=environment, fails=True)
        assert found == code and all(word in said for word in words), (path, found, said)
    # The same place takes the right program afterwards.
    assert outcome(bed.learn(program(f"{prefix.address}/a.csv"), data))["events"] == 10
    properties = f"AWS_ENDPOINT_URL={bed.relay.url}; AWS_ACCESS_KEY_ID=test; AWS_SECRET_ACCESS_KEY=test"
    sql = program(f"{prefix.address}/a.csv", f", properties = '{properties}'")
    got = bed.learn(sql, bed.home / "own properties", environment=nowhere)
    assert got["events"] == 10, got
    code, said = bed.learn(sql.replace("AWS_ACCESS", "ACCESS"), bed.home / "odd", fails=True)
    assert code == 2 and "properties: 'ACCESS_KEY_ID' is none of a store's" in said, (code, said)


def objects_then_stream(bed, serving):
    """History in a store, then the stream: SWITCH TO goes on behind the latest event of the objects."""
    prefix, data = Prefix(bed), bed.home / "history objects"
    prefix.put("a.csv", csv(rows(0, 1_000)))
    columns = ("(imp_id BIGINT, ts BIGINT, item STRING, label BIGINT, rt AS TO_TIMESTAMP_MS(ts), "
               "WATERMARK FOR rt AS rt - INTERVAL '1' SECOND)")
    sql = f"""
CREATE SOURCE shown {columns} WITH (connector = 'http', idle_timeout = '50ms');
CREATE SOURCE past {columns} WITH (connector = 's3', path = '{prefix.address}/*.csv') SWITCH TO shown;
SELECT * FROM past TO TRAIN FTRLClassifier WITH checkpoint.interval = '200ms', publish.interval = '500ms'
COLUMN item LABEL label INTO ctr;
"""
    job = serving(bed, data, sql=sql)
    job.wait_for_events(1_000)
    job.call("/v1/sources/shown", jsonl(rows(990, 60)))
    job.kill()
    job = serving(bed, data, sql=sql)
    # Ten of the sixty are not behind the latest of the history.
    job.wait_for_events(1_050)
    assert job.stop() == 0


def checks(outcome, serving):
    """Each check with what it needs beside the bed."""
    return [(objects_refused, outcome), (objects_as_files, outcome), (objects_killed, outcome),
            (objects_followed, serving), (objects_changed, outcome), (objects_then_stream, serving)]
