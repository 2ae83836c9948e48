package run

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/common/pkg/seccomp"
	"golang.org/x/sys/unix"
)

// security is what the --security-opt values of a container say.
type security struct {
	NoNewPrivs bool
	Seccomp    string // "" is the default profile, "unconfined", or a profile's JSON text
	AppArmor   string // "" or "unconfined" is none
	Mask       []string
	Unmask     []string
	UnmaskAll  bool
}

// parseSecurity reads --security-opt values. SELinux labels are accepted and
// have no effect. A seccomp profile is its text, not its path: the flag reads
// the file, so that a container does not depend on it later.
func parseSecurity(opts []string) (security, error) {
	var s security
	for _, opt := range opts {
		if err := s.add(opt); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *security) add(opt string) error {
	key, value, ok := strings.Cut(opt, "=")
	if !ok { // docker's older spelling
		key, value, ok = strings.Cut(opt, ":")
	}
	switch key {
	case "no-new-privileges":
		s.NoNewPrivs = true
		if ok {
			on, err := strconv.ParseBool(value)
			if err != nil {
				return conflictf("invalid --security-opt: %q: want true or false", opt)
			}
			s.NoNewPrivs = on
		}
		return nil
	case "label":
		return nil
	}
	if !ok || value == "" {
		return conflictf("invalid --security-opt: %q", opt)
	}
	switch key {
	case "seccomp":
		s.Seccomp = value
		if value == "builtin" {
			s.Seccomp = ""
		}
	case "apparmor":
		s.AppArmor = value
	case "mask":
		return addPaths(&s.Mask, opt, value)
	case "unmask":
		if strings.EqualFold(value, "ALL") {
			s.UnmaskAll = true
			return nil
		}
		return addPaths(&s.Unmask, opt, value)
	case "systempaths":
		if value != "unconfined" {
			return conflictf("invalid --security-opt: %q: only systempaths=unconfined exists", opt)
		}
		s.UnmaskAll = true
	default:
		return conflictf("invalid --security-opt: %q", opt)
	}
	return nil
}

func addPaths(list *[]string, opt, value string) error {
	for p := range strings.SplitSeq(value, ":") {
		if !filepath.IsAbs(p) {
			return conflictf("invalid --security-opt: %q: %q is not an absolute path", opt, p)
		}
		*list = append(*list, filepath.Clean(p))
	}
	return nil
}

// seccompProfile resolves a profile for this architecture and for the
// capabilities that spec grants. nil is none: it was turned off, or the kernel
// has no filters.
func seccompProfile(profile string, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	switch {
	case profile == "unconfined":
		return nil, nil
	case !seccomp.IsEnabled():
		if profile != "" {
			return nil, conflictf("seccomp profile: this kernel or this build of balena has no seccomp filters")
		}
		return nil, nil
	case profile == "":
		p, err := seccomp.GetDefaultProfile(spec)
		if err != nil {
			return nil, fmt.Errorf("making the default seccomp profile: %w", err)
		}
		// Kernels are built or booted without x32 nearly everywhere, and libseccomp
		// takes three times as long for three architectures as for two: 20 ms at
		// every start and every exec (docs/performance.md). Without it in the filter
		// an x32 system call kills its process.
		p.Architectures = slices.DeleteFunc(p.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
		addKernelArch(p, runtime.GOARCH)
		return p, nil
	}
	p, err := seccomp.LoadProfile(profile, spec)
	if err != nil {
		return nil, conflictf("invalid seccomp profile: %v", err)
	}
	return p, nil
}

// addKernelArch has the default profile know the 64-bit programs that the kernel
// of a 32-bit engine may execute: else their first system call kills them.
func addKernelArch(p *specs.LinuxSeccomp, goarch string) {
	var uts unix.Utsname
	if goarch != "386" && goarch != "arm" || unix.Uname(&uts) != nil {
		return
	}
	switch unix.ByteSliceToString(uts.Machine[:]) {
	case "x86_64":
		// What the profile says of amd64 beyond 386.
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"arch_prctl"}, Action: specs.ActAllow})
		p.Architectures = append(p.Architectures, specs.ArchX86, specs.ArchX86_64)
	case "aarch64":
		p.Architectures = append(p.Architectures, specs.ArchARM, specs.ArchAARCH64)
	}
}

// maskedPaths and readonlyPaths are podman's.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
	}
	readonlyPaths = []string{
		"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
	}
)

// hiddenPaths gives the masked and the read-only paths of a container that is
// not privileged.
func (s *security) hiddenPaths() (masked, readonly []string) {
	keep := func(paths []string) []string {
		var out []string
		for _, p := range paths {
			if !s.unmasked(p) {
				out = append(out, p)
			}
		}
		return out
	}
	masked, readonly = keep(maskedPaths), keep(readonlyPaths)
	thermal, _ := filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle") // the pattern is well formed
	masked = append(masked, keep(thermal)...)
	return append(masked, s.Mask...), readonly
}

func (s *security) unmasked(path string) bool {
	if s.UnmaskAll {
		return true
	}
	for _, u := range s.Unmask {
		if ok, _ := filepath.Match(u, path); ok || strings.HasPrefix(path, u+"/") {
			return true
		}
	}
	return false
}
