//go:build tools

// Names the program whose version go.mod pins; `tests/it/witnessing.rs` builds it.
package main

import _ "filippo.io/torchwood/cmd/litewitness"
