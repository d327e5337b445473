-- Is this network connection an attack? 494,021 connections of the KDD Cup 1999 (the 10 percent file): no header line,
-- 41 columns and the label, which is 'normal.' or the name of an attack. The mix changes strongly along the file.
-- Figures near perfect are usual for this data: it shows throughput on real text and drift, and ranks no learner.
--
-- Shares (DOUBLE) are features by their value, counts and bytes by their range, everything else by each distinct value.
-- The data: ../shared/data/kdd99_10pct, no part of this repository.

CREATE SOURCE connections (
  duration BIGINT, protocol_type STRING, service STRING, flag STRING, src_bytes BIGINT, dst_bytes BIGINT, land
  BIGINT, wrong_fragment BIGINT, urgent BIGINT, hot BIGINT, num_failed_logins BIGINT, logged_in BIGINT,
  num_compromised BIGINT, root_shell BIGINT, su_attempted BIGINT, num_root BIGINT, num_file_creations BIGINT,
  num_shells BIGINT, num_access_files BIGINT, num_outbound_cmds BIGINT, is_host_login BIGINT, is_guest_login BIGINT,
  count BIGINT, srv_count BIGINT, serror_rate DOUBLE, srv_serror_rate DOUBLE, rerror_rate DOUBLE, srv_rerror_rate
  DOUBLE, same_srv_rate DOUBLE, diff_srv_rate DOUBLE, srv_diff_host_rate DOUBLE, dst_host_count BIGINT,
  dst_host_srv_count BIGINT, dst_host_same_srv_rate DOUBLE, dst_host_diff_srv_rate DOUBLE,
  dst_host_same_src_port_rate DOUBLE, dst_host_srv_diff_host_rate DOUBLE, dst_host_serror_rate DOUBLE,
  dst_host_srv_serror_rate DOUBLE, dst_host_rerror_rate DOUBLE, dst_host_srv_rerror_rate DOUBLE, label STRING)
WITH (connector = 'file', path = '../shared/data/kdd99_10pct/kdd99_10pct.csv.zst', format = 'csv', header = false);

SELECT *, label <> 'normal.' AS attack FROM connections
TO TRAIN FTRLClassifier
  WITH model.alpha = 0.1
  COLUMN
  BUCKET(duration, [1, 10, 100, 300, 1000, 3000, 10000, 100000]), protocol_type, service, flag,
  BUCKET(src_bytes, [1, 10, 100, 300, 1000, 3000, 10000, 100000]),
  BUCKET(dst_bytes, [1, 10, 100, 300, 1000, 3000, 10000, 100000]), land, wrong_fragment, urgent, hot,
  num_failed_logins, logged_in, num_compromised, root_shell, su_attempted, num_root, num_file_creations, num_shells,
  num_access_files, num_outbound_cmds, is_host_login, is_guest_login,
  BUCKET(count, [1, 2, 5, 10, 30, 100, 250, 500]), BUCKET(srv_count, [1, 2, 5, 10, 30, 100, 250, 500]), serror_rate,
  srv_serror_rate, rerror_rate, srv_rerror_rate, same_srv_rate, diff_srv_rate, srv_diff_host_rate,
  BUCKET(dst_host_count, [1, 2, 5, 10, 30, 100, 250, 500]),
  BUCKET(dst_host_srv_count, [1, 2, 5, 10, 30, 100, 250, 500]), dst_host_same_srv_rate, dst_host_diff_srv_rate,
  dst_host_same_src_port_rate, dst_host_srv_diff_host_rate, dst_host_serror_rate, dst_host_srv_serror_rate,
  dst_host_rerror_rate, dst_host_srv_rerror_rate, CROSS([service, flag])
  LABEL attack INTO kdd99;
