package errcode

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestAnswers(t *testing.T) {
	for in, want := range map[string]string{
		`{}`: "<nil>",
		`{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`:                                     "manifest unknown",
		`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`:        "manifest unknown",
		`{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}}]}`:               "denied: no",
		`{"errors":[{"code":"NEW_ONE","message":"Not Found"}]}`:                        "unknown: Not Found",
		`{"errors":[{"message":"Not Found"}]}`:                                         "unknown: Not Found",
		`{"errors":[{"code":"BLOB_UNKNOWN","detail":"x"},{"code":"TOOMANYREQUESTS"}]}`: "errors:\nblob unknown: \ntoomanyrequests\n",
	} {
		var errs Errors
		if err := json.Unmarshal([]byte(in), &errs); err != nil {
			t.Errorf("%s: %v", in, err)
		} else if errs.Error() != want {
			t.Errorf("%s: %q, want %q", in, errs.Error(), want)
		}
	}
	var errs Errors
	for _, bad := range []string{`[]`, `{"errors":1}`, `{"errors":[{"code":1}]}`, `x`} {
		if json.Unmarshal([]byte(bad), &errs) == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

func TestErrorsAreErrorCoders(t *testing.T) {
	for _, err := range []error{ErrorCodeDenied, ErrorCodeDenied.WithMessage("x"), ErrorCodeDenied.WithDetail("x")} {
		var ec ErrorCoder
		if !errors.As(err, &ec) || ec.ErrorCode() != ErrorCodeDenied {
			t.Errorf("%#v is not %v", err, ErrorCodeDenied)
		}
	}
}
