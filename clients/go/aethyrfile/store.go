// Package aethyrfile keeps the checkpoints of subscriptions in files.
package aethyrfile

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	aethyr "github.com/aethyr/event-store/clients/go"
)

// Store keeps each checkpoint in a file of this folder. A crash leaves the old or the new one.
type Store string

func (s Store) path(name string) string {
	return filepath.Join(string(s), url.PathEscape(name)+".checkpoint")
}

// Load implements aethyr.CheckpointStore.
func (s Store) Load(_ context.Context, name string) (*aethyr.Checkpoint, error) {
	content, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	checkpoint := &aethyr.Checkpoint{}
	if err == nil {
		err = protojson.Unmarshal(content, checkpoint)
	}
	return checkpoint, err
}

// Save implements aethyr.CheckpointStore.
func (s Store) Save(_ context.Context, name string, checkpoint *aethyr.Checkpoint) error {
	if err := os.MkdirAll(string(s), 0o777); err != nil {
		return err
	}
	file, err := os.CreateTemp(string(s), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // Fails if it was renamed.
	_, err = file.WriteString(protojson.Format(checkpoint))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), s.path(name))
}
