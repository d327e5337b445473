//! One key's words: moved on to a time, read, and changed by an event.
//!
//! The rule of time: a key's time never goes back. An event that is older than the newest of its key reads what the key
//! shows now (it is what a server would have answered when it came), and goes into the pane of its own time while the
//! window still has that pane; behind it the window does not take it, and it is counted. Training and serving read through
//! [`advance`] and [`read`] alike.

use super::{
    layout::{Add, Cell, CellKind, Feeding, KEY, Layout, NEWEST, Read, Window},
    math::half_to_the,
    sketch,
    spec::WindowSpec,
};

/// Instead of the newest event time: the key was never seen.
pub(super) const NEVER: i64 = i64::MIN;

/// In which pane of a window a time falls, for times that come one after the other: dividing is saved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PaneClock {
    begin: i64,
    end: i64,
    pane: i64,
    place: usize,
}

impl PaneClock {
    /// Number of the pane, and its place in the ring.
    #[inline(always)]
    fn at(&mut self, ts: i64, window: &Window) -> (i64, usize) {
        if ts < self.begin || ts >= self.end {
            self.pane = ts.div_euclid(window.pane_ms);
            self.place = self.pane.rem_euclid(window.panes as i64) as usize;
            self.begin = self.pane.saturating_mul(window.pane_ms);
            self.end = self.begin.saturating_add(window.pane_ms);
        }
        (self.pane, self.place)
    }

    /// The first word of the pane that a time falls in; the pane number's for windows of one.
    pub fn touched(&mut self, ts: i64, window: &Window) -> usize {
        match window.panes {
            0 | 1 => window.pane,
            _ => window.ring + self.at(ts, window).1 * window.stride,
        }
    }
}

#[inline(always)]
pub(super) fn get_u64(words: &[u32], at: usize) -> u64 {
    u64::from(words[at]) | u64::from(words[at + 1]) << 32
}

#[inline(always)]
pub(super) fn put_u64(words: &mut [u32], at: usize, x: u64) {
    words[at] = x as u32;
    words[at + 1] = (x >> 32) as u32;
}

fn get_f64(words: &[u32], at: usize) -> f64 {
    f64::from_bits(get_u64(words, at))
}

fn put_f64(words: &mut [u32], at: usize, x: f64) {
    put_u64(words, at, x.to_bits());
}

/// The newest event time, or [`NEVER`].
#[inline(always)]
pub(super) fn newest(entry: &[u32]) -> i64 {
    get_u64(entry, NEWEST) as i64
}

/// The entry of a key that was never seen.
pub(super) fn begin(entry: &mut [u32], key: u64, layout: &Layout) {
    entry.fill(0);
    put_u64(entry, KEY, key);
    put_u64(entry, NEWEST, NEVER as u64);
    for window in layout.windows.iter().filter(|w| !w.counts_only) {
        clear(window, entry, window.total);
        for pane in 0..if window.panes > 1 { window.panes } else { 0 } {
            clear(window, entry, window.ring + pane * window.stride);
        }
    }
}

fn clear(window: &Window, entry: &mut [u32], at: usize) {
    entry[at..at + window.stride].fill(0);
    for cell in &window.cells {
        match cell.kind {
            CellKind::Min => put_f64(entry, at + cell.at, f64::INFINITY),
            CellKind::Max => put_f64(entry, at + cell.at, f64::NEG_INFINITY),
            _ => {}
        }
    }
}

/// Moves the entry on to `ts`, if that is not behind it: what has left its windows goes.
#[inline]
pub(super) fn advance(entry: &mut [u32], ts: i64, layout: &Layout, clocks: &mut [PaneClock]) {
    let last = newest(entry);
    if last != NEVER && ts <= last {
        return;
    }
    if last == NEVER || ts - last > layout.ttl_ms {
        if last != NEVER {
            let key = get_u64(entry, KEY);
            begin(entry, key, layout);
        }
        for (window, clock) in layout.windows.iter().zip(clocks) {
            if window.panes > 0 {
                put_u64(entry, window.pane, clock.at(ts, window).0 as u64);
            }
        }
        put_u64(entry, NEWEST, ts as u64);
        return;
    }
    put_u64(entry, NEWEST, ts as u64);
    for (window, clock) in layout.windows.iter().zip(clocks) {
        match window.spec {
            WindowSpec::Paned { .. } => {
                let (pane, place) = clock.at(ts, window);
                let before = get_u64(entry, window.pane) as i64;
                if pane > before {
                    put_u64(entry, window.pane, pane as u64);
                    turn(window, entry, (pane - before) as u64, place);
                }
            }
            WindowSpec::Session { gap_ms } => {
                if ts - last > gap_ms {
                    clear(window, entry, window.total);
                }
            }
            WindowSpec::Decay { half_life_ms } => {
                let share = half_to_the((ts - last) as f64 / half_life_ms as f64);
                for cell in &window.cells {
                    let at = window.total + cell.at;
                    put_f64(entry, at, get_f64(entry, at) * share);
                }
            }
            WindowSpec::Lifetime => {}
        }
    }
}

/// The newest pane is now `steps` later and stands at `place`: the panes it and those skipped took the places of are gone.
fn turn(window: &Window, entry: &mut [u32], steps: u64, place: usize) {
    if steps >= window.panes as u64 {
        clear(window, entry, window.total);
        for pane in 0..if window.panes > 1 { window.panes } else { 0 } {
            clear(window, entry, window.ring + pane * window.stride);
        }
        return;
    }
    let mut gone = place;
    for _ in 0..steps {
        let at = window.ring + gone * window.stride;
        if window.counts_only {
            let (totals, panes) = entry.split_at_mut(window.ring);
            let totals = &mut totals[window.total..window.total + window.stride];
            let pane = &mut panes[at - window.ring..at - window.ring + window.stride];
            for (total, count) in totals.iter_mut().zip(pane) {
                *total = total.wrapping_sub(*count);
                *count = 0;
            }
        } else {
            clear(window, entry, at);
        }
        gone = if gone == 0 { window.panes - 1 } else { gone - 1 };
    }
    if !window.counts_only {
        // From the oldest pane on, so that sums depend on what is in the window alone.
        clear(window, entry, window.total);
        let (totals, panes) = entry.split_at_mut(window.ring);
        let totals = &mut totals[window.total..window.total + window.stride];
        let oldest = if place + 1 == window.panes { 0 } else { place + 1 };
        for i in 0..window.panes {
            let at = (oldest + i) % window.panes * window.stride;
            window.cells.iter().for_each(|cell| merge(cell, totals, &panes[at..at + window.stride]));
        }
    }
}

fn merge(cell: &Cell, totals: &mut [u32], pane: &[u32]) {
    let at = cell.at;
    let (a, b) = match cell.kind {
        CellKind::Count => {
            totals[at] = totals[at].wrapping_add(pane[at]);
            return;
        }
        CellKind::Sketch(words) => {
            let range = at..at + words as usize;
            return sketch::merge(&mut totals[range.clone()], &pane[range]);
        }
        _ => (get_f64(totals, at), get_f64(pane, at)),
    };
    put_f64(totals, at, joined(cell.kind, a, b));
}

fn joined(kind: CellKind, a: f64, b: f64) -> f64 {
    match kind {
        CellKind::Min if b < a => b,
        CellKind::Max if b > a => b,
        CellKind::Min | CellKind::Max => a,
        _ => a + b,
    }
}

/// What the event brings for each argument of its feed; `None` where it is NULL.
pub(super) trait Arguments {
    fn get(&self, argument: usize) -> Option<u64>;
}

/// Takes an event of time `ts` into the entry, which was moved on to it. Answers how many windows were behind it already.
#[inline]
pub(super) fn update(
    entry: &mut [u32],
    ts: i64,
    feeding: &Feeding,
    arguments: &impl Arguments,
    layout: &Layout,
    clocks: &mut [PaneClock],
) -> u64 {
    let newest = newest(entry);
    let mut missed = 0;
    for (w, adds) in &feeding.windows {
        let window = &layout.windows[*w];
        let mut share = 1.0;
        match window.spec {
            WindowSpec::Paned { .. } => {
                let (pane, place) = clocks[*w].at(ts, window);
                let behind = get_u64(entry, window.pane) as i64 - pane;
                if behind >= window.panes as i64 {
                    missed += 1;
                    continue;
                }
                if window.panes > 1 {
                    let at = window.ring + place * window.stride;
                    adds.iter().for_each(|add| put(add, &mut entry[at..at + window.stride], arguments, 1.0));
                }
            }
            WindowSpec::Session { gap_ms } => {
                if newest - ts > gap_ms {
                    missed += 1;
                    continue;
                }
            }
            WindowSpec::Decay { half_life_ms } => {
                if ts < newest {
                    share = half_to_the((newest - ts) as f64 / half_life_ms as f64);
                }
            }
            WindowSpec::Lifetime => {}
        }
        let totals = &mut entry[window.total..window.total + window.stride];
        adds.iter().for_each(|add| put(add, totals, arguments, share));
    }
    for (lasts, argument) in &feeding.lasts {
        if let Some(bits) = arguments.get(*argument) {
            let (count, next) = (entry[lasts.at] as usize, entry[lasts.at + 1] as usize);
            put_u64(entry, lasts.at + 2 + 2 * next, bits);
            entry[lasts.at] = (count + 1).min(lasts.kept) as u32;
            entry[lasts.at + 1] = if next + 1 == lasts.kept { 0 } else { next as u32 + 1 };
        }
    }
    missed
}

#[inline(always)]
fn put(add: &Add, pane: &mut [u32], arguments: &impl Arguments, share: f64) {
    let bits = match add.argument {
        None => 0,
        Some(argument) => match arguments.get(argument) {
            Some(bits) => bits,
            None => return,
        },
    };
    let at = add.at;
    match add.kind {
        CellKind::Count => pane[at] = pane[at].wrapping_add(1),
        CellKind::Weight => put_f64(pane, at, get_f64(pane, at) + share),
        CellKind::Sum => put_f64(pane, at, get_f64(pane, at) + f64::from_bits(bits) * share),
        CellKind::Min | CellKind::Max => {
            put_f64(pane, at, joined(add.kind, get_f64(pane, at), f64::from_bits(bits)));
        }
        CellKind::Sketch(words) => sketch::add(&mut pane[at..at + words as usize], bits),
    }
}

/// Writes what the entry shows into `out`: which values are NULL, then every value: a whole number, or a number's bits.
#[inline]
pub(super) fn read(entry: &[u32], layout: &Layout, out: &mut [u64]) {
    let (nulls, values) = out.split_first_mut().expect("a word of NULLs stands first");
    *nulls = 0;
    for (i, read) in layout.reads.iter().enumerate() {
        let value = match *read {
            Read::Count(at) => Some(u64::from(entry[at])),
            Read::Float(at) => Some(get_u64(entry, at)),
            Read::Mean { sum, count } => quotient(get_f64(entry, sum), f64::from(entry[count])),
            Read::FadingMean { sum, weight } => quotient(get_f64(entry, sum), get_f64(entry, weight)),
            Read::Extreme(at) => Some(get_f64(entry, at)).filter(|x| x.is_finite()).map(f64::to_bits),
            Read::Distinct { at, words } => Some(sketch::estimate(&entry[at..at + words]) as u64),
            Read::Last { lasts, back } => {
                let (count, next) = (entry[lasts.at] as usize, entry[lasts.at + 1] as usize);
                let place = (next + lasts.kept - 1 - back) % lasts.kept;
                (back < count).then(|| get_u64(entry, lasts.at + 2 + 2 * place))
            }
            Read::Ratio { of, to, alpha, prior } => {
                let number = |i: usize| {
                    let bits = values[i];
                    let number = if layout.whole[i] { bits as i64 as f64 } else { f64::from_bits(bits) };
                    (*nulls >> i & 1 == 0).then_some(number)
                };
                match (number(of), number(to)) {
                    (Some(a), Some(b)) => quotient(a + alpha * prior, b + alpha),
                    _ => None,
                }
            }
        };
        values[i] = value.unwrap_or(0);
        *nulls |= u64::from(value.is_none()) << i;
    }
}

fn quotient(a: f64, b: f64) -> Option<u64> {
    let quotient = a / b;
    quotient.is_finite().then(|| quotient.to_bits())
}
