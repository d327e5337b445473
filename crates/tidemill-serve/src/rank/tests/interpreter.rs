//! The naive way to a score: one item, its tree, from the top. What the program is compared with, bit for bit.
//!
//! Written from the definition and without anything of the compiler: each call of a random function gets its number by
//! where it stands in the tree, columns are looked up by name, decays are computed as their formulas stand.

use tidemill_model::math::{angle, real};

use crate::rank::{
    config::{BASES, Base, Config, Decay, Direction},
    kernel::distance_km,
    parse::{Expr, Id, Infix, Prefix},
    random,
};

pub(super) struct Interpreter<'a> {
    config: &'a Config,
    row: &'a [(&'a str, f64)],
    now: f64,
    external: f64,
    item: u64,
    seed: u64,
}

impl<'a> Interpreter<'a> {
    pub fn new(config: &'a Config, row: &'a [(&'a str, f64)], now: f64, external: f64, item: u64, seed: u64) -> Self {
        Self { config, row, now, external, item, seed }
    }

    pub fn score(&mut self) -> f64 {
        self.value(self.config.tree.parts.len() - 1)
    }

    fn expr(&self, id: Id) -> &'a Expr {
        &self.config.tree.parts[id].0
    }

    fn column(&self, name: &str) -> f64 {
        self.row.iter().find(|(known, _)| *known == name).unwrap().1
    }

    /// How many random calls stand before this one.
    fn call(&self, id: Id) -> u16 {
        let random = |(expr, _): &&(Expr, usize)| matches!(expr, Expr::Call(name, _) if name.starts_with("rand"));
        self.config.tree.parts[..id].iter().filter(random).count() as u16
    }

    fn is_time(&self, id: Id) -> bool {
        match self.expr(id) {
            Expr::Name(name) => name == "time" || name == "now",
            Expr::Prefix(Prefix::Plus | Prefix::Minus, of) => self.is_time(*of),
            Expr::Infix(Infix::Plus, a, b) => self.is_time(*a) || self.is_time(*b),
            Expr::Infix(Infix::Minus, a, b) => self.is_time(*a) && !self.is_time(*b),
            Expr::Choose(_, a, b) => self.is_time(*a) && self.is_time(*b),
            Expr::Call(name, all) => match name.as_str() {
                "min" | "max" | "rand" => !all.is_empty() && all.iter().all(|a| self.is_time(*a)),
                "abs" | "trunc" | "round" => self.is_time(all[0]),
                _ => false,
            },
            _ => false,
        }
    }

    fn value(&self, id: Id) -> f64 {
        match self.expr(id) {
            Expr::Number(x) | Expr::Duration(x) => *x,
            Expr::Text(_) => unreachable!("texts are compared only"),
            Expr::Name(name) => match name.as_str() {
                "now" => self.now,
                "external.x" => self.external,
                "price" if self.column("price").is_nan() => 4.5,
                name => self.column(name),
            },
            Expr::Prefix(op, of) => match op {
                Prefix::Plus => self.value(*of),
                Prefix::Minus => -self.value(*of),
                Prefix::Not => f64::from(u8::from(!self.truth(*of))),
            },
            Expr::Choose(c, a, b) => {
                if self.truth(*c) {
                    self.value(*a)
                } else {
                    self.value(*b)
                }
            }
            Expr::Infix(op, a, b) => self.infix(*op, *a, *b),
            Expr::Call(name, all) => self.function(id, name, all),
        }
    }

    fn truth(&self, id: Id) -> bool {
        let x = self.value(id);
        x != 0.0 && !x.is_nan()
    }

    fn infix(&self, op: Infix, a: Id, b: Id) -> f64 {
        if let (Expr::Name(name), Expr::Text(_)) = (self.expr(a), self.expr(b)) {
            return f64::from(u8::from((self.column(name) == 1.0) == (op == Infix::Equal)));
        }
        let truth = |x: bool| f64::from(u8::from(x));
        match op {
            Infix::Or => return truth(self.truth(a) || self.truth(b)),
            Infix::And => return truth(self.truth(a) && self.truth(b)),
            _ => {}
        }
        let (x, y) = (self.value(a), self.value(b));
        match op {
            Infix::Equal => truth(x == y),
            Infix::NotEqual => truth(x != y),
            Infix::Less => truth(x < y),
            Infix::LessEqual => truth(x <= y),
            Infix::Greater => truth(x > y),
            Infix::GreaterEqual => truth(x >= y),
            Infix::Plus => x + y,
            Infix::Minus => x - y,
            Infix::Times => x * y,
            Infix::Over => x / y,
            Infix::Power => real::pow(x, y),
            Infix::Or | Infix::And => unreachable!("answered above"),
        }
    }

    fn function(&self, id: Id, name: &str, all: &[Id]) -> f64 {
        let arg = |i: usize| self.value(all[i]);
        if let Some((_, decay)) = self.config.functions.iter().find(|(known, _)| known == name) {
            return self.decay(decay, all[0]);
        }
        if let Some((_, base)) = BASES.iter().find(|(known, _)| *known == name) {
            return self.decay(&Decay::bare(*base), all[0]);
        }
        let first_nan = |x: f64, y: f64| if x.is_nan() { x } else { y };
        match name {
            "ln" => real::ln(arg(0)),
            "log" => real::log10(arg(0)),
            "sin" => angle::sin(arg(0)),
            "cos" => angle::cos(arg(0)),
            "tan" => angle::tan(arg(0)),
            "abs" => arg(0).abs(),
            "trunc" => arg(0).trunc(),
            "round" => arg(0).round(),
            "min" => {
                let (x, y) = (arg(0), arg(1));
                if x.is_nan() || y.is_nan() {
                    first_nan(x, y)
                } else if x < y {
                    x
                } else {
                    y
                }
            }
            "max" => {
                let (x, y) = (arg(0), arg(1));
                if x.is_nan() || y.is_nan() {
                    first_nan(x, y)
                } else if x > y {
                    x
                } else {
                    y
                }
            }
            "to_unix_timestamp" => arg(0) / 1000.0,
            "rand" => {
                let u = random::uniform(self.item, self.seed, self.call(id));
                if all.is_empty() { u } else { arg(0) + (arg(1) - arg(0)) * u }
            }
            "rand_normal" if all.is_empty() => random::normal(self.item, self.seed, self.call(id)),
            "rand_normal" => {
                let call = self.call(id);
                random::normal_between(self.item, self.seed, call, arg(0), arg(1), arg(2), arg(3))
            }
            "dist" => distance_km(arg(0), arg(1), arg(2), arg(3)),
            _ => unreachable!("{name}"),
        }
    }

    fn decay(&self, decay: &Decay, of: Id) -> f64 {
        let v = self.value(of);
        let origin = decay.origin.unwrap_or(if self.is_time(of) { self.now } else { 0.0 });
        let difference = v - origin;
        if difference.is_nan() {
            return difference;
        }
        let size = match decay.direction {
            Direction::Both => difference.abs(),
            Direction::Left => (-difference).max(0.0),
            Direction::Right => difference.max(0.0),
        };
        let x = (size - decay.offset.size).max(0.0);
        let scale = decay.scale.size;
        match decay.base {
            Base::Linear => (1.0 - x * ((1.0 - decay.decay) / scale)).max(0.0),
            Base::Exp => real::exp(x * (real::ln(decay.decay) / scale)),
            Base::Gauss => real::exp(x * x * (real::ln(decay.decay) / scale / scale)),
        }
    }
}
