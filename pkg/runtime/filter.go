//go:build cgo && seccomp

package runtime

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// libcontainer has libseccomp compile the profile in the container's init, at
// each start and each exec. It takes 12 ms and gives the same program each
// time. So the caller compiles it once a boot, keeps it beside the containers'
// states, and hands it to init on a sealed descriptor:
//
//	caller ── what libcontainer would ask of libseccomp ──▶ key
//	       ── ROOT/.seccomp-KEY-BINARY ──▶ program, else compiled and kept
//	       ── memfd: magic, key, program ──▶ init
//	init   ── its own key is that of the memfd? ──▶ program, else compiled
//
// The key is the digest of all that the program depends on (see
// third_party/libseccomp-golang), so nothing that init loads differs from what
// it would have compiled. What goes wrong here only costs the 12 ms.

// filterMagic begins a kept and a handed-over filter.
const filterMagic = "balena filter 1\n"

// keptFilters bounds the files: profiles differ with the capabilities.
const keptFilters = 32

var (
	errNotLoaded = errors.New("the filter is not for this process")
	filterMu     sync.Mutex // libseccomp.Export is one for the process
)

// passFilter gives a descriptor for init with the compiled filter, or nil.
func passFilter(root string, config *configs.Seccomp) *os.File {
	if config == nil {
		return nil
	}
	key, prog := compileFilter(root, config)
	if len(prog) == 0 {
		return nil
	}
	fd, err := unix.MemfdCreate("balena-seccomp", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "balena-seccomp")
	if _, err = f.Write(encodeFilter(key, prog)); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, filterSeals)
	}
	if err != nil {
		f.Close()
		return nil
	}
	return f
}

const filterSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// compileFilter goes through what init will do up to the export of the program,
// where it ends with errNotLoaded: nothing is loaded here.
func compileFilter(root string, config *configs.Seccomp) (key libseccomp.Key, prog []byte) {
	filterMu.Lock()
	defer filterMu.Unlock()
	defer func() { libseccomp.Export = nil }()
	libseccomp.Export = func(k libseccomp.Key, compile func() ([]byte, error)) ([]byte, error) {
		key = k
		path, err := filterPath(root, k)
		if err == nil {
			prog = readFilter(path, k)
		}
		if prog == nil {
			var cerr error
			if prog, cerr = compile(); cerr == nil && err == nil {
				keepFilter(path, k, prog)
			}
		}
		return nil, errNotLoaded
	}
	if _, err := seccomp.InitSeccomp(config); !errors.Is(err, errNotLoaded) {
		return key, nil // init will say what is wrong
	}
	return key, prog
}

// filterPath names the file by the key and this very binary.
func filterPath(root string, key libseccomp.Key) (string, error) {
	info, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.ErrUnsupported
	}
	binary := sha256.Sum256(fmt.Append(nil, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim))
	return filepath.Join(root, fmt.Sprintf(".seccomp-%x-%x", key, binary[:8])), nil
}

func encodeFilter(key libseccomp.Key, prog []byte) []byte {
	sum := sha256.Sum256(prog)
	return bytes.Join([][]byte{[]byte(filterMagic), key[:], sum[:], prog}, nil)
}

// decodeFilter gives the program, or nil if b is damaged or of another key.
func decodeFilter(key libseccomp.Key, b []byte) []byte {
	head := len(filterMagic) + len(key) + sha256.Size
	if len(b) <= head || !bytes.Equal(b, encodeFilter(key, b[head:])) {
		return nil
	}
	return b[head:]
}

// readFilter reads a kept filter that nobody else could have written.
func readFilter(path string, key libseccomp.Key) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 || st.Size > maxFilter {
		return nil
	}
	b := make([]byte, st.Size)
	if n, err := f.ReadAt(b, 0); err != nil || int64(n) != st.Size {
		return nil
	}
	return decodeFilter(key, b)
}

// maxFilter is well above the kernel's limit of 4096 instructions of 8 bytes.
const maxFilter = 64 << 10

// keepFilter puts a file in place in one step. It is not synced: one that a
// power cut has torn does not match its digest.
func keepFilter(path string, key libseccomp.Key, prog []byte) {
	if kept, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".seccomp-*")); len(kept) >= keptFilters {
		for _, old := range kept {
			_ = os.Remove(old)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".seccomp-*.new") // mode 0600
	if err != nil {
		return
	}
	_, err = f.Write(encodeFilter(key, prog))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
}

// takeFilter is init's side: it finds the descriptor, which the container must
// not get, and uses the program if it is of init's own key.
func takeFilter() {
	for fd := 3; ; fd++ {
		seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		if errors.Is(err, unix.EBADF) {
			return
		}
		if err != nil || seals != filterSeals {
			continue
		}
		b := make([]byte, maxFilter)
		n, err := unix.Pread(fd, b, 0)
		if err != nil || !bytes.HasPrefix(b[:n], []byte(filterMagic)) {
			continue
		}
		unix.CloseOnExec(fd)
		libseccomp.Export = func(key libseccomp.Key, compile func() ([]byte, error)) ([]byte, error) {
			if prog := decodeFilter(key, b[:n]); prog != nil {
				return prog, nil
			}
			return compile()
		}
		return
	}
}
