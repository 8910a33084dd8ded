-- Bundles and state lists as they were signed, so that what records name can be read long after. A renewal differs from
-- the one before in a few numbers: what stands before `body` is each document's own, the rest is kept once. One that no
-- record has named in time is deleted, one that was named never is.
CREATE TABLE kept_policy (
  kind      TEXT NOT NULL CHECK (kind IN ('bundle', 'state')),
  epoch     INTEGER NOT NULL,
  counter   INTEGER NOT NULL,
  signed_at INTEGER NOT NULL,
  -- The header and the signature as they stand in the compact form, and the beginning of the payload as it was signed.
  header    TEXT NOT NULL,
  head      TEXT NOT NULL,
  body      TEXT NOT NULL,
  signature TEXT NOT NULL,
  named     INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (kind, epoch, counter)
) STRICT, WITHOUT ROWID;
CREATE INDEX kept_policy_that_nothing_names ON kept_policy (signed_at) WHERE named = 0;
CREATE INDEX kept_policy_by_body ON kept_policy (body);
CREATE TRIGGER kept_policy_is_not_changed BEFORE UPDATE ON kept_policy
WHEN NEW.named < OLD.named OR NEW.header <> OLD.header OR NEW.head <> OLD.head OR NEW.body <> OLD.body
  OR NEW.signature <> OLD.signature
BEGIN SELECT RAISE(ABORT, 'kept policy is not changed'); END;
CREATE TRIGGER named_policy_is_not_deleted BEFORE DELETE ON kept_policy WHEN OLD.named = 1
BEGIN SELECT RAISE(ABORT, 'policy that records name is not deleted'); END;

-- By the SHA-256 digest: the rests of documents, and the pages of agents that bundles name.
CREATE TABLE kept_texts (
  digest TEXT PRIMARY KEY,
  page   INTEGER NOT NULL,
  text   TEXT NOT NULL
) STRICT;
