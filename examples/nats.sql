-- Will this impression be clicked within a second? Both kinds of events come from one JetStream stream, told apart by
-- subject. examples/nats.sh starts a server, fills it and runs this; with a server of your own take bounded = true away,
-- and the job goes on for ever. The same program reads Kafka with connector = 'kafka', brokers = '...', topic = '...'.

CREATE SOURCE impressions (imp_id BIGINT PRIMARY KEY, ts BIGINT, item STRING, person BIGINT,
  rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '2' SECOND)
WITH (connector = 'nats', url = 'nats://127.0.0.1:4333', subject = 'shop.impressions', bounded = true);

CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT,
  rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '2' SECOND)
WITH (connector = 'nats', url = 'nats://127.0.0.1:4333', subject = 'shop.clicks', bounded = true);

CREATE STREAM samples AS
  SELECT i.*, (c.imp_id IS NOT NULL) AS clicked
  FROM impressions i LEFT JOIN clicks c
    ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' SECOND
  EMIT EARLY INTERVAL '0.3' SECOND CORRECT RETRACT;

SELECT * FROM samples TO TRAIN FTRLClassifier
  COLUMN item, person, CROSS([item, person])
  LABEL clicked INTO shop;
