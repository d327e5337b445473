//! Explanations: what each slot adds to a score, against the definition of Shapley's value, and over HTTP.

mod support;

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use serde_json::{Value, json};
use support::{row, site::open};
use tidemill_base::{Result, Rng};
use tidemill_model::{
    entries::Entries,
    feature::{ColumnSpec, Extractor, Features},
    loss::Loss,
    model::{Deep, LearnerSpec, ModelSpec},
    snapshot::Snapshot,
    weights::{ScoreScratch, WeightTable},
};
use tidemill_serve::{live::LiveModel, predict::Predictor};
use tidemill_stream::{Transform, Transformed};

struct Same(SchemaRef);

impl Transform for Same {
    fn output(&self) -> SchemaRef {
        self.0.clone()
    }

    fn apply(&self, rows: &RecordBatch) -> Result<Transformed> {
        Ok(Transformed { rows: rows.clone(), kept: None, refused: Vec::new() })
    }
}

const COLUMNS: [&str; 4] = ["a", "b", "c", "d"];

/// A model over four numbers and its own constant, with parameters that are drawn.
struct Drawn {
    predictor: Predictor,
    snapshot: Snapshot,
    features: Features,
}

fn drawn(learner: LearnerSpec, loss: Loss) -> Drawn {
    let schema = Arc::new(Schema::new(COLUMNS.map(|c| Field::new(c, DataType::Float64, true)).to_vec()));
    let columns = COLUMNS.map(|c| ColumnSpec::Numeric { column: c.into() });
    let extractor = Extractor::bind(&columns, &schema).unwrap();
    let mut features = Features::new();
    extractor.float_plan(4, Some).unwrap().extract(&[1.5f32, -0.5, 2.0, 0.25], &mut features);
    let slots = extractor.slots().to_vec();
    let model = ModelSpec { learner, loss };
    let (width, mut rng) = (model.build(slots.len()).width(), Rng::seeded(5));
    let mut entries = Entries::new(width);
    let mut keys = features.keys.clone();
    keys.sort_unstable();
    for key in keys {
        let params: Vec<f32> = (0..width).map(|_| rng.next_f64() as f32 - 0.5).collect();
        entries.push(key, &params);
    }
    let dense = model.build(slots.len()).start_dense(3);
    let snapshot = Snapshot { model, slots, entries, dense, ..Snapshot::default() };
    let live = Arc::new(LiveModel::open(&snapshot, 7, 70));
    let predictor = Predictor::new("m", schema.clone(), Arc::new(Same(schema)), extractor, live).unwrap();
    Drawn { predictor, snapshot, features }
}

const BODY: &str = r#"{"rows":[{"a":1.5,"b":-0.5,"c":2.0,"d":0.25}]}"#;

impl Drawn {
    /// The score of the row with some of its slots, given as bits.
    fn score(&self, slots: u32) -> Vec<f64> {
        let all = self.features.range(0);
        let some: Vec<(u16, u64, f32)> = all
            .map(|i| (self.features.slots[i], self.features.keys[i], self.features.values[i]))
            .filter(|f| slots >> f.0 & 1 == 1)
            .collect();
        let mut features = Features::new();
        features.push(&some);
        let mut scores = Vec::new();
        WeightTable::from_snapshot(&self.snapshot).score(&features, &mut ScoreScratch::default(), &mut scores).unwrap();
        scores.iter().map(|x| f64::from(*x)).collect()
    }

    /// Shapley's value of a slot: what it adds to every set of the others, each weighed by the orders that lead there.
    fn shapley(&self, slot: u32, slots: u32, class: usize) -> f64 {
        let factorial = |n: u32| (1..=n).map(f64::from).product::<f64>();
        let sets = (0..1u32 << slots).filter(|set| set >> slot & 1 == 0);
        sets.map(|set| {
            let weight = factorial(set.count_ones()) * factorial(slots - set.count_ones() - 1) / factorial(slots);
            weight * (self.score(set | 1 << slot)[class] - self.score(set)[class])
        })
        .sum()
    }
}

#[test]
fn contributions_are_shapley_values_and_add_up() {
    let fm = LearnerSpec::Fm { factors: 4, spread: 0.1, dropout: 0.0 };
    let ffm = LearnerSpec::Ffm { factors: 3, spread: 0.1 };
    for (learner, loss) in [
        (LearnerSpec::Linear, Loss::Logistic),
        (LearnerSpec::Linear, Loss::Softmax { classes: 3 }),
        (fm, Loss::Logistic),
        (ffm, Loss::Squared),
    ] {
        let drawn = drawn(learner.clone(), loss);
        let reply = drawn.predictor.explain(BODY.as_bytes(), None).unwrap();
        assert_eq!((reply.version, reply.mini_batch, reply.explanations.len()), (7, 70, 1));
        let one = &reply.explanations[0];
        let slots = drawn.snapshot.slots.len() as u32;
        assert_eq!((one.slots.len() as u32, one.score.len()), (slots, loss.outputs()), "{learner:?}");
        assert_eq!((&one.score, &one.base), (&drawn.score(u32::MAX), &drawn.score(0)));
        for class in 0..loss.outputs() {
            for (name, adds) in &one.slots {
                let slot = drawn.snapshot.slots.iter().position(|s| s == name).unwrap() as u32;
                let expected = drawn.shapley(slot, slots, class);
                assert!((adds[class] - expected).abs() < 1e-5, "{learner:?} {name}: {} {expected}", adds[class]);
            }
            let sum: f64 = one.slots.iter().map(|s| s.1[class]).sum();
            assert!((one.base[class] + sum - one.score[class]).abs() < 1e-5, "{learner:?}");
        }
        let sizes: Vec<f64> = one.slots.iter().map(|s| s.1.iter().fold(0.0, |m: f64, x| m.max(x.abs()))).collect();
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[0] > 0.01, "{sizes:?}");
    }
    // FM by hand: slots act in pairs, so no slot's value is what it adds alone.
    let drawn = drawn(LearnerSpec::Fm { factors: 4, spread: 0.1, dropout: 0.0 }, Loss::Logistic);
    assert!((drawn.shapley(1, 5, 0) - drawn.score(2)[0]).abs() > 1e-3);
}

#[test]
fn what_cannot_be_explained_is_said() {
    let deep = Deep { embedding: 2, spread: 0.1, layers: vec![3], dropout: 0.0 };
    let drawn = drawn(LearnerSpec::Mlp(deep), Loss::Logistic);
    let refused =
        |body: &str, version| drawn.predictor.explain(body.as_bytes(), version).unwrap_err().message().to_string();
    let message =
        "model 'm' has layers, where slots do not add up; linear models and factorisation machines are explained";
    assert_eq!(refused(BODY, None), message);
    let many = json!({"rows": vec![json!({}); 65]}).to_string();
    assert_eq!(refused(&many, None), "65 rows; the limit of an explanation is 64");
    assert_eq!(refused("", None), "request body is empty");
    assert_eq!(refused(BODY, Some(3)), "version 3 is not loaded (served is 7)");
}

/// Weights of 0.3 for user, item, cross and the constant, and a price of 2.0: 0.6. The score is 1.8.
#[test]
fn an_explanation_over_http_names_slots_and_version() {
    let site = open("explain");
    let answer = site.post("/v1/models/ctr:explain", &json!({"rows": [row(), {"user": "nobody"}]}).to_string());
    let reply = answer.json();
    assert_eq!((answer.status, &reply["model"], &reply["version"]), (200, &json!("ctr"), &json!(3)), "{reply}");
    let one = &reply["explanations"][0];
    let near = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-6;
    assert!(near(&one["score"], 1.8) && near(&one["base"], 0.0), "{one}");
    assert!(near(&one["probability"], 1.0 / (1.0 + (-1.8f64).exp())), "{one}");
    let contributions: Vec<(&str, bool)> = one["contributions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["slot"].as_str().unwrap(), near(&c["contribution"], if c["slot"] == "price" { 0.6 } else { 0.3 })))
        .collect();
    assert_eq!(contributions[0], ("price", true));
    assert!(contributions.len() == 5 && contributions.iter().all(|c| c.1), "{contributions:?}");
    assert!(contributions.iter().any(|c| c.0 == "bias"));
    let explain = "POST /v1/models/ctr:explain";
    site.refuses(explain, "", r#"{"rows":[{"price":"x"}]}"#, 400, "rows[0].price: expected number, found string");
    site.refuses("POST /v1/models/nope:explain", "", "{}", 404, "no model 'nope' (have ctr)");
    site.refuses("POST /v1/models/ctr@9:explain", "", "{}", 404, "model 'ctr' has no version 9 (have 1-3)");
    assert_eq!(site.get("/v1/models/ctr:explain").status, 405);
    assert!(site.get("/metrics").body.contains(r#"tidemill_http_requests_total{route="explain",status="2xx"} 1"#));
}
