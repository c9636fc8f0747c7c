package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const firstLine = "c2sp.org/tlog-proof@v1\n"

// A file in the format c2sp.org/tlog-proof@v1.
type proofFile struct {
	extra      []byte
	index      int64
	inclusion  []tlog.Hash
	checkpoint string
}

func (f proofFile) String() string {
	var text strings.Builder
	text.WriteString(firstLine)
	if len(f.extra) > 0 {
		fmt.Fprintf(&text, "extra %s\n", base64.StdEncoding.EncodeToString(f.extra))
	}
	fmt.Fprintf(&text, "index %d\n", f.index)
	for _, hash := range f.inclusion {
		fmt.Fprintln(&text, hash)
	}
	return text.String() + "\n" + f.checkpoint
}

func parseProofFile(text string) (file proofFile, err error) {
	head, checkpoint, found := strings.Cut(text, "\n\n")
	if !found {
		return file, errors.New("no checkpoint")
	}
	file.checkpoint = checkpoint
	rest, found := strings.CutPrefix(head+"\n", firstLine)
	if !found {
		return file, errors.New("another first line")
	}
	lines := strings.Split(strings.TrimSuffix(rest, "\n"), "\n")
	if extra, found := strings.CutPrefix(lines[0], "extra "); found {
		if file.extra, err = base64.StdEncoding.Strict().DecodeString(extra); err != nil {
			return file, err
		}
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return file, errors.New("no index")
	}
	number, found := strings.CutPrefix(lines[0], "index ")
	if !found {
		return file, errors.New("no index")
	}
	if file.index, err = strconv.ParseInt(number, 10, 64); err != nil {
		return file, err
	}
	for _, text := range lines[1:] {
		hash, err := tlog.ParseHash(text)
		if err != nil {
			return file, err
		}
		file.inclusion = append(file.inclusion, hash)
	}
	return file, nil
}

// A checkpoint in the format c2sp.org/tlog-checkpoint.
func formatCheckpoint(origin string, tree tlog.Tree) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, tree.N, tree.Hash)
}

func parseCheckpoint(text string) (origin string, tree tlog.Tree, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 {
		return "", tree, errors.New("no checkpoint")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return "", tree, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return lines[0], tree, err
}

// Checks that the file has the expected extra data, and that it proves the leaf.
func checkProofFile(sent line) error {
	file, err := parseProofFile(sent.File)
	if err != nil {
		return err
	}
	if !bytes.Equal(file.extra, sent.Extra) {
		return errors.New("other extra data")
	}
	return file.prove(sent.Verifier, sent.Leaf)
}

// Checks that the file proves the leaf with this data. The extra data may be any.
func verifyFile(key, text string, data []byte) error {
	file, err := parseProofFile(text)
	if err != nil {
		return err
	}
	return file.prove(key, tlog.RecordHash(data))
}

// Checks that the leaf is in the tree of the checkpoint, and that the checkpoint is signed with the
// key.
func (f proofFile) prove(key string, leaf tlog.Hash) error {
	text, err := open(key, f.checkpoint)
	if err != nil {
		return err
	}
	origin, tree, err := parseCheckpoint(text)
	if err != nil {
		return err
	}
	if name, _, _ := strings.Cut(key, "+"); origin != name {
		return errors.New("a checkpoint of another log")
	}
	return tlog.CheckRecord(f.inclusion, tree.N, tree.Hash, f.index, leaf)
}
