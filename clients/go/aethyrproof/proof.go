// Package aethyrproof verifies proof files, c2sp.org/tlog-proof@v1, without the service.
package aethyrproof

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
	"github.com/aethyr/event-store/clients/go/storagev1"
)

// Proof is what a verified proof says.
type Proof struct {
	// Position of the event in the total order.
	Position uint64
	// ChainHash of the event.
	ChainHash []byte
	// Event is nil if the proof has no record.
	Event *eventstorev1.RecordedEvent
	// Origin, Size and Root are those of the checkpoint, which the key has signed.
	Origin string
	Size   uint64
	Root   []byte
}

// Verify verifies that an event is in the tree of a checkpoint that the verifier key
// (`NAME+ID+KEY`, from a place that you trust) has signed. chainHash is that of the event, from an answer
// that you kept; it may be nil if the proof has the record. Cosignatures and ImmuDB's part are not
// examined: `aethyr-event-store verify-proof` does that.
func Verify(file, verifierKey string, chainHash []byte) (*Proof, error) {
	proof, err := verify(file, verifierKey, chainHash)
	if err != nil {
		return nil, fmt.Errorf("aethyr: the proof is not valid: %w", err)
	}
	return proof, nil
}

var (
	proofForm = regexp.MustCompile(`(?s)\Ac2sp\.org/tlog-proof@v1\n(?:extra (\S+)\n)?index (0|[1-9]\d*)\n` +
		`((?:\S{44}\n)*)\n(.*)\z`)
	checkpointForm = regexp.MustCompile(`\A(\S+)\n([1-9]\d*)\n(\S{44})\n`)
)

func verify(file, verifierKey string, chainHash []byte) (*Proof, error) {
	parts := proofForm.FindStringSubmatch(file)
	if parts == nil {
		return nil, errors.New("the file is not a c2sp.org/tlog-proof@v1")
	}
	proof := &Proof{ChainHash: chainHash}
	extra, err := base64.StdEncoding.Strict().DecodeString(parts[1])
	if err == nil {
		err = proof.readExtra(extra)
	}
	if err != nil {
		return nil, err
	}
	if len(proof.ChainHash) != sha256.Size {
		return nil, errors.New("the proof has no record, so the chain hash of the event (32 bytes) is required")
	}
	index, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return nil, err
	}
	var inclusion tlog.RecordProof
	for line := range strings.Lines(parts[3]) {
		hash, err := tlog.ParseHash(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, err
		}
		inclusion = append(inclusion, hash)
	}
	tree, err := proof.openCheckpoint(parts[4], verifierKey)
	if err != nil {
		return nil, err
	}
	leaf := tlog.RecordHash(proof.ChainHash)
	if err := tlog.CheckRecord(inclusion, tree.N, tree.Hash, index, leaf); err != nil {
		return nil, err
	}
	proof.Position = uint64(index) + 1
	if proof.Event != nil && proof.Event.Position != proof.Position {
		return nil, errors.New("the record has another position")
	}
	return proof, nil
}

// Reads the record, and the chain hash before it.
func (p *Proof) readExtra(encoded []byte) error {
	extra := &storagev1.ProofExtra{}
	if err := proto.Unmarshal(encoded, extra); err != nil {
		return err
	}
	record, previous := extra.Record, extra.PreviousHash
	if len(record) == 0 {
		return nil
	}
	if len(previous) != sha256.Size {
		return errors.New("the previous chain hash does not have 32 bytes")
	}
	hash := sha256.Sum256(append(bytes.Clone(previous), record...))
	if p.ChainHash != nil && !bytes.Equal(p.ChainHash, hash[:]) {
		return errors.New("the record does not have the expected chain hash")
	}
	// A record has the fields of an event, and others.
	event := &eventstorev1.RecordedEvent{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(record, event); err != nil {
		return err
	}
	event.ChainHash = hash[:]
	p.ChainHash, p.Event = hash[:], event
	return nil
}

// Checks the signature, and reads the checkpoint.
func (p *Proof) openCheckpoint(signed, verifierKey string) (tree tlog.Tree, err error) {
	verifier, err := note.NewVerifier(verifierKey)
	if err != nil {
		return tree, err
	}
	opened, err := note.Open([]byte(signed), note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	parts := checkpointForm.FindStringSubmatch(opened.Text)
	if parts == nil || parts[1] != verifier.Name() {
		return tree, errors.New("the checkpoint is that of another log")
	}
	if tree.N, err = strconv.ParseInt(parts[2], 10, 64); err != nil {
		return tree, err
	}
	if tree.Hash, err = tlog.ParseHash(parts[3]); err != nil {
		return tree, err
	}
	p.Origin, p.Size, p.Root = parts[1], uint64(tree.N), tree.Hash[:]
	return tree, nil
}
