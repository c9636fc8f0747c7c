// Package aethyr is the client of Aethyr Event Store.
//
// A [Client] makes the ids of events and commands before the first attempt of a call, and repeats a call
// that failed for a temporary reason until its deadline. So a call that succeeds had its effect once.
package aethyr

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
	"github.com/aethyr/event-store/clients/go/worldv1"
)

const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
	waitMax    = time.Minute
)

// ErrClosed is the cause of the errors of a closed client.
var ErrClosed = errors.New("the client is closed")

// Client calls the service. It is safe for concurrent use.
//
// It has the methods of the generated clients too. Those with a single response are repeated like the
// client's own, and ids that their requests lack are set. Those with a stream are attempted once.
type Client struct {
	eventStore
	worldv1.CommandServiceClient
	worldv1.WorldServiceClient

	options Options
	// Connections to the hosts. All calls use the current one until it fails.
	conns   []*grpc.ClientConn
	current atomic.Int32
	closing context.Context
	close   context.CancelFunc
}

type eventStore = eventstorev1.EventStoreServiceClient

// Open makes a client from a connection string. It reads the PEM files, and connects at the first call.
func Open(connection string) (*Client, error) {
	options, err := ParseOptions(connection)
	if err != nil {
		return nil, err
	}
	return NewClient(options)
}

// NewClient makes a client. It reads the PEM files, and connects at the first call.
func NewClient(options Options) (*Client, error) {
	if err := options.check(); err != nil {
		return nil, err
	}
	transport, err := options.credentials()
	if err != nil {
		return nil, err
	}
	reconnect := backoff.Config{BaseDelay: backoffMin, Multiplier: 2, Jitter: 0.2, MaxDelay: backoffMax}
	c := &Client{options: options}
	c.eventStore = eventstorev1.NewEventStoreServiceClient(c)
	c.CommandServiceClient = worldv1.NewCommandServiceClient(c)
	c.WorldServiceClient = worldv1.NewWorldServiceClient(c)
	c.closing, c.close = context.WithCancel(context.Background())
	for _, host := range options.Hosts {
		conn, err := grpc.NewClient("dns:///"+host, grpc.WithTransportCredentials(transport),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: options.AttemptDeadline}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
			grpc.WithDisableRetry(), grpc.WithDisableServiceConfig())
		if err != nil {
			c.Close()
			return nil, invalid("address", err.Error())
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

// Options returns the options, with the defaults filled in.
func (c *Client) Options() Options { return c.options }

// Close ends all calls and subscriptions. It always returns nil.
func (c *Client) Close() error {
	c.close()
	for _, conn := range c.conns {
		conn.Close()
	}
	return nil
}

// NewID returns a random UUID (version 4).
func NewID() string {
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// The attempts of one call, or of an iterator.
type attempts struct {
	client         *Client
	caller         context.Context
	write, follows bool      // A subscription follows: it ends with an error only.
	until          time.Time // The end of all attempts; zero: never.
	// The time that an iterator has again after each message, and an attempt for a message (0: any time).
	span, wait time.Duration

	failures int
	last     error
	unknown  bool
}

// A context with a deadline replaces the one of the options.
func (c *Client) attempts(ctx context.Context, iterates bool) *attempts {
	a := &attempts{client: c, caller: ctx, wait: c.options.AttemptDeadline}
	until, set := ctx.Deadline()
	if a.until = until; !set {
		a.until = time.Now().Add(c.options.Deadline)
	}
	if iterates && !set {
		a.span = c.options.Deadline
	}
	return a
}

func (a *attempts) left() time.Duration {
	if a.until.IsZero() {
		return math.MaxInt64
	}
	return time.Until(a.until)
}

// Says why the client or the caller has ended the attempts, if so.
func (a *attempts) ended() error {
	switch {
	case a.client.closing.Err() != nil:
		return &Error{Code: codes.Canceled, Reason: "CLOSED", Message: ErrClosed.Error(), cause: ErrClosed}
	case errors.Is(a.caller.Err(), context.Canceled):
		return &Error{Code: codes.Canceled, Message: "the context was canceled", cause: context.Canceled}
	case a.caller.Err() != nil:
		return deadlineExceeded(a.last, a.unknown)
	}
	return nil
}

var errStopped = errors.New("the loop over the iterator has ended")

// Makes attempts until one succeeds, its error is not temporary, or the deadline is reached.
func (a *attempts) run(attempt func(context.Context, *grpc.ClientConn, grpc.CallOption) error) error {
	for a.left() > 0 {
		if err := a.ended(); err != nil {
			return err
		}
		ctx, err := a.client.options.authorized(a.caller)
		if err != nil {
			return err
		}
		host, to := a.client.current.Load(), peer.Peer{}
		if err = attempt(ctx, a.client.conns[host], grpc.Peer(&to)); err == nil || err == errStopped {
			return err
		}
		failure := typed(err)
		if e := baseOf(failure); !e.temporary() {
			return failure
		} else if err := a.failed(failure, e, host, to.Addr != nil); err != nil {
			return err
		}
	}
	return deadlineExceeded(a.last, a.unknown)
}

// Waits until the next attempt. Returns an error if the deadline comes first.
func (a *attempts) failed(failure error, e *Error, host int32, sent bool) error {
	a.unknown = a.unknown || a.write && (sent || e.late()) && !e.nothingStored()
	// That an attempt took too long says less than why those before it failed.
	if a.last == nil || e.Code != codes.DeadlineExceeded {
		a.last = failure
	}
	delay := cmp.Or(e.RetryAfter, mathrand.N(min(backoffMax, backoffMin<<min(a.failures, 10))+1))
	a.failures++
	if e.Reason == "" && (e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded) {
		// Unless another call has gone on to the next host already.
		next := (host + 1) % int32(len(a.client.conns))
		if a.client.current.CompareAndSwap(host, next); a.failures < len(a.client.conns) {
			delay = 0 // Every host is tried once before the first delay.
		}
	}
	if err := a.ended(); err != nil {
		return err
	}
	if delay >= a.left() {
		return deadlineExceeded(a.last, a.unknown)
	}
	slog.Debug("aethyr: another attempt follows", "after", delay, "error", a.last)
	return a.pause(min(delay, waitMax))
}

// Waits, unless the client or the caller ends the attempts.
func (a *attempts) pause(delay time.Duration) error {
	select {
	case <-time.After(delay):
	case <-a.caller.Done():
	case <-a.client.closing.Done():
	}
	return a.ended()
}

// Invoke implements grpc.ClientConnInterface: one call with all of its attempts.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	a := c.attempts(ctx, false)
	switch request := args.(type) {
	case *eventstorev1.AppendEventsRequest:
		a.write = true
		for _, event := range request.Events {
			event.EventId = cmp.Or(event.EventId, NewID())
		}
	case *worldv1.ExecuteCommandsRequest:
		a.write = true
		for _, command := range request.Commands {
			command.CommandId = cmp.Or(command.CommandId, NewID())
		}
	case *eventstorev1.SaveSnapshotRequest:
		a.write = true
	}
	return a.run(func(ctx context.Context, conn *grpc.ClientConn, to grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, min(a.wait, a.left()))
		defer cancel()
		return conn.Invoke(ctx, method, args, reply, append(options[:len(options):len(options)], to)...)
	})
}

// NewStream implements grpc.ClientConnInterface: one attempt, with the errors of gRPC.
func (c *Client) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	ctx, err := c.options.authorized(ctx)
	if err != nil {
		return nil, err
	}
	return c.conns[c.current.Load()].NewStream(ctx, desc, method, options...)
}

// The messages of a stream, with all of its attempts. rest returns the request for what has not arrived
// yet, or nil if everything has.
func stream[Request, Response any](a *attempts, rest func() *Request, method func(
	context.Context, *Request, ...grpc.CallOption) (grpc.ServerStreamingClient[Response], error),
) iter.Seq2[*Response, error] {
	return func(yield func(*Response, error) bool) {
		err := a.run(func(context.Context, *grpc.ClientConn, grpc.CallOption) error {
			request := rest()
			if request == nil {
				return nil
			}
			ctx, cancel := context.WithCancel(a.caller)
			defer cancel()
			silence := time.AfterFunc(min(a.wait, a.left()), cancel)
			defer silence.Stop()
			stream, err := method(ctx, request)
			for live := false; err == nil; live = true {
				var response *Response
				if response, err = stream.Recv(); err == nil {
					silence.Stop()
					if !yield(response, nil) {
						return errStopped
					}
					if a.failures = 0; a.span > 0 {
						a.until = time.Now().Add(a.span)
					}
					if a.wait > 0 {
						silence.Reset(min(a.wait, a.left()))
					}
				} else if live && a.follows && status.Code(err) == codes.Unauthenticated {
					// A stream ends when its token is replaced. With the new one, it goes on.
					return status.Error(codes.Canceled, "the credentials have changed")
				}
			}
			switch {
			case err == io.EOF && a.follows:
				return status.Error(codes.Unavailable, "the service ended the stream")
			case err == io.EOF:
				return nil
			case a.caller.Err() == nil && ctx.Err() != nil:
				return status.Error(codes.DeadlineExceeded, "no message arrived in time")
			}
			return err
		})
		if err != nil && err != errStopped {
			yield(nil, err)
		}
	}
}

// Passes a value on to a loop, unless the client or the caller has ended it.
func pass[T any](a *attempts, yield func(T, error) bool, value T) bool {
	if err := a.ended(); err != nil {
		var none T
		yield(none, err)
		return false
	}
	return yield(value, nil)
}

// Pages calls a method that lists, such as ListAggregates of a client, for each page.
func Pages[Request proto.Message, Page interface{ GetNextPageToken() string }](
	ctx context.Context, list func(context.Context, Request, ...grpc.CallOption) (Page, error), request Request,
) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		request := proto.CloneOf(request)
		token := request.ProtoReflect().Descriptor().Fields().ByName("page_token")
		for {
			page, err := list(ctx, request)
			if !yield(page, err) || err != nil || page.GetNextPageToken() == "" {
				return
			}
			request.ProtoReflect().Set(token, protoreflect.ValueOfString(page.GetNextPageToken()))
		}
	}
}
