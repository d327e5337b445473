-- Will this person use this app here and now? Use of mobile apps in context: 202,027 samples in libFM text, ten
-- features each (user, app, time of day, weekday, weather, country ...), in the order of the file.
--
-- The label is written 1 or -1; a learner of yes and no wants a boolean.
-- The data: ../shared/data/frappe, research use only, no part of this repository.

CREATE SOURCE usage (label DOUBLE, features SPARSE)
WITH (connector = 'file', path = '../shared/data/frappe/frappe.train.libfm.zst', format = 'libfm');

SELECT features, CASE WHEN label > 0 THEN TRUE WHEN label <= 0 THEN FALSE END AS used FROM usage
TO TRAIN FTRLClassifier
  WITH model.alpha = 0.8, train.batch_size = 1
  COLUMN features
  LABEL used INTO frappe;
