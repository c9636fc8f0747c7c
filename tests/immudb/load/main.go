// Command load drives an ImmuDB with ImmuDB's own client in the plainest way: a key for each event.
// It prints one JSON line with what it did.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/codenotary/immudb/embedded/logger"
	"github.com/codenotary/immudb/pkg/api/schema"
	"github.com/codenotary/immudb/pkg/client"
)

const (
	payloadBytes = 256
	idBytes      = 36
	// ImmuDB's limit for one answer.
	page = 2500
	// More of each would make answers of many megabytes.
	transactions   = 1000
	answerBytesMax = 1 << 30
)

type options struct {
	port, callers, events, inFlight, aggregates int
	database, prefix                            string
	conditional                                 bool
	seconds, warmUp, pace                       float64
}

// The line that is printed.
type result struct {
	Calls      uint64  `json:"calls"`
	Events     uint64  `json:"events"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// Nanoseconds: all of them, in order.
	Latencies []int64 `json:"latencies"`
}

type load struct {
	options
	client  client.ImmuClient
	permits chan struct{}
	events  atomic.Uint64
	payload []byte
	lastTx  uint64
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	flag.IntVar(&o.port, "port", 3322, "of ImmuDB on 127.0.0.1")
	flag.StringVar(&o.database, "database", "defaultdb", "to use; it must exist")
	flag.StringVar(&o.prefix, "prefix", "room", "of the aggregates' ids")
	flag.IntVar(&o.callers, "callers", 1, "calls at the same time")
	flag.IntVar(&o.events, "events", 1, "in each append, or of the aggregate that is loaded")
	flag.IntVar(&o.inFlight, "in-flight", 30, "calls that ImmuDB is given at the same time")
	flag.IntVar(&o.aggregates, "aggregates", 10000, "in all")
	flag.BoolVar(&o.conditional, "conditional", false, "append only if the event's key is not there yet")
	flag.Float64Var(&o.seconds, "seconds", 1, "to go on for")
	flag.Float64Var(&o.warmUp, "warm-up", 0, "seconds before anything counts")
	flag.Float64Var(&o.pace, "pace", 0, "appends a second; 0: as fast as it goes")
	flag.Parse()

	scratch, err := os.MkdirTemp("", "immudb-load")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)

	ctx := context.Background()
	settings := client.DefaultOptions().
		WithAddress("127.0.0.1").
		WithPort(o.port).
		WithDir(scratch).
		WithMaxRecvMsgSize(answerBytesMax)
	immudb := client.NewClient().WithOptions(settings).WithLogger(logger.NewMemoryLogger())
	if err := immudb.OpenSession(ctx, []byte("immudb"), []byte("immudb"), o.database); err != nil {
		return fmt.Errorf("opening %s: %w", o.database, err)
	}
	defer immudb.CloseSession(ctx)

	random := rand.New(rand.NewSource(1))
	l := &load{options: o, client: immudb, permits: make(chan struct{}, o.inFlight), payload: make([]byte, 1<<20)}
	random.Read(l.payload)
	var r *result
	switch flag.Arg(0) {
	case "append":
		r, err = l.run(ctx, l.append)
	case "load":
		state, stateErr := immudb.CurrentState(ctx)
		if stateErr != nil {
			return stateErr
		}
		l.lastTx = state.TxId
		r, err = l.run(ctx, l.loadAggregate)
	case "fill":
		r, err = l.fill(ctx)
	case "read-all":
		r, err = l.run(ctx, l.readAll)
	case "count-keys":
		r, err = l.countKeys(ctx)
	default:
		err = errors.New("append, load, fill, read-all or count-keys?")
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// A caller, its share of the aggregates, and how many events each has.
type caller struct {
	number, next int
	sequences    []int
	random       *rand.Rand
}

func (l *load) newCaller(number int) *caller {
	share := max(1, (l.aggregates-number+l.callers-1)/l.callers)
	return &caller{number: number, sequences: make([]int, share), random: rand.New(rand.NewSource(int64(number)))}
}

// Runs all callers: in a closed loop, or each call when it is due.
func (l *load) run(ctx context.Context, call func(context.Context, *caller) (int, error)) (*result, error) {
	var (
		group    sync.WaitGroup
		lock     sync.Mutex
		failure  error
		all      []int64
		begin    = time.Now()
		counted  = begin.Add(time.Duration(l.warmUp * float64(time.Second)))
		end      = counted.Add(time.Duration(l.seconds * float64(time.Second)))
		calls    atomic.Uint64
		paced    atomic.Uint64
		cpuStart float64
	)
	time.AfterFunc(time.Until(counted), func() { lock.Lock(); cpuStart = cpuSeconds(); lock.Unlock() })
	for number := 0; number < l.callers; number++ {
		group.Add(1)
		go func() {
			defer group.Done()
			c, latencies := l.newCaller(number), []int64{}
			for {
				due := time.Now()
				if l.pace > 0 {
					index := paced.Add(1) - 1
					due = begin.Add(time.Duration(float64(index) / l.pace * float64(time.Second)))
					time.Sleep(time.Until(due))
				}
				if !due.Before(end) {
					break
				}
				events, err := call(ctx, c)
				if err != nil {
					lock.Lock()
					failure = errors.Join(failure, err)
					lock.Unlock()
					break
				}
				if !due.Before(counted) {
					latencies = append(latencies, int64(time.Since(due)))
					l.events.Add(uint64(events))
					calls.Add(1)
				}
			}
			lock.Lock()
			all = append(all, latencies...)
			lock.Unlock()
		}()
	}
	group.Wait()
	took := time.Since(counted)
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return &result{calls.Load(), l.events.Load(), took.Seconds(), cpuSeconds() - cpuStart, all}, failure
}

func (l *load) append(ctx context.Context, c *caller) (int, error) {
	at := c.next
	c.next = (at + 1) % len(c.sequences)
	aggregate := fmt.Sprintf("%s-%06d", l.prefix, c.number+at*l.callers)
	request := l.request(aggregate, c.sequences[at]+1, l.options.events, c.random)
	c.sequences[at] += l.options.events
	return l.options.events, l.set(ctx, request)
}

func (l *load) request(aggregate string, first, events int, random *rand.Rand) *schema.SetRequest {
	request := &schema.SetRequest{}
	for n := first; n < first+events; n++ {
		key := []byte(fmt.Sprintf("event:%s:%020d", aggregate, n))
		value := make([]byte, idBytes+payloadBytes)
		random.Read(value[:idBytes])
		start := random.Intn(len(l.payload) - payloadBytes)
		copy(value[idBytes:], l.payload[start:])
		request.KVs = append(request.KVs, &schema.KeyValue{Key: key, Value: value})
		if l.conditional {
			request.Preconditions = append(request.Preconditions, schema.PreconditionKeyMustNotExist(key))
		}
	}
	return request
}

func (l *load) set(ctx context.Context, request *schema.SetRequest) error {
	l.permits <- struct{}{}
	defer func() { <-l.permits }()
	_, err := l.client.SetAll(ctx, request)
	return err
}

// Writes aggregates with this number of events. Each event has a Set of its own; those of large
// aggregates are in Sets of a hundred.
func (l *load) fill(ctx context.Context) (*result, error) {
	begin := time.Now()
	single := 1
	if l.options.events > 10000 {
		single = 100
	}
	var group sync.WaitGroup
	var lock sync.Mutex
	var failure error
	work := make(chan *schema.SetRequest, 100)
	for range l.inFlight {
		group.Add(1)
		go func() {
			defer group.Done()
			for request := range work {
				if err := l.set(ctx, request); err != nil {
					lock.Lock()
					failure = errors.Join(failure, err)
					lock.Unlock()
				}
				l.events.Add(uint64(len(request.KVs)))
			}
		}()
	}
	random := rand.New(rand.NewSource(2))
	for n := 1; n <= l.options.events; n += single {
		for aggregate := range l.aggregates {
			work <- l.request(fmt.Sprintf("%s-%06d", l.prefix, aggregate), n, single, random)
		}
	}
	close(work)
	group.Wait()
	return &result{Events: l.events.Load(), Seconds: time.Since(begin).Seconds()}, failure
}

// Pages by prefix; only an empty or short page is the end.
func (l *load) loadAggregate(ctx context.Context, c *caller) (int, error) {
	aggregate := fmt.Sprintf("%s-%06d", l.prefix, (c.number+c.next*l.callers)%l.aggregates)
	c.next++
	found := 0
	// Nothing is written meanwhile: a snapshot of the index as of the last transaction is taken once.
	request := &schema.ScanRequest{Prefix: []byte("event:" + aggregate + ":"), Limit: page, SinceTx: l.lastTx}
	for {
		entries, err := l.client.Scan(ctx, request)
		if err != nil {
			return 0, err
		}
		found += len(entries.Entries)
		if len(entries.Entries) < page {
			break
		}
		request.SeekKey = entries.Entries[len(entries.Entries)-1].Key
	}
	if found != l.options.events {
		return 0, fmt.Errorf("%s has %d events, not %d", aggregate, found, l.options.events)
	}
	return found, nil
}

// The whole order is the order of transactions.
func (l *load) readAll(ctx context.Context, _ *caller) (int, error) {
	found := 0
	err := l.eachTransaction(ctx, schema.EntryTypeAction_RAW_VALUE, func(tx *schema.Tx) {
		for _, e := range tx.Entries {
			if strings.HasPrefix(string(e.Key[1:]), "event:") {
				found++
			}
		}
	})
	return found, err
}

func (l *load) countKeys(ctx context.Context) (*result, error) {
	begin, keys := time.Now(), 0
	err := l.eachTransaction(ctx, schema.EntryTypeAction_ONLY_DIGEST, func(tx *schema.Tx) { keys += int(tx.Header.Nentries) })
	return &result{Events: uint64(keys), Seconds: time.Since(begin).Seconds()}, err
}

func (l *load) eachTransaction(ctx context.Context, action schema.EntryTypeAction, each func(*schema.Tx)) error {
	request := &schema.TxScanRequest{
		InitialTx:   1,
		Limit:       transactions,
		SinceTx:     1,
		EntriesSpec: &schema.EntriesSpec{KvEntriesSpec: &schema.EntryTypeSpec{Action: action}},
	}
	for {
		page, err := l.client.TxScan(ctx, request)
		if err != nil {
			return err
		}
		if len(page.Txs) == 0 {
			return nil
		}
		for _, tx := range page.Txs {
			each(tx)
			request.InitialTx = tx.Header.Id + 1
		}
	}
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
