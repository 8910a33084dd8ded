-- What live tokens say, to tell sidecars whether a call may go on by another token than its own. Of those that have expired
-- nothing is kept.
CREATE TABLE live_claims (
  jti          TEXT PRIMARY KEY,
  sub          TEXT NOT NULL,
  operation_id TEXT NOT NULL,
  expires_at   INTEGER NOT NULL,
  claims       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX live_claims_of_an_operation ON live_claims (sub, operation_id, expires_at);
CREATE INDEX live_claims_that_expire ON live_claims (expires_at);

-- To find the user requests that an agent works on.
CREATE INDEX issued_to_an_agent ON issued (agent_id, expires_at);
