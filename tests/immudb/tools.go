//go:build tools

// Names the programs that the tests build, so that `go mod tidy` keeps what they need.
package tools

import (
	_ "github.com/codenotary/immudb/cmd/immudb"
)
