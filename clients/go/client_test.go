// Tests of retries, errors and continued streams, against a service that fails on request.

package aethyr

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
	"github.com/aethyr/event-store/clients/go/worldv1"
)

type (
	loadPart   = eventstorev1.LoadEventsResponse
	readPart   = eventstorev1.ReadAllResponse
	followPart = eventstorev1.SubscribeResponse
)

// A service whose answers are functions of the number of the call, from 0 on.
type fake struct {
	eventstorev1.UnimplementedEventStoreServiceServer
	worldv1.UnimplementedCommandServiceServer

	lock    sync.Mutex
	calls   int
	tokens  []string
	append  func(call int, request *eventstorev1.AppendEventsRequest) error
	execute func(call int, request *worldv1.ExecuteCommandsRequest) error
	load    func(call int, request *LoadRequest, send func(*loadPart)) error
	read    func(call int, request *ReadRequest, send func(*readPart)) error
	follow  func(call int, request *eventstorev1.SubscribeRequest, send func(*followPart)) error
}

func (f *fake) call(ctx context.Context) int {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.calls++
	if sent, ok := metadata.FromIncomingContext(ctx); ok {
		f.tokens = append(f.tokens, sent.Get("authorization")...)
	}
	return f.calls - 1
}

func (f *fake) AppendEvents(
	ctx context.Context, request *eventstorev1.AppendEventsRequest,
) (*eventstorev1.AppendEventsResponse, error) {
	return &eventstorev1.AppendEventsResponse{}, f.append(f.call(ctx), request)
}

func (f *fake) ExecuteCommands(
	ctx context.Context, request *worldv1.ExecuteCommandsRequest,
) (*worldv1.ExecuteCommandsResponse, error) {
	return &worldv1.ExecuteCommandsResponse{}, f.execute(f.call(ctx), request)
}

func (f *fake) LoadEvents(
	request *LoadRequest, stream grpc.ServerStreamingServer[loadPart],
) error {
	return f.load(f.call(stream.Context()), request, func(part *loadPart) { stream.Send(part) })
}

func (f *fake) ReadAll(
	request *ReadRequest, stream grpc.ServerStreamingServer[readPart],
) error {
	return f.read(f.call(stream.Context()), request, func(part *readPart) { stream.Send(part) })
}

func (f *fake) Subscribe(
	request *eventstorev1.SubscribeRequest, stream grpc.ServerStreamingServer[followPart],
) error {
	return f.follow(f.call(stream.Context()), request, func(part *followPart) { stream.Send(part) })
}

// Starts the service, and returns its address.
func (f *fake) start(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	eventstorev1.RegisterEventStoreServiceServer(server, f)
	worldv1.RegisterCommandServiceServer(server, f)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func open(t *testing.T, options Options) *Client {
	t.Helper()
	client, err := NewClient(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func failure(code codes.Code, reason string, details ...protoadapt.MessageV1) error {
	made := status.New(code, "message")
	if reason != "" {
		details = append(details, &errdetails.ErrorInfo{Reason: reason, Domain: "aethyr.eventstore"})
	}
	made, err := made.WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return made.Err()
}

func after(delay time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}
}

var oneEvent = []NewEvent{{AggregateID: "quest-1", AggregateType: "Quest", EventType: "QuestBegun"}}

func TestARetryHasTheSameIds(t *testing.T) {
	temporary := []error{
		failure(codes.Unavailable, ""), failure(codes.Unavailable, "STARTING"),
		failure(codes.Unknown, "OUTCOME_UNKNOWN"),
		failure(codes.Canceled, ""), failure(codes.DeadlineExceeded, ""), failure(codes.Aborted, "CONTENTION"),
		failure(codes.ResourceExhausted, "CALLS_WAITING", after(time.Millisecond)),
	}
	var ids []string
	service := &fake{}
	next := func(call int, id string) error {
		ids = append(ids, id)
		if call < len(temporary) {
			return temporary[call]
		}
		return nil
	}
	service.append = func(call int, request *eventstorev1.AppendEventsRequest) error {
		return next(call, request.Events[0].EventId)
	}
	service.execute = func(call int, request *worldv1.ExecuteCommandsRequest) error {
		return next(call, request.Commands[0].CommandId)
	}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	events := slices.Clone(oneEvent)
	if _, err := client.Append(t.Context(), events, nil); err != nil {
		t.Fatal(err)
	}
	want := slices.Repeat([]string{events[0].EventID}, len(temporary)+1)
	if !slices.Equal(ids, want) || len(ids[0]) != 36 {
		t.Errorf("ids of the events: %v", ids)
	}

	ids, service.calls = nil, 0
	if _, err := client.Execute(t.Context(), "bob", nil, &worldv1.CreateRoom{Id: "hall"}); err != nil {
		t.Fatal(err)
	}
	if len(ids) != len(temporary)+1 || len(slices.Compact(ids)) != 1 || len(ids[0]) != 36 {
		t.Errorf("ids of the commands: %v", ids)
	}
}

func TestARetryWaitsAsLongAsTheServiceSays(t *testing.T) {
	service := &fake{append: func(call int, _ *eventstorev1.AppendEventsRequest) error {
		if call == 0 {
			return failure(codes.Unavailable, "INDEX", after(300*time.Millisecond))
		}
		return nil
	}}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	begin := time.Now()
	if _, err := client.Append(t.Context(), slices.Clone(oneEvent), nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("the retry came after %v", took)
	}
}

func TestErrorsHaveTypesAndAreNotRepeated(t *testing.T) {
	info := func(reason string, details map[string]string) *errdetails.ErrorInfo {
		return &errdetails.ErrorInfo{Reason: reason, Domain: "aethyr.world", Metadata: details}
	}
	var violations errdetails.BadRequest
	violations.FieldViolations = []*errdetails.BadRequest_FieldViolation{{Field: "events", Description: "empty"}}
	cases := []struct {
		sent error
		is   func(error) bool
	}{
		{failure(codes.Aborted, "", info("WRONG_EXPECTED_SEQUENCE",
			map[string]string{"aggregate_id": "a", "expected": "1", "actual": "2"})), func(err error) bool {
			var e *WrongExpectedSequenceError
			return errors.As(err, &e) && e.AggregateID == "a" && e.Expected == 1 && e.Actual == 2
		}},
		{failure(codes.AlreadyExists, "", info("EVENT_ID_REUSED", map[string]string{"event_id": "x"})),
			func(err error) bool {
				var e *EventIDReusedError
				return errors.As(err, &e) && e.EventID == "x"
			}},
		{failure(codes.AlreadyExists, "", info("NAME_TAKEN", map[string]string{"id": "x", "name": "Bob"})),
			func(err error) bool {
				var e *NameTakenError
				return errors.As(err, &e) && e.ID == "x" && e.Name == "Bob"
			}},
		{failure(codes.NotFound, "NO_SUCH_OBJECT"), as[*NotFoundError]},
		{failure(codes.InvalidArgument, "", &violations), func(err error) bool {
			var e *InvalidArgumentError
			return errors.As(err, &e) && slices.Equal(e.Violations, []Violation{{"events", "empty"}})
		}},
		{failure(codes.Unauthenticated, "NO_CREDENTIALS"), as[*UnauthenticatedError]},
		{failure(codes.PermissionDenied, "", info("NOT_ALLOWED", map[string]string{"right": "append"})),
			func(err error) bool {
				var e *NotAllowedError
				return errors.As(err, &e) && e.Right == "append"
			}},
		{failure(codes.FailedPrecondition, "HISTORY_CHANGED"), as[*HistoryChangedError]},
		{failure(codes.FailedPrecondition, "", info("NOT_A_ROOM", nil)), func(err error) bool {
			var e *WorldRuleError
			return errors.As(err, &e) && e.Rule == "NOT_A_ROOM"
		}},
		{failure(codes.DataLoss, "DAMAGED"), as[*DamagedError]},
		{failure(codes.ResourceExhausted, "", info("METADATA_BYTES", map[string]string{"limit": "l", "max": "7"})),
			func(err error) bool {
				var e *ResourceExhaustedError
				return errors.As(err, &e) && e.Limit == "l" && e.Max == 7
			}},
		{failure(codes.Internal, "INTERNAL"), as[*Error]},
		{failure(codes.FailedPrecondition, "FENCED"), as[*Error]},
	}
	service := &fake{}
	service.append = func(call int, _ *eventstorev1.AppendEventsRequest) error { return cases[call].sent }
	client := open(t, Options{Hosts: []string{service.start(t)}})
	for i, wanted := range cases {
		_, err := client.Append(t.Context(), slices.Clone(oneEvent), nil)
		if service.calls != i+1 {
			t.Fatalf("%v was repeated", wanted.sent)
		}
		var base *Error
		if !wanted.is(err) || !errors.As(err, &base) || base.Code != status.Code(wanted.sent) {
			t.Errorf("%v became %T %v", wanted.sent, err, err)
		}
	}
}

func as[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

func TestTheDeadlineHasTheLastErrorAsItsCause(t *testing.T) {
	answer := failure(codes.Unavailable, "STARTING")
	service := &fake{append: func(int, *eventstorev1.AppendEventsRequest) error { return answer }}
	client := open(t, Options{Hosts: []string{service.start(t)}, Deadline: 1500 * time.Millisecond})
	check := func(unknown bool) {
		t.Helper()
		_, err := client.Append(t.Context(), slices.Clone(oneEvent), nil)
		var late *DeadlineExceededError
		if !errors.As(err, &late) || !errors.Is(err, context.DeadlineExceeded) || late.OutcomeUnknown != unknown {
			t.Errorf("%T %v", err, err)
		}
	}
	check(false) // A reason says that nothing was stored.
	answer = failure(codes.Unknown, "OUTCOME_UNKNOWN")
	check(true)

	answer = failure(codes.Unavailable, "STARTING")
	_, err := client.Append(t.Context(), slices.Clone(oneEvent), nil)
	if !as[*UnavailableError](errors.Unwrap(err)) {
		t.Errorf("the cause is %v", errors.Unwrap(err))
	}
	unreachable := open(t, Options{Hosts: []string{"127.0.0.1:1"}, Deadline: 1500 * time.Millisecond})
	_, err = unreachable.Append(t.Context(), slices.Clone(oneEvent), nil)
	var late *DeadlineExceededError
	if !errors.As(err, &late) || late.OutcomeUnknown {
		t.Errorf("%T %v: the service cannot have received it", err, err)
	}
}

func TestACanceledContextEndsACall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	service := &fake{append: func(int, *eventstorev1.AppendEventsRequest) error {
		cancel()
		return failure(codes.Unavailable, "STARTING")
	}}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	_, err := client.Append(ctx, slices.Clone(oneEvent), nil)
	if !errors.Is(err, context.Canceled) || !as[*Error](err) {
		t.Errorf("%T %v", err, err)
	}
	client.Close()
	if _, err := client.Append(t.Context(), slices.Clone(oneEvent), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("%T %v", err, err)
	}
}

func TestADeadHostIsLeft(t *testing.T) {
	service := &fake{append: func(int, *eventstorev1.AppendEventsRequest) error { return nil }}
	client := open(t, Options{Hosts: []string{"127.0.0.1:1", "[::1]:1", service.start(t)}})
	for range 2 {
		if _, err := client.Append(t.Context(), slices.Clone(oneEvent), nil); err != nil {
			t.Fatal(err)
		}
	}
	if at := client.current.Load(); at != 2 {
		t.Errorf("the client is at host %d", at)
	}
}

func events(from, to uint64) (made []*Event) {
	for n := from; n <= to; n++ {
		made = append(made, &Event{SequenceNumber: n, Position: n, ChainHash: []byte{byte(n)}})
	}
	return made
}

func eventsDown(from, to uint64) []*Event {
	made := events(to, from)
	slices.Reverse(made)
	return made
}

func TestALoadGoesOnAfterTheLastEvent(t *testing.T) {
	broken := failure(codes.Unavailable, "")
	cases := []struct {
		request *LoadRequest
		parts   []*eventstorev1.LoadEventsResponse
		rest    []string
		numbers []uint64
	}{
		{&LoadRequest{ToSequence: 5}, []*eventstorev1.LoadEventsResponse{
			{LastSequence: 5, Events: events(1, 2)}, {LastSequence: 5, Events: events(3, 5)},
		}, []string{"from_sequence:3 to_sequence:5"}, []uint64{1, 2, 3, 4, 5}},
		{&LoadRequest{ToSequence: 5, FromSnapshot: true}, []*eventstorev1.LoadEventsResponse{
			{LastSequence: 5, Snapshot: &Snapshot{SequenceNumber: 3}}, {LastSequence: 5, Events: events(4, 5)},
		}, []string{"from_sequence:4 to_sequence:5"}, []uint64{4, 5}},
		{&LoadRequest{FromSequence: 2, Backwards: true, Limit: 3}, []*eventstorev1.LoadEventsResponse{
			{LastSequence: 5, Events: eventsDown(5, 4)}, {LastSequence: 5, Events: eventsDown(3, 3)},
		}, []string{"from_sequence:2 to_sequence:3 backwards:true limit:1"}, []uint64{5, 4, 3}},
	}
	for _, c := range cases {
		service := &fake{}
		service.load = func(call int, request *LoadRequest, send func(*loadPart)) error {
			if call > 0 && normal(request.String()) != c.rest[call-1] {
				t.Errorf("the rest is %v, and not %v", request, c.rest[call-1])
			}
			send(c.parts[call])
			return broken // Also after the last event: nothing is missing then.
		}
		client := open(t, Options{Hosts: []string{service.start(t)}})
		loaded, err := client.Load(t.Context(), c.request)
		if err != nil {
			t.Fatal(err)
		}
		var numbers []uint64
		for _, event := range loaded.Events {
			numbers = append(numbers, event.SequenceNumber)
		}
		if !slices.Equal(numbers, c.numbers) || loaded.LastSequence != 5 || service.calls != 2 {
			t.Errorf("%v, %d calls", numbers, service.calls)
		}
	}
}

// The text form of messages has one or two spaces, at random.
func normal(text string) string {
	return strings.Join(strings.Fields(text), " ")
}

func TestAReadGoesOnAfterTheLastEventAndEndsAtTheFirstEnd(t *testing.T) {
	service := &fake{}
	service.read = func(call int, request *ReadRequest, send func(*readPart)) error {
		if call == 0 {
			send(&eventstorev1.ReadAllResponse{Events: events(1, 2), LastPosition: 4})
			return failure(codes.Unavailable, "")
		}
		if normal(request.String()) != "from_position:3" {
			t.Errorf("the rest is %v", request)
		}
		send(&eventstorev1.ReadAllResponse{Events: events(3, 6), LastPosition: 6})
		return nil
	}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	var positions []uint64
	for event, err := range client.ReadAll(t.Context(), &ReadRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, event.Position)
	}
	if !slices.Equal(positions, []uint64{1, 2, 3, 4}) {
		t.Errorf("positions %v", positions)
	}
}

func batch(from, to uint64) *eventstorev1.SubscribeResponse {
	return &eventstorev1.SubscribeResponse{
		Content: &eventstorev1.SubscribeResponse_Events{Events: &eventstorev1.EventBatch{Events: events(from, to)}},
	}
}

func TestASubscriptionGoesOnAndSavesWhatWasHandled(t *testing.T) {
	var after []uint64
	service := &fake{}
	service.follow = func(call int, request *eventstorev1.SubscribeRequest, send func(*followPart)) error {
		after = append(after, request.After.GetPosition())
		switch call {
		case 0:
			send(batch(1, 2))
		case 1:
			send(batch(2, 3)) // 2 is known already.
			send(&eventstorev1.SubscribeResponse{Content: &eventstorev1.SubscribeResponse_Checkpoint{
				Checkpoint: &eventstorev1.Checkpoint{Position: 7, ChainHash: []byte{7}},
			}})
		case 2:
			send(batch(8, 9))
		default:
			return failure(codes.FailedPrecondition, "HISTORY_CHANGED")
		}
		return nil
	}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	store := &MemoryStore{}
	var positions []uint64
	for event, err := range client.Subscribe(t.Context(), "herald/1", store, nil) {
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, event.Position)
		if event.Position == 9 {
			break
		}
	}
	if !slices.Equal(positions, []uint64{1, 2, 3, 8, 9}) || !slices.Equal(after, []uint64{0, 2, 7}) {
		t.Errorf("positions %v, after %v", positions, after)
	}
	saved, err := store.Load(t.Context(), "herald/1")
	if err != nil || saved.Position != 8 || string(saved.ChainHash) != "\x08" {
		t.Errorf("saved %v %v", saved, err)
	}
	for _, err := range client.Subscribe(t.Context(), "herald/1", store, nil) {
		if !as[*HistoryChangedError](err) {
			t.Errorf("%T %v", err, err)
		}
	}
}

func TestASubscriptionEndsWithItsContextAndItsClient(t *testing.T) {
	service := &fake{}
	service.follow = func(_ int, _ *eventstorev1.SubscribeRequest, send func(*followPart)) error {
		send(batch(1, 1))
		select {}
	}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ends []error
	for _, err := range client.Subscribe(ctx, "a", &MemoryStore{}, nil) {
		if cancel(); err != nil {
			ends = append(ends, err)
		}
	}
	for _, err := range client.Subscribe(t.Context(), "b", &MemoryStore{}, nil) {
		if client.Close(); err != nil {
			ends = append(ends, err)
		}
	}
	if len(ends) != 2 || !errors.Is(ends[0], context.Canceled) || !errors.Is(ends[1], ErrClosed) {
		t.Errorf("%v", ends)
	}
}
