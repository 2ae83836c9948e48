// Package errcode takes the place of
// github.com/docker/distribution/registry/api/errcode: the errors that a
// registry answers with, as the OCI distribution specification lists them
// under "Error Codes". Of docker/distribution, containers/image uses these
// alone; the original comes with a description of every route and the regular
// expressions of image names, compiled at each start (0.7 ms).
//
// Lost: the registration of further codes.
package errcode

import (
	"encoding/json"
	"fmt"
	"strings"
)

// ErrorCode is a code as it is written in an answer, such as
// "MANIFEST_UNKNOWN".
type ErrorCode string

// Codes that are not about one resource. As in the original they are variables.
var (
	ErrorCodeUnknown         ErrorCode = "UNKNOWN"
	ErrorCodeUnsupported     ErrorCode = "UNSUPPORTED"
	ErrorCodeUnauthorized    ErrorCode = "UNAUTHORIZED"
	ErrorCodeDenied          ErrorCode = "DENIED"
	ErrorCodeUnavailable     ErrorCode = "UNAVAILABLE"
	ErrorCodeTooManyRequests ErrorCode = "TOOMANYREQUESTS"
)

// ErrorCoder is an error with a code.
type ErrorCoder interface {
	ErrorCode() ErrorCode
}

// ErrorCode returns c.
func (c ErrorCode) ErrorCode() ErrorCode { return c }

// String is the code as written, "UNKNOWN" for the zero value.
func (c ErrorCode) String() string {
	if c == "" {
		c = ErrorCodeUnknown
	}
	return string(c)
}

// Error is the code in lower case, as words.
func (c ErrorCode) Error() string {
	return strings.ToLower(strings.ReplaceAll(c.String(), "_", " "))
}

// Message says what the code means.
func (c ErrorCode) Message() string {
	switch c {
	case "UNSUPPORTED":
		return "the operation is not supported by the registry"
	case "UNAUTHORIZED":
		return "authentication required"
	case "DENIED":
		return "requested access to the resource is denied"
	case "UNAVAILABLE":
		return "service unavailable"
	case "TOOMANYREQUESTS":
		return "too many requests"
	case "DIGEST_INVALID":
		return "the content does not have the digest that was given"
	case "SIZE_INVALID":
		return "the content does not have the size that was given"
	case "NAME_INVALID":
		return "invalid repository name"
	case "NAME_UNKNOWN":
		return "repository name not known to registry"
	case "TAG_INVALID":
		return "the manifest's tag is not that of the request"
	case "MANIFEST_UNKNOWN":
		return "manifest unknown"
	case "MANIFEST_INVALID":
		return "manifest invalid"
	case "MANIFEST_UNVERIFIED":
		return "the manifest's signature was not accepted"
	case "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN":
		return "blob unknown to registry"
	case "BLOB_UPLOAD_UNKNOWN":
		return "blob upload unknown to registry"
	case "BLOB_UPLOAD_INVALID":
		return "blob upload invalid"
	case "PAGINATION_NUMBER_INVALID":
		return "invalid number of results requested"
	}
	return "unknown error"
}

// UnmarshalText takes a code that Message knows; any other is ErrorCodeUnknown.
func (c *ErrorCode) UnmarshalText(text []byte) error {
	*c = ErrorCode(text)
	if c.Message() == ErrorCodeUnknown.Message() {
		*c = ErrorCodeUnknown
	}
	return nil
}

// MarshalText returns the code as written.
func (c ErrorCode) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// WithMessage is an Error with a message of its own.
func (c ErrorCode) WithMessage(message string) Error { return Error{Code: c, Message: message} }

// WithDetail is an Error with the code's message and a detail.
func (c ErrorCode) WithDetail(detail any) Error {
	return Error{Code: c, Message: c.Message(), Detail: detail}
}

// Error is one error of an answer.
type Error struct {
	Code    ErrorCode `json:"code"`
	Message string    `json:"message"`
	Detail  any       `json:"detail,omitempty"`
}

// ErrorCode returns the error's code.
func (e Error) ErrorCode() ErrorCode { return e.Code }

// Error is the code and the message.
func (e Error) Error() string { return fmt.Sprintf("%s: %s", e.Code.Error(), e.Message) }

// Errors are the errors of an answer: each an ErrorCode, if the answer says no
// more than that, or an Error.
type Errors []error

func (errs Errors) Error() string {
	switch len(errs) {
	case 0:
		return "<nil>"
	case 1:
		return errs[0].Error()
	}
	var b strings.Builder
	b.WriteString("errors:\n")
	for _, err := range errs {
		b.WriteString(err.Error() + "\n")
	}
	return b.String()
}

// UnmarshalJSON takes {"errors": [{"code", "message", "detail"}, ...]}.
func (errs *Errors) UnmarshalJSON(data []byte) error {
	var answer struct{ Errors []Error }
	if err := json.Unmarshal(data, &answer); err != nil {
		return err
	}
	*errs = nil
	for _, e := range answer.Errors {
		if e.Code == "" {
			e.Code = ErrorCodeUnknown
		}
		if e.Detail == nil && (e.Message == "" || e.Message == e.Code.Message()) {
			*errs = append(*errs, e.Code)
		} else {
			*errs = append(*errs, e)
		}
	}
	return nil
}
