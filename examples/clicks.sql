-- Will this impression be clicked within five seconds? One million generated impressions and their clicks, as fast as
-- they can be read: runs everywhere, without any data.
--
-- The world behind the stream is known (true_p is the probability from which each click was drawn) and a part of it
-- changes every ten seconds of event time, so the summary can say how far the model is from the best possible.
-- true_p is compared with, never learned from: it is not in COLUMN.

CREATE SOURCE impressions (
  imp_id BIGINT PRIMARY KEY, ts BIGINT, I1 BIGINT, I2 BIGINT, I3 BIGINT, I4 BIGINT, I5 BIGINT, I6 BIGINT, I7 BIGINT,
  I8 BIGINT, I9 BIGINT, I10 BIGINT, I11 BIGINT, I12 BIGINT, I13 BIGINT, C1 STRING, C2 STRING, C3 STRING, C4 STRING,
  C5 STRING, C6 STRING, C7 STRING, C8 STRING, C9 STRING, C10 STRING, C11 STRING, C12 STRING, C13 STRING, C14 STRING,
  C15 STRING, C16 STRING, C17 STRING, C18 STRING, C19 STRING, C20 STRING, C21 STRING, C22 STRING, C23 STRING, C24
  STRING, C25 STRING, C26 STRING, true_p DOUBLE, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '0.2'
  SECOND)
WITH (connector = 'generator', stream = 'impressions', seed = 7, rate = 20000, rows = 1000000, click_delay = '100ms');

CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT,
  rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '0.2' SECOND)
WITH (connector = 'generator', stream = 'clicks', seed = 7, rate = 20000, rows = 1000000, click_delay = '100ms');

-- An impression is learned at once as not clicked; when its click comes, that is taken back and corrected.
CREATE STREAM samples AS
  SELECT i.*, (c.imp_id IS NOT NULL) AS clicked
  FROM impressions i LEFT JOIN clicks c
    ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '5' SECOND
  EMIT IMMEDIATE CORRECT RETRACT;

SELECT * FROM samples TO TRAIN FTRLClassifier
  WITH model.alpha = 0.1, validate.oracle = 'true_p'
  COLUMN
  I1, I2, I3, I4, I5, I6, I7, I8, I9, I10, I11, I12, I13, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13,
  C14, C15, C16, C17, C18, C19, C20, C21, C22, C23, C24, C25, C26, CROSS([C1, C3])
  LABEL clicked INTO clicks;
