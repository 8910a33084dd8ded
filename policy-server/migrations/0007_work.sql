-- Which operation or user request was ended, by whom, and why; the tokens that died with it stand in `revoked` and
-- `revocations`. Rows are never changed or deleted.
CREATE TABLE ended_work (
  number        INTEGER PRIMARY KEY AUTOINCREMENT,
  kind          TEXT NOT NULL CHECK (kind IN ('operation', 'txn')),
  name          TEXT NOT NULL,
  ended_by      TEXT NOT NULL,
  reason        TEXT NOT NULL,
  ended_at      INTEGER NOT NULL,
  -- No token is issued for it before this second; for ever, if there is none.
  refused_until INTEGER,
  tokens        INTEGER NOT NULL
) STRICT;
CREATE INDEX ended_work_by_name ON ended_work (kind, name);
CREATE TRIGGER ended_work_is_not_changed BEFORE UPDATE ON ended_work
  BEGIN SELECT RAISE(ABORT, 'ended work is not changed'); END;
CREATE TRIGGER ended_work_is_not_deleted BEFORE DELETE ON ended_work
  BEGIN SELECT RAISE(ABORT, 'ended work is not deleted'); END;

-- To find the live tokens of one.
CREATE INDEX issued_for_an_operation ON issued (operation_id, expires_at);
CREATE INDEX issued_for_a_txn ON issued (txn, expires_at);

-- The last change of an agent's state that a webhook has been told.
CREATE TABLE webhooks (
  url    TEXT PRIMARY KEY,
  number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
