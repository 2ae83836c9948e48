package main

import (
	"context"
	"io"

	"github.com/sirupsen/logrus"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/runtime"
)

// launch starts a monitor's container, or a process that joins one, through our
// own OCI runtime.
func launch(l monitor.Launch) error {
	logrus.SetOutput(io.Discard)
	ctx := context.Background()
	stdio := runtime.Stdio{
		Stdin: l.Stdin, Stdout: l.Stdout, Stderr: l.Stderr,
		ConsoleSocket: l.ConsoleSocket, PidFile: l.PidFile,
	}
	if l.ProcessFile != "" {
		p, err := runtime.LoadProcess(l.ProcessFile)
		if err != nil {
			return err
		}
		_, err = runtime.Exec(ctx, runtime.ExecOptions{Root: l.Root, ID: l.ID, Process: p, Detach: true, Stdio: stdio})
		return err
	}
	_, err := runtime.Run(ctx, runtime.CreateOptions{
		Root: l.Root, ID: l.ID, Bundle: l.Bundle, SystemdCgroup: l.SystemdCgroup, Detach: true, Stdio: stdio,
	})
	return err
}
