//! What a process survives as a whole, by its number in the list of what must happen: memory that ends (F34), requests that
//! ask for absurd sizes (F35), a program that is older or newer than its data (F40), data of something else (B88).

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::json;
use tidemill_base::{Rng, hash64};

use super::{
    kill::outcome,
    support::{Scratch, Serving, eventually, generated, last_json, run, run_json, tidemill},
};

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A number of `/proc/PID/status`, in KiB.
fn memory_kib(pid: u32, what: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// F34: the bound of the table keeps what is learned within it, and says what was not let in.
#[test]
fn f34_a_table_with_a_bound_lets_no_more_in_and_says_so() {
    let scratch = Scratch::new("bound");
    let rows: String = (0..200_000).map(|i| format!("u{i},{}\n", i % 3 / 2)).collect();
    let path = scratch.write("rows.csv", format!("user,label\n{rows}"));
    let learn = |with: &str| {
        let data = scratch.path(&format!("data{}", with.len()));
        let sql = format!(
            "CREATE SOURCE t (user STRING, label INT) WITH (connector = 'file', path = '{}');
             SELECT * FROM t TO TRAIN FTRLClassifier WITH publish.every = 100000{with} COLUMN user LABEL label INTO m;",
            path.display()
        );
        run_json(&sql, &data, &[])
    };
    let (whole, bounded) = (learn(""), learn(", train.bytes_max = '3MiB'"));
    let bytes = |out: &serde_json::Value| out["table_bytes"].as_u64().unwrap();
    assert!(bytes(&whole) > 4 << 20 && bytes(&bounded) <= 3 << 20, "{} and {} bytes", bytes(&whole), bytes(&bounded));
    assert_eq!(whole["counters"]["keys_not_admitted"], 0);
    assert!(bounded["counters"]["keys_not_admitted"].as_u64().unwrap() > 0, "{bounded}");
    assert_eq!((&bounded["samples"], &whole["samples"]), (&json!(200_000), &json!(200_000)));
}

/// F34: a process that gets no more memory, at whatever moment, is a process that was killed: started again where there is
/// some, it ends as if nothing had happened.
#[test]
fn f34_out_of_memory_at_any_moment_costs_nothing() {
    let scratch = Scratch::new("memory");
    let sql = generated(60_000, "");
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &[]));
    let (mut rng, mut died) = (Rng::seeded(11), 0);
    for round in 0..8 {
        let data = scratch.path(&format!("{round}"));
        let mut command = tidemill();
        command.args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"]).arg(&data);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("it has begun", || data.join("models/ctr/job/journal.log").exists().then_some(()));
        std::thread::park_timeout(Duration::from_millis(rng.below(60)));
        // It keeps what it has, and gets a little more.
        let kib = memory_kib(child.id(), "VmSize:") + rng.below(1_024);
        let limit = format!("--as={}", kib * 1024);
        let mut prlimit = Command::new("prlimit");
        let limited = prlimit.args(["--pid", &child.id().to_string(), &limit]).stderr(Stdio::null()).status();
        assert!(limited.is_ok(), "prlimit is needed: apt-get install util-linux");
        for _ in 0..2_000 {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        // One that stands still without memory would be killed by whoever watches it.
        let _ = child.kill();
        let out = child.wait_with_output().unwrap();
        match out.status.success() {
            true => {
                // A checkpoint that found no memory is told, and costs nothing else.
                let mut end = outcome(&last_json(&out));
                end.as_object_mut().unwrap().remove("warning");
                assert_eq!(end, reference);
            }
            false => {
                assert!(!matches!(out.status.code(), Some(2..=4)), "{:?} {}", out.status, said(&out));
                assert_eq!(outcome(&run_json(&sql, &data, &[])), reference);
                died += 1;
            }
        }
    }
    println!("{died} of 8 processes died without memory");
    assert!(died > 0, "none ran out of memory");
}

/// Sends some bytes and takes what comes back, for a second at most.
fn exchange(address: &str, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut reply = [0; 4_096];
    let n = stream.read(&mut reply).unwrap_or(0);
    String::from_utf8_lossy(&reply[..n]).into_owned()
}

/// F35: a size that a request only claims is refused by a limit, and never asked of the memory.
#[test]
fn f35_absurd_sizes_in_requests_are_refused_and_cost_no_memory() {
    let scratch = Scratch::new("absurd");
    let data = scratch.path("data");
    let path = scratch.write("rows.csv", "colour,x,label\nred,1,1\nblue,2,0\n");
    let sql = format!(
        "CREATE SOURCE t (colour STRING, x DOUBLE, label INT) WITH (connector = 'file', path = '{}');
         SELECT * FROM t TO TRAIN FTRLClassifier COLUMN colour, x LABEL label INTO m;",
        path.display()
    );
    run_json(&sql, &data, &[]);
    let s = Serving::start(&["serve", "--data-dir", data.to_str().unwrap()]);
    let good = || s.post("/v1/models/m:predict", &json!({"rows": [{"colour": "red"}]}).to_string());
    let infer = |shape: &str| {
        let input = format!(r#"{{"name": "x", "shape": {shape}, "datatype": "FP64", "data": [1]}}"#);
        (String::from("/v2/models/m/infer"), String::new(), format!(r#"{{"inputs": [{input}]}}"#).into_bytes())
    };
    let binary = |bytes: &str| {
        let json = format!(
            r#"{{"inputs": [{{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {{"binary_data_size": {bytes}}}}}]}}"#
        );
        let header = format!("Inference-Header-Content-Length: {}\r\n", json.len());
        (String::from("/v2/models/m/infer"), header, [json.as_bytes(), &[0; 8]].concat())
    };
    let arrow = "Content-Type: application/vnd.apache.arrow.stream\r\n".to_string();
    let predict = || String::from("/v1/models/m:predict");
    let rank = format!(r#"{{"candidates": [{{"colour": "red"}}], "score": "score", "top_k": {}}}"#, u64::MAX);
    let requests = [
        infer("[1000000000000000]"),
        infer("[4294967296, 4294967296]"),
        infer("[18446744073709551615, 2]"),
        binary("1000000000000000"),
        binary("18446744073709551615"),
        binary("-1"),
        // An Arrow stream whose message says that it is 2 GiB long, and one whose body is.
        (predict(), arrow.clone(), [&[0xff; 4], &0x7fff_fff0u32.to_le_bytes()[..], &[0; 64]].concat()),
        (predict(), arrow, [&0x7fff_fff0u32.to_le_bytes()[..], &[0; 64]].concat()),
        (String::from("/v1/models/m:rank"), String::new(), rank.into_bytes()),
        (predict(), String::new(), format!(r#"{{"rows": [{{"x": 1{}}}]}}"#, "0".repeat(500)).into_bytes()),
    ];
    let send = |(path, headers, body): &(String, String, Vec<u8>), length: &str| {
        let of_text = if headers.contains("Content-Type") { "" } else { "Content-Type: application/json\r\n" };
        let length = if length.is_empty() { body.len().to_string() } else { length.to_string() };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{of_text}{headers}Content-Length: {length}\r\n\r\n"
        );
        exchange(&s.address, &head, body)
    };
    let all = || {
        for (i, request) in requests.iter().enumerate() {
            let reply = send(request, "");
            let status = reply.split_whitespace().nth(1).unwrap_or_default();
            let is_rank = request.0.ends_with("rank");
            assert!(["400", "413"].contains(&status) || (is_rank && status == "200"), "request {i}: {reply}");
            assert_eq!(good().0, 200);
        }
        for length in ["1000000000000000", "18446744073709551615", "99999999999999999999999"] {
            let reply = send(&requests[0], length);
            assert!(reply.starts_with("HTTP/1.1 4"), "{length}: {reply}");
            assert_eq!(good().0, 200);
        }
    };
    // Twice for what a server keeps from its first requests; then nothing more.
    all();
    all();
    let before = memory_kib(s.child.id(), "VmHWM:");
    all();
    let grown = memory_kib(s.child.id(), "VmHWM:") - before;
    assert!(before > 0 && grown < 1_024, "{grown} KiB more than {before}");
}

/// Writes the file anew as a program of another format would have: the number at byte 8, and in a checkpoint every check
/// that follows from its header.
fn reformat(path: &Path, by: i32) -> (u32, Vec<u8>) {
    let before = fs::read(path).unwrap();
    let mut bytes = before.clone();
    let format = u32::from_le_bytes(bytes[8..12].try_into().unwrap()).wrapping_add_signed(by);
    bytes[8..12].copy_from_slice(&format.to_le_bytes());
    match path.extension().and_then(|e| e.to_str()) {
        Some("ck") => {
            let check = hash64(&bytes[..36], 0);
            bytes[36..44].copy_from_slice(&check.to_le_bytes());
            for (i, chunk) in bytes[44..].chunks_mut(8 + (64 << 10)).enumerate() {
                let sum = hash64(&chunk[8..], check ^ i as u64);
                chunk[..8].copy_from_slice(&sum.to_le_bytes());
            }
        }
        Some("part") => {
            let check = hash64(&bytes[..28], 0);
            bytes[28..36].copy_from_slice(&check.to_le_bytes());
        }
        _ => {}
    }
    fs::write(path, bytes).unwrap();
    (format, before)
}

fn newest(dir: &Path, extension: &str) -> PathBuf {
    let mut all: Vec<PathBuf> = fs::read_dir(dir).unwrap().flatten().map(|e| e.path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == extension));
    all.sort();
    all.pop().unwrap()
}

/// F40: a program refuses what a newer or an older one has written, by file and format, and says the way out; nothing is
/// lost by having tried. With the program that fits, the run goes on to the same end.
#[test]
fn f40_what_another_release_has_written_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new("release");
    let sql = generated(30_000, "");
    let data = scratch.path("data");
    let reference = outcome(&run_json(&sql, &data, &[]));
    let job = data.join("models/ctr/job");
    let checkpoints = job.join("checkpoints");
    for (path, by, words) in [
        (newest(&checkpoints, "ck"), 1, "is newer than this binary"),
        (newest(&checkpoints, "ck"), -1, "of an older program"),
        (newest(&checkpoints, "part"), 1, "is not this binary's"),
        // The number behind its own is that of journals that may be cut.
        (job.join("journal.log"), 2, "newer"),
        (data.join("format"), 0, "is newer than this binary"),
    ] {
        let (format, before) = match by {
            0 => {
                let before = fs::read(&path).unwrap();
                fs::write(&path, "2\n").unwrap();
                (2, before)
            }
            by => reformat(&path, by),
        };
        let out = run(&sql, &data, &[]);
        let text = said(&out);
        assert_eq!(out.status.code(), Some(4), "{}: {text}", path.display());
        assert!(text.contains(words) && text.contains(&format!("format {format}")), "{}: {text}", path.display());
        fs::write(&path, before).unwrap();
        assert_eq!(outcome(&run_json(&sql, &data, &[])), reference, "{}", path.display());
    }
    // The way out: everything is learned again, versions stay.
    reformat(&newest(&checkpoints, "ck"), 1);
    let again = outcome(&run_json(&sql, &data, &["--from-scratch"]));
    assert_eq!(again["state_hash"], reference["state_hash"]);
}

/// B88: a directory of another program is refused, and no checkpoint or part of one is ever taken; the number of threads is no
/// part of a checkpoint, and changes nothing.
#[test]
fn b88_nothing_of_another_program_is_taken_and_threads_do_not_matter() {
    let scratch = Scratch::new("topology");
    let ours = generated(20_000, "");
    let theirs = ours.replace("CROSS([C1, C3])", "CROSS([C1, C2])");
    let (data, other) = (scratch.path("ours"), scratch.path("theirs"));
    let reference = outcome(&run_json(&ours, &data, &["--threads", "1"]));
    run_json(&theirs, &other, &[]);
    // Their program over our directory.
    let out = run(&theirs, &data, &[]);
    assert_eq!(out.status.code(), Some(4), "{}", said(&out));
    assert!(said(&out).contains("another") && said(&out).contains("--from-scratch"), "{}", said(&out));
    // Their checkpoints under our program: none is taken, and all is derived from our journal.
    let place = |data: &Path| data.join("models/ctr/job/checkpoints");
    fs::rename(place(&data), scratch.path("kept")).unwrap();
    fs::rename(place(&other), place(&data)).unwrap();
    let out = run_json(&ours, &data, &["--threads", "1"]);
    assert!(out["warning"].as_str().is_some_and(|w| w.contains("derived again from the journal")), "{out}");
    let learned = |out: &serde_json::Value| ["state_hash", "samples", "entries"].map(|what| out[what].clone());
    assert_eq!(learned(&out), learned(&reference));
    // Ours, with one of their parts in the place of one of ours.
    fs::remove_dir_all(place(&data)).unwrap();
    fs::rename(scratch.path("kept"), place(&data)).unwrap();
    run_json(&theirs, &other, &[]);
    let part = newest(&place(&data), "part");
    let good = fs::read(&part).unwrap();
    fs::copy(newest(&place(&other), "part"), &part).unwrap();
    let out = run(&ours, &data, &[]);
    match out.status.success() {
        // Where another checkpoint does not need it.
        true => {
            let out = last_json(&out);
            assert!(out["warning"].as_str().is_some_and(|w| w.contains("its part")), "{out}");
            assert_eq!(learned(&out), learned(&reference));
        }
        false => assert!(out.status.code() == Some(4) && said(&out).contains("its part"), "{}", said(&out)),
    }
    fs::write(&part, good).unwrap();
    // Eight threads or one: the same state.
    for threads in ["8", "1", "3"] {
        assert_eq!(outcome(&run_json(&ours, &data, &["--threads", threads])), reference);
    }
    fs::remove_dir_all(place(&data)).unwrap();
    assert_eq!(outcome(&run_json(&ours, &data, &["--threads", "5"])), reference);
}
