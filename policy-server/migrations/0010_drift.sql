-- What a service tells of its tools may differ from what its file pins: one more kind of finding, and a table's CHECK cannot be
-- changed in its place.
CREATE TABLE findings_of_more_kinds (
  caller   TEXT NOT NULL,
  callee   TEXT NOT NULL,
  kind     TEXT NOT NULL CHECK (kind IN ('service_only', 'caller_only', 'differs', 'drifted')),
  first_ms INTEGER NOT NULL,
  last_ms  INTEGER NOT NULL,
  count    INTEGER NOT NULL,
  why      TEXT NOT NULL,
  service  TEXT,
  call     TEXT,
  position INTEGER NOT NULL,
  agent_id TEXT,
  txn      TEXT,
  PRIMARY KEY (caller, callee, kind)
) STRICT, WITHOUT ROWID;
INSERT INTO findings_of_more_kinds SELECT * FROM findings;
DROP TABLE findings;
ALTER TABLE findings_of_more_kinds RENAME TO findings;
