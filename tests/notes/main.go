// Command notes is a second opinion on trees, proofs and signed notes, with the packages that Go's
// checksum database uses. `make` prints some of each for the tests to verify, one JSON object per
// line. `check` reads such lines from standard input and prints one verdict for each. `verify`
// reads whole files in the format c2sp.org/tlog-proof@v1, each with the data of its leaf in
// hexadecimal digits, and prints one verdict for each.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const usage = `usage: notes make SEED
       notes check < LINES
       notes verify VERIFIER_KEY [FILE LEAF_DATA]...`

// A line has the fields of its kind.
type line struct {
	Kind string `json:"kind"`

	// Kind "tree", "inclusion", "consistency": a tree whose leaf n is the decimal number n.
	Size    int64       `json:"size,omitempty"`
	Root    tlog.Hash   `json:"root,omitzero"`
	Index   int64       `json:"index,omitempty"`
	OldSize int64       `json:"old_size,omitempty"`
	OldRoot tlog.Hash   `json:"old_root,omitzero"`
	Leaf    tlog.Hash   `json:"leaf,omitzero"`
	Proof   []tlog.Hash `json:"proof,omitempty"`

	// Kind "note", and "tlog-proof" with the leaf above.
	Verifier string `json:"verifier,omitempty"`
	Text     string `json:"text,omitempty"`
	File     string `json:"file,omitempty"`
	Extra    []byte `json:"extra,omitempty"`

	// Only in lines that are made: the private key, and the witness with the time of its
	// cosignature.
	Signer     string `json:"signer,omitempty"`
	Witness    string `json:"witness,omitempty"`
	CosignedAt uint64 `json:"cosigned_at,omitempty"`
}

type verdict struct {
	Accepted bool   `json:"accepted"`
	Why      string `json:"why,omitempty"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "notes:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	out := bufio.NewWriter(os.Stdout)
	lines := json.NewEncoder(out)
	switch {
	case len(args) == 2 && args[0] == "make":
		seed, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil {
			return err
		}
		if err := makeAll(seed, func(made line) error { return lines.Encode(made) }); err != nil {
			return err
		}
	case len(args) == 1 && args[0] == "check":
		if err := checkAll(os.Stdin, lines); err != nil {
			return err
		}
	case len(args)%2 == 0 && len(args) >= 2 && args[0] == "verify":
		if err := verifyAll(args[1], args[2:], lines); err != nil {
			return err
		}
	default:
		return errors.New("unknown command\n" + usage)
	}
	return out.Flush()
}

func verifyAll(key string, pairs []string, verdicts *json.Encoder) error {
	for ; len(pairs) >= 2; pairs = pairs[2:] {
		text, err := os.ReadFile(pairs[0])
		if err != nil {
			return err
		}
		data, err := hex.DecodeString(pairs[1])
		if err != nil {
			return err
		}
		if err := verdicts.Encode(verdictOf(verifyFile(key, string(text), data))); err != nil {
			return err
		}
	}
	return nil
}

func checkAll(in io.Reader, verdicts *json.Encoder) error {
	lines := json.NewDecoder(in)
	for {
		var sent line
		err := lines.Decode(&sent)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := verdicts.Encode(verdictOf(check(sent))); err != nil {
			return err
		}
	}
}

func verdictOf(err error) verdict {
	if err != nil {
		return verdict{Why: err.Error()}
	}
	return verdict{Accepted: true}
}

func check(sent line) error {
	switch sent.Kind {
	case "inclusion":
		return tlog.CheckRecord(sent.Proof, sent.Size, sent.Root, sent.Index, sent.Leaf)
	case "consistency":
		return tlog.CheckTree(sent.Proof, sent.Size, sent.Root, sent.OldSize, sent.OldRoot)
	case "note":
		opened, err := open(sent.Verifier, sent.File)
		if err == nil && opened != sent.Text {
			err = errors.New("the note has another text")
		}
		return err
	case "tlog-proof":
		return checkProofFile(sent)
	default:
		return fmt.Errorf("unknown kind %q", sent.Kind)
	}
}

// Returns the text of a note that is signed with the key.
func open(key, signed string) (string, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return "", err
	}
	opened, err := note.Open([]byte(signed), note.VerifierList(verifier))
	if err != nil {
		return "", err
	}
	return opened.Text, nil
}
