// Tests of iterators and subscriptions, and of what ends them.

package aethyr

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
)

var caughtUp = &followPart{Content: &eventstorev1.SubscribeResponse_CaughtUp{CaughtUp: &eventstorev1.CaughtUp{}}}

func TestASubscriptionGoesOnWithANewToken(t *testing.T) {
	service := &fake{}
	service.follow = func(call int, _ *eventstorev1.SubscribeRequest, send func(*followPart)) error {
		if call == 1 {
			send(batch(1, 1))
		} else if call < 3 {
			send(caughtUp)
		}
		return status.Error(codes.Unauthenticated, "the credential has changed")
	}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	var got []uint64
	var last error
	for event, err := range client.Subscribe(t.Context(), "s", &MemoryStore{}, nil) {
		if last = err; err == nil {
			got = append(got, event.Position)
		}
	}
	if !slices.Equal(got, []uint64{1}) || !as[*UnauthenticatedError](last) || service.calls != 4 {
		t.Errorf("%v, %v, %d calls", got, last, service.calls)
	}
}

func TestAContextEndsALoopInTheMiddleOfAMessage(t *testing.T) {
	service := &fake{}
	service.read = func(_ int, _ *ReadRequest, send func(*readPart)) error {
		send(&readPart{Events: events(1, 100), LastPosition: 100})
		return nil
	}
	service.follow = func(_ int, _ *eventstorev1.SubscribeRequest, send func(*followPart)) error {
		send(batch(1, 100))
		select {}
	}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	for _, follow := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		all, count := client.ReadAll(ctx, nil), 0
		if follow {
			all = client.Subscribe(ctx, "s", &MemoryStore{}, nil)
		}
		for _, err := range all {
			if count++; count == 2 {
				cancel()
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if count != 3 { // Two events, and the error.
			t.Errorf("the loop ran %d times", count)
		}
	}
}

func TestAnIteratorHasItsDeadlineForEachMessageOrThatOfTheContext(t *testing.T) {
	service := &fake{}
	service.read = func(call int, _ *ReadRequest, send func(*readPart)) error {
		for range 6 { // No event matches the filter for a long time.
			time.Sleep(100 * time.Millisecond)
			send(&readPart{LastPosition: 9})
		}
		if call == 0 {
			return failure(codes.Unavailable, "STARTING", after(700*time.Millisecond))
		}
		send(&readPart{Events: events(9, 9), LastPosition: 9})
		return nil
	}
	host := service.start(t)
	short := open(t, Options{Hosts: []string{host}, Deadline: 400 * time.Millisecond})
	long, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, ctx := range []context.Context{t.Context(), long} {
		service.calls = 0
		var last error
		for _, last = range short.ReadAll(ctx, &ReadRequest{}) {
		}
		if late := as[*DeadlineExceededError](last); late != (ctx != long) {
			t.Errorf("%v", last)
		}
	}
}

func TestADelayOfNothingIsNoHotLoop(t *testing.T) {
	service := &fake{append: func(int, *eventstorev1.AppendEventsRequest) error {
		return failure(codes.ResourceExhausted, "CALLS_WAITING", after(0))
	}}
	client := open(t, Options{Hosts: []string{service.start(t)}, Deadline: 500 * time.Millisecond})
	_, err := client.Append(t.Context(), slices.Clone(oneEvent), nil)
	if !as[*DeadlineExceededError](err) || service.calls < 2 || service.calls > 100 {
		t.Errorf("%v after %d calls", err, service.calls)
	}
}

func TestARefusalAtTheDeadlineIsNoDeadline(t *testing.T) {
	client := open(t, Options{Hosts: []string{"127.0.0.1:1"}, Deadline: time.Nanosecond})
	a := client.attempts(t.Context(), false)
	a.until = time.Now().Add(time.Hour)
	err := a.run(func(context.Context, *grpc.ClientConn, grpc.CallOption) error {
		a.until = time.Now()
		return failure(codes.Aborted, "WRONG_EXPECTED_SEQUENCE")
	})
	if !as[*WrongExpectedSequenceError](err) {
		t.Errorf("%v", err)
	}
	if _, err := client.Append(t.Context(), slices.Clone(oneEvent), nil); !as[*DeadlineExceededError](err) {
		t.Errorf("%v", err)
	}
}

func TestDataOfEachKind(t *testing.T) {
	var sent []*eventstorev1.NewEvent
	service := &fake{append: func(_ int, request *eventstorev1.AppendEventsRequest) error {
		sent = append(sent, request.Events...)
		return nil
	}}
	client := open(t, Options{Hosts: []string{service.start(t)}})
	_, err := client.Append(t.Context(), []NewEvent{{Data: []byte(nil)}, {Data: nil}, {Data: "<"}}, nil)
	must(t, err)
	if _, binary := sent[0].Data.(*eventstorev1.NewEvent_Binary); !binary || sent[1].Data != nil ||
		sent[2].GetJson() != `"<"` {
		t.Error(sent)
	}
	_, err = client.Append(t.Context(), []NewEvent{{}, {Data: func() {}}}, nil)
	var refused *InvalidArgumentError
	if !errors.As(err, &refused) || refused.Violations[0].Field != "events[1].data" {
		t.Error(err)
	}
}
