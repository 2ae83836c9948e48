package run

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// pids lists the container's processes as the engine sees them: those in the
// PID namespace of its first process, or below it where that is the host's.
func (o *Observed) pids() ([]int, error) {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", o.Pid))
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", short(o.ID), ErrNotRunning)
	}
	host, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	member := func(pid int) bool {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		return err == nil && ns == own
	}
	if own == host {
		member = func(pid int) bool {
			for ; pid > 1; pid = parent(pid) {
				if pid == o.Pid {
					return true
				}
			}
			return false
		}
	}
	var list []int
	for _, d := range entries {
		if pid, err := strconv.Atoi(d.Name()); err == nil && member(pid) {
			list = append(list, pid)
		}
	}
	return list, nil
}

func parent(pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	return n
}

// Top lists the container's processes with the host's ps, whose options args
// are ("-ef" when there are none). The first row has the titles.
func (e *Engine) Top(ctx context.Context, ref string, args []string) ([][]string, error) {
	o, err := e.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !o.Running() {
		return nil, fmt.Errorf("listing the processes of container %s: %w", ref, ErrNotRunning)
	}
	pids, err := o.pids()
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("running ps %s: %w", strings.Join(args, " "), err)
	}
	return filterPs(string(out), pids)
}

// filterPs keeps the rows of ps's output that are about pids.
func filterPs(out string, pids []int) ([][]string, error) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	titles := strings.Fields(lines[0])
	at := -1
	for i, t := range titles {
		if t == "PID" {
			at = i
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("%w: ps shows no PID column with these options", ErrOptions)
	}
	want := map[string]bool{}
	for _, p := range pids {
		want[strconv.Itoa(p)] = true
	}
	rows := [][]string{titles}
	for _, l := range lines[1:] {
		f := strings.Fields(l)
		if len(f) < len(titles) || !want[f[at]] {
			continue
		}
		// The last column is the command, which has spaces.
		rows = append(rows, append(f[:len(titles)-1:len(titles)-1], strings.Join(f[len(titles)-1:], " ")))
	}
	return rows, nil
}
