package parser

import "testing"

func TestParseHeredoc(t *testing.T) {
	for in, want := range map[string]*Heredoc{
		"<<EOF":      {Name: "EOF", Expand: true},
		"<<-EOF":     {Name: "EOF", Expand: true, Chomp: true},
		"3<<'E F'":   {Name: "E F", FileDescriptor: 3},
		"<<\"EOF\"":  {Name: "EOF"},
		"<< EOF":     {Name: "EOF", Expand: true},
		"<EOF":       nil,
		"<<":         nil,
		"<<<EOF":     nil,
		"<<A B":      nil,
		"echo":       nil,
		"x<<EOF":     nil,
		"<<EOF<<EOF": nil,
	} {
		got, err := ParseHeredoc(in)
		if err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
	if h, err := ParseHeredoc("<<'open"); err == nil || MustParseHeredoc("<<'open") != nil {
		t.Errorf("an open quote: %+v", h)
	}
	if got := ChompHeredocContent("\t\ta\n b\n\tc"); got != "a\n b\nc" {
		t.Errorf("chomped: %q", got)
	}
}
