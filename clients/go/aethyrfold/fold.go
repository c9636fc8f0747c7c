// Package aethyrfold turns the events of an aggregate into a state, and decides on it.
package aethyrfold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	aethyr "github.com/aethyr/event-store/clients/go"
	"github.com/aethyr/event-store/clients/go/eventstorev1"
)

const updatesMax = 10

// Model says how the events of an aggregate become a state.
type Model[S any] struct {
	// Type is the type of new aggregates, for Update.
	Type string
	// Initial returns the state before the first event. Default: the zero value.
	Initial func() S
	// Apply changes the state by one event. Required.
	Apply func(state *S, event *aethyr.Event) error
	// Snapshot returns what Update saves when a snapshot is due: the state, or its parts that JSON can
	// decode into a state. Loads start with a snapshot that has this SchemaVersion. If Snapshot is nil,
	// there are no snapshots.
	Snapshot      func(state S) any
	SchemaVersion uint32
}

// Fold loads an aggregate and returns its state and last sequence number.
func Fold[S any](
	ctx context.Context, c *aethyr.Client, id string, model Model[S],
) (state S, last uint64, err error) {
	loaded, err := c.Load(ctx, &aethyr.LoadRequest{
		AggregateId: id, FromSnapshot: model.Snapshot != nil, SnapshotSchemaVersion: model.SchemaVersion,
	})
	if err != nil {
		return state, 0, err
	}
	if loaded.Snapshot != nil { // It is decoded into nothing else, because json would merge the two.
		if err := aethyr.Decode(loaded.Snapshot, &state); err != nil {
			return state, 0, fmt.Errorf("aethyr: the snapshot of %s: %w", id, err)
		}
	} else if model.Initial != nil {
		state = model.Initial()
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
//
// After an error with OutcomeUnknown, the events may be stored. The next update makes new ids, so decide has
// to see in the state what is done already, or set EventID itself.
func Update[S any](
	ctx context.Context, c *aethyr.Client, id string, model Model[S],
	decide func(state S, last uint64) ([]aethyr.NewEvent, error),
) (*aethyr.Appended, error) {
	if _, set := ctx.Deadline(); !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Options().Deadline)
		defer cancel()
	}
	for tries := 1; ; tries++ {
		state, last, err := Fold(ctx, c, id, model)
		if err != nil {
			return nil, err
		}
		events, err := decide(state, last)
		if err != nil || len(events) == 0 {
			return &aethyr.Appended{}, err
		}
		events = slices.Clone(events) // Its ids are those of this append only.
		for i := range events {
			e := &events[i]
			e.AggregateID = cmp.Or(e.AggregateID, id)
			if e.AggregateID == id {
				e.AggregateType = cmp.Or(e.AggregateType, model.Type)
			}
		}
		appended, err := c.Append(ctx, events, aethyr.Expect{id: last})
		var conflict *aethyr.WrongExpectedSequenceError
		if errors.As(err, &conflict) && conflict.AggregateID == id && tries < updatesMax {
			select {
			case <-time.After(rand.N(time.Duration(tries) * 10 * time.Millisecond)):
			case <-ctx.Done(): // The next load says so.
			}
			continue
		}
		due := func(a *eventstorev1.AppendedAggregate) bool { return a.AggregateId == id && a.SnapshotDue }
		if model.Snapshot != nil && slices.ContainsFunc(appended.GetAggregates(), due) {
			state, last, failure := Fold(ctx, c, id, model)
			if failure == nil {
				_, failure = c.SaveSnapshot(ctx, id, last, model.Snapshot(state), model.SchemaVersion)
			}
			if failure != nil { // The events are stored all the same.
				slog.Warn("aethyr: a snapshot was not saved", "aggregate", id, "error", failure)
			}
		}
		return appended, err
	}
}
