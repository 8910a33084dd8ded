-- One row: the epoch of all versions. An operator raises it after restoring an older database.
CREATE TABLE meta (
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  epoch   INTEGER NOT NULL CHECK (epoch > 0),
  probed  INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO meta (id, epoch) VALUES (1, 1);

-- The last counter reserved for each signed stream: 'bundle' (of all workloads) and 'state'.
CREATE TABLE versions (
  stream  TEXT PRIMARY KEY,
  counter INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Every token that was ever answered to anybody stands here first.
CREATE TABLE issued (
  jti          TEXT PRIMARY KEY,
  agent_id     TEXT NOT NULL,
  operation_id TEXT NOT NULL,
  txn          TEXT NOT NULL,
  issued_by    TEXT NOT NULL,
  issued_at    INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Refused requests for tokens, one row a principal, code and hour, so that refusing cannot fill the disk.
CREATE TABLE refused (
  principal TEXT NOT NULL,
  code      TEXT NOT NULL,
  hour      INTEGER NOT NULL,
  count     INTEGER NOT NULL,
  PRIMARY KEY (principal, code, hour)
) STRICT, WITHOUT ROWID;

-- Agents that are not active.
CREATE TABLE agent_states (
  agent_id   TEXT PRIMARY KEY,
  state      TEXT NOT NULL CHECK (state IN ('paused', 'suspended', 'killed')),
  changed_by TEXT NOT NULL,
  changed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Tokens of an agent that were issued before this second are dead.
CREATE TABLE not_before (
  agent_id   TEXT PRIMARY KEY,
  not_before INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE revoked (
  jti        TEXT PRIMARY KEY,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One chain of records a sidecar VM. A source belongs for ever to the workload that opened it.
CREATE TABLE sources (
  source    TEXT PRIMARY KEY,
  workload  TEXT NOT NULL,
  last_seq  INTEGER NOT NULL,
  last_hash BLOB NOT NULL,
  opened_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `position` is the order in which records were accepted. Rows are never changed or deleted.
CREATE TABLE records (
  position    INTEGER PRIMARY KEY AUTOINCREMENT,
  source      TEXT NOT NULL,
  seq         INTEGER NOT NULL,
  hash        BLOB NOT NULL,
  workload    TEXT NOT NULL,
  received_at INTEGER NOT NULL,
  record      BLOB NOT NULL,
  UNIQUE (source, seq)
) STRICT;
CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'records are not changed'); END;
CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'records are not deleted'); END;
