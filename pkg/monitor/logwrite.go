package monitor

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// Defaults of LogConfig: bounded, because a device's storage is.
const (
	DefaultLogSize  = 10 << 20
	DefaultLogFiles = 2
	// maxLine is where docker cuts a line into records.
	maxLine = 16 << 10
)

// logWriter appends records in docker's json-file format. Its methods never
// fail the container: what the disk does not take is dropped and counted.
type logWriter struct {
	mu      sync.Mutex
	cfg     LogConfig
	f       *os.File
	size    int64
	part    [2][]byte // of stdout and stderr: the line that has not ended yet
	rec     []byte    // the records of one write
	dropped int64     // bytes
	now     func() time.Time
}

// openLog opens the log for appending; nil for the driver "none".
func openLog(cfg LogConfig) (*logWriter, error) {
	switch cfg.Driver {
	case "", "json-file":
	case "none":
		return nil, nil
	default:
		return nil, fmt.Errorf("unknown log driver %q", cfg.Driver)
	}
	if cfg.Path == "" {
		return nil, nil
	}
	if cfg.MaxSize == 0 {
		cfg.MaxSize = DefaultLogSize
	}
	if cfg.MaxFile <= 0 {
		cfg.MaxFile = DefaultLogFiles
	}
	l := &logWriter{cfg: cfg, now: time.Now}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *logWriter) open() error {
	f, err := os.OpenFile(l.cfg.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("opening the log: %w", err)
	}
	size := st.Size()
	// A power cut may have left half a record: the next one starts on a line of
	// its own.
	if size > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], size-1); err == nil && last[0] != '\n' {
			if n, err := f.Write([]byte{'\n'}); err == nil {
				size += int64(n)
			}
		}
	}
	if l.f != nil {
		l.f.Close()
	}
	l.f, l.size = f, size
	return nil
}

// reopen opens the file anew, for log rotation by others.
func (l *logWriter) reopen() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open()
}

// write logs a piece of a stream: whole lines now, the rest with what follows.
func (l *logWriter) write(t frameType, b []byte) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	part := &l.part[t-frameStdout]
	for len(b) > 0 {
		line, whole := b, false
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, whole = b[:i+1], true
		}
		// A newline does not count, so that a line of exactly maxLine is whole.
		if room := maxLine - len(*part); len(line) > room && (!whole || len(line) > room+1) {
			cut := line[:room]
			if whole := fullRunes(cut); whole > 0 {
				cut = cut[:whole]
			}
			l.record(t, now, *part, cut)
			*part = (*part)[:0]
			b = b[len(cut):]
			continue
		}
		b = b[len(line):]
		if whole {
			l.record(t, now, *part, line)
			*part = (*part)[:0]
		} else {
			*part = append(*part, line...)
		}
	}
	if len(*part) == 0 && cap(*part) > 512 {
		*part = nil
	}
	l.commit()
}

// fullRunes is how much of b can be taken without cutting a UTF-8 sequence at
// its end.
func fullRunes(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		c := b[len(b)-i]
		if utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}

// flush logs the last line of a stream that ended without a newline.
func (l *logWriter) flush(t frameType) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	part := &l.part[t-frameStdout]
	if len(*part) > 0 {
		l.record(t, l.now(), *part, nil)
		*part = nil
	}
	l.commit()
}

// record adds one record to the next write.
func (l *logWriter) record(t frameType, now time.Time, a, b []byte) {
	before := len(l.rec)
	l.rec = appendRecord(l.rec, t, now, a, b)
	if l.cfg.MaxSize > 0 && l.size+int64(before) > 0 && l.size+int64(len(l.rec)) > l.cfg.MaxSize {
		if before == 0 {
			l.rotate()
			return
		}
		// What was there before still belongs in the old file.
		last := len(l.rec) - before
		all := l.rec
		l.rec = all[:before]
		l.commit()
		l.rotate()
		l.rec = append(l.rec[:0], all[before:before+last]...)
	} else if len(l.rec) >= ioBuffer {
		l.commit()
	}
}

// commit writes what was recorded.
func (l *logWriter) commit() {
	if len(l.rec) == 0 {
		return
	}
	n, err := l.f.Write(l.rec)
	if err != nil {
		l.dropped += int64(len(l.rec))
		if n > 0 { // half a record helps nobody
			if l.f.Truncate(l.size) == nil {
				n = 0
			}
		}
	}
	l.size += int64(n)
	if cap(l.rec) > ioBuffer/4 {
		l.rec = nil
	} else {
		l.rec = l.rec[:0]
	}
}

// rotate makes the current file .1, .1 .2 and so on; the oldest goes.
func (l *logWriter) rotate() {
	path := l.cfg.Path
	name := func(i int) string { return path + "." + strconv.Itoa(i) }
	if l.cfg.MaxFile == 1 {
		if err := l.f.Truncate(0); err == nil {
			l.size = 0
		}
		return
	}
	// Removed rather than replaced: ext4 writes out at once what replaces a file,
	// although a container that logs much has it removed before that is due.
	if err := os.Remove(name(l.cfg.MaxFile - 1)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return // go on with the file that we have
	}
	for i := l.cfg.MaxFile - 1; i > 1; i-- {
		if err := os.Rename(name(i-1), name(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return
		}
	}
	if err := os.Rename(path, name(1)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return
	}
	if err := l.open(); err != nil {
		// No new file can be made (disk full): back to the old one.
		_ = os.Rename(name(1), path)
	}
}

func (l *logWriter) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commit()
	l.f.Close()
}

// appendRecord appends {"log":…,"stream":…,"time":…} for the bytes a and b,
// one after the other. Bytes that are not UTF-8 are replaced in "log", as
// docker does it, and kept exactly in "b64", which docker's readers pass over.
func appendRecord(dst []byte, t frameType, now time.Time, a, b []byte) []byte {
	if len(a) > 0 && len(b) > 0 {
		a, b = append(a, b...), nil
	} else if len(a) == 0 {
		a = b
	}
	dst = append(dst, `{"log":"`...)
	dst, valid := appendEscaped(dst, a)
	dst = append(dst, `","stream":"`...)
	if t == frameStderr {
		dst = append(dst, "stderr"...)
	} else {
		dst = append(dst, "stdout"...)
	}
	dst = append(dst, `","time":"`...)
	dst = now.UTC().AppendFormat(dst, time.RFC3339Nano)
	if !valid {
		dst = append(dst, `","b64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, a)
	}
	return append(dst, "\"}\n"...)
}

const hexDigits = "0123456789abcdef"

// appendEscaped appends b as the inside of a JSON string, with the escapes that
// docker writes. False when not all of b is UTF-8.
func appendEscaped(dst, b []byte) ([]byte, bool) {
	valid := true
	start := 0
	for i := 0; i < len(b); {
		c := b[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' && c != 0x7f {
				i++
				continue
			}
			dst = append(dst, b[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(append(dst, b[start:i]...), `\ufffd`...)
			valid = false
			i++
			start = i
			continue
		}
		if r == '\u2028' || r == '\u2029' {
			dst = append(append(dst, b[start:i]...), `\u202`...)
			dst = append(dst, hexDigits[r&15])
			i += size
			start = i
			continue
		}
		i += size
	}
	return append(dst, b[start:]...), valid
}
