package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/term"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/pull"
)

type loginOptions struct {
	pull.LoginOptions
	passwordStdin, getLogin, verbose bool
}

func newLoginCmd(e *env) *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use: "login [REGISTRY]", Short: "Keep credentials for a registry",
		Long: `Ask a registry (docker.io if none is named) whether it takes a username and password, and keep them for pull and push.

They are kept where podman keeps them, so that it and skopeo find them, too: in --authfile, else $REGISTRY_AUTH_FILE, else $XDG_RUNTIME_DIR/containers/auth.json, or /run/containers/0/auth.json for root: these are gone after a reboot. To keep them for longer, name ~/.config/containers/auth.json, which is read as well, as is docker's ~/.docker/config.json. Credential helpers that any of these names are used instead of the file.`,
		Example: `  balena login registry.example.com
  echo "$TOKEN" | balena login -u robot --password-stdin registry.example.com
  balena login --authfile ~/.config/containers/auth.json registry.example.com`,
		Args: cobra.MaximumNArgs(1), Annotations: outside,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.login(cmd.Context(), strings.Join(args, ""), o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Username, "username", "u", "", "username")
	f.StringVarP(&o.Password, "password", "p", "", "password: other users see it in the list of processes, better --password-stdin")
	f.BoolVar(&o.passwordStdin, "password-stdin", false, "read the password from stdin")
	f.BoolVar(&o.getLogin, "get-login", false, "print the username that is kept")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say where the credentials are kept")
	f.StringVar(&o.CompatAuthFile, "compat-auth-file", "", "docker's config.json to keep them in")
	addRegistryFlags(f, &o.RegistryOptions)
	return cmd
}

func (e *env) login(ctx context.Context, registry string, o loginOptions) error {
	key, err := pull.RegistryKey(registry)
	if err != nil {
		return err
	}
	kept, secret, keptErr := pull.Credentials(key, o.LoginOptions)
	if o.getLogin {
		if keptErr == nil {
			fmt.Fprintln(e.stdout, kept)
		}
		return keptErr
	}
	if o.Password != "" {
		e.warn("using --password on the command line is not safe: use --password-stdin")
	}
	switch {
	case o.passwordStdin && o.Password != "":
		return usageError{errors.New("--password and --password-stdin exclude each other")}
	case o.passwordStdin && o.Username == "":
		return usageError{errors.New("--password-stdin needs --username")}
	case o.passwordStdin:
		raw, err := io.ReadAll(io.LimitReader(e.stdin, 1<<20))
		if err != nil {
			return fmt.Errorf("reading the password from stdin: %w", err)
		}
		o.Password = strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	case o.Username == "" && o.Password == "" && keptErr == nil && kept != "":
		fmt.Fprintf(e.stderr, "Authenticating with existing credentials for %s\n", key)
		o.Username, o.Password = kept, secret
		if _, err := pull.Login(ctx, key, o.LoginOptions); err == nil {
			fmt.Fprintln(e.stdout, "Login Succeeded")
			return nil
		}
		fmt.Fprintln(e.stderr, "Existing credentials are not valid: enter a username and password")
		o.Username, o.Password = "", ""
	}
	if err := e.askCredentials(&o, kept); err != nil {
		return err
	}
	where, err := pull.Login(ctx, key, o.LoginOptions)
	if err != nil {
		return err
	}
	if o.verbose {
		fmt.Fprintln(e.stderr, "Kept in "+where)
	}
	_, err = fmt.Fprintln(e.stdout, "Login Succeeded")
	return err
}

// askCredentials asks on the terminal for what is missing.
func (e *env) askCredentials(o *loginOptions, kept string) error {
	if o.Username != "" && o.Password != "" {
		return nil
	}
	if !term.IsTerminal(e.stdin.Fd()) {
		return errors.New("stdin is not a terminal to ask at: give --username and --password-stdin")
	}
	if o.Username == "" {
		prompt := "Username: "
		if kept != "" {
			prompt = fmt.Sprintf("Username (%s): ", kept)
		}
		fmt.Fprint(e.stderr, prompt)
		line, err := readLine(e.stdin)
		if err != nil {
			return fmt.Errorf("reading the username: %w", err)
		}
		if o.Username = strings.TrimSpace(line); o.Username == "" {
			o.Username = kept
		}
		if o.Username == "" {
			return errors.New("the username is empty")
		}
	}
	if o.Password == "" {
		state, err := term.SaveState(e.stdin.Fd())
		if err != nil {
			return fmt.Errorf("reading the password: %w", err)
		}
		fmt.Fprint(e.stderr, "Password: ")
		if err := term.DisableEcho(e.stdin.Fd(), state); err != nil {
			return fmt.Errorf("reading the password: %w", err)
		}
		line, err := readLine(e.stdin)
		_ = term.RestoreTerminal(e.stdin.Fd(), state)
		fmt.Fprintln(e.stderr)
		if err != nil {
			return fmt.Errorf("reading the password: %w", err)
		}
		if o.Password = line; o.Password == "" {
			return errors.New("the password is empty")
		}
	}
	return nil
}

// readLine reads up to a line break and no further, so that what comes after
// it is there for the next question.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < 1<<16 {
		switch n, err := r.Read(b); {
		case n == 1 && b[0] == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case n == 1:
			line = append(line, b[0])
		case errors.Is(err, unix.EINTR):
		case err != nil:
			if errors.Is(err, io.EOF) && len(line) > 0 {
				return string(line), nil
			}
			return "", err
		}
	}
	return "", errors.New("the line is too long")
}

func newLogoutCmd(e *env) *cobra.Command {
	var o pull.LoginOptions
	var all bool
	cmd := &cobra.Command{
		Use: "logout [REGISTRY]", Short: "Forget the credentials for a registry",
		Example: "  balena logout registry.example.com",
		Args:    cobra.MaximumNArgs(1), Annotations: outside,
		RunE: func(_ *cobra.Command, args []string) error {
			if all {
				if len(args) > 0 {
					return usageError{errors.New("--all takes no registry")}
				}
				if err := pull.LogoutAll(o); err != nil {
					return err
				}
				fmt.Fprintln(e.stdout, "Removed login credentials for all registries")
				return nil
			}
			key, err := pull.RegistryKey(strings.Join(args, ""))
			if err != nil {
				return err
			}
			if err := pull.Logout(key, o); err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "Removed login credentials for %s\n", key)
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "forget those of all registries")
	f.StringVar(&o.AuthFile, "authfile", "", "file with credentials (default: $REGISTRY_AUTH_FILE, else podman's)")
	f.StringVar(&o.CompatAuthFile, "compat-auth-file", "", "docker's config.json to take them from")
	return cmd
}
