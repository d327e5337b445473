//! The Open Inference Protocol against models of whole programs: with feature views, and with classes.

use serde_json::{Value, json};

use super::support::{Scratch, Serving, eventually};

fn start(scratch: &Scratch, sql: &str) -> Serving {
    let sql = scratch.write("program.sql", sql);
    let data = scratch.path("data");
    Serving::start(&["run", sql.to_str().unwrap(), "--data-dir", data.to_str().unwrap()])
}

fn infer(s: &Serving, model: &str, inputs: Value) -> Value {
    let (status, body) = s.post(&format!("/v2/models/{model}/infer"), &json!({ "inputs": inputs }).to_string());
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn pushed(s: &Serving, source: &str, lines: &[Value]) {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let (status, body) = s.post(&format!("/v1/sources/{source}"), &lines.join("\n"));
    assert_eq!(status, 200, "{body}");
}

fn inputs(s: &Serving, model: &str) -> Vec<(String, String)> {
    let metadata = s.get_json(&format!("/v2/models/{model}"));
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let inputs = metadata["inputs"].as_array().unwrap();
    inputs.iter().map(|i| (text(&i["name"]), text(&i["datatype"]))).collect()
}

/// A model with a feature view asks for its key and for what features are made of, not for every column of the source; the
/// event time may come and need not.
#[test]
fn a_model_with_a_feature_view_asks_for_what_it_reads() {
    let scratch = Scratch::new("infer-views");
    let s = start(
        &scratch,
        "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, ts BIGINT, person STRING, item STRING, page STRING, price DOUBLE,
           rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'http', idle_timeout = '50ms');
         CREATE SOURCE clicked (imp_id BIGINT, person STRING, ts BIGINT,
           rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'http', idle_timeout = '50ms');
         CREATE FEATURE VIEW seen KEYED BY person AS
           SELECT COUNT(s) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h FROM shown s, clicked c;
         SELECT i.*, f.imp_1h, (c.imp_id IS NOT NULL) AS label FROM shown i
           LEFT JOIN clicked c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
           LEFT JOIN seen FOR SYSTEM_TIME AS OF i.rt f ON f.person = i.person
           EMIT IMMEDIATE CORRECT RETRACT
         TO TRAIN FTRLClassifier WITH publish.interval = '100ms' COLUMN item, imp_1h LABEL label INTO ctr;",
    );
    let pair = |name: &str, datatype: &str| (name.to_string(), datatype.to_string());
    assert_eq!(inputs(&s, "ctr"), [pair("ts", "INT64"), pair("person", "BYTES"), pair("item", "BYTES")]);
    let shown = |i: u64| json!({"imp_id": i, "ts": 1_000 + i, "person": "ann", "item": format!("i{}", i % 3)});
    pushed(&s, "shown", &(0..60).map(shown).collect::<Vec<_>>());
    pushed(
        &s,
        "clicked",
        &(0..60).step_by(3).map(|i| json!({"imp_id": i, "person": "ann", "ts": 2_000 + i})).collect::<Vec<_>>(),
    );
    let texts = |name: &str, text: &str| json!({"name": name, "shape": [1], "datatype": "BYTES", "data": [text]});
    let asked = || infer(&s, "ctr", json!([texts("person", "ann"), texts("item", "i0")]));
    let predicted = || {
        let body = json!({"rows": [{"person": "ann", "item": "i0"}]}).to_string();
        serde_json::from_str::<Value>(&s.post("/v1/models/ctr:predict", &body).1).unwrap()
    };
    eventually("learned, and both ways agree", || {
        let (tensor, row) = (asked(), predicted());
        let one = tensor["outputs"][0]["data"][0].as_f64()? as f32;
        let other = row["predictions"][0]["probability"].as_f64()? as f32;
        (one == other && one != 0.5 && tensor["parameters"]["mini_batch"] == row["mini_batch"]).then_some(())
    });
    let time = json!({"name": "ts", "shape": [1], "datatype": "INT64", "data": [1_030]});
    infer(&s, "ctr", json!([time, texts("person", "ann"), texts("item", "i0")]));
    let (status, body) = s.post("/v2/models/ctr/infer", &json!({"inputs": [texts("item", "i0")]}).to_string());
    assert!(status == 400 && body.contains("input 'person' is missing"), "{body}");
    // What the view counts is shown.
    eventually("counters of the view", || {
        let metrics = s.get("/metrics").1;
        let line = |name: &str| format!(r#"tidemill_view_{name}{{model="ctr",view="seen"}} "#);
        let value = |name: &str| metrics.lines().find_map(|l| l.strip_prefix(&line(name))?.parse::<u64>().ok());
        let expected = [("updates_total", 80), ("reads_total", 60), ("keys", 1), ("without_key_total", 0)];
        expected.iter().all(|(name, n)| value(name) == Some(*n)).then_some(())
    });
}

/// A model of classes gives the probability of each, and the likeliest one beside them.
#[test]
fn a_model_of_classes_gives_all_of_them() {
    let scratch = Scratch::new("infer-classes");
    let s = start(
        &scratch,
        "CREATE SOURCE seen (item STRING, kind BIGINT) WITH (connector = 'http');
         SELECT * FROM seen TO TRAIN SoftmaxRegression WITH model.classes = 3, publish.interval = '100ms'
           COLUMN item LABEL kind INTO kinds;",
    );
    let metadata = s.get_json("/v2/models/kinds");
    assert_eq!(
        metadata["outputs"],
        json!([{"name": "prediction", "datatype": "FP32", "shape": [-1, 3]}, {"name": "class", "datatype": "INT64", "shape": [-1]}])
    );
    let lines: Vec<Value> = (0..300).map(|i| json!({"item": format!("i{}", i % 3), "kind": i % 3})).collect();
    pushed(&s, "seen", &lines);
    let items = json!([{"name": "item", "shape": [4], "datatype": "BYTES", "data": ["i0", "i1", "i2", "i1"]}]);
    let reply = eventually("the classes are learned", || {
        Some(infer(&s, "kinds", items.clone())).filter(|reply| reply["outputs"][1]["data"] == json!([0, 1, 2, 1]))
    });
    let prediction = &reply["outputs"][0];
    assert_eq!((&prediction["shape"], &reply["outputs"][1]["shape"]), (&json!([4, 3]), &json!([4])));
    let p: Vec<f64> = prediction["data"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert_eq!(p.len(), 12);
    for (row, class) in p.chunks(3).zip([0, 1, 2, 1]) {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-6 && row[class] > 0.5, "{row:?}");
    }
    // One output alone, and the numbers of `:predict`.
    let body = json!({"inputs": items, "outputs": [{"name": "class"}]}).to_string();
    let (_, class) = s.post("/v2/models/kinds/infer", &body);
    let class: Value = serde_json::from_str(&class).unwrap();
    assert_eq!((class["outputs"].as_array().unwrap().len(), &class["outputs"][0]["data"]), (1, &json!([0, 1, 2, 1])));
    let (_, predicted) = s.post("/v1/models/kinds:predict", r#"{"rows":[{"item":"i2"}]}"#);
    let predicted: Value = serde_json::from_str(&predicted).unwrap();
    let row: Vec<f32> = predicted["predictions"][0]["probabilities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p.as_f64().unwrap() as f32)
        .collect();
    assert_eq!(row, p[6..9].iter().map(|p| *p as f32).collect::<Vec<_>>());
    let (status, body) =
        s.post("/v2/models/kinds/infer", &json!({"inputs": items, "outputs": [{"name": "score"}]}).to_string());
    assert!(status == 400 && body.contains("model 'kinds' has no output 'score' (have prediction, class)"), "{body}");
}
