// Package aethyr is the client of Aethyr Event Store.
//
// A [Client] makes the ids of events and commands before the first attempt of a call, and repeats a call
// that failed for a temporary reason until its deadline. So a call that succeeds had its effect once.
package aethyr

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	mathrand "math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
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
	dial    []grpc.DialOption
	hosts   *hosts
	closing context.Context
	close   context.CancelFunc
}

type eventStore = eventstorev1.EventStoreServiceClient

var newStore = eventstorev1.NewEventStoreServiceClient

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
	if options.Deadline == 0 {
		options.Deadline = 15 * time.Second
	}
	if options.AttemptDeadline == 0 {
		options.AttemptDeadline = 5 * time.Second
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	transport := insecure.NewCredentials()
	if options.usesTLS() {
		config, err := options.tlsConfig()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(config)
	}
	reconnect := backoff.Config{BaseDelay: backoffMin, Multiplier: 2, Jitter: 0.2, MaxDelay: backoffMax}
	c := &Client{options: options, dial: []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: reconnect, MinConnectTimeout: options.AttemptDeadline,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
	}}
	if options.Token != "" || options.TokenFile != "" {
		token := &token{text: string(options.Token), file: options.TokenFile, tls: options.usesTLS()}
		c.dial = append(c.dial, grpc.WithPerRPCCredentials(token))
	}
	c.closing, c.close = context.WithCancel(context.Background())
	c.eventStore = newStore(c)
	c.CommandServiceClient = worldv1.NewCommandServiceClient(c)
	c.WorldServiceClient = worldv1.NewWorldServiceClient(c)
	var err error
	c.hosts, err = c.connect()
	return c, err
}

// Options returns the options, with the defaults filled in.
func (c *Client) Options() Options { return c.options }

// Close ends all calls and subscriptions. It always returns nil.
func (c *Client) Close() error {
	c.close()
	c.hosts.close()
	return nil
}

// NewID returns a random UUID (version 4).
func NewID() string {
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// Connections to the hosts. All calls use the current one until it fails.
type hosts struct {
	conns   []*grpc.ClientConn
	current atomic.Int32
}

func (c *Client) connect() (*hosts, error) {
	made := &hosts{}
	for _, host := range c.options.Hosts {
		name, _, _ := address(host) // The options have been checked.
		conn, err := grpc.NewClient("dns:///"+name, c.dial...)
		if err != nil {
			made.close()
			return nil, invalid("address", err.Error())
		}
		made.conns = append(made.conns, conn)
	}
	return made, nil
}

func (h *hosts) close() {
	for _, conn := range h.conns {
		conn.Close()
	}
}

// The attempts of one call.
type attempts struct {
	client *Client
	hosts  *hosts
	write  bool
	// The caller's context, and that of the attempts.
	caller, ctx context.Context
	cancel      context.CancelFunc
	// How long an attempt waits for a message, and attempts go on without one (streams only); 0: forever.
	wait, idle time.Duration
	progressed time.Time
	follows    bool // A subscription, which ends with an error only.

	tries, moved int
	last         error
	unknown      bool
}

func (c *Client) attempts(ctx context.Context) *attempts {
	a := &attempts{client: c, hosts: c.hosts, caller: ctx, wait: c.options.AttemptDeadline}
	a.ctx, a.cancel = c.withDeadline(ctx)
	return a
}

func (c *Client) withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, set := ctx.Deadline(); set {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.options.Deadline)
}

// The attempts of an iterator, whose deadline begins again with each message.
func (c *Client) iteration(ctx context.Context) *attempts {
	a := &attempts{client: c, hosts: c.hosts, caller: ctx, wait: c.options.AttemptDeadline}
	a.ctx, a.cancel = context.WithCancel(ctx)
	a.idle, a.progressed = c.options.Deadline, time.Now()
	return a
}

// An error that ends the attempts as it is.
type final struct{ error }

// Makes attempts until one succeeds, its error is not temporary, or the deadline is reached.
func (a *attempts) run(attempt func(context.Context, *grpc.ClientConn, grpc.CallOption) error) error {
	defer a.cancel()
	for a.client.closing.Err() == nil {
		host := a.hosts.current.Load()
		conn := a.hosts.conns[host]
		var to peer.Peer
		err := attempt(a.ctx, conn, grpc.Peer(&to))
		if err == nil {
			return nil
		}
		if end, ok := err.(final); ok {
			return end.error
		}
		failure := typed(err)
		if err := a.failed(failure, to.Addr != nil); err != nil {
			return err
		}
		if baseOf(failure).unreachable(conn.GetState() == connectivity.Ready) {
			// Unless another call has gone on to the next host already.
			a.hosts.current.CompareAndSwap(host, (host+1)%int32(len(a.hosts.conns)))
			a.moved++
		}
		if err := a.pause(baseOf(failure).RetryAfter); err != nil {
			return err
		}
	}
	return &Error{Code: codes.Canceled, Message: ErrClosed.Error(), cause: ErrClosed}
}

// Takes note of a failed attempt. Returns an error if it was the last one.
func (a *attempts) failed(failure error, sent bool) error {
	e := baseOf(failure)
	a.unknown = a.unknown || a.write && sent && e.temporary() && !e.nothingStored()
	switch {
	case errors.Is(a.caller.Err(), context.Canceled):
		return &Error{Code: codes.Canceled, Message: "the context was canceled", cause: context.Canceled}
	case a.ctx.Err() != nil && a.client.closing.Err() == nil:
		if a.last == nil {
			a.last = failure
		}
		return deadlineExceeded(a.last, a.unknown)
	case !e.temporary():
		return failure
	}
	// That an attempt took too long says less than why those before it failed.
	if a.last == nil || e.Code != codes.DeadlineExceeded {
		a.last = failure
	}
	return nil
}

// Waits before the next attempt. Returns an error if the deadline comes first.
func (a *attempts) pause(delay time.Duration) error {
	deadline, set := a.ctx.Deadline()
	if a.idle > 0 {
		deadline, set = a.progressed.Add(a.idle), true
	}
	if set && delay > time.Until(deadline) {
		return deadlineExceeded(a.last, a.unknown)
	}
	if a.moved > 0 && a.moved < len(a.hosts.conns) {
		delay = 0 // Every host is tried once before the first delay.
	} else if delay == 0 {
		delay = mathrand.N(min(backoffMax, backoffMin<<min(a.tries, 10)) + 1)
		a.tries++
	}
	a.client.options.Logger.Debug("aethyr: another attempt follows", "after", delay, "error", a.last)
	select {
	case <-time.After(delay):
	case <-a.ctx.Done():
	case <-a.client.closing.Done():
	}
	if a.idle > 0 && time.Now().After(deadline) {
		return deadlineExceeded(a.last, a.unknown)
	}
	return nil
}

// Invoke implements grpc.ClientConnInterface: one call with all of its attempts.
func (c *Client) Invoke(
	ctx context.Context, method string, args, reply any, options ...grpc.CallOption,
) error {
	a := c.attempts(ctx)
	switch request := args.(type) {
	case *eventstorev1.AppendEventsRequest:
		a.write = true
		for _, event := range request.Events {
			if event.EventId == "" {
				event.EventId = NewID()
			}
		}
	case *worldv1.ExecuteCommandsRequest:
		a.write = true
		for _, command := range request.Commands {
			if command.CommandId == "" {
				command.CommandId = NewID()
			}
		}
	case *eventstorev1.SaveSnapshotRequest:
		a.write = true
	}
	return a.run(func(ctx context.Context, conn *grpc.ClientConn, to grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, c.options.AttemptDeadline)
		defer cancel()
		return conn.Invoke(ctx, method, args, reply, append(options[:len(options):len(options)], to)...)
	})
}

// NewStream implements grpc.ClientConnInterface: one attempt.
func (c *Client) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := c.hosts.conns[c.hosts.current.Load()].NewStream(ctx, desc, method, options...)
	if err != nil {
		return nil, typed(err)
	}
	return typedStream{stream}, nil
}

type typedStream struct{ grpc.ClientStream }

func (s typedStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err == nil || err == io.EOF {
		return err
	}
	return typed(err)
}

// Receives a stream, with all of its attempts. rest returns the request for what has not arrived yet, or
// nil if everything has.
func stream[Service, Request, Response any](
	a *attempts,
	method func(
		Service, context.Context, *Request, ...grpc.CallOption,
	) (grpc.ServerStreamingClient[Response], error),
	service func(grpc.ClientConnInterface) Service, rest func() *Request, handle func(*Response) error,
) error {
	return a.run(func(ctx context.Context, conn *grpc.ClientConn, to grpc.CallOption) error {
		request := rest()
		if request == nil {
			return nil
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		silence := time.AfterFunc(a.client.options.AttemptDeadline, cancel)
		defer silence.Stop()
		stream, err := method(service(conn), ctx, request, to)
		for err == nil {
			var response *Response
			if response, err = stream.Recv(); err != nil {
				break
			}
			silence.Stop()
			if err := handle(response); err != nil {
				return final{err}
			}
			a.tries, a.moved, a.progressed = 0, 0, time.Now()
			if a.wait > 0 {
				silence.Reset(a.wait)
			}
		}
		if errors.Is(err, io.EOF) {
			if a.follows {
				return status.Error(codes.Unavailable, "the service ended the stream")
			}
			return nil
		}
		if a.ctx.Err() == nil && ctx.Err() != nil {
			return status.Error(codes.DeadlineExceeded, "no message arrived in time")
		}
		return err
	})
}

var errStopped = errors.New("the loop over the iterator has ended")

// Makes an iterator of a function that passes its values on.
func iterate[T any](run func(pass func(T) error) error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		err := run(func(value T) error {
			if !yield(value, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && err != errStopped {
			var none T
			yield(none, err)
		}
	}
}

// Pages calls a method that lists, such as ListAggregates of a client, for each page.
func Pages[Request proto.Message, Page interface{ GetNextPageToken() string }](
	ctx context.Context, list func(context.Context, Request, ...grpc.CallOption) (Page, error),
	request Request,
) iter.Seq2[Page, error] {
	return iterate(func(pass func(Page) error) error {
		request := proto.CloneOf(request)
		token := request.ProtoReflect().Descriptor().Fields().ByName("page_token")
		for {
			page, err := list(ctx, request)
			if err == nil {
				err = pass(page)
			}
			if err != nil || page.GetNextPageToken() == "" {
				return err
			}
			request.ProtoReflect().Set(token, protoreflect.ValueOfString(page.GetNextPageToken()))
		}
	})
}
