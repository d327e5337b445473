#!/usr/bin/env bash
# What each emission policy of the label join is worth: examples/delays.sh [clicks | streams]
#
# clicks   100,000 real clicks and their 227 downloads, minutes to hours later (../shared/data/talkingdata100k, read where
#          it lies). Every click is predicted when it happens and scored against its
#          final label.
# streams  two generated streams with drift, delay and a ramp of traffic, beside an oracle that knows each label at once;
#          takes about ten minutes.
set -euo pipefail
case "${1-clicks}" in
clicks) table=table_of_real_delays ;;
streams) table=table_of_policies ;;
*)
    echo "Usage: examples/delays.sh [clicks | streams]" >&2
    exit 2
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The program is there for the features of shared dependencies: nothing of it is built for this test.
cargo test --quiet --locked -p tidemill -p tidemill-train --test delayed -- --ignored --nocapture "$table"
