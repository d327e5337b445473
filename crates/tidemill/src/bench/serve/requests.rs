//! What is sent: numbers of one seed, as text.
//!
//! In: random numbers. Out: programs and bodies, the same in every run.

use tidemill_base::Rng;

use super::FLOATS;

const CANDIDATES: usize = 1_000;
/// Events in a push.
const PUSH_EVENTS: usize = 50;

/// The program of the model that is asked. `source`: where its events come from, as SQL says it.
pub(super) fn program(source: &str) -> String {
    format!(
        "CREATE SOURCE clicks (label BIGINT, {}) WITH ({source});\n\
         SELECT * FROM clicks TO TRAIN LogisticRegression COLUMN {} LABEL label INTO bench;",
        columns(" FLOAT"),
        columns("")
    )
}

/// The model's columns, each with something behind its name.
pub(super) fn columns(behind: &str) -> String {
    (0..FLOATS).map(|i| format!("f{i}{behind}")).collect::<Vec<_>>().join(", ")
}

/// An inference request of one sample.
pub(super) fn infer_body(rng: &mut Rng) -> String {
    format!(
        r#"{{"inputs":[{{"name":"features","shape":[1,{FLOATS}],"datatype":"FP32","data":[{}]}}]}}"#,
        floats(rng).join(",")
    )
}

/// Numbers as they are written in a request.
pub(super) fn floats(rng: &mut Rng) -> Vec<String> {
    (0..FLOATS).map(|_| format!("{:.5}", rng.next_f64())).collect()
}

/// Lines to push: the label depends on the first numbers.
pub(super) fn events(rng: &mut Rng) -> String {
    let event = |_| {
        let floats = floats(rng);
        let named: Vec<String> = floats.iter().enumerate().map(|(i, x)| format!(r#""f{i}":{x}"#)).collect();
        let label = (floats[0] > floats[1]) as u8;
        format!("{{\"label\":{label},{}}}\n", named.join(","))
    };
    (0..PUSH_EVENTS).map(event).collect()
}

/// A request to rank: what all share is in the context, three numbers of each candidate and its bid beside it.
pub(super) fn candidates(named: &[String], rng: &mut Rng) -> String {
    let candidate = |id| {
        let own = floats(rng);
        format!(r#"{{"id":{id},"f0":{},"f1":{},"f2":{},"bid":{}}}"#, own[0], own[1], own[2], own[3])
    };
    let candidates: Vec<String> = (0..CANDIDATES).map(candidate).collect();
    format!(
        r#"{{"context":{{{}}},"candidates":[{}],"score":"pctr ^ 0.8 * bid","k":10}}"#,
        named[3..].join(","),
        candidates.join(",")
    )
}
