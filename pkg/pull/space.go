package pull

import (
	"fmt"

	"github.com/balena-os/balena/pkg/durable"
)

// checkSpace refuses a pull that cannot fit, before its first byte. What a
// layer takes uncompressed is not in the manifest, but it is never less than
// the blob; so this refuses only what is certain, and the rest is rolled back
// when the disk fills up.
func (p *puller) checkSpace(pl *plan) error {
	var need int64
	for _, l := range pl.layers {
		has, err := p.w.Has(l.id, l.diffID)
		if err != nil {
			return err
		}
		if !has && l.blob.Size > 0 {
			need += l.blob.Size
		}
	}
	free, err := durable.Free(p.layers.GraphRoot())
	if err != nil {
		return err
	}
	if need > free {
		return fmt.Errorf("%w: the image needs at least %s, %s has %s", ErrNoSpace, size(need), p.layers.GraphRoot(), size(free))
	}
	return nil
}

// size writes bytes as docker does: 1.5GB, 12.3MB.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	f, unit := float64(n), 0
	for f >= 1000 && unit < 4 {
		f /= 1000
		unit++
	}
	return fmt.Sprintf("%.4g%s", f, []string{"B", "kB", "MB", "GB", "TB"}[unit])
}
