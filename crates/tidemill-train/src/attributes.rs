//! The attributes of `TO TRAIN ... WITH`, each declared once.

use tidemill_base::attribute::{Attribute, Type};
use tidemill_model::model::{CLASSES_MAX, DIMENSION_MAX};

use crate::validation::WINDOW_MAX;

const OPTIMIZERS: &[&str] = &["sgd", "momentum", "adagrad", "rowwise_adagrad", "ftrl", "adam", "amsgrad"];

const fn number(name: &'static str, min: f64, max: f64, default: Option<&'static str>, doc: &'static str) -> Attribute {
    Attribute { name, ty: Type::Number { min, max }, default, doc }
}

const fn integer(name: &'static str, min: i64, max: i64, default: &'static str, doc: &'static str) -> Attribute {
    Attribute { name, ty: Type::Integer { min, max }, default: Some(default), doc }
}

const fn text(name: &'static str, default: &'static str, doc: &'static str) -> Attribute {
    Attribute { name, ty: Type::Text, default: Some(default), doc }
}

const fn optimizer(name: &'static str, doc: &'static str) -> Attribute {
    Attribute { name, ty: Type::Choice(OPTIMIZERS), default: None, doc }
}

/// Slots may have values of their own.
const fn by_slot(name: &'static str, ty: &'static Type, default: Option<&'static str>, doc: &'static str) -> Attribute {
    Attribute { name, ty: Type::BySlot(ty), default, doc }
}

const RATE: Type = Type::Number { min: 1e-9, max: 1e3 };
const PENALTY: Type = Type::Number { min: 0.0, max: 1e6 };
const MOVES: Type = Type::Number { min: 0.0, max: 0.9999 };
const CLIP: Type = Type::Number { min: 1e-9, max: 1e30 };
const DIMENSION: Type = Type::Integer { min: 1, max: DIMENSION_MAX as i64 };

const fn duration(name: &'static str, default: &'static str, doc: &'static str) -> Attribute {
    Attribute { name, ty: Type::Duration, default: Some(default), doc }
}

/// Every attribute of `TO TRAIN ... WITH`.
pub static ATTRIBUTES: [Attribute; 58] = [
    by_slot("model.optimizer", &Type::Choice(OPTIMIZERS), None, "optimizer of weights; ftrl unless said otherwise"),
    by_slot("model.alpha", &RATE, None, "learning rate of weights: 0.1, for momentum 0.01, for adam and amsgrad 0.001"),
    by_slot(
        "model.beta",
        // With 0 the weight of a new key would be 0 / 0.
        &Type::Number { min: 1e-9, max: 1e6 },
        Some("1"),
        "ftrl, adagrad: how slowly a key's learning rate falls: alpha / (beta + sqrt(sum of squared gradients))",
    ),
    by_slot(
        "model.l1",
        &PENALTY,
        Some("0"),
        "keeps the weight of a key at zero until its gradients add up to more than this",
    ),
    by_slot("model.l2", &PENALTY, Some("0"), "pulls weights towards zero"),
    by_slot(
        "model.group_l1",
        &PENALTY,
        Some("0"),
        "keeps all factors of a key at zero until their gradients together add up to more than this",
    ),
    by_slot("model.momentum", &MOVES, Some("0.9"), "momentum: how much of the last step goes on"),
    by_slot("model.beta1", &MOVES, Some("0.9"), "adam, amsgrad: how slowly the mean of the gradients moves"),
    by_slot(
        "model.beta2",
        &Type::Number { min: 0.0, max: 0.999_999 },
        Some("0.999"),
        "adam, amsgrad: how slowly the mean of their squares moves",
    ),
    by_slot(
        "model.epsilon",
        &Type::Number { min: 1e-12, max: 1.0 },
        Some("1e-8"),
        "adam, amsgrad: keeps steps small where gradients are",
    ),
    by_slot(
        "model.schedule",
        &Type::Text,
        Some("constant"),
        "learning rate over time: constant, inverse:DECAY, halve:SAMPLES or warmup:SAMPLES; not for ftrl",
    ),
    by_slot("model.clip_value", &CLIP, None, "brings each component of a gradient within this"),
    by_slot("model.clip_norm", &CLIP, None, "scales gradients longer than this down to it"),
    by_slot(
        "model.factors",
        &DIMENSION,
        Some("8"),
        "FM, FFM: dimension of the factors (4 for FFM unless said otherwise)",
    ),
    by_slot(
        "model.factors_optimizer",
        &Type::Choice(OPTIMIZERS),
        None,
        "optimizer of factors and embeddings; adagrad unless said otherwise",
    ),
    by_slot("model.factors_alpha", &RATE, None, "learning rate of factors and embeddings"),
    by_slot("model.factors_l2", &PENALTY, Some("0"), "pulls factors and embeddings towards zero"),
    by_slot(
        "model.spread",
        &Type::Number { min: 0.0, max: 10.0 },
        None,
        "standard deviation of the factors a new key begins with, drawn by its key",
    ),
    by_slot("model.embedding", &DIMENSION, Some("8"), "deep learners: dimension of a key's embedding"),
    text("model.layers", "128,64", "deep learners: units of the hidden layers"),
    number(
        "model.dropout",
        0.0,
        0.95,
        Some("0"),
        "FM: share of the factors left out while learning, deep learners: of hidden units",
    ),
    optimizer("model.dense_optimizer", "optimizer of the layers; adam unless said otherwise"),
    number("model.dense_alpha", 1e-9, 1e3, None, "learning rate of the layers"),
    number(
        "model.huber_delta",
        1e-9,
        1e9,
        None,
        "regressions: the loss is linear beyond this error (Huber), not squared",
    ),
    number(
        "model.label_min",
        -1e30,
        1e30,
        None,
        "regressions: no label is below this; predictions are not either, and scores beyond are not learned further",
    ),
    number("model.label_max", -1e30, 1e30, None, "regressions: no label is above this; given with model.label_min"),
    integer(
        "model.classes",
        2,
        CLASSES_MAX as i64,
        "2",
        "SoftmaxRegression, MLPClassifier: how many classes labels name, from 0",
    ),
    integer("model.seed", 0, i64::MAX, "0", "what new factors and layers are drawn from"),
    integer(
        "train.batch_size",
        1,
        1 << 20,
        "64",
        "samples predicted with the same parameters before the next update of them",
    ),
    integer("train.passes", 1, 10_000, "1", "times bounded input is learned from, from features kept the first time"),
    text(
        "train.weight",
        "",
        "column with the weight of each sample: how many times it counts; in linear models a large one reaches the label \
         and does not go past it, elsewhere, with adam and in corrections it scales the gradient",
    ),
    number(
        "train.gradient_keep",
        0.0001,
        1.0,
        Some("1"),
        "share of gradient components, the largest, that are applied at once; the others wait and are added to the next",
    ),
    number(
        "train.gradient_threshold",
        1e-12,
        1e12,
        None,
        "gradient components smaller than this wait and are added to the next; not together with train.gradient_keep",
    ),
    by_slot(
        "train.admit_after",
        &Type::Integer { min: 1, max: 255 },
        Some("1"),
        "times a key must be seen before it has an entry, counted by a sketch",
    ),
    by_slot(
        "train.entries_max",
        &Type::Integer { min: 64, max: 1 << 40 },
        Some("40000000"),
        "keys the parameter table admits (40,000,000 take about 1 GiB); later new keys are counted, not learned; of a slot: its own entries",
    ),
    Attribute {
        name: "train.bytes_max",
        ty: Type::BySlot(&Type::Bytes),
        default: None,
        doc: "bytes the parameter table may take, whatever comes; of a slot: what its entries may take of them",
    },
    Attribute {
        name: "train.when_full",
        ty: Type::BySlot(&Type::Choice(&["refuse", "evict"])),
        default: Some("refuse"),
        doc: "what happens to a new key that finds no room: it is refused, or the entries with the smallest parameters leave; of a \
              slot: at its own bound",
    },
    by_slot(
        "train.forget_after",
        &Type::Integer { min: 0, max: 1 << 50 },
        Some("0"),
        "samples after which a key leaves that nothing was learned about meanwhile, up to two fifths and five mini-batches of events later; 0 keeps all",
    ),
    by_slot(
        "publish.prune",
        &PENALTY,
        Some("0"),
        "entries whose parameters are all this small are left out of versions",
    ),
    text(
        "publish.precision",
        "f32",
        "how exactly versions and replicas hold parameters: f32, f16 or int8, by slot as in 'f16; user=int8; item=f32'; what is \
         learned goes on in f32",
    ),
    integer(
        "publish.every",
        0,
        i64::MAX,
        "0",
        "sample rows learned between versions, beside publish.interval; 0 publishes at the end of bounded input only",
    ),
    duration("publish.interval", "10s", "time between versions over live input"),
    number(
        "publish.label_rate",
        1.0,
        1e9,
        Some("5"),
        "a version is held when the share of positives since the last look is so many times the usual one, or less by as much",
    ),
    number(
        "publish.calibration",
        1.0,
        1e9,
        Some("3"),
        "a version is held when predicted by happened since the last look is not between 1 / this and this",
    ),
    number(
        "publish.logloss",
        1.0,
        1e9,
        Some("1.05"),
        "while an earlier version is live: held when the loss on recent matured samples is more than so many times its own",
    ),
    integer("publish.keep", 1, 1_000_000, "50", "versions kept on disk, beside the live one and those under labels"),
    Attribute {
        name: "publish.keep_for",
        ty: Type::Duration,
        default: None,
        doc: "versions older than this go too, but never the newest, the live one and those under labels",
    },
    duration("checkpoint.interval", "10s", "time between checkpoints"),
    Attribute {
        name: "journal.keep",
        ty: Type::Choice(&["all", "checkpoints"]),
        default: Some("all"),
        doc: "'checkpoints': records that no kept checkpoint needs may go; older versions cannot be derived again then",
    },
    text(
        "validate.oracle",
        "",
        "column that holds the true probability of a positive label, where it is known: gives the best possible log loss",
    ),
    integer("validate.window", 10, WINDOW_MAX as i64, "100000", "samples that recent figures are about"),
    text("validate.by", "", "column by whose values figures are told apart, up to 1,000 of them"),
    text(
        "hash.secret",
        "",
        "text that keys of features are hashed under: who sends events and does not know it cannot choose values whose keys crowd \
         in one place of the table; it stays as it is for as long as the model lives",
    ),
    integer(
        "join.pending_max",
        1,
        1 << 32,
        "1000000",
        "impressions that may wait for feedback; beyond it the oldest leaves with the label known so far and is counted",
    ),
    Attribute {
        name: "join.bytes_max",
        ty: Type::Bytes,
        default: None,
        doc: "bytes that may wait for feedback; beyond it the oldest leaves as with join.pending_max",
    },
    Attribute {
        name: "join.when_full",
        ty: Type::Choice(&["release", "spill", "stop"]),
        default: Some("release"),
        doc: "what happens beyond these bounds: the oldest leaves (release); rows beyond join.bytes_max go to files in the job's \
              directory, and that is the bound of those in memory (spill); the job ends, and goes on once a bound is raised (stop)",
    },
    duration(
        "join.correction_ttl",
        "0s",
        "how long behind the window's end feedback that comes late still corrects its sample, which is kept until then",
    ),
    duration(
        "join.allowed_lateness",
        "0s",
        "how far the watermark may have passed an impression that is still let in; feedback waits so much longer for its \
         impression",
    ),
];
