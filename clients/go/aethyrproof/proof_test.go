// Tests of the verification of proofs, with proofs that the tests make.

package aethyrproof

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
	"github.com/aethyr/event-store/clients/go/storagev1"
)

// A log with some events, and the proofs of them.
type madeLog struct {
	hashes  []tlog.Hash
	records [][]byte
	chain   [][]byte
	key     string
	signed  string
}

func (l *madeLog) ReadHashes(indexes []int64) (hashes []tlog.Hash, err error) {
	for _, index := range indexes {
		hashes = append(hashes, l.hashes[index])
	}
	return hashes, nil
}

func makeLog(t *testing.T, size int64) *madeLog {
	t.Helper()
	l := &madeLog{chain: [][]byte{make([]byte, sha256.Size)}}
	for n := range size {
		record, err := proto.Marshal(&eventstorev1.RecordedEvent{EventType: "Counted", Position: uint64(n) + 1})
		must(t, err)
		hash := sha256.Sum256(append(bytes.Clone(l.chain[n]), record...))
		l.records, l.chain = append(l.records, record), append(l.chain, hash[:])
		stored, err := tlog.StoredHashes(n, hash[:], l)
		must(t, err)
		l.hashes = append(l.hashes, stored...)
	}
	root, err := tlog.TreeHash(size, l)
	must(t, err)
	private, public, err := note.GenerateKey(rand.Reader, "log.example/test")
	must(t, err)
	signer, err := note.NewSigner(private)
	must(t, err)
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("log.example/test\n%d\n%v\n", size, root)}, signer)
	must(t, err)
	l.key, l.signed = public, string(signed)
	return l
}

func (l *madeLog) proof(t *testing.T, index int64, withRecord bool) string {
	t.Helper()
	hashes, err := tlog.ProveRecord(int64(len(l.records)), index, l)
	must(t, err)
	text := "c2sp.org/tlog-proof@v1\n"
	if withRecord {
		extra, err := proto.Marshal(&storagev1.ProofExtra{Record: l.records[index], PreviousHash: l.chain[index]})
		must(t, err)
		text += "extra " + base64.StdEncoding.EncodeToString(extra) + "\n"
	}
	text += fmt.Sprintf("index %d\n", index)
	for _, hash := range hashes {
		text += hash.String() + "\n"
	}
	return text + "\n" + l.signed
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestProofsAreVerified(t *testing.T) {
	l := makeLog(t, 7)
	for index := range int64(7) {
		for _, withRecord := range []bool{true, false} {
			verified, err := Verify(l.proof(t, index, withRecord), l.key, l.chain[index+1])
			must(t, err)
			if verified.Position != uint64(index)+1 || verified.Size != 7 || (verified.Event != nil) != withRecord {
				t.Errorf("%+v", verified)
			}
		}
	}
	verified, err := Verify(l.proof(t, 3, true), l.key, nil)
	must(t, err)
	if verified.Event.EventType != "Counted" || !bytes.Equal(verified.ChainHash, l.chain[4]) {
		t.Errorf("%+v", verified)
	}
}

func TestWrongProofsAreRefused(t *testing.T) {
	l, other := makeLog(t, 7), makeLog(t, 7)
	proof := l.proof(t, 3, true)
	if _, err := Verify(proof, other.key, nil); err == nil {
		t.Error("another key is accepted")
	}
	if _, err := Verify(proof, l.key, l.chain[1]); err == nil {
		t.Error("another chain hash is accepted")
	}
	if _, err := Verify(l.proof(t, 3, false), l.key, l.chain[1]); err == nil {
		t.Error("another chain hash is accepted without the record")
	}
	if _, err := Verify(l.proof(t, 3, false), l.key, nil); err == nil {
		t.Error("no chain hash is accepted without the record")
	}
	if _, err := Verify(strings.Replace(proof, "index 3", "index 2", 1), l.key, nil); err == nil {
		t.Error("another index is accepted")
	}
	// Bytes after the signed text that the format ignores are the only ones that may change.
	body := strings.Index(proof, "\n— ")
	for at := range body {
		changed := []byte(proof)
		changed[at] ^= 1
		if _, err := Verify(string(changed), l.key, nil); err == nil {
			t.Errorf("a change at %d is accepted: %q", at, changed[max(0, at-10):at+10])
		}
	}
}
