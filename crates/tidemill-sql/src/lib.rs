//! SQL in, a bound program out; the only room that knows DataFusion.
//!
//! A text goes through `script` (tokens and statements), `parse` (what was said) and `bind` (what it means). What comes
//! out are plain values for the engine: sources, transforms over Arrow batches, a join's settings, the features. Nothing
//! is opened or run here, and nothing depends on a clock. Each mistake is a [`Diagnostic`] with its line, a caret and the
//! nearest known word.

mod bind;
mod describe;
mod diagnostic;
mod parse;
mod planner;
mod program;
mod script;
mod suggest;
mod transform;

pub use bind::bind;
pub use diagnostic::Diagnostic;
pub use program::{
    AlterModel, EvaluateJob, Input, JoinPart, Known, ModelChange, Pipeline, Program, SinkJob, Statement, TrainJob,
    ViewsPart, sample_columns,
};
pub use script::{DEPTH_MAX, OPERATORS_MAX, SQL_BYTES_MAX, STATEMENTS_MAX};

#[cfg(test)]
mod tests;
