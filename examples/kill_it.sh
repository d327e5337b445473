#!/usr/bin/env bash
# Kills a program again and again while it learns from a stream, and shows that nothing came of it:
# examples/kill_it.sh [KILLS]
#
# Starts a NATS server with a stream of events (examples/servers.sh), learns from it once undisturbed, then once more with
# `kill -9` at random moments (five, or as many as asked for; the last start is left alone), and prints both state hashes and
# counts. They are equal to the last digit, or the exit code is 1.
#
# TIDEMILL  the program to run (default: the one `cargo build --release` builds)
# EVENTS    impressions in the stream (default: 150000)
# PORT      of the NATS server (default: 4333)
# SEED      another one kills at other moments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1-}" in
-h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
esac
kills=${1:-5}
if [[ -z ${TIDEMILL-} ]]; then
    cargo build --release --quiet --locked --package tidemill
    export TIDEMILL=${CARGO_TARGET_DIR:-target}/release/tidemill
fi
if [[ -z ${KILL_IT_BESIDE_SERVERS-} ]]; then
    export EVENTS=${EVENTS:-150000} KILL_IT_BESIDE_SERVERS=yes
    exec examples/servers.sh "examples/kill_it.sh" "$kills"
fi

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# Checkpoints every fifth of a second, so that there is something to be killed in.
sed "s/TO TRAIN FTRLClassifier/TO TRAIN FTRLClassifier WITH checkpoint.interval = '200ms'/; s/:4333/:${PORT:-4333}/" examples/nats.sql >"$dir/program.sql"
learn() { "$TIDEMILL" run "$dir/program.sql" --json --quiet --no-serve --data-dir "$dir/$1"; }
# What must be equal: everything but speeds, memory and how often something was published.
figures() { sed -E 's/"(events_per_s|peak_rss_bytes|version|table_bytes|warning)":("[^"]*"|[^,}]*),?//g' "$1"; }
state() { sed -E 's/.*"state_hash":"([0-9a-f]+)".*/\1/' "$1"; }

began=$(date +%s%N)
learn undisturbed >"$dir/undisturbed.json"
took=$((($(date +%s%N) - began) / 1000000))
echo "undisturbed, in $((took / 1000)).$(printf %03d $((took % 1000))) s"

RANDOM=${SEED:-7}
for ((k = 1; k <= kills; k++)); do
    learn killed >"$dir/killed.json" 2>"$dir/killed.err" &
    run=$!
    ms=$(((RANDOM * 32768 + RANDOM) % (took / 3 + 50) + 20))
    sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
    program=$(pgrep -P "$run" || true)
    if kill -9 ${program:-$run} 2>/dev/null; then
        wait "$run" 2>/dev/null || true
        journal=$(stat -c %s "$dir/killed/models/shop/job/journal.log" 2>/dev/null || echo 0)
        checkpoint=$("$TIDEMILL" checkpoints ls shop --json --data-dir "$dir/killed" 2>/dev/null |
            sed -nE 's/.*"mini_batch":([0-9]+).*/\1/p' | tail -n 1 || true)
        echo "kill -9 after $ms ms: a journal of $journal bytes, the last checkpoint at mini-batch ${checkpoint:-0}"
    else
        wait "$run" || { cat "$dir/killed.err" >&2; exit 1; }
        echo "it came to its end before kill $k"
        break
    fi
done
learn killed >"$dir/killed.json"
echo "left alone, it goes on and comes to its end"
echo "state, undisturbed  $(state "$dir/undisturbed.json")"
echo "state, killed       $(state "$dir/killed.json")"
if [[ $(figures "$dir/undisturbed.json") != "$(figures "$dir/killed.json")" ]]; then
    echo "NOT equal:" >&2
    cat "$dir/undisturbed.json" "$dir/killed.json" >&2
    exit 1
fi
echo "equal, with every count"
