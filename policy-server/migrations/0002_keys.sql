-- The signing keys and what each is for; their private halves are files. A key stays here when its time is over, so that
-- its file cannot bring it back.
CREATE TABLE keys (
  kid          TEXT PRIMARY KEY,
  kind         TEXT NOT NULL CHECK (kind IN ('token', 'bundle')),
  state        TEXT NOT NULL CHECK (state IN ('next', 'signing', 'retiring', 'retired')),
  -- The public JWK: a key is published while what it signed lives, whether or not its file is still there.
  public       TEXT NOT NULL,
  -- When the state began, and when a retiring key's ends, in seconds.
  since        INTEGER NOT NULL,
  until        INTEGER,
  -- Bundles from this version on name the token key, or are signed by the bundle key.
  from_epoch   INTEGER NOT NULL,
  from_counter INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_key_of_a_kind_signs ON keys (kind) WHERE state = 'signing';
CREATE UNIQUE INDEX one_key_of_a_kind_is_next ON keys (kind) WHERE state = 'next';
