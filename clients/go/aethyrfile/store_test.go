// Tests of the files.

package aethyrfile

import (
	"os"
	"testing"

	aethyr "github.com/aethyr/event-store/clients/go"
)

func TestACheckpointIsReplacedAsAWhole(t *testing.T) {
	store := Store(t.TempDir())
	if none, err := store.Load(t.Context(), "herald/1"); none != nil || err != nil {
		t.Fatal(none, err)
	}
	for position := range uint64(3) {
		place := &aethyr.Checkpoint{Position: position, ChainHash: []byte{0, 255}}
		if err := store.Save(t.Context(), "herald/1", place); err != nil {
			t.Fatal(err)
		}
	}
	saved, err := store.Load(t.Context(), "herald/1")
	if err != nil || saved.Position != 2 || string(saved.ChainHash) != "\x00\xff" {
		t.Error(saved, err)
	}
	if files, err := os.ReadDir(string(store)); err != nil || len(files) != 1 {
		t.Error(files, err)
	}
}
