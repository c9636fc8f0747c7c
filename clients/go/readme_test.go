// Runs every Go block of the README.

package aethyr_test

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aethyr/event-store/clients/go/aethyrtest"
)

const repository = "github.com/aethyr/event-store/clients/go"

var packages = map[string]string{
	"aethyr": "aethyr " + `"` + repository + `"`, "aethyrtest": `"` + repository + `/aethyrtest"`,
	"aethyrfold": `"` + repository + `/aethyrfold"`, "aethyrfile": `"` + repository + `/aethyrfile"`,
	"aethyrproof": `"` + repository + `/aethyrproof"`,
	"worldv1":     `"` + repository + `/worldv1"`, "eventstorev1": `"` + repository + `/eventstorev1"`,
	"slices":  `"slices"`,
	"context": `"context"`, "errors": `"errors"`, "fmt": `"fmt"`, "log": `"log"`, "testing": `"testing"`,
	"time": `"time"`,
}

// A file with the imports that its text needs.
func file(text string) string {
	var imports strings.Builder
	for name, line := range packages {
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(text) {
			fmt.Fprintln(&imports, line)
		}
	}
	return "package main\nimport (\n" + imports.String() + ")\n" + text
}

// Makes a certificate, a token and an access file in the folder, and returns the settings of a service.
func secure(t *testing.T, folder string) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	program := cmp.Or(os.Getenv("AETHYR_EVENT_STORE"), "aethyr-event-store")
	token, err := exec.Command(program, "token", "new", "game-1", "--role", "game").Output()
	check(t, err)
	lines := strings.Split(strings.TrimSpace(string(token)), "\n")
	path := func(name string) string { return filepath.Join(folder, "storage", name) }
	check(t, os.Mkdir(filepath.Join(folder, "storage"), 0o700))
	for name, content := range map[string]string{
		"tls.pem":      string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		"tls.key":      string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"game-1.token": lines[0] + "\n",
		"access.yml":   "identities:\n" + lines[len(lines)-1] + "\n",
	} {
		check(t, os.WriteFile(path(name), []byte(content), 0o600))
	}
	return []string{
		"AETHYR_ACCESS__FILE=" + path("access.yml"),
		"AETHYR_SERVER__TLS={ certificate_file: " + path("tls.pem") + ", key_file: " + path("tls.key") + " }",
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryBlockOfTheReadmeRuns(t *testing.T) {
	folder := t.TempDir()
	plain, err := aethyrtest.Run(t.Context())
	check(t, err)
	defer plain.Stop()
	protected, err := aethyrtest.Run(t.Context(), secure(t, folder)...)
	check(t, err)
	defer protected.Stop()

	readme, err := os.ReadFile("README.md")
	check(t, err)
	_, port, _ := net.SplitHostPort(protected.Address)
	text := strings.NewReplacer("127.0.0.1:50051", plain.Address, "localhost:50051", "localhost:"+port).
		Replace(string(readme))
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	programs := map[string]string{}
	var declared, calls strings.Builder
	for number, block := range blocks {
		code := block[1]
		switch {
		case strings.HasPrefix(code, "package main"):
			programs[fmt.Sprintf("block%d.go", number)] = code
		case strings.HasPrefix(code, "func Test"):
			programs[fmt.Sprintf("block%d_test.go", number)] = file(code)
		case strings.HasPrefix(code, "type "):
			declared.WriteString(code)
		default:
			fmt.Fprintf(&declared,
				"func block%d(ctx context.Context, client *aethyr.Client) error {\n%s\nreturn nil\n}\n", number, code)
			fmt.Fprintf(&calls, "if err := block%d(ctx, client); err != nil { log.Fatal(\"block %d: \", err) }\n",
				number, number)
		}
	}
	programs["blocks.go"] = file(fmt.Sprintf(`%s
func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := aethyr.Open("aethyr://%s")
	if err != nil { log.Fatal(err) }
	%s}`, declared.String(), plain.Address, calls.String()))
	if len(blocks) < 12 || len(programs) != 3 {
		t.Fatalf("%d blocks in %d programs", len(blocks), len(programs))
	}
	for name, program := range programs {
		path := filepath.Join(folder, name)
		check(t, os.WriteFile(path, []byte(program), 0o600))
		build := exec.Command("go", "build", "-o", path+".exe", path)
		if strings.HasSuffix(name, "_test.go") {
			build = exec.Command("go", "test", "-c", "-o", path+".exe", path)
		}
		if output, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s\n%s", name, err, output, program)
		}
		command := exec.Command(path + ".exe")
		command.Dir = folder
		output, err := command.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, output)
		}
		t.Logf("%s:\n%s", name, output)
	}
}
