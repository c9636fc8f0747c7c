// The errors of a client, and which of them a retry may overcome.

package aethyr

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is what every call fails with. The other types contain one, and errors.As finds it in them.
type Error struct {
	Code codes.Code
	// Reason, Domain and Metadata are those of google.rpc.ErrorInfo, if the error has one.
	Reason, Domain string
	Metadata       map[string]string
	Message        string
	// RetryAfter is the delay that the service asks for, or 0.
	RetryAfter time.Duration

	retry bool // The service asks for a retry, after whatever delay.
	cause error
}

// The other types embed an Error under this name, so that its method Error is theirs.
type base = Error

// Types of errors. A call that fails with an UnavailableError or an OutcomeUnknownError is repeated, so
// these are only the cause of a DeadlineExceededError.
type (
	// WrongExpectedSequenceError: another append came first. Nothing was stored.
	WrongExpectedSequenceError struct {
		*base
		AggregateID      string
		Expected, Actual uint64
	}
	// EventIDReusedError: the event id belongs to another event.
	EventIDReusedError struct {
		*base
		EventID string
	}
	// NameTakenError: the player ID cannot have the name, because another one has it.
	NameTakenError struct {
		*base
		ID, Name string
	}
	// NotFoundError: the object, event or snapshot does not exist.
	NotFoundError struct{ *base }
	// InvalidArgumentError: fields of the request, or options of the client, are invalid.
	InvalidArgumentError struct {
		*base
		Violations []Violation
	}
	// UnauthenticatedError: the service does not accept the credentials.
	UnauthenticatedError struct{ *base }
	// NotAllowedError: the caller lacks a right.
	NotAllowedError struct {
		*base
		Right string
	}
	// HistoryChangedError: the checkpoint belongs to another history.
	HistoryChangedError struct{ *base }
	// WorldRuleError: a rule of the game world would be broken. Nothing was stored.
	WorldRuleError struct {
		*base
		Rule string
	}
	// DamagedError: stored data is damaged.
	DamagedError struct{ *base }
	// ResourceExhaustedError: a limit is reached.
	ResourceExhaustedError struct {
		*base
		Limit string
		Max   uint64
	}
	// UnavailableError: the service cannot be reached, or refuses the call for now.
	UnavailableError struct{ *base }
	// OutcomeUnknownError: the events may have been stored or not.
	OutcomeUnknownError struct{ *base }
	// DeadlineExceededError: the deadline was reached before an attempt succeeded. The error of the last
	// attempt is its cause. errors.Is finds context.DeadlineExceeded in it. OutcomeUnknown is true for a
	// write that may have been stored: the same events with the same ids tell.
	DeadlineExceededError struct {
		*base
		OutcomeUnknown bool
	}
	// Violation is a field that is invalid, and why.
	Violation struct{ Field, Description string }
)

// Error implements error.
func (e *Error) Error() string {
	text := "aethyr: " + code.Code_name[int32(e.Code)]
	if e.Reason != "" {
		text += " " + e.Reason
	}
	return text + ": " + e.Message
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// As makes errors.As find the Error in the other types.
func (e *Error) As(target any) bool {
	found, ok := target.(**Error)
	if ok {
		*found = e
	}
	return ok
}

// Is makes errors.Is find context.DeadlineExceeded.
func (e *DeadlineExceededError) Is(target error) bool { return target == context.DeadlineExceeded }

func baseOf(err error) (found *Error) {
	errors.As(err, &found)
	return found
}

func invalid(field, why string) error {
	return &InvalidArgumentError{&Error{Code: codes.InvalidArgument, Message: why}, []Violation{{field, why}}}
}

func deadlineExceeded(last error, unknown bool) error {
	text := "the deadline was reached"
	if unknown {
		text += ", and it is not known whether the call had an effect"
	}
	if last != nil {
		text = fmt.Sprintf("%s; the last error: %v", text, last)
	}
	return &DeadlineExceededError{&Error{Code: codes.DeadlineExceeded, Message: text, cause: last}, unknown}
}

// Gives the error of gRPC its type.
func typed(err error) error {
	if baseOf(err) != nil {
		return err
	}
	state := status.Convert(err)
	e := &Error{Code: state.Code(), Message: state.Message()}
	var violations []Violation
	for _, detail := range state.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.Domain, e.Metadata = detail.Reason, detail.Domain, detail.Metadata
		case *errdetails.RetryInfo:
			e.retry, e.RetryAfter = true, max(detail.RetryDelay.AsDuration(), 0)
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				violations = append(violations, Violation{violation.Field, violation.Description})
			}
		}
	}
	kind := kinds[e.Code]
	if of := kinds[e.Reason]; of != nil {
		kind = of
	}
	switch {
	case e.Code == codes.InvalidArgument:
		return &InvalidArgumentError{e, violations}
	case e.Code == codes.FailedPrecondition && (e.Domain == "aethyr.world" || e.Metadata["rule"] != ""):
		return &WorldRuleError{e, cmp.Or(e.Metadata["rule"], e.Reason)}
	case kind != nil:
		return kind(e)
	}
	return e
}

// The types of errors by reason, and else by code.
var kinds = map[any]func(*Error) error{
	"WRONG_EXPECTED_SEQUENCE": func(e *Error) error {
		return &WrongExpectedSequenceError{e, e.Metadata["aggregate_id"], e.number("expected"), e.number("actual")}
	},
	"EVENT_ID_REUSED":      func(e *Error) error { return &EventIDReusedError{e, e.Metadata["event_id"]} },
	"NAME_TAKEN":           func(e *Error) error { return &NameTakenError{e, e.Metadata["id"], e.Metadata["name"]} },
	"HISTORY_CHANGED":      func(e *Error) error { return &HistoryChangedError{e} },
	"OUTCOME_UNKNOWN":      func(e *Error) error { return &OutcomeUnknownError{e} },
	codes.NotFound:         func(e *Error) error { return &NotFoundError{e} },
	codes.Unauthenticated:  func(e *Error) error { return &UnauthenticatedError{e} },
	codes.PermissionDenied: func(e *Error) error { return &NotAllowedError{e, e.Metadata["right"]} },
	codes.DataLoss:         func(e *Error) error { return &DamagedError{e} },
	codes.Unavailable:      func(e *Error) error { return &UnavailableError{e} },
	codes.ResourceExhausted: func(e *Error) error {
		return &ResourceExhaustedError{e, e.Metadata["limit"], e.number("max")}
	},
}

func (e *Error) number(key string) uint64 {
	n, _ := strconv.ParseUint(e.Metadata[key], 10, 64)
	return n
}

// Says whether the next attempt may succeed.
func (e *Error) temporary() bool {
	switch e.Code {
	case codes.Unavailable, codes.Unknown, codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return e.Code == codes.ResourceExhausted && e.retry || e.Code == codes.Aborted && e.Reason == "CONTENTION"
}

// Says whether a temporary error tells that nothing was stored.
func (e *Error) nothingStored() bool { return e.Reason != "" && e.Code != codes.Unknown }

// Says whether time was the reason, also that of an attempt to connect.
func (e *Error) late() bool {
	return e.Code == codes.DeadlineExceeded || strings.Contains(e.Message, "deadline exceeded") ||
		strings.Contains(e.Message, "timeout")
}
