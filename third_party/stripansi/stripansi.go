// Package stripansi takes the place of github.com/acarl005/stripansi, with
// which the progress bars of containers/image take colours out of a text that
// is too wide. The original compiles a regular expression at each start.
//
// Lost: nothing that a progress bar draws.
package stripansi

import "strings"

// Strip returns s without the escape sequences of ECMA-48: ESC [ or CSI with
// its parameters and final byte, ESC ] up to BEL or ESC \, ESC with one byte.
func Strip(s string) string {
	if !strings.ContainsAny(s, "\x1b\u009b") {
		return s
	}
	var b strings.Builder
	for s != "" {
		i := strings.IndexAny(s, "\x1b\u009b")
		if i < 0 {
			break
		}
		b.WriteString(s[:i])
		s = s[i:]
		switch {
		case strings.HasPrefix(s, "\u009b"):
			s = csi(s[len("\u009b"):])
		case strings.HasPrefix(s, "\x1b["):
			s = csi(s[2:])
		case strings.HasPrefix(s, "\x1b]"):
			s = osc(s[2:])
		case len(s) > 1 && s[1] < 0x80:
			s = s[2:]
		default:
			s = s[1:]
		}
	}
	return b.String() + s
}

// csi returns what follows the parameters, intermediates and final byte that s
// starts with.
func csi(s string) string {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x3f {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				i++
			}
			return s[i:]
		}
	}
	return ""
}

// osc returns what follows the terminator of the string that s starts with.
func osc(s string) string {
	for i := range len(s) {
		if s[i] == 0x07 {
			return s[i+1:]
		}
		if strings.HasPrefix(s[i:], "\x1b\\") {
			return s[i+2:]
		}
	}
	return ""
}
