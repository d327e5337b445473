#!/usr/bin/env bash
# Starts a NATS server on port 4333, fills a stream, runs examples/nats.sql on it, and ends the server.
#
# Needs nats-server (Debian: apt-get install nats-server) and python3. Options go to `tidemill run`.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" nats "$@"
