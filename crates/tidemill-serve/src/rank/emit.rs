//! From values that depend on each other to code.
//!
//! In: operations and their arguments, told one by one. Out: a [`Code`] without what nobody needs. Equal operations are
//! one; what depends on constants only is computed at once, and what depends on the request only is computed once a
//! request. Intermediate columns share registers as soon as their last reader is through.

use std::collections::BTreeMap;

use tidemill_model::simd::wide;

use super::{
    kernel::{Arg, Curve, Op, Run},
    program::{Code, Once, Operand, Place, Step},
};

/// A value, by its number.
pub(super) type Value = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    /// By its bits.
    Constant(u64),
    /// A number of the request.
    Given(u16),
    Column(u16),
    Op(Op, [Value; 4], u8),
}

/// Collects what is to be computed.
#[derive(Default)]
pub(super) struct Emitter {
    nodes: Vec<Node>,
    /// Whether the value is the same for all items.
    uniform: Vec<bool>,
    numbers: BTreeMap<Node, Value>,
    curves: Vec<Curve>,
    calls: u16,
}

impl Emitter {
    pub fn constant(&mut self, x: f64) -> Value {
        self.put(Node::Constant(x.to_bits()), true)
    }

    pub fn given(&mut self, i: u16) -> Value {
        self.put(Node::Given(i), true)
    }

    pub fn column(&mut self, i: u16) -> Value {
        self.put(Node::Column(i), false)
    }

    /// The constant that a value is.
    pub fn as_constant(&self, value: Value) -> Option<f64> {
        match self.nodes[value as usize] {
            Node::Constant(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    /// An operation on up to four values.
    pub fn op(&mut self, op: Op, args: &[Value]) -> Value {
        if op == Op::Choose
            && let Some(condition) = self.as_constant(args[0])
        {
            return if super::kernel::is_true(condition) { args[1] } else { args[2] };
        }
        // The two have the same bits (see `real::pow`).
        if op == Op::Pow {
            match self.as_constant(args[1]) {
                Some(2.0) => return self.op(Op::Mul, &[args[0], args[0]]),
                Some(1.0) => return args[0],
                Some(0.5) => return self.op(Op::Root, &[args[0]]),
                _ => {}
            }
        }
        let constants: Option<Vec<f64>> = args.iter().map(|v| self.as_constant(*v)).collect();
        let of_items = matches!(op, Op::Rand(_) | Op::RandNormal(_) | Op::RandBetween(_));
        if let Some(constants) = constants.filter(|_| !of_items) {
            let mut out = [0.0];
            let mut all = [Arg::One(0.0); 4];
            all.iter_mut().zip(&constants).for_each(|(arg, x)| *arg = Arg::One(*x));
            wide(Run { op, curves: &self.curves, args: all, items: &[], seed: 0, out: &mut out });
            return self.constant(out[0]);
        }
        let uniform = !of_items && args.iter().all(|v| self.uniform[*v as usize]);
        let mut all = [0; 4];
        all[..args.len()].copy_from_slice(args);
        self.put(Node::Op(op, all, args.len() as u8), uniform)
    }

    /// The number of a decay.
    pub fn curve(&mut self, curve: Curve) -> u16 {
        let known = self.curves.iter().position(|c| *c == curve);
        known.unwrap_or_else(|| {
            self.curves.push(curve);
            self.curves.len() - 1
        }) as u16
    }

    /// A number that no other random call has.
    pub fn call(&mut self) -> u16 {
        self.calls += 1;
        self.calls - 1
    }

    fn put(&mut self, node: Node, uniform: bool) -> Value {
        let next = self.nodes.len() as Value;
        let value = *self.numbers.entry(node).or_insert(next);
        if value == next {
            self.nodes.push(node);
            self.uniform.push(uniform);
        }
        value
    }

    /// The code that computes `result`, from so many given numbers.
    pub fn finish(self, result: Value, given: usize) -> Code {
        let last_reader = self.last_readers(result);
        let needed = |value: usize| last_reader[value].is_some();
        let mut code = Code { given, curves: self.curves.clone(), ..Code::default() };
        let mut places: Vec<Option<Operand>> = vec![None; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, _)| needed(*i)) {
            if let Node::Constant(bits) = node {
                places[i] = Some(Operand::Scalar(code.constants.len() as u16));
                code.constants.push(f64::from_bits(*bits));
            }
        }
        let mut free: Vec<u16> = Vec::new();
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, _)| needed(*i)) {
            let place = match node {
                Node::Constant(_) => continue,
                Node::Given(g) => Operand::Scalar(code.constants.len() as u16 + g),
                Node::Column(c) => Operand::Column(*c),
                Node::Op(op, args, count) => {
                    let place = |v: &Value| places[*v as usize].unwrap_or(Operand::Scalar(0));
                    let mut operands = [Operand::Scalar(u16::MAX); 4];
                    operands.iter_mut().zip(&args[..usize::from(*count)]).for_each(|(o, v)| *o = place(v));
                    if self.uniform[i] {
                        let scalar = |o: Operand| if let Operand::Scalar(s) = o { s } else { u16::MAX };
                        code.once.push(Once { op: *op, args: operands.map(scalar) });
                        Operand::Scalar((code.constants.len() + given + code.once.len() - 1) as u16)
                    } else {
                        let target = self.register(i == result as usize, &mut code, &mut free);
                        code.steps.push(Step { op: *op, args: operands, place: target });
                        // Registers read for the last time are free for the next operation, not for this one.
                        let mut read: Vec<Value> = args[..usize::from(*count)].to_vec();
                        read.sort_unstable();
                        read.dedup();
                        for v in read.into_iter().filter(|v| last_reader[*v as usize] == Some(i)) {
                            if let Some(Operand::Register(r)) = places[v as usize] {
                                free.push(r);
                            }
                        }
                        match target {
                            Place::Register(r) => Operand::Register(r),
                            Place::Out => continue,
                        }
                    }
                }
            };
            places[i] = Some(place);
        }
        code.result = places[result as usize];
        code
    }

    fn register(&self, is_result: bool, code: &mut Code, free: &mut Vec<u16>) -> Place {
        if is_result {
            return Place::Out;
        }
        Place::Register(free.pop().unwrap_or_else(|| {
            code.registers += 1;
            code.registers as u16 - 1
        }))
    }

    /// For each value that is needed the last that reads it; the result is read at the end.
    fn last_readers(&self, result: Value) -> Vec<Option<usize>> {
        let mut last = vec![None; self.nodes.len()];
        last[result as usize] = Some(self.nodes.len());
        for i in (0..self.nodes.len()).rev() {
            if last[i].is_none() {
                continue;
            }
            if let Node::Op(_, args, count) = &self.nodes[i] {
                for v in &args[..usize::from(*count)] {
                    last[*v as usize].get_or_insert(i);
                }
            }
        }
        last
    }
}
