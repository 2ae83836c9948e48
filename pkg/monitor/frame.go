package monitor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The protocol of attach.sock. Every message, in both directions, is a frame:
//
//	 0      1      2      3      4      5      6      7
//	+------+------+------+------+------+------+------+------+--------//--------+
//	| type |  0   |  0   |  0   |   length, big endian      | length bytes     |
//	+------+------+------+------+------+------+------+------+--------//--------+
//
// A client sends one request frame; only after an attach more follow.
// docs/monitor.md has the whole story.
type frameType byte

const (
	frameStdin   frameType = 0 // client → monitor; 0, 1 and 2 are as in docker's streams
	frameStdout  frameType = 1 // monitor → client
	frameStderr  frameType = 2 // monitor → client
	frameRequest frameType = 3 // client → monitor: JSON request, the first frame
	frameReply   frameType = 4 // monitor → client: JSON reply to the request
	frameEOF     frameType = 5 // client → monitor: no more stdin
	frameExit    frameType = 6 // monitor → client: JSON Exit; nothing follows
	frameCleaned frameType = 7 // client → monitor: JSON reply to the exit of one that promised to clean up
)

const (
	headerSize = 8
	// maxFrame bounds what a peer can make the other one hold.
	maxFrame = 64 << 10
)

var errFrame = errors.New("malformed frame")

// putHeader writes a frame's header to b.
func putHeader(b []byte, t frameType, n int) {
	b[0], b[1], b[2], b[3] = byte(t), 0, 0, 0
	binary.BigEndian.PutUint32(b[4:], uint32(n))
}

// appendFrame appends a whole frame to b.
func appendFrame(b []byte, t frameType, payload []byte) []byte {
	var h [headerSize]byte
	putHeader(h[:], t, len(payload))
	return append(append(b, h[:]...), payload...)
}

// readHeader reads the header of the next frame. io.EOF only between frames.
func readHeader(r io.Reader) (frameType, int, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, 0, err
	}
	n := binary.BigEndian.Uint32(h[4:])
	if h[1]|h[2]|h[3] != 0 || n > maxFrame || frameType(h[0]) > frameCleaned {
		return 0, 0, fmt.Errorf("%w: % x", errFrame, h)
	}
	return frameType(h[0]), int(n), nil
}

// readFrame reads one frame into buf where it fits, else into new memory.
func readFrame(r io.Reader, buf []byte) (frameType, []byte, error) {
	t, n, err := readHeader(r)
	if err != nil {
		return 0, nil, err
	}
	if n > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return t, buf, nil
}

func writeFrame(w io.Writer, t frameType, payload []byte) error {
	_, err := w.Write(appendFrame(make([]byte, 0, headerSize+len(payload)), t, payload))
	return err
}

func writeJSONFrame(w io.Writer, t frameType, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFrame(w, t, raw)
}

// The operations of a request.
const (
	opAttach = "attach" // streams, until the exit frame
	opWait   = "wait"   // only the exit frame
	opResize = "resize" // the console's size
	opSignal = "signal" // a signal to the container's first process
	opStop   = "stop"   // do not start it again
	opReopen = "reopen" // open the log file anew
	opPing   = "ping"   // is anybody there
)

// request is the first frame of a client.
type request struct {
	Op     string
	Attach *AttachRequest `json:",omitempty"`
	Rows   uint16         `json:",omitempty"`
	Cols   uint16         `json:",omitempty"`
	Signal int            `json:",omitempty"`
}

// AttachRequest says which streams a client wants.
type AttachRequest struct {
	Stdin, Stdout, Stderr bool
	// Lossless makes the container wait for a slow client, as it would for a
	// full pipe, for up to five minutes without any progress, not ten seconds.
	Lossless bool `json:",omitempty"`
	// Cleans is the first client's promise to do the ExitCommand's work when it
	// gets the exit frame. One that leaves before it said so has not done it.
	Cleans bool `json:",omitempty"`
	// Rows and Cols are the size of the client's terminal; 0 leaves it.
	Rows uint16 `json:",omitempty"`
	Cols uint16 `json:",omitempty"`
}

// reply answers every request.
type reply struct {
	Error string `json:",omitempty"`
}
