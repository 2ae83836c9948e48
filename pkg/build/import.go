package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// ImportOptions are what an imported image says.
type ImportOptions struct {
	Name     string    // "" is none
	Message  string    // "" is where it came from
	Changes  []string  // instructions of a Dockerfile
	Platform string    // OS/ARCH[/VARIANT]; "" is this machine's
	Created  time.Time // zero is now
	In       io.Reader // for "-"
}

// Import makes an image of one layer of a tar archive, compressed or not: from
// is a file, an http(s) URL or "-" for In. It is extracted while it is read, and
// written nowhere else. ErrOptions.
func Import(ctx context.Context, st *store.Store, from string, o ImportOptions) (pull.Image, error) {
	img, err := importFrom(ctx, st, from, o)
	if err != nil {
		return img, fmt.Errorf("importing %s: %w", from, err)
	}
	return img, nil
}

func importFrom(ctx context.Context, st *store.Store, from string, o ImportOptions) (img pull.Image, err error) {
	in, err := openArchive(ctx, from, o.In)
	if err != nil {
		return img, err
	}
	defer in.Close()
	archive := bufio.NewReaderSize(in, 4096)
	if _, err := archive.Peek(1); err == io.EOF {
		return img, errors.New("it is empty")
	}
	message := o.Message
	if message == "" {
		message = "Imported from " + from
	}
	return pull.Compose(ctx, st, pull.Composition{
		Layer: archive, Name: o.Name, Comment: message, Platform: o.Platform, Created: o.Created,
		Change: func(c *pull.ImageConfig) error { return change(c, o.Changes) },
	})
}

func openArchive(ctx context.Context, from string, in io.Reader) (io.ReadCloser, error) {
	switch {
	case from == "-" && in == nil:
		return nil, errors.New("there is no stdin")
	case from == "-":
		return io.NopCloser(in), nil
	case !strings.HasPrefix(from, "http://") && !strings.HasPrefix(from, "https://"):
		f, err := os.Open(from)
		if err != nil {
			return nil, err
		}
		if st, err := f.Stat(); err == nil && st.IsDir() {
			f.Close()
			return nil, fmt.Errorf("%w: it is a folder, not a tar archive", ErrOptions)
		}
		return f, nil
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("the server says %s", res.Status)
	}
	return res.Body, nil
}
