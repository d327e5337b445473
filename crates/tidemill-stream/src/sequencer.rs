//! The sequencer: cuts the events of all partitions into numbered mini-batches.
//!
//! In: partitions. Out: [`Cut`]s, each with the record that reproduces it. Ordered partitions (bounded files, the generator)
//! are merged by event time and cut at exact counts, so two runs of one program cut alike whatever the speed of reading;
//! live partitions give what has arrived, and there the journal is the truth. [`Sequencer::replay`] takes a record instead of
//! deciding. A row belongs to the cut that its offset falls in; a refused row to the cut that passes it.

mod ahead;
mod lane;
mod wide;

use arrow::array::RecordBatch;
use std::sync::Arc;

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use crate::{
    Position, Refused,
    flow::{Flow, Held, Reading},
    journal::{CutRecord, PartitionId, Record},
    source::{Partition, Print, SwitchAt},
    window::{Watermarks, Window},
};
use ahead::Permits;
use lane::{Extent, Lane, Seen};

/// Rows of one partition in a mini-batch.
#[derive(Debug)]
pub struct Take {
    /// Where they come from.
    pub id: PartitionId,
    /// Rows that passed the view's filter.
    pub rows: RecordBatch,
    /// Event time of each of `rows`.
    pub event_times: Vec<i64>,
}

/// One mini-batch: its events, what was refused, and the watermark behind it.
#[derive(Debug, Default)]
pub struct Cut {
    /// What the journal keeps of it.
    pub record: CutRecord,
    /// Rows by partition, left input first.
    pub takes: Vec<Take>,
    /// Events that were not let in.
    pub refused: Vec<(PartitionId, Refused)>,
    /// Events let in, those a filter dropped included.
    pub events: u64,
    /// No more events up to this time are expected.
    pub watermark: i64,
    /// Whether every partition has ended.
    pub is_last: bool,
    /// Events passed over, where history and stream overlap.
    pub passed: u64,
}

/// What the next mini-batch takes from the ordered partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    ends: Vec<(PartitionId, u64)>,
    finished: Vec<PartitionId>,
    ts_max: i64,
}

/// What is done between two pieces of work, so that others on the same core may come first. Nothing follows from it.
pub type Pause = Arc<dyn Fn() + Send + Sync>;

/// Cuts mini-batches.
pub struct Sequencer {
    inputs: Vec<Input>,
    /// All partitions, by input.
    ids: Arc<[PartitionId]>,
    marks: Watermarks,
    mini_batch: u64,
    cut_events: usize,
    plan: Option<Plan>,
    /// Whether the plan ends, or is none, because the next event of an ordered partition has not come.
    is_waiting: bool,
    /// What the clock says, if anybody asked it.
    clock_ms: Option<i64>,
    pause: Option<Pause>,
    /// For partitions that are read ahead.
    permits: Option<Permits>,
}

struct Input {
    window: Window,
    /// Where the lanes that are no history take over from those that are, if there are such.
    switch: Option<SwitchAt>,
    /// How far events of live partitions may be ahead of the clock.
    ahead_max_ms: Option<i64>,
    /// How far live partitions are read ahead of the slowest that has unread events.
    drift_max_ms: Option<i64>,
    lanes: Vec<Lane>,
    flow: Flow,
}

/// Events that one cut takes from one live partition at most; the rest waits for the next cut.
const LIVE_EVENTS_MAX: usize = 8192;

impl Sequencer {
    /// A sequencer whose cuts hold `cut_events` ordered events (the last one fewer), over inputs of this window and
    /// watermark bound (event milliseconds).
    pub fn new(inputs: Vec<(Window, i64)>, cut_events: usize) -> Self {
        let marks = Watermarks::new(inputs.iter().map(|i| i.1));
        let new_input = |window| Input {
            window,
            switch: None,
            ahead_max_ms: None,
            drift_max_ms: None,
            lanes: Vec::new(),
            flow: Flow::default(),
        };
        let inputs = inputs.into_iter().map(|(window, _)| new_input(window)).collect();
        Self {
            inputs,
            ids: Arc::default(),
            marks,
            mini_batch: 0,
            cut_events: cut_events.max(1),
            plan: None,
            is_waiting: false,
            clock_ms: None,
            pause: None,
            permits: None,
        }
    }

    /// From now on up to so many of the partitions that are added, and whose rows are all there, are read ahead at once, each
    /// on a thread of its own. What is cut is the same.
    pub fn read_ahead(&mut self, partitions_max: usize) {
        self.permits = Some(Permits::new(partitions_max));
    }

    /// From now on an event of a live partition of this input is refused when it is farther ahead of the clock. Where
    /// one is, the record keeps what the clock said, so that a replay refuses the same; ordered partitions are let in
    /// as they are, whatever gaps their times have.
    pub fn bound_ahead(&mut self, input: usize, ahead_max_ms: Option<i64>) {
        self.inputs[input].ahead_max_ms = ahead_max_ms;
    }

    /// From now on a live partition of this input waits while it is farther ahead, in event time, than the slowest live
    /// partition of any input that is known to have unread events: what is read waits for that one anyway, in memory.
    pub fn bound_drift(&mut self, input: usize, drift_max_ms: Option<i64>) {
        self.inputs[input].drift_max_ms = drift_max_ms;
    }

    /// What the clock says at the next cut; `None`: it is not to be believed.
    pub fn set_clock(&mut self, clock_ms: Option<i64>) {
        self.clock_ms = clock_ms;
    }

    /// Adds a partition. A live one begins idle: it does not hold the watermark before its first event.
    pub fn add_partition(&mut self, input: usize, partition: Box<dyn Partition>, ordered: bool) -> PartitionId {
        let Input { window, lanes, .. } = &mut self.inputs[input];
        let id = PartitionId { input: input as u32, partition: lanes.len() as u32 };
        let mut lane = Lane::new(partition, window.clone(), ordered, self.permits.as_ref());
        lane.pause.clone_from(&self.pause);
        lanes.push(lane);
        let behind = self.ids.partition_point(|other| *other < id);
        self.ids = [&self.ids[..behind], &[id], &self.ids[behind..]].concat().into();
        // Behind a history an ordered one does not hold the watermark either before its first event.
        let is_idle = !ordered || self.inputs[input].switch.is_some();
        self.marks.add_partition(input, is_idle);
        id
    }

    /// Pauses from now on when rows were read, and when they were widened.
    pub fn pause_between(&mut self, pause: Pause) {
        let lanes = self.inputs.iter_mut().flat_map(|input| &mut input.lanes);
        lanes.for_each(|lane| lane.pause = Some(pause.clone()));
        self.pause = Some(pause);
    }

    /// From now on this input has history: partitions added by [`Sequencer::add_history`] come first, each other one begins
    /// when they have ended; those that are not ordered wait for the history of every input.
    pub fn switch(&mut self, input: usize, at: SwitchAt) {
        self.inputs[input].switch = Some(at);
    }

    /// Adds a partition of an input's history, which is ordered. They are added before the others.
    pub fn add_history(&mut self, input: usize, partition: Box<dyn Partition>) -> PartitionId {
        let id = self.add_partition(input, partition, true);
        self.marks.set_idle(input, id.partition as usize, false);
        let lane = self.lane_mut(id);
        lane.is_history = true;
        self.limit(id);
        id
    }

    /// Sets which events of a lane are let in.
    fn limit(&mut self, id: PartitionId) {
        let Some(at) = self.inputs[id.input as usize].switch else { return };
        let is_history = self.lane(id).is_history;
        let extent = match (at, is_history) {
            (SwitchAt::Time(ts), true) => Extent { before: ts, ..Extent::ALL },
            (SwitchAt::Time(ts), false) => Extent { behind: ts.saturating_sub(1), ..Extent::ALL },
            (SwitchAt::Offset(first), false) => Extent { first, ..Extent::ALL },
            (SwitchAt::End, false) => Extent { behind: self.history_end(id.input), ..Extent::ALL },
            (SwitchAt::End | SwitchAt::Offset(_), true) => Extent::ALL,
        };
        self.lane_mut(id).extent = extent;
    }

    /// The latest event time of an input's history, once all of it was read.
    fn history_end(&self, input: u32) -> i64 {
        let lanes = self.inputs[input as usize].lanes.iter().enumerate().filter(|(_, lane)| lane.is_history);
        let seen = |i: usize| self.marks.event_time_max_of(input as usize, i).unwrap_or(i64::MIN);
        lanes.map(|(i, lane)| lane.read_max.max(seen(i))).max().unwrap_or(i64::MIN)
    }

    /// Whether history goes on, of one input or (`None`) of any.
    fn has_history(&self, of: Option<u32>) -> bool {
        let ids = self.ids().filter(|id| of.is_none_or(|input| id.input == input));
        ids.filter(|id| self.lane(*id).is_history).any(|id| !self.is_finished(id))
    }

    /// Refuses a partition whose file is no longer the one that an earlier run took this print of.
    pub fn check_print(&mut self, id: PartitionId, print: Print, source: &str) -> Result<()> {
        self.lane_mut(id).check_print(print, source)
    }

    /// Prints of files that reach farther than those known: for the journal, before anything is saved that stands on them.
    pub fn new_prints(&self) -> Result<Vec<(PartitionId, Print)>> {
        let mut prints = Vec::new();
        for id in self.ids() {
            prints.extend(self.lane(id).new_print()?.map(|print| (id, print)));
        }
        Ok(prints)
    }

    /// The journal has this print.
    pub fn keep_print(&mut self, id: PartitionId, print: Print) {
        self.lane_mut(id).keep_print(print);
    }

    /// What a journal says of the partitions there are, before anything else.
    pub fn past(&self) -> Vec<Record> {
        let mut past = Vec::new();
        for id in self.ids() {
            let lane = self.lane(id);
            past.push(Record::Partition { input: id.input, name: lane.name.clone(), ordered: lane.ordered });
            past.extend(lane.print().map(|print| Record::Print(id, print)));
        }
        past.push(Record::Opened);
        past
    }

    /// Names of an input's partitions, by number.
    pub fn partition_names(&self, input: usize) -> Vec<String> {
        self.inputs[input].lanes.iter().map(|l| l.name.clone()).collect()
    }

    /// One partition's name.
    pub fn partition_name(&self, id: PartitionId) -> &str {
        &self.lane(id).name
    }

    /// Whether every partition has ended.
    pub fn all_finished(&self) -> bool {
        self.ids().all(|id| self.is_finished(id))
    }

    /// The watermark behind the last mini-batch.
    pub fn watermark(&self) -> i64 {
        self.marks.value()
    }

    /// Names of ended partitions that have rows behind their end: they have grown since.
    pub fn grown(&mut self) -> Result<Vec<String>> {
        let mut grown = Vec::new();
        for id in self.ids().filter(|&id| self.is_finished(id)).collect::<Vec<_>>() {
            let lane = self.lane_mut(id);
            if lane.has_more()? {
                grown.push(lane.name.clone());
            }
        }
        Ok(grown)
    }

    /// The latest event time taken so far, once there was one.
    pub fn event_time_max(&self) -> Option<i64> {
        self.marks.event_time_max()
    }

    /// Live partitions that have not ended, and whether each is idle.
    pub fn live_partitions(&self) -> Vec<(PartitionId, bool)> {
        let live = self.ids().filter(|&id| !self.lane(id).ordered && !self.is_finished(id));
        live.map(|id| (id, self.marks.is_idle(id.input as usize, id.partition as usize))).collect()
    }

    /// Whether whoever brings rows says so, on every partition from which some may come.
    pub fn is_announced(&self) -> bool {
        !self.is_waiting && self.live_partitions().iter().all(|&(id, _)| self.lane(id).is_announced())
    }

    /// What keeps rows of live partitions from coming: the first one's, and how many there are.
    pub fn trouble(&self) -> Option<(String, usize)> {
        let mut troubles = self.ids().filter_map(|id| self.lane(id).trouble());
        troubles.next().map(|first| (first, 1 + troubles.count()))
    }

    /// What an input has let through.
    pub fn flow(&self, input: usize) -> &Flow {
        &self.inputs[input].flow
    }

    /// How an input's partitions stand.
    pub fn reading(&self, input: usize) -> Reading {
        let lanes = &self.inputs[input].lanes;
        let mut reading = Reading { partitions: lanes.len(), ..Reading::default() };
        let mut slowest: Option<(i64, usize)> = None;
        for (i, lane) in lanes.iter().enumerate() {
            reading.waiting += lane.waiting();
            if self.marks.is_finished(input, i) {
                reading.finished += 1;
            } else if self.marks.is_idle(input, i) {
                reading.idle += 1;
            } else {
                let at = (self.marks.event_time_max_of(input, i).unwrap_or(i64::MIN), i);
                slowest = Some(slowest.map_or(at, |slowest| slowest.min(at)));
            }
        }
        reading.slowest = slowest.map(|(_, i)| lanes[i].name.clone());
        reading.watermark = Some(self.marks.of_input(input)).filter(|w| *w != i64::MIN);
        reading
    }

    /// What keeps an input from being read, as of the last cut.
    pub fn held(&self, input: usize) -> Held {
        let lanes = self.inputs[input].lanes.iter().enumerate().filter(|(i, _)| !self.marks.is_finished(input, *i));
        let mut lanes = lanes.map(|(_, lane)| lane).peekable();
        if lanes.peek().is_none() {
            Held::Ended
        } else if lanes.clone().any(|lane| lane.is_held) {
            Held::Drift
        } else if lanes.clone().any(|lane| lane.trouble().is_some()) {
            Held::Away
        } else if lanes.all(|lane| lane.is_silent()) {
            Held::Silent
        } else {
            Held::No
        }
    }

    /// Cuts a last mini-batch that takes what has arrived on the live partitions and declares them ended, so that
    /// everything that waits is decided.
    pub fn finish_live(&mut self) -> Result<Cut> {
        let mut record = CutRecord { mini_batch: self.mini_batch + 1, ..CutRecord::default() };
        for (id, _) in self.live_partitions() {
            let input = &mut self.inputs[id.input as usize];
            let end = input.lanes[id.partition as usize].arrived(usize::MAX)?;
            record.ends.push((id, end));
            record.finished.push(id);
        }
        self.carry_out(record, self.clock_ms)
    }

    /// Mini-batch `mini_batch` was cut by another sequencer: this one only counts along.
    pub fn follow(&mut self, mini_batch: u64) {
        self.mini_batch = mini_batch;
    }

    /// Number of the last mini-batch cut.
    pub fn mini_batch(&self) -> u64 {
        self.mini_batch
    }

    /// Decides what the next mini-batch takes from the ordered partitions, and says the latest event time in it (for a
    /// paced run to wait for); `None` when they are all finished. Deciding twice decides the same.
    pub fn plan_ordered(&mut self) -> Result<Option<i64>> {
        if self.plan.is_none() {
            self.plan = self.decide()?;
        }
        Ok(self.plan.as_ref().map(|p| p.ts_max))
    }

    /// Whether nothing is planned, or less, only because an ordered partition's store is away.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Cuts a mini-batch: what was planned of the ordered partitions when `with_ordered`, what has arrived on the live
    /// ones, and these live partitions as newly idle. `None` when there is nothing to say.
    pub fn cut(&mut self, with_ordered: bool, newly_idle: &[PartitionId]) -> Result<Option<Cut>> {
        if with_ordered {
            self.plan_ordered()?;
        }
        let plan = if with_ordered { self.plan.take() } else { None };
        let mut record = CutRecord { mini_batch: self.mini_batch + 1, ..CutRecord::default() };
        if let Some(plan) = plan {
            record.ends = plan.ends;
            record.finished = plan.finished;
        }
        let slowest = self.slowest_behind();
        let is_held = self.has_history(None);
        for id in self.ids() {
            let input = &mut self.inputs[id.input as usize];
            let lane = &mut input.lanes[id.partition as usize];
            if lane.ordered || self.marks.is_finished(id.input as usize, id.partition as usize) || is_held {
                continue;
            }
            let seen_to = self.marks.event_time_max_of(id.input as usize, id.partition as usize);
            lane.is_held = matches!((slowest, seen_to, input.drift_max_ms), (Some(slowest), Some(seen_to), Some(drift_max_ms))
                if seen_to.saturating_sub(slowest) > drift_max_ms);
            if lane.is_held {
                continue;
            }
            let before = lane.offset;
            lane.is_empty = true;
            let end = lane.arrived(LIVE_EVENTS_MAX)?;
            if end > before {
                lane.is_empty = false;
                record.ends.push((id, end));
                if self.marks.is_idle(id.input as usize, id.partition as usize) {
                    record.idle.push((id, false));
                }
            } else if lane.is_behind() {
                // Its rows are on their way: what others bring meanwhile must not move the watermark past them.
                if self.marks.is_idle(id.input as usize, id.partition as usize) {
                    record.idle.push((id, false));
                }
            } else if newly_idle.contains(&id) && lane.trouble().is_none() {
                record.idle.push((id, true));
            }
        }
        record.ends.sort_unstable();
        let nothing = record.ends.is_empty() && record.idle.is_empty() && record.finished.is_empty();
        if nothing { Ok(None) } else { self.carry_out(record, self.clock_ms).map(Some) }
    }

    /// Takes what a record of an earlier run says.
    pub fn replay(&mut self, record: CutRecord) -> Result<Cut> {
        if record.mini_batch != self.mini_batch + 1 {
            return Err(Error::corrupt(format!(
                "journal: mini-batch {} follows mini-batch {}",
                record.mini_batch, self.mini_batch
            )));
        }
        let named = record.ends.iter().map(|(id, _)| id).chain(record.idle.iter().map(|(id, _)| id));
        for PartitionId { input, partition } in named.chain(&record.finished) {
            let input_of = self.inputs.get(*input as usize);
            let input_of = input_of.ok_or_else(|| Error::corrupt(format!("journal: no input {input}")))?;
            if *partition as usize >= input_of.lanes.len() {
                return Err(Error::corrupt(format!("journal: input {input} has no partition {partition}")));
            }
        }
        self.plan = None;
        let clock_ms = record.clock_ms;
        self.carry_out(record, clock_ms)
    }

    /// Appends the position of every partition and the watermarks.
    pub fn encode(&self, out: &mut Encoder) {
        out.put_u64(self.mini_batch);
        for input in &self.inputs {
            out.put_varint(input.lanes.len() as u64);
            for lane in &input.lanes {
                let resume = lane.resume();
                out.put_str(&lane.name).put_u64(lane.offset).put_u64(resume.offset).put_u64(resume.bytes);
            }
        }
        self.marks.encode(out);
        self.inputs.iter().for_each(|input| input.flow.encode(out));
    }

    /// Takes back what [`Sequencer::encode`] wrote and seeks every partition; those partitions must have been added.
    pub fn restore(&mut self, d: &mut Decoder) -> Result<()> {
        self.mini_batch = d.u64()?;
        self.plan = None;
        let (mut late, mut known) = (Vec::new(), Vec::new());
        for (i, input) in self.inputs.iter_mut().enumerate() {
            let n = d.count(25)?;
            known.push(n);
            for k in 0..n {
                let name = d.str()?.to_string();
                let (offset, resume) = (d.u64()?, Position { offset: d.u64()?, bytes: d.u64()? });
                let lane = input.lanes.get_mut(k).filter(|l| l.name == name).ok_or_else(|| {
                    Error::conflict(format!("partition '{name}' of the checkpoint is no longer there"))
                })?;
                lane.seek(resume, offset)?;
            }
            let is_idle = |k: usize| !input.lanes[k].ordered || (input.switch.is_some() && !input.lanes[k].is_history);
            late.extend((n..input.lanes.len()).map(|k| (i, is_idle(k))));
        }
        self.marks.restore(d, &known)?;
        for input in &mut self.inputs {
            input.flow = Flow::decode(d)?;
        }
        // Partitions that appeared after the checkpoint was written.
        for (input, idle) in late {
            self.marks.add_partition(input, idle);
        }
        Ok(())
    }

    fn decide(&mut self) -> Result<Option<Plan>> {
        let mut plan = Plan { ts_max: i64::MIN, ..Plan::default() };
        let mut left = self.cut_events;
        self.is_waiting = false;
        for id in self.ids() {
            self.lane_mut(id).rewind_peek();
        }
        while left > 0 {
            let heads = self.merge_heads()?;
            // What was planned before is good: then no head was missing.
            let Some((first, limit)) = heads.filter(|_| !self.is_waiting) else { break };
            // At the same time the partition with the lower number goes first.
            let through = limit.map_or(i64::MAX, |(ts, id)| ts.saturating_sub(i64::from(id < first)));
            let (run, end, ts_max) = self.lane_mut(first).peek_run(left, through);
            left -= run;
            plan.ts_max = plan.ts_max.max(ts_max);
            match plan.ends.iter_mut().find(|(id, _)| *id == first) {
                Some((_, at)) => *at = end,
                None => plan.ends.push((first, end)),
            }
        }
        for id in self.ids() {
            if self.is_finished(id) {
                continue;
            }
            let waits = !self.lane(id).is_history && self.history_is_ahead(id.input);
            if let Some(end) = self.lane(id).end_if_exhausted().filter(|_| !waits) {
                plan.finished.push(id);
                plan.ends.retain(|(other, _)| *other != id);
                plan.ends.push((id, end));
            }
        }
        plan.ends.sort_unstable();
        Ok((!plan.ends.is_empty()).then_some(plan))
    }

    /// Whether a plan has not looked at all of an input's history.
    fn history_is_ahead(&self, input: u32) -> bool {
        let mut lanes = self.inputs[input as usize].lanes.iter().enumerate().filter(|(_, lane)| lane.is_history);
        let is_done =
            |i: usize, lane: &Lane| self.marks.is_finished(input as usize, i) || lane.end_if_exhausted().is_some();
        lanes.any(|(i, lane)| !is_done(i, lane))
    }

    /// The ordered partition whose next event is the least by (time, partition), and the runner-up.
    #[expect(clippy::type_complexity, reason = "read once, above")]
    fn merge_heads(&mut self) -> Result<Option<(PartitionId, Option<(i64, PartitionId)>)>> {
        let mut heads: [Option<(i64, PartitionId)>; 2] = [None, None];
        // The input whose history goes on; history comes first among an input's lanes.
        let mut in_history = None;
        for id in self.ids() {
            if self.is_finished(id) || in_history == Some(id.input) && !self.lane(id).is_history {
                continue;
            }
            if !self.lane(id).is_history {
                // It has been looked at to its end.
                self.limit(id);
            }
            let input = &mut self.inputs[id.input as usize];
            let lane = &mut input.lanes[id.partition as usize];
            if !lane.ordered {
                continue;
            }
            let Some(ts) = lane.peek()? else {
                self.is_waiting |= lane.is_awaited();
                continue;
            };
            if lane.is_history {
                in_history = Some(id.input);
            }
            let head = Some((ts, id));
            if heads[0].is_none() || head < heads[0] {
                heads = [head, heads[0]];
            } else if heads[1].is_none() || head < heads[1] {
                heads[1] = head;
            }
        }
        Ok(heads[0].map(|(_, id)| (id, heads[1])))
    }

    fn carry_out(&mut self, mut record: CutRecord, clock_ms: Option<i64>) -> Result<Cut> {
        let mut cut = Cut::default();
        for &(id, end) in &record.ends {
            if !self.lane(id).is_history {
                self.limit(id);
            }
            let input = &mut self.inputs[id.input as usize];
            let lane = &mut input.lanes[id.partition as usize];
            let latest = match (clock_ms, input.ahead_max_ms) {
                (Some(clock_ms), Some(ahead_max_ms)) if !lane.ordered || lane.comes_late => {
                    clock_ms.saturating_add(ahead_max_ms)
                }
                _ => i64::MAX,
            };
            let is_woken = lane.ordered && !lane.is_history && input.switch.is_some();
            let (events, ahead) = (input.flow.events, input.flow.ahead);
            let ts_max = self.marks.event_time_max_of(id.input as usize, id.partition as usize);
            let mut seen = Seen { flow: &mut input.flow, ts_max, passed: 0 };
            lane.take_to(end, latest, id, &mut cut, &mut seen)?;
            cut.passed += seen.passed;
            if is_woken && seen.flow.events > events {
                self.marks.set_idle(id.input as usize, id.partition as usize, false);
            }
            if let Some(ts) = seen.ts_max {
                self.marks.observe(id.input as usize, id.partition as usize, ts);
            }
            if input.flow.ahead > ahead {
                record.clock_ms = clock_ms;
            }
        }
        for &(id, idle) in &record.idle {
            self.marks.set_idle(id.input as usize, id.partition as usize, idle);
        }
        for &id in &record.finished {
            self.marks.finish(id.input as usize, id.partition as usize);
        }
        self.mini_batch = record.mini_batch;
        cut.watermark = self.marks.advance();
        cut.is_last = self.all_finished();
        cut.record = record;
        Ok(cut)
    }

    /// How far the slowest of the live partitions has come that have unread events; of one that has shown none nobody knows.
    fn slowest_behind(&self) -> Option<i64> {
        let behind = self.ids().filter(|id| {
            let lane = self.lane(*id);
            !lane.ordered && !self.is_finished(*id) && lane.is_behind()
        });
        behind.filter_map(|id| self.marks.event_time_max_of(id.input as usize, id.partition as usize)).min()
    }

    fn ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        let ids = self.ids.clone();
        (0..ids.len()).map(move |i| ids[i])
    }

    fn is_finished(&self, id: PartitionId) -> bool {
        self.marks.is_finished(id.input as usize, id.partition as usize)
    }

    fn lane(&self, id: PartitionId) -> &Lane {
        &self.inputs[id.input as usize].lanes[id.partition as usize]
    }

    fn lane_mut(&mut self, id: PartitionId) -> &mut Lane {
        &mut self.inputs[id.input as usize].lanes[id.partition as usize]
    }
}
