// Compares answers and errors with what a case says, and turns messages into the form of the cases.

package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	aethyr "github.com/aethyr/event-store/clients/go"
)

// Something that fails a case, and is not an error of the client.
type mismatch struct{ text string }

func (m *mismatch) Error() string { return m.text }

func show(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	if len(text) > 300 {
		return string(text[:300]) + "…"
	}
	return string(text)
}

func isDefault(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case float64:
		return value == 0
	case string:
		return value == ""
	case bool:
		return !value
	case []any:
		return len(value) == 0
	case object:
		return len(value) == 0
	}
	return false
}

func compare(path string, want, got any) error {
	if want == "$any" {
		if isDefault(got) {
			return &mismatch{path + " is missing or has the default value"}
		}
		return nil
	}
	switch want := want.(type) {
	case object:
		if length, ok := want["$length"]; ok {
			return compareLength(path, want, length, got)
		}
		if fields, ok := got.(object); ok {
			for key, value := range want {
				if err := compare(path+"."+key, value, fields[key]); err != nil {
					return err
				}
			}
			return nil
		}
	case []any:
		items, _ := got.([]any)
		if len(items) != len(want) {
			return &mismatch{fmt.Sprintf("%s has %d elements and not %d: %s", path, len(items), len(want), show(got))}
		}
		for i := range want {
			if err := compare(fmt.Sprintf("%s.%d", path, i), want[i], items[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if isDefault(want) && isDefault(got) || reflect.DeepEqual(want, got) {
		return nil
	}
	return &mismatch{fmt.Sprintf("%s is %s and not %s", path, show(got), show(want))}
}

func compareLength(path string, want object, length, got any) error {
	items, _ := got.([]any)
	if float64(len(items)) != length {
		return &mismatch{fmt.Sprintf("%s has %d elements and not %v", path, len(items), length)}
	}
	if len(items) == 0 {
		return nil
	}
	if first, ok := want["$first"]; ok {
		if err := compare(path+".$first", first, items[0]); err != nil {
			return err
		}
	}
	if last, ok := want["$last"]; ok {
		if err := compare(path+".$last", last, items[len(items)-1]); err != nil {
			return err
		}
	}
	field, ok := want["$counts"].(string)
	for i := 1; ok && i < len(items); i++ {
		before, _ := items[i-1].(object)[field].(float64)
		if items[i].(object)[field] != before+1 {
			return &mismatch{fmt.Sprintf("%s.%d.%s does not follow %v", path, i, field, before)}
		}
	}
	return nil
}

// The fields of an error, as the cases name them.
func errorFields(err error) object {
	fields := object{"message": err.Error()}
	var base *aethyr.Error
	if !errors.As(err, &base) {
		return fields
	}
	fields["code"] = code.Code_name[int32(base.Code)]
	fields["reason"], fields["domain"], fields["type"] = base.Reason, base.Domain, "AethyrError"
	if name := strings.TrimSuffix(reflect.TypeOf(err).Elem().Name(), "Error"); name != "" {
		fields["type"] = strings.Replace(name, "ID", "Id", 1)
	}
	switch err := err.(type) {
	case *aethyr.WrongExpectedSequenceError:
		fields["aggregate_id"] = err.AggregateID
		fields["expected"], fields["actual"] = float64(err.Expected), float64(err.Actual)
	case *aethyr.EventIDReusedError:
		fields["event_id"] = err.EventID
	case *aethyr.NameTakenError:
		fields["id"], fields["name"] = err.ID, err.Name
	case *aethyr.NotAllowedError:
		fields["right"] = err.Right
	case *aethyr.WorldRuleError:
		fields["rule"], fields["aggregate_id"] = err.Rule, err.Metadata["aggregate_id"]
	case *aethyr.ResourceExhaustedError:
		fields["limit"] = err.Limit
	case *aethyr.DeadlineExceededError:
		fields["outcome_unknown"] = err.OutcomeUnknown
	case *aethyr.InvalidArgumentError:
		var names []any
		for _, violation := range err.Violations {
			names = append(names, violation.Field)
		}
		fields["field"] = names
	}
	return fields
}

func compareError(want, fields object) error {
	message := fields["message"].(string)
	for key, value := range want {
		names, _ := fields["field"].([]any)
		matches := false
		switch key {
		case "field":
			matches = slices.Contains(names, value)
		case "message_has":
			matches = strings.Contains(message, value.(string))
		case "message_lacks":
			matches = !strings.Contains(message, value.(string))
		default:
			matches = compare("error."+key, value, fields[key]) == nil
		}
		if !matches {
			return &mismatch{fmt.Sprintf("the error has %s %s and not %s", key, show(fields[key]), show(value))}
		}
	}
	return nil
}

// A message in the form of the cases.
func plain(message proto.Message) object {
	fields := object{}
	message.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := string(field.Name())
		switch {
		case field.IsList():
			items := []any{}
			for i := range value.List().Len() {
				items = append(items, plainValue(field, value.List().Get(i)))
			}
			fields[name] = items
		case field.IsMap():
			entries := object{}
			value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				entries[key.String()] = plainValue(field.MapValue(), value)
				return true
			})
			fields[name] = entries
		case message.ProtoReflect().Descriptor().Oneofs().ByName("data") == nil || field.ContainingOneof() == nil:
			fields[name] = plainValue(field, value)
		case name == "json":
			var data any
			if err := json.Unmarshal([]byte(value.String()), &data); err != nil {
				data = err.Error()
			}
			fields["data"] = data
		case name == "binary":
			fields["data"] = object{"binary": hex.EncodeToString(value.Bytes())}
		}
		return true
	})
	return fields
}

func plainValue(field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	switch inside := value.Interface().(type) {
	case protoreflect.Message:
		if inside.Descriptor().ParentFile().Package() != "google.protobuf" {
			return plain(inside.Interface())
		}
		var decoded any
		text, err := protojson.Marshal(inside.Interface())
		if err == nil {
			err = json.Unmarshal(text, &decoded)
		}
		if err != nil {
			return err.Error()
		}
		return decoded
	case protoreflect.EnumNumber:
		if known := field.Enum().Values().ByNumber(inside); known != nil {
			return string(known.Name())
		}
		return float64(inside)
	case []byte:
		return hex.EncodeToString(inside)
	case uint64:
		return float64(inside)
	case int64:
		return float64(inside)
	case uint32:
		return float64(inside)
	case int32:
		return float64(inside)
	case float32:
		return float64(inside)
	}
	return value.Interface()
}

func plainAll[M proto.Message](messages []M) []any {
	items := make([]any, 0, len(messages))
	for _, message := range messages {
		items = append(items, plain(message))
	}
	return items
}
