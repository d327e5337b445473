-- Scored and labelled rows as files: what the model predicted for each impression before it learned from it, beside what came.
-- Runs everywhere; the files are in ./scored. Kill it at any moment and start it again: the files end up the same, each row once.

CREATE SOURCE impressions (imp_id BIGINT PRIMARY KEY, ts BIGINT, C1 STRING, C2 STRING, C3 STRING, true_p DOUBLE,
  rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '1' SECOND)
WITH (connector = 'generator', stream = 'impressions', rows = 200000);

CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '1' SECOND)
WITH (connector = 'generator', stream = 'clicks', rows = 200000);

CREATE STREAM samples AS
  SELECT i.*, (c.imp_id IS NOT NULL) AS clicked
  FROM impressions i LEFT JOIN clicks c
    ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '5' SECOND
  EMIT EARLY INTERVAL '1' SECOND CORRECT RETRACT;

SELECT * FROM samples TO TRAIN FTRLClassifier COLUMN C1, C2, C3 LABEL clicked INTO scores;

-- imp_id and true_p are no features: a sink may read them all the same.
CREATE SINK scored AS
  SELECT imp_id, true_p, prediction, label, sample_weight, sample_kind, event_time FROM scores
WITH (connector = 'file', path = 'scored', format = 'csv', roll.bytes = '4MiB', roll.interval = '0s');
