-- Will this click on an advertisement lead to a download? The clicks of talkingdata.sql, with what was known of the address
-- and of the app when each came: how many clicks the address made in the last day, of how many apps, and what share of an
-- app's clicks led to a download lately. A click reads its views as they were before it, so it never knows itself.
--
-- In life a download comes minutes or hours after its click. This file tells it with the click, so here the app's share
-- knows the downloads of earlier clicks at once; over two streams it would be fed by the downloads, as they come.
--
-- The data: ../shared/data/talkingdata100k, a competition's sample, no part of this repository.

CREATE SOURCE clicks (click_ts BIGINT, ip BIGINT, app BIGINT, device BIGINT, os BIGINT, channel BIGINT,
  attributed_ts BIGINT, is_attributed BIGINT, rt AS TO_TIMESTAMP_S(click_ts), WATERMARK FOR rt)
WITH (connector = 'file', path = '../shared/data/talkingdata100k/clicks.csv.zst', format = 'csv');

CREATE FEATURE VIEW address KEYED BY ip AS
  SELECT COUNT(c) OVER SAWTOOTH (INTERVAL '1' DAY, PANE '1' HOUR) AS clicks_1d,
    DISTINCT(c.app) OVER SAWTOOTH (INTERVAL '1' DAY, PANE '2' HOUR) AS apps_1d
  FROM clicks c;

-- The share fades with a half-life of a day; without clicks it is the prior, worth 100 of them.
CREATE FEATURE VIEW app_share KEYED BY app AS
  SELECT COUNT(c) OVER DECAY (INTERVAL '1' DAY) AS clicks_faded,
    SUM(c.is_attributed) OVER DECAY (INTERVAL '1' DAY) AS downloads_faded,
    RATIO(downloads_faded, clicks_faded, 100, 0.002) AS download_share
  FROM clicks c;

SELECT c.*, a.*, s.*, click_ts % 86400 / 3600 AS hour FROM clicks c
  LEFT JOIN address FOR SYSTEM_TIME AS OF c.rt a ON a.ip = c.ip
  LEFT JOIN app_share FOR SYSTEM_TIME AS OF c.rt s ON s.app = c.app
TO TRAIN FTRLClassifier
  WITH model.alpha = 0.8, train.batch_size = 1
  COLUMN app, channel, os, device, hour, CROSS([app, channel]),
    BUCKET(clicks_1d, [1, 2, 4, 8, 16, 32]), BUCKET(apps_1d, [1, 2, 3, 5]),
    BUCKET(download_share, [0.0005, 0.001, 0.002, 0.005, 0.02, 0.1])
  LABEL is_attributed INTO views;
