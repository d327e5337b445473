-- Will this person use this app here and now, as a number from -1 to 1: a factorisation machine, twelve passes, then the
-- published test part. The figure to compare is `rmse` of the second line; libFM's published one is about 0.34.
--
--   examples/run.sh frappe_fm --json -q
--
-- The data: ../shared/data/frappe, research use only, no part of this repository. Its training part was rebuilt (see the
-- README there), so published figures are near and not the same task.

CREATE SOURCE usage (label DOUBLE, features SPARSE)
WITH (connector = 'file', path = '../shared/data/frappe/frappe.train.libfm.zst', format = 'libfm');

CREATE SOURCE later (label DOUBLE, features SPARSE)
WITH (connector = 'file', path = '../shared/data/frappe/frappe.test.libfm.zst', format = 'libfm');

SELECT * FROM usage TO TRAIN FMRegressor
  WITH model.label_min = -1, model.label_max = 1, model.factors = 64, model.dropout = 0.3, model.spread = 0.05,
    model.factors_optimizer = 'rowwise_adagrad', model.factors_alpha = 0.1, model.beta = 0.1,
    train.batch_size = 16, train.passes = 12
  COLUMN features
  LABEL label INTO frappe_fm;

SELECT * FROM later TO EVALUATE frappe_fm LABEL label;
