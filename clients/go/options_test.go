// Tests of connection strings and tokens.

package aethyr

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethyr/event-store/clients/go/eventstorev1"
)

func TestAConnectionStringIsRead(t *testing.T) {
	options, err := ParseOptions(
		"aethyr://127.0.0.1,[::1],store.example:7?ca=/a%20b.pem&server_name=s&deadline=700ms",
	)
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"127.0.0.1:50051", "[::1]:50051", "store.example:7"}
	if !slices.Equal(options.Hosts, hosts) || options.CA != "/a b.pem" || options.ServerName != "s" ||
		options.Deadline != 700*time.Millisecond || !options.usesTLS() {
		t.Errorf("%+v", options)
	}
}

func TestAWrongConnectionStringIsRefused(t *testing.T) {
	for connection, field := range map[string]string{
		"http://127.0.0.1":                     "address",
		"aethyr://":                            "address",
		"aethyr://::1":                         "address",
		"aethyr://a:0":                         "address",
		"aethyr://a:x":                         "address",
		"aethyr://a:65536":                     "address",
		"aethyr://a/b":                         "address",
		"aethyr://a,":                          "address",
		"aethyr://a?colour=red":                "colour",
		"aethyr://geheim?1@a":                  "***",
		"aethyr://a?tls=yes":                   "tls",
		"aethyr://a?tls=off&ca=x":              "tls",
		"aethyr://a?deadline=3":                "deadline",
		"aethyr://a?deadline=0s":               "deadline",
		"aethyr://a?deadline=3h":               "deadline",
		"aethyr://a?cert=x":                    "cert",
		"aethyr://geheim@a":                    "tls",
		"aethyr://127.0.0.1,a?token_file=t":    "tls",
		"aethyr://geheim@[::1]?token_file=t":   "token_file",
		"aethyr://geheim@a?ca=/does/not/exist": "ca",
	} {
		_, err := Open(connection)
		var refused *InvalidArgumentError
		if !errors.As(err, &refused) || refused.Violations[0].Field != field {
			t.Errorf("%s: %v", connection, err)
		} else if strings.Contains(err.Error(), "geheim") && field != "***" {
			t.Errorf("%s: the token is in %v", connection, err)
		}
	}
}

func TestATokenIsNeverShown(t *testing.T) {
	options, err := ParseOptions("aethyr://ge%2Fheim@localhost?deadline=1s")
	if err != nil || options.Token != "ge/heim" {
		t.Fatal(err)
	}
	if options.String() != "aethyr://***@localhost?deadline=1s" {
		t.Error(options)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "options", options, "token", options.Token)
	encoded, err := json.Marshal(options.Token)
	if err != nil {
		t.Fatal(err)
	}
	shown := log.String() + string(encoded)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb+verb+verb, options, &options, options.Token)
	}
	if strings.Contains(shown, "heim") || strings.Contains(shown, "6865696d") {
		t.Error(shown)
	}
}

func TestATokenFileIsReadAgainWhenItChanges(t *testing.T) {
	service := &fake{append: func(int, *eventstorev1.AppendEventsRequest) error { return nil }}
	file := filepath.Join(t.TempDir(), "token")
	client := open(t, Options{Hosts: []string{service.start(t)}, TokenFile: file})
	for i, token := range []string{"one\nmore\n", "two"} {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Unix(int64(1000+i), 0)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := client.Append(t.Context(), slices.Clone(oneEvent), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{"Bearer one", "Bearer one", "Bearer two", "Bearer two"}
	if !slices.Equal(service.tokens, want) {
		t.Error(service.tokens)
	}
}
