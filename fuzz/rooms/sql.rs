//! SQL texts: bound or refused with a diagnostic. Nothing is opened by binding.

/// A program.
pub fn program(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let bound = tidemill::program::bind(text, &["ctr".to_string()]);
    if let Err(e) = &bound {
        assert_eq!(e.kind(), tidemill_base::Kind::Invalid, "{e}");
    }
    bound.is_ok()
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, ts BIGINT, person STRING, price DOUBLE, rt AS TO_TIMESTAMP_MS(ts),
           WATERMARK FOR rt AS rt - INTERVAL '1' SECOND) WITH (connector = 'http', idle_timeout = '50ms');
         CREATE SOURCE clicked (imp_id BIGINT, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'http');
         CREATE FEATURE VIEW seen KEYED BY person AS SELECT COUNT(s) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS n,
           MEAN(s.price) OVER DECAY (INTERVAL '1' DAY) AS m FROM shown s;
         SELECT i.*, f.*, (c.imp_id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
           ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
           LEFT JOIN seen FOR SYSTEM_TIME AS OF i.rt f ON f.person = i.person EMIT EARLY INTERVAL '1' MINUTE CORRECT RETRACT
         TO TRAIN FTRLClassifier WITH model.alpha = 0.1 COLUMN person, BUCKET(price, [1, 2.5]), CROSS([person, n]) LABEL label INTO ctr;",
        "CREATE SOURCE c (a BIGINT, b STRING, d STRING) WITH (connector = 'file', path = 'x.csv', format = 'csv');
         SELECT a + 1 AS a1, b, CASE WHEN d LIKE 'x%' THEN 1 ELSE 0 END AS y FROM c WHERE a / 2 > 1 -- words
         TO TRAIN LogisticRegression COLUMN a1, CATEGORY_HASH(b, 10) LABEL y INTO m; SHOW MODELS;",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}
