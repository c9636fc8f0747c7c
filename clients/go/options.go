// The options of a client, as a connection string and as a struct; the token, and TLS.

package aethyr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	scheme     = "aethyr://"
	parameters = "attempt_deadline, ca, cert, deadline, key, server_name, tls, token_file"
)

// Secret is a text that fmt, slog and the encoders show as `***`.
type Secret string

// Format implements fmt.Formatter.
func (s Secret) Format(state fmt.State, _ rune) { io.WriteString(state, "***") }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Options of a client. The zero value of a field is its default.
type Options struct {
	// Hosts are addresses of the service, `host` or `host:port`. The default port is 50051. A call that
	// does not reach one host goes to the next. Required.
	Hosts []string
	// TLS is switched on by this field, by CA and by Cert. CA is a PEM file with the certificates to
	// verify the service with (default: the system's), ServerName the name in its certificate (default:
	// the host). Cert and Key are PEM files with the certificate of the client and its key.
	TLS                       bool
	CA, Cert, Key, ServerName string
	// Token is sent with each call. TokenFile has it in its first line, and is read again when it changes.
	Token     Secret
	TokenFile string
	// Deadline of a call with all of its attempts, if its context has none (default 15 s), and of one
	// attempt, or of one message of a stream (default 5 s).
	Deadline, AttemptDeadline time.Duration
	// Logger gets retries (Debug), and problems that fail no call (Warn). Default: slog.Default().
	Logger *slog.Logger

	source string
}

// ParseOptions reads a connection string: `aethyr://[TOKEN@]HOST[:PORT],…?PARAMETER=VALUE&…` with the
// parameters tls (on, off), ca, cert, key, server_name, token_file, deadline and attempt_deadline (with ms,
// s or m).
func ParseOptions(connection string) (Options, error) {
	var options Options
	rest, found := strings.CutPrefix(connection, scheme)
	if !found {
		return options, invalid("address", "a connection string begins with "+scheme)
	}
	rest, query, _ := strings.Cut(rest, "?")
	options.source = connection
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		token, err := url.PathUnescape(rest[:at])
		if err != nil {
			return options, invalid("address", "the token is not percent-encoded correctly")
		}
		options.Token, options.source = Secret(token), scheme+"***"+connection[len(scheme)+at:]
		rest = rest[at+1:]
	}
	for _, host := range strings.Split(strings.TrimSuffix(rest, "/"), ",") {
		address, _, err := address(host)
		if err != nil {
			return options, err
		}
		options.Hosts = append(options.Hosts, address)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return options, invalid("address", "the parameters are not percent-encoded correctly")
	}
	for name, given := range values {
		if err := options.set(name, given[len(given)-1]); err != nil {
			return options, err
		}
	}
	if values.Get("tls") == "off" && options.usesTLS() {
		return options, invalid("tls", "tls=off contradicts ca, cert and key")
	}
	return options, options.check()
}

func (o *Options) set(name, value string) (err error) {
	texts := map[string]*string{
		"ca": &o.CA, "cert": &o.Cert, "key": &o.Key, "server_name": &o.ServerName, "token_file": &o.TokenFile,
	}
	times := map[string]*time.Duration{"deadline": &o.Deadline, "attempt_deadline": &o.AttemptDeadline}
	switch text := texts[name]; {
	case text != nil:
		*text = value
	case name == "tls" && (value == "on" || value == "off"):
		o.TLS = value == "on"
	case times[name] != nil && regexp.MustCompile(`^0*[1-9][0-9]{0,8}(ms|s|m)$`).MatchString(value):
		*times[name], err = time.ParseDuration(value)
	case name == "tls" || times[name] != nil:
		err = invalid(name, fmt.Sprintf("the parameter %s cannot be %q", name, value))
	default:
		if !regexp.MustCompile(`^[A-Za-z_-]{1,40}$`).MatchString(name) {
			name = "***" // It may be a part of a token that is not percent-encoded.
		}
		err = invalid(name, fmt.Sprintf("unknown parameter %s; known are %s", name, parameters))
	}
	return err
}

// String returns the connection string that the options are from, or else the hosts. A token is `***`.
func (o Options) String() string {
	if o.source == "" {
		return scheme + strings.Join(o.Hosts, ",")
	}
	return o.source
}

// Returns `host:port`, and whether the host is this machine.
func address(host string) (joined string, loopback bool, err error) {
	name, port := host, "50051"
	if inside, found := strings.CutPrefix(host, "["); found && strings.HasSuffix(inside, "]") {
		name = strings.TrimSuffix(inside, "]")
	} else if strings.Contains(host, ":") {
		name, port, err = net.SplitHostPort(host)
	}
	number, wrong := strconv.ParseUint(port, 10, 16)
	ip := net.ParseIP(name)
	bad := name == "" || strings.ContainsAny(name, "/@[]%\t ") || strings.Contains(name, ":") && ip == nil
	if err != nil || wrong != nil || number == 0 || bad {
		return "", false, invalid("address", fmt.Sprintf("%q is not host:port; an IPv6 host has brackets", host))
	}
	return net.JoinHostPort(name, port), name == "localhost" || ip != nil && ip.IsLoopback(), nil
}

func (o Options) usesTLS() bool { return o.TLS || o.CA != "" || o.Cert != "" || o.Key != "" }

func (o Options) check() error {
	switch {
	case len(o.Hosts) == 0:
		return invalid("address", "no host is given")
	case (o.Cert == "") != (o.Key == ""):
		return invalid("cert", "cert and key belong together")
	case o.Token != "" && o.TokenFile != "":
		return invalid("token_file", "there are both a token and a token_file")
	case o.Deadline < 0 || o.AttemptDeadline < 0:
		return invalid("deadline", "a deadline is negative")
	}
	for _, host := range o.Hosts {
		_, loopback, err := address(host)
		if err != nil {
			return err
		}
		if !o.usesTLS() && !loopback && (o.Token != "" || o.TokenFile != "") {
			return invalid("tls", "a token is not sent to "+host+" without TLS, because it would be readable "+
				"on the network: set tls=on or ca")
		}
	}
	return nil
}

func (o Options) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{ServerName: o.ServerName, MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, invalid("ca", err.Error())
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, invalid("ca", o.CA+" has no certificate in PEM")
		}
	}
	if o.Cert != "" {
		certificate, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, invalid("cert", err.Error())
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return config, nil
}

// The token as credentials of a call.
type token struct {
	file     string
	tls      bool
	lock     sync.Mutex
	text     string
	modified time.Time
}

func (t *token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	t.lock.Lock()
	defer t.lock.Unlock()
	if t.file != "" {
		info, err := os.Stat(t.file)
		if err != nil {
			return nil, err
		}
		if !info.ModTime().Equal(t.modified) {
			content, err := os.ReadFile(t.file)
			if err != nil {
				return nil, err
			}
			line, _, _ := strings.Cut(string(content), "\n")
			t.text, t.modified = strings.TrimSpace(line), info.ModTime()
		}
	}
	return map[string]string{"authorization": "Bearer " + t.text}, nil
}

func (t *token) RequireTransportSecurity() bool { return t.tls }
