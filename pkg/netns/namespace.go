package netns

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newNamespace makes a network namespace whose loopback interface is up. Unless
// ipv6, interfaces that it gets later have no IPv6. With use, it also gives a netlink handle inside it, which use must not keep.
func newNamespace(ipv6 bool, use func(ns *os.File, inside *netlink.Handle) error) (*os.File, error) {
	type made struct {
		ns *os.File
		h  *netlink.Handle
		e  error
	}
	c := make(chan made)
	go func() {
		var m made
		runtime.LockOSThread()
		m.ns, m.h, m.e = unshareNet(ipv6)
		c <- m
	}()
	m := <-c
	if m.e != nil {
		return nil, m.e
	}
	defer m.h.Close()
	if use != nil {
		if err := use(m.ns, m.h); err != nil {
			_ = m.ns.Close()
			return nil, err
		}
	}
	return m.ns, nil
}

// unshareNet runs on a locked thread and unlocks it once it is back in the
// namespace that it came from; a thread that cannot go back ends with its
// goroutine.
func unshareNet(ipv6 bool) (ns *os.File, h *netlink.Handle, err error) {
	back, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, nil, err
	}
	defer back.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, nil, fmt.Errorf("making a network namespace: %w", err)
	}
	defer func() {
		if e := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); e == nil {
			runtime.UnlockOSThread()
		}
		if err != nil && ns != nil {
			_ = ns.Close()
		}
		if err != nil && h != nil {
			h.Close()
		}
	}()
	if ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, nil, err
	}
	if !ipv6 {
		// No link-local addresses that nobody asked for. Loopback exists
		// already and keeps ::1.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	}
	if h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return ns, nil, err
	}
	lo := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}
	if err = h.LinkSetUp(lo); err != nil {
		return ns, h, fmt.Errorf("bringing up the loopback interface: %w", err)
	}
	return ns, h, nil
}

// openNamespace opens the network namespace at path.
func openNamespace(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.NSFS_MAGIC {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a network namespace", path)
	}
	return f, nil
}

// within runs f on a thread in the network namespace ns.
func within(ns *os.File, f func() error) error {
	c := make(chan error)
	go func() {
		runtime.LockOSThread()
		c <- func() error {
			back, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			defer back.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("entering the network namespace: %w", err)
			}
			defer func() {
				if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {
					runtime.UnlockOSThread()
				}
			}()
			return f()
		}()
	}()
	return <-c
}
