// Command quest is a tiny game: two players try to finish a quest, the hall of the world gets a door, and a
// herald announces what happened. It plays against the service that its argument names.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	aethyr "github.com/aethyr/event-store/clients/go"
	"github.com/aethyr/event-store/clients/go/aethyrfold"
	"github.com/aethyr/event-store/clients/go/worldv1"
)

// Quest is the state of a quest.
type Quest struct {
	Name   string `json:"name"`
	Winner string `json:"winner"`
	Steps  int    `json:"steps"`
}

type begun struct {
	Name string `json:"name"`
}

type step struct {
	Player string `json:"player"`
}

const (
	stepsToWin = 3
	// The form of bcrypt. Nobody knows the password.
	passwordHash = "$2b$12$KIXQGkPq7Jm0Zl9eQ1fG8uJ3m1yq0b7nJtV5c6d7e8f9g0h1i2j3k"
)

var errOver = errors.New("the quest is over")

var quests = aethyrfold.Model[Quest]{
	Type: "Quest",
	Apply: func(quest *Quest, event *aethyr.Event) error {
		switch event.EventType {
		case "QuestBegun":
			var data begun
			err := aethyr.Decode(event, &data)
			quest.Name = data.Name
			return err
		case "QuestStepDone":
			quest.Steps++
		case "QuestWon":
			var data step
			err := aethyr.Decode(event, &data)
			quest.Winner = data.Player
			return err
		}
		return nil
	},
	Snapshot:      func(quest Quest) any { return quest },
	SchemaVersion: 1,
}

func main() {
	connection := "aethyr://127.0.0.1"
	if len(os.Args) > 1 {
		connection = os.Args[1]
	}
	client, err := aethyr.Open(connection)
	if err == nil {
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = play(ctx, client, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "quest:", err)
		os.Exit(1)
	}
}

func play(ctx context.Context, client *aethyr.Client, out io.Writer) error {
	id := "quest-" + aethyr.NewID()
	begin := []aethyr.NewEvent{{
		AggregateID: id, AggregateType: "Quest", EventType: "QuestBegun", Data: begun{"The Lost Sword"},
	}}
	if _, err := client.Append(ctx, begin, aethyr.Expect{id: aethyr.New}); err != nil {
		return err
	}

	// Someone else begins the same quest: the store says no.
	var conflict *aethyr.WrongExpectedSequenceError
	again := []aethyr.NewEvent{{AggregateID: id, AggregateType: "Quest", EventType: "QuestBegun"}}
	if _, err := client.Append(ctx, again, aethyr.Expect{id: aethyr.New}); !errors.As(err, &conflict) {
		return fmt.Errorf("a conflict was expected, and not %v", err)
	}
	fmt.Fprintf(out, "conflict: expected %d, found %d\n", conflict.Expected, conflict.Actual)

	// Two players race; the last step wins, once.
	results := make(chan error, 2)
	for _, player := range []string{"ann", "bob"} {
		go func() { results <- walk(ctx, client, id, player) }()
	}
	for range 2 {
		if err := <-results; err != nil {
			return err
		}
	}
	if err := build(ctx, client, out); err != nil {
		return err
	}
	return announce(ctx, client, id, out)
}

// Does steps until the quest is over.
func walk(ctx context.Context, client *aethyr.Client, id, player string) error {
	for {
		_, err := aethyrfold.Update(ctx, client, id, quests, func(quest Quest, _ uint64) ([]aethyr.NewEvent, error) {
			if quest.Winner != "" {
				return nil, errOver
			}
			events := []aethyr.NewEvent{{EventType: "QuestStepDone", Data: step{player}}}
			if quest.Steps+1 == stepsToWin {
				events = append(events, aethyr.NewEvent{EventType: "QuestWon", Data: step{player}})
			}
			return events, nil
		})
		if errors.Is(err, errOver) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Makes a player and a room of the world.
func build(ctx context.Context, client *aethyr.Client, out io.Writer) error {
	hall, player := "room-"+aethyr.NewID(), "player-"+aethyr.NewID()
	_, err := client.Execute(ctx, "builder", nil,
		&worldv1.CreateRoom{Id: hall, Name: "The Hall", Description: "It is cold."},
		&worldv1.CreatePlayer{Id: player, Name: "Ann", PasswordHash: passwordHash},
		&worldv1.UpdateGameObjectContainer{Id: player, ContainerId: hall},
	)
	if err != nil {
		return err
	}
	contents := &worldv1.ListContentsRequest{ContainerId: hall}
	for waiting := true; waiting; { // Lists follow within a second.
		for page, err := range aethyr.Pages(ctx, client.ListContents, contents) {
			if err != nil {
				return err
			}
			for _, object := range page.GameObjects {
				fmt.Fprintf(out, "in the hall: %s\n", object.Name)
				waiting = false
			}
		}
		if waiting {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// Tells what happened to the quest, up to its end.
func announce(ctx context.Context, client *aethyr.Client, id string, out io.Writer) error {
	filter := &aethyr.Filter{AggregateIdPrefix: id}
	for event, err := range client.Subscribe(ctx, "herald", &aethyr.MemoryStore{}, filter) {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%d %s\n", event.SequenceNumber, event.EventType)
		if event.EventType == "QuestWon" {
			return nil
		}
	}
	return nil
}
