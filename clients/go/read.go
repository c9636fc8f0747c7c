// The total order and the world: lists, reads, subscriptions with their checkpoints, and commands.

package aethyr

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
	"github.com/aethyr/event-store/clients/go/worldv1"
)

// GetHistory returns the events of an object of the world with what each changed, by whom and why.
func (c *Client) GetHistory(
	ctx context.Context, request *worldv1.GetHistoryRequest,
) iter.Seq2[*worldv1.HistoryEntry, error] {
	return iterate(func(pass func(*worldv1.HistoryEntry) error) error {
		request := proto.CloneOf(request)
		rest := func() *worldv1.GetHistoryRequest {
			if request.ToSequence > 0 && request.FromSequence > request.ToSequence {
				return nil
			}
			return request
		}
		return stream(c.iteration(ctx), worldv1.WorldServiceClient.GetHistory, worldv1.NewWorldServiceClient, rest,
			func(part *worldv1.GetHistoryResponse) error {
				for _, entry := range part.Entries {
					request.FromSequence = entry.SequenceNumber + 1
					if err := pass(entry); err != nil {
						return err
					}
				}
				return nil
			})
	})
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
		if command.Actor == "" {
			command.Actor = actor
		}
		request.Commands = append(request.Commands, command)
	}
	return c.ExecuteCommands(ctx, request)
}

// ReadAll returns the events that match the request, up to the one that is the newest when the loop begins.
// A stream that breaks is continued after the last event. The deadline is for each message.
func (c *Client) ReadAll(ctx context.Context, all *ReadRequest) iter.Seq2[*Event, error] {
	return iterate(func(pass func(*Event) error) error {
		request, newest := proto.CloneOf(all), uint64(math.MaxUint64)
		rest := func() *ReadRequest {
			if all.Limit > 0 && request.Limit == 0 || request.FromPosition > newest {
				return nil
			}
			return request
		}
		return stream(c.iteration(ctx), eventStore.ReadAll, newStore, rest,
			func(part *eventstorev1.ReadAllResponse) error {
				newest = min(newest, part.LastPosition)
				for _, event := range part.Events {
					if event.Position > newest {
						return errStopped
					}
					request.FromPosition = event.Position + 1
					if all.Limit > 0 {
						request.Limit--
					}
					if err := pass(event); err != nil {
						return err
					}
				}
				return nil
			})
	})
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
	return iterate(func(pass func(*Event) error) error {
		place, err := checkpoints.Load(ctx, name)
		if err != nil {
			return fmt.Errorf("aethyr: the checkpoint of %s: %w", name, err)
		}
		a := c.iteration(ctx)
		defer context.AfterFunc(c.closing, a.cancel)()
		// A loop that reads slowly must not hold up the connection of the calls.
		if a.hosts, err = c.connect(); err != nil {
			return err
		}
		defer a.hosts.close()
		a.idle, a.follows = 0, true
		reach := func(to *Checkpoint) error {
			if to == nil || to.Position < place.GetPosition() {
				return nil
			}
			place = to
			if err := checkpoints.Save(ctx, name, place); err != nil {
				return fmt.Errorf("aethyr: the checkpoint of %s: %w", name, err)
			}
			return nil
		}
		rest := func() *eventstorev1.SubscribeRequest {
			a.wait = c.options.AttemptDeadline
			return &eventstorev1.SubscribeRequest{After: place, Filter: filter}
		}
		return stream(a, eventStore.Subscribe, newStore, rest, func(part *eventstorev1.SubscribeResponse) error {
			for _, event := range part.GetEvents().GetEvents() {
				if event.Position <= place.GetPosition() {
					continue
				}
				if err := pass(event); err != nil {
					return err
				}
				if err := reach(&Checkpoint{Position: event.Position, ChainHash: event.ChainHash}); err != nil {
					return err
				}
			}
			reached := part.GetCheckpoint()
			if part.GetCaughtUp() != nil {
				reached, a.wait = part.GetCaughtUp().GetCheckpoint(), 0 // Silence is normal now.
			}
			return reach(reached)
		})
	})
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

// FileStore keeps each checkpoint in a file of this folder. A crash leaves the old or the new one.
type FileStore string

func (s FileStore) path(name string) string {
	return filepath.Join(string(s), url.PathEscape(name)+".checkpoint")
}

// Load implements CheckpointStore.
func (s FileStore) Load(_ context.Context, name string) (*Checkpoint, error) {
	content, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	checkpoint := &Checkpoint{}
	if err == nil {
		err = protojson.Unmarshal(content, checkpoint)
	}
	return checkpoint, err
}

// Save implements CheckpointStore.
func (s FileStore) Save(_ context.Context, name string, checkpoint *Checkpoint) error {
	if err := os.MkdirAll(string(s), 0o777); err != nil {
		return err
	}
	file, err := os.CreateTemp(string(s), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // Fails if it was renamed.
	_, err = file.WriteString(protojson.Format(checkpoint))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), s.path(name)); err != nil {
		return err
	}
	folder, err := os.Open(string(s))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
