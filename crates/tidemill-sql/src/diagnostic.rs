//! What is wrong with a program, where, and what would be right.
//!
//! In: a [`Fault`] with the place it is about. Out: a [`Diagnostic`] that shows the line with a caret under that place.
//! Every refusal of this crate goes through here, so none is without line and column.

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use tidemill_base::Error;

use crate::suggest::nearest;

/// A mistake in a SQL text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, in one sentence.
    pub message: String,
    /// Line, counted from 1.
    pub line: u64,
    /// Column in characters, counted from 1.
    pub column: u64,
    /// The way out, when there is one to name.
    pub hint: Option<String>,
    /// The line it stands in, shortened around the place when it is long.
    pub excerpt: String,
    /// Where the place begins in `excerpt`, in characters from 0.
    pub caret: usize,
    /// How many characters it is long.
    pub width: usize,
}

/// Characters of a line that are shown at most.
const EXCERPT_CHARS_MAX: usize = 120;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} col {}: {}", self.line, self.column, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        let number = self.line.to_string();
        let (margin, caret) = (number.len(), self.caret);
        write!(f, "\n  {number} | {}", self.excerpt)?;
        write!(f, "\n  {:margin$} | {:caret$}{}", "", "", "^".repeat(self.width))
    }
}

impl std::error::Error for Diagnostic {}

impl From<Diagnostic> for Error {
    fn from(d: Diagnostic) -> Self {
        Error::invalid(d.to_string())
    }
}

/// A mistake before its line is looked up.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub span: Span,
    pub message: String,
    pub hint: Option<String>,
}

/// What a step of parsing or binding gives.
pub(crate) type Checked<T> = Result<T, Fault>;

impl Fault {
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: None }
    }

    /// What a later version will know: `not supported yet: WHAT`, and the nearest form that works.
    pub fn unsupported(span: Span, what: impl fmt::Display, instead: impl Into<String>) -> Self {
        Self { span, message: format!("not supported yet: {what}"), hint: Some(instead.into()) }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the known word that is nearest to what was written, or all of them when none is near and they are few.
    pub fn nearest<'a>(mut self, written: &str, known: impl IntoIterator<Item = &'a str>, plural: &str) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        self.hint = match nearest(written, known.iter().copied()) {
            Some(word) => Some(format!("did you mean '{word}'?")),
            None if known.is_empty() => Some(format!("there are no {plural}")),
            None => Some(format!("{plural}: {}", list(&known))),
        };
        self
    }

    pub fn locate(self, text: &str) -> Diagnostic {
        let (span, line_text) = place(self.span, text);
        let chars: Vec<char> = line_text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let from = (span.start.column as usize).saturating_sub(1).min(chars.len());
        let to = if span.end.line == span.start.line { span.end.column as usize } else { chars.len() + 1 };
        let width = to.saturating_sub(1).min(chars.len()).saturating_sub(from).max(1);
        let (excerpt, caret) = shorten(&chars, from);
        let width = width.min(excerpt.chars().count().saturating_sub(caret).max(1));
        let Location { line, column } = span.start;
        Diagnostic { message: self.message, line, column, hint: self.hint, excerpt, caret, width }
    }
}

/// The span and its line; a fault without a place of its own is about the text as a whole.
fn place(span: Span, text: &str) -> (Span, &str) {
    let span = if span.start.line == 0 { Span::new((1, 1).into(), (1, 1).into()) } else { span };
    let line = text.split('\n').nth(span.start.line as usize - 1).unwrap_or("");
    (span, line.trim_end_matches('\r'))
}

fn shorten(chars: &[char], from: usize) -> (String, usize) {
    if chars.len() <= EXCERPT_CHARS_MAX {
        return (chars.iter().collect(), from);
    }
    let begin = from.saturating_sub(EXCERPT_CHARS_MAX / 2);
    let end = (begin + EXCERPT_CHARS_MAX).min(chars.len());
    let (before, after) = (if begin > 0 { "…" } else { "" }, if end < chars.len() { "…" } else { "" });
    (format!("{before}{}{after}", chars[begin..end].iter().collect::<String>()), from - begin + before.chars().count())
}

/// Names in a row, not more of them than a person reads.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN_MAX: usize = 24;
    let mut text = names.iter().take(SHOWN_MAX).map(|n| n.as_ref()).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN_MAX {
        text.push_str(&format!(", ... ({} in all)", names.len()));
    }
    text
}
