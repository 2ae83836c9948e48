package pull

import (
	"errors"
	"io"
	"testing"
)

// brokenOnce is a body as containers/image's: after it broke, it must not be
// read again, and it reads when it is closed.
type brokenOnce struct {
	t      *testing.T
	err    error
	broken bool
	closed int
}

func (b *brokenOnce) Read([]byte) (int, error) {
	if b.broken && !errors.Is(b.err, io.EOF) {
		b.t.Error("read after it broke")
	}
	b.broken = true
	return 3, b.err
}

func (b *brokenOnce) Close() error {
	b.closed++
	_, err := b.Read(nil)
	return err
}

func TestRangedBody(t *testing.T) {
	for err, closes := range map[error]int{io.EOF: 1, io.ErrUnexpectedEOF: 0} {
		body := &brokenOnce{t: t, err: err}
		r := &rangedBody{ReadCloser: body}
		if n, got := r.Read(make([]byte, 5)); n != 3 || !errors.Is(got, err) {
			t.Errorf("%v: read %d, %v", err, n, got)
		}
		if n, got := r.Read(make([]byte, 5)); n != 0 || !errors.Is(got, err) {
			t.Errorf("%v: then read %d, %v", err, n, got)
		}
		_ = r.Close()
		if body.closed != closes {
			t.Errorf("%v: closed %d times", err, body.closed)
		}
	}
}
