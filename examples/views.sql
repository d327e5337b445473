-- What a person has liked so far, in a recommender: MovieLens 100K, 100,000 ratings in the order in which they were given.
-- Each is predicted before it is learned, and reads the views as they were before it: a rating never knows itself.
--
-- The same program as ml100k.sql, with what each person and each film showed so far beside what they are. With the server
-- on, a request that names "user" and item is told the same, as of now: {"rows":[{"user":196,"item":242}]}.
--
-- The data: ../shared/data/ml100k, research use only, no part of this repository.

CREATE SOURCE ratings (ts BIGINT, "user" BIGINT, item BIGINT, rating BIGINT, age BIGINT, gender STRING,
  occupation STRING, zip_code STRING, year BIGINT, genres STRING,
  rt AS TO_TIMESTAMP_S(ts), liked AS rating >= 4, WATERMARK FOR rt)
WITH (connector = 'file', path = '../shared/data/ml100k/ml100k.csv.zst', format = 'csv');

-- The share of fours and fives, smoothed by 5 ratings of the average 0.55: over the last day, and fading over 30 days.
CREATE FEATURE VIEW person KEYED BY "user" AS
  SELECT COUNT(r) OVER SAWTOOTH (INTERVAL '1' DAY, PANE '2' HOUR) AS ratings_1d,
    SUM(CAST(r.liked AS INT)) OVER SAWTOOTH (INTERVAL '1' DAY, PANE '2' HOUR) AS liked_1d,
    RATIO(liked_1d, ratings_1d, 5, 0.55) AS person_share,
    LAST(r.genres) AS last_genres
  FROM ratings r;

CREATE FEATURE VIEW film KEYED BY item AS
  SELECT COUNT(r) OVER DECAY (INTERVAL '30' DAY) AS ratings_faded,
    SUM(CAST(r.liked AS INT)) OVER DECAY (INTERVAL '30' DAY) AS liked_faded,
    RATIO(liked_faded, ratings_faded, 5, 0.55) AS film_share
  FROM ratings r;

SELECT r.*, p.*, f.* FROM ratings r
  LEFT JOIN person FOR SYSTEM_TIME AS OF r.rt p ON p."user" = r."user"
  LEFT JOIN film FOR SYSTEM_TIME AS OF r.rt f ON f.item = r.item
TO TRAIN FTRLClassifier
  WITH model.alpha = 0.3, train.batch_size = 1
  COLUMN "user", item, genres, occupation, zip_code,
    BUCKET(age, [18, 25, 35, 45, 50, 56]), BUCKET(year, [1950, 1970, 1980, 1990, 1995]),
    CROSS(["user", genres]), CROSS(["user", BUCKET(year, [1950, 1970, 1980, 1990, 1995])]),
    CROSS([item, gender]), CROSS([genres, occupation]),
    BUCKET(person_share, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]), BUCKET(film_share, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
    CROSS([last_genres, genres])
  LABEL liked INTO views;
