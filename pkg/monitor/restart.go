package monitor

import (
	"time"

	"github.com/balena-os/balena/pkg/store"
)

// Back-off between restarts, as docker has it: it doubles with each run that
// was shorter than backoffReset.
const (
	backoffFirst = 100 * time.Millisecond
	backoffMax   = time.Minute
	backoffReset = 10 * time.Second
)

// backoff counts the restarts of one container.
type backoff struct {
	policy   store.RestartPolicy
	restarts int
	wait     time.Duration
}

// next says whether a container that ended with code after running for ran is
// to be started again, and after what pause.
func (b *backoff) next(code int, ran time.Duration) (time.Duration, bool) {
	switch b.policy.Name {
	case "always", "unless-stopped":
	case "on-failure":
		if code == 0 || b.policy.Max > 0 && b.restarts >= b.policy.Max {
			return 0, false
		}
	default:
		return 0, false
	}
	switch {
	case ran >= backoffReset || b.wait == 0:
		b.wait = backoffFirst
	default:
		b.wait = min(2*b.wait, backoffMax)
	}
	b.restarts++
	return b.wait, true
}
