// Tests of updates with a service, and of a snapshot with an initial state.

package aethyrfold

import (
	"maps"
	"testing"

	aethyr "github.com/aethyr/event-store/clients/go"
	"github.com/aethyr/event-store/clients/go/aethyrtest"
)

type bag struct {
	Items map[string]int `json:"items,omitempty"`
	Note  string         `json:"note,omitempty"`
}

var bags = Model[bag]{
	Type:    "Bag",
	Initial: func() bag { return bag{Items: map[string]int{"bread": 1}, Note: "new"} },
	Apply: func(state *bag, _ *aethyr.Event) error {
		state.Items, state.Note = map[string]int{"sword": 1}, ""
		return nil
	},
	Snapshot: func(state bag) any { return state },
}

func TestASnapshotIsNotMixedWithTheInitialState(t *testing.T) {
	client := aethyrtest.Start(t, "AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLD=2")
	constant := []aethyr.NewEvent{{EventType: "BagFilled"}}
	for range 2 {
		_, err := Update(t.Context(), client, "bag-1", bags, func(bag, uint64) ([]aethyr.NewEvent, error) {
			return constant, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if constant[0].EventID != "" {
		t.Error("the events of decide were changed")
	}
	loaded, err := client.Load(t.Context(), &aethyr.LoadRequest{AggregateId: "bag-1", FromSnapshot: true})
	if err != nil || loaded.Snapshot.GetSequenceNumber() != 2 {
		t.Fatal(loaded, err)
	}
	state, last, err := Fold(t.Context(), client, "bag-1", bags)
	if err != nil || last != 2 || !maps.Equal(state.Items, map[string]int{"sword": 1}) || state.Note != "" {
		t.Error(state, last, err)
	}
}
