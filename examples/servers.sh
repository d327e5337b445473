#!/usr/bin/env bash
# Starts the servers that example programs read from, fills them, runs a command beside them, and ends them:
# examples/servers.sh COMMAND [ARGUMENT]...
#
# Now that is NATS (Debian: apt-get install nats-server) on port ${PORT:-4333}, with a stream SHOP of impressions and clicks. A
# program for Kafka needs a broker of your own: Debian has none. Everything lies in a directory that is removed at the end.
#
# EVENTS  impressions to fill in (default: 20000; about half as many clicks come with them)
set -euo pipefail
if (($# == 0)); then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
command -v nats-server >/dev/null || { echo "nats-server is missing: apt-get install nats-server" >&2; exit 2; }
command -v python3 >/dev/null || { echo "python3 is missing: apt-get install python3" >&2; exit 2; }
dir=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
nats-server -js -a 127.0.0.1 -p "${PORT:-4333}" -sd "$dir/nats" -l "$dir/nats.log" &
server=$!

# The protocol is text: a stream is made by a request, an event is published with PUB.
python3 - "${EVENTS:-20000}" "${PORT:-4333}" <<'PY'
import random, socket, sys, time

for attempt in range(100):
    try:
        s = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
        break
    except OSError:
        time.sleep(0.05)
else:
    sys.exit("nats-server does not answer on port " + sys.argv[2])
lines = s.makefile("rb")
lines.readline()
s.sendall(b'CONNECT {"verbose":false}\r\nSUB answer 1\r\n')


def answers(count):
    last = b""
    while count:
        line = lines.readline()
        if line.startswith(b"MSG"):
            last = lines.read(int(line.split()[-1]) + 2)
            assert b'"error"' not in last, last
            count -= 1
        elif line.startswith(b"PING"):
            s.sendall(b"PONG\r\n")
        elif not line:
            sys.exit("nats-server went away; is another one on its port?")
    return last.strip().decode()


def call(subject, body):
    return b"PUB %s answer %d\r\n%s\r\n" % (subject, len(body), body)


s.sendall(call(b"$JS.API.STREAM.CREATE.SHOP",
               b'{"name":"SHOP","subjects":["shop.*"],"storage":"file","retention":"limits"}'))
answers(1)
rng = random.Random(11)
waiting, last = [], ""
for n in range(int(sys.argv[1])):
    ts, item = 1700000000000 + n * 20, rng.randrange(50)
    waiting.append(call(b"shop.impressions", b'{"imp_id": %d, "ts": %d, "item": "i%d", "person": %d}'
                        % (n, ts, item, rng.randrange(300))))
    if rng.randrange(50) < item:
        waiting.append(call(b"shop.clicks", b'{"imp_id": %d, "ts": %d}' % (n, ts + 100 + rng.randrange(3) * 400)))
    if len(waiting) >= 500 or n + 1 == int(sys.argv[1]):
        s.sendall(b"".join(waiting))
        last = answers(len(waiting))
        waiting = []
print("the stream holds", last, file=sys.stderr)
PY

"$@"
