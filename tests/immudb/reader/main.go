// Command reader looks into an ImmuDB with ImmuDB's own client: a second opinion on what the
// service wrote, and, with `set` and `delete`, another writer. It prints one JSON line per entry.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/codenotary/immudb/embedded/logger"
	"github.com/codenotary/immudb/pkg/api/schema"
	"github.com/codenotary/immudb/pkg/client"
)

const (
	usage = `usage: reader --port N --database D [--user U] [--password P] COMMAND
  scan PREFIX      every key with the prefix and its newest value, in the order of keys
  get KEY          the newest value; nothing if there is none
  txscan           the entries of every transaction, in the order of commits
  set KEY VALUE    writes, whatever was there
  delete KEY
  settings         of the database
  make-replica     the database takes no writes any more
  drop-database    the name can be used again after a restart
  unload-database  its files can be exchanged
  load-database
  change-password NEW  of the user, for the logins to come`

	// Small pages, since a value may have many megabytes.
	keysPerPage         = 200
	transactionsPerPage = 20
	answerBytesMax      = 1 << 30
	deadline            = 2 * time.Minute
)

// The line that is printed for an entry.
type entry struct {
	Key     string `json:"key"`
	Value   []byte `json:"value_base64"`
	Tx      uint64 `json:"tx"`
	Deleted bool   `json:"deleted,omitempty"`
}

type reader struct {
	client         client.ImmuClient
	out            *json.Encoder
	user, password string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		os.Exit(1)
	}
}

func run() error {
	port := flag.Int("port", 3322, "of ImmuDB on 127.0.0.1")
	database := flag.String("database", "", "to look into")
	user := flag.String("user", "immudb", "")
	password := flag.String("password", "immudb", "")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, usage) }
	flag.Parse()

	// ImmuDB's client insists on keeping a file about what it saw.
	scratch, err := os.MkdirTemp("", "immudb-reader")
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
	if strings.HasSuffix(flag.Arg(0), "-database") || flag.Arg(0) == "change-password" {
		in = "defaultdb"
	}
	if err := immudb.OpenSession(ctx, []byte(*user), []byte(*password), in); err != nil {
		return fmt.Errorf("opening %s: %w", in, err)
	}
	defer immudb.CloseSession(ctx)

	out := bufio.NewWriter(os.Stdout)
	if err := (&reader{immudb, json.NewEncoder(out), *user, *password}).do(ctx, flag.Args(), *database); err != nil {
		return err
	}
	return out.Flush()
}

func (r *reader) do(ctx context.Context, args []string, database string) error {
	command := strings.Join(args[:min(1, len(args))], "")
	switch {
	case command == "scan" && len(args) == 2:
		return r.scan(ctx, args[1])
	case command == "get" && len(args) == 2:
		return r.get(ctx, args[1])
	case command == "txscan" && len(args) == 1:
		return r.transactions(ctx)
	case command == "set" && len(args) == 3:
		header, err := r.client.Set(ctx, []byte(args[1]), []byte(args[2]))
		if err != nil {
			return err
		}
		return r.out.Encode(entry{Key: args[1], Value: []byte(args[2]), Tx: header.Id})
	case command == "delete" && len(args) == 2:
		keys := &schema.DeleteKeysRequest{Keys: [][]byte{[]byte(args[1])}}
		header, err := r.client.Delete(ctx, keys)
		if err != nil {
			return err
		}
		return r.out.Encode(entry{Key: args[1], Tx: header.Id, Deleted: true})
	case command == "settings" && len(args) == 1:
		found, err := r.client.GetDatabaseSettingsV2(ctx)
		if err != nil {
			return err
		}
		return r.out.Encode(found.Settings)
	case command == "make-replica" && len(args) == 1:
		_, err := r.client.UpdateDatabaseV2(ctx, database, &schema.DatabaseNullableSettings{
			ReplicationSettings: &schema.ReplicationNullableSettings{
				Replica:         &schema.NullableBool{Value: true},
				PrimaryDatabase: &schema.NullableString{Value: database},
				PrimaryHost:     &schema.NullableString{Value: "127.0.0.1"},
				PrimaryPort:     &schema.NullableUint32{Value: 1},
				PrimaryUsername: &schema.NullableString{Value: "immudb"},
				PrimaryPassword: &schema.NullableString{Value: "immudb"},
			},
		})
		return err
	case command == "drop-database" && len(args) == 1:
		unload := &schema.UnloadDatabaseRequest{Database: database}
		if _, err := r.client.UnloadDatabase(ctx, unload); err != nil {
			return err
		}
		_, err := r.client.DeleteDatabase(ctx, &schema.DeleteDatabaseRequest{Database: database})
		return err
	case command == "unload-database" && len(args) == 1:
		_, err := r.client.UnloadDatabase(ctx, &schema.UnloadDatabaseRequest{Database: database})
		return err
	case command == "load-database" && len(args) == 1:
		_, err := r.client.LoadDatabase(ctx, &schema.LoadDatabaseRequest{Database: database})
		return err
	case command == "change-password" && len(args) == 2:
		return r.client.ChangePassword(ctx, []byte(r.user), []byte(r.password), []byte(args[1]))
	default:
		return errors.New("what?\n" + usage)
	}
}

// A page may be shorter than its limit, so only an empty one is the end.
func (r *reader) scan(ctx context.Context, prefix string) error {
	request := &schema.ScanRequest{Prefix: []byte(prefix), Limit: keysPerPage}
	for {
		page, err := r.client.Scan(ctx, request)
		if err != nil {
			return err
		}
		if len(page.Entries) == 0 {
			return nil
		}
		for _, e := range page.Entries {
			if err := r.out.Encode(entry{Key: string(e.Key), Value: e.Value, Tx: e.Tx}); err != nil {
				return err
			}
			request.SeekKey = e.Key
		}
	}
}

func (r *reader) get(ctx context.Context, key string) error {
	found, err := r.client.Get(ctx, []byte(key))
	if err != nil && strings.Contains(err.Error(), "key not found") {
		return nil
	}
	if err != nil {
		return err
	}
	return r.out.Encode(entry{Key: key, Value: found.Value, Tx: found.Tx})
}

// Keys and values are stored with a byte before them that tells their kind; 0 is the plain one.
func (r *reader) transactions(ctx context.Context) error {
	request := &schema.TxScanRequest{
		InitialTx: 1,
		Limit:     transactionsPerPage,
		EntriesSpec: &schema.EntriesSpec{
			KvEntriesSpec: &schema.EntryTypeSpec{Action: schema.EntryTypeAction_RAW_VALUE},
		},
	}
	for {
		page, err := r.client.TxScan(ctx, request)
		if err != nil {
			return err
		}
		if len(page.Txs) == 0 {
			return nil
		}
		for _, tx := range page.Txs {
			for _, e := range tx.Entries {
				line := entry{Key: string(e.Key[1:]), Tx: tx.Header.Id, Deleted: e.Metadata.GetDeleted()}
				if len(e.Value) > 0 {
					line.Value = e.Value[1:]
				}
				if err := r.out.Encode(line); err != nil {
					return err
				}
			}
			request.InitialTx = tx.Header.Id + 1
		}
	}
}
