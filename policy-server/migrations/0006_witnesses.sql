-- Where the records of each user request are, found span by span of 4096 positions, as the records of calls are. A task
-- fills it behind the log, as far as `trace_progress`; it says nothing that `records` does not.
CREATE TABLE traces (
  span     INTEGER NOT NULL,
  txn      TEXT NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (span, txn, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE trace_progress (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  position INTEGER NOT NULL
) STRICT;
INSERT INTO trace_progress (id, position) VALUES (1, 0);

-- What only one side of calls saw, or both saw differently: one row a caller, callee and kind, whose example is the last.
CREATE TABLE findings (
  caller   TEXT NOT NULL,
  callee   TEXT NOT NULL,
  kind     TEXT NOT NULL CHECK (kind IN ('service_only', 'caller_only', 'differs')),
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

-- Up to which record all calls have been judged. What a server before this one stored is not judged any more: nobody knows
-- which sidecars lived then.
CREATE TABLE findings_progress (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  position INTEGER NOT NULL
) STRICT;
INSERT INTO findings_progress (id, position) SELECT 1, coalesce(max(position), 0) FROM records;
