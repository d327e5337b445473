//! What requests ask of feature views while events go on changing them.
//!
//! In: what changed since the last time, from one writer. Out: columns for the keys of a request, all from one moment. Two
//! copies stand side by side as in [`crate::live`]: changes go into the one that no request reads, it is swapped in, and
//! the other gets them later. No request waits for the writer, nor the writer for a request; where a request still holds the
//! other copy, changes are collected until the next time.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use arrow::array::ArrayRef;
use tidemill_base::{Error, Result};
use tidemill_stream::aggregate::{LookUp, ViewCopy, ViewDelta, ViewSpec};

/// Collected changes beyond which they are merged to one for each key: a request that never ends makes the writer keep about
/// one more copy, and no more.
const BACKLOG_BYTES_MAX: usize = 64 << 20;

/// All views as of one moment.
struct Copies {
    views: Vec<ViewCopy>,
    /// The latest event time in them.
    newest: i64,
}

/// The feature views of one model, as requests see them.
pub struct LiveViews {
    newest: ArcSwap<Copies>,
    behind: Mutex<Behind>,
}

/// The writer's side.
struct Behind {
    /// The copies that are not served. Requests that began before the last swap may hold them still.
    spare: Arc<Copies>,
    /// Changes the spare copies lack, oldest first; the first `served` of them are in the served ones.
    owed: Vec<Vec<ViewDelta>>,
    served: usize,
    newest: i64,
}

impl LiveViews {
    /// Views that have seen nothing.
    pub fn open(specs: &[ViewSpec]) -> Result<Self> {
        let copies = || -> Result<_> {
            let views = specs.iter().map(ViewCopy::new).collect::<Result<_>>()?;
            Ok(Arc::new(Copies { views, newest: 0 }))
        };
        let behind = Behind { spare: copies()?, owed: Vec::new(), served: 0, newest: 0 };
        Ok(Self { newest: ArcSwap::new(copies()?), behind: Mutex::new(behind) })
    }

    /// Takes what changed in each view, and the latest event time now. `true`: requests that begin now see it; `false`: a
    /// request still holds the other copies, and the next call shows it.
    pub fn publish(&self, deltas: Vec<ViewDelta>, newest: i64) -> bool {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = &mut *behind;
        if deltas.iter().any(|d| !d.is_empty()) {
            behind.owed.push(deltas);
        }
        behind.newest = newest;
        self.swap(behind)
    }

    fn swap(&self, behind: &mut Behind) -> bool {
        let Some(spare) = Arc::get_mut(&mut behind.spare) else {
            behind.merge_if_long();
            return false;
        };
        for deltas in &behind.owed {
            spare.views.iter_mut().zip(deltas).for_each(|(view, delta)| view.apply(delta));
        }
        spare.newest = behind.newest;
        behind.spare = self.newest.swap(behind.spare.clone());
        behind.owed.drain(..behind.served);
        behind.served = behind.owed.len();
        true
    }

    /// Shows what [`LiveViews::publish`] could not. To be called now and then where changes may stop coming.
    pub fn refresh(&self) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        if behind.owed.len() > behind.served {
            self.swap(&mut behind);
        }
    }

    /// Begins again with these entries, in place of whatever was published so far. Requests see the old ones until the new
    /// ones are complete.
    pub fn replace(&self, specs: &[ViewSpec], whole: &[Vec<ViewDelta>], newest: i64) -> Result<()> {
        let copies = || -> Result<_> {
            let mut views: Vec<ViewCopy> = specs.iter().map(ViewCopy::new).collect::<Result<_>>()?;
            for deltas in whole {
                check(&views, deltas)?;
                views.iter_mut().zip(deltas).for_each(|(view, delta)| view.apply(delta));
            }
            Ok(Arc::new(Copies { views, newest }))
        };
        let (fresh, spare) = (copies()?, copies()?);
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        *behind = Behind { spare, owed: Vec::new(), served: 0, newest };
        self.newest.store(fresh);
        Ok(())
    }

    /// Refuses changes of other views.
    pub fn check(&self, deltas: &[ViewDelta]) -> Result<()> {
        check(&self.newest.load().views, deltas)
    }

    /// Everything that was published so far, and the latest event time; `None` while a request holds what lacks some of it.
    pub fn whole(&self) -> Option<(Vec<ViewDelta>, i64)> {
        let copies = {
            let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
            if behind.owed.len() > behind.served {
                self.swap(&mut behind);
            }
            (behind.owed.len() == behind.served).then(|| self.newest.load_full())?
        };
        Some((copies.views.iter().map(ViewCopy::whole).collect(), copies.newest))
    }

    /// Bytes held, about: both copies.
    pub fn bytes(&self) -> u64 {
        2 * self.newest.load().views.iter().map(|v| v.bytes() as u64).sum::<u64>()
    }
}

fn check(views: &[ViewCopy], deltas: &[ViewDelta]) -> Result<()> {
    if views.len() != deltas.len() {
        return Err(Error::corrupt(format!("changes of {} feature views, there are {}", deltas.len(), views.len())));
    }
    views.iter().zip(deltas).try_for_each(|(view, delta)| view.check(delta))
}

impl Behind {
    /// Later entries of a key win. What was merged counts as not served: putting an entry that is there changes nothing.
    fn merge_if_long(&mut self) {
        let bytes = |deltas: &Vec<ViewDelta>| deltas.iter().map(ViewDelta::bytes).sum::<usize>();
        let all: usize = self.owed.iter().map(bytes).sum();
        if self.owed.len() < 2 || all < BACKLOG_BYTES_MAX.max(2 * bytes(&self.owed[0])) {
            return;
        }
        self.merge();
    }

    fn merge(&mut self) {
        let mut merged = self.owed.remove(0);
        for later in self.owed.drain(..) {
            merged.iter_mut().zip(later).for_each(|(delta, next)| delta.append(next));
        }
        self.owed.push(merged);
        self.served = 0;
    }
}

impl LookUp for LiveViews {
    fn look_up(&self, keys: &[ArrayRef], times: &[Option<i64>]) -> Result<Vec<ArrayRef>> {
        let copies = self.newest.load();
        let times: Vec<i64> = times.iter().map(|t| t.unwrap_or(copies.newest)).collect();
        let mut columns = Vec::new();
        for (view, keys) in copies.views.iter().zip(keys) {
            columns.extend(view.look_up(keys, &times)?);
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{AsArray, Int64Array, RecordBatch},
        datatypes::{DataType, Int64Type},
    };
    use tidemill_stream::{
        aggregate::{AggregateSpec, Feed, Function, Views, WindowSpec},
        journal::PartitionId,
        sequencer::Take,
    };

    use super::*;

    fn spec() -> ViewSpec {
        let count = AggregateSpec {
            name: "n".into(),
            function: Function::Count,
            feed: 0,
            column: None,
            ty: DataType::Null,
            window: WindowSpec::tumble(60_000).unwrap(),
        };
        let feeds = vec![Feed { input: 0, key: 0, passes: None }];
        ViewSpec { name: "v".into(), feeds, aggregates: vec![count], read_key: 0, ttl_ms: 60_000, keys_max: 40 }
    }

    fn count_of(live: &LiveViews, key: i64) -> i64 {
        let keys = Arc::new(Int64Array::from(vec![key])) as ArrayRef;
        live.look_up(&[keys], &[None]).unwrap()[0].as_primitive::<Int64Type>().value(0)
    }

    /// Whether a request holds a copy or not, and however much is owed meanwhile: the next request sees what was taken in.
    #[test]
    fn a_request_that_never_ends_stops_nobody_and_costs_no_change() {
        let mut views = Views::new(&[spec()]).unwrap();
        let live = LiveViews::open(&[spec()]).unwrap();
        live.publish(views.publish_all(), 0);
        let mut counts = [0i64; 60];
        let mut held = None;
        for i in 0..600usize {
            let key = i * 7 % 60;
            let take = Take {
                id: PartitionId { input: 0, partition: 0 },
                rows: RecordBatch::try_from_iter([("k", Arc::new(Int64Array::from(vec![key as i64])) as ArrayRef)])
                    .unwrap(),
                event_times: vec![i as i64],
            };
            views.step(&[take], i64::MIN).unwrap();
            counts[key] += 1;
            match i {
                100 => held = Some(live.newest.load_full()),
                400 => held = None,
                _ => {}
            }
            live.publish(views.take_deltas(), views.newest());
            if i % 50 == 7 {
                let mut behind = live.behind.lock().unwrap();
                if behind.owed.len() > 1 {
                    behind.merge();
                }
            }
            if held.is_none() {
                // 40 of 60 keys are kept: the one that just came is, with what it had if it was not evicted meanwhile.
                assert_eq!(count_of(&live, key as i64), count_in(&mut views, key as i64, i as i64), "{i}");
            }
        }
        assert!(views.views()[0].counts().evicted > 100);
        assert!(counts.iter().all(|n| *n == 10));
    }

    /// What training would read.
    fn count_in(views: &mut Views, key: i64, ts: i64) -> i64 {
        let mut copy = ViewCopy::new(&spec()).unwrap();
        let mut out = tidemill_base::codec::Encoder::new();
        let saved = views.encode(true, &mut out);
        let mut same = Views::new(&[spec()]).unwrap();
        let mut entries = same.restoring();
        entries.begin(&saved.head()).unwrap();
        saved.blocks(|block| entries.take(&block).map(|()| true).unwrap());
        same.restore(&mut tidemill_base::codec::Decoder::new(out.as_slice(), "views"), entries).unwrap();
        copy.apply(&same.publish_all()[0]);
        let keys = Arc::new(Int64Array::from(vec![key])) as ArrayRef;
        copy.look_up(&keys, &[ts]).unwrap()[0].as_primitive::<Int64Type>().value(0)
    }
}
