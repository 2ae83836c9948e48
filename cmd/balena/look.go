package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func newTopCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use: "top CONTAINER [PS-OPTION...]", Short: "List the processes of a container", Example: "  balena top web -o pid,args",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := e.engine()
			if err != nil {
				return err
			}
			rows, err := eng.Top(cmd.Context(), args[0], args[1:])
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(e.stdout, 20, 1, 3, ' ', 0)
			for _, r := range rows {
				fmt.Fprintln(w, strings.Join(r, "\t"))
			}
			return w.Flush()
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func newPortCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "port CONTAINER [PORT[/PROTO]]", Short: "List the published ports of a container", Example: "  balena port web 80",
		Args: cobra.RangeArgs(1, 2), Annotations: outside,
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := e.engine()
			if err != nil {
				return err
			}
			c, err := eng.Find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			o, err := eng.Observe(c)
			if err != nil {
				return err
			}
			want := ""
			if len(args) == 2 {
				if want = args[1]; !strings.Contains(want, "/") {
					want += "/tcp"
				}
			}
			found := false
			for _, p := range o.Network.Ports {
				target := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
				ip := p.HostIP
				if ip == "" {
					ip = "0.0.0.0"
				}
				host := net.JoinHostPort(ip, strconv.Itoa(int(p.HostPort)))
				switch want {
				case "":
					fmt.Fprintf(e.stdout, "%s -> %s\n", target, host)
				case target:
					found = true
					fmt.Fprintln(e.stdout, host)
				}
			}
			if want != "" && !found {
				return errors.New("no public port '" + want + "' published for " + args[0])
			}
			return nil
		},
	}
}
