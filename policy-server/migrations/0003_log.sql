-- The Merkle tree over the records, in tiles (C2SP tlog-tiles): up to 256 hashes a row. The leaf of a record is its
-- position less one. A tile only ever grows to its right, so a tree that was signed can always be shown again.
CREATE TABLE tiles (
  level  INTEGER NOT NULL,
  tile   INTEGER NOT NULL,
  hashes BLOB NOT NULL CHECK (length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0),
  PRIMARY KEY (level, tile)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER tiles_only_grow BEFORE UPDATE ON tiles
WHEN substr(NEW.hashes, 1, length(OLD.hashes)) IS NOT OLD.hashes OR NEW.level <> OLD.level OR NEW.tile <> OLD.tile
BEGIN SELECT RAISE(ABORT, 'tiles only grow'); END;
CREATE TRIGGER tiles_are_not_deleted BEFORE DELETE ON tiles BEGIN SELECT RAISE(ABORT, 'tiles are not deleted'); END;

-- How many records are in the tree.
CREATE TABLE tree (
  id   INTEGER PRIMARY KEY CHECK (id = 1),
  size INTEGER NOT NULL
) STRICT;
INSERT INTO tree (id, size) VALUES (1, 0);

-- What was signed: the last checkpoint of each size.
CREATE TABLE checkpoints (
  size   INTEGER PRIMARY KEY,
  root   BLOB NOT NULL,
  signed INTEGER NOT NULL,
  note   TEXT NOT NULL
) STRICT;
CREATE TRIGGER roots_are_not_changed BEFORE UPDATE ON checkpoints WHEN NEW.root IS NOT OLD.root OR NEW.size <> OLD.size
BEGIN SELECT RAISE(ABORT, 'what was signed is not changed'); END;
CREATE TRIGGER checkpoints_are_not_deleted BEFORE DELETE ON checkpoints
BEGIN SELECT RAISE(ABORT, 'checkpoints are not deleted'); END;

-- The records of each call, found span by span of 4096 positions: calls have random names, and what is written at once
-- should stand on few pages.
CREATE TABLE calls (
  span     INTEGER NOT NULL,
  call     TEXT NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (span, call, position)
) STRICT, WITHOUT ROWID;
INSERT INTO calls (span, call, position)
SELECT position / 4096, json_extract(CAST(record AS TEXT), '$.call'), position FROM records
WHERE json_extract(CAST(record AS TEXT), '$.call') IS NOT NULL;

-- Who read the log, one row a principal, kind of reading and hour, so that reading cannot fill the disk.
CREATE TABLE log_reads (
  principal TEXT NOT NULL,
  what      TEXT NOT NULL,
  hour      INTEGER NOT NULL,
  count     INTEGER NOT NULL,
  PRIMARY KEY (principal, what, hour)
) STRICT, WITHOUT ROWID;
