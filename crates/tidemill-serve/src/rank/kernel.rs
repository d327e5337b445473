//! One operation over a block of items.
//!
//! In: up to four arguments, each a column of the block or one number for all of it. Out: a column, or a single number
//! where all arguments are. Every loop is straight code over f64 that is compiled for the widest registers at hand; each
//! lane is a function of its own item, so neither the block nor the registers change a bit.

use tidemill_model::{
    math::{angle, real},
    simd::Kernel,
};

use super::{
    config::{Base, Direction},
    random,
};

/// What can be done to columns. Truths are 1 and 0; true is every number but 0 and NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Op {
    Neg,
    Not,
    Abs,
    Trunc,
    Round,
    Ln,
    Log10,
    Root,
    Sin,
    Cos,
    Tan,
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    Less,
    LessEqual,
    Equal,
    NotEqual,
    And,
    Or,
    /// The first, or where it is NaN the second.
    Fallback,
    Choose,
    /// Of a value and its origin, by the decay of this number.
    Decay(u16),
    /// Kilometres between (latitude, longitude) and another.
    Distance,
    /// In [0, 1). The number tells one call from another.
    Rand(u16),
    /// Standard normal.
    RandNormal(u16),
    /// Of lower and upper end, sigma and mu.
    RandBetween(u16),
}

/// The mean radius of the Earth (IUGG), kilometres.
const EARTH_KM: f64 = 6371.0088;
const RADIANS: f64 = std::f64::consts::PI / 180.0;

/// An argument.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// One number for each item.
    Many(&'a [f64]),
    /// One number for all.
    One(f64),
}

/// A decay, ready to be computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Curve {
    pub base: Base,
    pub direction: Direction,
    pub offset: f64,
    /// What the distance is multiplied with: (1 - decay) / scale, ln decay / scale, or ln decay / scale^2.
    pub slope: f64,
}

/// One operation.
pub(super) struct Run<'a> {
    pub op: Op,
    pub curves: &'a [Curve],
    pub args: [Arg<'a>; 4],
    /// A hash of each item's id, and the request's seed: what random numbers come from.
    pub items: &'a [u64],
    pub seed: u64,
    pub out: &'a mut [f64],
}

// Loops and not closures: a closure that is not inlined would not be compiled for wider registers.
macro_rules! each {
    ($out:expr, $x:ident in $a:expr; $e:expr) => {
        match $a {
            Arg::Many(a) => {
                let a = &a[..$out.len()];
                for i in 0..$out.len() {
                    let $x = a[i];
                    $out[i] = $e;
                }
            }
            Arg::One($x) => $out.fill($e),
        }
    };
    ($out:expr, $x:ident in $a:expr, $y:ident in $b:expr; $e:expr) => {
        match ($a, $b) {
            (Arg::Many(a), Arg::Many(b)) => {
                let (a, b) = (&a[..$out.len()], &b[..$out.len()]);
                for i in 0..$out.len() {
                    let ($x, $y) = (a[i], b[i]);
                    $out[i] = $e;
                }
            }
            (Arg::Many(a), Arg::One($y)) => {
                let a = &a[..$out.len()];
                for i in 0..$out.len() {
                    let $x = a[i];
                    $out[i] = $e;
                }
            }
            (Arg::One($x), Arg::Many(b)) => {
                let b = &b[..$out.len()];
                for i in 0..$out.len() {
                    let $y = b[i];
                    $out[i] = $e;
                }
            }
            (Arg::One($x), Arg::One($y)) => $out.fill($e),
        }
    };
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Run { op, curves, args: [a, b, c, d], items, seed, out } = self;
        match op {
            Op::Neg => each!(out, x in a; -x),
            Op::Not => each!(out, x in a; truth(!is_true(x))),
            Op::Abs => each!(out, x in a; x.abs()),
            Op::Trunc => each!(out, x in a; x.trunc()),
            Op::Round => each!(out, x in a; round(x)),
            Op::Ln => each!(out, x in a; real::ln(x)),
            Op::Log10 => each!(out, x in a; real::log10(x)),
            Op::Root => each!(out, x in a; real::root(x)),
            Op::Sin => each!(out, x in a; angle::sin(x)),
            Op::Cos => each!(out, x in a; angle::cos(x)),
            Op::Tan => each!(out, x in a; angle::tan(x)),
            Op::Add => each!(out, x in a, y in b; x + y),
            Op::Sub => each!(out, x in a, y in b; x - y),
            Op::Mul => each!(out, x in a, y in b; x * y),
            Op::Div => each!(out, x in a, y in b; x / y),
            Op::Pow => each!(out, x in a, y in b; real::pow(x, y)),
            Op::Min => each!(out, x in a, y in b; smaller(x, y)),
            Op::Max => each!(out, x in a, y in b; larger(x, y)),
            Op::Less => each!(out, x in a, y in b; truth(x < y)),
            Op::LessEqual => each!(out, x in a, y in b; truth(x <= y)),
            Op::Equal => each!(out, x in a, y in b; truth(x == y)),
            Op::NotEqual => each!(out, x in a, y in b; truth(x != y)),
            Op::And => each!(out, x in a, y in b; truth(is_true(x) & is_true(y))),
            Op::Or => each!(out, x in a, y in b; truth(is_true(x) | is_true(y))),
            Op::Fallback => each!(out, x in a, y in b; if x.is_nan() { y } else { x }),
            Op::Choose => choose(a, b, c, out),
            Op::Decay(curve) => decay(&curves[usize::from(curve)], a, b, out),
            Op::Distance => by_item(out, [a, b, c, d], |_, [a, b, c, d]| distance_km(a, b, c, d)),
            Op::Rand(call) => {
                out.iter_mut().zip(items).for_each(|(o, item)| *o = random::uniform(*item, seed, call));
            }
            Op::RandNormal(call) => {
                out.iter_mut().zip(items).for_each(|(o, item)| *o = random::normal(*item, seed, call));
            }
            Op::RandBetween(call) => by_item(out, [a, b, c, d], |i, [a, b, sigma, mu]| {
                random::normal_between(items[i], seed, call, a, b, sigma, mu)
            }),
        }
    }
}

/// Neither 0 nor NaN.
#[inline(always)]
pub(super) fn is_true(x: f64) -> bool {
    x.abs() > 0.0
}

#[inline(always)]
fn truth(x: bool) -> f64 {
    f64::from(u8::from(x))
}

/// Half a whole number goes away from zero.
#[inline(always)]
pub(super) fn round(x: f64) -> f64 {
    // The largest number below a half: with a half itself, the one below it would be rounded up.
    (x + 0.499_999_999_999_999_94_f64.copysign(x)).trunc()
}

/// The smaller of two; NaN if either is, so that what is wrong with an item is not lost.
#[inline(always)]
pub(super) fn smaller(x: f64, y: f64) -> f64 {
    if x < y || x.is_nan() { x } else { y }
}

/// The larger of two; NaN if either is.
#[inline(always)]
pub(super) fn larger(x: f64, y: f64) -> f64 {
    if x > y || x.is_nan() { x } else { y }
}

#[inline(always)]
fn choose(condition: Arg<'_>, first: Arg<'_>, second: Arg<'_>, out: &mut [f64]) {
    match (condition, first, second) {
        (Arg::Many(c), Arg::Many(a), Arg::Many(b)) => {
            out.iter_mut().zip(c).zip(a).zip(b).for_each(|(((o, &c), &a), &b)| *o = if is_true(c) { a } else { b });
        }
        (Arg::Many(c), Arg::Many(a), Arg::One(b)) => {
            out.iter_mut().zip(c).zip(a).for_each(|((o, &c), &a)| *o = if is_true(c) { a } else { b });
        }
        (Arg::Many(c), Arg::One(a), Arg::Many(b)) => {
            out.iter_mut().zip(c).zip(b).for_each(|((o, &c), &b)| *o = if is_true(c) { a } else { b });
        }
        (Arg::Many(c), Arg::One(a), Arg::One(b)) => {
            out.iter_mut().zip(c).for_each(|(o, &c)| *o = if is_true(c) { a } else { b });
        }
        (Arg::One(c), a, b) => each!(out, x in if is_true(c) { a } else { b }; x),
    }
}

#[inline(always)]
fn decay(curve: &Curve, value: Arg<'_>, origin: Arg<'_>, out: &mut [f64]) {
    let Curve { base, direction, offset, slope } = *curve;
    // Whichever sides count, known before the loop.
    let (left, right) = (direction != Direction::Right, direction != Direction::Left);
    match base {
        Base::Linear => each!(out, v in value, o in origin; {
            larger(0.0, 1.0 - distance(v - o, left, right, offset) * slope)
        }),
        Base::Exp => each!(out, v in value, o in origin; real::exp(distance(v - o, left, right, offset) * slope)),
        Base::Gauss => each!(out, v in value, o in origin; {
            let x = distance(v - o, left, right, offset);
            real::exp(x * x * slope)
        }),
    }
}

/// How far from the origin, beyond the offset, on the sides that count.
#[inline(always)]
fn distance(difference: f64, left: bool, right: bool, offset: f64) -> f64 {
    let to_left = if left { -difference } else { 0.0 };
    let to_right = if right { difference } else { 0.0 };
    let size = if difference < 0.0 { to_left } else { to_right };
    let beyond = larger(0.0, size - offset);
    if difference.is_nan() { difference } else { beyond }
}

/// The great circle between two places in degrees, by haversines.
pub(super) fn distance_km(latitude: f64, longitude: f64, to_latitude: f64, to_longitude: f64) -> f64 {
    let half_sine = |degrees: f64| angle::sin(0.5 * RADIANS * degrees);
    let (up, along) = (half_sine(to_latitude - latitude), half_sine(to_longitude - longitude));
    let cosines = angle::cos(RADIANS * latitude) * angle::cos(RADIANS * to_latitude);
    let h = up * up + cosines * (along * along);
    if h.is_nan() {
        return h;
    }
    // Rounding may lead beyond 1 at the other end of the Earth.
    2.0 * EARTH_KM * angle::asin(smaller(1.0, h.sqrt()))
}

/// For what is no straight code: item by item.
#[inline(always)]
fn by_item(out: &mut [f64], args: [Arg<'_>; 4], one: impl Fn(usize, [f64; 4]) -> f64) {
    let at = |arg: &Arg<'_>, i: usize| match arg {
        Arg::Many(column) => column[i],
        Arg::One(x) => *x,
    };
    for (i, o) in out.iter_mut().enumerate() {
        *o = one(i, args.each_ref().map(|arg| at(arg, i)));
    }
}
