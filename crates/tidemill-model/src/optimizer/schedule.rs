//! Learning rates that change with time: a pure function of how many samples were learned.

use crate::math::{exp, ln};

/// What the learning rate is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Schedule {
    /// Always 1.
    #[default]
    Constant,
    /// 1 / (1 + decay * t).
    Inverse {
        /// Per sample.
        decay: f64,
    },
    /// Halved every so many samples, smoothly.
    HalfLife {
        /// In samples.
        samples: f64,
    },
    /// From 0 to 1 over so many samples, in a straight line.
    WarmUp {
        /// In samples.
        samples: f64,
    },
}

impl Schedule {
    /// The factor after `t` samples.
    pub fn rate(&self, t: u64) -> f32 {
        let t = t as f64;
        (match self {
            Self::Constant => 1.0,
            Self::Inverse { decay } => 1.0 / (1.0 + decay * t),
            Self::HalfLife { samples } => exp(-ln(2.0) * t / samples),
            Self::WarmUp { samples } => ((t + 1.0) / samples).min(1.0),
        }) as f32
    }

    /// Reads `constant`, `inverse:1e-6`, `halve:1000000` or `warmup:10000`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("expects constant, inverse:DECAY, halve:SAMPLES or warmup:SAMPLES, got '{text}'");
        let (name, number) = text.split_once(':').unwrap_or((text, ""));
        let positive = || number.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0).ok_or_else(expected);
        match name {
            "constant" if number.is_empty() => Ok(Self::Constant),
            "inverse" => Ok(Self::Inverse { decay: positive()? }),
            "halve" => Ok(Self::HalfLife { samples: positive()? }),
            "warmup" => Ok(Self::WarmUp { samples: positive()? }),
            _ => Err(expected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_read_as_they_are_written_and_fall_as_they_say() {
        let rate = |text: &str, t| Schedule::parse(text).unwrap().rate(t);
        assert_eq!((rate("constant", 9), rate("inverse:0.5", 2)), (1.0, 0.5));
        assert_eq!((rate("warmup:4", 0), rate("warmup:4", 9)), (0.25, 1.0));
        assert!((rate("halve:100", 200) - 0.25).abs() < 1e-6);
        for bad in ["", "halve", "halve:0", "halve:-1", "inverse:x", "constant:1", "warmup:inf"] {
            assert!(Schedule::parse(bad).unwrap_err().contains("expects constant"), "{bad}");
        }
    }
}
