//! Bad values by their number in the list of what must happen (B25, B40 to B46, B86): each costs itself, is told with its
//! place and value, and what is good is learned all the same. F19: so are copies of an event that say something else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::support::{Scratch, Serving, eventually, generated_with_views, last_json, run, run_json, tidemill};

const DEAD_LETTER: &str = "models/m/job/dead_letter.jsonl";

/// What stands in the dead letter of model `m`: place and reason.
fn reasons(data: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(data.join(DEAD_LETTER)).unwrap();
    let line = |line: &str| -> (String, String) {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["place"].as_str().unwrap().into(), line["reason"].as_str().unwrap().into())
    };
    text.lines().map(line).collect()
}

fn table(columns: &str, path: &Path, learned: &str) -> String {
    format!(
        "CREATE SOURCE t ({columns}) WITH (connector = 'file', path = '{}');
         SELECT * FROM t TO TRAIN FTRLClassifier COLUMN {learned} LABEL label INTO m;",
        path.display()
    )
}

fn said(out: &std::process::Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// B25: a program that is no text is refused with the byte, whoever reads it.
#[test]
fn b25_a_program_that_is_not_utf8_is_refused_with_its_byte() {
    let scratch = Scratch::new("utf8");
    let path = scratch.write("p.sql", b"SELECT * FROM t, \xff WHERE a");
    for command in ["run", "check"] {
        let mut run = tidemill();
        run.args([command, path.to_str().unwrap()]);
        let out = if command == "run" { run.arg("--data-dir").arg(scratch.path("data")) } else { &mut run }.output();
        let out = out.unwrap();
        assert_eq!(out.status.code(), Some(2), "{}", said(&out));
        assert!(said(&out).contains("p.sql: byte 17 is not UTF-8"), "{}", said(&out));
    }
}

fn sparse(path: &Path) -> String {
    format!(
        "CREATE SOURCE t (label DOUBLE, features SPARSE) WITH (connector = 'file', path = '{}', format = 'libsvm');
         SELECT features, label > 0 AS label FROM t TO TRAIN FTRLClassifier COLUMN SPARSE(features) LABEL label INTO m;",
        path.display()
    )
}

/// B40: a feature that stands twice in a row is one whose values add up, as the formats' readers say.
#[test]
fn b40_a_feature_that_stands_twice_in_a_row_counts_with_the_sum_of_its_values() {
    let scratch = Scratch::new("twice");
    let rows = |feature: &str| -> String {
        (0..500).map(|i| format!("{} {feature} {}:1\n", i % 2, 10 + i % 7 + i % 2)).collect()
    };
    let learned = |name: &str, feature: &str| {
        let path = scratch.write(&format!("{name}.libsvm"), rows(feature));
        let out = run_json(&sparse(&path), &scratch.path(name), &[]);
        assert_eq!((&out["samples"], &out["counters"]["refused"]), (&json!(500), &json!(0)));
        out["state_hash"].clone()
    };
    let once = learned("once", "3:1.5");
    assert_eq!(learned("twice", "3:0.5 3:1"), once);
    assert_eq!(learned("apart", "3:2 4:0 3:-0.5"), once, "wherever in the row they stand");
    assert_ne!(learned("other", "3:1"), once);
    // COLUMN takes a column once: a slot that stands twice is a mistake of the program.
    let path = scratch.write("rows.csv", "colour,label\nred,1\n");
    let out = run(&table("colour STRING, label INT", &path, "colour, colour"), &scratch.path("column"), &[]);
    assert!(out.status.code() == Some(2) && said(&out).contains("colour"), "{}", said(&out));
}

/// B41: an index is any whole number of 64 bits; a larger one costs its row.
#[test]
fn b41_an_index_beyond_64_bits_costs_its_row_and_is_named() {
    let scratch = Scratch::new("index");
    let rows =
        "1 1:1 18446744073709551615:0.5\n0 18446744073709551616:1\n1 3:7:1 99999999999999999999999:2\n0 2:1 -1:1\n";
    let path = scratch.write("rows.libsvm", format!("{rows}0 1:1\n"));
    let data = scratch.path("data");
    let out = run_json(&sparse(&path), &data, &[]);
    assert_eq!(out["samples"], 2, "{out}");
    let told: Vec<String> = reasons(&data).into_iter().map(|(_, reason)| reason).collect();
    for (told, expected) in told.iter().zip([
        "index 18446744073709551616 of a feature exceeds 18,446,744,073,709,551,615",
        "index 99999999999999999999999 of a feature exceeds 18,446,744,073,709,551,615",
        "'-1:1' is not a feature",
    ]) {
        assert!(told.contains(expected), "{told}: {expected}");
    }
    assert_eq!(told.len(), 3);
}

fn shown_and_clicked(shown: &Path, clicked: &Path, id: &str) -> String {
    let source = |name: &str, columns: &str, path: &Path| {
        format!(
            "CREATE SOURCE {name} ({columns}, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts),
               WATERMARK FOR rt AS rt - INTERVAL '1' SECOND) WITH (connector = 'file', path = '{}');",
            path.display()
        )
    };
    format!(
        "{}{}SELECT i.*, (c.id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
           ON i.id = c.id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '0.5' SECOND EMIT ON WINDOW CLOSE
         TO TRAIN FTRLClassifier WITH checkpoint.interval = '1h' COLUMN item LABEL label INTO m;",
        source("shown", &format!("id {id} PRIMARY KEY, item STRING"), shown),
        source("clicked", &format!("id {id}"), clicked),
    )
}

/// B43: an event whose id is missing, empty or absurdly long is refused where it comes in, by files and by push alike.
#[test]
fn b43_an_event_without_an_id_is_refused_and_told() {
    let scratch = Scratch::new("ids");
    let long = "x".repeat(1_025);
    let row = |id: Value, n: u64| json!({"id": id, "item": "a", "ts": 1_000 + n}).to_string();
    let rows = [
        row(json!("a1"), 0),
        row(Value::Null, 1),
        json!({"item": "a", "ts": 1_002}).to_string(),
        row(json!(""), 3),
        row(json!(long), 4),
        row(json!("x".repeat(1_024)), 5),
    ];
    // PRIMARY KEY says NOT NULL.
    let expected = [
        "row 2: column 'id': NULL in a column declared NOT NULL",
        "row 3: column 'id': NULL in a column declared NOT NULL",
        "event id 'id' is empty",
        "event id 'id' has 1025 bytes; at most 1024 are taken",
    ];
    let shown = scratch.write("shown.json", rows.join("\n"));
    let clicked = scratch.write("clicked.json", json!({"id": "a1", "ts": 1_100}).to_string());
    let data = scratch.path("data");
    let sql = shown_and_clicked(&shown, &clicked, "STRING");
    let out = run_json(&sql, &data, &[]);
    assert_eq!((&out["samples"], &out["positives"]), (&json!(2), &json!(1)), "{out}");
    assert_eq!(reasons(&data).iter().map(|r| r.1.as_str()).collect::<Vec<_>>(), expected);
    let pushed = [&shown, &clicked].iter().fold(sql, |sql, path| {
        sql.replace(&format!("'file', path = '{}'", path.display()), "'http', idle_timeout = '1h'")
    });
    // A number is missing, or it is not.
    let shown = scratch.write("shown.csv", "id,item,ts\n1,a,1000\n,a,1001\n");
    let clicked = scratch.write("clicked.csv", "id,ts\n1,1100\n");
    let other = scratch.path("numbers");
    assert_eq!(run_json(&shown_and_clicked(&shown, &clicked, "BIGINT"), &other, &[])["samples"], 1);
    assert_eq!(reasons(&other)[0].1, "row 2: column 'id': NULL in a column declared NOT NULL");
    // Who pushes it hears of it.
    let file = scratch.write("push.sql", pushed);
    let s = Serving::start(&["run", file.to_str().unwrap(), "--data-dir", scratch.path("push").to_str().unwrap()]);
    let (status, reply) = s.post("/v1/sources/shown", &rows.join("\n"));
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!((status, &reply["accepted"]), (200, &json!(2)), "{reply}");
    let told: Vec<&str> = reply["refused"].as_array().unwrap().iter().map(|r| r["reason"].as_str().unwrap()).collect();
    assert_eq!((told.len(), &told[2..]), (4, &expected[2..]));
    assert!(told[0].contains("column 'id': NULL in a column declared NOT NULL"), "{}", told[0]);
}

/// F19, B44: of two events with one id and other contents the first counts; the second is kept with what differs, and counted
/// exactly, a restart included. A copy that says the same is a duplicate and no conflict.
#[test]
fn f19_b44_an_event_that_comes_again_with_other_contents_is_kept_with_what_differs() {
    let scratch = Scratch::new("conflicts");
    let row = |id: u64, item: &str, ts: u64| json!({"id": id, "item": item, "ts": ts}).to_string() + "\n";
    let (mut shown, mut conflicts) = (String::new(), 0);
    for id in 0..900u64 {
        let (item, ts) = (format!("i{}", id % 9), 1_000 + id * 10);
        shown += &row(id, &item, ts);
        match id % 9 {
            0 => shown += &row(id, &item, ts),
            1 => shown += &row(id, "other", ts),
            2 => shown += &row(id, &item, ts + 1),
            _ => continue,
        }
        conflicts += u64::from(id % 9 > 0);
    }
    let clicks: String =
        (0..900u64).step_by(4).map(|id| json!({"id": id, "ts": 1_200 + id * 10}).to_string() + "\n").collect();
    let (shown, clicked) = (scratch.write("shown.json", shown), scratch.write("clicked.json", clicks));
    let (data, sql) = (scratch.path("data"), shown_and_clicked(&shown, &clicked, "BIGINT"));
    for _ in 0..2 {
        let out = run_json(&sql, &data, &[]);
        let counters = &out["counters"];
        assert_eq!((&out["samples"], &counters["duplicate"]), (&json!(900), &json!(300)), "{out}");
        assert_eq!(counters["conflicting"], json!(conflicts), "{out}");
        let told = reasons(&data);
        assert_eq!(told.len() as u64, conflicts);
        let is = |n: usize, reason: &str| assert_eq!(told[n], ("impressions".to_string(), reason.to_string()));
        is(0, "conflicting duplicate of id 1: 'item' is 'other', was 'i1'; the first one counts");
        assert!(told[1].1.starts_with("conflicting duplicate of id 2: "), "{}", told[1].1);
        assert!(told[1].1.contains("1021") && told[1].1.contains("1020"), "{}", told[1].1);
    }
    // What feature views add to a copy is not what it says.
    let views = generated_with_views(2_000);
    let out = run_json(&views, &scratch.path("views"), &[]);
    assert_eq!(out["counters"]["conflicting"], 0, "{out}");
}

/// B46: a name of a category that is far too long costs its row, in learning and in a request.
#[test]
fn b46_a_category_of_a_megabyte_is_refused() {
    let scratch = Scratch::new("long");
    let long = "c".repeat(1_000_000);
    let (at_most, over) = ("d".repeat(4_096), "e".repeat(4_097));
    let rows = ["red", &long, &at_most, &over, "blue"].map(|colour| format!("{colour},1\n")).concat();
    let path = scratch.write("rows.csv", format!("colour,label\nred,0\n{rows}"));
    for (i, learned) in ["colour", "CATEGORY_HASH(colour, 100)", "CROSS([colour, colour])"].iter().enumerate() {
        let data = scratch.path(&format!("{i}"));
        let out = run(&table("colour STRING, label INT", &path, learned), &data, &[]);
        if i == 2 && !out.status.success() {
            // A cross of a column with itself is a mistake of its own.
            continue;
        }
        assert_eq!(last_json(&out)["samples"], 4, "{learned}");
        let told = reasons(&data);
        assert!(told[0].1.contains("value longer than 4096 bytes: it has 1000000"), "{told:?}");
        assert!(told[1].1.contains("it has 4097") && told.len() == 2, "{told:?}");
    }
    let s = Serving::start(&["serve", "--data-dir", scratch.path("0").to_str().unwrap()]);
    let ask = |colour: &str| s.post("/v1/models/m:predict", &json!({"rows": [{"colour": colour}]}).to_string());
    let (status, reply) = ask(&over);
    assert!(
        status == 400 && reply.contains("rows[0]: slot 'colour': value longer than 4096 bytes"),
        "{status} {reply}"
    );
    assert_eq!(ask(&at_most).0, 200);
    assert_eq!(ask("red").0, 200);
}

fn serve_with_tokens(scratch: &Scratch, data: &Path, tokens: &str) -> (Option<i32>, String) {
    let file = scratch.write("tokens.json", tokens);
    let mut command = tidemill();
    command.args(["serve", "--port", "0", "--tokens"]).arg(file).arg("--data-dir").arg(data);
    let out = command.output().unwrap();
    (out.status.code(), said(&out))
}

/// B86: in a file of settings a name that is not known, that stands twice, or a value in another unit is refused with its
/// place: the program's, the tokens', the rankings' and the clients'.
#[test]
fn b86_settings_that_are_unknown_doubled_or_in_another_unit_are_refused_with_their_place() {
    let scratch = Scratch::new("settings");
    let sql = |with: &str| {
        format!(
            "CREATE SOURCE t (a INT, label INT)\nWITH (connector = 'file', path = 'x.csv'{with});\nSELECT * FROM t TO TRAIN FTRLClassifier COLUMN a LABEL label INTO m;"
        )
    };
    for (with, words) in [
        (", pth = 'y'", "line 2 col 43: a source has no attribute 'pth'; did you mean 'path'?"),
        (", path = 'y'", "line 2 col 43: path is written twice"),
        (", idle_timeout = 15", "idle_timeout: '15' has no unit; write \"15ms\", \"15s\", \"15m\" or \"15h\""),
        (", idle_timeout = '15 fortnights'", "line 2 col"),
    ] {
        let out = run(&sql(with), &scratch.path("data"), &[]);
        assert!(out.status.code() == Some(2) && said(&out).contains(words), "{words}: {}", said(&out));
    }
    let path = scratch.write("rows.csv", "colour,label\nred,1\nblue,0\n");
    let data = scratch.path("served");
    run_json(&table("colour STRING, label INT", &path, "colour"), &data, &[]);
    let twice = "{\"tenants\": [{\"name\": \"a\"}],\n \"tokens\": [{\"name\": \"t\", \"roles\": [\"predict\"],\n \"roles\": [\"admin\"]}]}";
    for (tokens, words) in [
        (twice, "the name 'roles' is there twice at line 3"),
        ("{\"tenants\": [], \"tokns\": []}", "unknown name 'tokns'; names are tenants, tokens, issuers"),
    ] {
        let (code, said) = serve_with_tokens(&scratch, &data, tokens);
        assert!(code == Some(2) && said.contains("tokens.json") && said.contains(words), "{code:?} {said}");
    }
    // A client's settings: by line, and without the value, which may be a password.
    for (text, words) in [
        ("a.b = 1\n# more\na.b = secret\n", "line 3: properties: 'a.b' is there twice"),
        ("a.b = 1\nsecret\n", "line 2: properties: pair 2 has no '='"),
        ("no.such.setting = secret\n", "no.such.setting"),
    ] {
        let file: PathBuf = scratch.write("client.properties", text);
        let sql = format!(
            "CREATE SOURCE t (a INT, label INT) WITH (connector = 'kafka', brokers = '127.0.0.1:1', topic = 'x', properties_file = '{}');
             SELECT * FROM t TO TRAIN FTRLClassifier COLUMN a LABEL label INTO m;",
            file.display()
        );
        let out = run(&sql, &scratch.path("data"), &[]);
        assert!(out.status.code() == Some(2) && said(&out).contains(words), "{words}: {}", said(&out));
        assert!(!said(&out).contains("secret"), "{}", said(&out));
    }
    // A ranking.
    let twice = r#"CREATE RANKING feed FOR m AS '{"defaults": {"bid": 1, "bid": 2}, "score": "bid"}'"#;
    let unknown = r#"CREATE RANKING feed FOR m AS '{"defalts": {"bid": 1}, "score": "bid"}'"#;
    for (sql, words) in [(twice, "the name 'bid' is there twice at line 1 column"), (unknown, "defalts")] {
        let out = tidemill().args(["run", "-e", sql, "--data-dir"]).arg(&data).output().unwrap();
        assert!(out.status.code() == Some(2) && said(&out).contains(words), "{words}: {}", said(&out));
    }
    eventually("nothing was kept of either", || {
        let out = tidemill()
            .args(["run", "-e", "ALTER MODEL m DROP RANKING feed", "--data-dir"])
            .arg(&data)
            .output()
            .unwrap();
        (out.status.code() == Some(3)).then_some(())
    });
}
