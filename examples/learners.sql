-- Every learner, each on the same 100,000 film ratings: will this person give four stars or more, how many stars, and
-- which of the five. One pass in the order in which ratings were given, each predicted before it is learned.
--
--   examples/run.sh learners --json -q
--
-- The data: ../shared/data/ml100k, research use only, no part of this repository.

CREATE SOURCE ratings (ts BIGINT, "user" BIGINT, item BIGINT, rating BIGINT, age BIGINT, gender STRING,
  occupation STRING, zip_code STRING, year BIGINT, genres STRING)
WITH (connector = 'file', path = '../shared/data/ml100k/ml100k.csv.zst', format = 'csv');

CREATE VIEW films AS SELECT *, rating >= 4 AS liked, rating - 1 AS class FROM ratings;

SELECT * FROM films TO TRAIN LogisticRegression
  WITH model.optimizer = 'adagrad', model.alpha = 0.1, train.batch_size = 1
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995]), CROSS(["user", genres])
  LABEL liked INTO yes_logistic;

SELECT * FROM films TO TRAIN FTRLClassifier
  WITH model.alpha = 0.3, train.batch_size = 1
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995]), CROSS(["user", genres])
  LABEL liked INTO yes_ftrl;

SELECT * FROM films TO TRAIN FMClassifier
  WITH model.alpha = 0.2, model.factors = 8, model.spread = 0.05, model.factors_alpha = 0.1, train.batch_size = 1
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL liked INTO yes_fm;

SELECT * FROM films TO TRAIN FFMClassifier
  WITH model.alpha = 0.2, model.factors = 4, model.spread = 0.05, model.factors_alpha = 0.1, train.batch_size = 1
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL liked INTO yes_ffm;

SELECT * FROM films TO TRAIN MLPClassifier
  WITH model.embedding = 16, model.layers = '64,32', model.factors_alpha = 0.1, model.dense_alpha = 0.003, train.batch_size = 4
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL liked INTO yes_mlp;

SELECT * FROM films TO TRAIN WideDeepClassifier
  WITH model.alpha = 0.2, model.embedding = 16, model.layers = '64,32', model.factors_alpha = 0.1, model.dense_alpha = 0.003, train.batch_size = 4
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL liked INTO yes_wide_deep;

SELECT * FROM films TO TRAIN DeepFMClassifier
  WITH model.alpha = 0.2, model.embedding = 16, model.layers = '64,32', model.factors_alpha = 0.1, model.dense_alpha = 0.003, train.batch_size = 4
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL liked INTO yes_deepfm;

SELECT * FROM films TO TRAIN LinearRegression
  WITH model.optimizer = 'adagrad', model.alpha = 0.1, train.batch_size = 1, model.label_min = 1, model.label_max = 5
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995]), CROSS(["user", genres])
  LABEL rating INTO stars_linear;

SELECT * FROM films TO TRAIN FMRegressor
  WITH model.optimizer = 'adagrad', model.alpha = 0.1, model.factors = 8, model.spread = 0.05, model.factors_alpha = 0.1, train.batch_size = 1, model.label_min = 1, model.label_max = 5
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL rating INTO stars_fm;

SELECT * FROM films TO TRAIN FFMRegressor
  WITH model.optimizer = 'adagrad', model.alpha = 0.1, model.factors = 4, model.spread = 0.05, model.factors_alpha = 0.1, train.batch_size = 1, model.label_min = 1, model.label_max = 5
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL rating INTO stars_ffm;

SELECT * FROM films TO TRAIN MLPRegressor
  WITH model.embedding = 16, model.layers = '64,32', model.factors_alpha = 0.1, model.dense_alpha = 0.003, train.batch_size = 4, model.label_min = 1, model.label_max = 5
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL rating INTO stars_mlp;

SELECT * FROM films TO TRAIN WideDeepRegressor
  WITH model.optimizer = 'adagrad', model.alpha = 0.1, model.embedding = 16, model.layers = '64,32', model.factors_alpha = 0.1, model.dense_alpha = 0.003, train.batch_size = 4, model.label_min = 1, model.label_max = 5
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL rating INTO stars_wide_deep;

SELECT * FROM films TO TRAIN DeepFMRegressor
  WITH model.optimizer = 'adagrad', model.alpha = 0.1, model.embedding = 16, model.layers = '64,32', model.factors_alpha = 0.1, model.dense_alpha = 0.003, train.batch_size = 4, model.label_min = 1, model.label_max = 5
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL rating INTO stars_deepfm;

SELECT * FROM films TO TRAIN SoftmaxRegression
  WITH model.classes = 5, model.optimizer = 'adagrad', model.alpha = 0.1, train.batch_size = 1
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL class INTO class_softmax;

SELECT * FROM films TO TRAIN MLPClassifier
  WITH model.classes = 5, model.embedding = 16, model.layers = '64,32', model.factors_alpha = 0.1, model.dense_alpha = 0.003, train.batch_size = 4
  COLUMN "user", item, genres, occupation, BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995])
  LABEL class INTO class_mlp;
