// Checks a log of Ostiary with the packages that check Go's own: golang.org/x/mod/sumdb/note and tlog.
//
// The folder has what the server answered, by C2SP's paths: checkpoint, older (an older checkpoint), tile/..., and
// receipt, whose proofs the server made itself. Prints what was checked, or the first thing that is wrong.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// checkpoint opens a signed note and reads the tree in it.
func checkpoint(signed []byte, verifier note.Verifier) tlog.Tree {
	opened := must(note.Open(signed, note.VerifierList(verifier)))
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() || lines[3] != "" {
		log.Fatalf("no checkpoint of %s: %q", verifier.Name(), opened.Text)
	}
	return tlog.Tree{
		N:    must(strconv.ParseInt(lines[1], 10, 64)),
		Hash: must(tlog.ParseHash(lines[2])),
	}
}

// folder reads tiles as the server served them. Go puts the tile's height into the path, C2SP does not.
type folder string

func (f folder) Height() int { return 8 }

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(string(f), path))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// entries reads all records from their bundles.
func (f folder) entries(size int64) [][]byte {
	var all [][]byte
	for n := int64(0); n*256 < size; n++ {
		tile := tlog.Tile{H: 8, L: -1, N: n, W: int(min(256, size-n*256))}
		path := strings.Replace(tile.Path(), "tile/8/data/", "tile/entries/", 1)
		data := must(os.ReadFile(filepath.Join(string(f), path)))
		for len(data) > 0 {
			length := binary.BigEndian.Uint16(data)
			all = append(all, data[2:2+length])
			data = data[2+length:]
		}
	}
	return all
}

// receipt checks the proofs that the server made, and returns how many.
func receipt(data []byte, verifier note.Verifier) int {
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))[1:]
	for at := 0; at+1 < len(lines); at += 2 {
		var line struct{ Record json.RawMessage }
		var proof struct{ Proof string }
		if err := json.Unmarshal(lines[at], &line); err != nil {
			log.Fatal(err)
		}
		if err := json.Unmarshal(lines[at+1], &proof); err != nil {
			log.Fatal(err)
		}
		head, signed, _ := strings.Cut(proof.Proof, "\n\n")
		hashes := strings.Split(head, "\n")
		if hashes[0] != "c2sp.org/tlog-proof@v1" {
			log.Fatalf("no tlog-proof: %q", hashes[0])
		}
		index := must(strconv.ParseInt(strings.TrimPrefix(hashes[1], "index "), 10, 64))
		var path tlog.RecordProof
		for _, hash := range hashes[2:] {
			path = append(path, tlog.Hash(must(base64.StdEncoding.DecodeString(hash))))
		}
		tree := checkpoint([]byte(signed), verifier)
		if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(line.Record)); err != nil {
			log.Fatalf("the receipt's record %d: %v", index, err)
		}
	}
	return len(lines) / 2
}

func main() {
	log.SetFlags(0)
	dir, verifier := folder(os.Args[1]), must(note.NewVerifier(os.Args[2]))
	read := func(name string) []byte { return must(os.ReadFile(filepath.Join(string(dir), name))) }
	tree, older := checkpoint(read("checkpoint"), verifier), checkpoint(read("older"), verifier)

	// Checks every tile that it reads against the tree's root.
	hashes := tlog.TileHashReader(tree, dir)
	entries := dir.entries(tree.N)
	if int64(len(entries)) != tree.N {
		log.Fatalf("%d records, but %d are signed", len(entries), tree.N)
	}
	for index, entry := range entries {
		proof := must(tlog.ProveRecord(tree.N, int64(index), hashes))
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, int64(index), tlog.RecordHash(entry)); err != nil {
			log.Fatalf("record %d: %v", index, err)
		}
	}
	proof := must(tlog.ProveTree(tree.N, older.N, hashes))
	if err := tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash); err != nil {
		log.Fatalf("from %d to %d: %v", older.N, tree.N, err)
	}
	proven := receipt(read("receipt"), verifier)
	fmt.Printf("%d records, continuing %d, %d proofs of the server's own\n", tree.N, older.N, proven)
}
