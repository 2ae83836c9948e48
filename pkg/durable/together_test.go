package durable

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// A sync that is under way answers nobody who comes during it; those share the
// next one.
func TestTogether(t *testing.T) {
	running, finish := make(chan int), make(chan error)
	n := 0
	s := newTogether(func(int) error {
		n++
		running <- n
		return <-finish
	})
	first := make(chan error, 1)
	go func() { first <- s.do(0) }()
	<-running
	late := make(chan error, 3)
	var calling sync.WaitGroup
	for range 3 {
		calling.Add(1)
		go func() { calling.Done(); late <- s.do(0) }()
	}
	calling.Wait()
	time.Sleep(50 * time.Millisecond) // into the wait
	finish <- nil
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got := <-running; got != 2 {
		t.Fatalf("sync %d runs, want the second", got)
	}
	select {
	case <-late:
		t.Fatal("answered by a sync that began before the call")
	case <-time.After(50 * time.Millisecond):
	}
	bad := errors.New("no disk")
	finish <- bad
	for range 3 {
		if err := <-late; !errors.Is(err, bad) {
			t.Errorf("got %v, want the error of the sync that was shared", err)
		}
	}
	if n != 2 {
		t.Errorf("%d syncs for four calls, want 2", n)
	}
}
