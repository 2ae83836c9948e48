package pull

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/balena-os/balena/pkg/durable"
)

// gzipDoubt is by how much a compressed layer may grow; where there is room for
// that, nothing needs to be asked.
const gzipDoubt = 5

// checkSpace refuses a pull that cannot fit, before its first byte. How large a
// layer is uncompressed is not in the manifest, but it is never less than the
// blob, and at the end of a gzip stream it is written: when the answer depends
// on it, these four bytes are asked for. So this refuses only what is certain,
// and the rest is rolled back when the disk fills up.
func (p *puller) checkSpace(ctx context.Context, src *source, missing []*layer) error {
	var least int64
	for _, l := range missing {
		least += max(0, l.blob.Size)
	}
	free, err := durable.Free(p.layers.GraphRoot())
	if err != nil {
		return err
	}
	if least <= free && free < gzipDoubt*least {
		least = 0
		for _, l := range missing {
			least += uncompressedSize(ctx, src, l)
		}
	}
	if least > free {
		return fmt.Errorf("%w: the image needs at least %s, %s has %s", ErrNoSpace, size(least), p.layers.GraphRoot(), size(free))
	}
	return nil
}

// missing lists the layers that the store does not have.
func (p *puller) missing(pl *plan) ([]*layer, error) {
	var missing []*layer
	for _, l := range pl.layers {
		has, err := p.w.Has(l.id, l.diffID)
		if err != nil {
			return nil, err
		}
		if !has {
			missing = append(missing, l)
		}
	}
	return missing, nil
}

// uncompressedSize is the least that a layer takes on the disk: what its gzip
// trailer says, less an allowance for tar headers of files without content, or
// the size of the blob when that cannot be had.
func uncompressedSize(ctx context.Context, src *source, l *layer) int64 {
	const trailer = 4
	if l.blob.Size < 1<<16 || !strings.HasSuffix(l.blob.MediaType, "gzip") || src.made != nil || !hasRanges(src.ImageSource) {
		return l.blob.Size
	}
	r, err := openAt(ctx, src.ImageSource, l.blob, nil, l.blob.Size-trailer)
	if err != nil {
		return l.blob.Size
	}
	defer r.Close()
	var b [trailer]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return l.blob.Size
	}
	// Modulo 4 GiB, and of the last member only: so a lower bound.
	return max(l.blob.Size, int64(binary.LittleEndian.Uint32(b[:]))*9/10)
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
