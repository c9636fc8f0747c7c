// Plays the example against a service of its own.

package main

import (
	"strings"
	"testing"

	"github.com/aethyr/event-store/clients/go/aethyrtest"
)

func TestTheQuestIsWonOnce(t *testing.T) {
	client := aethyrtest.Start(t)
	var out strings.Builder
	if err := play(t.Context(), client, &out); err != nil {
		t.Fatal(err)
	}
	want := `conflict: expected 0, found 1
in the hall: Ann
1 QuestBegun
2 QuestStepDone
3 QuestStepDone
4 QuestStepDone
5 QuestWon
`
	if out.String() != want {
		t.Errorf("%s is not %s", out.String(), want)
	}
}
