// Package mpb takes the place of github.com/vbauerster/mpb/v8, with which
// containers/image draws the progress of a copy. balena draws it itself
// (pull.NewProgress) and has containers/image draw nothing.
//
// Lost: those bars.
package mpb

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8/decor"
)

// Options that say how a bar would look.
type (
	ContainerOption  func()
	BarOption        func()
	BarFillerBuilder interface{ build() }
)

// WithWidth would set the width.
func WithWidth(int) ContainerOption { return nil }

// WithOutput would set where bars are drawn.
func WithOutput(io.Writer) ContainerOption { return nil }

// BarFillerClearOnComplete would clear a bar at its end.
func BarFillerClearOnComplete() BarOption { return nil }

// PrependDecorators would write in front of a bar.
func PrependDecorators(...decor.Decorator) BarOption { return nil }

// AppendDecorators would write behind a bar.
func AppendDecorators(...decor.Decorator) BarOption { return nil }

// Spinner would be a bar without an end.
type Spinner struct{}

// SpinnerStyle would set its frames.
func SpinnerStyle(...string) Spinner { return Spinner{} }

// PositionLeft would put it there.
func (s Spinner) PositionLeft() Spinner { return s }

func (Spinner) build() {}

// Progress is a set of bars.
type Progress struct{}

// New makes one.
func New(...ContainerOption) *Progress { return &Progress{} }

// AddBar makes a bar.
func (*Progress) AddBar(int64, ...BarOption) *Bar { return &Bar{} }

// New makes a bar.
func (*Progress) New(int64, BarFillerBuilder, ...BarOption) *Bar { return &Bar{} }

// Wait does not: there is nothing to be drawn.
func (*Progress) Wait() {}

// Bar counts.
type Bar struct{ current atomic.Int64 }

// Current is where the bar is.
func (b *Bar) Current() int64 { return b.current.Load() }

// SetCurrent puts the bar there.
func (b *Bar) SetCurrent(n int64) { b.current.Store(n) }

// EwmaIncrInt64 moves the bar on.
func (b *Bar) EwmaIncrInt64(n int64, _ time.Duration) { b.current.Add(n) }

// SetTotal does nothing.
func (*Bar) SetTotal(int64, bool) {}

// SetRefill does nothing.
func (*Bar) SetRefill(int64) {}

// Abort does nothing.
func (*Bar) Abort(bool) {}

// ProxyReader counts what is read.
func (b *Bar) ProxyReader(r io.Reader) io.ReadCloser { return &proxy{r, b} }

type proxy struct {
	io.Reader
	bar *Bar
}

func (p *proxy) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.bar.current.Add(int64(n))
	return n, err
}

func (p *proxy) Close() error {
	if c, ok := p.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
