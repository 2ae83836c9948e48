// Ociregistry serves test/ociregistry on a free loopback port until it is
// killed. It prints its address, then each request.
//
//	ociregistry [-referrers=false] [-no-delete] [-read-only]
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/balena-os/balena/test/ociregistry"
)

func main() {
	referrers := flag.Bool("referrers", true, "have the referrers API")
	noDelete := flag.Bool("no-delete", false, "answer 405 to DELETE")
	readOnly := flag.Bool("read-only", false, "answer 403 to all that changes something")
	flag.Parse()
	r := &ociregistry.Registry{Referrers: *referrers, NoDelete: *noDelete}
	r.Before = func(w http.ResponseWriter, q *http.Request) bool {
		fmt.Println(q.Method, q.URL.Path)
		if *readOnly && q.Method != http.MethodGet && q.Method != http.MethodHead {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"read only"}]}`)
			return true
		}
		return false
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Addr())
	log.Fatal(http.Serve(l, r))
}
