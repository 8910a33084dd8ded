-- Every change of an agent's state: who, in which role, and why. The state itself stands in `agent_states`, written in the
-- same transaction. Rows are never changed or deleted.
CREATE TABLE agent_changes (
  number     INTEGER PRIMARY KEY AUTOINCREMENT,
  agent_id   TEXT NOT NULL,
  change     TEXT NOT NULL CHECK (change IN ('approve', 'pause', 'resume', 'suspend', 'kill')),
  from_state TEXT NOT NULL CHECK (from_state IN ('active', 'paused', 'suspended', 'killed')),
  to_state   TEXT NOT NULL CHECK (to_state IN ('active', 'paused', 'suspended', 'killed')),
  role       TEXT NOT NULL,
  changed_by TEXT NOT NULL,
  reason     TEXT NOT NULL,
  changed_at INTEGER NOT NULL,
  -- Tokens of the agent that were issued before this second died with the change.
  not_before INTEGER
) STRICT;
CREATE INDEX agent_changes_of_an_agent ON agent_changes (agent_id, number);
CREATE TRIGGER agent_changes_are_not_changed BEFORE UPDATE ON agent_changes
  BEGIN SELECT RAISE(ABORT, 'changes of agents are not changed'); END;
CREATE TRIGGER agent_changes_are_not_deleted BEFORE DELETE ON agent_changes
  BEGIN SELECT RAISE(ABORT, 'changes of agents are not deleted'); END;

-- Who revoked which token, and why. Rows are never changed or deleted.
CREATE TABLE revocations (
  number     INTEGER PRIMARY KEY AUTOINCREMENT,
  jti        TEXT NOT NULL,
  -- Of a token that this server issued.
  agent_id   TEXT,
  revoked_by TEXT NOT NULL,
  reason     TEXT NOT NULL,
  revoked_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;
CREATE TRIGGER revocations_are_not_changed BEFORE UPDATE ON revocations
  BEGIN SELECT RAISE(ABORT, 'revocations are not changed'); END;
CREATE TRIGGER revocations_are_not_deleted BEFORE DELETE ON revocations
  BEGIN SELECT RAISE(ABORT, 'revocations are not deleted'); END;

-- How far records have been scored: one row.
CREATE TABLE risk_progress (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  position INTEGER NOT NULL
) STRICT;
INSERT INTO risk_progress (id, position) VALUES (1, 0);

-- What is known of how each agent behaves, as of `risk_progress`: JSON that is nobody's interface.
CREATE TABLE risk_profiles (
  agent_id TEXT PRIMARY KEY,
  profile  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
