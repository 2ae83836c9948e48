package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// registryTool is the tests' registry, from the root of the source.
const registryTool = "test/registry/registry"

// diskSize is the least that mkfs.xfs takes, and some.
const diskSize = 400 << 20

// world is the machine that the power is cut of: a filesystem, a run folder
// that a reboot empties, a boot ID, a registry.
type world struct {
	o         options
	dir       string // on a tmpfs
	engine    engine
	images    *images
	registry  string // address
	templates map[string]string
	disk      *os.File        // the mounted filesystem, for the ioctl
	said      string          // by the last command
	makes     bool            // the operation makes layers of its own
	anyRoot   bool            // the root of a layer may have another time
	damaged   string          // a file that was emptied for a repair to find; "" once it is to be whole
	cgroups   map[string]bool // that were there before
}

func (w *world) mnt() string     { return filepath.Join(w.dir, "m") }
func (w *world) root() string    { return filepath.Join(w.mnt(), "root") }
func (w *world) runRoot() string { return filepath.Join(w.dir, "run") }
func (w *world) scratch() string { return filepath.Join(w.dir, "scratch.img") }

func newWorld(o options) (*world, error) {
	dir, err := os.MkdirTemp("/tmp", "crash.")
	if err != nil {
		return nil, err
	}
	w := &world{o: o, dir: dir, templates: map[string]string{}}
	if err := w.setup(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) setup() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private (is this root, under unshare -m?): %w", err)
	}
	if err := unix.Mount("tmpfs", w.dir, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, d := range []string{w.mnt(), w.runRoot(), filepath.Join(w.dir, "home"), filepath.Join(w.dir, "tmp")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	out, err := exec.Command(registryTool, "start", filepath.Join(w.dir, "registry"), "").Output()
	if err != nil {
		return fmt.Errorf("starting the registry: %w", err)
	}
	w.registry = strings.TrimSpace(string(out))
	if w.images, err = makeImages(w); err != nil {
		return fmt.Errorf("making the images: %w", err)
	}
	switch w.o.peer {
	case "":
		path, err := filepath.Abs(w.o.balena)
		if err != nil {
			return err
		}
		if err := errors.Join(w.publishDelta(path), w.makeContext()); err != nil {
			return err
		}
		w.engine = &balena{path: path}
	case "podman":
		w.engine = &podman{}
	case "docker":
		w.engine = &docker{}
	default:
		return fmt.Errorf("no peer %q: there are podman and docker", w.o.peer)
	}
	// Whoever loses its parent is ours from here on, and dies with the power.
	w.cgroups = map[string]bool{}
	for _, c := range cgroups() {
		w.cgroups[c] = true
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	return w.newBoot()
}

func (w *world) close() error {
	err := w.powerOff()
	_ = exec.Command(registryTool, "stop", filepath.Join(w.dir, "registry")).Run()
	_ = unix.Unmount(bootID, unix.MNT_DETACH)
	return errors.Join(err, unix.Unmount(w.dir, unix.MNT_DETACH), os.Remove(w.dir))
}

const bootID = "/proc/sys/kernel/random/boot_id"

// newBoot forgets what a reboot forgets.
func (w *world) newBoot() error {
	if err := os.RemoveAll(w.runRoot()); err != nil {
		return err
	}
	if err := os.Mkdir(w.runRoot(), 0o711); err != nil {
		return err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	file := filepath.Join(w.dir, "boot_id")
	_, statErr := os.Stat(file)
	if err := os.WriteFile(file, id, 0o444); err != nil {
		return err
	}
	if statErr == nil {
		return nil // bound already
	}
	return unix.Mount(file, bootID, "", unix.MS_BIND, "")
}

// template gives a disk on which the steps were run, making it first if need be.
func (w *world) template(steps [][]string) (string, error) {
	key := fmt.Sprint(steps)
	if t, ok := w.templates[key]; ok {
		return t, nil
	}
	if len(steps) == 0 {
		file := w.templateFile()
		if err := w.format(file); err != nil {
			return "", err
		}
		w.templates[key] = file
		return file, nil
	}
	before, err := w.template(steps[:len(steps)-1])
	if err != nil {
		return "", err
	}
	if err := w.boot(before); err != nil {
		return "", err
	}
	if err := w.do(steps[len(steps)-1]); err != nil {
		return "", err
	}
	if err := w.powerOff(); err != nil {
		return "", err
	}
	file := w.templateFile()
	w.templates[key] = file
	return file, command("cp", "--sparse=always", w.scratch(), file)
}

func (w *world) templateFile() string {
	return filepath.Join(w.dir, fmt.Sprintf("template%d.img", len(w.templates)))
}

func (w *world) format(file string) error {
	if err := command("truncate", "-s", strconv.Itoa(diskSize), file); err != nil {
		return err
	}
	if w.o.fs == "xfs" {
		return command("mkfs.xfs", "-q", "-f", file)
	}
	return command("mkfs.ext4", "-q", "-F", "-J", "size=16", "-E", "lazy_itable_init=0,lazy_journal_init=0", file)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// boot starts the machine with a copy of a disk.
func (w *world) boot(template string) error {
	if err := command("cp", "--sparse=always", template, w.scratch()); err != nil {
		return err
	}
	return w.reboot()
}

// reboot starts the machine with the disk that it has.
func (w *world) reboot() error {
	if err := w.newBoot(); err != nil {
		return err
	}
	if err := command("mount", "-t", w.o.fs, "-o", "loop", w.scratch(), w.mnt()); err != nil {
		return err
	}
	var err error
	if w.disk, err = os.Open(w.mnt()); err != nil {
		return err
	}
	if err := os.MkdirAll(w.root(), 0o711); err != nil {
		return err
	}
	w.age()
	return w.engine.boot(w)
}

// age makes what only lives for moments as old as it is after a real reboot,
// which takes longer than one here.
func (w *world) age() {
	for _, pattern := range []string{"overlay/staging/*", "overlay/compat*", "overlay/*-check*", "overlay-*/.tmp-*", "../.tmp-auth.json*"} {
		dirs, _ := filepath.Glob(filepath.Join(w.root(), pattern))
		for _, d := range dirs {
			then := time.Now().Add(-2 * time.Minute)
			_ = os.Chtimes(d, then, then)
		}
	}
}

// cut shuts the filesystem down: nothing reaches the disk from here on. With
// journal, what is in the journal's memory is written first, without the
// content of files.
func (w *world) cut(journal bool) error {
	flag := uint32(2)
	if journal {
		flag = 1
	}
	const shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
	if err := unix.IoctlSetPointerInt(int(w.disk.Fd()), shutdown, int(flag)); err != nil {
		return fmt.Errorf("cutting the power: %w", err)
	}
	return nil
}

// powerOff kills all processes of the machine and takes the disk out.
func (w *world) powerOff() error {
	if w.disk != nil {
		w.disk.Close()
		w.disk = nil
	}
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		killAll()
		if err = w.unmount(); err == nil {
			w.removeCgroups()
			return nil
		}
	}
	return err
}

// cgroups lists what a power cut takes along and a killed process does not.
func cgroups() []string {
	list, _ := filepath.Glob("/sys/fs/cgroup/*/balena/*")
	return slices.DeleteFunc(list, func(c string) bool {
		info, err := os.Stat(c)
		return err != nil || !info.IsDir()
	})
}

// removeCgroups removes those that are new and of no process.
func (w *world) removeCgroups() {
	for _, c := range cgroups() {
		if !w.cgroups[c] {
			_ = os.Remove(c)
		}
	}
}

// unmount takes all mounts below the machine's folders away.
func (w *world) unmount() error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(info)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		f := strings.Fields(lines[i])
		if f[4] != w.mnt() && !strings.HasPrefix(f[4], w.mnt()+"/") && !strings.HasPrefix(f[4], w.runRoot()+"/") {
			continue
		}
		if err := unix.Unmount(f[4], 0); err != nil {
			return fmt.Errorf("unmounting %s: %w", f[4], err)
		}
	}
	// A mount in a namespace that is on its way out keeps the loop device.
	out, err := exec.Command("losetup", "-j", w.scratch()).Output()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		return fmt.Errorf("the disk is still in use: %s%w", out, errors.Join(err))
	}
	return nil
}

// killAll kills every descendant of this process, and reaps them.
func killAll() {
	parent := map[int]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		raw, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		parent[pid], _ = strconv.Atoi(f[1])
	}
	self := os.Getpid()
	for pid := range parent {
		for p := parent[pid]; p > 1; p = parent[p] {
			if p == self {
				_ = unix.Kill(pid, unix.SIGKILL)
				break
			}
		}
	}
	for {
		var ws unix.WaitStatus
		if pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WALL, nil); pid <= 0 || err != nil {
			return
		}
	}
}

// commandOf is the process of an engine's command.
func (w *world) commandOf(ctx context.Context, args []string) *exec.Cmd {
	argv := append(w.engine.argv(w), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(w.engine.env(w), "PATH="+os.Getenv("PATH"), "HOME="+filepath.Join(w.dir, "home"), "TMPDIR="+filepath.Join(w.dir, "tmp"))
	return cmd
}

// limit is how long a command may take on a machine under load.
const limit = 90 * time.Second

// do runs a command that has to succeed.
func (w *world) do(args []string) error {
	_, err := w.output(args)
	return err
}

// output runs a command that has to succeed. What stays behind of it, a
// container, may keep its standard error.
func (w *world) output(args []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := w.commandOf(ctx, args)
	stderr, err := os.CreateTemp(w.dir, "stderr")
	if err != nil {
		return "", err
	}
	defer os.Remove(stderr.Name())
	defer stderr.Close()
	stdout, err := os.CreateTemp(w.dir, "stdout")
	if err != nil {
		return "", err
	}
	defer os.Remove(stdout.Name())
	defer stdout.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	out, _ := os.ReadFile(stdout.Name())
	msg, _ := os.ReadFile(stderr.Name())
	if w.o.verbose && len(msg) > 0 {
		fmt.Printf("    %s: %s\n", args[0], bytes.TrimSpace(msg))
	}
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s %s", strings.Join(args, " "), err, bytes.TrimSpace(msg), bytes.TrimSpace(out))
	}
	w.said = string(out) + string(msg)
	return string(out), nil
}
