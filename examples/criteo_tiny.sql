-- Is this advertisement clicked? The layout of the Criteo display advertising challenge (I1-I13 counts, C1-C26
-- categories, many of both missing), 1,999 real rows: enough to show that the layout is read, far too few to say
-- anything about accuracy.
--
-- A missing category is a value of its own; a missing count falls in a bucket of its own.
-- The data: ../shared/data/criteo_tiny, no part of this repository.

CREATE SOURCE impressions (
  Id BIGINT, Label BIGINT, I1 BIGINT, I2 BIGINT, I3 BIGINT, I4 BIGINT, I5 BIGINT, I6 BIGINT, I7 BIGINT, I8 BIGINT,
  I9 BIGINT, I10 BIGINT, I11 BIGINT, I12 BIGINT, I13 BIGINT, C1 STRING, C2 STRING, C3 STRING, C4 STRING, C5 STRING,
  C6 STRING, C7 STRING, C8 STRING, C9 STRING, C10 STRING, C11 STRING, C12 STRING, C13 STRING, C14 STRING, C15
  STRING, C16 STRING, C17 STRING, C18 STRING, C19 STRING, C20 STRING, C21 STRING, C22 STRING, C23 STRING, C24
  STRING, C25 STRING, C26 STRING)
WITH (connector = 'file', path = '../shared/data/criteo_tiny/train.tiny.csv.zst', format = 'csv');

SELECT * FROM impressions
TO TRAIN FTRLClassifier
  WITH model.alpha = 0.07, train.batch_size = 1
  COLUMN
  BUCKET(I1, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I2, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I3, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I4, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I5, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I6, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I7, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I8, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I9, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I10, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I11, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I12, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  BUCKET(I13, [0, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000, 10000]),
  C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15, C16, C17, C18, C19, C20, C21, C22, C23, C24,
  C25, C26
  LABEL Label INTO criteo_tiny;
