//! `tidemill predict`: files scored from the command line, line by line what the server would have said.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use arrow::array::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::support::{Scratch, Serving, run, run_json, tidemill};

/// A model of people, colours and a number, in a data directory.
fn learned(scratch: &Scratch, learner: &str) -> PathBuf {
    let rows: String = (0..600).map(|i| format!("{},{},0.{},{}\n", i % 7, colour(i), i % 10, label(i))).collect();
    let file = scratch.write("train.csv", format!("user,colour,x,label\n{rows}"));
    let sql = format!(
        "CREATE SOURCE t (user BIGINT, colour STRING, x DOUBLE, label INT, double_x AS x * 2)
           WITH (connector = 'file', path = '{}');
         SELECT * FROM t TO TRAIN {learner} COLUMN user, colour, double_x LABEL label INTO m;",
        file.display()
    );
    let data = scratch.path("data");
    run_json(&sql, &data, &[]);
    data
}

fn colour(i: usize) -> &'static str {
    ["red", "green", "blue"][i % 3]
}

fn label(i: usize) -> usize {
    usize::from(i.is_multiple_of(3) || i % 7 == 5)
}

fn predict(data: &Path, args: &[&str]) -> Output {
    tidemill().args(["predict", "--data-dir"]).arg(data).args(args).output().unwrap()
}

fn said(out: &Output) -> (String, String) {
    (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// The file has its own order of columns, one that nobody knows, and no label. Line n is of row n, also where row n is bad.
#[test]
fn each_row_has_the_prediction_that_the_server_gives() {
    let scratch = Scratch::new("predict");
    let data = learned(&scratch, "FTRLClassifier");
    let rows = ["0.5,red,1,a", "0.25,blue,2,b", "oops,blue,2,c", ",unseen,99,d", "0.125,\"green\",3,e"];
    let file = scratch.write("rows.csv", format!("x,colour,user,more\n{}\n", rows.join("\n")));
    let file = file.to_str().unwrap();
    let out = predict(&data, &["m", file]);
    let (csv, told) = said(&out);
    assert!(out.status.success(), "{told}");
    assert!(told.contains("1 of 5 rows could not be scored; the first: ") && told.contains("row 3: "), "{told}");
    assert!(told.contains("column 'x'") && told.contains("4 rows scored by m@1"), "{told}");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[3]), (6, "probability", "\"\""));

    let server = Serving::start(&["serve", "--data-dir", data.to_str().unwrap()]);
    for (row, line) in [
        (r#"{"x": 0.5, "colour": "red", "user": 1}"#, lines[1]),
        (r#"{"x": 0.25, "colour": "blue", "user": 2}"#, lines[2]),
        (r#"{"x": null, "colour": "unseen", "user": 99}"#, lines[4]),
        (r#"{"x": 0.125, "colour": "green", "user": 3}"#, lines[5]),
    ] {
        let (status, body) = server.post("/v1/models/m:predict", &format!(r#"{{"rows": [{row}]}}"#));
        assert_eq!(status, 200, "{body}");
        let reply: Value = serde_json::from_str(&body).unwrap();
        let served = reply["predictions"][0]["probability"].as_f64().unwrap() as f32;
        assert_eq!(line.parse::<f32>().unwrap(), served, "{row}");
    }
    drop(server);

    // Neither the number of threads nor the number of files changes anything.
    for threads in ["1", "2"] {
        let out = predict(&data, &["m@1", file, file, "--threads", threads, "--quiet"]);
        let expected = [&lines[..], &lines[1..]].concat().join("\n") + "\n";
        assert_eq!(said(&out).0, expected);
    }
}

/// Keys differ under a secret, and what is learned of them and predicted by them does not; nobody goes on under another one.
#[test]
fn a_secret_changes_keys_and_nothing_that_is_predicted() {
    let scratch = Scratch::new("predict-secret");
    let rows: String = (0..600).map(|i| format!("{},{},{}\n", i % 7, colour(i), label(i))).collect();
    let file = scratch.write("train.csv", format!("user,colour,label\n{rows}"));
    let file = file.to_str().unwrap();
    let sql = |with: &str| {
        format!(
            "CREATE SOURCE t (user BIGINT, colour STRING, label INT) WITH (connector = 'file', path = '{file}');
             SELECT * FROM t TO TRAIN FTRLClassifier {with} COLUMN user, colour, CROSS([user, colour]) LABEL label INTO m;"
        )
    };
    let with = |secret: &str| sql(&format!("WITH hash.secret = '{secret}'"));
    let learned = |name: &str, sql: &str| {
        let data = scratch.path(name);
        let hash = run_json(sql, &data, &[])["state_hash"].to_string();
        let (csv, told) = said(&predict(&data, &["m", file]));
        assert!(told.contains("600 rows scored"), "{told}");
        (hash, csv.lines().skip(1).map(|line| line.parse().unwrap()).collect::<Vec<f32>>())
    };
    let (plain, under_none) = (learned("plain", &sql("")), learned("none", &with("")));
    assert_eq!(plain, under_none);
    let (one, again) = (learned("one", &with("tide")), learned("again", &with("tide")));
    assert_eq!(one, again);
    assert_ne!(one.0, plain.0);
    let apart = one.1.iter().zip(&plain.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-4, "{apart}");
    assert!(one.1.iter().any(|p| *p > 0.9) && one.1.iter().any(|p| *p < 0.2), "something was learned");

    let other = run(&with("ebb"), &scratch.path("one"), &[]);
    assert_ne!(other.status.code(), Some(0), "{}", said(&other).0);
}

#[test]
fn columns_come_along_and_files_are_written_in_three_formats() {
    let scratch = Scratch::new("predict-out");
    let data = learned(&scratch, "FTRLClassifier");
    let lines: Vec<String> = (0..20).map(|i| format!(r#"{{"user": {i}, "colour": "{}"}}"#, colour(i))).collect();
    let file = scratch.write("rows.jsonl", lines.join("\n").replacen("{\"user\": 4,", "{\"user\": true,", 1));
    let file = file.to_str().unwrap();
    let to = |name: &str| scratch.path(name).to_str().unwrap().to_string();
    let out = |name: &str| {
        let out = predict(&data, &["m", file, "--with", "user,colour", "--out", &to(name), "--json"]);
        assert!(out.status.success(), "{}", said(&out).1);
        let figures: Value = serde_json::from_str(&said(&out).0).unwrap();
        assert_eq!((&figures["rows"], &figures["refused"], &figures["version"]), (&20.into(), &1.into(), &1.into()));
    };
    out("p.csv");
    let csv = fs::read_to_string(to("p.csv")).unwrap();
    let csv: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((csv.len(), &csv[0][..], &csv[5][..]), (21, &["user", "colour", "probability"][..], &["", "", ""][..]));
    assert_eq!(csv[1][..2], ["0", "red"]);

    out("p.jsonl");
    let json = fs::read_to_string(to("p.jsonl")).unwrap();
    let json: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    out("p.parquet");
    let parquet = ParquetRecordBatchReaderBuilder::try_new(File::open(to("p.parquet")).unwrap()).unwrap().build();
    let parquet: Vec<_> = parquet.unwrap().map(Result::unwrap).collect();
    assert_eq!((json.len(), parquet.len(), parquet[0].num_rows()), (20, 1, 20));
    let probabilities = parquet[0].column(2).as_primitive::<arrow::datatypes::Float32Type>();
    for (i, json) in json.iter().enumerate() {
        let row = &csv[i + 1];
        assert_eq!(json["user"].as_u64().map_or(String::new(), |user| user.to_string()), row[0]);
        let probability = row[2].parse::<f32>().ok();
        assert_eq!(json["probability"].as_f64().map(|p| p as f32), probability);
        assert_eq!(probabilities.iter().nth(i).unwrap(), probability);
    }
    let left: Vec<_> = fs::read_dir(&scratch.0)
        .unwrap()
        .flatten()
        .filter(|f| f.path().extension().is_some_and(|e| e == "tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn of_classes_there_is_the_likeliest_and_each_ones_probability() {
    let scratch = Scratch::new("predict-classes");
    let data = learned(&scratch, "SoftmaxRegression WITH model.classes = 2");
    let file = scratch.write("rows.csv", "user,colour,x\n1,red,0.5\n2,blue,0.5\n");
    let out = predict(&data, &["m", file.to_str().unwrap()]);
    let (csv, told) = said(&out);
    assert!(csv.starts_with("class,probability_0,probability_1\n1,"), "{csv}{told}");
    let json = predict(&data, &["m", file.to_str().unwrap(), "--out-format", "json"]);
    for (json, csv) in said(&json).0.lines().zip(csv.lines().skip(1)) {
        let json: Value = serde_json::from_str(json).unwrap();
        let csv: Vec<f64> = csv.split(',').map(|x| x.parse().unwrap()).collect();
        let p: Vec<f64> = json["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
        assert!(p == csv[1..] && json["class"] == csv[0] as u64 && (p[0] + p[1] - 1.0).abs() < 1e-6, "{json} {csv:?}");
    }
}

/// What cannot be done is said with the place and the way out, and leaves no file behind.
#[test]
fn what_cannot_be_scored_is_refused() {
    let scratch = Scratch::new("predict-refused");
    let data = learned(&scratch, "FTRLClassifier");
    let good = scratch.write("rows.csv", "user,colour,x\n1,red,0.5\n");
    let narrow = scratch.write("narrow.csv", "user,x\n1,0.5\n");
    let bad = scratch.write("bad.csv", "user,colour,x\none,red,0.5\ntwo,red,0.5\n");
    let unnamed = scratch.write("rows", "user,colour,x\n1,red,0.5\n");
    let path = |p: &PathBuf| p.to_str().unwrap().to_string();
    let to = path(&scratch.path("out.csv"));
    for (args, code, expected) in [
        (vec!["nobody".into(), path(&good)], 3, "no model 'nobody'"),
        (vec!["m@9".into(), path(&good)], 3, "has no version 9"),
        (vec!["m@canary".into(), path(&good)], 3, "canary"),
        (vec!["m".into(), path(&scratch.path("gone.csv"))], 3, "no file matches"),
        (vec!["m".into(), path(&narrow)], 2, "the header has no column 'colour'"),
        (vec!["m".into(), path(&unnamed)], 2, "format cannot be told"),
        (vec!["m".into(), path(&good), "--format".into(), "xml".into()], 2, "no format 'xml'; there are csv"),
        (
            vec!["m".into(), path(&good), "--with".into(), "size".into()],
            2,
            "--with: the source of 'm' has no column 'size'",
        ),
        (vec!["m".into(), path(&bad)], 3, "none of 2 rows could be scored; the first: "),
        (vec!["m".into(), path(&good), "--out-format".into(), "parquet".into()], 2, "say which with --out"),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut all = args.clone();
        if !args.contains(&"--out-format") {
            all.extend(["--out", &to]);
        }
        let out = predict(&data, &all);
        let (_, told) = said(&out);
        assert_eq!(out.status.code(), Some(code), "{args:?} {told}");
        assert!(told.contains(expected), "{args:?} {told}");
        assert!(!scratch.path("out.csv.tmp").exists() && !Path::new(&to).exists(), "{args:?}");
    }
    let odd = predict(&data, &["m", &path(&good), "--out", &path(&scratch.path("out.txt"))]);
    assert!(odd.status.code() == Some(2) && said(&odd).1.contains("ends in .csv, .jsonl or .parquet"), "{odd:?}");
}

/// `| head -1` is no fault.
#[test]
fn whoever_reads_may_stop_reading() {
    let scratch = Scratch::new("predict-closed");
    let data = learned(&scratch, "FTRLClassifier");
    let rows: String = (0..50_000).map(|i| format!("{i},red,0.5\n")).collect();
    let file = scratch.write("rows.csv", format!("user,colour,x\n{rows}"));
    let mut command = tidemill();
    command.arg("predict").arg("m").arg(&file).arg("--data-dir").arg(&data).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
