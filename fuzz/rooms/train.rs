//! What a checkpoint holds of the trainer, behind its checksums: the state in one piece, and as parts of entries.

use tidemill_base::{
    Kind, Result,
    attribute::Settings,
    codec::{Decoder, Encoder},
};
use tidemill_model::Features;
use tidemill_stream::join::SampleKind;
use tidemill_train::{ATTRIBUTES, LEARNERS, SampleBatch, TrainSpec, Trainer};

/// Learners that differ in what their state holds.
const SPECS: [(&str, &[(&str, &str)]); 4] = [
    ("FTRLClassifier", &[("validate.window", "10")]),
    ("FMClassifier", &[("model.factors", "4"), ("model.optimizer", "adam"), ("validate.window", "10")]),
    ("DeepFMClassifier", &[("model.embedding", "2"), ("model.layers", "4,2"), ("validate.window", "10")]),
    ("LogisticRegression", &[("model.optimizer", "adagrad"), ("validate.window", "10")]),
];

fn spec(number: usize) -> TrainSpec {
    let (learner, written) = SPECS[number % SPECS.len()];
    let mut settings = Settings::new(&ATTRIBUTES);
    written.iter().for_each(|(name, value)| settings.set(name, value).expect("an attribute with its value"));
    let slots: Vec<String> = (0..3).map(|slot| format!("slot{slot}")).collect();
    TrainSpec::from_settings(learner, &settings).expect("settings that are good").with_slots(&slots)
}

fn learn(trainer: &mut Trainer) {
    let mut features = Features::new();
    features.push(&[(0, 3, 1.0), (1, 5 << 58, -2.0), (2, 7 << 55, 0.5)]);
    features.push(&[(0, 9, 1.0), (1, 3 << 60, 1.0), (2, 7 << 55, 0.5)]);
    trainer.update(&SampleBatch {
        features: &features,
        labels: &[1.0, 0.0],
        kinds: &[SampleKind::Final; 2],
        seqs: &[1, 2],
        oracle: None,
        weights: None,
        groups: None,
    });
}

/// The name of a learner, then lines of `attribute=value`, as a program says them.
pub fn settings(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut lines = text.lines();
    let learner = lines.next().unwrap_or_default();
    let mut settings = Settings::new(&ATTRIBUTES);
    let taken = lines.filter_map(|line| line.split_once('=')).filter(|(name, value)| settings.set(name, value).is_ok());
    let taken = taken.count();
    // Who names another is told before, with the nearest.
    if LEARNERS.contains(&learner)
        && let Err(e) = TrainSpec::from_settings(learner, &settings)
    {
        assert_eq!(e.kind(), Kind::Invalid, "{e}");
    }
    taken > 0
}

/// The number of a learner, then its whole state. What could be read is written again as the same.
pub fn trainer(bytes: &[u8]) -> bool {
    let Some((number, state)) = bytes.split_first() else { return false };
    let mut d = Decoder::new(state, "fuzz");
    let spec = spec((*number).into());
    let Ok(trainer) = Trainer::decode(&spec, 1, &mut d) else { return false };
    let written = |trainer: &Trainer| {
        let mut out = Encoder::new();
        trainer.encode(&mut out);
        out.finish()
    };
    let again = Trainer::decode(&spec, 1, &mut Decoder::new(&written(&trainer), "fuzz"));
    assert_eq!(written(&again.expect("what was read can be written")), written(&trainer));
    d.end().is_ok()
}

/// The number of a learner, then pieces, each behind its length in two bytes: the body, a head, and frames of entries.
pub fn entries(bytes: &[u8]) -> bool {
    let Some((number, mut rest)) = bytes.split_first() else { return false };
    let mut piece = || {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let (piece, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
        rest = behind;
        Some(piece)
    };
    let spec = spec((*number).into());
    let (body, head) = (piece().unwrap_or_default(), piece().unwrap_or_default());
    let mut restore = || -> Result<Trainer> {
        let mut entries = Trainer::restoring(&spec, 1)?;
        entries.begin(&mut Decoder::new(head, "fuzz"))?;
        while let Some(frames) = piece() {
            entries.take(frames)?;
        }
        entries.end()?;
        Trainer::restore(&spec, 1, &mut Decoder::new(body, "fuzz"), entries)
    };
    let restored = restore();
    restored.iter().for_each(|trainer| _ = trainer.state_hash());
    restored.is_ok()
}

pub fn trainer_seeds() -> Vec<Vec<u8>> {
    let seed = |number: usize| {
        let mut trainer = Trainer::new(&spec(number), 1).expect("a trainer");
        learn(&mut trainer);
        let mut out = Encoder::new();
        trainer.encode(out.put_u8(number as u8));
        out.finish()
    };
    (0..SPECS.len()).map(seed).collect()
}

pub fn entry_seeds() -> Vec<Vec<u8>> {
    let seed = |number: usize| {
        let mut trainer = Trainer::new(&spec(number), 1).expect("a trainer");
        learn(&mut trainer);
        let (blocks, written) = std::sync::mpsc::sync_channel(64);
        let (mut body, mut head) = (Encoder::new(), Encoder::new());
        trainer.begin_checkpoint(true, blocks, &mut body, &mut head);
        trainer.finish_checkpoint();
        let mut out = Encoder::new();
        out.put_u8(number as u8);
        for piece in [body.finish(), head.finish()].into_iter().chain(written.iter().take_while(|b| !b.is_empty())) {
            let length = u16::try_from(piece.len()).expect("small seeds");
            out.put_u8(length as u8).put_u8((length >> 8) as u8);
            piece.iter().for_each(|byte| _ = out.put_u8(*byte));
        }
        out.finish()
    };
    (0..SPECS.len()).map(seed).collect()
}

pub fn settings_seeds() -> Vec<Vec<u8>> {
    let seed = |(learner, written): &(&str, &[(&str, &str)])| {
        let lines: String = written.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        format!("{learner}\n{lines}").into_bytes()
    };
    let every: String = ATTRIBUTES
        .iter()
        .map(|attribute| format!("{}={}\n", attribute.name, attribute.default.unwrap_or("0.1; user=2")))
        .collect();
    SPECS.iter().map(seed).chain([format!("FFMRegressor\n{every}").into_bytes()]).collect()
}
