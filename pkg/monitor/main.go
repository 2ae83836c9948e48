package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// monitor is the state of one balena-monitor process.
type monitor struct {
	cfg     Config
	id      string // the container's, before there is a Config
	reaper  *reaper
	ready   *launcher // waits for the first start
	clients clients
	log     *logWriter
	io      stdio
	lock    *os.File
	starter *os.File // control socket; nil once it was told
	self    RunFile  // what run.json says
	oldOOM  string
	first   *client // Config.First
	// launches says that balena's own runtime has a launcher, and is no command.
	launches bool
	ran      bool // the starter was told that the container runs

	mu       sync.Mutex
	pid      int  // of the container's first process; 0 when it does not run
	noMore   bool // it is not to be started again
	noMoreCh chan struct{}
}

// Main makes the balena-monitor stage: it gets its Config on descriptor 3 and
// reports there, and returns when the container is gone for good (or becomes
// the ExitCommand). launches says that the binary has LaunchMain; without it
// balena's own runtime is run as a command, as a foreign one always is.
func Main(launches bool) func(args []string, stdin, stdout, stderr *os.File) int {
	return func(args []string, _, _, _ *os.File) int {
		stayLean()
		m := &monitor{noMoreCh: make(chan struct{}), launches: launches}
		err := m.prepare(args)
		if errors.Is(err, io.EOF) {
			return 125 // nobody is there to be told
		}
		if err == nil {
			err = m.init()
		}
		if err != nil {
			m.report(report{Error: err.Error(), Code: 125})
			return 125
		}
		exit := m.run()
		m.end(exit)
		return 0
	}
}

// prepare turns this process into a monitor, which waits for its Config.
func (m *monitor) prepare(args []string) error {
	closeInherited()
	m.starter = os.NewFile(controlFD, "control")
	if len(args) == 0 || m.starter == nil {
		return errors.New("balena-monitor is started by balena, not by hand")
	}
	m.id = args[0]
	unix.CloseOnExec(controlFD)
	// Only the leader of a session can do this twice; Prepare has done it.
	_, _ = unix.Setsid()
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := nullStdio(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming a subreaper: %w", err)
	}
	_ = os.WriteFile("/proc/self/comm", []byte(Stage), 0) // not "exe"
	m.reaper = newReaper()
	if m.launches && slices.Contains(args[1:], ownRuntime) {
		m.ready, _ = m.newLauncher() // else at the start, or its error
	}
	var err error
	m.cfg, err = receive(m.starter)
	return err
}

// init makes ready what the Config names.
func (m *monitor) init() error {
	if m.cfg.ID == "" || !filepath.IsAbs(m.cfg.RunDir) {
		return errors.New("the monitor's configuration lacks ID or RunDir")
	}
	if raw, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		m.oldOOM = strings.TrimSpace(string(raw))
	}
	m.handleSignals()
	if err := m.takeLock(); err != nil {
		return err
	}
	if m.cfg.StartingFD >= 0 {
		_ = unix.Close(m.cfg.StartingFD)
	}
	for name, fd := range m.cfg.Links {
		if err := m.link(name, fd); err != nil {
			return err
		}
	}
	_ = os.Remove(filepath.Join(m.cfg.RunDir, exitFile))
	_ = os.Remove(filepath.Join(m.cfg.RunDir, problemFile))
	var err error
	m.log, err = openLog(m.cfg.Log)
	return err
}

// closeInherited closes what a careless caller of the command line left open: a
// pipe that a script waits for must not stay open as long as a container runs.
// (All that is not inherited has close-on-exec.)
func closeInherited() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= controlFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

func nullStdio() error {
	fd, err := unix.Open(os.DevNull, unix.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", os.DevNull, err)
	}
	for i := range controlFD {
		if err := unix.Dup3(fd, i, 0); err != nil && fd != i {
			return fmt.Errorf("redirecting descriptor %d: %w", i, err)
		}
	}
	if fd > controlFD {
		return unix.Close(fd)
	}
	return nil
}

// handleSignals: a monitor lives as long as its container. Told to terminate,
// as at a shutdown, it passes that on. (Ignoring signals would be inherited by
// the container; catching them is not.)
func (m *monitor) handleSignals() {
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT)
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		for range sig {
			m.stopRestarting()
			s := unix.SIGTERM
			if m.cfg.StopSignal > 0 {
				s = unix.Signal(m.cfg.StopSignal)
			}
			_ = m.signal(s)
		}
	}()
}

func (m *monitor) takeLock() error {
	path := filepath.Join(m.cfg.RunDir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the monitor's lock: %w", err)
	}
	// Somebody looking whether the lock is held has it for a moment.
	for range 200 {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			m.lock = f
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.Close()
	return fmt.Errorf("locking %s: another monitor of this container still runs: %w", path, err)
}

func (m *monitor) link(name string, fd int) error {
	if name == "" || strings.ContainsRune(name, '/') {
		return fmt.Errorf("bad link name %q", name)
	}
	path := filepath.Join(m.cfg.RunDir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), path)
}

func (m *monitor) bundle() string {
	if m.cfg.Bundle != "" {
		return m.cfg.Bundle
	}
	return m.cfg.RunDir
}

// report tells the starter, once.
func (m *monitor) report(r report) {
	if m.starter == nil {
		return
	}
	if raw, err := json.Marshal(r); err == nil {
		_, _ = m.starter.Write(append(raw, '\n'))
	}
	m.starter.Close()
	m.starter = nil
}

// protectFromOOM and restoreOOM: the monitor should be the last to be killed,
// but the container should not inherit that. Best effort.
func (m *monitor) protectFromOOM() { writeOOM("-1000") }

func (m *monitor) restoreOOM() {
	if m.oldOOM != "" {
		writeOOM(m.oldOOM)
	}
}

func writeOOM(v string) { _ = os.WriteFile("/proc/self/oom_score_adj", []byte(v), 0) }

// stopRestarting makes the next end of the container the last.
func (m *monitor) stopRestarting() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.noMore {
		m.noMore = true
		close(m.noMoreCh)
	}
}

// run starts the container until its policy lets it rest, and returns how it
// ended last.
func (m *monitor) run() Exit {
	listener, err := listen(m.cfg.RunDir)
	if err != nil {
		return m.failed(err)
	}
	defer listener.Close()
	if m.cfg.FirstFD >= 0 && m.cfg.First != nil {
		if err := m.attachFirst(); err != nil {
			return m.failed(err)
		}
	}
	go m.serve(listener)
	m.self = RunFile{
		ID: m.cfg.ID, MonitorPid: os.Getpid(), BootID: bootID(),
		Runtime: m.cfg.Runtime, RuntimeRoot: m.cfg.RuntimeRoot, SystemdCgroup: m.cfg.SystemdCgroup,
	}
	_, m.self.MonitorStart, _ = procStat(os.Getpid())
	again := backoff{policy: m.cfg.Policy}
	for {
		exit, ran := m.once()
		exit.Restarts = again.restarts
		if exit.Error != "" && again.restarts == 0 {
			return exit // the first start failed: whoever asked for it is told
		}
		wait, ok := again.next(exit.Code, ran)
		if !ok || m.stopped() {
			return exit
		}
		m.deleteContainer()
		m.self.Pid, m.self.PidStart, m.self.LastExit, m.self.Restarts = 0, 0, &exit, again.restarts
		m.writeRun()
		select {
		case <-time.After(wait):
		case <-m.noMoreCh:
			return exit
		}
	}
}

// stopped tells whether a person stopped the container: told on the socket, or
// only in the store, when that person's command could not reach us.
func (m *monitor) stopped() bool {
	m.mu.Lock()
	no := m.noMore
	m.mu.Unlock()
	if no || m.cfg.Store == nil {
		return no
	}
	gone := false
	err := m.store(func(ctx context.Context, st *store.Store) error {
		return st.View(ctx, func(tx *store.Tx) error {
			c, err := tx.Container(m.cfg.ID)
			if err != nil {
				return err
			}
			gone = c.State.Stopped
			return nil
		})
	})
	return gone || errors.Is(err, store.ErrNoContainer)
}

// failed is the end of a container that could not be started.
func (m *monitor) failed(err error) Exit {
	code := 125
	var se *StartError
	if errors.As(err, &se) {
		code = se.Code
	}
	m.report(report{Error: err.Error(), Code: code})
	return Exit{Code: code, Time: time.Now(), Error: err.Error(), Failed: true}
}

// once runs the container from its start to its end.
func (m *monitor) once() (Exit, time.Duration) {
	begin := time.Now()
	pid, ended, err := m.startContainer()
	if err != nil {
		return m.failed(err), 0
	}
	m.self.Pid, m.self.Started = pid, begin
	if _, m.self.PidStart, err = procStat(pid); err != nil {
		m.self.PidStart = 0 // ended and reaped already
	}
	oom, key := oomFile(pid)
	before := 0
	if m.cfg.Exec != nil {
		before = oomKills(oom, key)
	}
	m.mu.Lock()
	m.pid = pid
	m.mu.Unlock()
	m.writeRun()
	m.io.pump(m.log, &m.clients)
	m.report(report{Pid: pid})
	m.ran = true

	var ws unix.WaitStatus
	select {
	case ws = <-ended:
	case <-time.After(settleAfter): // not worth it before
		settle()
		ws = <-ended
	}
	exit := Exit{Code: exitCode(ws), Time: time.Now()}
	m.mu.Lock()
	m.pid = 0
	m.mu.Unlock()
	exit.OOMKilled = oomKills(oom, key) > before
	m.io.drain()
	m.io.close()
	return exit, exit.Time.Sub(begin)
}

func (m *monitor) attachFirst() error {
	f := os.NewFile(uintptr(m.cfg.FirstFD), "client")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("attaching the first client: %w", err)
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return errors.New("attaching the first client: not a unix socket")
	}
	m.io.rows, m.io.cols = m.cfg.First.Rows, m.cfg.First.Cols
	c := newClient(uc, *m.cfg.First)
	m.first = c
	m.clients.add(c) // before anything runs, so that nothing is missed
	go m.attached(c)
	return nil
}

func (m *monitor) writeRun() {
	if err := writeJSON(m.cfg.RunDir, runFile, m.self); err != nil {
		m.problem("writing %s: %v", runFile, err)
	}
}

// problem notes what went wrong where somebody may find it.
func (m *monitor) problem(format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(m.cfg.RunDir, problemFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %s\n", time.Now().UTC().Format(time.RFC3339), fmt.Sprintf(format, args...))
}
