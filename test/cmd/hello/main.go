// Hello is the least that a Go program can do: what test/bench/bench compares
// start-up with.
package main

import "os"

func main() { _, _ = os.Stdout.WriteString("hello, world\n") }
