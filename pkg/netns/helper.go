package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// An unprivileged user's container gets a namespace whose traffic a helper
// (pasta or slirp4netns) carries. Between the two stands the stage
// balena-netns, which starts the helper and ends it:
//
//	command                      balena-netns                     helper
//	   | - keeperRequest (stdin) --> |                               |
//	   |                             | ------ starts --------------> |
//	   |                             | <----- ready ---------------- |
//	   | <-- keeperReply (stdout) -- |                               |
//	   | monitor holds the write end of fd 4
//	   x                             | <- end of file on fd 4        |
//	                                 x ------ SIGKILL -------------> x
//
// When balena-netns itself is killed the kernel ends the helper
// (PR_SET_PDEATHSIG); Teardown and Sweep end both by their recorded PIDs.

// Stage is the name that balena-netns is started by.
const Stage = "balena-netns"

const (
	keeperNS   = 3 // the container's network namespace
	keeperLife = 4 // the read end of the life line

	pastaDNS  = "169.254.1.1" // what pasta forwards DNS from
	pastaHost = "169.254.1.2" // what it gives as the host's address
	slirpIP   = "10.0.2.100"
	slirpDNS  = "10.0.2.3"
)

// keeperRequest is the message on the stage's stdin.
type keeperRequest struct {
	Helper  string              // path
	Args    []string            // of the helper; %NS and %READY are descriptors
	Dir     string              // a folder of the container's for the port driver's sockets
	ChildIP string              // where Ports are forwarded to
	Ports   []store.PortMapping // what the helper does not forward itself
}

// keeperReply is what it answers once, on stdout.
type keeperReply struct {
	Error  string  `json:",omitempty"` // "" is ready
	Errno  int     `json:",omitempty"` // where a port could not be bound, why
	Port   int     `json:",omitempty"` // the index of that port
	Helper Process // that was started
	Binary bool    `json:",omitempty"` // the helper failed, another may do better
}

func (n *Network) setupHelper(ctx context.Context, o Options) error {
	helpers, err := findHelpers(o.Helper)
	if err != nil {
		return err
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		return fmt.Errorf("opening /dev/net/tun, which %s needs: %w: load the module tun, or have root allow it: chmod 666 /dev/net/tun", filepath.Base(helpers[0]), errors.Unwrap(err))
	} else {
		_ = f.Close()
	}
	for _, p := range o.Ports {
		if p.Protocol == "sctp" {
			return fmt.Errorf("publishing port %s/sctp: an unprivileged user can publish tcp and udp", hostPort(p))
		}
	}
	// The helper binds the ports itself: find conflicts and choose now, and
	// let go just before.
	ports, reserved, err := reservePorts(o.Ports)
	if err != nil {
		return err
	}
	for _, f := range reserved {
		_ = f.Close()
	}
	n.Ports = ports
	if n.NS, err = newNamespace(true, nil); err != nil {
		return err
	}
	for i, path := range helpers {
		err = n.startHelper(ctx, o, path)
		var h *helperError
		if err == nil || !errors.As(err, &h) || i == len(helpers)-1 {
			break
		}
	}
	return err
}

// findHelpers gives the paths of the helpers to try, in order.
func findHelpers(want string) ([]string, error) {
	names := []string{"pasta", "slirp4netns"}
	if want != "" {
		names = []string{want}
	}
	var found []string
	for _, name := range names {
		if path, err := lookHelper(name); err == nil {
			found = append(found, path)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: %s not found: install pasta (apt install passt) or slirp4netns, or use --network none or host", ErrNoHelper, strings.Join(names, " and "))
	}
	return found, nil
}

// lookHelper also searches where an unprivileged user's PATH may not lead.
func lookHelper(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin", "/usr/libexec/podman"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// helperError says that a helper does not work here.
type helperError struct{ name, text string }

func (e *helperError) Error() string { return e.name + ": " + e.text }

func (n *Network) startHelper(ctx context.Context, o Options, path string) error {
	n.Interface, n.MTU = insideName, o.MTU
	if n.MTU == 0 {
		n.MTU = 65520
	}
	req := keeperRequest{Helper: path}
	n.Helper = filepath.Base(path)
	if strings.HasPrefix(n.Helper, "slirp4netns") {
		n.slirp(o, &req)
	} else {
		n.pasta(o, &req)
	}
	if len(req.Ports) > 0 {
		req.Dir = filepath.Join(o.RunDir, o.ID+".d")
		if err := os.MkdirAll(req.Dir, 0o700); err != nil {
			return err
		}
	}
	life, err := n.startKeeper(ctx, o, req)
	if err != nil {
		return err
	}
	n.Keep = append(n.Keep, life)
	if err := writeState(n.Keep[0], n.State); err != nil {
		return err
	}
	return within(n.NS, n.inspect)
}

// pasta has the container look like the host: same address, same gateway.
func (n *Network) pasta(o Options, r *keeperRequest) {
	r.Args = []string{"--foreground", "--quiet", "--config-net", "--ns-ifname", n.Interface, "--mtu", strconv.Itoa(n.MTU),
		"--no-map-gw", "--tcp-ns", "none", "--udp-ns", "none"}
	if len(hostResolver().servers) > 0 {
		n.DNS = []string{pastaDNS}
		r.Args = append(r.Args, "--dns-forward", pastaDNS)
	}
	n.HostAddr, r.ChildIP = "", ""
	modern := helperKnows(o.RunDir, r.Helper, "--map-guest-addr")
	if modern {
		n.HostAddr = pastaHost
		r.Args = append(r.Args, "--map-guest-addr", pastaHost)
	}
	if o.MacAddress != "" {
		r.Args = append(r.Args, "--ns-mac-addr", o.MacAddress)
	}
	tcp, udp := "none", "none"
	for _, p := range n.Ports {
		spec := fmt.Sprintf("%d:%d", p.HostPort, p.ContainerPort)
		if p.HostIP != "" {
			spec = p.HostIP + "/" + spec
		}
		if p.Protocol == "udp" && !modern {
			// Before 2024, the answers to clients on this host get lost.
			r.Ports = append(r.Ports, p)
		} else if p.Protocol == "udp" {
			r.Args, udp = append(r.Args, "--udp-ports", spec), ""
		} else {
			r.Args, tcp = append(r.Args, "--tcp-ports", spec), ""
		}
	}
	if tcp != "" {
		r.Args = append(r.Args, "--tcp-ports", tcp)
	}
	if udp != "" {
		r.Args = append(r.Args, "--udp-ports", udp)
	}
	// In the foreground the PID file is written when all is set up.
	r.Args = append(r.Args, "--pid", "/proc/self/fd/%READY", "--netns", "/proc/self/fd/%NS")
}

// slirp4netns has a network of its own, the same in every container.
func (n *Network) slirp(o Options, r *keeperRequest) {
	r.Ports, r.ChildIP = n.Ports, slirpIP
	r.Args = []string{"--configure", "--mtu", strconv.Itoa(n.MTU), "--disable-host-loopback", "--enable-seccomp",
		"--netns-type", "path", "--ready-fd", "%READY"}
	if o.MacAddress != "" {
		r.Args = append(r.Args, "--macaddress", o.MacAddress)
	}
	r.Args = append(r.Args, "/proc/self/fd/%NS", n.Interface)
	n.IPAddress, n.DNS = slirpIP, []string{slirpDNS}
	n.HostAddr = hostAddress()
}

// startKeeper starts balena-netns and waits until it is ready. The file that
// it gives is the life line: the helper lives while it is open somewhere.
func (n *Network) startKeeper(ctx context.Context, o Options, req keeperRequest) (*os.File, error) {
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer lifeR.Close()
	msg, err := json.Marshal(req)
	if err != nil {
		_ = lifeW.Close()
		return nil, err
	}
	cmd := exec.Command(o.Exe)
	if o.Exe == "" {
		cmd.Path = "/proc/self/exe"
	}
	cmd.Args = []string{Stage}
	cmd.Env = append(environ(o.Env), "GOMAXPROCS=2", "GOGC=50")
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(msg)
	var answer, complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		_ = lifeW.Close()
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{n.NS, lifeR}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Not from the caller's thread, which may be in the container's mount
	// namespace: the helper must not keep that.
	started := make(chan error)
	go func() { started <- cmd.Start() }()
	if err := <-started; err != nil {
		_ = lifeW.Close()
		return nil, fmt.Errorf("starting %s: %w", Stage, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	_, err = answer.ReadFrom(out)
	stop() // the end of the command is not the end of the network
	var reply keeperReply
	if err == nil {
		err = json.Unmarshal(answer.Bytes(), &reply)
	}
	if err != nil || reply.Error != "" {
		_ = lifeW.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err != nil {
			return nil, fmt.Errorf("%s ended early: %w: %s", Stage, err, strings.TrimSpace(complaint.String()))
		}
		return nil, n.keeperError(req, reply)
	}
	n.Helpers = []Process{process(cmd.Process.Pid), reply.Helper}
	go func() { _ = cmd.Wait() }() // while we live; after that whoever adopts it
	return lifeW, nil
}

func (n *Network) keeperError(req keeperRequest, r keeperReply) error {
	if r.Errno != 0 && r.Port < len(req.Ports) {
		return portError(req.Ports[r.Port], syscall.Errno(r.Errno))
	}
	if r.Binary {
		return &helperError{n.Helper, r.Error}
	}
	return fmt.Errorf("%s: %s", n.Helper, r.Error)
}

func environ(env []string) []string {
	if env == nil {
		env = os.Environ()
	}
	out := make([]string, 0, len(env)+2)
	for _, e := range env {
		if !strings.HasPrefix(e, "_LIBCONTAINER_") {
			out = append(out, e)
		}
	}
	return out
}

// inspect fills in what the helper configured; it runs inside.
func (n *Network) inspect() error {
	l, err := netlink.LinkByName(n.Interface)
	if err != nil {
		return fmt.Errorf("%s made no interface %s: %w", n.Helper, n.Interface, err)
	}
	n.MacAddress, n.MTU = l.Attrs().HardwareAddr.String(), l.Attrs().MTU
	addrs, err := netlink.AddrList(l, unix.AF_INET)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		n.IPAddress = a.IP.String()
		n.PrefixLen, _ = a.Mask.Size()
	}
	routes, err := netlink.RouteList(l, unix.AF_INET)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Gw != nil {
			n.Gateway = r.Gw.String()
		}
	}
	return nil
}

// hostAddress is the address that the host's own default route begins with,
// "" where there is none.
func hostAddress() string {
	c, err := net.Dial("udp4", "192.0.2.254:9") // sends nothing
	if err != nil {
		return ""
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String()
}

// helperKnows tells whether a helper's --help names an option. The answer is
// remembered in RUNDIR until the binary changes.
func helperKnows(runDir, path, option string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	key := fmt.Sprintf("%s %d %d %s", path, st.Size(), st.ModTime().UnixNano(), option)
	file := filepath.Join(runDir, "helper"+option)
	if raw, err := os.ReadFile(file); err == nil {
		if known, ok := strings.CutPrefix(string(raw), key+" "); ok {
			return known == "yes"
		}
	}
	out, _ := exec.Command(path, "--help").CombinedOutput()
	known := "no"
	if bytes.Contains(out, []byte(option)) {
		known = "yes"
	}
	_ = os.WriteFile(file, []byte(key+" "+known), 0o600)
	return known == "yes"
}

// stopHelper ends a container's helper and waits until it is gone.
func stopHelper(ctx context.Context, runDir, id string, st State) error {
	if err := os.RemoveAll(filepath.Join(runDir, id+".d")); err != nil {
		return err
	}
	var errs []error
	// The helper first: its parent, balena-netns, reaps it and ends by itself.
	for i, p := range slices.Backward(st.Helpers) {
		errs = append(errs, p.end(ctx, i == 0 && len(st.Helpers) > 1))
	}
	return errors.Join(errs...)
}

// Process is a process that cannot be taken for a later one of the same PID.
type Process struct {
	PID   int
	Start uint64 // in ticks after boot
}

func process(pid int) Process {
	t, _ := startTime(pid)
	return Process{pid, t}
}

// end kills the process unless it has ended, or ends by itself when it may, and
// waits until it has.
func (p Process) end(ctx context.Context, mayEnd bool) error {
	if p.PID == 0 || p.Start == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil { // Linux before 5.3
		if t, _ := startTime(p.PID); t == p.Start {
			_ = unix.Kill(p.PID, unix.SIGKILL)
		}
		return nil
	}
	defer unix.Close(fd)
	// With the descriptor open the number is not given to another.
	if t, err := startTime(p.PID); err != nil || t != p.Start {
		return nil
	}
	if mayEnd && wait(ctx, fd, 500*time.Millisecond) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending process %d: %w", p.PID, err)
	}
	if wait(ctx, fd, 5*time.Second) {
		return nil
	}
	return fmt.Errorf("process %d does not end", p.PID)
}

// wait tells whether the process of a pidfd ends in time.
func wait(ctx context.Context, pidfd int, d time.Duration) bool {
	for end := time.Now().Add(d); ctx.Err() == nil && time.Now().Before(end); {
		f := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if k, err := unix.Poll(f, 50); err != nil && !errors.Is(err, unix.EINTR) || k > 0 {
			return true
		}
	}
	return false
}

// startTime is when a process began, in ticks after boot (proc(5)).
func startTime(pid int) (uint64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything.
	_, rest, _ := strings.Cut(string(raw[bytes.LastIndexByte(raw, ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
