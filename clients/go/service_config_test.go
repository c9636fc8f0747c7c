// Tests of ../service-config.json, which callers of generated code use without this client.

package aethyr

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
)

func TestTheServiceConfigNamesEveryReadAndNoWrite(t *testing.T) {
	text, err := os.ReadFile("../service-config.json")
	must(t, err)
	var config struct {
		MethodConfig []struct {
			Name    []struct{ Service, Method string }
			Timeout string
		}
	}
	must(t, json.Unmarshal(text, &config))
	named := map[string]bool{}
	for _, methods := range config.MethodConfig {
		for _, name := range methods.Name {
			full := name.Service + "." + name.Method
			found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(full))
			must(t, err)
			if found.(protoreflect.MethodDescriptor).IsStreamingServer() && methods.Timeout != "" {
				t.Errorf("%s is a stream, and has a timeout", full)
			}
			named[name.Method] = true
		}
	}
	without := []string{
		"AppendEvents", "SaveSnapshot", "ExecuteCommands", "RebuildWorldState", "Subscribe",
		"VerifyAggregate", "VerifyAll",
	}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := 0; j < methods.Len() && strings.HasPrefix(string(file.Package()), "aethyr."); j++ {
				if name := string(methods.Get(j).Name()); named[name] == slices.Contains(without, name) {
					t.Errorf("%s: in the config is %v", name, named[name])
				}
			}
		}
		return true
	})
}

func TestTheServiceConfigRepeatsReadsBeforeTheirFirstMessage(t *testing.T) {
	text, err := os.ReadFile("../service-config.json")
	must(t, err)
	parts := 0
	service := &fake{append: func(int, *eventstorev1.AppendEventsRequest) error {
		return failure(codes.Unavailable, "")
	}}
	service.load = func(call int, _ *LoadRequest, send func(*eventstorev1.LoadEventsResponse)) error {
		if call == 1 {
			send(&eventstorev1.LoadEventsResponse{Events: events(1, 1)})
		}
		return failure(codes.Unavailable, "")
	}
	conn, err := grpc.NewClient(service.start(t), grpc.WithDefaultServiceConfig(string(text)),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	store := eventstorev1.NewEventStoreServiceClient(conn)
	stream, err := store.LoadEvents(t.Context(), &LoadRequest{})
	must(t, err)
	for ; err == nil; _, err = stream.Recv() {
		parts++
	}
	if parts != 2 || service.calls != 2 {
		t.Errorf("a load had %d parts after %d calls: %v", parts-1, service.calls, err)
	}
	service.calls = 0
	_, err = store.AppendEvents(t.Context(), &eventstorev1.AppendEventsRequest{})
	if err == nil || service.calls != 1 {
		t.Errorf("an append was called %d times: %v", service.calls, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
