// Package versions takes the place of the package of this name of
// github.com/moby/moby/client: it compares versions of docker.
package versions

import (
	"strconv"
	"strings"
)

// LessThan compares versions of numbers between dots, of which a missing one is
// 0, as is what is no number.
func LessThan(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		if p, q := part(x, i), part(y, i); p != q {
			return p < q
		}
	}
	return false
}

func part(v []string, i int) int {
	if i >= len(v) {
		return 0
	}
	n, err := strconv.Atoi(v[i])
	if err != nil {
		return 0
	}
	return n
}
