// Faultproxy stands between an engine and a registry and does what networks
// and broken registries do. It logs one line a request to standard output:
//
//	METHOD PATH RANGE STATUS BYTES
//
// with "-" where the request had no Range, so that a test can see what was
// asked for and how many bytes of it were served.
//
//	faultproxy -registry 127.0.0.1:5000 -listen 127.0.0.1:0 -fault cut -bytes 100000 -times 2
//
// The address listened on is the first line of the output. Faults, each for
// the requests whose path contains -match (default /blobs/), the first
// -times of them (0: always):
//
//	none      pass everything on
//	cut       send -bytes of the body, then reset the connection
//	truncate  the blob has only -bytes bytes: later ranges do not exist
//	corrupt   flip one byte of the body at offset -bytes
//	status    answer -status with an error as registries write it
//	stall     send -bytes of the body, then nothing for -delay
//	slow      send the body at -rate bytes a second
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "faultproxy:", err)
		os.Exit(1)
	}
}

type proxy struct {
	registry string
	fault    string
	match    string
	bytes    int64
	times    int
	status   int
	delay    time.Duration
	rate     int64
	noRange  bool

	mu     sync.Mutex
	faults int
	log    io.Writer
}

func run(args []string) error {
	p := &proxy{log: os.Stdout}
	fs := flag.NewFlagSet("faultproxy", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:0", "address to listen on")
	fs.StringVar(&p.registry, "registry", "", "address of the registry")
	fs.StringVar(&p.fault, "fault", "none", "what goes wrong")
	fs.StringVar(&p.match, "match", "/blobs/", "part of the path of the requests that go wrong")
	fs.Int64Var(&p.bytes, "bytes", 0, "bytes of the body that are served right")
	fs.IntVar(&p.times, "times", 0, "how many requests go wrong, 0 for all")
	fs.IntVar(&p.status, "status", 500, "status for the fault status")
	fs.DurationVar(&p.delay, "delay", time.Minute, "how long to stall")
	fs.Int64Var(&p.rate, "rate", 1<<20, "bytes a second for the fault slow")
	fs.BoolVar(&p.noRange, "no-range", false, "ignore Range requests, as some registries do")
	if err := fs.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, p)
}

// hit says whether this request goes wrong.
func (p *proxy) hit(r *http.Request) bool {
	if p.fault == "none" || !strings.Contains(r.URL.Path, p.match) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults++
	return p.times == 0 || p.faults <= p.times
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked := orDash(strings.ReplaceAll(r.Header.Get("Range"), " ", ""))
	status, n := p.serve(w, r)
	p.mu.Lock()
	fmt.Fprintln(p.log, r.Method, r.URL.Path, asked, status, n)
	p.mu.Unlock()
}

// serve answers and returns the status and the bytes of the body sent.
func (p *proxy) serve(w http.ResponseWriter, r *http.Request) (status int, sent int64) {
	hit := p.hit(r)
	if hit && p.fault == "status" {
		w.Header().Set("Content-Type", "application/json")
		if p.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="faultproxy"`)
		}
		w.WriteHeader(p.status)
		n, _ := io.WriteString(w, `{"errors":[{"code":"UNKNOWN","message":"made to fail"}]}`)
		return p.status, int64(n)
	}

	if hit && p.fault == "truncate" && r.Header.Get("Range") != "" {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return http.StatusRequestedRangeNotSatisfiable, 0
	}

	out, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+p.registry+r.URL.RequestURI(), r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return http.StatusBadGateway, 0
	}
	out.Header = r.Header.Clone()
	out.Host = r.Host
	out.ContentLength = r.ContentLength
	if p.noRange {
		out.Header.Del("Range")
	}
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return http.StatusBadGateway, 0
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	size, _ := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64)
	if !hit || r.Method != http.MethodGet || size <= p.bytes {
		w.WriteHeader(resp.StatusCode)
		n, _ := io.Copy(w, resp.Body)
		return resp.StatusCode, n
	}

	body := io.Reader(resp.Body)
	switch p.fault {
	case "truncate":
		w.Header().Set("Content-Length", strconv.FormatInt(p.bytes, 10))
		body = io.LimitReader(body, p.bytes)
	case "cut", "stall":
		body = io.LimitReader(body, p.bytes)
	case "corrupt":
		body = &flipped{r: body, at: p.bytes}
	case "slow":
		body = &throttled{r: body, rate: p.rate, ctx: r.Context()}
	}
	w.WriteHeader(resp.StatusCode)
	n, _ := io.Copy(w, body)
	switch p.fault {
	case "stall":
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(p.delay):
		}
		p.abort(w)
	case "cut":
		w.(http.Flusher).Flush()
		p.abort(w)
	}
	return resp.StatusCode, n
}

// abort resets the connection under an answer.
func (p *proxy) abort(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// flipped is a reader with one byte changed.
type flipped struct {
	r   io.Reader
	at  int64
	pos int64
}

func (f *flipped) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if f.at >= f.pos && f.at < f.pos+int64(n) {
		b[f.at-f.pos] ^= 0xff
	}
	f.pos += int64(n)
	return n, err
}

// throttled is a reader of so many bytes a second.
type throttled struct {
	r    io.Reader
	rate int64
	ctx  context.Context
}

func (t *throttled) Read(b []byte) (int, error) {
	const slice = 50 * time.Millisecond
	if most := t.rate * int64(slice) / int64(time.Second); int64(len(b)) > most {
		b = b[:max(most, 1)]
	}
	select {
	case <-t.ctx.Done():
		return 0, t.ctx.Err()
	case <-time.After(slice):
	}
	return t.r.Read(b)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
