// The total order and the world: lists, reads, subscriptions with their checkpoints, and commands.

package aethyr

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
	"github.com/aethyr/event-store/clients/go/worldv1"
)

// GetHistory returns the events of an object of the world with what each changed, by whom and why.
func (c *Client) GetHistory(
	ctx context.Context, request *worldv1.GetHistoryRequest,
) iter.Seq2[*worldv1.HistoryEntry, error] {
	return func(yield func(*worldv1.HistoryEntry, error) bool) {
		request, a := proto.CloneOf(request), c.attempts(ctx, true)
		rest := func() *worldv1.GetHistoryRequest {
			if request.ToSequence > 0 && request.FromSequence > request.ToSequence {
				return nil
			}
			return request
		}
		for part, err := range stream(a, rest, c.WorldServiceClient.GetHistory) {
			if err != nil {
				yield(nil, err)
			}
			for _, entry := range part.GetEntries() {
				if request.FromSequence = entry.SequenceNumber + 1; !pass(a, yield, entry) {
					return
				}
			}
		}
	}
}

// Execute executes commands of the world in order, all or none: messages such as *worldv1.CreateRoom, or
// a *worldv1.Command, whose CommandId and Actor are set if they are empty. A caller that does not know the
// outcome executes the same *worldv1.Command again. expected has last sequence numbers by id, or is nil.
func (c *Client) Execute(
	ctx context.Context, actor string, expected map[string]uint64, commands ...proto.Message,
) (*worldv1.ExecuteCommandsResponse, error) {
	request := &worldv1.ExecuteCommandsRequest{ExpectedSequences: expected}
	for i, message := range commands {
		command, ok := message.(*worldv1.Command)
		if !ok {
			command = &worldv1.Command{}
			name, wrapped := message.ProtoReflect().Descriptor().FullName(), command.ProtoReflect()
			fields := wrapped.Descriptor().Oneofs().ByName("command").Fields()
			for i := range fields.Len() {
				if field := fields.Get(i); field.Message().FullName() == name {
					proto.Merge(wrapped.Mutable(field).Message().Interface(), message)
				}
			}
			if command.Command == nil {
				return nil, invalid(fmt.Sprintf("commands[%d]", i), string(name)+" is not a command")
			}
		}
		command.Actor = cmp.Or(command.Actor, actor)
		request.Commands = append(request.Commands, command)
	}
	return c.ExecuteCommands(ctx, request)
}

// ExecuteMany executes more commands than one call can have, as AppendMany appends events (0: 100 in a
// call).
func (c *Client) ExecuteMany(
	ctx context.Context, actor, correlationID string, commands []*worldv1.Command, most int,
) (answers []*worldv1.ExecuteCommandsResponse, err error) {
	for _, command := range commands {
		command.CommandId = cmp.Or(command.CommandId, NewID())
		command.CorrelationId = cmp.Or(command.CorrelationId, correlationID)
		command.Actor = cmp.Or(command.Actor, actor)
	}
	for call := range slices.Chunk(commands, cmp.Or(most, executeMax)) {
		answer, err := c.ExecuteCommands(ctx, &worldv1.ExecuteCommandsRequest{Commands: call})
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// ReadAll returns the events that match the request, up to the one that is the newest when the loop begins.
// A stream that breaks is continued after the last event. The deadline is for each message.
func (c *Client) ReadAll(ctx context.Context, all *ReadRequest) iter.Seq2[*Event, error] {
	if all == nil {
		all = &ReadRequest{}
	}
	return func(yield func(*Event, error) bool) {
		request, newest, a := proto.CloneOf(all), uint64(math.MaxUint64), c.attempts(ctx, true)
		rest := func() *ReadRequest {
			if all.Limit > 0 && request.Limit == 0 || request.FromPosition > newest {
				return nil
			}
			return request
		}
		for part, err := range stream(a, rest, c.eventStore.ReadAll) {
			if err != nil {
				yield(nil, err)
			}
			newest = min(newest, part.GetLastPosition())
			for _, event := range part.GetEvents() {
				if request.FromPosition = event.Position + 1; all.Limit > 0 {
					request.Limit--
				}
				if event.Position > newest || !pass(a, yield, event) {
					return
				}
			}
		}
	}
}

// Checkpoint is a place in the total order: the position of the last event, and its chain hash.
type Checkpoint = eventstorev1.Checkpoint

// CheckpointStore keeps the checkpoints of subscriptions by name. Load returns nil if there is none.
type CheckpointStore interface {
	Load(ctx context.Context, name string) (*Checkpoint, error)
	Save(ctx context.Context, name string, checkpoint *Checkpoint) error
}

// Subscribe returns the events after the checkpoint that the store has under the name (filter may be
// nil), and then new events as they are stored. It reconnects until the context ends.
//
// The checkpoint of an event is saved when the loop asks for the next one. An event whose loop body ends
// with break or return comes again in the next loop with this name. Within one loop, no event comes twice
// and none is left out. A HistoryChangedError says that the checkpoint belongs to another history.
func (c *Client) Subscribe(
	ctx context.Context, name string, checkpoints CheckpointStore, filter *Filter,
) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		place, err := checkpoints.Load(ctx, name)
		var own *Client // A loop that reads slowly must not hold up the connection of the calls.
		if err == nil {
			own, err = NewClient(c.options)
		}
		if err != nil {
			yield(nil, fmt.Errorf("aethyr: the subscription %s: %w", name, err))
			return
		}
		defer own.Close()
		defer context.AfterFunc(c.closing, func() { own.Close() })()
		a := own.attempts(ctx, true)
		a.until, _ = ctx.Deadline()
		a.span, a.follows = 0, true
		reach := func(to *Checkpoint) bool {
			if to == nil || to.Position < place.GetPosition() {
				return true
			}
			place = to
			err := checkpoints.Save(ctx, name, place)
			if err != nil {
				yield(nil, fmt.Errorf("aethyr: the checkpoint of %s: %w", name, err))
			}
			return err == nil
		}
		rest := func() *eventstorev1.SubscribeRequest {
			a.wait = c.options.AttemptDeadline
			return &eventstorev1.SubscribeRequest{After: place, Filter: filter}
		}
		for part, err := range stream(a, rest, own.eventStore.Subscribe) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, event := range part.GetEvents().GetEvents() {
				handled := &Checkpoint{Position: event.Position, ChainHash: event.ChainHash}
				if event.Position > place.GetPosition() && (!pass(a, yield, event) || !reach(handled)) {
					return
				}
			}
			reached := part.GetCheckpoint()
			if part.GetCaughtUp() != nil {
				reached, a.wait = part.GetCaughtUp().GetCheckpoint(), 0 // Silence is normal now.
			}
			if !reach(reached) {
				return
			}
		}
	}
}

// MemoryStore keeps checkpoints in memory.
type MemoryStore struct{ places sync.Map }

// Load implements CheckpointStore.
func (s *MemoryStore) Load(_ context.Context, name string) (*Checkpoint, error) {
	place, _ := s.places.Load(name)
	checkpoint, _ := place.(*Checkpoint)
	return checkpoint, nil
}

// Save implements CheckpointStore.
func (s *MemoryStore) Save(_ context.Context, name string, checkpoint *Checkpoint) error {
	s.places.Store(name, checkpoint)
	return nil
}
