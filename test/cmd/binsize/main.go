// Binsize says what the packages of a Go binary take, stripped or not, and
// compares with another binary or with a recorded table:
//
//	binsize BINARY                  the table
//	binsize -base FILE BINARY       what grew and what shrank since FILE
//	binsize -budget FILE BINARY     the same, and exit 1 past FILE's limit
//	binsize -record LIMIT BINARY    a table with a limit, for -budget
//
// A table is lines of "BYTES PACKAGE"; "limit" and "total" are for the file.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

func main() { os.Exit(realMain(os.Args, os.Stdout, os.Stderr)) }

func realMain(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("binsize", flag.ContinueOnError)
	flags.SetOutput(stderr)
	base := flags.String("base", "", "a binary or a table to compare with")
	budget := flags.String("budget", "", "a table with a limit")
	record := flags.Int("record", 0, "print a table with this limit")
	if err := flags.Parse(args[1:]); err != nil || flags.NArg() != 1 {
		fmt.Fprintln(stderr, "usage: binsize [-base FILE | -budget FILE | -record LIMIT] BINARY")
		return 2
	}
	fail := func(err error) int {
		fmt.Fprintf(stderr, "binsize: %v\n", err)
		return 2
	}
	now, err := load(flags.Arg(0))
	if err != nil {
		return fail(err)
	}
	if *base == "" && *budget == "" {
		if *record > 0 {
			fmt.Fprintf(stdout, "%d limit\n", *record)
		}
		printTable(stdout, now)
		return 0
	}
	before, err := load(cmp.Or(*base, *budget))
	if err != nil {
		return fail(err)
	}
	limit, over := before["limit"], false
	if *budget != "" {
		if limit == 0 {
			return fail(fmt.Errorf("%s names no limit", *budget))
		}
		if over = now["total"] > limit; !over {
			fmt.Fprintf(stdout, "%s: %d bytes, %d below the limit\n", flags.Arg(0), now["total"], limit-now["total"])
			return 0
		}
		stdout = stderr
		fmt.Fprintf(stdout, "%s: %d bytes, %d past the limit of %s\nWhat has changed since the table was recorded:\n",
			flags.Arg(0), now["total"], now["total"]-limit, *budget)
	}
	printChanges(stdout, before, now)
	if over {
		return 1
	}
	return 0
}

// load reads a binary or a recorded table.
func load(file string) (map[string]int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(b, []byte("\x7fELF")) {
		sizes, err := packages(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		sizes["total"] = len(b)
		return sizes, nil
	}
	sizes := map[string]int{}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		var n int
		var name string
		if _, err := fmt.Sscanf(lines.Text(), "%d %s", &n, &name); err != nil {
			return nil, fmt.Errorf("%s: neither a binary nor a table: %q", file, lines.Text())
		}
		sizes[name] = n
	}
	return sizes, nil
}

func printTable(w io.Writer, sizes map[string]int) {
	names := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int {
		return cmp.Or(sizes[b]-sizes[a], strings.Compare(a, b))
	})
	for _, name := range names {
		fmt.Fprintf(w, "%d %s\n", sizes[name], name)
	}
}

// printChanges lists what changed by 1 kB at least, the largest first.
func printChanges(w io.Writer, before, now map[string]int) {
	change := map[string]int{}
	for name, n := range now {
		change[name] = n - before[name]
	}
	for name, n := range before {
		if _, there := now[name]; !there && name != "limit" {
			change[name] = -n
		}
	}
	maps.DeleteFunc(change, func(name string, n int) bool { return n > -1000 && n < 1000 && name != "total" })
	names := slices.SortedFunc(maps.Keys(change), func(a, b string) int {
		return cmp.Or(abs(change[b])-abs(change[a]), strings.Compare(a, b))
	})
	fmt.Fprintf(w, "%10s %10s %9s\n", "before", "now", "change")
	for _, name := range names {
		fmt.Fprintf(w, "%10d %10d %+9d  %s\n", before[name], now[name], change[name], name)
	}
}

func abs(n int) int { return max(n, -n) }
