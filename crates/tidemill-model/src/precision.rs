//! How exactly versions hold parameters: as they are learned, in 16 bits, or in 8.
//!
//! In: the parameters of an entry on their way out of the trainer. Out: the same, rounded to numbers that take fewer bytes;
//! whoever has them holds the same bits, wherever they went since. What is learned goes on from the numbers as they are.
//! Rounding what was rounded changes nothing. Rows that a form cannot hold (beyond 65,504 in 16 bits, not finite) stay.

use half::f16;
use tidemill_base::{Error, Result};

/// How exactly parameters are published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are learned.
    #[default]
    F32,
    /// 11 binary digits up to 65,504; below 6e-5 in steps of 6e-8.
    F16,
    /// 8 bits each, by a power of two that all parameters of an entry share: steps of a 64th to a 127th of the largest.
    Int8,
}

/// Of each slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Precisions {
    /// Of the slots that are not named.
    pub all: Precision,
    /// Of those that are.
    pub slots: Vec<(String, Precision)>,
}

/// Exponents of the steps of 8 bits: those of all parameters that learning leads to.
const EXPONENTS: std::ops::RangeInclusive<i32> = -100..=100;
/// The largest number of steps.
const STEPS_MAX: f32 = 127.0;

impl Precision {
    /// `f32`, `f16` or `int8`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "int8" => Some(Self::Int8),
            _ => None,
        }
    }

    /// Rounds the parameters of an entry, to the nearest.
    pub fn round(self, params: &mut [f32]) {
        match self {
            Self::F32 => {}
            Self::F16 => {
                if params.iter().all(|x| f16::from_f32(*x).is_finite()) {
                    params.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32() + 0.0);
                }
            }
            Self::Int8 => {
                let Some(exponent) = step_exponent(params) else { return };
                let step = power_of_two(exponent);
                params.iter_mut().for_each(|x| *x = (*x / step).round_ties_even() * step + 0.0);
            }
        }
    }
}

impl Precisions {
    /// Reads `f16`, or `f16; user=int8; item=f32`.
    pub fn parse(text: &str) -> Result<Self> {
        let precision = |word: &str| {
            let refuse = || {
                Error::invalid(format!(
                    "publish.precision: '{word}' is none of f32, f16, int8; write 'f16', or 'f16; user=int8' with slots of \
                     their own"
                ))
            };
            Precision::parse(word).ok_or_else(refuse)
        };
        let mut parts = text.split(';').map(str::trim);
        let all = precision(parts.next().unwrap_or_default())?;
        let mut slots: Vec<(String, Precision)> = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let (slot, word) =
                part.rsplit_once('=').map(|(slot, word)| (slot.trim(), word.trim())).ok_or_else(|| {
                    Error::invalid(format!("publish.precision: '{part}' is not SLOT=PRECISION, as in user=int8"))
                })?;
            if slots.iter().any(|(there, _)| there == slot) {
                return Err(Error::invalid(format!("publish.precision: slot '{slot}' is named twice")));
            }
            slots.push((slot.to_string(), precision(word)?));
        }
        Ok(Self { all, slots })
    }

    /// Refuses slots that are not there. `keeps_slots`: entries know theirs.
    pub fn check(&self, slots: &[String], keeps_slots: bool) -> Result<()> {
        let Some((first, _)) = self.slots.first() else { return Ok(()) };
        if !keeps_slots {
            return Err(Error::invalid(format!(
                "publish.precision: slot '{first}' cannot have one of its own: entries of this learner are one weight beside \
                 their key and do not keep their slot; give one precision for all"
            )));
        }
        match self.slots.iter().find(|(name, _)| !slots.contains(name)) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Error::invalid(format!("publish.precision: no slot '{name}' (have {})", slots.join(", "))))
            }
        }
    }

    /// By slot number.
    pub fn of_slots(&self, slots: &[String]) -> Vec<Precision> {
        let of = |slot: &String| self.slots.iter().find(|(name, _)| name == slot).map_or(self.all, |(_, p)| *p);
        slots.iter().map(of).collect()
    }
}

/// The exponent of the step in which the largest of these is 64 to 127 steps; `None` where 8 bits do not hold them, or all
/// are zero.
pub(crate) fn step_exponent(params: &[f32]) -> Option<i32> {
    let mut largest = 0.0f32;
    for x in params {
        if !x.is_finite() {
            return None;
        }
        largest = largest.max(x.abs());
    }
    if largest == 0.0 {
        return None;
    }
    let exponent = (largest.to_bits() >> 23) as i32 - 127 - 6;
    if !EXPONENTS.contains(&exponent) {
        return None;
    }
    let steps = (largest / power_of_two(exponent)).round_ties_even();
    Some(exponent + i32::from(steps > STEPS_MAX))
}

/// 2 to an exponent from -126 to 127.
pub(crate) fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use tidemill_base::Rng;

    use super::*;

    fn rounded(precision: Precision, params: &[f32]) -> Vec<f32> {
        let mut params = params.to_vec();
        precision.round(&mut params);
        params
    }

    /// Numbers by hand: 11 digits keep 1/2048 of a number, 127 steps of 2^-7 reach to 0.9921875.
    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        assert_eq!(rounded(Precision::F16, &[1.0 + 1.0 / 4096.0, 0.1, -3.0]), [1.0, 0.099_975_586, -3.0]);
        assert_eq!(rounded(Precision::Int8, &[0.99, 0.3, -0.004]), [127.0 / 128.0, 38.0 / 128.0, -1.0 / 128.0]);
        // 127.6 steps would be 128: the step doubles.
        assert_eq!(rounded(Precision::Int8, &[127.6, 3.1]), [128.0, 4.0]);
        assert_eq!(rounded(Precision::Int8, &[0.0, 0.0]), [0.0, 0.0]);
        let gone = rounded(Precision::Int8, &[1.0, -0.001]);
        assert_eq!(gone[1].to_bits(), 0, "what rounds to nothing is 0, not -0");
    }

    #[test]
    fn what_does_not_fit_stays() {
        for row in [[70_000.0, 0.1], [f32::INFINITY, 0.1], [1e38, 0.3], [1e-38, 0.0]] {
            assert_eq!(rounded(Precision::F32, &row), row);
            if row[0] != 1e-38 {
                assert_eq!(rounded(Precision::F16, &row), row);
            }
            if row[0] != 70_000.0 {
                assert_eq!(rounded(Precision::Int8, &row), row);
            }
        }
        assert!(rounded(Precision::Int8, &[f32::NAN])[0].is_nan());
    }

    #[test]
    fn rounding_again_changes_nothing_and_errors_are_small() {
        let mut rng = Rng::seeded(1);
        for _ in 0..20_000 {
            let scale = 10f64.powf(rng.next_f64() * 8.0 - 4.0);
            let row: Vec<f32> = (0..5).map(|_| (rng.normal() * scale) as f32).collect();
            let largest = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            // Below 6e-5 the steps of 16 bits are 2^-24.
            let half = (largest / 2048.0).max(2.0f32.powi(-25));
            for (precision, error) in [(Precision::F16, half), (Precision::Int8, largest / 127.0)] {
                let once = rounded(precision, &row);
                assert_eq!(rounded(precision, &once), once);
                assert!(row.iter().zip(&once).all(|(a, b)| (a - b).abs() <= error), "{precision:?} {row:?} {once:?}");
            }
        }
    }

    #[test]
    fn precisions_are_read_and_wrong_ones_named() {
        let read = Precisions::parse("f16; user=int8;item = f32;").unwrap();
        let slots = ["bias", "item", "user"].map(str::to_string);
        assert_eq!(read.of_slots(&slots), [Precision::F16, Precision::F32, Precision::Int8]);
        assert!(read.check(&slots, true).is_ok());
        let why = |text: &str| {
            let parsed = Precisions::parse(text).and_then(|p| p.check(&slots, true));
            parsed.unwrap_err().message().to_string()
        };
        assert!(why("f8").starts_with("publish.precision: 'f8' is none of f32, f16, int8"));
        assert!(why("").starts_with("publish.precision: '' is none of"));
        assert!(why("f16; user").ends_with("'user' is not SLOT=PRECISION, as in user=int8"));
        assert!(why("f16; user=f16; user=f32").ends_with("slot 'user' is named twice"));
        assert_eq!(why("f16; usr=f32"), "publish.precision: no slot 'usr' (have bias, item, user)");
        let pairs = read.check(&slots, false).unwrap_err();
        assert!(pairs.message().contains("give one precision for all"), "{pairs}");
        assert!(Precisions::parse("int8").unwrap().check(&slots, false).is_ok());
    }
}
