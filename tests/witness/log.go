package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The type of cosignatures in verifier keys, c2sp.org/signed-note.
const cosignatureV1 = 0x04

// The sizes of the checkpoints. Each continues the one before.
var sizes = []int64{1, 2, 3, 3, 7, 8, 64, 65, 300}

// The stored hashes of a tree whose leaf n is the decimal number n.
type tree []tlog.Hash

func (t tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = t[index]
	}
	return hashes, nil
}

func grow(size int64) (grown tree, err error) {
	for n := range size {
		hashes, err := tlog.StoredHashes(n, []byte(strconv.FormatInt(n, 10)), grown)
		if err != nil {
			return nil, err
		}
		grown = append(grown, hashes...)
	}
	return grown, nil
}

// A key of a witness. It verifies cosignatures as c2sp.org/tlog-cosignature has them.
type witnessKey struct {
	name string
	id   uint32
	key  ed25519.PublicKey
}

func parseWitnessKey(text string) (parsed witnessKey, err error) {
	parts := strings.SplitN(text, "+", 3)
	if len(parts) != 3 {
		return parsed, errors.New("not a verifier key")
	}
	id, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return parsed, err
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return parsed, err
	}
	if len(key) != 1+ed25519.PublicKeySize || key[0] != cosignatureV1 {
		return parsed, errors.New("not the key of a witness")
	}
	return witnessKey{parts[0], uint32(id), key[1:]}, nil
}

func (w witnessKey) Name() string    { return w.name }
func (w witnessKey) KeyHash() uint32 { return w.id }

func (w witnessKey) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	seconds := binary.BigEndian.Uint64(signature)
	age := math.Abs(time.Since(time.Unix(int64(seconds), 0)).Hours())
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", seconds, text)
	return age < 1 && ed25519.Verify(w.key, []byte(message), signature[8:])
}

// A log and its witness.
type pair struct {
	url     string
	signer  note.Signer
	witness witnessKey
	tree    tree
}

func playLog(url, private, public string) error {
	signer, err := note.NewSigner(private)
	if err != nil {
		return err
	}
	witness, err := parseWitnessKey(public)
	if err != nil {
		return err
	}
	grown, err := grow(sizes[len(sizes)-1] + 10)
	if err != nil {
		return err
	}
	played := pair{url, signer, witness, grown}
	old := int64(0)
	for _, size := range sizes {
		if err := played.cosigned(old, size); err != nil {
			return fmt.Errorf("from %d to %d: %w", old, size, err)
		}
		old = size
	}
	return played.refused(old)
}

func (p pair) checkpoint(origin string, size int64, root tlog.Hash) (text, signed string, err error) {
	text = fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)
	bytes, err := note.Sign(&note.Note{Text: text}, p.signer)
	return text, string(bytes), err
}

func (p pair) prove(old, size int64) (root tlog.Hash, proof tlog.TreeProof, err error) {
	if root, err = tlog.TreeHash(size, p.tree); err != nil || old == 0 {
		return root, nil, err
	}
	proof, err = tlog.ProveTree(size, old, p.tree)
	return root, proof, err
}

func (p pair) post(old int64, proof tlog.TreeProof, signed string) (*http.Response, string, error) {
	body := fmt.Sprintf("old %d\n", old)
	for _, hash := range proof {
		body += hash.String() + "\n"
	}
	response, err := http.Post(p.url+"/add-checkpoint", "", strings.NewReader(body+"\n"+signed))
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response, string(answer), err
}

// Has a checkpoint cosigned, and verifies the answer.
func (p pair) cosigned(old, size int64) error {
	root, proof, err := p.prove(old, size)
	if err != nil {
		return err
	}
	text, signed, err := p.checkpoint(p.signer.Name(), size, root)
	if err != nil {
		return err
	}
	response, answer, err := p.post(old, proof, signed)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", response.StatusCode, answer)
	}
	_, err = note.Open([]byte(text+"\n"+answer), note.VerifierList(p.witness))
	return err
}

// Sends what a witness must refuse, when its newest checkpoint has the size.
func (p pair) refused(size int64) error {
	next := size + 10
	root, proof, err := p.prove(size, next)
	if err != nil {
		return err
	}
	_, right, err := p.checkpoint(p.signer.Name(), next, root)
	if err != nil {
		return err
	}
	_, forged, err := p.checkpoint(p.signer.Name(), next, tlog.RecordHash([]byte("another history")))
	if err != nil {
		return err
	}
	_, unknown, err := p.checkpoint("another.example/log", next, root)
	if err != nil {
		return err
	}
	unsigned := strings.Replace(right, fmt.Sprintf("\n%d\n", next), fmt.Sprintf("\n%d\n", next+1), 1)
	for _, refused := range []struct {
		what   string
		old    int64
		proof  tlog.TreeProof
		signed string
		status int
	}{
		{"another history", size, proof, forged, http.StatusUnprocessableEntity},
		{"a short proof", size, proof[1:], right, http.StatusUnprocessableEntity},
		{"an unknown log", size, proof, unknown, http.StatusNotFound},
		{"a changed checkpoint", size, proof, unsigned, http.StatusForbidden},
		{"an old size above the size", next + 1, proof, right, http.StatusBadRequest},
		{"no checkpoint", size, proof, "", http.StatusBadRequest},
		{"another old size", size - 1, proof, right, http.StatusConflict},
	} {
		response, answer, err := p.post(refused.old, refused.proof, refused.signed)
		if err != nil {
			return err
		}
		if response.StatusCode != refused.status {
			return fmt.Errorf("%s: status %d: %s", refused.what, response.StatusCode, answer)
		}
		if refused.status != http.StatusConflict {
			continue
		}
		kind := response.Header.Get("Content-Type")
		if kind != "text/x.tlog.size" || answer != fmt.Sprintf("%d\n", size) {
			return fmt.Errorf("the answer to another size is %q, of the type %s", answer, kind)
		}
	}
	return nil
}
