#!/usr/bin/env bash
# Starts a NATS server on port 4333, fills a stream from a file, runs examples/nats.sql on it, and ends the server.
#
# Needs nats-server (Debian: apt-get install nats-server) and python3. Everything lies in a directory that is removed at
# the end. Options go to `tidemill run`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v nats-server >/dev/null || { echo "nats-server is missing: apt-get install nats-server" >&2; exit 2; }
dir=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
nats-server -js -a 127.0.0.1 -p 4333 -sd "$dir/nats" -l "$dir/nats.log" &
server=$!

# 30,000 events, `subject TAB json` a line.
python3 - >"$dir/events.tsv" <<'PY'
import random
rng = random.Random(11)
for n in range(20000):
    ts, item = 1700000000000 + n * 20, rng.randrange(50)
    print('shop.impressions\t{"imp_id": %d, "ts": %d, "item": "i%d", "person": %d}' % (n, ts, item, rng.randrange(300)))
    if rng.randrange(50) < item:
        print('shop.clicks\t{"imp_id": %d, "ts": %d}' % (n, ts + 100 + rng.randrange(3) * 400))
PY

# The protocol is text: a stream is made by a request, an event is published with PUB.
python3 - "$dir/events.tsv" <<'PY'
import socket, sys, time
for attempt in range(100):
    try:
        s = socket.create_connection(("127.0.0.1", 4333))
        break
    except OSError:
        time.sleep(0.05)
lines = s.makefile("rb")
lines.readline()

def call(subject, body):
    s.sendall(b"PUB %s answer %d\r\n%s\r\n" % (subject, len(body), body))
    while True:
        line = lines.readline()
        if line.startswith(b"MSG"):
            return lines.read(int(line.split()[-1]) + 2)
        if line.startswith(b"PING"):
            s.sendall(b"PONG\r\n")

s.sendall(b'CONNECT {"verbose":false}\r\nSUB answer 1\r\n')
made = call(b"$JS.API.STREAM.CREATE.SHOP", b'{"name":"SHOP","subjects":["shop.*"],"storage":"file","retention":"limits"}')
assert b'"error"' not in made, made
with open(sys.argv[1], "rb") as events:
    for line in events:
        subject, body = line.rstrip(b"\n").split(b"\t", 1)
        last = call(subject, body)
assert b'"error"' not in last, last
print("the stream holds", last.strip().decode(), file=sys.stderr)
PY

tidemill=${TIDEMILL:-}
if [[ -z $tidemill ]]; then
    cargo build --release --quiet
    tidemill=${CARGO_TARGET_DIR:-target}/release/tidemill
fi
"$tidemill" run examples/nats.sql --no-serve --data-dir "$dir/data" "$@"
