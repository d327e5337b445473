//! What requests read while the trainer writes: whole versions only, and neither side waits for the other.

use std::collections::BTreeMap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use tidemill_base::Rng;
use tidemill_model::{delta::Delta, entries::Entries, snapshot::Snapshot, weights::WeightTable};
use tidemill_serve::live::LiveModel;

/// Keys spread over the table, as hashes are.
fn key(i: u64) -> u64 {
    tidemill_base::rng::mix64(i) | 1
}

fn all(keys: u64, weight: f32) -> Entries {
    sorted((0..keys).map(|i| (key(i), weight)))
}

/// By key; of several for one key the last.
fn sorted(pairs: impl IntoIterator<Item = (u64, f32)>) -> Entries {
    Entries::pairs(pairs.into_iter().collect::<BTreeMap<_, _>>())
}

fn open(keys: u64, weight: f32) -> LiveModel {
    LiveModel::open(&Snapshot { entries: all(keys, weight), ..Snapshot::default() }, 0, 0)
}

fn delta(to: u64, entries: Vec<(u64, f32)>) -> Delta {
    Delta { from: to - 1, to, entries: sorted(entries), ..Delta::default() }
}

/// Every delta sets every weight to the mini-batch's number: a reader that saw a mix would see two numbers.
#[test]
fn readers_never_see_a_mix() {
    let (live, done, reads) = (open(500, 1e-9), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(SeqCst) {
                    let seen = live.read();
                    let expected = if seen.mini_batch == 0 { 1e-9 } else { seen.mini_batch as f32 };
                    assert!(
                        (0..500).all(|i| seen.weights.params(key(i))[0] == expected),
                        "a mix at {}",
                        seen.mini_batch
                    );
                    assert!(seen.mini_batch >= last, "went back from {last} to {}", seen.mini_batch);
                    last = seen.mini_batch;
                    reads.fetch_add(1, SeqCst);
                }
            });
        }
        let mut to = 0;
        while to < 2000 || reads.load(SeqCst) < 1000 {
            to += 1;
            live.publish(Delta { entries: all(500, to as f32), ..delta(to, vec![]) }, to, to).unwrap();
        }
        done.store(true, SeqCst);
        while !live.refresh() {}
        assert_eq!((live.read().version, live.read().mini_batch), (to, to));
    });
}

/// A request that never ends keeps its version; the writer goes on, what it collects stays small, and nothing is lost.
#[test]
fn a_reader_that_holds_on_does_not_stop_the_writer() {
    let live = open(100, 0.5);
    let held = live.read();
    assert!(live.publish(delta(1, vec![(key(1), 1.0)]), 1, 1).unwrap(), "the first goes into the free table");
    let mut rng = Rng::seeded(3);
    let mut expected = WeightTable::from_snapshot(&Snapshot { entries: all(100, 0.5), ..Snapshot::default() });
    expected.apply(&delta(1, vec![(key(1), 1.0)]));
    for to in 2..4000u64 {
        let entries: Vec<_> = (0..500).map(|_| (key(rng.below(2000)), (rng.below(4) * to) as f32)).collect();
        expected.apply(&delta(to, entries.clone()));
        assert!(!live.publish(delta(to, entries), 1, to).unwrap(), "the other table is held");
    }
    assert_eq!((held.mini_batch, held.weights.params(key(1))[0]), (0, 0.5), "a request sees one version to its end");
    assert_eq!(live.read().mini_batch, 1);
    drop(held);
    // Both tables must end up with everything: two publications show one after the other.
    for to in 4000..4002 {
        assert!(live.publish(delta(to, vec![]), 2, to).unwrap());
        let now = live.read();
        assert_eq!((now.version, now.mini_batch, now.weights.len()), (2, to, expected.len()));
        assert!((0..2000).all(|i| now.weights.params(key(i))[0] == expected.params(key(i))[0]));
    }
    assert!(live.refresh());
}

/// What comes while the second table is made is collected and shown then; a model that is replaced meanwhile stays the new one.
#[test]
fn the_second_table_comes_later() {
    let begin = || {
        let snapshot = Snapshot { entries: all(20_000, 0.5), ..Snapshot::default() };
        LiveModel::begin(WeightTable::from_snapshot(&snapshot), 5, 0, 0).unwrap()
    };
    let shows = |live: &LiveModel, mini_batch: u64| {
        (0..1_000_000).any(|_| {
            live.refresh();
            live.read().mini_batch == mini_batch
        })
    };
    let live = begin();
    for to in 6..50 {
        live.publish(delta(to, vec![(key(to), to as f32)]), 1, to).unwrap();
    }
    assert!(shows(&live, 49));
    let both = [live.read(), {
        live.publish(delta(50, vec![]), 1, 50).unwrap();
        assert!(shows(&live, 50));
        live.read()
    }];
    for seen in both {
        assert!((6..50).all(|i| seen.weights.params(key(i))[0] == i as f32) && seen.weights.len() == 20_000);
    }
    let live = begin();
    live.replace(&Snapshot { entries: all(10, 3.0), sequence: 9, ..Snapshot::default() }, 2, 90);
    for to in 10..200 {
        live.publish(delta(to, vec![(key(1), to as f32)]), 2, 90 + to).unwrap();
        assert_eq!(live.read().weights.len(), 10);
    }
    assert!(shows(&live, 289));
    assert_eq!(live.read().weights.params(key(1))[0], 199.0);
}

#[test]
fn a_gap_between_deltas_is_refused() {
    let live = open(1, 0.5);
    live.publish(delta(1, vec![]), 1, 1).unwrap();
    let gap = live.publish(delta(3, vec![]), 1, 3).unwrap_err();
    assert_eq!(gap.message(), "delta 2..3 does not follow 1; load a snapshot");
    live.publish(delta(1, vec![(key(0), 2.0)]), 1, 2).unwrap();
    assert_eq!(live.read().weights.params(key(0))[0], 2.0, "one that was there already does no harm");
}

#[test]
fn a_pinned_version_hides_the_newest_until_it_is_promoted() {
    let live = Arc::new(open(10, 3.0));
    live.pin(&Snapshot { entries: all(10, 1.0), ..Snapshot::default() }, 1, 100);
    for to in 1..=3 {
        live.publish(Delta { entries: all(10, to as f32 * 10.0), ..delta(to, vec![]) }, 4, 400 + to).unwrap();
        assert_eq!((live.read().version, live.read().weights.params(key(3))[0]), (1, 1.0));
    }
    assert_eq!((live.pinned(), live.newest().weights.params(key(3))[0]), (Some(1), 30.0));
    assert_eq!(live.read_version(4).unwrap().mini_batch, 403);
    assert!(live.read_version(2).is_err());
    live.promote();
    assert_eq!((live.pinned(), live.read().version, live.read().weights.params(key(3))[0]), (None, 4, 30.0));
}
