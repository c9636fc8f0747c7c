// Events: their data, appends, loads, folds, updates and snapshots.

package aethyr

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
)

const (
	loadManyMax = 1000
	updatesMax  = 10
)

// Messages of the API that occur in the methods of a client.
type (
	Event        = eventstorev1.RecordedEvent
	Snapshot     = eventstorev1.Snapshot
	Filter       = eventstorev1.Filter
	LoadRequest  = eventstorev1.LoadEventsRequest
	ReadRequest  = eventstorev1.ReadAllRequest
	ListRequest  = eventstorev1.ListAggregatesRequest
	Appended     = eventstorev1.AppendEventsResponse
	ProofRequest = eventstorev1.GetProofRequest
)

// NewEvent is an event to append.
type NewEvent struct {
	// AggregateType is required for the first event of an aggregate. Update fills in both.
	AggregateID, AggregateType string
	EventType                  string
	// Data is stored as JSON, except []byte, which is stored as it is. A json.RawMessage is stored byte
	// for byte. The event has no data if it is nil.
	Data any
	// EventID is a UUID. Append sets it if it is empty.
	EventID                    string
	CorrelationID, CausationID string
	Metadata                   map[string]string
	OccurredAt                 time.Time
}

// Decode reads the data of an Event or a Snapshot into the value that v points to, as json.Unmarshal does.
// If the data are bytes, v is a *[]byte. If there are none, v does not change.
func Decode(from interface {
	GetJson() string
	GetBinary() []byte
}, v any) error {
	if text := from.GetJson(); text != "" {
		return json.Unmarshal([]byte(text), v)
	}
	if binary := from.GetBinary(); binary != nil {
		target, ok := v.(*[]byte)
		if !ok {
			return fmt.Errorf("aethyr: the data are bytes, and not JSON for %T", v)
		}
		*target = slices.Clone(binary)
	}
	return nil
}

// Returns the data as JSON text or as bytes. Both are empty if there are none.
func encode(field string, data any) (text string, binary []byte, err error) {
	switch data := data.(type) {
	case nil:
		return "", nil, nil
	case []byte:
		return "", data, nil
	case json.RawMessage:
		return string(data), nil, nil
	}
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(data); err != nil {
		return "", nil, invalid(field, err.Error())
	}
	return strings.TrimSuffix(buffer.String(), "\n"), nil, nil
}

// Expect has the last sequence numbers that an append requires, by aggregate id: New if the aggregate must
// not exist. An aggregate that is not in it may have any.
type Expect map[string]uint64

// New is the sequence number of an aggregate that does not exist.
const New = 0

// Append stores the events, all or none. It sets the EventID of each event that has none: a caller that
// does not know the outcome appends the same slice again.
func (c *Client) Append(ctx context.Context, events []NewEvent, expect Expect) (*Appended, error) {
	request := &eventstorev1.AppendEventsRequest{ExpectedSequences: expect}
	for i := range events {
		e := &events[i]
		if e.EventID == "" {
			e.EventID = NewID()
		}
		message := &eventstorev1.NewEvent{
			EventId: e.EventID, AggregateId: e.AggregateID, AggregateType: e.AggregateType,
			EventType: e.EventType, CorrelationId: e.CorrelationID, CausationId: e.CausationID, Metadata: e.Metadata,
		}
		if !e.OccurredAt.IsZero() {
			message.OccurredAt = timestamppb.New(e.OccurredAt)
		}
		text, binary, err := encode(fmt.Sprintf("events[%d].data", i), e.Data)
		if err != nil {
			return nil, err
		}
		if message.Data = (&eventstorev1.NewEvent_Json{Json: text}); e.Data == nil {
			message.Data = nil
		} else if binary != nil {
			message.Data = &eventstorev1.NewEvent_Binary{Binary: binary}
		}
		request.Events = append(request.Events, message)
	}
	return c.AppendEvents(ctx, request)
}

// Aggregate is what a load returns.
type Aggregate struct {
	// Type is empty and LastSequence is 0 if the aggregate does not exist.
	ID, Type     string
	LastSequence uint64
	// Snapshot is the one that the events continue, or nil.
	Snapshot *Snapshot
	Events   []*Event

	begun, done bool
}

// Load returns the events of an aggregate. A stream that breaks is continued after the last event.
func (c *Client) Load(ctx context.Context, request *LoadRequest) (*Aggregate, error) {
	aggregate := &Aggregate{ID: request.AggregateId}
	return aggregate, stream(c.attempts(ctx), eventStore.LoadEvents, newStore,
		func() *LoadRequest { return aggregate.rest(request) },
		func(part *eventstorev1.LoadEventsResponse) error {
			aggregate.add(part.AggregateType, part.LastSequence, part.Snapshot, part.Events)
			return nil
		})
}

func (a *Aggregate) add(kind string, last uint64, snapshot *Snapshot, events []*Event) {
	if !a.begun {
		a.begun, a.Type, a.LastSequence = true, kind, last
	}
	if snapshot != nil {
		a.Snapshot = snapshot
	}
	a.Events = append(a.Events, events...)
}

// Returns the request for what has not arrived yet, or nil if everything has.
func (a *Aggregate) rest(all *LoadRequest) *LoadRequest {
	if !a.begun {
		return all
	}
	request := proto.CloneOf(all)
	request.FromSnapshot = false
	if count := uint64(len(a.Events)); all.Limit > 0 {
		if count >= all.Limit {
			return nil
		}
		request.Limit -= count
	}
	first, last := max(all.FromSequence, 1), a.LastSequence
	if all.ToSequence > 0 {
		last = min(last, all.ToSequence)
	}
	if a.Snapshot != nil {
		first = a.Snapshot.SequenceNumber + 1
	}
	if len(a.Events) > 0 {
		if newest := a.Events[len(a.Events)-1].SequenceNumber; all.Backwards {
			last = newest - 1
		} else {
			first = newest + 1
		}
	}
	if first > last {
		return nil
	}
	request.FromSequence, request.ToSequence = first, last
	return request
}

// LoadMany returns the events of several aggregates, in the order of the ids. options may be nil; it uses
// RecordedUntil, FromSnapshot and SnapshotSchemaVersion.
func (c *Client) LoadMany(ctx context.Context, ids []string, options *LoadRequest) ([]*Aggregate, error) {
	var loaded []*Aggregate
	for chunk := range slices.Chunk(ids, loadManyMax) {
		end := len(loaded) + len(chunk)
		rest := func() *eventstorev1.LoadManyEventsRequest {
			if count := len(loaded); count > 0 && !loaded[count-1].done {
				loaded = loaded[:count-1] // A request cannot begin in the middle of an aggregate.
			}
			if len(loaded) == end {
				return nil
			}
			return &eventstorev1.LoadManyEventsRequest{
				AggregateIds: ids[len(loaded):end], RecordedUntil: options.GetRecordedUntil(),
				FromSnapshot: options.GetFromSnapshot(), SnapshotSchemaVersion: options.GetSnapshotSchemaVersion(),
			}
		}
		err := stream(c.attempts(ctx), eventStore.LoadManyEvents, newStore, rest,
			func(part *eventstorev1.LoadManyEventsResponse) error {
				if count := len(loaded); count == 0 || loaded[count-1].done {
					loaded = append(loaded, &Aggregate{ID: part.AggregateId})
				}
				newest := loaded[len(loaded)-1]
				newest.add(part.AggregateType, part.LastSequence, part.Snapshot, part.Events)
				newest.done = part.Last
				return nil
			})
		if err != nil {
			return nil, err
		}
	}
	return loaded, nil
}

// Model says how the events of an aggregate become a state.
type Model[S any] struct {
	// Type is the type of new aggregates, for Update.
	Type string
	// Initial returns the state before the first event. Default: the zero value.
	Initial func() S
	// Apply changes the state by one event. Required.
	Apply func(state *S, event *Event) error
	// Snapshot returns what Update saves when a snapshot is due: the state, or its parts that JSON can
	// decode into a state. Loads start with a snapshot that has this SchemaVersion. If Snapshot is nil,
	// there are no snapshots.
	Snapshot      func(state S) any
	SchemaVersion uint32
}

// Fold loads an aggregate and returns its state and last sequence number.
func Fold[S any](
	ctx context.Context, c *Client, id string, model Model[S],
) (state S, last uint64, err error) {
	if model.Initial != nil {
		state = model.Initial()
	}
	loaded, err := c.Load(ctx, &LoadRequest{
		AggregateId: id, FromSnapshot: model.Snapshot != nil, SnapshotSchemaVersion: model.SchemaVersion,
	})
	if err != nil {
		return state, 0, err
	}
	if loaded.Snapshot != nil {
		if err := Decode(loaded.Snapshot, &state); err != nil {
			return state, 0, fmt.Errorf("aethyr: the snapshot of %s: %w", id, err)
		}
	}
	for _, event := range loaded.Events {
		if err := model.Apply(&state, event); err != nil {
			return state, 0, err
		}
	}
	return state, loaded.LastSequence, nil
}

// Update folds an aggregate and appends the events that decide returns. If another append came first, it
// folds and decides again, at most 10 times. Without events nothing is appended, and the response is
// empty. Events without an AggregateID belong to the aggregate.
func Update[S any](
	ctx context.Context, c *Client, id string, model Model[S],
	decide func(state S, last uint64) ([]NewEvent, error),
) (*Appended, error) {
	ctx, cancel := c.withDeadline(ctx)
	defer cancel()
	for tries := 1; ; tries++ {
		state, last, err := Fold(ctx, c, id, model)
		if err != nil {
			return nil, err
		}
		events, err := decide(state, last)
		if err != nil || len(events) == 0 {
			return &Appended{}, err
		}
		events = slices.Clone(events) // Its ids are those of this append only.
		for i := range events {
			e := &events[i]
			e.AggregateID = cmp.Or(e.AggregateID, id)
			if e.AggregateID == id {
				e.AggregateType = cmp.Or(e.AggregateType, model.Type)
			}
		}
		appended, err := c.Append(ctx, events, Expect{id: last})
		var conflict *WrongExpectedSequenceError
		if errors.As(err, &conflict) && tries < updatesMax {
			continue
		}
		due := func(a *eventstorev1.AppendedAggregate) bool { return a.AggregateId == id && a.SnapshotDue }
		if model.Snapshot != nil && slices.ContainsFunc(appended.GetAggregates(), due) {
			state, last, failure := Fold(ctx, c, id, model)
			if failure == nil {
				_, failure = c.SaveSnapshot(ctx, id, last, model.Snapshot(state), model.SchemaVersion)
			}
			if failure != nil { // The events are stored all the same.
				c.options.Logger.Warn("aethyr: a snapshot was not saved", "aggregate", id, "error", failure)
			}
		}
		return appended, err
	}
}

// SaveSnapshot saves a snapshot: the state of an aggregate after the event with this sequence number. The
// state is encoded like the Data of a NewEvent.
func (c *Client) SaveSnapshot(
	ctx context.Context, id string, sequence uint64, state any, schemaVersion uint32,
) (*eventstorev1.SaveSnapshotResponse, error) {
	text, binary, err := encode("data", state)
	if err != nil {
		return nil, err
	}
	request := &eventstorev1.SaveSnapshotRequest{
		AggregateId: id, SequenceNumber: sequence, SchemaVersion: schemaVersion,
	}
	if request.Data = (&eventstorev1.SaveSnapshotRequest_Json{Json: text}); binary != nil {
		request.Data = &eventstorev1.SaveSnapshotRequest_Binary{Binary: binary}
	}
	return c.eventStore.SaveSnapshot(ctx, request)
}
