//! Starting the program, reading what it says, ending it.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;

/// A directory of a test's own, removed when it ends well.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tidemill-it-{name}-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

pub fn tidemill() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    c.stdin(Stdio::null());
    c
}

/// The program where no file grows beyond so many KiB; the signal is ignored so that the write fails instead.
pub fn with_disk_of(kib: u32) -> Command {
    let mut c = Command::new("bash");
    let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
    c.args(["-c", &script, env!("CARGO_BIN_EXE_tidemill")]).stdin(Stdio::null());
    c
}

/// Runs a program to its end and gives back the JSON object of its last line.
pub fn run_json(sql: &str, data: &Path, more: &[&str]) -> Value {
    let out = run(sql, data, more);
    assert!(out.status.success(), "{}\n{}", sql, String::from_utf8_lossy(&out.stderr));
    last_json(&out)
}

pub fn run(sql: &str, data: &Path, more: &[&str]) -> Output {
    tidemill()
        .args(["run", "--json", "--quiet", "--no-serve", "-e", sql, "--data-dir"])
        .arg(data)
        .args(more)
        .output()
        .unwrap()
}

pub fn last_json(out: &Output) -> Value {
    let text = String::from_utf8_lossy(&out.stdout);
    let line =
        text.lines().last().unwrap_or_else(|| panic!("no output; stderr: {}", String::from_utf8_lossy(&out.stderr)));
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"))
}

/// A program that serves on a free port until it is dropped.
pub struct Serving {
    pub child: Child,
    pub address: String,
}

impl Serving {
    pub fn start(args: &[&str]) -> Self {
        Self::spawn(tidemill().args(args))
    }

    /// Starts it where no file grows beyond so many KiB: the disk's end as seen by one process.
    pub fn start_with_disk_of(kib: u32, args: &[&str]) -> Self {
        Self::spawn(with_disk_of(kib).args(args))
    }

    /// Starts it on a port where something served before, as soon as that is free.
    pub fn start_at(address: &str, args: &[&str]) -> Self {
        let port = address.rsplit(':').next().unwrap();
        eventually("the port is free", || std::net::TcpListener::bind(address).ok().map(drop));
        Self::spawn_at(tidemill().args(args), port)
    }

    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_at(command, "0")
    }

    fn spawn_at(command: &mut Command, port: &str) -> Self {
        let mut child = command.args(["--port", port]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let address = loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                panic!("ended before it served: {seen}");
            }
            seen.push_str(&line);
            if let Some(at) = line.find("://") {
                break line[at + 3..].trim_end().trim_end_matches('/').to_string();
            }
        };
        // Keeps reading, so that the program never waits for us.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, address }
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    pub fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.send("POST", path, body)
    }

    /// A request with JSON.
    pub fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.request(&(head + body))
    }

    /// Status 0: the server hung up without a word, as it does on more callers than it can refuse one by one.
    fn request(&self, text: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reply = Vec::new();
        match stream.write_all(text.as_bytes()).and_then(|()| stream.read_to_end(&mut reply)) {
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
            other => _ = other.unwrap(),
        }
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let status = reply.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, if chunked { unchunk(body) } else { body.to_string() })
    }

    /// Sends a signal and waits for the end; the exit code, and what was printed on stdout.
    pub fn end(mut self, signal: &str) -> (Option<i32>, String) {
        send_signal(&self.child, signal);
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap().code(), out)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn send_signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((len, rest)) = body.split_once("\r\n") {
        let len = usize::from_str_radix(len.trim(), 16).unwrap_or(0);
        if len == 0 || rest.len() < len {
            break;
        }
        out.push_str(&rest[..len]);
        body = rest[len..].trim_start_matches("\r\n");
    }
    out
}

/// Waits until a condition holds, at most half a minute.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = probe() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("not within 30 s: {what}");
}

/// A generated click stream, joined and learned; `more` goes into the TRAIN statement's WITH.
pub fn generated(rows: u64, more: &str) -> String {
    let with = |stream: &str| {
        format!("WITH (connector = 'generator', stream = '{stream}', rows = {rows}, rate = 2000, drift_every = '5s')")
    };
    let c: Vec<String> = (1..=26).map(|i| format!("C{i}")).collect();
    let i: Vec<String> = (1..=13).map(|i| format!("I{i}")).collect();
    format!(
        "CREATE SOURCE impressions (imp_id BIGINT PRIMARY KEY, ts BIGINT, {}, {}, true_p DOUBLE,
           rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '1' SECOND) {};
         CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '1' SECOND) {};
         CREATE STREAM samples AS SELECT i.*, (c.imp_id IS NOT NULL) AS clicked FROM impressions i LEFT JOIN clicks c
           ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' SECOND EMIT EARLY INTERVAL '0.3' SECOND CORRECT RETRACT;
         SELECT * FROM samples TO TRAIN FTRLClassifier WITH validate.oracle = 'true_p', checkpoint.interval = '30ms'{more}
           COLUMN {}, {}, CROSS([C1, C3]) LABEL clicked INTO ctr;",
        i.iter().map(|c| format!("{c} BIGINT")).collect::<Vec<_>>().join(", "),
        c.iter().map(|c| format!("{c} STRING")).collect::<Vec<_>>().join(", "),
        with("impressions"),
        with("clicks"),
        i.join(", "),
        c.join(", "),
    )
}

/// [`generated`] with what is known of a group of impressions and of their clicks when each is shown.
pub fn generated_with_views(rows: u64) -> String {
    let sql = generated(rows, "");
    let views = "CREATE FEATURE VIEW groups KEYED BY grp AS
           SELECT COUNT(imp) OVER SAWTOOTH (INTERVAL '5' SECOND, PANE '1' SECOND) AS imp_5s,
             COUNT(click) OVER SAWTOOTH (INTERVAL '5' SECOND, PANE '1' SECOND) AS clk_5s,
             RATIO(clk_5s, imp_5s, 20, 0.2) AS ctr_5s, MEAN(imp.I1) OVER DECAY (INTERVAL '2' SECOND) AS i1_faded,
             DISTINCT(imp.C2) OVER HOP (INTERVAL '1' SECOND, INTERVAL '3' SECOND) AS c2_distinct,
             MAX(imp.I2) OVER SESSION (INTERVAL '10' MILLISECOND) AS i2_max, LAST(imp.C3, 2) AS c3
           FROM impressions imp, clicks click WITH (keys_max = 80);
         CREATE STREAM samples AS";
    let sql = sql.replace("rt AS TO_TIMESTAMP_MS(ts),", "rt AS TO_TIMESTAMP_MS(ts), grp AS imp_id * 7 % 100,");
    let sql = sql.replace("CREATE STREAM samples AS", views);
    let sql = sql.replace("SELECT i.*, (c.imp_id", "SELECT i.*, f.*, (c.imp_id");
    let sql = sql.replace(
        "INTERVAL '1' SECOND EMIT",
        "INTERVAL '1' SECOND LEFT JOIN groups FOR SYSTEM_TIME AS OF i.rt f ON f.grp = i.grp WHERE i.I1 IS NULL OR i.I1 < 50 EMIT",
    );
    sql.replace(
        "CROSS([C1, C3])",
        "CROSS([C1, C3]), BUCKET(imp_5s, [10, 50, 200]), ctr_5s, i1_faded, c2_distinct, i2_max, c3_1, c3_2",
    )
}
