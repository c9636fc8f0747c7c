package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// All proofs are made for the sizes up to the first number, and some for those up to the second
	// one and for random sizes up to the third one.
	eachSizeMax   = 64
	someSizeMax   = 300
	randomSizeMax = 100_000
	proofsOfSize  = 12
	randomSizes   = 40

	logName     = "log.example/notes"
	witnessName = "witness.example/w1"
	// The type of cosignatures in key ids and verifier keys, c2sp.org/signed-note.
	cosignatureV1 = 0x04
)

// The stored hashes of a tree whose leaf n is the decimal number n.
type tree []tlog.Hash

func (t tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = t[index]
	}
	return hashes, nil
}

func leafData(index int64) []byte {
	return []byte(strconv.FormatInt(index, 10))
}

func grow(size int64) (grown tree, err error) {
	for n := int64(0); n < size; n++ {
		hashes, err := tlog.StoredHashes(n, leafData(n), grown)
		if err != nil {
			return nil, err
		}
		grown = append(grown, hashes...)
	}
	return grown, nil
}

type maker struct {
	random *mathrand.Rand
	tree   tree
	print  func(line) error
}

func makeAll(seed uint64, print func(line) error) error {
	grown, err := grow(randomSizeMax)
	if err != nil {
		return err
	}
	made := maker{mathrand.New(mathrand.NewPCG(seed, 0)), grown, print}
	if err := made.proofs(); err != nil {
		return err
	}
	return made.notes()
}

func (m maker) proofs() error {
	for size := int64(0); size <= someSizeMax; size++ {
		if err := m.proofsFor(size); err != nil {
			return err
		}
	}
	for range randomSizes {
		if err := m.proofsFor(1 + m.random.Int64N(randomSizeMax)); err != nil {
			return err
		}
	}
	return nil
}

func (m maker) proofsFor(size int64) error {
	root, err := tlog.TreeHash(size, m.tree)
	if err != nil {
		return err
	}
	if err := m.print(line{Kind: "tree", Size: size, Root: root}); err != nil {
		return err
	}
	for _, index := range m.indexes(size) {
		proof, err := tlog.ProveRecord(size, index, m.tree)
		if err != nil {
			return err
		}
		leaf := tlog.RecordHash(leafData(index))
		made := line{Kind: "inclusion", Size: size, Root: root, Index: index, Leaf: leaf, Proof: proof}
		if err := m.print(made); err != nil {
			return err
		}
		oldSize := index + 1
		oldRoot, err := tlog.TreeHash(oldSize, m.tree)
		if err != nil {
			return err
		}
		continued, err := tlog.ProveTree(size, oldSize, m.tree)
		if err != nil {
			return err
		}
		made = line{
			Kind: "consistency", Size: size, Root: root, OldSize: oldSize, OldRoot: oldRoot, Proof: continued,
		}
		if err := m.print(made); err != nil {
			return err
		}
	}
	return nil
}

// Returns all indexes of a small tree, and of a larger one the first, the last and random ones.
func (m maker) indexes(size int64) (indexes []int64) {
	if size <= eachSizeMax {
		for index := range size {
			indexes = append(indexes, index)
		}
		return indexes
	}
	indexes = append(indexes, 0, size-1)
	for range proofsOfSize {
		indexes = append(indexes, m.random.Int64N(size))
	}
	return indexes
}

// A key that cosigns checkpoints as of c2sp.org/tlog-cosignature, for which the package `note` has
// no type.
type witness struct {
	key ed25519.PrivateKey
	at  uint64
}

func (w witness) publicKey() []byte {
	return append([]byte{cosignatureV1}, w.key.Public().(ed25519.PublicKey)...)
}

func (w witness) Name() string { return witnessName }

func (w witness) KeyHash() uint32 {
	sum := sha256.Sum256(append([]byte(witnessName+"\n"), w.publicKey()...))
	return binary.BigEndian.Uint32(sum[:])
}

func (w witness) Sign(text []byte) ([]byte, error) {
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", w.at, text)
	signature := ed25519.Sign(w.key, []byte(message))
	return append(binary.BigEndian.AppendUint64(nil, w.at), signature...), nil
}

func (w witness) verifierKey() string {
	return fmt.Sprintf("%s+%08x+%s", witnessName, w.KeyHash(), base64.StdEncoding.EncodeToString(w.publicKey()))
}

func (m maker) notes() error {
	private, public, err := note.GenerateKey(rand.Reader, logName)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return err
	}
	_, cosigning, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	cosigner := witness{cosigning, 1_700_000_000 + m.random.Uint64N(1_000_000_000)}

	texts := []string{"\n", "a\n", "a\n\nb\n", "\n\n\n", "— a b\n", "é\u00a0\u2028+\u007f\n"}
	for range proofsOfSize {
		tree, err := m.randomTree()
		if err != nil {
			return err
		}
		text := formatCheckpoint(logName, tree)
		texts = append(texts, text)
		signed, err := note.Sign(&note.Note{Text: text}, signer, cosigner)
		if err != nil {
			return err
		}
		if err := m.proofFile(tree, string(signed), public, cosigner); err != nil {
			return err
		}
	}
	for _, text := range texts {
		signed, err := note.Sign(&note.Note{Text: text}, signer, cosigner)
		if err != nil {
			return err
		}
		made := line{
			Kind: "note", Verifier: public, Signer: private, Witness: cosigner.verifierKey(), CosignedAt: cosigner.at,
			Text: text, File: string(signed),
		}
		if err := m.print(made); err != nil {
			return err
		}
	}
	return nil
}

func (m maker) randomTree() (tree tlog.Tree, err error) {
	tree.N = 1 + m.random.Int64N(randomSizeMax)
	tree.Hash, err = tlog.TreeHash(tree.N, m.tree)
	return tree, err
}

func (m maker) proofFile(tree tlog.Tree, signed, public string, cosigner witness) error {
	index := m.random.Int64N(tree.N)
	proof, err := tlog.ProveRecord(tree.N, index, m.tree)
	if err != nil {
		return err
	}
	extra := make([]byte, m.random.IntN(100))
	for i := range extra {
		extra[i] = byte(m.random.Uint32())
	}
	leaf := tlog.RecordHash(leafData(index))
	file := proofFile{extra: extra, index: index, inclusion: proof, checkpoint: signed}
	made := line{
		Kind: "tlog-proof", Verifier: public, Witness: cosigner.verifierKey(), CosignedAt: cosigner.at,
		Size: tree.N, Root: tree.Hash, Index: index, Leaf: leaf, Extra: extra, File: file.String(),
	}
	if err := checkProofFile(made); err != nil {
		return err
	}
	return m.print(made)
}
