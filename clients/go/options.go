// The options of a client, as a connection string and as a struct; the token, and TLS.

package aethyr

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const (
	scheme     = "aethyr://"
	parameters = "attempt_deadline, ca, cert, deadline, key, server_name, tls, token_file"
)

var (
	hostForm     = regexp.MustCompile(`^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([1-9][0-9]{0,4}))?$`)
	loopbackForm = regexp.MustCompile(`^(localhost|127(\.[0-9]{1,3}){3}|\[::1\]):[0-9]+$`)
	timeForm     = regexp.MustCompile(`^[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m)$`)
	tokenForm    = regexp.MustCompile(`^[!-~]+$`)
)

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
	// Token returns what is sent with each attempt. As a function, it is never shown. TokenFile has the
	// token in its first line, and is read for each attempt.
	Token     func() (string, error)
	TokenFile string
	// Deadline of a call with all of its attempts, if its context has none (default 15 s), and of one
	// attempt, or of one message of a stream (default 5 s).
	Deadline, AttemptDeadline time.Duration

	source string
}

// ParseOptions reads a connection string: `aethyr://[TOKEN@]HOST[:PORT],…?PARAMETER=VALUE&…` with the
// parameters tls (on, off), ca, cert, key, server_name, token_file, deadline and attempt_deadline (with ms,
// s or m).
func ParseOptions(connection string) (Options, error) {
	rest, found := strings.CutPrefix(connection, scheme)
	if !found {
		return Options{}, invalid("address", "a connection string begins with "+scheme)
	}
	where, query, _ := strings.Cut(rest, "?")
	options := Options{source: connection}
	if at := strings.LastIndex(where, "@"); at >= 0 {
		token, err := url.PathUnescape(where[:at])
		if err != nil || !tokenForm.MatchString(token) {
			return Options{}, invalid("address", "the token is empty, or not percent-encoded correctly")
		}
		options.Token = func() (string, error) { return token, nil }
		options.source = scheme + "***" + rest[at:]
		where = where[at+1:]
	}
	options.Hosts = strings.Split(strings.TrimSuffix(where, "/"), ",")
	if strings.Contains(query, "@") { // It may be a part of the token.
		return Options{}, invalid("address", "@ and ? in a token or a value have to be percent-encoded")
	}
	given := map[string]string{}
	for pair := range strings.SplitSeq(query, "&") {
		name, encoded, _ := strings.Cut(pair, "=")
		value, err := url.PathUnescape(encoded)
		if err != nil {
			return Options{}, invalid("address", "a value is not percent-encoded correctly")
		} else if _, twice := given[name]; twice {
			return Options{}, invalid(name, name+" is there twice")
		} else if err := options.set(name, value); pair != "" && err != nil {
			return Options{}, err
		} else if pair != "" {
			given[name] = value
		}
	}
	if given["tls"] == "off" && options.usesTLS() {
		return Options{}, invalid("tls", "tls=off contradicts ca, cert and key")
	}
	if err := options.check(); err != nil {
		return Options{}, err
	}
	return options, nil
}

func (o *Options) set(name, value string) error {
	right := value != ""
	switch field := map[string]any{
		"tls": &o.TLS, "ca": &o.CA, "cert": &o.Cert, "key": &o.Key, "server_name": &o.ServerName,
		"token_file": &o.TokenFile, "deadline": &o.Deadline, "attempt_deadline": &o.AttemptDeadline,
	}[name].(type) {
	case *bool:
		*field, right = value == "on", value == "on" || value == "off"
	case *string:
		*field = value
	case *time.Duration:
		*field, _ = time.ParseDuration(value)
		right = timeForm.MatchString(value) && *field > 0
	default:
		return invalid(name, fmt.Sprintf("unknown parameter %s; known are %s", name, parameters))
	}
	if !right {
		return invalid(name, name+" has no value, or a wrong one")
	}
	return nil
}

// String returns the connection string that the options are from, or else the hosts. A token is `***`.
func (o Options) String() string {
	if o.source == "" {
		return scheme + strings.Join(o.Hosts, ",")
	}
	return o.source
}

func (o Options) usesTLS() bool { return o.TLS || o.CA != "" || o.Cert != "" || o.Key != "" }

// Checks the options, and fills in defaults.
func (o *Options) check() error {
	o.Deadline = cmp.Or(o.Deadline, 15*time.Second)
	o.AttemptDeadline = cmp.Or(o.AttemptDeadline, 5*time.Second)
	o.Hosts = slices.Clone(o.Hosts)
	far := ""
	for i, host := range o.Hosts {
		parts := hostForm.FindStringSubmatch(host)
		if parts == nil || len(parts[2]) == 5 && parts[2] > "65535" {
			return invalid("address", "a host has to be NAME, NAME:PORT or [IPV6]:PORT")
		}
		if o.Hosts[i] = parts[1] + ":" + cmp.Or(parts[2], "50051"); !loopbackForm.MatchString(o.Hosts[i]) {
			far = o.Hosts[i]
		}
	}
	secret := o.Token != nil || o.TokenFile != ""
	for _, rule := range []struct {
		broken     bool
		field, why string
	}{
		{len(o.Hosts) == 0, "address", "no host is given"},
		{(o.Cert == "") != (o.Key == ""), "cert", "cert and key belong together"},
		{o.ServerName != "" && !o.usesTLS(), "tls", "server_name needs TLS"},
		{o.Token != nil && o.TokenFile != "", "token_file", "there are both a token and a token_file"},
		{secret && far != "" && !o.usesTLS(), "tls", "a token to " + far + " could be read: set tls=on or ca"},
		{o.Deadline < 0 || o.AttemptDeadline < 0, "deadline", "a deadline is negative"},
	} {
		if rule.broken {
			return invalid(rule.field, rule.why)
		}
	}
	return nil
}

func (o Options) credentials() (credentials.TransportCredentials, error) {
	if !o.usesTLS() {
		return insecure.NewCredentials(), nil
	}
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
	return credentials.NewTLS(config), nil
}

// Adds the token to the context of an attempt.
func (o *Options) authorized(ctx context.Context) (context.Context, error) {
	var token string
	var err error
	if o.Token != nil {
		token, err = o.Token()
	} else if o.TokenFile != "" {
		var content []byte
		content, err = os.ReadFile(o.TokenFile)
		line, _, _ := strings.Cut(string(content), "\n")
		token = strings.TrimSpace(line)
	} else {
		return ctx, nil
	}
	if err == nil && !tokenForm.MatchString(token) {
		err = errors.New("there is no token, or one with invalid characters")
	}
	if err != nil {
		return nil, invalid("token_file", err.Error())
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil
}
