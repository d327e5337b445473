//! Where everything of one key stands: a view, laid out as words of four bytes.
//!
//! ```text
//! key 2 | newest event time 2 | of each paned window: its pane 2 | totals of each window | last values | panes of each window
//! ```
//!
//! What every event touches stands first, so that it shares a cache line; of the panes an event touches one for each
//! window. A pane and the totals have the same cells in the same order, so that the totals are the panes, merged.

use tidemill_base::Result;

use super::spec::{Function, ViewSpec, WindowSpec};

/// Word of the key.
pub(super) const KEY: usize = 0;
/// Word of the newest event time.
pub(super) const NEWEST: usize = 2;
const HEADER: usize = 4;
/// Words in a cache line: an entry takes whole ones.
const LINE: usize = 16;

/// One number or sketch of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellKind {
    /// u32.
    Count,
    /// f64.
    Sum,
    /// f64; above all numbers where there is none.
    Min,
    /// f64; below all numbers where there is none.
    Max,
    /// A sketch of so many words.
    Sketch(u32),
    /// f64: a count whose events fade.
    Weight,
}

impl CellKind {
    fn words(self) -> usize {
        match self {
            Self::Count => 1,
            Self::Sketch(words) => words as usize,
            Self::Sum | Self::Min | Self::Max | Self::Weight => 2,
        }
    }
}

/// A cell and its place within a pane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub kind: CellKind,
    pub at: usize,
    feed: usize,
    column: Option<usize>,
}

/// One window with the cells of all aggregates over it.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub spec: WindowSpec,
    pub cells: Vec<Cell>,
    /// Words of a pane.
    pub stride: usize,
    /// Where the totals begin.
    pub total: usize,
    /// Where the number of the newest pane stands; paned windows only.
    pub pane: usize,
    /// Where the panes begin; windows of several panes only.
    pub ring: usize,
    pub panes: usize,
    pub pane_ms: i64,
    /// Whether the cells are counts and nothing else: those are taken back by subtraction.
    pub counts_only: bool,
}

/// The last values of a column: how many there are, where the next goes, the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lasts {
    pub at: usize,
    pub kept: usize,
    feed: usize,
    column: Option<usize>,
}

/// What one event does to a window, or to last values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Add {
    pub kind: CellKind,
    pub at: usize,
    /// Place among the feed's arguments; `None`: the event itself.
    pub argument: Option<usize>,
}

/// What an event of one feed does.
#[derive(Clone, Debug, Default)]
pub(super) struct Feeding {
    /// By window.
    pub windows: Vec<(usize, Vec<Add>)>,
    pub lasts: Vec<(Lasts, usize)>,
    /// Columns it needs, each as this.
    pub arguments: Vec<(usize, ArgumentKind)>,
}

/// As what a column is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArgumentKind {
    /// Whether it is NULL.
    Presence,
    /// A finite number.
    Number,
    /// A hash.
    Hash,
    /// A whole number as it is, a number's bits, a text's hash.
    Kept,
}

/// How one output column is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Read {
    Count(usize),
    Float(usize),
    Mean { sum: usize, count: usize },
    FadingMean { sum: usize, weight: usize },
    Extreme(usize),
    Distinct { at: usize, words: usize },
    Last { lasts: Lasts, back: usize },
    Ratio { of: usize, to: usize, alpha: f64, prior: f64 },
}

/// A view, laid out.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Words of an entry.
    pub words: usize,
    pub windows: Vec<Window>,
    pub lasts: Vec<Lasts>,
    pub feedings: Vec<Feeding>,
    pub reads: Vec<Read>,
    /// Whether the output is a whole number.
    pub whole: Vec<bool>,
    pub ttl_ms: i64,
}

impl Layout {
    pub fn new(view: &ViewSpec) -> Result<Self> {
        view.check()?;
        let mut layout = Self {
            words: HEADER,
            windows: Vec::new(),
            lasts: Vec::new(),
            feedings: vec![Feeding::default(); view.feeds.len()],
            reads: Vec::new(),
            whole: view.aggregates.iter().map(|a| a.output() == arrow::datatypes::DataType::Int64).collect(),
            ttl_ms: view.ttl_ms,
        };
        let cells: Vec<_> = view.aggregates.iter().map(|a| layout.cells_of(a)).collect();
        layout.place();
        for (aggregate, cells) in view.aggregates.iter().zip(cells) {
            let read = layout.read_of(aggregate, &cells);
            layout.reads.push(read);
        }
        layout.feed();
        layout.words = layout.words.next_multiple_of(LINE);
        if layout.words > super::spec::WORDS_MAX {
            let (bytes, most) = (layout.words * 4, super::spec::WORDS_MAX * 4);
            return Err(tidemill_base::Error::invalid(format!(
                "{}: one key takes {bytes} bytes, at most {most}; take fewer panes or smaller sketches",
                view.name
            )));
        }
        Ok(layout)
    }

    /// Window and cell of each number the aggregate is made of; equal ones are shared.
    fn cells_of(&mut self, a: &super::AggregateSpec) -> Vec<(usize, usize)> {
        let fading = matches!(a.window, WindowSpec::Decay { .. });
        let count = if fading { CellKind::Weight } else { CellKind::Count };
        let kinds = match a.function {
            Function::Count => vec![count],
            Function::Sum => vec![CellKind::Sum],
            Function::Mean => vec![CellKind::Sum, count],
            Function::Min => vec![CellKind::Min],
            Function::Max => vec![CellKind::Max],
            Function::Distinct { registers } => vec![CellKind::Sketch(registers / 4)],
            Function::Ratio { .. } => return Vec::new(),
            Function::Last { kept, .. } => {
                let lasts = Lasts { at: 0, kept, feed: a.feed, column: a.column };
                if !self.lasts.contains(&lasts) {
                    self.lasts.push(lasts);
                }
                return Vec::new();
            }
        };
        let window = self.windows.iter().position(|w| w.spec == a.window).unwrap_or_else(|| {
            self.windows.push(Window::new(a.window));
            self.windows.len() - 1
        });
        kinds.into_iter().map(|kind| (window, self.windows[window].cell(kind, a.feed, a.column))).collect()
    }

    fn place(&mut self) {
        let at = &mut self.words;
        for w in self.windows.iter_mut().filter(|w| w.panes > 0) {
            w.pane = *at;
            *at += 2;
        }
        for w in &mut self.windows {
            w.total = *at;
            *at += w.stride;
        }
        for lasts in &mut self.lasts {
            lasts.at = *at;
            *at += 2 + 2 * lasts.kept;
        }
        for w in self.windows.iter_mut().filter(|w| w.panes > 1) {
            w.ring = *at;
            *at += w.stride * w.panes;
        }
    }

    fn read_of(&self, a: &super::AggregateSpec, cells: &[(usize, usize)]) -> Read {
        let at = |i: usize| {
            let (window, cell) = cells[i];
            self.windows[window].total + self.windows[window].cells[cell].at
        };
        let fading = matches!(a.window, WindowSpec::Decay { .. });
        match a.function {
            Function::Count if fading => Read::Float(at(0)),
            Function::Count => Read::Count(at(0)),
            Function::Sum => Read::Float(at(0)),
            Function::Mean if fading => Read::FadingMean { sum: at(0), weight: at(1) },
            Function::Mean => Read::Mean { sum: at(0), count: at(1) },
            Function::Min | Function::Max => Read::Extreme(at(0)),
            Function::Distinct { registers } => Read::Distinct { at: at(0), words: registers as usize / 4 },
            Function::Ratio { of, to, alpha, prior } => Read::Ratio { of, to, alpha, prior },
            Function::Last { kept, back } => {
                let same = |l: &&Lasts| (l.kept, l.feed, l.column) == (kept, a.feed, a.column);
                let lasts = *self.lasts.iter().find(same).expect("every LAST was given a place");
                Read::Last { lasts, back }
            }
        }
    }

    fn feed(&mut self) {
        for (feed, feeding) in self.feedings.iter_mut().enumerate() {
            for (w, window) in self.windows.iter().enumerate() {
                let mut adds = Vec::new();
                for cell in window.cells.iter().filter(|c| c.feed == feed) {
                    let kind = match cell.kind {
                        CellKind::Count | CellKind::Weight => ArgumentKind::Presence,
                        CellKind::Sum | CellKind::Min | CellKind::Max => ArgumentKind::Number,
                        CellKind::Sketch(_) => ArgumentKind::Hash,
                    };
                    let argument = cell.column.map(|c| feeding.argument(c, kind));
                    adds.push(Add { kind: cell.kind, at: cell.at, argument });
                }
                if !adds.is_empty() {
                    feeding.windows.push((w, adds));
                }
            }
            for lasts in self.lasts.iter().filter(|l| l.feed == feed) {
                if let Some(column) = lasts.column {
                    let argument = feeding.argument(column, ArgumentKind::Kept);
                    feeding.lasts.push((*lasts, argument));
                }
            }
        }
    }
}

impl Feeding {
    fn argument(&mut self, column: usize, kind: ArgumentKind) -> usize {
        self.arguments.iter().position(|a| *a == (column, kind)).unwrap_or_else(|| {
            self.arguments.push((column, kind));
            self.arguments.len() - 1
        })
    }
}

impl Window {
    fn new(spec: WindowSpec) -> Self {
        let (panes, pane_ms) = match spec {
            WindowSpec::Paned { pane_ms, panes } => (panes as usize, pane_ms),
            WindowSpec::Session { .. } | WindowSpec::Decay { .. } | WindowSpec::Lifetime => (0, 0),
        };
        Self { spec, cells: Vec::new(), stride: 0, total: 0, pane: 0, ring: 0, panes, pane_ms, counts_only: true }
    }

    fn cell(&mut self, kind: CellKind, feed: usize, column: Option<usize>) -> usize {
        let same = |c: &Cell| (c.kind, c.feed, c.column) == (kind, feed, column);
        self.cells.iter().position(same).unwrap_or_else(|| {
            self.cells.push(Cell { kind, at: self.stride, feed, column });
            self.stride += kind.words();
            self.counts_only &= kind == CellKind::Count;
            self.cells.len() - 1
        })
    }
}
