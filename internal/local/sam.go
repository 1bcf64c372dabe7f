package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// sam runs a command of the SAM CLI that starts the function in a container, and around it what the function calls.
func sam(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	host := hostGateway()
	var st stack
	defer st.close()
	role, err := st.standIns(s, host, log.New(stderr, "", 0))
	if err != nil {
		return err
	}

	// The function takes http from loopback alone. In the container localhost is two addresses, its own loopback and the
	// host's: where the first refuses the connection, Go tries the second.
	cmd := exec.CommandContext(ctx, s.command[0], append(s.command[1:], "--add-host", "localhost:host-gateway")...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "GITHUB_PAT=")
	})
	cmd.Env = append(cmd.Env,
		"AWS_ACCESS_KEY_ID="+role.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+role.SecretAccessKey, "AWS_SESSION_TOKEN="+role.SessionToken,
		"AWS_REGION="+region, "AWS_DEFAULT_REGION="+region,
		// SAM asks STS for the account's number, is refused here, and makes one up.
		"AWS_ENDPOINT_URL="+s.env["AWS_ENDPOINT_URL_SECRETS_MANAGER"])
	for name, value := range s.env { // SAM hands on those that the template declares
		cmd.Env = append(cmd.Env, name+"="+strings.Replace(value, "http://"+host+":", "http://localhost:", 1))
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// A terminal sends Ctrl-C to the whole process group. From here too it would be the second, which breaks SAM off while
	// it removes its container.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	err = cmd.Run()
	switch _, failed := errors.AsType[*exec.ExitError](err); {
	case failed:
		return errRefused // it has said why
	case cmd.ProcessState != nil: // with err it was interrupted, and ended well
		return nil
	}
	return err
}

// hostGateway returns the address that containers reach as host-gateway: of Docker's bridge, or, where Docker runs in a
// virtual machine and there is none, of loopback.
func hostGateway() string {
	if bridge, err := net.InterfaceByName("docker0"); err == nil {
		addresses, _ := bridge.Addrs()
		for _, a := range addresses {
			if a, ok := a.(*net.IPNet); ok && a.IP.To4() != nil {
				return a.IP.String()
			}
		}
	}
	return "127.0.0.1"
}
