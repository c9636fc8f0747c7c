// Command conformance plays the cases of clients/conformance with the Go client, against the harness whose
// control URL is in AETHYR_CONFORMANCE. The arguments are the files of the cases; default: all of them.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	aethyr "github.com/aethyr/event-store/clients/go"
)

type object = map[string]any

type testCase struct {
	Title string
	Needs []string
	Steps []object
}

func main() {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	folder := flag.String("cases", "../conformance", "folder with the cases")
	flag.Parse()
	failed, err := run(*folder, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

func run(folder string, files []string) (failed bool, err error) {
	info, err := control("info")
	if err != nil {
		return false, err
	}
	if len(files) == 0 {
		if files, err = filepath.Glob(filepath.Join(folder, "*.json")); err != nil {
			return false, err
		}
	}
	slices.Sort(files)
	passed, skipped := 0, 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		var played testCase
		if err := json.Unmarshal(content, &played); err != nil {
			return false, fmt.Errorf("%s: %w", file, err)
		}
		if slices.Contains(played.Needs, "immudb") && info["immudb"] != true {
			fmt.Printf("skipped %s: no ImmuDB\n", played.Title)
			skipped++
		} else if err := play(played, info["address"].(string), info["silent"].(string)); err != nil {
			fmt.Printf("FAILED %s: %v\n", played.Title, err)
			recover := []string{"release", "start_immudb", "start_service"}
			if info["immudb"] != true {
				recover = slices.Delete(recover, 1, 2)
			}
			for _, command := range recover {
				control(command) // Fails if it is running already.
			}
		} else {
			fmt.Println("ok", played.Title)
			passed++
		}
	}
	fmt.Printf("%d cases, %d passed", len(files), passed)
	if skipped > 0 {
		fmt.Printf(", %d skipped", skipped)
	}
	fmt.Println()
	if len(files) == 0 {
		return true, errors.New("there are no cases in " + folder)
	}
	return passed+skipped < len(files), nil
}

// Sends a command to the harness.
func control(command string) (answer object, err error) {
	body, err := json.Marshal(object{"control": command})
	if err != nil {
		return nil, err
	}
	url := os.Getenv("AETHYR_CONFORMANCE")
	if url == "" {
		return nil, errors.New("AETHYR_CONFORMANCE is not set: start the runner with harness.py")
	}
	response, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", command, content)
	}
	return answer, json.Unmarshal(content, &answer)
}

// A case that is being played.
type player struct {
	run, address, silent string
	store                *aethyr.MemoryStore
	subscriptions        map[string]*subscription

	lock       sync.Mutex
	clients    map[string]*aethyr.Client
	answers    map[string]any
	background map[string]chan outcome
}

// What a step resulted in.
type outcome struct {
	answer any
	err    error
}

func play(played testCase, address, silent string) (err error) {
	var id [6]byte
	rand.Read(id[:])
	p := &player{
		run: hex.EncodeToString(id[:]), address: address, silent: silent, store: &aethyr.MemoryStore{},
		subscriptions: map[string]*subscription{}, clients: map[string]*aethyr.Client{},
		answers: map[string]any{}, background: map[string]chan outcome{},
	}
	defer p.close()
	for number, step := range played.Steps {
		if err := p.step(step); err != nil {
			return fmt.Errorf("step %d: %w", number+1, err)
		}
	}
	return nil
}

func (p *player) close() {
	for _, subscription := range p.subscriptions {
		subscription.stop()
	}
	for _, running := range p.background {
		<-running
	}
	for _, client := range p.clients {
		client.Close()
	}
}

func (p *player) client(name string) (*aethyr.Client, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.clients[name] == nil {
		client, err := aethyr.Open("aethyr://" + p.address)
		if err != nil {
			return nil, err
		}
		p.clients[name] = client
	}
	return p.clients[name], nil
}

// The keys of a step that stand beside its operation.
var beside = []string{"answer", "error", "as", "client", "deadline_ms", "repeat", "background"}

func (p *player) step(step object) error {
	var operation string
	for key := range step {
		if !slices.Contains(beside, key) {
			if operation != "" {
				return fmt.Errorf("both %s and %s", operation, key)
			}
			operation = key
		}
	}
	repeat := 1
	if times, ok := step["repeat"].(float64); ok {
		repeat = int(times)
	}
	if name, ok := step["background"].(string); ok {
		done := make(chan outcome, 1)
		p.lock.Lock()
		p.background[name] = done
		p.lock.Unlock()
		go func() {
			defer close(done)
			var result outcome
			for i := 1; i <= repeat && result.err == nil; i++ {
				result.answer, result.err = p.perform(operation, step, i)
				if result.err == nil && step["answer"] != nil {
					result.err = p.check(step, result, i)
				}
			}
			done <- result
		}()
		return nil
	}
	for i := 1; i <= repeat; i++ {
		var result outcome
		if result.answer, result.err = p.perform(operation, step, i); operation == "join" {
			name, _ := step["join"].(string)
			p.lock.Lock()
			running := p.background[name]
			delete(p.background, name)
			p.lock.Unlock()
			if running == nil {
				return fmt.Errorf("nothing runs as %s", name)
			}
			result = <-running
		}
		if err := p.check(step, result, i); err != nil {
			return err
		}
	}
	return nil
}

// Compares the outcome of a step with what the case says, and keeps it.
func (p *player) check(step object, result outcome, i int) error {
	var problem *mismatch
	if errors.As(result.err, &problem) {
		return result.err
	}
	kept := result.answer
	wanted, fails := step["error"]
	if fails {
		if result.err == nil {
			return fmt.Errorf("no error, but %s", show(result.answer))
		}
		want, err := p.fill(wanted, i)
		if err != nil {
			return err
		}
		fields := errorFields(result.err)
		if err := compareError(want.(object), fields); err != nil {
			return fmt.Errorf("%w, in %v", err, result.err)
		}
		kept = fields
	} else if result.err != nil {
		return result.err
	}
	if wanted, ok := step["answer"]; ok && !fails {
		want, err := p.fill(wanted, i)
		if err != nil {
			return err
		}
		if err := compare("answer", want, result.answer); err != nil {
			return err
		}
	}
	if name, ok := step["as"].(string); ok {
		p.lock.Lock()
		p.answers[name] = kept
		p.lock.Unlock()
	}
	return nil
}

func (p *player) perform(operation string, step object, i int) (answer any, err error) {
	if operation == "join" {
		return nil, nil
	}
	defer func() {
		if problem := recover(); problem != nil {
			err = &mismatch{fmt.Sprint(problem)}
		}
	}()
	perform, known := operations[operation]
	if !known {
		return nil, &mismatch{"unknown operation " + operation}
	}
	arguments, err := p.fill(step[operation], i)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	deadline, limited := step["deadline_ms"].(float64)
	if limited && operation != "received" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(deadline)*time.Millisecond)
		defer cancel()
	}
	name, named := step["client"].(string)
	if !named {
		name = "a"
	}
	client, err := p.client(name)
	if err != nil {
		return nil, err
	}
	c := call{Context: ctx, player: p, client: client, name: name, text: fmt.Sprint(arguments)}
	c.arguments, _ = arguments.(object)
	if operation == "received" && limited {
		c.wait = time.Duration(deadline) * time.Millisecond
	}
	return perform(c)
}

// Replaces the placeholders in a value.
func (p *player) fill(value any, i int) (any, error) {
	switch value := value.(type) {
	case string:
		return p.fillText(value, i)
	case []any:
		filled := make([]any, len(value))
		for at, item := range value {
			var err error
			if filled[at], err = p.fill(item, i); err != nil {
				return nil, err
			}
		}
		return filled, nil
	case object:
		filled := object{}
		for key, item := range value {
			name, err := p.fillText(key, i)
			if err != nil {
				return nil, err
			}
			if filled[fmt.Sprint(name)], err = p.fill(item, i); err != nil {
				return nil, err
			}
		}
		return filled, nil
	}
	return value, nil
}

func (p *player) fillText(text string, i int) (any, error) {
	var filled strings.Builder
	for rest := text; ; {
		before, after, found := strings.Cut(rest, "${")
		filled.WriteString(before)
		if !found {
			return filled.String(), nil
		}
		name, behind, closed := strings.Cut(after, "}")
		if !closed {
			return nil, &mismatch{"a placeholder without an end: " + text}
		}
		value, err := p.placeholder(name, i)
		if err != nil {
			return nil, err
		}
		if text == "${"+name+"}" {
			return value, nil
		}
		if words, ok := value.(string); ok {
			filled.WriteString(words)
		} else {
			filled.WriteString(show(value))
		}
		rest = behind
	}
}

func (p *player) placeholder(name string, i int) (any, error) {
	switch name {
	case "run":
		return p.run, nil
	case "i":
		return float64(i), nil
	case "address":
		return p.address, nil
	case "silent":
		return p.silent, nil
	case "dead":
		return "127.0.0.1:1", nil
	}
	if letter, count, found := strings.Cut(name, ":"); found {
		var times int
		if _, err := fmt.Sscan(count, &times); err != nil {
			return nil, &mismatch{"no number in the placeholder " + name}
		}
		return strings.Repeat(letter, times), nil
	}
	p.lock.Lock()
	value := any(maps.Clone(p.answers))
	p.lock.Unlock()
	for part := range strings.SplitSeq(name, ".") {
		switch inside := value.(type) {
		case object:
			value = inside[part]
		case []any:
			var at int
			if _, err := fmt.Sscan(part, &at); err != nil || at < 0 || at >= len(inside) {
				return nil, &mismatch{"the placeholder " + name + " names no element"}
			}
			value = inside[at]
		default:
			return nil, &mismatch{"the placeholder " + name + " names nothing"}
		}
	}
	return value, nil
}
