// Events: their data, appends, loads, folds, updates and snapshots.

package aethyr

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
)

const (
	appendMax   = 500
	executeMax  = 100
	loadManyMax = 1000
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
// If there are none, v does not change. GetBinary returns data that are bytes.
func Decode(from interface{ GetJson() string }, v any) error {
	if from.GetJson() == "" {
		return nil
	}
	return json.Unmarshal([]byte(from.GetJson()), v)
}

// Returns an event with this data.
func encode(field string, data any) (*eventstorev1.NewEvent, error) {
	event := &eventstorev1.NewEvent{}
	switch data := data.(type) {
	case nil:
	case []byte:
		event.Data = &eventstorev1.NewEvent_Binary{Binary: data}
	case json.RawMessage:
		event.Data = &eventstorev1.NewEvent_Json{Json: string(data)}
	default:
		var buffer strings.Builder
		encoder := json.NewEncoder(&buffer)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(data); err != nil {
			return nil, invalid(field, err.Error())
		}
		event.Data = &eventstorev1.NewEvent_Json{Json: strings.TrimSuffix(buffer.String(), "\n")}
	}
	return event, nil
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
		message, err := encode(fmt.Sprintf("events[%d].data", i), e.Data)
		if err != nil {
			return nil, err
		}
		e.EventID = cmp.Or(e.EventID, NewID())
		message.EventId, message.AggregateId, message.AggregateType = e.EventID, e.AggregateID, e.AggregateType
		message.EventType, message.Metadata = e.EventType, e.Metadata
		message.CorrelationId, message.CausationId = e.CorrelationID, e.CausationID
		if !e.OccurredAt.IsZero() {
			message.OccurredAt = timestamppb.New(e.OccurredAt)
		}
		request.Events = append(request.Events, message)
	}
	return c.AppendEvents(ctx, request)
}

// AppendMany appends more events than one call can have, in several calls of at most so many (0: 500).
// All events get their ids, and this correlation id, before the first call. If a call fails, those before
// it are stored: the same slice again goes on there.
func (c *Client) AppendMany(
	ctx context.Context, events []NewEvent, correlationID string, most int) (answers []*Appended, err error) {
	for i := range events {
		events[i].EventID = cmp.Or(events[i].EventID, NewID())
		events[i].CorrelationID = cmp.Or(events[i].CorrelationID, correlationID)
	}
	for call := range slices.Chunk(events, cmp.Or(most, appendMax)) {
		answer, err := c.Append(ctx, call, nil)
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// Aggregate is what a load returns.
type Aggregate struct {
	// Type is empty and LastSequence is 0 if the aggregate does not exist.
	ID, Type     string
	LastSequence uint64
	// Snapshot is the one that the events continue, or nil.
	Snapshot *Snapshot
	Events   []*Event
}

// Load returns the events of an aggregate. A stream that breaks is continued after the last event.
func (c *Client) Load(ctx context.Context, request *LoadRequest) (*Aggregate, error) {
	aggregate := &Aggregate{ID: request.AggregateId}
	rest := func() *LoadRequest { return aggregate.rest(request) }
	for part, err := range stream(c.attempts(ctx, false), rest, c.eventStore.LoadEvents) {
		if err != nil {
			return nil, err
		}
		aggregate.add(part.AggregateType, part.LastSequence, part.Snapshot, part.Events)
	}
	return aggregate, nil
}

// Adds a message of LoadEvents or LoadManyEvents.
func (a *Aggregate) add(kind string, last uint64, snapshot *Snapshot, events []*Event) {
	a.Type, a.LastSequence, a.Snapshot = kind, last, cmp.Or(snapshot, a.Snapshot)
	a.Events = append(a.Events, events...)
}

// Returns the request for what has not arrived yet, or nil if everything has.
func (a *Aggregate) rest(all *LoadRequest) *LoadRequest {
	reached, count := a.Snapshot.GetSequenceNumber(), uint64(len(a.Events))
	if count > 0 {
		reached = a.Events[count-1].SequenceNumber
	}
	if reached == 0 || all.Backwards && count == 0 {
		return all
	}
	request := proto.CloneOf(all)
	done := all.Limit > 0 && count >= all.Limit
	if request.FromSnapshot = false; all.Limit > 0 {
		request.Limit -= min(count, all.Limit)
	}
	if all.Backwards {
		request.ToSequence = reached - 1
		done = done || request.ToSequence < max(all.FromSequence, 1)
	} else {
		request.FromSequence = reached + 1
		done = done || all.ToSequence > 0 && reached >= all.ToSequence
	}
	if done {
		return nil
	}
	return request
}

// LoadMany returns the events of several aggregates, in the order of the ids. options may be nil; it uses
// RecordedUntil, FromSnapshot and SnapshotSchemaVersion.
func (c *Client) LoadMany(ctx context.Context, ids []string, options *LoadRequest) ([]*Aggregate, error) {
	ctx, cancel := context.WithDeadline(ctx, c.attempts(ctx, false).until)
	defer cancel()
	var loaded []*Aggregate
	complete := true
	for chunk := range slices.Chunk(ids, loadManyMax) {
		end := len(loaded) + len(chunk)
		rest := func() *eventstorev1.LoadManyEventsRequest {
			if !complete {
				loaded = loaded[:len(loaded)-1] // A request cannot begin in the middle of an aggregate.
			}
			if complete = true; len(loaded) == end {
				return nil
			}
			return &eventstorev1.LoadManyEventsRequest{
				AggregateIds: ids[len(loaded):end], RecordedUntil: options.GetRecordedUntil(),
				FromSnapshot: options.GetFromSnapshot(), SnapshotSchemaVersion: options.GetSnapshotSchemaVersion(),
			}
		}
		for part, err := range stream(c.attempts(ctx, false), rest, c.eventStore.LoadManyEvents) {
			if err != nil {
				return nil, err
			}
			if complete {
				loaded = append(loaded, &Aggregate{ID: part.AggregateId})
			}
			loaded[len(loaded)-1].add(part.AggregateType, part.LastSequence, part.Snapshot, part.Events)
			complete = part.Last
		}
	}
	return loaded, nil
}

// SaveSnapshot saves a snapshot: the state of an aggregate after the event with this sequence number. The
// state is encoded like the Data of a NewEvent.
func (c *Client) SaveSnapshot(
	ctx context.Context, id string, sequence uint64, state any, schemaVersion uint32,
) (*eventstorev1.SaveSnapshotResponse, error) {
	encoded, err := encode("data", state)
	if err != nil {
		return nil, err
	}
	request := &eventstorev1.SaveSnapshotRequest{
		AggregateId: id, SequenceNumber: sequence, SchemaVersion: schemaVersion,
	}
	switch data := encoded.Data.(type) {
	case *eventstorev1.NewEvent_Json:
		request.Data = &eventstorev1.SaveSnapshotRequest_Json{Json: data.Json}
	case *eventstorev1.NewEvent_Binary:
		request.Data = &eventstorev1.SaveSnapshotRequest_Binary{Binary: data.Binary}
	}
	return c.eventStore.SaveSnapshot(ctx, request)
}
