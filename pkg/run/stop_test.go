package run

import (
	"os/exec"
	"testing"
	"time"
)

// Until it executes its program, the first process has the name that
// libcontainer's init gives itself.
func TestSignalWaitsForTheProgram(t *testing.T) {
	cmd := exec.Command("sh", "-c", `printf "runc:[2:INIT]" >/proc/$$/comm; echo; read -r x; exec sleep 60`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()         //nolint:errcheck // it is killed
	defer cmd.Process.Kill() //nolint:errcheck // the same
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	o := &Observed{}
	o.Pid = cmd.Process.Pid
	begun := time.Now()
	time.AfterFunc(20*time.Millisecond, func() { _, _ = in.Write([]byte("\n")) })
	o.executed()
	if took := time.Since(begun); took < 20*time.Millisecond {
		t.Errorf("it waited only %v", took)
	}
}
