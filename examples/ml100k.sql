-- Will this person give this film four stars or more? MovieLens 100K: 100,000 ratings in the order in which they were
-- given, each predicted before it is learned.
--
-- The data: ../shared/data/ml100k, research use only, no part of this repository.

CREATE SOURCE ratings (ts BIGINT, "user" BIGINT, item BIGINT, rating BIGINT, age BIGINT, gender STRING,
  occupation STRING, zip_code STRING, year BIGINT, genres STRING)
WITH (connector = 'file', path = '../shared/data/ml100k/ml100k.csv.zst', format = 'csv');

SELECT *, rating >= 4 AS liked FROM ratings
TO TRAIN FTRLClassifier
  WITH model.alpha = 0.3, train.batch_size = 1
  COLUMN "user", item, genres, occupation, zip_code,
    BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995]),
    CROSS(["user", genres]), CROSS(["user", BUCKET(year, [1950, 1970, 1980, 1990, 1995])]),
    CROSS([item, gender]), CROSS([genres, occupation])
  LABEL liked INTO ml100k;
