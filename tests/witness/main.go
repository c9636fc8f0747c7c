// Command witness is a second opinion on witnesses. `log` plays a log: it has a witness cosign its
// checkpoints, and verifies the answers. `agent` is an SSH agent with one key, which `litewitness`
// signs with.
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const usage = `usage: witness log URL PRIVATE-KEY WITNESS-KEY
       witness agent SOCKET`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 4 && args[0] == "log":
		return playLog(args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "agent":
		return serveAgent(args[1])
	default:
		return errors.New("unknown command\n" + usage)
	}
}

// Prints the fingerprint of a new key, and serves the key until the process is killed.
func serveAgent(socket string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		return err
	}
	signers, err := keyring.Signers()
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Println(ssh.FingerprintSHA256(signers[0].PublicKey()))
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			// Ends when the client disconnects.
			_ = agent.ServeAgent(keyring, connection)
		}()
	}
}
