//! A version whose pages a slow disk brings: who asks it waits, and nobody else.

#[path = "../src/server/grpc/inference.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod inference;
mod support;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::Ordering::SeqCst,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use inference::*;
use serde_json::{Value, json};
use support::{
    FakeHost,
    call::Client,
    meta, row,
    site::{Site, of},
    snapshot,
};
use tidemill_model::weights::{SnapshotBytes, WeightTable};
use tidemill_serve::server::{Border, Limits};

const PATIENCE: Duration = Duration::from_secs(20);

/// The bytes of a snapshot on a disk that brings nothing before it is told to.
struct SlowBytes {
    /// Of numbers, so that they lie as numbers do.
    words: Vec<u128>,
    bytes: usize,
    asked: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

impl AsRef<[u8]> for SlowBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }
}

impl SnapshotBytes for SlowBytes {
    fn will_need(&self, _range: Range<usize>) {
        let _ = self.asked.lock().unwrap().send(());
        let _ = self.go.lock().unwrap().recv_timeout(PATIENCE);
    }
}

/// Version 2 of a model, on a slow disk: it says when somebody wants a page of it, and brings them once its sender is gone.
fn serve_slowly(host: &FakeHost) -> (Receiver<()>, Sender<()>) {
    let encoded = snapshot(&row(), 0.2).encode();
    let mut words = vec![0u128; encoded.len().div_ceil(16)];
    bytemuck::cast_slice_mut(&mut words)[..encoded.len()].copy_from_slice(&encoded);
    let ((asked, was_asked), (go_on, go)) = (channel(), channel());
    let bytes = SlowBytes { words, bytes: encoded.len(), asked: Mutex::new(asked), go: Mutex::new(go) };
    let (weights, _) = WeightTable::map(Arc::new(bytes), "version 2").unwrap().unwrap();
    host.live.keep(weights, 2, meta(2).mini_batch);
    (was_asked, go_on)
}

fn open_site(name: &str) -> Site {
    of(FakeHost::open(name), Limits { threads: 1, ..Limits::default() }, Border::default())
}

#[test]
fn whoever_asks_what_is_in_memory_does_not_wait_for_a_disk() {
    let (site, in_memory) = (open_site("slow-disk"), open_site("slow-disk-none"));
    let infer = json!({"inputs": [
        {"name": "user", "datatype": "BYTES", "shape": [1], "data": ["u1"]},
        {"name": "item", "datatype": "BYTES", "shape": [1], "data": ["i1"]},
        {"name": "price", "datatype": "FP64", "shape": [1], "data": [2.0]},
    ]});
    let rows = json!({"rows": [row()]});
    let candidates = json!({"candidates": [{"id": 1, "user": "u1", "item": "i1", "price": 2.0}, {"id": 2}], "now": 1});
    let asked: [(&str, &Value); 4] = [
        ("/v1/models/ctr@2:predict", &rows),
        ("/v1/models/ctr@2:explain", &rows),
        ("/v1/models/ctr@2:rank", &candidates),
        ("/v2/models/ctr/versions/2/infer", &infer),
    ];
    for (path, body) in asked {
        waits_alone(&site, path, |site| site.post(path, &body.to_string()).json());
        let expected = in_memory.post(path, &body.to_string());
        assert_eq!((expected.status, site.post(path, &body.to_string()).json()), (200, expected.json()), "{path}");
    }
    let tensor = |name: &str, datatype: &str, contents: InferTensorContents| model_infer_request::InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![1],
        contents: Some(contents),
        ..Default::default()
    };
    let text = |text: &str| InferTensorContents { bytes_contents: vec![text.into()], ..Default::default() };
    let message = ModelInferRequest {
        model_name: "ctr".into(),
        model_version: "2".into(),
        inputs: vec![tensor("user", "BYTES", text("u1")), tensor("item", "BYTES", text("i1"))],
        parameters: [(
            "missing_as_null".to_string(),
            InferParameter { parameter_choice: Some(infer_parameter::ParameterChoice::BoolParam(true)) },
        )]
        .into(),
        ..Default::default()
    };
    let call = |site: &Site| Client::open(site).call("ModelInfer", &message).read::<ModelInferResponse>();
    assert_eq!(waits_alone(&site, "gRPC", call), call(&in_memory));
}

/// Who waits for a disk has a deadline as all have, and those who come meanwhile are not told that there is no time.
#[test]
fn a_disk_that_takes_too_long_is_too_late_for_one() {
    let site = open_site("slow-disk-late");
    let (was_asked, go_on) = serve_slowly(&site.host);
    let body = json!({"rows": [row()]}).to_string();
    let ask = |path: &str| site.send(&format!("POST {path}"), "request-timeout-ms: 300\r\n", &body);
    for _ in 0..6 {
        let late = ask("/v1/models/ctr@2:predict");
        assert_eq!((late.status, late.json()["error"]["code"].as_str()), (429, Some("deadline")), "{late:?}");
        assert_eq!(ask("/v1/models/ctr:predict").status, 200);
    }
    was_asked.recv_timeout(PATIENCE).unwrap();
    drop(go_on);
    let answered = site.post("/v1/models/ctr@2:predict", &body);
    assert_eq!((answered.status, answered.json()["version"].as_u64()), (200, Some(2)));
}

/// What a request to version 2 is answered, which had to wait while the live version went on.
fn waits_alone<T: Send>(site: &Site, what: &str, ask: impl Fn(&Site) -> T + Sync) -> T {
    let (was_asked, go_on) = serve_slowly(&site.host);
    thread::scope(|scope| {
        let slow = scope.spawn(|| ask(site));
        was_asked.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: nobody wants a page"));
        for _ in 0..3 {
            let live = site.post("/v1/models/ctr:predict", &json!({"rows": [row()]}).to_string());
            assert_eq!((live.status, live.json()["version"].as_u64()), (200, Some(3)), "{what}");
        }
        assert!(!slow.is_finished(), "{what}: it was answered without its page");
        // The model that was found answers, be it gone by then.
        site.host.hidden.store(true, SeqCst);
        drop(go_on);
        let answered = slow.join().unwrap();
        site.host.hidden.store(false, SeqCst);
        answered
    })
}
