//go:build tools

// Names the program whose version go.mod pins; `tests/it/documents` builds it.
package tools

import _ "github.com/fullstorydev/grpcurl/cmd/grpcurl"
