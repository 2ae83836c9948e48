// Package decor takes the place of the package of this name of
// github.com/vbauerster/mpb/v8: what would be written beside a bar.
package decor

// Decorator would write something.
type Decorator interface{ decorate() }

type none struct{}

func (none) decorate() {}

// Statistics of a bar.
type Statistics struct{ Total, Current, Refill int64 }

// DecorFunc would make text of them.
type DecorFunc func(Statistics) string

// WC would be the width of a column.
type WC struct{}

// SizeB1024 is a number of bytes.
type SizeB1024 int64

// Any would write what a function says.
func Any(DecorFunc, ...WC) Decorator { return none{} }

// Name would write a text.
func Name(string, ...WC) Decorator { return none{} }

// OnComplete would write another text at the end.
func OnComplete(d Decorator, _ string) Decorator { return d }

// CountersKibiByte would write how much of how much.
func CountersKibiByte(string, ...WC) Decorator { return none{} }

// EwmaSpeed would write how fast.
func EwmaSpeed(any, string, float64, ...WC) Decorator { return none{} }
