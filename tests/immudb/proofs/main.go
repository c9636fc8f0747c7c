// Command proofs is a second opinion on the verification of ImmuDB. It writes transactions of every
// kind with ImmuDB's own client, and prints one JSON line for each thing that can be verified, with
// the hashes that ImmuDB's own code computes. Bytes are in hexadecimal.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"time"

	"github.com/codenotary/immudb/embedded/logger"
	"github.com/codenotary/immudb/embedded/store"
	"github.com/codenotary/immudb/pkg/api/protomodel"
	"github.com/codenotary/immudb/pkg/api/schema"
	"github.com/codenotary/immudb/pkg/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	usage = `usage: proofs --port N --database D COMMAND
  make-key KEY PUBLIC  writes a key for ImmuDB's --signingKey, and its public key, to these files
  create-version-0     creates the database with transactions of the oldest format
  write                transactions of 1 to 1024 entries, with plain values only
  write-kinds          entries with metadata, deletions, references, sorted sets, SQL, documents
  read                 prints the transactions, the entries, the state and the proofs`

	// The first byte of keys that are neither in sorted sets nor in tables.
	plainKey            = 0
	transactionsPerPage = 20
	answerBytesMax      = 1 << 30
	deadline            = 5 * time.Minute
	// Entries of each transaction that are read with a proof, and the largest value among them.
	entriesProven  = 3
	valueBytesMax  = 300
	largeValue     = 1 << 20
	ordinaryValues = 200
)

// Powers of two and their neighbours are where trees differ.
var sizes = []int{
	1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513,
	1023, 1024, 1, 1, 2,
}

// How many transactions before the other one the source of a proof is.
var distances = []uint64{0, 1, 2, 3, 7, 8, 16, 31}

type hexBytes []byte

func (h hexBytes) MarshalJSON() ([]byte, error) {
	return json.Marshal(hex.EncodeToString(h))
}

type header struct {
	ID           uint64   `json:"id"`
	PreviousHash hexBytes `json:"previous_hash"`
	Seconds      int64    `json:"seconds"`
	EntryCount   int32    `json:"entry_count"`
	EntriesHash  hexBytes `json:"entries_hash"`
	TreeTx       uint64   `json:"tree_tx"`
	TreeRoot     hexBytes `json:"tree_root"`
	Version      int32    `json:"version"`
	TruncatedTx  uint64   `json:"truncated_tx"`
	Extra        hexBytes `json:"extra"`
}

// An entry without its value. The key begins with the byte that tells its kind.
type entry struct {
	Key          hexBytes `json:"key"`
	Deleted      bool     `json:"deleted"`
	ExpiresAt    *int64   `json:"expires_at"`
	NonIndexable bool     `json:"non_indexable"`
	ValueHash    hexBytes `json:"value_hash"`
	Digest       hexBytes `json:"digest"`
}

type transactionLine struct {
	Kind    string   `json:"kind"`
	Header  header   `json:"header"`
	Alh     hexBytes `json:"alh"`
	Entries []entry  `json:"entries"`
}

// The proof that a plain entry is in its transaction.
type entryLine struct {
	Kind   string     `json:"kind"`
	Header header     `json:"header"`
	Alh    hexBytes   `json:"alh"`
	Key    hexBytes   `json:"key"`
	Value  hexBytes   `json:"value"`
	Leaf   int32      `json:"leaf"`
	Width  int32      `json:"width"`
	Terms  []hexBytes `json:"terms"`
}

type stateLine struct {
	Kind      string   `json:"kind"`
	Database  string   `json:"database"`
	Tx        uint64   `json:"tx"`
	Alh       hexBytes `json:"alh"`
	Signature hexBytes `json:"signature"`
}

type linear struct {
	Source uint64     `json:"source"`
	Target uint64     `json:"target"`
	Terms  []hexBytes `json:"terms"`
}

// The proof that one transaction continues another one, and the signed state after it.
type proofLine struct {
	Kind          string     `json:"kind"`
	Source        header     `json:"source"`
	SourceAlh     hexBytes   `json:"source_alh"`
	Target        header     `json:"target"`
	Inclusion     []hexBytes `json:"inclusion"`
	Consistency   []hexBytes `json:"consistency"`
	TargetTreeAlh hexBytes   `json:"target_tree_alh"`
	LastInclusion []hexBytes `json:"last_inclusion"`
	Linear        linear     `json:"linear"`
	// Its transaction is the target of the proof.
	State stateLine `json:"state"`
}

type program struct {
	port     int
	database string
	client   client.ImmuClient
	out      *json.Encoder
	random   *rand.Rand
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "proofs:", err)
		os.Exit(1)
	}
}

func run() error {
	port := flag.Int("port", 3322, "of ImmuDB on 127.0.0.1")
	database := flag.String("database", "", "to write to or to read")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, usage) }
	flag.Parse()
	if flag.Arg(0) == "make-key" && flag.NArg() == 3 {
		return makeKey(flag.Arg(1), flag.Arg(2))
	}

	// ImmuDB's client insists on keeping a file about what it saw.
	scratch, err := os.MkdirTemp("", "immudb-proofs")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)

	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	options := client.DefaultOptions().
		WithAddress("127.0.0.1").
		WithPort(*port).
		WithDir(scratch).
		WithMaxRecvMsgSize(answerBytesMax)
	immudb := client.NewClient().WithOptions(options).WithLogger(logger.NewMemoryLogger())
	in := *database
	if flag.Arg(0) == "create-version-0" {
		in = "defaultdb"
	}
	if err := immudb.OpenSession(ctx, []byte("immudb"), []byte("immudb"), in); err != nil {
		return fmt.Errorf("opening %s: %w", in, err)
	}
	defer immudb.CloseSession(ctx)

	out := bufio.NewWriter(os.Stdout)
	p := &program{*port, *database, immudb, json.NewEncoder(out), rand.New(rand.NewSource(1))}
	if err := p.do(ctx, flag.Arg(0)); err != nil {
		return err
	}
	return out.Flush()
}

func (p *program) do(ctx context.Context, command string) error {
	switch command {
	case "create-version-0":
		_, err := p.client.CreateDatabaseV2(ctx, p.database, &schema.DatabaseNullableSettings{
			WriteTxHeaderVersion: &schema.NullableUint32{Value: 0},
		})
		return err
	case "write":
		return p.write(ctx)
	case "write-kinds":
		return p.writeKinds(ctx)
	case "read":
		return p.read(ctx)
	default:
		return errors.New("what?\n" + usage)
	}
}

func makeKey(path, publicPath string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
	if err := os.WriteFile(path, block, 0o600); err != nil {
		return err
	}
	block = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return os.WriteFile(publicPath, block, 0o644)
}

func (p *program) write(ctx context.Context) error {
	for number, size := range sizes {
		request := &schema.SetRequest{}
		for n := 0; n < size; n++ {
			key := fmt.Sprintf("key:%d:%d", number, n)
			// One in seven is empty.
			value := p.value(p.random.Intn(ordinaryValues) * min(1, n%7))
			request.KVs = append(request.KVs, &schema.KeyValue{Key: []byte(key), Value: value})
		}
		if _, err := p.client.SetAll(ctx, request); err != nil {
			return fmt.Errorf("%d entries: %w", size, err)
		}
	}
	_, err := p.client.Set(ctx, []byte("large"), p.value(largeValue))
	return err
}

func (p *program) value(size int) []byte {
	value := make([]byte, size)
	p.random.Read(value)
	return value
}

func (p *program) writeKinds(ctx context.Context) error {
	tomorrow := time.Now().Add(24 * time.Hour)
	soon := &schema.KVMetadata{Expiration: &schema.Expiration{ExpiresAt: tomorrow.Unix()}, NonIndexable: true}
	mixed := &schema.SetRequest{KVs: []*schema.KeyValue{
		{Key: []byte("mixed:plain"), Value: []byte("plain")},
		{Key: []byte("mixed:hidden"), Value: []byte("hidden"), Metadata: &schema.KVMetadata{NonIndexable: true}},
		{Key: []byte("mixed:soon"), Value: []byte{}, Metadata: soon},
	}}
	all := &schema.ExecAllRequest{Operations: []*schema.Op{
		{Operation: &schema.Op_Kv{Kv: &schema.KeyValue{Key: []byte("all:key"), Value: []byte("value")}}},
		{Operation: &schema.Op_Ref{Ref: &schema.ReferenceRequest{
			Key: []byte("all:reference"), ReferencedKey: []byte("all:key"),
		}}},
		{Operation: &schema.Op_ZAdd{ZAdd: &schema.ZAddRequest{
			Set: []byte("all:set"), Score: -1.5, Key: []byte("all:key"),
		}}},
	}}
	steps := []func() error{
		func() error { _, err := p.client.Set(ctx, []byte("kinds:a"), []byte("a")); return err },
		func() error { _, err := p.client.Set(ctx, []byte("kinds:b"), []byte{}); return err },
		func() error {
			_, err := p.client.ExpirableSet(ctx, []byte("kinds:expiring"), []byte("value"), tomorrow)
			return err
		},
		func() error { _, err := p.client.SetAll(ctx, mixed); return err },
		func() error {
			_, err := p.client.SetReference(ctx, []byte("kinds:reference"), []byte("mixed:plain"))
			return err
		},
		func() error { _, err := p.client.ZAdd(ctx, []byte("kinds:set"), 2.5, []byte("kinds:a")); return err },
		func() error { _, err := p.client.ExecAll(ctx, all); return err },
		func() error {
			keys := &schema.DeleteKeysRequest{Keys: [][]byte{[]byte("kinds:a"), []byte("kinds:b")}}
			_, err := p.client.Delete(ctx, keys)
			return err
		},
		func() error {
			table := "CREATE TABLE swords (id INTEGER, name VARCHAR, PRIMARY KEY id);"
			_, err := p.client.SQLExec(ctx, table, nil)
			return err
		},
		func() error {
			row := "INSERT INTO swords (id, name) VALUES (1, 'Glamdring');"
			_, err := p.client.SQLExec(ctx, row, nil)
			return err
		},
		func() error { return p.writeDocument(ctx) },
	}
	for number, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", number, err)
		}
	}
	return nil
}

// ImmuDB's client has no documents, so this takes its session.
func (p *program) writeDocument(ctx context.Context) error {
	credentials := grpc.WithTransportCredentials(insecure.NewCredentials())
	connection, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", p.port), credentials)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "sessionid", p.client.GetSessionID())
	documents := protomodel.NewDocumentServiceClient(connection)
	_, err = documents.CreateCollection(ctx, &protomodel.CreateCollectionRequest{
		Name:   "shields",
		Fields: []*protomodel.Field{{Name: "name", Type: protomodel.FieldType_STRING}},
	})
	if err != nil {
		return err
	}
	shield := &structpb.Struct{Fields: map[string]*structpb.Value{"name": structpb.NewStringValue("Svalinn")}}
	_, err = documents.InsertDocuments(ctx, &protomodel.InsertDocumentsRequest{
		CollectionName: "shields",
		Documents:      []*structpb.Struct{shield},
	})
	return err
}

func (p *program) read(ctx context.Context) error {
	state, err := p.client.CurrentState(ctx)
	if err != nil {
		return err
	}
	last, err := p.transactions(ctx)
	if err != nil {
		return err
	}
	if last != state.TxId {
		return fmt.Errorf("read %d transactions, but there are %d", last, state.TxId)
	}
	for tx := uint64(1); tx <= last; tx++ {
		for _, distance := range append(distances, tx-1) {
			if distance >= tx {
				continue
			}
			if err := p.proof(ctx, tx, tx-distance); err != nil {
				return fmt.Errorf("proof of %d since %d: %w", tx, tx-distance, err)
			}
		}
	}
	// The later one is the state that a client has.
	if err := p.proof(ctx, 1, last); err != nil {
		return err
	}
	return p.out.Encode(stateOf(state))
}

// Without a specification, entries of all kinds are answered with their digests.
func (p *program) transactions(ctx context.Context) (uint64, error) {
	request := &schema.TxScanRequest{InitialTx: 1, Limit: transactionsPerPage, SinceTx: 1}
	for {
		page, err := p.client.TxScan(ctx, request)
		if err != nil {
			return 0, err
		}
		if len(page.Txs) == 0 {
			return request.InitialTx - 1, nil
		}
		for _, tx := range page.Txs {
			if err := p.transaction(ctx, tx); err != nil {
				return 0, fmt.Errorf("transaction %d: %w", tx.Header.Id, err)
			}
			request.InitialTx = tx.Header.Id + 1
		}
	}
}

func (p *program) transaction(ctx context.Context, tx *schema.Tx) error {
	computed := schema.TxFromProto(tx)
	hashed := computed.Header()
	if !bytes.Equal(hashed.Eh[:], tx.Header.EH) {
		return errors.New("ImmuDB's own code computes another hash of the entries")
	}
	digestOf, err := hashed.TxEntryDigest()
	if err != nil {
		return err
	}
	line := transactionLine{Kind: "transaction", Header: headerOf(tx.Header), Alh: alhOf(tx.Header)}
	for n, e := range computed.Entries() {
		digest, err := digestOf(e)
		if err != nil {
			return err
		}
		line.Entries = append(line.Entries, entryOf(tx.Entries[n], digest))
	}
	if err := p.out.Encode(line); err != nil {
		return err
	}
	return p.entries(ctx, tx)
}

// The first, the last and one in the middle.
func (p *program) entries(ctx context.Context, tx *schema.Tx) error {
	count := len(tx.Entries)
	proven := map[int]bool{}
	for n := 0; n < entriesProven; n++ {
		proven[n*(count-1)/(entriesProven-1)] = true
	}
	for n, e := range tx.Entries {
		isPlain := e.Key[0] == plainKey && e.Metadata.GetExpiration() == nil &&
			!e.Metadata.GetDeleted() && !e.Metadata.GetNonIndexable()
		if !proven[n] || !isPlain || e.VLen > valueBytesMax {
			continue
		}
		key := e.Key[1:]
		found, err := p.client.VerifiableGet(ctx, &schema.VerifiableGetRequest{
			KeyRequest: &schema.KeyRequest{Key: key, AtTx: tx.Header.Id},
		})
		if err != nil {
			return fmt.Errorf("entry %q: %w", key, err)
		}
		if found.Entry.ReferencedBy != nil {
			continue
		}
		line := entryLine{
			Kind:   "entry",
			Header: headerOf(found.VerifiableTx.Tx.Header),
			Alh:    alhOf(found.VerifiableTx.Tx.Header),
			Key:    found.Entry.Key,
			Value:  found.Entry.Value,
			Leaf:   found.InclusionProof.Leaf,
			Width:  found.InclusionProof.Width,
			Terms:  hashes(found.InclusionProof.Terms),
		}
		if err := p.out.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) proof(ctx context.Context, tx, since uint64) error {
	found, err := p.client.GetServiceClient().VerifiableTxById(ctx, &schema.VerifiableTxRequest{
		Tx: tx, ProveSinceTx: since, KeepReferencesUnresolved: true,
	})
	if err != nil {
		return err
	}
	proof := found.DualProof
	source, target := proof.SourceTxHeader, proof.TargetTxHeader
	sourceAlh := schema.TxHeaderFromProto(source).Alh()
	targetAlh := schema.TxHeaderFromProto(target).Alh()
	own := schema.DualProofFromProto(proof)
	if !store.VerifyDualProof(own, source.Id, target.Id, sourceAlh, targetAlh) {
		return errors.New("ImmuDB's own code rejects it")
	}
	return p.out.Encode(proofLine{
		Kind:          "proof",
		Source:        headerOf(source),
		SourceAlh:     sourceAlh[:],
		Target:        headerOf(target),
		Inclusion:     hashes(proof.InclusionProof),
		Consistency:   hashes(proof.ConsistencyProof),
		TargetTreeAlh: proof.TargetBlTxAlh,
		LastInclusion: hashes(proof.LastInclusionProof),
		Linear: linear{
			Source: proof.LinearProof.SourceTxId,
			Target: proof.LinearProof.TargetTxId,
			Terms:  hashes(proof.LinearProof.Terms),
		},
		State: stateLine{"state", p.database, target.Id, targetAlh[:], found.Signature.GetSignature()},
	})
}

func stateOf(state *schema.ImmutableState) stateLine {
	return stateLine{"state", state.Db, state.TxId, state.TxHash, state.Signature.GetSignature()}
}

func headerOf(h *schema.TxHeader) header {
	return header{
		ID:           h.Id,
		PreviousHash: h.PrevAlh,
		Seconds:      h.Ts,
		EntryCount:   h.Nentries,
		EntriesHash:  h.EH,
		TreeTx:       h.BlTxId,
		TreeRoot:     h.BlRoot,
		Version:      h.Version,
		TruncatedTx:  h.Metadata.GetTruncatedTxID(),
		Extra:        h.Metadata.GetExtra(),
	}
}

func alhOf(h *schema.TxHeader) []byte {
	alh := schema.TxHeaderFromProto(h).Alh()
	return alh[:]
}

func entryOf(e *schema.TxEntry, digest [sha256.Size]byte) entry {
	line := entry{
		Key:          e.Key,
		Deleted:      e.Metadata.GetDeleted(),
		NonIndexable: e.Metadata.GetNonIndexable(),
		ValueHash:    e.HValue,
		Digest:       digest[:],
	}
	if expiration := e.Metadata.GetExpiration(); expiration != nil {
		line.ExpiresAt = &expiration.ExpiresAt
	}
	return line
}

func hashes(terms [][]byte) []hexBytes {
	all := make([]hexBytes, len(terms))
	for n, term := range terms {
		all[n] = term
	}
	return all
}
