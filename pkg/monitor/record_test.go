package monitor

import (
	"testing"
	"time"

	"github.com/balena-os/balena/pkg/store"
)

func TestRecordOfFailedStart(t *testing.T) {
	began := time.Unix(1000, 0)
	ended := began.Add(time.Second)
	for _, c := range []struct {
		what string
		ran  bool
		exit Exit
		want store.Status
	}{
		{"the first start", false, Exit{Code: 127, Time: ended, Error: "no", Failed: true}, store.StatusCreated},
		{"a later start", true, Exit{Code: 127, Time: ended, Error: "no", Failed: true}, store.StatusExited},
		{"a restart by its policy", false, Exit{Code: 125, Time: ended, Error: "no", Failed: true, Restarts: 2}, store.StatusExited},
		{"an end that nobody saw", false, Exit{Code: 255, Error: "not seen"}, store.StatusExited},
		{"an ordinary end", false, Exit{Code: 3, Time: ended}, store.StatusExited},
	} {
		s := store.State{Status: store.StatusRunning, Started: began, Ran: c.ran}
		Record(&s, c.exit)
		if s.Status != c.want || s.ExitCode != c.exit.Code || s.Error != c.exit.Error {
			t.Errorf("%s: %+v", c.what, s)
		}
		if never := s.Started.IsZero(); never != (c.want == store.StatusCreated) || never != s.Finished.IsZero() {
			t.Errorf("%s: from %v to %v", c.what, s.Started, s.Finished)
		}
	}
}
