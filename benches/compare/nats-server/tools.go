//go:build tools

// Names the program that the benchmark builds, so that `go mod tidy` keeps what it needs.
package tools

import (
	_ "github.com/nats-io/nats-server/v2"
)
