package build

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"go.podman.io/storage/pkg/regexp"
)

// StepError is an instruction that failed.
type StepError struct {
	File        string   // the Dockerfile's name; "" when Line is 0
	Line        int      // where the instruction begins; 0 when it is not the Dockerfile's own
	Instruction string   // as it is written
	Code        int      // exit code of its command; 0 for another failure
	Output      []string // the last lines that it printed
	Err         error
}

func (e *StepError) Error() string {
	at := ""
	if e.Line > 0 {
		at = fmt.Sprintf("%s:%d: ", e.File, e.Line)
	}
	if e.Code != 0 {
		return fmt.Sprintf("%s%s: the command failed with exit code %d", at, e.Instruction, e.Code)
	}
	return fmt.Sprintf("%s%s: %v", at, e.Instruction, e.Err)
}

// Unwrap gives what buildah said.
func (e *StepError) Unwrap() error { return e.Err }

// buildahStep is how buildah begins an error of a step, whose name is there
// anew.
var buildahStep = regexp.Delayed(`^building at STEP "(?s:.*?)": `)

// reason says in a line why a step failed.
func reason(err error, tail []string) string {
	e := &StepError{}
	if !errors.As(stepError(err, "", &step{}, tail), &e) {
		return firstLine(err.Error())
	}
	if e.Code != 0 {
		return fmt.Sprintf("the command failed with exit code %d", e.Code)
	}
	return firstLine(e.Err.Error())
}

// stepError says where in the Dockerfile a build failed.
func stepError(err error, file string, failed *step, tail []string) error {
	if failed == nil {
		return err
	}
	e := &StepError{Instruction: firstLine(asWritten(failed.text)), Output: tail, Err: err}
	if failed.node != nil {
		e.File, e.Line = filepath.Base(file), failed.node.StartLine
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		e.Code = exit.ExitCode()
	}
	for _, line := range tail {
		// The process that starts the command says so where the command's own
		// output goes.
		if strings.HasPrefix(line, "error running container: ") {
			e.Code, e.Err = 0, shortError{strings.TrimPrefix(line, "error running container: "), err}
			return e
		}
	}
	if msg := err.Error(); e.Code == 0 {
		if at := buildahStep.FindString(msg); at != "" {
			e.Err = shortError{strings.TrimPrefix(msg, at), err}
		}
	}
	return e
}

// shortError is an error in fewer words.
type shortError struct {
	msg string
	error
}

func (e shortError) Error() string { return e.msg }
func (e shortError) Unwrap() error { return e.error }

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
