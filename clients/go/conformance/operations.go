// The operations of the cases, as calls of the client.

package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	aethyr "github.com/aethyr/event-store/clients/go"
	"github.com/aethyr/event-store/clients/go/aethyrfold"
	"github.com/aethyr/event-store/clients/go/eventstorev1"
	"github.com/aethyr/event-store/clients/go/worldv1"
)

// A call of the client, with the arguments of its step: an object or a text.
type call struct {
	context.Context
	player    *player
	client    *aethyr.Client
	name      string
	arguments object
	text      string
	wait      time.Duration
}

func (c call) string(key string) string {
	text, _ := c.arguments[key].(string)
	return text
}

func (c call) number(key string) uint64 {
	number, _ := c.arguments[key].(float64)
	return uint64(number)
}

func (c call) bool(key string) bool {
	set, _ := c.arguments[key].(bool)
	return set
}

// Reads the arguments as a message in JSON. Some of them have shorter names in the cases.
func request[M proto.Message](c call, message M, names map[string]string) M {
	renamed := object{}
	for key, value := range c.arguments {
		if name, ok := names[key]; ok {
			key = name
		}
		renamed[key] = value
	}
	text, err := json.Marshal(renamed)
	if err == nil {
		err = protojson.Unmarshal(text, message)
	}
	if err != nil {
		panic(&mismatch{fmt.Sprintf("the arguments are invalid: %v", err)})
	}
	return message
}

func data(value any) any {
	if fields, ok := value.(object); ok && len(fields) == 1 {
		if text, ok := fields["binary"].(string); ok {
			binary, err := hex.DecodeString(text)
			if err != nil {
				panic(&mismatch{"binary is not hexadecimal: " + text})
			}
			return binary
		}
	}
	return value
}

func newEvents(list any) (events []aethyr.NewEvent) {
	items, _ := list.([]any)
	for _, item := range items {
		fields := call{arguments: item.(object)}
		event := aethyr.NewEvent{
			AggregateID: fields.string("aggregate_id"), AggregateType: fields.string("aggregate_type"),
			EventType: fields.string("event_type"), EventID: fields.string("event_id"),
			CorrelationID: fields.string("correlation_id"), CausationID: fields.string("causation_id"),
			Data: data(fields.arguments["data"]),
		}
		if metadata, ok := fields.arguments["metadata"].(object); ok {
			event.Metadata = map[string]string{}
			for key, value := range metadata {
				event.Metadata[key] = value.(string)
			}
		}
		if text := fields.string("occurred_at"); text != "" {
			at, err := time.Parse(time.RFC3339Nano, text)
			if err != nil {
				panic(&mismatch{err.Error()})
			}
			event.OccurredAt = at
		}
		events = append(events, event)
	}
	return events
}

func expectations(value any, events []aethyr.NewEvent) aethyr.Expect {
	expect := aethyr.Expect{}
	add := func(id string, value any) {
		switch value := value.(type) {
		case float64:
			expect[id] = uint64(value)
		case string:
			if value == "new" {
				expect[id] = aethyr.New
			}
		}
	}
	if each, ok := value.(object); ok {
		for id, value := range each {
			add(id, value)
		}
	} else if len(events) > 0 {
		add(events[0].AggregateID, value)
	}
	return expect
}

// The answer of a call with one response.
func answer[M proto.Message](message M, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return plain(message), nil
}

// The answers of several calls.
func answers[M proto.Message](messages []M, err error) (any, error) {
	return object{"calls": plainAll(messages)}, err
}

// Collects what an iterator returns.
func collect[M proto.Message](key string, all iter.Seq2[M, error]) (any, error) {
	items := []any{}
	for item, err := range all {
		if err != nil {
			return nil, err
		}
		items = append(items, plain(item))
	}
	return object{key: items}, nil
}

type page interface {
	proto.Message
	GetNextPageToken() string
}

// Collects the elements of all pages.
func collectPages[R proto.Message, P page](
	c call, key string, list func(context.Context, R, ...grpc.CallOption) (P, error), request R,
) (any, error) {
	items := []any{}
	for page, err := range aethyr.Pages(c, list, request) {
		if err != nil {
			return nil, err
		}
		part, _ := plain(page)[key].([]any)
		items = append(items, part...)
	}
	return object{key: items}, nil
}

func loaded(aggregate *aethyr.Aggregate) object {
	fields := object{
		"aggregate_id": aggregate.ID, "aggregate_type": aggregate.Type,
		"last_sequence": float64(aggregate.LastSequence), "events": plainAll(aggregate.Events),
	}
	if aggregate.Snapshot != nil {
		fields["snapshot"] = plain(aggregate.Snapshot)
	}
	return fields
}

type counter struct {
	Count int `json:"count"`
}

func counting(c call, version string) aethyrfold.Model[counter] {
	model := aethyrfold.Model[counter]{
		Type:  c.string("aggregate_type"),
		Apply: func(state *counter, _ *aethyr.Event) error { state.Count++; return nil },
	}
	if c.arguments[version] != nil {
		model.SchemaVersion = uint32(c.number(version))
		model.Snapshot = func(state counter) any { return state }
	}
	return model
}

var operations = map[string]func(call) (any, error){
	"append": func(c call) (any, error) {
		events := newEvents(c.arguments["events"])
		if times := c.number("times"); times > 0 {
			events = slices.Repeat(events, int(times))
		}
		return answer(c.client.Append(c, events, expectations(c.arguments["expect"], events)))
	},
	"append_many": func(c call) (any, error) {
		events := slices.Repeat(newEvents(c.arguments["events"]), int(max(c.number("times"), 1)))
		return answers(c.client.AppendMany(c, events, c.string("correlation_id"), int(c.number("most"))))
	},
	"load": func(c call) (any, error) {
		names := map[string]string{"id": "aggregate_id", "schema_version": "snapshot_schema_version"}
		aggregate, err := c.client.Load(c, request(c, &aethyr.LoadRequest{}, names))
		if err != nil {
			return nil, err
		}
		return loaded(aggregate), nil
	},
	"load_many": func(c call) (any, error) {
		var ids []string
		for _, id := range c.arguments["ids"].([]any) {
			ids = append(ids, id.(string))
		}
		options := &aethyr.LoadRequest{
			FromSnapshot: c.bool("from_snapshot"), SnapshotSchemaVersion: uint32(c.number("schema_version")),
		}
		aggregates, err := c.client.LoadMany(c, ids, options)
		items := []any{}
		for _, aggregate := range aggregates {
			items = append(items, loaded(aggregate))
		}
		return object{"aggregates": items}, err
	},
	"fold_count": func(c call) (any, error) {
		state, last, err := aethyrfold.Fold(c, c.client, c.string("id"), counting(c, "schema_version"))
		return object{"state": object{"count": float64(state.Count)}, "sequence": float64(last)}, err
	},
	"update": update,
	"save_snapshot": func(c call) (any, error) {
		return answer(c.client.SaveSnapshot(
			c, c.string("id"), c.number("sequence"), data(c.arguments["data"]), uint32(c.number("schema_version"))))
	},
	"load_snapshot": func(c call) (any, error) {
		return answer(c.client.LoadSnapshot(c, &eventstorev1.LoadSnapshotRequest{AggregateId: c.string("id")}))
	},
	"list_aggregates": func(c call) (any, error) {
		names := map[string]string{"type": "aggregate_type", "prefix": "aggregate_id_prefix"}
		return collectPages(c, "aggregates", c.client.ListAggregates, request(c, &aethyr.ListRequest{}, names))
	},
	"read_all": func(c call) (any, error) {
		return collect("events", c.client.ReadAll(c, request(c, &aethyr.ReadRequest{}, nil)))
	},
	"subscribe": subscribe,
	"received":  received,
	"unsubscribe": func(c call) (any, error) {
		c.player.subscriptions[c.string("name")].stop()
		return object{}, nil
	},
	"execute": func(c call) (any, error) {
		actor := c.string("actor")
		delete(c.arguments, "actor")
		all := request(c, &worldv1.ExecuteCommandsRequest{}, nil)
		var commands []proto.Message
		for _, command := range all.Commands {
			commands = append(commands, command)
		}
		return answer(c.client.Execute(c, actor, all.ExpectedSequences, commands...))
	},
	"execute_many": func(c call) (any, error) {
		var commands []*worldv1.Command
		for range max(c.number("times"), 1) {
			list := call{arguments: object{"commands": c.arguments["commands"]}}
			commands = append(commands, request(list, &worldv1.ExecuteCommandsRequest{}, nil).Commands...)
		}
		return answers(c.client.ExecuteMany(
			c, c.string("actor"), c.string("correlation_id"), commands, int(c.number("most"))))
	},
	"close": func(c call) (any, error) { return object{}, c.client.Close() },
	"get_game_object": func(c call) (any, error) {
		return answer(c.client.GetGameObject(c, &worldv1.GetGameObjectRequest{Id: c.string("id")}))
	},
	"get_room": func(c call) (any, error) {
		return answer(c.client.GetRoom(c, &worldv1.GetRoomRequest{Id: c.string("id")}))
	},
	"get_player": func(c call) (any, error) {
		return answer(c.client.GetPlayer(c, &worldv1.GetPlayerRequest{Id: c.string("id")}))
	},
	"find_player": func(c call) (any, error) {
		return answer(c.client.FindPlayer(c, request(c, &worldv1.FindPlayerRequest{}, nil)))
	},
	"list_game_objects": func(c call) (any, error) {
		all := request(c, &worldv1.ListGameObjectsRequest{}, nil)
		return collectPages(c, "game_objects", c.client.ListGameObjects, all)
	},
	"list_contents": func(c call) (any, error) {
		all := request(c, &worldv1.ListContentsRequest{}, nil)
		return collectPages(c, "game_objects", c.client.ListContents, all)
	},
	"get_history": func(c call) (any, error) {
		return collect("entries", c.client.GetHistory(c, request(c, &worldv1.GetHistoryRequest{}, nil)))
	},
	"stats": func(c call) (any, error) { return answer(c.client.Stats(c, &eventstorev1.StatsRequest{})) },
	"control": func(c call) (any, error) {
		return control(c.text)
	},
	"connect": func(c call) (any, error) {
		client, err := aethyr.Open(c.text)
		if err != nil {
			return nil, err
		}
		c.player.lock.Lock()
		c.player.clients[c.name].Close()
		c.player.clients[c.name] = client
		c.player.lock.Unlock()
		options := client.Options()
		hosts := []any{}
		for _, host := range options.Hosts {
			hosts = append(hosts, host)
		}
		return object{
			"text": options.String(), "hosts": hosts, "tls": options.TLS || options.CA != "" || options.Cert != "",
			"deadline_ms": float64(options.Deadline.Milliseconds()),
		}, nil
	},
}

func update(c call) (any, error) {
	decisions := 0
	var racing error
	decide := func(counter, uint64) ([]aethyr.NewEvent, error) {
		if race := newEvents(c.arguments["race"]); decisions == 0 && len(race) > 0 {
			var other *aethyr.Client
			if other, racing = c.player.client("the race of " + c.name); racing == nil {
				_, racing = other.Append(c, race, nil)
			}
		}
		decisions++
		return newEvents(c.arguments["events"]), racing
	}
	appended, err := aethyrfold.Update(c, c.client, c.string("id"), counting(c, "snapshot_version"), decide)
	if err != nil {
		return nil, err
	}
	fields := plain(appended)
	fields["decisions"] = float64(decisions)
	return fields, nil
}

// What arrived in this case for a name, over all subscriptions.
type subscription struct {
	lock    sync.Mutex
	changed chan struct{}
	events  []any
	err     error
	stop    func()
}

func subscribe(c call) (any, error) {
	name := c.string("name")
	s := c.player.subscriptions[name]
	if s == nil {
		s = &subscription{changed: make(chan struct{})}
		c.player.subscriptions[name] = s
	}
	if fields, ok := c.arguments["checkpoint"].(object); ok {
		given := call{arguments: fields}
		hash, err := hex.DecodeString(given.string("chain_hash"))
		if err != nil {
			return nil, &mismatch{err.Error()}
		}
		place := &aethyr.Checkpoint{Position: given.number("position"), ChainHash: hash}
		if err := c.player.store.Save(c, name, place); err != nil {
			return nil, err
		}
	}
	var filter *aethyr.Filter
	if fields, ok := c.arguments["filter"].(object); ok {
		filter = request(call{arguments: fields}, &aethyr.Filter{}, nil)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.stop = func() {
		cancel()
		<-done
	}
	go func() {
		defer close(done)
		for event, err := range c.client.Subscribe(ctx, name, c.player.store, filter) {
			s.lock.Lock()
			if err == nil {
				s.events = append(s.events, plain(event))
			} else if ctx.Err() == nil {
				s.err = err
			}
			close(s.changed)
			s.changed = make(chan struct{})
			s.lock.Unlock()
		}
	}()
	return object{}, nil
}

func received(c call) (any, error) {
	s := c.player.subscriptions[c.string("name")]
	if c.wait == 0 {
		c.wait = 20 * time.Second
	}
	timeout := time.After(c.wait)
	for {
		s.lock.Lock()
		events, err, changed := s.events, s.err, s.changed
		s.lock.Unlock()
		if err != nil {
			return nil, err
		}
		if uint64(len(events)) >= c.number("count") {
			break
		}
		select {
		case <-changed:
		case <-timeout:
			return nil, &mismatch{fmt.Sprintf("%d events arrived, and not %d", len(events), c.number("count"))}
		}
	}
	time.Sleep(time.Duration(c.number("settle_ms")) * time.Millisecond)
	s.lock.Lock()
	defer s.lock.Unlock()
	return object{"events": slices.Clone(s.events)}, s.err
}
