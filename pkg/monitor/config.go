package monitor

import (
	"os"
	"time"

	"github.com/balena-os/balena/pkg/store"
)

// Names of the files in a container's bundle folder (Config.RunDir).
const (
	runFile     = "run.json"     // what runs now: RunFile
	exitFile    = "exit.json"    // how it ended: Exit
	lockFile    = "monitor.lock" // flock held by the monitor, and by its ExitCommand
	socketFile  = "attach.sock"
	pidFile     = "pid"
	runtimeLog  = "runtime.log"
	problemFile = "monitor.err" // what the monitor could not tell anybody
)

// Config is the one message that a monitor gets.
type Config struct {
	ID     string // the container's
	Name   string // only for people
	RunDir string // absolute: run.json, sockets, the lock; mode 0700
	Bundle string // OCI bundle; "" is RunDir

	Runtime       []string // argv prefix of an OCI runtime; nil is balena's own
	RuntimeRoot   string   // its --root
	SystemdCgroup bool     // its --systemd-cgroup

	Terminal  bool // the process has a console, as its OCI process says too
	Stdin     bool // its stdin is open
	StdinOnce bool // and closed when the first client that attached to it leaves

	Log    LogConfig           // where its output is kept
	Policy store.RestartPolicy // when to start it again

	StopSignal int  // sent when the monitor itself is told to terminate; 0 is SIGTERM
	AutoRemove bool // the ExitCommand removes the container: its end is not recorded in the store

	// Store is where the exit record goes; nil records it nowhere but in
	// exit.json.
	Store *StorePaths

	// ExitCommand is the argv that the monitor becomes when all is over, the
	// lock still held on the descriptor that the variable
	// BALENA_MONITOR_LOCK names. Held descriptors are closed by then. argv[0] is
	// found through ExitPath, "" is balena itself.
	ExitCommand []string
	ExitPath    string

	// Exec is set for a process that joins a running container.
	Exec *ExecConfig

	// First is the client that is attached before the container starts.
	First *AttachRequest

	// Descriptors of the monitor, -1 for none; Start fills them in.
	HoldFDs    []int
	Links      map[string]int
	FirstFD    int
	StartingFD int
}

// StorePaths says which database the exit record belongs in.
type StorePaths struct {
	Root, RunRoot, TmpDir string
}

// LogConfig says how output is kept.
type LogConfig struct {
	Driver  string // "json-file" ("" too) or "none"
	Path    string // the current file; rotated ones get .1, .2…
	MaxSize int64  // bytes of one file; 0 is DefaultLogSize, < 0 no bound
	MaxFile int    // files in all; 0 is DefaultLogFiles
}

// ExecConfig describes a process that joins a container.
type ExecConfig struct {
	ProcessFile string // an OCI process as JSON
}

// RunFile is run.json: what a container's monitor has running. It is replaced
// atomically at every start.
type RunFile struct {
	ID           string
	Pid          int    // of the container's first process; 0 while it waits for a restart
	PidStart     uint64 // its start time in clock ticks after boot: field 22 of /proc/PID/stat
	MonitorPid   int
	MonitorStart uint64
	BootID       string
	Started      time.Time
	Restarts     int
	LastExit     *Exit `json:",omitempty"` // of the run before a restart

	// How to reach it through its runtime: as in Config.
	Runtime       []string `json:",omitempty"`
	RuntimeRoot   string
	SystemdCgroup bool `json:",omitempty"`
}

// Exit is how a container ended.
type Exit struct {
	Code      int       // 0 to 255; 128+n for signal n
	Time      time.Time //
	OOMKilled bool      `json:",omitempty"`
	Error     string    `json:",omitempty"` // why it could not be started, or was not seen to end
	Failed    bool      `json:",omitempty"` // it could not be started
	Restarts  int       `json:",omitempty"`
}

// Files are descriptors that a monitor inherits. The caller keeps its own
// copies and closes them.
type Files struct {
	// Hold are kept open while the monitor lives: reserved ports, namespaces.
	Hold []*os.File
	// Links are held too, and each is reachable under its name in RunDir, by a
	// symbolic link to the monitor's descriptor: the way an OCI spec can name a
	// network namespace that nothing but the monitor keeps alive.
	Links map[string]*os.File
	// First is one end of a connected stream socket: the client of
	// Config.First.
	First *os.File
	// Starting is kept open until the monitor has its lock.
	Starting *os.File
}

// StartError is why a container could not be started.
type StartError struct {
	Msg  string
	Code int // 125, or 126 and 127 for its command, as a shell has them
}

func (e *StartError) Error() string { return e.Msg }

// Started is a container, or process in it, that runs.
type Started struct {
	Pid        int
	MonitorPid int
}
