-- Tiles are found by an index of their own. The hashes were part of the key's tree, and each step of a search read those of
-- the tile that it passed: 8 KB.
CREATE TABLE tiles_by_place (
  level  INTEGER NOT NULL,
  tile   INTEGER NOT NULL,
  hashes BLOB NOT NULL CHECK (length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0),
  PRIMARY KEY (level, tile)
) STRICT;
INSERT INTO tiles_by_place (level, tile, hashes) SELECT level, tile, hashes FROM tiles ORDER BY level, tile;
DROP TABLE tiles;
ALTER TABLE tiles_by_place RENAME TO tiles;
CREATE TRIGGER tiles_only_grow BEFORE UPDATE ON tiles
WHEN substr(NEW.hashes, 1, length(OLD.hashes)) IS NOT OLD.hashes OR NEW.level <> OLD.level OR NEW.tile <> OLD.tile
BEGIN SELECT RAISE(ABORT, 'tiles only grow'); END;
CREATE TRIGGER tiles_are_not_deleted BEFORE DELETE ON tiles BEGIN SELECT RAISE(ABORT, 'tiles are not deleted'); END;
