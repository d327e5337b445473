//! A compiled expression: operations on columns, block by block.
//!
//! In: columns of numbers (NaN for NULL), a few numbers of the request, hashes of the items' ids and a seed. Out: one
//! number for each item. What is the same for all items is computed once; the rest goes through blocks small enough that
//! all intermediate columns stay in the processor's nearest cache. The bits do not depend on the block.

use tidemill_model::simd::wide;

use super::kernel::{Arg, Curve, Op, Run};

/// Items in a block: 4 KiB a column.
pub(super) const BLOCK: usize = 512;

/// Where an operation finds an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// A column of the input.
    Column(u16),
    /// An intermediate column.
    Register(u16),
    /// One number for all items.
    Scalar(u16),
}

/// Where an operation puts its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Register(u16),
    /// The result of the program.
    Out,
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub op: Op,
    /// Arguments beyond those the operation has are scalar 0, which nobody reads.
    pub args: [Operand; 4],
    pub place: Place,
}

/// What is computed once: a scalar from scalars, put behind those that are there.
#[derive(Clone, Debug)]
pub(super) struct Once {
    pub op: Op,
    pub args: [u16; 4],
}

/// Operations in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Code {
    pub constants: Vec<f64>,
    /// Scalars that the caller gives, behind the constants.
    pub given: usize,
    pub once: Vec<Once>,
    pub steps: Vec<Step>,
    pub registers: usize,
    /// Where the result is when no step puts it out.
    pub result: Option<Operand>,
    pub curves: Vec<Curve>,
}

/// What a program works with, kept between runs.
#[derive(Debug, Default)]
pub struct RunScratch {
    scalars: Vec<f64>,
    registers: Vec<Vec<f64>>,
}

/// What a program reads.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub columns: &'a [&'a [f64]],
    pub given: &'a [f64],
    pub items: &'a [u64],
    pub seed: u64,
}

impl Code {
    /// Computes one number for each item of `out`; the columns, and the items where there are random numbers, must be of
    /// the same length.
    pub fn run(&self, input: Input<'_>, scratch: &mut RunScratch, out: &mut [f64]) {
        self.compute_scalars(input.given, &mut scratch.scalars);
        scratch.registers.resize_with(self.registers.max(scratch.registers.len()), || vec![0.0; BLOCK]);
        for (i, out) in out.chunks_mut(BLOCK).enumerate() {
            self.block(input, i * BLOCK, &scratch.scalars, &mut scratch.registers, out);
        }
    }

    fn compute_scalars(&self, given: &[f64], scalars: &mut Vec<f64>) {
        assert_eq!(given.len(), self.given, "each number of the request is given");
        scalars.clear();
        scalars.extend_from_slice(&self.constants);
        scalars.extend_from_slice(given);
        for once in &self.once {
            let args = once.args.map(|s| Arg::One(scalars.get(usize::from(s)).copied().unwrap_or(0.0)));
            let mut out = [0.0];
            wide(Run { op: once.op, curves: &self.curves, args, items: &[], seed: 0, out: &mut out });
            scalars.push(out[0]);
        }
    }

    fn block(&self, input: Input<'_>, from: usize, scalars: &[f64], registers: &mut [Vec<f64>], out: &mut [f64]) {
        let n = out.len();
        let items = input.items.get(from..from + n).unwrap_or(&[]);
        for step in &self.steps {
            // Taken out while it is written: an operation never reads the register it writes.
            let mut taken = match step.place {
                Place::Register(r) => std::mem::take(&mut registers[usize::from(r)]),
                Place::Out => Vec::new(),
            };
            let args = step.args.map(|operand| arg(operand, input, from, n, scalars, registers));
            let target = match step.place {
                Place::Register(_) => &mut taken[..n],
                Place::Out => &mut out[..],
            };
            wide(Run { op: step.op, curves: &self.curves, args, items, seed: input.seed, out: target });
            if let Place::Register(r) = step.place {
                registers[usize::from(r)] = taken;
            }
        }
        match self.result.map(|operand| arg(operand, input, from, n, scalars, registers)) {
            None => {}
            Some(Arg::Many(column)) => out.copy_from_slice(column),
            Some(Arg::One(x)) => out.fill(x),
        }
    }
}

#[inline]
fn arg<'a>(
    operand: Operand,
    input: Input<'a>,
    from: usize,
    n: usize,
    scalars: &[f64],
    registers: &'a [Vec<f64>],
) -> Arg<'a> {
    match operand {
        Operand::Column(c) => Arg::Many(&input.columns[usize::from(c)][from..from + n]),
        Operand::Register(r) => Arg::Many(&registers[usize::from(r)][..n]),
        Operand::Scalar(s) => Arg::One(scalars.get(usize::from(s)).copied().unwrap_or(0.0)),
    }
}
