// Package aethyrtest starts a local service for the tests of a game.
package aethyrtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	aethyr "github.com/aethyr/event-store/clients/go"
)

// The storage is beside the configuration. Without a section for it, ImmuDB is not used.
const configuration = `server:
  listen: %s
  shutdown_grace: 2
event_sourcing:
  enabled: true
limits:
  disk_free_min: 0
`

const (
	program     = "aethyr-event-store"
	startMax    = 30 * time.Second
	stopMax     = 20 * time.Second
	healthEvery = 20 * time.Millisecond
)

// Service is a running service with a storage of its own, without ImmuDB.
type Service struct {
	// Address is `127.0.0.1:PORT`.
	Address string

	folder  string
	command *exec.Cmd
	output  bytes.Buffer
	ended   chan error
}

// Start starts a service for a test, and returns a client of it. Both end with the test. settings are
// further variables for the service, such as `AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLD=5`.
func Start(tb testing.TB, settings ...string) *aethyr.Client {
	tb.Helper()
	service, err := Run(tb.Context(), settings...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := service.Stop(); err != nil {
			tb.Error(err)
		}
	})
	client, err := aethyr.Open("aethyr://" + service.Address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close() })
	return client
}

// Run starts a service, with or without TLS, and waits until it is healthy. The program is
// $AETHYR_EVENT_STORE, or else aethyr-event-store in PATH.
func Run(ctx context.Context, settings ...string) (*Service, error) {
	path := os.Getenv("AETHYR_EVENT_STORE")
	if path == "" {
		path = program
	}
	path, err := exec.LookPath(path)
	if err != nil {
		return nil, fmt.Errorf("%w: build it with `cargo build --release` in a clone of the event store, and "+
			"name it in AETHYR_EVENT_STORE or put it into PATH", err)
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &Service{Address: address, ended: make(chan error, 1)}
	if s.folder, err = os.MkdirTemp("", "aethyr-test-"); err != nil {
		return nil, err
	}
	file := filepath.Join(s.folder, "server.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, configuration, address), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.folder))
	}
	s.command = exec.Command(path, "--config", file, "serve")
	s.command.Dir, s.command.Stdout, s.command.Stderr = s.folder, &s.output, &s.output
	for _, variable := range os.Environ() {
		// The service refuses variables of AETHYR_ that name no setting.
		if !strings.HasPrefix(variable, "AETHYR_") && !strings.HasPrefix(variable, "IMMUDB_") {
			s.command.Env = append(s.command.Env, variable)
		}
	}
	s.command.Env = append(s.command.Env, settings...)
	if err := s.command.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.folder))
	}
	go func() { s.ended <- s.command.Wait() }()
	if err := s.waitHealthy(ctx); err != nil {
		s.Stop()
		return nil, fmt.Errorf("%s: %w\n%s", path, err, s.output.Bytes())
	}
	return s, nil
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (s *Service) waitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	transport := insecure.NewCredentials()
	tlsSetting := func(variable string) bool { return strings.HasPrefix(variable, "AETHYR_SERVER__TLS=") }
	if slices.ContainsFunc(s.command.Env, tlsSetting) {
		transport = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}) // Only asks whether it is healthy.
	}
	conn, err := grpc.NewClient(s.Address, grpc.WithTransportCredentials(transport))
	if err != nil {
		return err
	}
	defer conn.Close()
	health := grpc_health_v1.NewHealthClient(conn)
	for {
		answer, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if answer.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING {
			return nil
		}
		select {
		case ended := <-s.ended:
			s.ended <- ended
			return fmt.Errorf("the service has ended: %v", ended)
		case <-ctx.Done():
			return fmt.Errorf("the service is not healthy: %v", err)
		case <-time.After(healthEvery):
		}
	}
}

// Stop ends the service, and removes its storage.
func (s *Service) Stop() error {
	err := s.command.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-s.ended:
	case <-time.After(stopMax):
		err = errors.Join(errors.New("the service did not stop"), s.command.Process.Kill(), <-s.ended)
	}
	return errors.Join(err, os.RemoveAll(s.folder))
}
