//go:build tools

// Imports the program that the benchmark builds, so that `go mod tidy` keeps its dependencies.
package tools

import (
	_ "github.com/nats-io/nats-server/v2"
)
