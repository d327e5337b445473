#!/usr/bin/env bash
# Runs one of the example programs: examples/run.sh NAME [OPTION]...
#
# Programs over real data need it in ../shared/data; without it the same command runs examples/clicks.sql, whose events
# are generated, and says so. The data is read where it lies and never copied. A program that reads from a server gets it
# from examples/servers.sh, started and filled for it. What is learned goes to a directory of its own, begun anew every
# time. Options go to `tidemill run`, for example --json or --threads 1.
set -euo pipefail

usage() {
    cat <<'END'
Usage: examples/run.sh NAME [OPTION]...

NAME     clicks, sinks, frappe, frappe_fm, ml100k, learners, views, talkingdata, kdd99, criteo_tiny, or nats (needs
         nats-server); all: one after the other
OPTION   anything `tidemill run` takes

TIDEMILL  the program to run (default: the one `cargo run --release` builds)
END
}

case "${1-}" in
'') usage >&2 && exit 2 ;;
-h | --help) usage && exit 0 ;;
esac
name=$1
shift

# Paths in the programs are relative to the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $name == all ]]; then
    for program in examples/*.sql; do
        echo "== ${program##*/}" >&2
        examples/run.sh "$(basename "$program" .sql)" "$@"
    done
    exit
fi
if [[ $name == */* || ! -f examples/$name.sql ]]; then
    echo "examples/run.sh: there is no examples/$name.sql" >&2
    usage >&2
    exit 2
fi

# The first path a program reads tells whether its data is there. What it writes is behind CREATE SINK.
path=$(sed '/^CREATE SINK/,/;/d' "examples/$name.sql" | sed -n "s/.*path = '\([^']*\)'.*/\1/p" | head -n 1)
if [[ -n $path && ! -e $path ]]; then
    echo "$path is not there; running examples/clicks.sql on generated events instead" >&2
    name=clicks
fi

data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
if [[ -n ${TIDEMILL-} ]]; then
    program=("$TIDEMILL")
else
    program=(cargo run --release --quiet --locked --package tidemill --)
fi
# Sinks write into the same directory; how much came is told at the end.
sql=examples/$name.sql
if grep -q '^CREATE SINK' "$sql"; then
    sed "/^CREATE SINK/,/;/s#path = '#&$data/sinks/#" "$sql" >"$data/program.sql"
    sql=$data/program.sql
fi
servers=()
if grep -q "127.0.0.1:4333" "examples/$name.sql"; then
    servers=(examples/servers.sh)
fi
"${servers[@]}" "${program[@]}" run "$sql" --no-serve --data-dir "$data/data" "$@"
if [[ -d $data/sinks ]]; then
    find "$data/sinks" -type f -exec cat {} + | wc -l | sed 's/$/ lines in files of sinks/' >&2
fi
