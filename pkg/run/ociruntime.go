package run

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/balena-os/balena/pkg/runtime"
)

// Commands of the OCI runtime: our own in this process, which spares the start
// of another, and another one as its command line.

// deleteRuntimeState has the runtime forget a container. Of our own, whose
// processes went with its cgroup, nothing but the folder is left: reading its
// state (the whole seccomp profile is in it) would take longer.
func (e *Engine) deleteRuntimeState(ctx context.Context, id string, cgroupRemoved bool) error {
	if len(e.Runtime) == 0 && cgroupRemoved {
		if err := os.RemoveAll(filepath.Join(e.Store.RuntimeRoot(), id)); err != nil {
			return fmt.Errorf("removing the state of container %s: %w", short(id), err)
		}
		return nil
	}
	if len(e.Runtime) == 0 {
		return runtime.Delete(e.Store.RuntimeRoot(), id, true)
	}
	return e.otherRuntime(ctx, "delete", "--force", id)
}

func (e *Engine) freeze(ctx context.Context, id string) error {
	return e.runtime(ctx, id, "pause", (*runtime.Container).Pause)
}

func (e *Engine) thaw(ctx context.Context, id string) error {
	return e.runtime(ctx, id, "resume", (*runtime.Container).Resume)
}

func (e *Engine) runtime(ctx context.Context, id, verb string, own func(*runtime.Container) error) error {
	if len(e.Runtime) > 0 {
		return e.otherRuntime(ctx, verb, id)
	}
	c, err := runtime.Load(e.Store.RuntimeRoot(), id)
	if err == nil {
		err = own(c)
	}
	if err != nil {
		return fmt.Errorf("%s container %s: %w", verb, short(id), err)
	}
	return nil
}

func (e *Engine) otherRuntime(ctx context.Context, args ...string) error {
	argv := append(append(e.Runtime[1:len(e.Runtime):len(e.Runtime)], "--root", e.Store.RuntimeRoot()), args...)
	cmd := exec.CommandContext(ctx, e.Runtime[0], argv...)
	var msg bytes.Buffer
	cmd.Stderr = &msg
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(e.Runtime[0]), args[0], err, strings.TrimSpace(msg.String()))
	}
	return nil
}
