-- Will this click on an advertisement lead to a download? 100,000 clicks in time order, 227 of them do.
--
-- In life a download comes minutes or hours after its click, and a label join over two streams would wait for it. This
-- file has no id by which a click and its download could be joined (one address clicks on one app many times in a
-- minute), and SQL over a stream has no row number. So the label here is the file's own column, known at once: the
-- figures say what the features are worth, not what delay costs. examples/clicks.sql shows the join.
-- attributed_ts is set for downloads only, so it would give the answer away: it is no feature.
--
-- The data: ../shared/data/talkingdata100k, a competition's sample, no part of this repository.

CREATE SOURCE clicks (click_ts BIGINT, ip BIGINT, app BIGINT, device BIGINT, os BIGINT, channel BIGINT,
  attributed_ts BIGINT, is_attributed BIGINT)
WITH (connector = 'file', path = '../shared/data/talkingdata100k/clicks.csv.zst', format = 'csv');

SELECT *, click_ts % 86400 / 3600 AS hour FROM clicks
TO TRAIN FTRLClassifier
  WITH model.alpha = 0.8, train.batch_size = 1
  COLUMN app, channel, os, device, hour, CROSS([app, channel])
  LABEL is_attributed INTO talkingdata;
