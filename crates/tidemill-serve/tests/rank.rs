//! Ranking as strangers meet it: what comes back, in which order, and every refusal, over real sockets.

mod support;

use serde_json::{Value, json};
use support::{
    FakeHost, row,
    site::{Site, open},
};

use tidemill_base::Kind;

const RANK: &str = "/v1/models/ctr:rank";
const NOW_MS: i64 = 1_795_219_200_000;
const DAY_MS: i64 = 86_400_000;

fn rank(site: &Site, request: Value) -> Value {
    let answer = site.post(RANK, &request.to_string());
    assert_eq!(answer.status, 200, "{request}: {answer:?}");
    answer.json()
}

fn ids(reply: &Value) -> Vec<Value> {
    reply["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect()
}

fn probability(site: &Site, row: Value) -> f64 {
    let reply = site.post("/v1/models/ctr:predict", &json!({"rows": [row]}).to_string()).json();
    reply["predictions"][0]["probability"].as_f64().unwrap()
}

#[test]
fn candidates_are_scored_with_the_context_and_ordered_by_the_expression() {
    let site = open("rank");
    let reply = rank(
        &site,
        json!({
            "context": {"user": "u1", "price": 2.0},
            "candidates": [
                {"id": "a", "item": "i1", "bid": 1.0},
                {"id": "b", "item": "i2", "bid": 1.5},
                {"id": "c", "item": "i1", "price": 3.0, "bid": 0.1},
                {"id": 4, "item": "i9", "price": null, "bid": 0.0},
            ],
            "score": "pctr ^ 0.8 * bid",
            "now": NOW_MS,
        }),
    );
    assert_eq!((&reply["model"], &reply["version"], &reply["mini_batch"]), (&json!("ctr"), &json!(3), &json!(300)));
    assert_eq!((&reply["candidates"], &reply["not_finite"], &reply["now"]), (&json!(4), &json!(0), &json!(NOW_MS)));
    let expected: Vec<(Value, Value, f64)> = vec![
        (json!("a"), json!({"user": "u1", "item": "i1", "price": 2.0}), 1.0),
        (json!("b"), json!({"user": "u1", "item": "i2", "price": 2.0}), 1.5),
        (json!("c"), json!({"user": "u1", "item": "i1", "price": 3.0}), 0.1),
        (json!(4), json!({"user": "u1", "item": "i9", "price": 2.0}), 0.0),
    ];
    let mut scored: Vec<(Value, f64, f64)> = expected
        .into_iter()
        .map(|(id, row, bid)| {
            let p = probability(&site, row);
            (id, p.powf(0.8) * bid, p)
        })
        .collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (item, (id, score, p)) in reply["items"].as_array().unwrap().iter().zip(&scored) {
        assert_eq!((&item["id"], item["probability"].as_f64()), (id, Some(*p)), "the very prediction of :predict");
        assert!((item["score"].as_f64().unwrap() - score).abs() <= 1e-12, "{item}, not {score}");
    }
    assert_eq!(reply["items"].as_array().unwrap().len(), 4);
    assert_eq!(reply.get("unknown_columns"), None);
    for path in ["/v1/models/ctr@3:rank", "/v1/models/ctr%3Arank"] {
        let plain = json!({"candidates": [{"id": 1, "item": "i1"}, {"id": 2}], "k": 1, "now": 1});
        assert_eq!(site.post(path, &plain.to_string()).json(), rank(&site, plain));
    }
}

#[test]
fn what_has_no_score_comes_last_and_is_counted() {
    let site = open("rank-nan");
    let mut request = json!({
        "candidates": [{"id": 5, "x": -1}, {"id": 4, "x": 0}, {"id": 3}, {"id": 2, "x": 1}, {"id": 1, "x": 1}, {"id": 0, "x": 9}],
        "score": "ln(x)",
    });
    let reply = rank(&site, request.clone());
    assert_eq!(ids(&reply), [0, 1, 2, 3, 4, 5].map(Value::from));
    assert_eq!(reply["not_finite"], 3);
    assert_eq!((&reply["items"][0]["score"], &reply["items"][3]["score"]), (&json!(9f64.ln()), &Value::Null));
    request["k"] = json!(2);
    let page = rank(&site, request);
    assert_eq!((ids(&page), &page["candidates"]), (vec![json!(0), json!(1)], &json!(6)));
}

#[test]
fn a_page_is_diverse_when_asked() {
    let site = open("rank-diverse");
    let candidates: Vec<Value> =
        (0..6).map(|i| json!({"id": i, "score0": 10 - i, "by": {"author": if i < 4 { "x" } else { "y" }}})).collect();
    let request = |k: usize| json!({"candidates": candidates, "score": "score0", "k": k, "diversity": {"by": "by.author", "max": 2}});
    let reply = rank(&site, request(4));
    assert_eq!((ids(&reply), &reply["pushed_back"]), ([0, 1, 4, 5].map(Value::from).to_vec(), &json!(2)));
    assert_eq!(ids(&rank(&site, request(6))), [0, 1, 4, 5, 2, 3].map(Value::from));
}

#[test]
fn a_config_brings_functions_and_defaults_and_the_request_numbers() {
    let site = open("rank-config");
    let request = json!({
        "candidates": [
            {"id": "fresh", "time": NOW_MS - 3 * DAY_MS, "popularity": 2},
            {"id": "old", "time": "2026-11-15T00:00:00Z", "popularity": 2, "reactions": {"like": 1}},
            {"id": "no popularity", "time": NOW_MS},
        ],
        "ranking": {
            "functions": {"simple_gauss": {"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": 0.3}},
            "defaults": {"popularity": 1, "reactions.like": 0},
            "score": "simple_gauss(time) * popularity * external.boost + reactions.like",
        },
        "external": {"boost": 2},
        "now": "2026-11-21T00:00:00Z",
    });
    let reply = rank(&site, request);
    // 0.8248 * 2 * 2, 0.3 * 2 * 2 + 1 and 1 * 1 * 2.
    for (item, (id, score)) in
        reply["items"].as_array().unwrap().iter().zip([("fresh", 3.299129719828), ("old", 2.2), ("no popularity", 2.0)])
    {
        assert!(item["id"] == id && (item["score"].as_f64().unwrap() - score).abs() < 1e-9, "{item}, not {id} {score}");
    }
    assert_eq!(reply["now"], NOW_MS);
}

/// The same request gives the same bytes; another seed another order; and luck stays with its item when others leave.
#[test]
fn pages_with_luck_are_stable() {
    let site = open("rank-luck");
    let request = |seed: Value, n: i64| {
        let candidates: Vec<Value> = (0..n).map(|i| json!({ "id": i })).collect();
        json!({"candidates": candidates, "score": "rand()", "seed": seed, "now": 0})
    };
    let first = rank(&site, request(json!("u1"), 50));
    assert_eq!(first, rank(&site, request(json!("u1"), 50)));
    assert_ne!(ids(&first), ids(&rank(&site, request(json!("u2"), 50))));
    let fewer = rank(&site, request(json!("u1"), 40));
    let kept: Vec<Value> = ids(&first).into_iter().filter(|id| id.as_i64().unwrap() < 40).collect();
    assert_eq!(ids(&fewer), kept);
}

#[test]
fn a_rank_after_a_click_knows_it() {
    let site = open("rank-click");
    let request = json!({"context": {"user": "u1", "price": 2.0}, "candidates": [{"id": 1, "item": "i1"}]});
    let p = || rank(&site, request.clone())["items"][0]["score"].as_f64().unwrap();
    let before = p();
    site.host.nudge(&support::keys(&row()), 0.2, 4);
    assert!(p() > before + 0.05);
}

/// Every message a person may get for a request of theirs, with its status.
#[test]
fn what_is_wrong_with_a_rank_request_is_said() {
    let site = open("rank-errors");
    let one = r#""candidates":[{"id":1,"bid":2,"user":"u"}]"#;
    let refuses = |body: &str, message: &str| {
        site.refuses(&format!("POST {RANK}"), "", body, 400, message);
    };
    refuses("", "request body is empty");
    refuses(r#"{"candidates":[{"bid":1}]}"#, "candidates[0]: no \"id\"; it is a whole number or a text");
    refuses(r#"{"candidates":[{"id":1},{"id":2,"price":"x"}]}"#, "candidates[1].price: expected number, found string");
    refuses(r#"{"candidates":[{"id":1,"price":-1}]}"#, "candidates[0].price: logarithm of a negative number");
    refuses(r#"{"candidates":[{"id":1}],"context":{"price":"x"}}"#, "context.price: expected number, found string");
    refuses(
        r#"{"candidates":[{"id":1,"bid":"x"}],"score":"bid"}"#,
        "candidates[0].bid: expected a number, found the text 'x'",
    );
    refuses(
        r#"{"candidates":[{"id":1}],"context":{"bid":[]},"score":"bid"}"#,
        "context.bid: expected a number or a text, found an array",
    );
    for (score, message) in [
        ("pctr *", "score, character 7: expected a number, a name or a bracket, found the end"),
        (
            "pctr * bit",
            "score, character 8: no column 'bit' in the source, the context or any candidate, and no default for one; did you mean 'bid'?",
        ),
        ("user * 2", "score, character 1: 'user' is a text; compare it with one, as in user == 'x'"),
        ("lm(bid)", "score, character 1: no function 'lm'; did you mean 'ln'?"),
        (
            "bid * external.boost",
            "external.boost: the score reads it, but the request has none; send it, or put \"external.boost\" into defaults",
        ),
    ] {
        refuses(&format!(r#"{{{one},"score":"{score}"}}"#), message);
    }
    refuses(
        &format!(r#"{{{one},"ranking":{{"functions":{{"f":{{"base":"decay_exp","scale":0}}}},"score":"1"}}}}"#),
        "functions.f.scale: 0 is not above 0",
    );
    refuses(
        &format!(r#"{{{one},"diversity":{{"by":"bidd"}}}}"#),
        "diversity.by: no candidate has 'bidd'; did you mean 'bid'?",
    );
    let long = "1+".repeat(2100);
    refuses(
        &format!(r#"{{{one},"score":"{long}1"}}"#),
        "score, character 1: 4201 bytes; an expression has at most 4096",
    );
    let deep = format!("{}1{}", "(".repeat(65), ")".repeat(65));
    refuses(&format!(r#"{{{one},"score":"{deep}"}}"#), "score, character 66: nested deeper than 64");

    let post = |path: &str| format!("POST /v1/models/{path}");
    let body = format!("{{{one}}}");
    site.refuses(&post("ctx:rank"), "", &body, 404, "no model 'ctx' (have ctr)");
    site.refuses(&post("ctr@99:rank"), "", &body, 404, "model 'ctr' has no version 99 (have 1-3)");
    assert_eq!(site.post("/v1/models/ctr@1:rank", &body).status, 200, "it is loaded when it is asked for");
    let xml = "Content-Type: text/xml\r\n";
    site.refuses(
        &post("ctr:rank"),
        xml,
        &body,
        415,
        "Content-Type 'text/xml' is not understood; send application/json",
    );
    site.refuses("GET /v1/models/ctr:rank", "", "", 405, "GET is not taken here; use POST");
    let unknown =
        rank(&site, json!({"candidates": [{"id": 1, "colour": "red", "size": {"a": [1]}}], "context": {"mood": 1}}));
    assert_eq!(unknown["unknown_columns"], json!(["mood", "colour", "size"]));
    assert!(site.get("/metrics").body.contains(r#"tidemill_http_requests_total{route="rank",status="4xx"}"#));
}

#[test]
fn a_ranking_is_kept_under_a_name_and_taken_by_the_next_request() {
    let site = open("rankings");
    let path = "/v1/models/ctr/rankings/feed";
    let by_price = json!({"defaults": {"bid": 1}, "score": "price * bid"});
    let put = site.send(&format!("PUT {path}"), "", &by_price.to_string());
    assert_eq!((put.status, put.json()), (200, json!({"name": "feed", "ranking": by_price})), "{put:?}");
    let request = json!({"candidates": [{"id": 1, "price": 1}, {"id": 2, "price": 2}], "ranking": "feed"});
    assert_eq!(ids(&rank(&site, request.clone())), [2, 1].map(Value::from));
    let by_less = json!({"score": "-price"});
    assert_eq!(site.send(&format!("PUT {path}"), "", &by_less.to_string()).status, 200);
    assert_eq!(ids(&rank(&site, request.clone())), [1, 2].map(Value::from));
    assert_eq!(site.get(path).json(), json!({"name": "feed", "ranking": by_less}));
    assert_eq!(site.get("/v1/models/ctr/rankings").json(), json!({"rankings": [{"name": "feed", "ranking": by_less}]}));

    let refuses = |body: Value, message: &str| {
        site.refuses(&format!("PUT {path}"), "", &body.to_string(), 400, message);
    };
    refuses(json!({"score": "price *"}), "score, character 8: expected a number, a name or a bracket, found the end");
    refuses(json!({"score": "price * bid"}), "score, character 9: no column 'bid', and no default for one");
    refuses(json!({"score": "1", "k": 3}), "ranking: unknown name 'k'; known are functions, defaults, score");
    refuses(
        json!({"score": "1", "defaults": {"x": "y".repeat(70_000)}}),
        "ranking 'feed': 70033 bytes; a ranking has at most 65536",
    );
    site.refuses(
        &format!("PUT {path}"),
        "",
        "{",
        400,
        "ranking is not JSON: EOF while parsing an object at line 1 column 1",
    );
    let name = "ranking 'a b': a name is made of letters, digits, _ and -, at most 64";
    site.refuses("PUT /v1/models/ctr/rankings/a%20b", "", r#"{"score":"1"}"#, 400, name);
    site.refuses("PUT /v1/models/ctr/rankings", "", "{}", 405, "PUT is not taken here; use GET or HEAD");
    site.refuses("PUT /v1/models/ctx/rankings/feed", "", r#"{"score":"1"}"#, 404, "no model 'ctx' (have ctr)");
    assert_eq!(ids(&rank(&site, request.clone())), [1, 2].map(Value::from), "what was refused changed nothing");

    let unknown = json!({"candidates": [{"id": 1}], "ranking": "fed"}).to_string();
    site.refuses(&format!("POST {RANK}"), "", &unknown, 404, "model 'ctr' has no ranking 'fed'; did you mean 'feed'?");
    let gone = site.send(&format!("DELETE {path}"), "", "");
    assert_eq!((gone.status, gone.json()), (200, json!({"rankings": []})));
    site.refuses(&format!("DELETE {path}"), "", "", 404, "model 'ctr' has no ranking 'feed'");
    site.refuses(&format!("GET {path}"), "", "", 404, "model 'ctr' has no ranking 'feed'");
    site.refuses(&format!("POST {RANK}"), "", &request.to_string(), 404, "model 'ctr' has no ranking 'feed'");
}

#[test]
fn rankings_are_there_after_a_restart_and_a_damaged_one_hurts_nobody_else() {
    let dir = support::temp_dir("rankings-restart");
    let host = FakeHost::open_in(&dir);
    for name in ["a", "b"] {
        host.served.put_ranking(name, br#"{"score": "price"}"#).unwrap();
    }
    std::fs::write(dir.join("b.ranking"), "{").unwrap();
    let host = FakeHost::open_in(&dir);
    let rank = |name: &str| {
        let request = json!({"candidates": [{"id": 1, "price": 2}], "ranking": name}).to_string();
        host.served.rank(request.as_bytes(), None, 0)
    };
    assert_eq!(rank("a").unwrap().items[0].score, 2.0);
    let damaged = rank("b").unwrap_err();
    assert_eq!(damaged.kind(), Kind::Corrupt);
    assert!(
        damaged.message().ends_with(
            "b.ranking: EOF while parsing an object at line 1 column 1; PUT /v1/models/ctr/rankings/b puts it in order"
        ),
        "{damaged}"
    );
    host.served.put_ranking("b", br#"{"score": "1"}"#).unwrap();
    assert_eq!(rank("b").unwrap().items[0].score, 1.0);
}

/// A ranking of a version goes with it: who is answered by that version is ranked by it, all others by the one for all.
#[test]
fn a_ranking_of_a_version_is_swapped_with_the_version() {
    let site = open("rank-version");
    let put = |name: &str, score: &str| {
        let answer =
            site.send(&format!("PUT /v1/models/ctr/rankings/{name}"), "", &json!({"score": score}).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    put("feed", "price");
    put("feed@2", "-price");
    let request = json!({"candidates": [{"id": 1, "price": 1}, {"id": 2, "price": 2}], "ranking": "feed"});
    assert_eq!(ids(&rank(&site, request.clone())), [2, 1].map(Value::from), "version 3 answers");
    site.host.served.versions().set_label("canary", 2).unwrap();
    let canary = site.post("/v1/models/ctr@canary:rank", &request.to_string()).json();
    assert_eq!((ids(&canary), &canary["version"]), ([1, 2].map(Value::from).to_vec(), &json!(2)));
    site.host.served.rollback(2).unwrap();
    assert_eq!(ids(&rank(&site, request.clone())), [1, 2].map(Value::from));
    site.host.served.promote().unwrap();
    assert_eq!(ids(&rank(&site, request.clone())), [2, 1].map(Value::from));
    assert_eq!(site.send("DELETE /v1/models/ctr/rankings/feed", "", "").status, 200);
    let none = "model 'ctr' has no ranking 'feed'";
    site.refuses(&format!("POST {RANK}"), "", &request.to_string(), 404, &format!("{none}; did you mean 'feed@2'?"));
    let canary = site.post("/v1/models/ctr@canary:rank", &request.to_string()).json();
    assert_eq!(ids(&canary), [1, 2].map(Value::from));
    for name in ["feed@x", "feed@", "feed@0", "feed@02"] {
        let message = format!("ranking '{name}': behind @ stands the number of a version");
        site.refuses(&format!("PUT /v1/models/ctr/rankings/{name}"), "", r#"{"score":"1"}"#, 400, &message);
    }
    let text = site.get("/metrics").body;
    assert!(
        text.contains("tidemill_rank_seconds_count 5") && text.contains("tidemill_ranked_candidates_total 10"),
        "{text}"
    );
}

/// Two candidates of one id are two items with one luck; the first stands first. Nothing is said where there is no share of a
/// group: one of each value. A page of nothing is refused.
#[test]
fn edges_of_a_page() {
    let site = open("rank-edges");
    let twice = json!({"candidates": [{"id": 7, "price": 1}, {"id": 7, "price": 2}, {"id": "7", "price": 3}], "score": "rand()"});
    let reply = rank(&site, twice);
    let scores: Vec<&Value> = reply["items"].as_array().unwrap().iter().map(|item| &item["score"]).collect();
    assert!(scores[0] == scores[1] && scores[1] == scores[2], "{reply}");
    assert_eq!(ids(&reply), [json!(7), json!(7), json!("7")]);
    let one_each = json!({"candidates": [{"id": 1, "user": "a"}, {"id": 2, "user": "a"}, {"id": 3, "user": "b"}],
        "score": "1", "diversity": {"by": "user"}});
    assert_eq!(ids(&rank(&site, one_each)), [1, 3, 2].map(Value::from));
    site.refuses(
        &format!("POST {RANK}"),
        "",
        r#"{"candidates":[{"id":1}],"k":0}"#,
        400,
        "k: expected a whole number above 0, found the number 0",
    );
    // Of a name that is there and holds nothing a score reads, no other name is told.
    site.refuses(
        &format!("POST {RANK}"),
        "",
        r#"{"candidates":[{"id":1,"emb":{"x":1}}],"score":"emb"}"#,
        400,
        "candidates[0].emb: expected a number or a text, found an object",
    );
    site.refuses(
        &format!("POST {RANK}"),
        "",
        r#"{"candidates":[{"id":1,"emb":null}],"diversity":{"by":"emb"}}"#,
        400,
        "diversity.by: no candidate has 'emb'",
    );
}
