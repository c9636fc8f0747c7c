// Tests of connection strings and tokens.

package aethyr

import (
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
		"aethyr://geheim?1@a":                  "address",
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
		} else if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the token is in %v", connection, err)
		}
	}
}

func TestATokenIsNeverShown(t *testing.T) {
	options, err := ParseOptions("aethyr://ge%2Fheim@localhost?deadline=1s")
	token, _ := options.Token()
	if err != nil || token != "ge/heim" {
		t.Fatal(err)
	}
	if options.String() != "aethyr://***@localhost?deadline=1s" {
		t.Error(options)
	}
	client := open(t, options)
	hidden := struct{ options Options }{options}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "options", options, "client", client)
	shown := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{options, &options, client, hidden, &hidden} {
			shown += fmt.Sprintf(verb, value)
		}
	}
	if refused, err := ParseOptions("aethyr://geheim@localhost?colour=red"); err == nil || refused.source != "" {
		t.Errorf("%v: the options are returned beside the error", err)
	}
	if strings.Contains(shown, "heim") || strings.Contains(shown, "6865696d") {
		t.Error(shown)
	}
}

func TestATokenFileIsReadForEachCall(t *testing.T) {
	service := &fake{append: func(int, *eventstorev1.AppendEventsRequest) error { return nil }}
	file := filepath.Join(t.TempDir(), "token")
	client := open(t, Options{Hosts: []string{service.start(t)}, TokenFile: file})
	for _, token := range []string{"one\nmore\n", "two", "", "ge heim\n"} {
		must(t, os.WriteFile(file, []byte(token), 0o600))
		must(t, os.Chtimes(file, time.Time{}, time.Unix(1000, 0))) // It seems not to have changed.
		_, err := client.Append(t.Context(), slices.Clone(oneEvent), nil)
		if refused := as[*InvalidArgumentError](err); refused != strings.Contains(" ge heim\n", token) ||
			err != nil && strings.Contains(err.Error(), "heim") {
			t.Errorf("%q: %v", token, err)
		}
	}
	if !slices.Equal(service.tokens, []string{"Bearer one", "Bearer two"}) {
		t.Error(service.tokens)
	}
}
